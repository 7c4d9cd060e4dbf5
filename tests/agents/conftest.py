"""A camera with few plans, for what would take long with all of them."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from cutlayer.envs import scenarios
from cutlayer.profiles.plans import PlanTable


@pytest.fixture(scope="session")
def few_plans():
    """Six plans: both ends of the built-in table, and some between."""
    table = scenarios.plan_table()
    ends = {table.device_only(0), table.device_only(), table.edge_only()}
    between = [plan for plan in range(len(table)) if plan not in ends]
    chosen = sorted({*ends, *(between[len(between) * i // 4] for i in (1, 2, 3))})
    return PlanTable(table.model, table.device, table.edge, table.depths, tuple(table.rows[i] for i in chosen))


@pytest.fixture(scope="session")
def small(few_plans):
    """The camera scenario with few plans and 50 requests an episode."""
    return dataclasses.replace(scenarios.camera(few_plans), name="small", requests=50)


@pytest.fixture(scope="session")
def tiny():
    """The module `tiny.py` beside this file, which is a script as well."""
    spec = importlib.util.spec_from_file_location("tiny", Path(__file__).with_name("tiny.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tiny_learners(tiny, monkeypatch):
    """`train` makes learners small enough for tests."""
    from cutlayer.agents import train

    monkeypatch.setattr(train, "LEARNERS", tiny.LEARNERS)


@pytest.fixture(scope="session")
def chromium():
    """Chromium without a window: call it with options and an address, and have what it prints."""
    found = next((path for name in ("chromium", "chromium-headless-shell", "google-chrome") if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium on PATH (Debian: apt-get install chromium)")

    def call(*arguments):
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--virtual-time-budget=2000"]
        return subprocess.run([found, *options, *arguments], capture_output=True, text=True, check=True, timeout=120).stdout

    return call


@pytest.fixture
def on_screen(chromium, tmp_path):
    """Show a page of a report on a screen so wide, in the light or the dark: nothing sticks out, and something is legible."""
    from PIL import Image

    def shown(page, width, scheme):
        # A frame of the wanted width: a headless window is at least 500 pixels wide.
        text = page.read_text(encoding="utf-8")
        measuring = (
            "<script>document.title = `${document.documentElement.scrollWidth} ${document.documentElement.clientWidth}`</script></body>"
        )
        (tmp_path / "page.html").write_text(text.replace("</body>", measuring), encoding="utf-8")
        frame = f"<body style='margin:0'><iframe id=f src=page.html style='border:0;width:{width}px;height:900px'></iframe>"
        told = "<script>f.onload = () => { document.title = f.contentDocument.title }</script>"
        (tmp_path / "frame.html").write_text(frame + told, encoding="utf-8")
        scheme_option = f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}"
        local = "--allow-file-access-from-files"
        dom = chromium(scheme_option, local, "--window-size=1300,950", "--dump-dom", f"file://{tmp_path}/frame.html")
        scroll, client = (int(number) for number in re.search(r"<title>(\d+) (\d+)</title>", dom).groups())
        assert client == width
        assert scroll == client, "something is wider than the screen"
        shot = tmp_path / "shot.png"
        chromium(scheme_option, f"--window-size={max(500, width)},900", f"--screenshot={shot}", f"file://{page}")
        with Image.open(shot) as image:
            pixels = np.asarray(image.convert("L"), float)
        background = np.median(pixels)
        assert background > 240 if scheme == "light" else background < 40
        assert (abs(pixels - background) > 100).mean() > 0.01, "something is legible on it"

    return shown

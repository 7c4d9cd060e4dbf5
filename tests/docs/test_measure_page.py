"""The page "Measure your own device" is true: its commands run in its order, and each leaves what the next one reads."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cutlayer.profiles import check, load


def _blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.fixture(scope="module")
def page(root: Path) -> str:
    return (root / "docs/measure.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def newcomer(page: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[tuple[str, str]]]:
    """The folder in which every command of the page was run, and what each printed; fewer runs than a newcomer would take."""
    folder = tmp_path_factory.mktemp("newcomer")
    rng = np.random.default_rng(3)
    for label in range(10):
        (folder / "photos" / f"class{label}").mkdir(parents=True)
        for number in range(2):
            Image.fromarray(rng.integers(0, 256, (40, 40, 3)).astype(np.uint8)).save(folder / "photos" / f"class{label}" / f"{number}.png")
    (script,) = _blocks(page, "python")
    (folder / "mine.py").write_text(script, encoding="utf-8")
    commands = [line for block in _blocks(page, "sh") for line in block.splitlines() if line.startswith("cutlayer ")]
    printed = []
    for command in commands:
        words = shlex.split(command)
        short = ["--runs", "3"] if words[2] == "measure" else []
        program = Path(sys.executable).with_name(words[0])
        done = subprocess.run(
            [program, *words[1:], *short], cwd=folder, capture_output=True, text=True, check=False, timeout=300,
            env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
        )  # fmt: skip
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        printed.append((command, done.stdout))
    return folder, printed


def test_every_command_runs_and_prints(newcomer: tuple[Path, list[tuple[str, str]]]) -> None:
    _, printed = newcomer
    assert len(printed) >= 10
    assert all(out.strip() for _, out in printed)


def test_the_tables_are_of_the_named_machines(newcomer: tuple[Path, list[tuple[str, str]]]) -> None:
    folder, _ = newcomer
    machines = {name: load.profile(folder / name).provenance for name in ("device.json", "edge.json", "pi.json", "mine.json")}
    assert [where.machine for where in machines.values()] == ["my-device", "my-server", "raspberry-pi-4-class", "my-device"]
    assert [where.kind for where in machines.values()] == ["measured", "measured", "derived", "measured"]


def test_the_plan_tables_are_checked_and_whole(newcomer: tuple[Path, list[tuple[str, str]]]) -> None:
    folder, printed = newcomer
    _, plans = check.load(str(folder / "plans.json"))
    assert (plans.model, plans.device, plans.edge, plans.depths) == ("alexnet", "my-device", "my-server", (1, 2, 3, 4, 7))
    _, own = check.load(str(folder / "mine-plans.json"))
    assert own.depths == (2, 3)
    assert (folder / "knobs.png").read_bytes().startswith(b"\x89PNG")
    reports = [out for command, out in printed if " check " in command]
    assert all("partition" in report for report in reports)


def test_tables_of_two_networks_do_not_mix(newcomer: tuple[Path, list[tuple[str, str]]]) -> None:
    folder, _ = newcomer
    program = Path(sys.executable).with_name("cutlayer")
    done = subprocess.run(
        [program, "profile", "plans", "device.json", "edge.json", "mine-accuracy.json", "-o", "mixed.json"],
        cwd=folder, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "tables of different networks" in done.stderr
    assert not (folder / "mixed.json").exists()


def test_json_is_one_object(newcomer: tuple[Path, list[tuple[str, str]]]) -> None:
    folder, _ = newcomer
    program = Path(sys.executable).with_name("cutlayer")
    command = [
        program,
        "profile",
        "plans",
        "device.json",
        "edge.json",
        "accuracy.json",
        "--private",
        "--pruned",
        "-o",
        "few.json",
        "--json",
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, timeout=120)
    told = json.loads(done.stdout)
    _, few = check.load(str(folder / "few.json"))
    _, all_plans = check.load(str(folder / "plans.json"))
    assert told["plans"] == len(few) < len(all_plans)
    assert told["sha256"] == few.digest()
    assert (few.partition > 0).all()

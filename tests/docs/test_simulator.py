"""The page on the simulator is true: its figure is drawn by its script, its file is a scenario, its names exist."""

from __future__ import annotations

import importlib.util
import re
from typing import TYPE_CHECKING

import gymnasium as gym
import pytest

import cutlayer.envs  # noqa: F401 - registers the environments
from cutlayer.envs import scenarios
from cutlayer.envs.record import Status
from cutlayer.envs.workload import Bursty

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def page(root: Path) -> str:
    return (root / "docs/simulator.md").read_text(encoding="utf-8")


def script(root: Path, name: str):
    spec = importlib.util.spec_from_file_location(name, root / "docs/figures" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_figure_shows_what_its_caption_says(root: Path, tmp_path: Path) -> None:
    figure = script(root, "simulator")
    records, streams, _ = figure.run()
    assert [record.status for record in records] == [Status.EDGE, Status.DEVICE, Status.EDGE, Status.GIVEN_UP, Status.EDGE]
    assert records[0].edge_wait_s > 0
    assert streams.slow_down[streams.slot(records[1].device_start_s)] == 2.0
    assert records[3].send_end_s == pytest.approx(records[3].arrival_s + 0.12)
    assert records[4].send_start_s == records[3].send_end_s
    figure.draw(tmp_path / "simulator.png")
    assert (tmp_path / "simulator.png").read_bytes().startswith(b"\x89PNG")
    assert (root / "docs/figures/simulator.png").exists()


def test_the_table_holds_every_scenario(root: Path, page: str) -> None:
    listed = re.findall(r"^\| `([\w-]+)` \| \d+ ms", page, re.MULTILINE)
    assert listed == scenarios.names()


def test_a_row_of_the_table_comes_from_its_script(root: Path, page: str) -> None:
    assert script(root, "scenarios").row("paper-urllc") in page


def test_the_file_on_the_page_is_a_scenario(page: str, tmp_path: Path) -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    path = tmp_path / "page.toml"
    path.write_text(text, encoding="utf-8")
    (tmp_path / "jobs.csv").write_text("t_s\n0.0\n0.5\n0.7\n", encoding="utf-8")
    scenario = scenarios.make(str(path))
    assert scenario.objective.deadline_s == 0.02
    assert isinstance(scenario.arrivals, Bursty)


def test_the_environments_on_the_page_are_those_registered(page: str) -> None:
    named = re.findall(r"^\| `(cutlayer/[\w-]+)` \|", page, re.MULTILINE)
    assert named == [name for name in gym.registry if name.startswith("cutlayer/")]

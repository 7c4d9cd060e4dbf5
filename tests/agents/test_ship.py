"""What ships is the finished run with the best validation reward, scenario by scenario."""

from __future__ import annotations

import json

import pytest

from cutlayer.agents import ship
from cutlayer.errors import ConfigError


def run(benchmark, name, scenario, reward, *, finished=True):
    folder = benchmark / "training" / name
    folder.mkdir(parents=True)
    found = {"scenario": scenario, "finished": finished, "best": {"steps": 8, "reward_mean": reward}}
    (folder / "run.json").write_text(json.dumps(found), encoding="utf-8")
    return folder


def test_the_best_finished_run_of_a_scenario_that_ships(tmp_path):
    run(tmp_path, "a", "urllc-ge", 0.7)
    better = run(tmp_path, "b", "urllc-ge", 0.8)
    run(tmp_path, "c", "urllc-ge", 0.9, finished=False)
    run(tmp_path, "d", "drifting", 0.9)
    negative = run(tmp_path, "e", "compound", -0.1)
    assert ship.best(tmp_path) == {"urllc-ge": (0.8, better), "compound": (-0.1, negative)}


def test_without_a_run_the_command_that_makes_some_is_told(tmp_path):
    with pytest.raises(ConfigError, match="cutlayer benchmark -o"):
        ship.best(tmp_path)

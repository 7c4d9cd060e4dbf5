"""What ships is the finished run with the best validation reward, scenario by scenario."""

from __future__ import annotations

import dataclasses
import json

import pytest

from cutlayer.agents import ship
from cutlayer.agents.learners import LEARNERS
from cutlayer.errors import ConfigError


def run(benchmark, name, scenario, reward, *, finished=True, algorithm="ppo", **recipe):
    folder = benchmark / "training" / name
    folder.mkdir(parents=True)
    best = {"steps": 8, "reward_mean": reward}
    found = {"scenario": scenario, "algorithm": algorithm, "recipe": recipe, "finished": finished, "best": best}
    (folder / "run.json").write_text(json.dumps(found), encoding="utf-8")
    return folder


def test_the_best_finished_run_of_a_scenario_that_ships(tmp_path):
    run(tmp_path, "a", "urllc-ge", 0.7)
    better = run(tmp_path, "b", "urllc-ge", 0.8)
    run(tmp_path, "c", "urllc-ge", 0.9, finished=False)
    run(tmp_path, "d", "drifting", 0.9)
    negative = run(tmp_path, "e", "compound", -0.1)
    assert ship.best(tmp_path) == {"urllc-ge": (0.8, better), "compound": (-0.1, negative)}


def test_a_run_of_another_recipe_than_the_learners_does_not_ship(tmp_path):
    """A setting that came later is no other recipe."""
    now = dataclasses.asdict(LEARNERS["all-action"].recipe("lte-uplink"))
    later = {name: value for name, value in now.items() if name not in ("guided", "hidden")}
    kept = run(tmp_path, "a", "lte-uplink", 0.7, algorithm="all-action", **later, hidden=list(now["hidden"]))
    run(tmp_path, "b", "lte-uplink", 0.8, algorithm="all-action", **{**now, "gamma": 0.123})
    assert ship.best(tmp_path) == {"lte-uplink": (0.7, kept)}


def test_without_a_run_the_command_that_makes_some_is_told(tmp_path):
    with pytest.raises(ConfigError, match="cutlayer benchmark -o"):
        ship.best(tmp_path)

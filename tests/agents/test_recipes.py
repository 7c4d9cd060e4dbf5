"""The recipes, said twice: the YAML files for RL Baselines3 Zoo hold what `cutlayer train` uses."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from cutlayer.agents import recipes, zoo
from cutlayer.envs import scenarios

FOLDER = Path(zoo.__file__).with_name("hyperparams")


def test_there_is_one_file_for_each_algorithm_of_the_zoo():
    assert sorted(file.name for file in FOLDER.iterdir()) == sorted(f"{name}.yml" for name in zoo.SETTINGS)


@pytest.mark.parametrize("algorithm", zoo.SETTINGS)
def test_the_file_is_what_the_recipes_write(algorithm):
    mend = "write it anew: python -m cutlayer.agents.zoo agents/hyperparams"
    assert (FOLDER / f"{algorithm}.yml").read_text(encoding="utf-8") == zoo.text(algorithm), mend


@pytest.mark.parametrize("algorithm", zoo.SETTINGS)
def test_the_file_read_as_yaml_holds_the_settings_of_every_environment_and_scenario(algorithm):
    settings, environments = zoo.SETTINGS[algorithm]
    read = yaml.safe_load((FOLDER / f"{algorithm}.yml").read_text(encoding="utf-8"))
    assert set(read) == {*environments, *recipes.RECIPES[algorithm][1]}
    for name in environments:
        assert read[name] == settings(recipes.RECIPES[algorithm][0])
    for scenario in scenarios.names():
        wanted = settings(recipes.choose(algorithm, scenario))
        assert read.get(scenario, read[environments[0]]) == wanted
    if algorithm == "ppo":
        assert {name: read[name] for name in environments} == zoo.hyperparams


def test_the_discount_follows_the_scenario_but_not_for_the_myopic_learner():
    for algorithm in ("ppo", "maskable-ppo", "dqn", "sac-d"):
        assert [recipes.choose(algorithm, name).gamma for name in ("urllc-ge", "bursty-deadline", "lte-uplink")] == [0.6, 0.8, 0.9]
    assert {recipes.choose("myopic-ppo", name).gamma for name in scenarios.names()} == {0.0}

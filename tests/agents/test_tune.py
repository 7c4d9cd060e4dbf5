"""Searches for a recipe: what they spend, what they may look at, and that they go on where they were cut off."""

from __future__ import annotations

import json
import tomllib

import numpy as np
import optuna
import pytest

from cutlayer.agents import episodes, tune, tune_job, tune_spaces
from cutlayer.agents.learners import LEARNERS
from cutlayer.agents.sweep import grid, plan
from cutlayer.errors import ConfigError


class Hill:
    """A subject whose best point is known: 1 at x = 0.3, y = a; it takes ten decisions a trial."""

    decisions = 10

    def first(self):
        return {"x": 0.9, "y": "b"}

    def score(self, trial, folder):
        return 1.0 - (trial.suggest_float("x", 0.0, 1.0) - 0.3) ** 2 - 0.5 * (trial.suggest_categorical("y", ["a", "b"]) == "b")

    def best(self, params, out):
        return f"x = {params['x']}\n"


@pytest.fixture
def hill(monkeypatch):
    monkeypatch.setattr(tune, "subject", lambda *_given: Hill())


def test_it_finds_the_top_of_a_hill_and_begins_with_what_is_there(hill, small, tmp_path):
    found = tune_job.search(small, "small", "hill", tmp_path, trials=30)
    assert found["trials"] == 30
    assert found["decisions"] == 300
    assert found["first_reward_mean"] == pytest.approx(1 - 0.6**2 - 0.5)
    assert found["best"]["params"]["y"] == "a"
    assert abs(found["best"]["params"]["x"] - 0.3) < 0.1
    assert json.loads((tmp_path / "run.json").read_text())["best"] == found["best"]
    assert tomllib.loads((tmp_path / "best.toml").read_text())["x"] == found["best"]["params"]["x"]


def test_it_goes_on_to_the_number_that_is_asked_for_and_not_beyond(hill, small, tmp_path):
    tune_job.search(small, "small", "hill", tmp_path, trials=3)
    study = tune.open_study(tmp_path, "hill on small", 0)
    study.ask()  # a trial that was cut off stays open in the storage
    assert tune_job.search(small, "small", "hill", tmp_path, trials=5)["trials"] == 5
    assert tune_job.search(small, "small", "hill", tmp_path, trials=5)["trials"] == 5
    drawn = [trial.params["x"] for trial in tune.ended(study)]
    assert len(set(drawn)) == 5, "who goes on draws something new"
    with pytest.raises(ConfigError, match="holds a search for hill on small, not for hill on large"):
        tune_job.search(small, "large", "hill", tmp_path, trials=1)


def test_a_budget_of_decisions_is_the_number_of_trials_that_it_pays_for(hill, small, tmp_path):
    assert tune_job.search(small, "small", "hill", tmp_path, decisions=49)["trials"] == 4
    with pytest.raises(ConfigError, match="less than one trial takes, 10"):
        tune_job.search(small, "small", "hill", tmp_path, decisions=9)


def test_a_trial_that_lags_behind_the_median_is_given_up(tmp_path, monkeypatch):
    curve = tmp_path / "validation.csv"
    study = optuna.create_study(direction="maximize", pruner=optuna.pruners.MedianPruner(n_startup_trials=2))

    def learn(trial, rewards):
        for count in range(len(rewards) + 1):
            lines = [f"{100 * step},0.1,{reward}" for step, reward in enumerate(rewards[:count])]
            curve.write_text("\n".join(["steps,learning_cpu_s,reward_mean", *lines]) + "\n")
            tune._between(trial, curve, 0.0)
            tune._between(trial, curve, 0.0)  # called before every round, more often than there are looks
        return max(rewards)

    for rewards in ([0.1, 0.5, 0.6], [0.1, 0.4, 0.7], [0.2, 0.3, 0.9], [0.1, 0.7, 0.5]):
        study.optimize(lambda trial, rewards=rewards: learn(trial, rewards), n_trials=1)
    states = [trial.state.name for trial in study.trials]
    assert states == ["COMPLETE", "COMPLETE", "PRUNED", "COMPLETE"], "0.3 is behind 0.45 at the second look, 0.7 is not"
    assert study.trials[3].intermediate_values == {1: 0.1, 2: 0.7, 3: 0.7}, "the best state counts, as it is what is kept"


def test_every_space_is_of_fields_that_its_recipe_has_and_holds_the_recipe_itself():
    for name, space in tune_spaces.SPACES.items():
        recipe = LEARNERS[name].recipe("camera")
        for field, param in tune_spaces.point_of(space, recipe).items():
            assert space[field].value(param) == getattr(recipe, field), (name, field)
    far = LEARNERS["ppo"].recipe("camera")
    object.__setattr__(far, "gamma", 0.62)
    assert tune_spaces.point_of(tune_spaces.SPACES["ppo"], far)["gamma"] == 0.6, "else the nearest"


def test_a_learner_is_searched_on_validation_episodes_and_the_best_recipe_is_a_grid(run, tiny, monkeypatch, tmp_path):
    from cutlayer.agents.validation import Trial
    from cutlayer.envs import batch

    looked = []
    monkeypatch.setattr(
        Trial, "__init__", lambda own, scenario, some, init=Trial.__init__: (looked.append(list(some)), init(own, scenario, some))[1]
    )
    drawn = []
    monkeypatch.setattr(batch, "draw", lambda scenario, seed, draw=batch.draw: (drawn.append(seed), draw(scenario, seed))[1])
    monkeypatch.setattr(tune, "LEARNERS", tiny.LEARNERS)
    monkeypatch.setattr("cutlayer.agents.train.LEARNERS", tiny.LEARNERS)
    code, text, err = run("tune", "--learner", "sac-d", "--trials", 2, "--steps", 160, "-o", tmp_path / "out", "--json")
    assert code == 0, err
    found = json.loads(text)
    assert (found["trials"], found["decisions"]) == (2, 320)
    assert looked == [list(episodes.VALIDATION)] * 2
    held_out = range(episodes.HELD_OUT, 10 * episodes.HELD_OUT)  # learners draw theirs from far beyond
    assert not any(seed in held_out for seed in drawn), "nothing is chosen on what it is judged on"
    assert set(episodes.VALIDATION) <= set(drawn)
    runs = plan.runs(grid.load(tmp_path / "out" / "best.toml"))
    assert [one.seed for one in runs] == [0, 1, 2, 3, 4]
    assert {one.recipe.gamma for one in runs} == {found["best"]["params"]["gamma"]}
    assert {one.recipe.learning_rate for one in runs} == {found["best"]["params"]["learning_rate"]}
    assert {(one.policy, one.recipe.steps, one.size.first) for one in runs} == {("sac-d", 160, episodes.HELD_OUT)}
    assert isinstance(runs[0].recipe.hidden, tuple)


def test_a_rule_is_searched_on_the_same_episodes_and_scored_as_evaluate_would(small, tmp_path):
    import msgspec

    from cutlayer.agents.bayes.tuning import Tuned
    from cutlayer.agents.evaluate import one_by_one
    from cutlayer.runtime.priced import Parameters, Priced

    found = tune_job.search(small, "small", "belief-greedy", tmp_path, trials=3)
    assert found["decisions"] == 3 * len(episodes.VALIDATION) * small.requests
    parameters = msgspec.json.decode((tmp_path / "rule.json").read_bytes(), type=Parameters)
    rule = Tuned(parameters, 0.0, Priced(small.plans, small.path, small.objective, parameters))
    rewards = one_by_one(small, rule, episodes.VALIDATION).reward.mean(axis=1)
    assert found["best"]["reward_mean"] == pytest.approx(float(np.mean(rewards)), abs=1e-12)
    assert set(tomllib.loads((tmp_path / "best.toml").read_text())["belief-greedy"]) == set(found["best"]["params"])


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("--learner", "sacd"), "cannot tune 'sacd'; did you mean 'sac-d'?"),
        (("--learner", "ppo", "--trials", 2, "--decisions", 9), "not both"),
        (("--learner", "belief-greedy", "--steps", 9), "--steps means nothing to belief-greedy"),
        (("--learner", "ppo", "--scenario", "camra"), "did you mean 'camera'?"),
    ],
)
def test_what_cannot_be_searched_is_refused_in_one_line(refused, tmp_path, given, says):
    assert says in refused("tune", *given, "-o", tmp_path / "out")

"""A training keeps its best state, says how it was made, goes on only with its own folder, and is what its recipe says."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from cutlayer.agents import baselines, evaluate, learners, recipes, train
from cutlayer.agents.episodes import VALIDATION
from cutlayer.agents.learners import LEARNERS
from cutlayer.agents.validation import Trial
from cutlayer.envs import scenarios, vector_env
from cutlayer.envs.simulation import Simulation
from cutlayer.envs.streams import draw
from cutlayer.errors import ConfigError
from cutlayer.runtime import features


@pytest.fixture(scope="module")
def camera(tiny):
    return tiny.short_camera()


@pytest.fixture(scope="module")
def trained(camera, tiny, tmp_path_factory):
    """Run folder, manifest and progress of each algorithm; the folders are not to be written to."""
    made = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "LEARNERS", tiny.LEARNERS)
        for algorithm in tiny.LEARNERS:
            folder, told = tmp_path_factory.mktemp(algorithm) / "run", []
            made[algorithm] = folder, train.train(camera, algorithm, 3, folder, report=told.append), told
    return made


@pytest.fixture(params=["ppo", "myopic-ppo", "maskable-ppo", "dqn", "sac-d", "all-action"])
def learned(request, trained):
    """(algorithm, folder, manifest, progress)."""
    return request.param, *trained[request.param]


def looks(folder):
    """(steps, reward) of every look at the validation episodes."""
    _, *lines = (folder / "validation.csv").read_text(encoding="utf-8").splitlines()
    return [(int(steps), float(reward)) for steps, _, reward in (line.split(",") for line in lines)]


# --- what a run leaves ---


def test_every_algorithm_is_tested(tiny):
    assert set(tiny.LEARNERS) == set(LEARNERS)


def test_a_run_folder_holds_the_model_its_curve_its_log_and_its_manifest(learned, camera, tiny):
    algorithm, folder, returned, told = learned
    assert sorted(file.name for file in folder.iterdir()) == ["model.zip", "run.json", "tensorboard", "validation.csv"]
    manifest = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    assert manifest == json.loads(json.dumps(returned))
    wanted = {"version", "commit", "command", "date", "seeds", "scenario", "inputs", "plans_sha256", "machine"}
    assert wanted | {"recipe", "wall_s", "cpu_s", "learning_cpu_s", "best", "state_sha256"} <= set(manifest)
    assert (manifest["algorithm"], manifest["engine"], manifest["scenario"]) == (algorithm, "kernel", "camera")
    assert manifest["seeds"] == {"training": 3, "validation": [VALIDATION.start, VALIDATION.stop]}
    assert manifest["recipe"]["steps"] == tiny.TINY[algorithm].steps <= manifest["steps"]
    assert manifest["plans_sha256"] == camera.plans.digest()
    assert (manifest["finished"], manifest["sittings"]) == (True, 1)
    assert 0 < manifest["learning_cpu_s"] < manifest["cpu_s"]
    assert told == sorted(told)
    assert told[-1] == 1.0


def test_the_kept_model_is_the_best_look_and_scores_as_evaluation_says(learned, camera):
    """The network that ships, played request by request by `evaluate`, has the reward that the curve tells."""
    from cutlayer.agents.export import network

    algorithm, folder, manifest, _ = learned
    seen = looks(folder)
    steps = [at for at, _ in seen]
    assert steps == sorted(set(steps))
    assert len(seen) == train.CHECKS
    best = max(seen, key=lambda look: look[1])
    assert (manifest["best"]["steps"], manifest["best"]["reward_mean"]) == best
    actor = LEARNERS[algorithm].load(folder / "model.zip")
    assert all(torch.isfinite(parameter).all() for parameter in actor.parameters())
    result = evaluate.evaluate(camera, evaluate.Learned(network(actor)), VALIDATION)
    assert result.reward.mean() == pytest.approx(best[1], rel=1e-9)


def test_the_log_tells_losses_and_validation(learned):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="tensorboard is not installed")
    algorithm, folder, _, _ = learned
    log = accumulator.EventAccumulator(str(folder / "tensorboard")).Reload()
    losses = {"dqn": "train/loss", "sac-d": "train/critic_loss", "all-action": "train/value_loss"}
    assert {"validation/reward_mean", losses.get(algorithm, "train/value_loss")} <= set(log.Tags()["scalars"])
    assert [event.step for event in log.Scalars("validation/reward_mean")] == [steps for steps, _ in looks(folder)]


def test_without_tensorboard_nothing_is_logged_and_it_is_said_once(run, tiny_learners, monkeypatch):
    monkeypatch.setattr(train, "tensorboard_installed", lambda: False)
    code, out, err = run("train", "--scenario", "camera", "--steps", 64, "--out", "here", "--json")
    assert code == 0, err
    assert err == "note: no log for TensorBoard, which is not installed (pip install tensorboard)\n"
    assert json.loads(out)["run"] == "here"
    assert json.loads(out)["algorithm"] == "ppo"


def test_the_same_seed_ends_in_the_same_state_and_another_does_not(trained, camera, tiny_learners, tmp_path):
    again, other = (train.train(camera, "ppo", seed, tmp_path / f"{seed}") for seed in (3, 4))
    assert again["state_sha256"] == trained["ppo"][1]["state_sha256"]
    assert other["state_sha256"] != again["state_sha256"]


def test_it_learns_on_the_reference_engine_too(camera, tiny_learners, tmp_path):
    manifest = train.train(camera, "maskable-ppo", 0, tmp_path / "run", engine="simpy", steps=128)
    assert manifest["engine"] == "simpy"
    assert math.isfinite(manifest["best"]["reward_mean"])


# --- the best state is kept ---


class Scripted:
    """A trainee that learns nothing: it takes one plan after the other, ten requests each."""

    def __init__(self, scenario, script):
        self._plans, self._features, self._script = len(scenario.plans), features.size(scenario.blocks), script
        self.steps, self.saved = 0, []

    def learn(self, between, logger):
        for _ in self._script[self.steps // 10 :]:
            between()
            self.steps += 10

    def actor(self):
        plan = self._script[self.steps // 10 - 1]
        layer = nn.Linear(self._features, self._plans)
        with torch.no_grad():
            layer.weight.zero_()
            layer.bias.copy_(torch.eye(self._plans)[plan])
        return nn.Sequential(layer)

    def save(self, file):
        file.write_text(str(self._script[self.steps // 10 - 1]))

    def state(self):
        return {"steps": self.steps}

    def restore(self, state):
        self.steps = state["steps"]


@dataclasses.dataclass(frozen=True)
class Script:
    steps: int


def test_the_best_of_all_looks_is_kept_and_the_last_one_is_looked_at(small, monkeypatch, tmp_path):
    """Plans that are worse, better and worse again: kept is the best, the earlier of two equals, whatever comes later."""
    worth = [evaluate.evaluate(small, baselines.Fixed(plan), VALIDATION).reward.mean() for plan in range(len(small.plans))]
    worst, *_, second, best = np.argsort(worth)
    script = [int(plan) for plan in (worst, second, best, worst, best, second)]
    learner = learners.Learner(lambda _scenario: Script(60), lambda *_: Scripted(small, script), lambda _file: nn.Sequential())
    monkeypatch.setattr(train, "LEARNERS", {"scripted": learner})
    manifest = train.train(small, "scripted", 0, tmp_path)
    assert (tmp_path / "model.zip").read_text() == str(best)
    assert manifest["best"]["steps"] == 30
    assert [steps for steps, _ in looks(tmp_path)] == [10, 20, 30, 40, 50, 60]
    assert [reward for _, reward in looks(tmp_path)] == pytest.approx([worth[plan] for plan in script], rel=1e-9)


def test_a_trial_is_the_evaluation_of_the_same_plans(small):
    for plan in (0, len(small.plans) - 1):
        trainee = Scripted(small, [plan])
        trainee.steps = 10
        wanted = evaluate.evaluate(small, baselines.Fixed(plan), VALIDATION).reward.mean()
        assert Trial(small, VALIDATION).score(trainee.actor()) == pytest.approx(wanted, rel=1e-9)


# --- the compiled lanes are no other world ---


class OneByOne:
    """The face of `Lanes`, over simulations that are stepped one after the other."""

    def __init__(self, scenario, episodes, lanes):
        self.scenario, self.bank = scenario, episodes
        self.worlds = [None] * lanes
        first = Simulation(scenario, draw(scenario, 0), "kernel").observation()
        self.observations, self.last = (np.zeros((lanes, len(first)), np.float32) for _ in range(2))
        self.rewards, self.dones = np.zeros(lanes), np.zeros(lanes, np.bool_)

    def begin(self, lanes, episodes):
        for lane in lanes:
            self.worlds[lane] = Simulation(self.scenario, draw(self.scenario, self.bank[episodes[lane]]), "kernel")
            self.observations[lane] = self.worlds[lane].observation()

    def reset(self, episodes):
        self.begin(range(len(episodes)), episodes)

    def step(self, plans, following):
        for lane, world in enumerate(self.worlds):
            record = world.decide(int(plans[lane]))
            self.rewards[lane] = self.scenario.objective.reward(record.latency_s, record.accuracy, record.energy_j)
            self.observations[lane], self.dones[lane] = world.observation(), world.done
            if world.done:
                self.last[lane] = self.observations[lane]
                self.begin([lane], following)


def test_learning_in_compiled_lanes_is_learning_in_simulations_one_by_one(camera, tiny, monkeypatch):
    def weights():
        trainee = tiny.LEARNERS["ppo"].make(dataclasses.replace(tiny.PPO, steps=256), camera, 0, "kernel")
        trainee.learn(lambda: None, train.Logger(None, []))
        return trainee.actor().state_dict()

    batched = weights()
    monkeypatch.setattr(vector_env.Bank, "draw", lambda _scenario, episodes: list(episodes))
    monkeypatch.setattr(vector_env, "Lanes", OneByOne)
    for name, one in weights().items():
        torch.testing.assert_close(one, batched[name], rtol=1e-4, atol=1e-6)


# --- a folder goes on with its own run only ---


def test_a_finished_run_is_left_as_it_is(trained, camera, tiny, monkeypatch):
    folder, manifest, _ = trained["ppo"]
    before = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    never = dataclasses.replace(tiny.LEARNERS["ppo"], make=None)  # calling it would fail
    monkeypatch.setattr(train, "LEARNERS", {"ppo": never})
    assert train.train(camera, "ppo", 3, folder) == json.loads(json.dumps(manifest))
    assert {file: file.stat().st_mtime_ns for file in folder.iterdir()} == before


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"seed": 4}, r"was begun with seeds training 3, not 4"),
        ({"algorithm": "dqn"}, r"was begun with algorithm 'ppo', not 'dqn'"),
        ({"engine": "simpy"}, r"was begun with engine 'kernel', not 'simpy'"),
        ({"steps": 77}, r"was begun with recipe steps 1280, not 77"),
        ({"late_penalty": 2.0}, r"was begun with another world under the same name"),
        ({"requests": 31}, r"was begun with another world under the same name"),
    ],
)
def test_a_folder_begun_with_other_settings_is_refused_in_one_line(changed, said, trained, camera, tiny_learners):
    folder = trained["ppo"][0]
    before = {file: file.read_bytes() for file in folder.glob("*.*")}
    given = {"algorithm": "ppo", "seed": 3} | changed
    objective = dataclasses.replace(camera.objective, late_penalty=given.pop("late_penalty", camera.objective.late_penalty))
    scenario = dataclasses.replace(camera, objective=objective, requests=given.pop("requests", camera.requests))
    with pytest.raises(ConfigError, match=rf"{said}.*; give another folder with -o, or remove it") as caught:
        train.train(scenario, given.pop("algorithm"), given.pop("seed"), folder, **given)
    assert "\n" not in str(caught.value)
    assert {file: file.read_bytes() for file in folder.glob("*.*")} == before


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"algorithm": "\xff"}', b'{"algorithm": "ppo"}'])
def test_a_folder_with_another_run_json_is_refused(content, camera, tiny_learners, tmp_path):
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(ConfigError, match=r"holds another run.json .*; give another folder with -o, or remove it"):
        train.train(camera, "ppo", 0, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["run.json"]


def test_an_unknown_algorithm_is_refused_in_one_line_and_nothing_is_written(refused):
    line = refused("train", "--scenario", "camera", "--algo", "sacd")
    assert "unknown algorithm 'sacd'; did you mean 'sac-d'? known: ppo, myopic-ppo" in line


# --- the recipes ---


@pytest.mark.parametrize("algorithm", recipes.RECIPES)
def test_a_learner_is_made_as_its_recipe_says(algorithm, camera):
    recipe = dataclasses.replace(LEARNERS[algorithm].recipe("urllc-ge"), episodes=2)
    model = LEARNERS[algorithm].make(recipe, camera, 1, "kernel").model
    assert (model.gamma, model.n_envs, model.batch_size, model.seed) == (recipe.gamma, recipe.lanes, recipe.batch, 1)
    assert recipe.gamma == (0.0 if algorithm == "myopic-ppo" else 0.6)
    assert (model.lr_schedule(1.0), model.lr_schedule(0.5)) == (recipe.learning_rate, recipe.learning_rate / 2)
    widths = [layer.out_features for layer in learners.actor(model) if isinstance(layer, nn.Linear)]
    assert widths == [*recipe.hidden, len(camera.plans)]
    if isinstance(recipe, recipes.Ppo):
        assert (model.n_steps, model.n_epochs, model.gae_lambda) == (recipe.rollout, recipe.epochs, recipe.gae_lambda)
        assert recipe.lanes * recipe.rollout % recipe.batch == 0
    else:
        ratio = recipe.update_ratio if isinstance(recipe, recipes.SacD) else recipe.updates / recipe.lanes
        assert model.learning_starts == recipe.warm_up
        assert model.gradient_steps / (model.train_freq.frequency * recipe.lanes) == pytest.approx(ratio)


def test_every_algorithm_has_a_recipe_for_every_scenario_and_overrides_name_known_ones():
    for name, learner in LEARNERS.items():
        for scenario in (*scenarios.names(), "a scenario of one's own"):
            assert learner.recipe(scenario).steps > 0, (name, scenario)
    for _, by_scenario in recipes.RECIPES.values():
        assert set(by_scenario) <= set(scenarios.names())


def test_the_entropy_bonus_falls_to_a_twentieth(camera, tiny):
    trainee = tiny.LEARNERS["ppo"].make(dataclasses.replace(tiny.PPO, steps=256), camera, 0, "kernel")
    seen = []
    trainee.learn(lambda: seen.append(trainee.model.ent_coef), train.Logger(None, []))
    whole = tiny.PPO.entropy
    assert seen == pytest.approx([whole, 0.75 * whole, 0.5 * whole, 0.25 * whole])
    assert trainee.model.ent_coef == pytest.approx(whole / 20)

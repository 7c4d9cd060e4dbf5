"""Training leaves a run that says how it was made, and exports to a bundle that decides as the trained network does."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch

from cutlayer.agents import export, train
from cutlayer.agents.evaluate import Learned, evaluate
from cutlayer.envs import scenarios
from cutlayer.errors import ConfigError
from cutlayer.runtime import bundle, features

# One update of PPO; for SAC-d a few after its random requests.
STEPS = {"ppo": 1_024, "sac-d": 2_100}


@pytest.fixture(scope="module")
def camera():
    return scenarios.make("camera")


@pytest.fixture(scope="module")
def trained(camera, tmp_path_factory):
    """Run folder, model and progress of each algorithm; the folders are not to be written to."""
    made = {}
    for algorithm, steps in STEPS.items():
        folder, told = tmp_path_factory.mktemp(algorithm) / "run", []
        model = train.train(camera, algorithm, 3, folder, engine="kernel", steps=steps, report=told.append)
        made[algorithm] = folder, model, told
    return made


@pytest.fixture(params=STEPS)
def run(request, trained):
    """(algorithm, folder, model, progress)."""
    return request.param, *trained[request.param]


def copied(folder, target):
    """A run folder that may be broken."""
    target.mkdir()
    for file in folder.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


def test_every_algorithm_is_tested():
    assert set(STEPS) == set(train.ALGORITHMS)


def test_a_run_folder_holds_the_model_and_its_manifest(run, camera):
    algorithm, folder, _, told = run
    assert sorted(file.name for file in folder.iterdir()) == ["model.zip", "run.json"]
    manifest = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    wanted = {"version", "commit", "command", "date", "seeds", "scenario", "inputs", "plans_sha256", "machine"}
    assert wanted | {"algorithm", "engine", "recipe", "wall_s", "cpu_s"} <= set(manifest)
    assert (manifest["algorithm"], manifest["engine"], manifest["scenario"]) == (algorithm, "kernel", "camera")
    assert manifest["seeds"] == {"training": 3}
    assert manifest["recipe"]["steps"] == STEPS[algorithm]
    assert manifest["plans_sha256"] == camera.plans.digest()
    assert manifest["wall_s"] > 0
    assert manifest["cpu_s"] > 0
    assert told == sorted(told)
    assert told[-1] == 1.0


def test_it_learned_something_on_one_thread(run):
    """Weights moved from where the seed put them, and all are numbers."""
    _, _, model, _ = run
    for parameter in model.policy.parameters():
        assert torch.isfinite(parameter).all()
    assert model.num_timesteps >= STEPS[run[0]]
    assert torch.get_num_threads() == 1


def test_a_run_is_found_again_as_it_was(run):
    algorithm, folder, model, _ = run
    found, manifest = export.load_run(folder)
    assert type(found) is type(model)
    assert manifest["algorithm"] == algorithm
    for (name, one), (other_name, two) in zip(
        export.actor(model).state_dict().items(), export.actor(found).state_dict().items(), strict=True
    ):
        assert name == other_name
        assert torch.equal(one, two)


def test_an_exported_policy_decides_as_the_trained_network(run, camera, tmp_path):
    algorithm, folder, model, _ = run
    made = export.export(folder, tmp_path / "policy.cutlayer")
    loaded = bundle.load(tmp_path / "policy.cutlayer")  # replays the golden pairs
    assert (loaded.scenario, loaded.algorithm) == (made.scenario, made.algorithm) == ("camera", algorithm)
    assert loaded.plans.digest() == camera.plans.digest()
    assert (loaded.path, loaded.objective) == (camera.path, camera.objective)
    assert {"commit", "date", "inputs"} <= set(loaded.trained)

    observations = np.random.default_rng(4).uniform(features.LOW, features.HIGH, (2_000, features.SIZE)).astype(np.float32)
    expected = export.torch_plans(model, observations)
    with torch.inference_mode():
        logits = np.sort(export.actor(model)(torch.from_numpy(observations)).numpy(), axis=1)
    clear = logits[:, -1] - logits[:, -2] > 1e-6  # where the two best differ by rounding alone, either is right
    assert clear.mean() > 0.99
    got = np.array([int(loaded.policy.logits(one).argmax()) for one in observations])
    np.testing.assert_array_equal(got[clear], expected[clear])
    assert len(set(got.tolist())) > 1


def test_golden_decisions_are_the_trained_networks(run, camera):
    algorithm, _, model, _ = run
    golden = export.bundle(camera, algorithm, model, {}).golden
    assert len(golden.plans) == bundle.GOLDEN
    assert golden.plans == export.torch_plans(model, np.array(golden.observations, np.float32)).tolist()


def test_exporting_twice_gives_equal_files(run, tmp_path):
    for name in ("one", "two"):
        export.export(run[1], tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_the_exported_network_plays_an_episode(run, camera):
    result = evaluate(camera, Learned(export.network(run[2])), [5])
    assert np.isfinite(result.reward).all()


def test_the_same_seed_learns_the_same(trained, camera, tmp_path):
    again = train.train(camera, "ppo", 3, tmp_path / "again", steps=STEPS["ppo"])
    other = train.train(camera, "ppo", 4, tmp_path / "other", steps=STEPS["ppo"])
    first, second, third = (torch.cat([p.flatten() for p in model.policy.parameters()]) for model in (trained["ppo"][1], again, other))
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


def test_an_unknown_algorithm_is_refused_and_nothing_is_written(small, tmp_path):
    with pytest.raises(ConfigError, match="unknown algorithm 'dqn'; known: ppo, sac-d"):
        train.train(small, "dqn", 0, tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_a_run_of_another_plan_table_is_refused_and_nothing_is_written(run, small, tmp_path):
    with pytest.raises(ConfigError, match=r"was trained on another plan table than small has now; train it anew"):
        export.export(run[1], tmp_path / "policy.cutlayer", small)
    assert not list(tmp_path.iterdir())


def test_a_scenario_of_ones_own_is_exported_when_it_is_handed_in(small, tmp_path):
    """Its name is in no list; asked for by that name it is refused in one line."""
    scenario = dataclasses.replace(small, name="mine")
    train.train(scenario, "ppo", 0, tmp_path / "run", steps=64)
    with pytest.raises(ConfigError, match="unknown scenario 'mine'"):
        export.export(tmp_path / "run", tmp_path / "policy.cutlayer")
    export.export(tmp_path / "run", tmp_path / "policy.cutlayer", scenario)
    assert len(bundle.load(tmp_path / "policy.cutlayer").plans) == len(small.plans)


def no_manifest(folder):
    (folder / "run.json").unlink()


def no_model(folder):
    (folder / "model.zip").unlink()


def truncated_manifest(folder):
    (folder / "run.json").write_bytes((folder / "run.json").read_bytes()[:50])


def manifest_without_anything(folder):
    (folder / "run.json").write_text("{}", encoding="utf-8")


def manifest_with_an_algorithm_alone(folder):
    (folder / "run.json").write_text('{"algorithm": "ppo"}', encoding="utf-8")


def unknown_algorithm(folder):
    (folder / "run.json").write_text('{"algorithm": "dqn"}', encoding="utf-8")


def a_list(folder):
    (folder / "run.json").write_text("[]", encoding="utf-8")


def not_utf_8(folder):
    (folder / "run.json").write_bytes(b'{"algorithm": "\xff"}')


def truncated_model(folder):
    (folder / "model.zip").write_bytes((folder / "model.zip").read_bytes()[:5_000])


def empty_model(folder):
    (folder / "model.zip").write_bytes(b"")


@pytest.mark.parametrize(
    "damage",
    [
        no_manifest, no_model, truncated_manifest, manifest_without_anything, manifest_with_an_algorithm_alone, unknown_algorithm,
        a_list, not_utf_8, truncated_model, empty_model,
    ],
)  # fmt: skip
def test_a_damaged_run_folder_is_refused_and_nothing_is_written(trained, tmp_path, damage):
    folder = copied(trained["ppo"][0], tmp_path / "run")
    damage(folder)
    with pytest.raises(ConfigError) as caught:
        export.export(folder, tmp_path / "policy.cutlayer")
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "policy.cutlayer").exists()

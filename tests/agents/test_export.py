"""An exported policy decides as the trained network does, in every form; what cannot be exported is refused, and nothing is written."""

from __future__ import annotations

import dataclasses
import itertools
import json

import numpy as np
import pytest
import torch
from torch import nn

from cutlayer.agents import agreement, export, states, train
from cutlayer.agents.agreement import Exact
from cutlayer.agents.evaluate import Learned, evaluate
from cutlayer.agents.learners import LEARNERS
from cutlayer.errors import BundleError, ConfigError
from cutlayer.runtime import bundle, features
from cutlayer.runtime.policy import Mlp, OnnxPolicy

MANY = 100_000  # the number


def actor_of(sizes, activation=nn.Tanh, scale=1.5, seed=0):
    """A network that prefers clearly: weights larger than those that training begins with."""
    generator = torch.Generator().manual_seed(seed)
    layers = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), activation()]
        nn.init.normal_(layers[-2].weight, 0.0, scale / inputs**0.5, generator)
        nn.init.normal_(layers[-2].bias, 0.0, 0.1, generator)
    return nn.Sequential(*layers[:-1])


@pytest.fixture(scope="module")
def actor(small):
    return actor_of((features.SIZE, 64, 64, len(small.plans)))


@pytest.fixture(scope="module")
def trained(small, tmp_path_factory):
    """A finished run of few steps; not to be written to."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    train.train(small, "ppo", 3, folder, steps=64)
    return folder


# --- forms agree


@pytest.mark.parametrize(("activation", "many"), [(nn.Tanh, MANY), (nn.ReLU, 20_000)])
def test_numpy_onnx_runtime_and_torch_agree_on_the_plan(activation, many):
    """On 100,000 random and odd observations, wherever rounding cannot have the say; and that is nearly everywhere."""
    actor = actor_of((features.SIZE, 64, 64, 95), activation)
    observations = agreement.observations(features.SIZE, many)
    policy = export.network(actor)
    exact, expected = Exact(policy, observations), export.torch_plans(actor, observations)
    for form in (policy, OnnxPolicy(policy, "it")):
        found = exact.compare(expected, agreement.plans(form, observations))
        assert (found.observations, found.differ) == (many, 0)
        assert found.close < 0.01 * many
        assert found.differ_close < 1e-4 * many
        assert found.gap < 1e-4
    assert len(np.unique(expected)) > 30, "the comparison is of many plans"


def test_float32_logits_lie_within_the_bound_and_the_bound_is_no_joke():
    for activation in (nn.Tanh, nn.ReLU):
        actor = actor_of((features.SIZE, 64, 64, 95), activation)
        observations = agreement.observations(features.SIZE, 5_000)
        exact = Exact(export.network(actor), observations)
        with torch.inference_mode():
            off = np.abs(actor(torch.from_numpy(observations)).numpy() - exact.logits)
        assert (off <= exact.off).all()
        assert exact.off.mean() < 2e-3 * np.abs(exact.logits).mean()


def test_the_bound_grows_with_what_it_bounds():
    """By hand: one layer, one input of 1: two products in any order are off by at most 2 u / (1 - 2 u) (|w| + |b|)."""
    exact = Exact(Mlp([(np.array([[3.0], [-1.0]]), np.array([1.0, 0.5]))], "relu"), np.ones((1, 1), np.float32))
    np.testing.assert_array_equal(exact.logits, [[4.0, -0.5]])
    u = 2.0**-24
    np.testing.assert_allclose(exact.off, np.array([[4.0, 1.5]]) * 2 * u / (1 - 2 * u), rtol=1e-12)


def test_a_wrong_plan_is_not_explained_by_rounding():
    policy = Mlp([(np.eye(3), np.array([0.0, 0.0, 0.0]))], "tanh")
    observations = np.array([[1.0, 0.5, 0.0], [1.0, np.nextafter(np.float32(1.0), np.float32(0.0)), 0.0]], np.float32)
    exact = Exact(policy, observations)
    same = exact.compare(np.array([0, 0]), np.array([0, 0]))
    assert (same.close, same.differ_close, same.differ, same.gap) == (1, 0, 0, 0.0)
    second = exact.compare(np.array([0, 0]), np.array([0, 1]))
    assert (second.differ_close, second.differ) == (1, 0)
    assert 0.0 < second.gap < 1e-7
    both = exact.compare(np.array([0, 0]), np.array([1, 2]))
    assert (both.differ_close, both.differ) == (0, 2)


@pytest.mark.parametrize("library", [np.tanh, lambda x: torch.tanh(torch.from_numpy(x)).numpy()])
def test_tanh_is_as_exact_as_the_bound_takes_it_to_be(library):
    x = np.concatenate([np.linspace(-12, 12, 400_001), np.geomspace(1e-40, 1, 10_000)]).astype(np.float32)
    assert np.abs(library(x) - np.tanh(x.astype(np.float64))).max() < agreement.TANH_ERROR


def test_odd_observations_are_in_range_and_among_them_are_the_edges():
    got = agreement.observations(40, 20_000)
    assert got.shape == (20_000, 40)
    assert (got >= features.LOW).all()
    assert (got <= features.HIGH).all()
    assert {features.LOW, features.HIGH, 0.0} <= set(got.flat)
    assert (np.isin(got, (features.LOW, features.HIGH)).all(axis=1)).sum() > 1_000
    assert np.signbit(got[got == 0]).any()
    assert agreement.observations(40, 100).shape == (100, 40)


def test_a_form_that_decides_otherwise_is_not_exported(actor, monkeypatch):
    class Broken(OnnxPolicy):
        def choose(self, observation):
            return 0, True

    monkeypatch.setattr(export, "OnnxPolicy", Broken)
    with pytest.raises(BundleError, match=r"ONNX Runtime decides \d+ of 500 observations otherwise than torch"):
        export.check(actor, export.network(actor), agreement.observations(features.SIZE, 500))


# --- what a bundle gets


@pytest.fixture(scope="module")
def made(small, actor):
    return export.bundle(small, "none", actor, {"commit": "none"})


def test_a_bundle_holds_the_network_and_its_world(made, small, actor, tmp_path):
    made.save(tmp_path / "policy.cutlayer", "0")
    loaded = bundle.load(tmp_path / "policy.cutlayer")
    assert (loaded.scenario, loaded.algorithm, loaded.blocks) == (small.name, "none", small.blocks)
    assert (loaded.path, loaded.objective) == (small.path, small.objective)
    assert loaded.plans.digest() == small.plans.digest()
    assert (tmp_path / "policy.cutlayer").stat().st_size < 1_000_000
    for layer, (weight, bias) in zip(actor[::2], loaded.policy.layers, strict=True):
        np.testing.assert_array_equal(layer.weight.detach().numpy(), weight)
        np.testing.assert_array_equal(layer.bias.detach().numpy(), bias)


def test_golden_decisions_are_the_trained_networks_and_show_many_plans(made, actor):
    golden = made.golden
    assert len(golden.plans) == bundle.GOLDEN
    assert golden.plans == export.torch_plans(actor, np.array(golden.observations, np.float32)).tolist()
    candidates = export.torch_plans(actor, agreement.observations(features.SIZE, 8 * bundle.GOLDEN))
    assert len(set(golden.plans)) >= len(set(candidates)) - 1


def test_ranges_hold_what_training_sees_and_not_everything(made, small):
    rng = np.random.default_rng(7)
    seen = states.visit(small, states.training_episodes(rng, 8), states.exploring(made.policy, 0.0, rng)).flat()
    inside = [not made.ranges.outside(one) for one in seen.tolist()]
    assert np.mean(inside) > 0.98
    wide = np.array(made.ranges.high) - np.array(made.ranges.low)
    assert (wide < features.HIGH - features.LOW).sum() > features.SIZE // 2


@pytest.mark.parametrize(
    "layers",
    [
        [nn.Linear(32, 6), nn.Tanh()],
        [nn.Linear(32, 8), nn.Tanh(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 6)],
        [nn.Linear(32, 8), nn.GELU(), nn.Linear(8, 6)],
        [nn.Linear(32, 8), nn.Linear(8, 6)],
        [nn.LayerNorm(32), nn.Tanh(), nn.Linear(32, 6)],
        [],
    ],
)
def test_a_network_that_does_not_ship_is_refused(layers):
    with pytest.raises(
        BundleError, match=r"cannot export a network of \(.*\): only linear layers with tanh or relu between them"
    ) as caught:
        export.network(nn.Sequential(*layers))
    assert "\n" not in str(caught.value)


# --- states


def test_visits_are_the_episodes_that_evaluation_plays(small, made):
    """Same plans and rewards as one request after the other."""
    visited = states.visit(small, [5, 6], lambda observations: states.logits(made.policy, observations).argmax(axis=1))
    result = evaluate(small, Learned(made.policy), [5, 6])
    np.testing.assert_array_equal(visited.plans.T, result.plans)
    np.testing.assert_allclose(visited.rewards.T, result.reward, rtol=1e-6, atol=1e-9)
    assert visited.flat().shape == (2 * small.requests, features.SIZE)


def test_logits_of_many_observations_are_those_of_each(made):
    observations = agreement.observations(features.SIZE, 64)
    for activation in ("tanh", "relu"):
        policy = Mlp(made.policy.layers, activation)
        each = np.array([policy.logits(one).copy() for one in observations])
        np.testing.assert_allclose(states.logits(policy, observations), each, atol=1e-5)


def test_training_episodes_are_nobody_elses():
    episodes = states.training_episodes(np.random.default_rng(0), 50)
    assert len(episodes) == 50
    assert episodes.start >= 2**62
    assert episodes != states.training_episodes(np.random.default_rng(1), 50)


# --- from a run


def test_every_algorithm_s_actor_ships(small):
    """A learner that joins the table must be exportable."""
    few = {"episodes": 8, "bank": 8}
    for learner in LEARNERS.values():
        recipe = learner.recipe(small.name)
        recipe = dataclasses.replace(recipe, **{name: few[name] for name in few if hasattr(recipe, name)})
        policy = export.network(learner.make(recipe, small, 0, "kernel").actor())
        assert (policy.inputs, policy.outputs) == (features.SIZE, len(small.plans))


def test_a_run_is_exported_as_it_was_trained(trained, small, tmp_path):
    made = export.export(trained, tmp_path / "policy.cutlayer", small)
    loaded = bundle.load(tmp_path / "policy.cutlayer")
    assert (loaded.scenario, loaded.algorithm) == (made.scenario, made.algorithm) == ("small", "ppo")
    assert {"commit", "date", "inputs"} <= set(loaded.trained)
    actor, manifest = export.load_run(trained)
    assert manifest["algorithm"] == "ppo"
    observations = agreement.observations(features.SIZE, 500)
    found = Exact(loaded.policy, observations).compare(
        export.torch_plans(actor, observations), agreement.plans(loaded.policy, observations)
    )
    assert found.differ == 0


def test_exporting_twice_gives_equal_files(trained, small, tmp_path):
    for name in ("one", "two"):
        export.export(trained, tmp_path / name, small)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_a_run_of_another_plan_table_is_refused_and_nothing_is_written(trained, small, tmp_path):
    plans = dataclasses.replace(small.plans, rows=small.plans.rows[1:])
    with pytest.raises(ConfigError, match="was trained on another plan table than small has now; train it anew"):
        export.export(trained, tmp_path / "policy.cutlayer", dataclasses.replace(small, plans=plans))
    with pytest.raises(ConfigError, match="unknown scenario 'small'"):
        export.export(trained, tmp_path / "policy.cutlayer")
    assert not list(tmp_path.iterdir())


def test_a_run_on_other_features_is_refused_and_nothing_is_written(trained, small, tmp_path):
    broadcasts = dataclasses.replace(small, edge=dataclasses.replace(small.edge, broadcast_s=0.1))
    with pytest.raises(ConfigError, match="was trained on 32 features, small has 34 now; train it anew"):
        export.export(trained, tmp_path / "policy.cutlayer", broadcasts)
    assert not list(tmp_path.iterdir())


def changed(**fields):
    def damage(folder):
        manifest = json.loads((folder / "run.json").read_text(encoding="utf-8")) | fields
        (folder / "run.json").write_text(json.dumps(manifest), encoding="utf-8")

    return damage


def only(text):
    return lambda folder: (folder / "run.json").write_bytes(text)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / "run.json").unlink(), "is no run folder"),
        (lambda folder: (folder / "model.zip").unlink(), "is no run folder"),
        (only(b'{"algorithm": "ppo"}'), "run.json lacks scenario, plans_sha256, commit, date, inputs"),
        (only(b'{"algorithm": "\xff"}'), "is no run folder"),
        (only(b"[]"), "is no run folder"),
        (only(b'{"scenario": "small'), "is no run folder"),
        (changed(algorithm="unheard-of"), "'unheard-of'"),
        (changed(finished=False), "is not finished; give the command that began it again"),
        (lambda folder: (folder / "model.zip").write_bytes((folder / "model.zip").read_bytes()[:5_000]), "is no run folder"),
        (lambda folder: (folder / "model.zip").write_bytes(b""), "is no run folder"),
    ],
)
def test_a_damaged_run_folder_is_refused_and_nothing_is_written(trained, small, tmp_path, damage, said):
    folder = tmp_path / "run"
    folder.mkdir()
    for file in ("run.json", "model.zip"):
        (folder / file).write_bytes((trained / file).read_bytes())
    damage(folder)
    with pytest.raises(ConfigError) as caught:
        export.export(folder, tmp_path / "policy.cutlayer", small)
    assert str(folder) in str(caught.value)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "policy.cutlayer").exists()

"""Judging: the same on both engines and every time, figures by hand, and nobody beats the clairvoyant."""

from __future__ import annotations

import dataclasses
import json
import re

import numpy as np
import pytest

from cutlayer.agents import baselines, evaluate, oracle, shipped
from cutlayer.agents import policies as policies_by_name
from cutlayer.agents.episodes import HELD_OUT, TUNING
from cutlayer.agents.evaluate import Learned, Result
from cutlayer.agents.score import SIMPLE
from cutlayer.envs import kernel, scenarios
from cutlayer.envs.deadlines import ChosenDeadlines
from cutlayer.envs.simulation import Simulation
from cutlayer.envs.streams import draw
from cutlayer.profiles import cost
from cutlayer.profiles.stats import wilson
from cutlayer.runtime import bundle, features
from cutlayer.runtime.policy import Mlp
from cutlayer.runtime.rules import Greedy, estimate

EPISODES = range(HELD_OUT, HELD_OUT + 4)
COLUMNS = ("plans", "latency_s", "accuracy", "energy_j")


def learned(scenario):
    """A network that learned nothing and decides all sorts of things."""
    rng = np.random.default_rng(3)
    plans = len(scenario.plans)
    return Learned(
        Mlp(
            [(rng.normal(size=(16, features.size(scenario.blocks))), np.zeros(16)), (rng.normal(size=(plans, 16)), np.zeros(plans))], "tanh"
        )
    )


def policies(scenario):
    plans = scenario.plans
    return {
        "device-only": baselines.Fixed(plans.device_only()),
        "edge-only": baselines.Fixed(plans.edge_only()),
        "random": baselines.Random(len(plans), np.random.default_rng(5)),
        "best-static": baselines.best_static(scenario, TUNING[:5]),
        "greedy-ewma": baselines.greedy_ewma(scenario),
        "learned": learned(scenario),
    }


@pytest.fixture(scope="module", params=["small", "camera"])
def judged(request, small):
    """A scenario, and every policy's result on a few of its episodes."""
    scenario = small if request.param == "small" else scenarios.make("camera")
    return scenario, {name: evaluate.evaluate(scenario, policy, EPISODES) for name, policy in policies(scenario).items()}


def same(a, b, exact=True):
    np.testing.assert_array_equal(a.plans, b.plans)
    for name in COLUMNS[1:]:
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=0 if exact else 1e-9, atol=0 if exact else 1e-12)


def test_every_request_of_every_episode_is_there(judged):
    scenario, results = judged
    for result in results.values():
        for name in COLUMNS:
            assert getattr(result, name).shape == (len(EPISODES), scenario.requests)
        assert np.isfinite(result.reward).all()
        assert (result.latency_s > 0).all()
        assert (result.energy_j > 0).all()


def test_evaluation_is_deterministic(small):
    for name in ("random", "greedy-ewma", "learned"):
        one, two = (evaluate.evaluate(small, policies(small)[name], EPISODES) for _ in range(2))
        same(one, two)


def test_an_episode_does_not_depend_on_those_before_it(small):
    greedy = baselines.greedy_ewma(small)
    both = evaluate.evaluate(small, greedy, [HELD_OUT, HELD_OUT + 1])
    second = evaluate.evaluate(small, greedy, [HELD_OUT + 1])
    np.testing.assert_array_equal(both.latency_s[1], second.latency_s[0])
    assert (both.latency_s[0] != both.latency_s[1]).any()


@pytest.mark.parametrize("name", ["random", "greedy-ewma", "learned", "edge-only"])
def test_both_engines_give_the_same_result(small, name):
    one, two = (evaluate.evaluate(small, policies(small)[name], EPISODES, engine) for engine in ("simpy", "kernel"))
    same(one, two, exact=False)


def test_a_fixed_plan_is_what_the_compiled_replay_says(small):
    result = evaluate.evaluate(small, baselines.Fixed(2), EPISODES)
    assert (result.plans == 2).all()
    for i, episode in enumerate(EPISODES):
        rows = kernel.run(small, draw(small, episode), np.full(small.requests, 2))
        np.testing.assert_array_equal(result.latency_s[i], rows[:, kernel.R_FINISH] - rows[:, kernel.R_ARRIVAL])
        np.testing.assert_array_equal(result.energy_j[i], rows[:, kernel.R_ENERGY])


def test_tuning_and_testing_share_no_episode():
    assert TUNING[-1] < HELD_OUT


# --- the clairvoyant


def test_nobody_beats_the_clairvoyant_on_any_episode(judged):
    scenario, results = judged
    best = evaluate.evaluate_clairvoyant(scenario, EPISODES, list(results.values()))
    for name, result in results.items():
        assert (best.reward.sum(axis=1) >= result.reward.sum(axis=1) - 1e-9).all(), name


def test_the_search_alone_beats_the_others_as_well(judged):
    scenario, results = judged
    alone = evaluate.evaluate_clairvoyant(scenario, EPISODES).reward.sum(axis=1)
    for name in set(results) - {"greedy-ewma"}:
        assert (alone >= results[name].reward.sum(axis=1) - 1e-9).all(), name
    assert alone.sum() >= results["greedy-ewma"].reward.sum() - 1e-9


def test_its_result_is_that_of_its_plans(small):
    result = evaluate.evaluate_clairvoyant(small, EPISODES)

    class Script:
        """The clairvoyant's plans, one after the other."""

        def __init__(self, plans):
            self.left = plans.ravel().tolist()

        def begin(self):
            pass

        def act(self, view):
            return self.left.pop(0)

    same(result, evaluate.evaluate(small, Script(result.plans), EPISODES))


def test_where_another_did_better_its_result_is_taken(small):
    alone = evaluate.evaluate_clairvoyant(small, EPISODES)
    better = dataclasses.replace(alone, accuracy=alone.accuracy.copy(), plans=np.zeros_like(alone.plans))
    better.accuracy[1] += 1.0
    better.accuracy[2] -= 1.0
    got = evaluate.evaluate_clairvoyant(small, EPISODES, [better])
    np.testing.assert_array_equal(got.accuracy[1], better.accuracy[1])
    np.testing.assert_array_equal(got.plans[1], 0)
    for i in (0, 2, 3):
        np.testing.assert_array_equal(got.plans[i], alone.plans[i])


# --- baselines


def test_best_static_equals_brute_force(small):
    for episodes in (TUNING[:3], TUNING[3:8]):
        means = [evaluate.evaluate(small, baselines.Fixed(plan), episodes).reward.mean() for plan in range(len(small.plans))]
        assert baselines.best_static(small, episodes).plan == int(np.argmax(means))


def test_random_is_any_plan_and_follows_its_seed(small):
    one, two, other = (evaluate.evaluate(small, baselines.Random(6, np.random.default_rng(seed)), EPISODES).plans for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, two)
    assert (one != other).any()
    assert set(one.ravel().tolist()) == set(range(6))


def test_greedy_is_the_rule_of_the_device_on_the_same_readings(small):
    greedy = baselines.greedy_ewma(small)
    world = Simulation(small, draw(small, 1))
    while not world.done:
        now = estimate(world.readings, world.now_s, world.acked_bytes())
        assert greedy.act(world) == Greedy(small.plans, small.path, small.objective).choose(now)[0]
        world.decide(world.request % len(small.plans))


# --- many at once


@pytest.mark.parametrize("name", ["small", "battery-harvest"])
def test_lanes_side_by_side_give_the_very_same_result(small, name, monkeypatch):
    scenario = small if name == "small" else dataclasses.replace(scenarios.make(name), requests=40)
    policy = learned(scenario)
    monkeypatch.setattr(evaluate, "LANES", 3)  # the last block is shorter
    episodes = range(HELD_OUT, HELD_OUT + 5)
    same(evaluate.side_by_side(scenario, policy, episodes), evaluate.one_by_one(scenario, policy, episodes))
    monkeypatch.setattr(evaluate, "SIDE_BY_SIDE_FROM", 1)
    same(evaluate.evaluate(scenario, policy, episodes), evaluate.one_by_one(scenario, policy, episodes))


def test_lanes_know_of_deadlines_that_differ(small):
    scenario = dataclasses.replace(small, deadlines=ChosenDeadlines((0.02, 0.2)))
    one, two = (run(scenario, learned(scenario), EPISODES) for run in (evaluate.side_by_side, evaluate.one_by_one))
    same(one, two)
    np.testing.assert_array_equal(one.deadline_s, two.deadline_s)
    np.testing.assert_array_equal(one.reward, two.reward)


def test_where_two_plans_are_as_good_the_devices_own_way_decides(small):
    """Two outputs of the same weights: rounding alone could choose between them, and chooses as the device does."""
    rng = np.random.default_rng(0)
    plans = len(small.plans)
    weight = np.tile(rng.normal(size=(1, 16)), (plans, 1))
    policy = Learned(Mlp([(rng.normal(size=(16, features.SIZE)), np.zeros(16)), (weight, np.zeros(plans))], "tanh"))
    observations = rng.uniform(-1, 1, (200, features.SIZE)).astype(np.float32)
    np.testing.assert_array_equal(policy.act_on(observations), [policy.network.logits(one).argmax() for one in observations])


# --- figures by hand


def test_the_summary_by_hand(few_plans):
    scenario = dataclasses.replace(scenarios.camera(few_plans), objective=cost.deadline(0.1, late_penalty=2.0))
    result = Result(
        scenario,
        plans=np.array([[0, 0, 1, 5], [0, 1, 1, 1]]),
        latency_s=np.array([[0.01, 0.02, 0.03, 0.04], [0.1, 0.100001, 0.3, 0.05]]),
        accuracy=np.array([[0.5, 0.6, 0.7, 0.8], [0.9, 0.9, 0.9, 0.9]]),
        energy_j=np.array([[0.1, 0.2, 0.3, 0.4], [0.5, 0.6, 0.7, 0.8]]),
    )
    got = result.summary()
    assert got["reward_mean"] == pytest.approx((0.5 + 0.6 + 0.7 + 0.8 + 0.9 - 2.0 - 2.0 + 0.9) / 8)
    assert (got["misses"], got["requests"], got["miss_rate"]) == (2, 8, 0.25)
    assert got["miss_ci95"] == list(wilson(2, 8))
    assert got["accuracy"] == pytest.approx(6.2 / 8)
    assert got["energy_j"] == pytest.approx(0.45)
    assert got["latency_p50_s"] == pytest.approx(0.045)
    assert got["latency_p95_s"] == pytest.approx(np.percentile(result.latency_s, 95))
    assert 0.2 < got["latency_p99_s"] <= 0.3
    for knob in ("exit", "partition", "bits"):
        shares = {}
        for plan, count in ((0, 3), (1, 4), (5, 1)):
            value = str(getattr(few_plans.rows[plan], knob))
            shares[value] = shares.get(value, 0.0) + count / 8
        assert got["share"][knob] == pytest.approx(shares)
    assert json.loads(json.dumps(got)) == got


def test_shares_add_up_to_one(judged):
    for result in judged[1].values():
        for shares in result.summary()["share"].values():
            assert sum(shares.values()) == pytest.approx(1.0)


# --- by name, and the command


@pytest.mark.parametrize("name", list(oracle.ORACLES))
def test_oracles_are_found_by_name(small, name):
    assert type(policies_by_name.make(small, name, 0)) is type(oracle.ORACLES[name](small))


@pytest.mark.parametrize("name", shipped.names())
def test_what_ships_is_for_its_scenario(name):
    """Every bundle loads, was made from a clean commit, and fits its scenario's plans and features."""
    assert name in scenarios.names()
    assert isinstance(policies_by_name.make(scenarios.make(name), policies_by_name.BEST_LEARNED, 0), Learned)
    held = bundle.load(shipped.find(name))
    assert held.scenario == name
    assert held.bayes is not None, "the ladder's second rung"
    assert re.fullmatch("[0-9a-f]{12}", str(held.trained["commit"]))


def test_where_nothing_ships_one_line_says_so(refused, monkeypatch):
    monkeypatch.setattr(shipped, "names", lambda: ["urllc-ge"])
    line = refused("evaluate", "--scenario", "camera", "--policy", "best-learned")
    for part in ("no learned policy ships for scenario 'camera'", "urllc-ge", "cutlayer train --scenario camera"):
        assert part in line


def test_an_unknown_policy_is_told_with_the_nearest(refused):
    assert "unknown policy 'clairvoyent'; did you mean 'clairvoyant'?" in refused("evaluate", "--policy", "clairvoyent")


SMALL = ("evaluate", "--scenario", "small.toml", "--episodes", "3", "--json")
KEYS = {
    "score", "score_ci95", "reward_mean", "miss_rate", "miss_ci95", "latency_p50_s", "latency_p95_s", "latency_p99_s", "accuracy",
    "energy_j", "share", "headroom",
}  # fmt: skip


@pytest.fixture
def command(run, tmp_path):
    """`cutlayer evaluate` on a short world, as the JSON object that it prints."""
    (tmp_path / "small.toml").write_text('base = "urllc-ge"\nrequests = 40\n', encoding="utf-8")

    def call(*arguments):
        code, out, err = run(*SMALL, *arguments)
        assert code == 0, err
        assert out.count("\n") == 1
        return json.loads(out)

    return call


def test_the_command_keeps_its_contract(command):
    found = command("--policy", "greedy-last")
    assert set(found) >= KEYS
    assert set(found["share"]) == {"exit", "partition", "bits"}
    low, high = found["score_ci95"]
    assert low <= found["score"] <= high <= 1.0
    rewards = found["references"]["reward_mean"]
    assert set(rewards) == {*SIMPLE, "clairvoyant"}
    zero, one = rewards[found["references"]["simple"]], rewards["clairvoyant"]
    assert zero == max(rewards[name] for name in SIMPLE)
    assert found["score"] == pytest.approx((found["reward_mean"] - zero) / (one - zero))
    assert found["headroom"] == pytest.approx((one - zero) / abs(zero))
    assert found["score_over"] == {"unit": "episode", "count": 3, "drives": 0}


def test_the_ends_of_the_scale(command):
    assert command("--policy", "clairvoyant")["score"] == 1.0
    simple = command("--policy", "best-static")
    name = simple["references"]["simple"]
    assert command("--policy", name)["score"] == 0.0


def test_both_engines_score_alike(command):
    one, two = (command("--policy", "greedy-ewma", "--engine", engine) for engine in ("kernel", "simpy"))
    assert one["score"] == pytest.approx(two["score"], rel=1e-9)
    assert one["references"]["reward_mean"] == pytest.approx(two["references"]["reward_mean"], rel=1e-9)


def test_without_a_score_the_keys_stay(command):
    found = command("--policy", "greedy-ewma", "--no-score")
    assert set(found) >= KEYS
    assert found["score"] is found["score_ci95"] is found["headroom"] is None
    assert found["score_note"] == "not asked for"


def test_a_rate_of_misses_that_cannot_be_told_is_not_printed(command, run):
    found = command("--policy", "best-static")
    assert found["misses"] < 10, "this policy hardly misses"
    assert found["miss_rate"] is None
    assert found["miss_ci95"][0] <= found["misses"] / found["requests"] <= found["miss_ci95"][1]
    code, out, _ = run(*SMALL[:-1], "--policy", "best-static")
    assert code == 0
    assert found["miss_note"] in out
    assert "missed" not in out

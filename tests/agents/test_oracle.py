"""What knowledge is worth: nobody beats the clairvoyant, one step is the best for one request, and what is told late is told late."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from cutlayer.agents import baselines, evaluate, oracle
from cutlayer.agents.episodes import HELD_OUT
from cutlayer.envs import kernel, scenarios
from cutlayer.envs.channels import Constant
from cutlayer.envs.deadlines import ChosenDeadlines
from cutlayer.envs.simulation import Simulation
from cutlayer.envs.streams import deadlines, draw
from cutlayer.profiles import cost
from cutlayer.runtime import rules

EPISODES = range(HELD_OUT, HELD_OUT + 2)


def value(scenario, streams, plans):
    rows = kernel.run(scenario, streams, np.asarray(plans))
    latency = rows[:, kernel.R_FINISH] - rows[:, kernel.R_ARRIVAL]
    return scenario.objective.reward(latency, rows[:, kernel.R_ACCURACY], rows[:, kernel.R_ENERGY], streams.deadline_s)


@pytest.fixture(scope="module", params=["small", "battery-harvest", "cold-start", "bursty-deadline"])
def short(request, small):
    """Small worlds of every kind: with a slow-down, a battery, a memory, bursts."""
    world = small if request.param == "small" else scenarios.make(request.param)
    return dataclasses.replace(world, requests=24)


def test_no_rule_beats_the_clairvoyant_on_any_episode(short, monkeypatch):
    """Tuning takes long and is not what is asked here: every rule is tuned on one episode."""
    monkeypatch.setattr(baselines, "TUNING", range(1_000_000, 1_000_001))
    others = {}
    for name, rule in baselines.RULES.items():
        others[name] = evaluate.evaluate(short, rule(short, 0), EPISODES)
    others |= {name: evaluate.evaluate(short, make(short), EPISODES) for name, make in oracle.ORACLES.items()}
    best = evaluate.evaluate_clairvoyant(short, EPISODES, list(others.values())).reward.sum(axis=1)
    alone = others["clairvoyant"].reward.sum(axis=1)
    for name, result in others.items():
        assert (best >= result.reward.sum(axis=1) - 1e-9).all(), name
        assert alone.sum() >= result.reward.sum() - 1e-9, f"the search alone is beaten by {name}"


@pytest.mark.parametrize("objective", [cost.deadline(0.1), cost.linear(0.1), cost.energy(0.1)])
def test_a_wide_enough_search_finds_the_optimum(small, objective):
    world = dataclasses.replace(small, requests=4, objective=objective)
    plans = range(len(world.plans))
    for seed in range(3):
        streams = draw(world, seed)
        best = max(value(world, streams, chosen).sum() for chosen in itertools.product(plans, repeat=4))
        found = oracle.clairvoyant(world, streams, width=len(plans) ** 4)
        assert value(world, streams, found).sum() == pytest.approx(best, abs=1e-12)


def test_requests_with_deadlines_of_their_own_are_planned_for_them(small):
    world = dataclasses.replace(small, requests=3, deadlines=ChosenDeadlines((0.02, 0.2)))
    plans = range(len(world.plans))
    for seed in range(3):
        streams = draw(world, seed)
        best = max(value(world, streams, chosen).sum() for chosen in itertools.product(plans, repeat=3))
        assert value(world, streams, oracle.clairvoyant(world, streams, width=len(plans) ** 3)).sum() == pytest.approx(best, abs=1e-12)


def test_a_search_without_a_price_on_charge_empties_the_battery(monkeypatch):
    world = scenarios.make("battery-harvest")
    streams = draw(world, HELD_OUT)
    priced = value(world, streams, oracle.clairvoyant(world, streams, width=4)).mean()
    monkeypatch.setattr(oracle, "CHARGE", (0.0,))
    assert priced > value(world, streams, oracle.clairvoyant(world, streams, width=4)).mean() + 0.1


def test_a_narrow_search_keeps_worlds_that_differ():
    """In this episode nearly every request can have the best answer in time; near-copies of one world crowd that path out."""
    world = scenarios.make("bursty-deadline")
    streams = draw(world, HELD_OUT)
    assert value(world, streams, oracle.clairvoyant(world, streams, width=6)).mean() >= world.plans.accuracy.max() - 0.005


def test_one_step_is_the_best_for_each_request_alone(short):
    streams = draw(short, 5)
    chosen = oracle.one_step(short, streams)
    for k in range(short.requests):
        found = [value(short, streams, [*chosen[:k], plan, *chosen[k + 1 :]])[k] for plan in range(len(short.plans))]
        # Among plans that differ by less than the price of busy stations, the one that leaves them free sooner.
        assert found[chosen[k]] >= max(found) - oracle.TIE_PER_S


def test_all_the_future_is_worth_at_least_one_step_of_it(short):
    for seed in EPISODES:
        streams = draw(short, seed)
        assert (
            value(short, streams, oracle.clairvoyant(short, streams, 8)).sum()
            >= value(short, streams, oracle.one_step(short, streams)).sum() - 1e-9
        )


def test_planned_policies_do_what_was_planned(small):
    result = evaluate.evaluate(small, oracle.ORACLES["clairvoyant"](small), EPISODES)
    for i, episode in enumerate(EPISODES):
        np.testing.assert_array_equal(result.plans[i], oracle.clairvoyant(small, draw(small, episode)))


# --- the lagged oracle


def lagged_plans(scenario, streams, told):
    """Plans in `streams` of an oracle that is told the link of `told`."""
    policy = oracle.ORACLES["oracle-lagged"](scenario)
    policy.foresee(told)
    policy.begin()
    world, plans = Simulation(scenario, streams), []
    while not world.done:
        plans.append(policy.act(world))
        world.decide(plans[-1])
    return plans


def test_on_a_constant_link_it_is_the_rule_that_knows_the_rate(small):
    world = dataclasses.replace(small, channel=Constant(20e6))
    streams = draw(world, 3)
    greedy = rules.Greedy(world.plans, world.path, world.objective)
    seen, expected = Simulation(world, streams), []
    while not seen.done:
        now = dataclasses.replace(rules.estimate(seen.readings, seen.now_s, seen.acked_bytes()), rate_bps=20e6)
        expected.append(greedy.best(now, seen.deadline_s)[0])
        seen.decide(expected[-1])
    assert lagged_plans(world, streams, streams) == expected
    assert len(set(expected)) > 1


@pytest.mark.parametrize("request_", [1, 10, 30])
def test_it_is_told_nothing_younger_than_the_request_before_and_a_round_trip(request_):
    world = dataclasses.replace(scenarios.make("urllc-ge"), requests=50)
    streams = draw(world, 4)
    known_s = min(float(streams.arrival_s[request_ - 1]), float(streams.arrival_s[request_]) - world.path.rtt_s)
    first, rate = streams.slot(max(0.0, known_s)) + 1, streams.rate_bps.copy()
    rate[first:] = np.where(rate[first:] > 10e6, 1e4, 1e9)
    other = dataclasses.replace(streams, rate_bps=rate)
    one, two = (lagged_plans(world, streams, told) for told in (streams, other))
    assert one[: request_ + 1] == two[: request_ + 1]
    assert one != two, "what is told matters"


def test_requests_are_judged_by_their_own_deadlines(small):
    world = dataclasses.replace(small, deadlines=ChosenDeadlines((0.02, 0.2)))
    result = evaluate.evaluate(world, baselines.Fixed(small.plans.device_only()), EPISODES)
    due = np.array([deadlines(world, draw(world, episode)) for episode in EPISODES])
    np.testing.assert_array_equal(result.late, result.latency_s > due)
    assert 0 < result.late.mean() < 1
    np.testing.assert_allclose(result.reward, np.where(result.late, -1.0, result.accuracy))

"""ANS: learns what a ridge regression over all answers says, from what transfers really took, and then stops losing."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cutlayer.agents import baselines
from cutlayer.agents.baselines.bandit import FORCED_POWER, HORIZON, KEPT, Ans, Linear
from cutlayer.agents.evaluate import evaluate
from cutlayer.envs import scenarios
from cutlayer.envs.channels import Constant
from cutlayer.envs.record import Status
from cutlayer.envs.simulation import Simulation
from cutlayer.envs.streams import draw

ANSWERS = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 5)), min_size=1, max_size=30)


@settings(max_examples=50)
@given(ANSWERS, st.sampled_from(KEPT))
def test_the_estimate_is_a_ridge_regression_in_which_old_answers_count_less(answers, kept):
    model = Linear(3, kept)
    for a, b, y in answers:
        model.learn(np.array([a, b, 1.0]), y)
    x = np.array([[a, b, 1.0] for a, b, _ in answers])
    y = np.array([y for _, _, y in answers])
    weights = kept ** np.arange(len(answers) - 1, -1, -1)
    matrix = np.eye(3) + sum(weight * np.outer(row, row) for weight, row in zip(weights, x, strict=True))
    theta = np.linalg.solve(matrix, sum(weight * row * value for weight, row, value in zip(weights, x, y, strict=True)))
    probe = np.array([[0.3, 0.7, 1.0], [0.0, 0.0, 1.0]])
    np.testing.assert_allclose(model.mean(probe), probe @ theta, atol=1e-8)
    np.testing.assert_allclose(model.width(probe), [math.sqrt(row @ np.linalg.solve(matrix, row)) for row in probe], atol=1e-8)


def still(rate_bps, requests=200):
    """A world whose delays are linear and without noise: one request at a time, a constant link, an idle edge."""
    return dataclasses.replace(scenarios.make("paper-linear"), channel=Constant(rate_bps), requests=requests)


def regrets(rate_bps, alpha, episodes):
    """What each episode of such a world loses against its best plan, a request."""
    world = still(rate_bps)
    best = baselines.best_static(world, range(2))
    assert world.plans.offloads[best.plan], "else it would be forced off the best plan"
    return evaluate(world, best, range(1)).reward.mean() - evaluate(world, Ans(world, 1.0, alpha, 1.0), range(episodes)).reward.mean(axis=1)


@pytest.mark.parametrize("rate_bps", [60e6, 200e6])
def test_where_delays_are_linear_and_free_of_noise_its_regret_stops_growing(rate_bps):
    first, *later = regrets(rate_bps, 0.0, 5)
    assert first > 0
    np.testing.assert_allclose(later, 0.0, atol=1e-9)


@pytest.mark.parametrize(("rate_bps", "alpha"), [(60e6, 0.5), (200e6, 0.1)])
def test_optimism_costs_less_and_less(rate_bps, alpha):
    lost = regrets(rate_bps, alpha, 30)
    assert lost[0] > 0
    assert lost[-5:].mean() < 0.5 * lost[:5].mean()


def test_what_it_learns_from_is_what_the_transfers_took():
    world = dataclasses.replace(still(20e6, requests=60), objective=scenarios.make("camera").objective)
    rule, heard = Ans(world, 1.0, 0.1, 1.0), []
    rule.model.learn = lambda x, y: heard.append((*x, y))
    records, simulation, rng = [], Simulation(world, draw(world, 2)), np.random.default_rng(7)
    sends = np.flatnonzero(world.plans.offloads)
    while not simulation.done:
        if simulation.plans.offloads[rule.act(simulation)]:
            rule._pending.pop()
        # It is made to believe that it chose any plan that sends, so that all kinds are heard of.
        rule._pending.append(int(rng.choice(sends)))
        records.append(simulation.decide(rule._pending[-1]))
    rule.act(simulation)
    done = [record for record in records if record.status is Status.EDGE]
    assert len(heard) == len(records)
    assert len(done) > 30
    plans, unit_s = world.plans, world.objective.deadline_s
    most_bytes, most_s = plans.wire_bytes.max(), (plans.edge_s + plans.decode_s).max()
    for record, (size, work, one, delay) in zip(records, heard, strict=True):
        row = plans.rows[record.plan]
        assert (size, work, one) == pytest.approx((row.wire_bytes / most_bytes, (row.edge_s + row.decode_s) / most_s, 1.0))
        if record.status is Status.EDGE:
            assert delay == pytest.approx((record.finish_s - record.send_start_s) / unit_s, rel=1e-6)
        else:
            whole_s = (record.send_end_s - record.send_start_s) * row.wire_bytes / record.sent_bytes
            assert delay == pytest.approx(min(world.objective.timeout_deadlines, whole_s / unit_s), rel=1e-6)


def test_where_sending_never_pays_it_sends_when_it_is_forced_to():
    world = still(1e5, requests=450)
    rule = Ans(world, 1.0, 0.0, 1.0)
    plans = evaluate(world, rule, range(1)).plans[0]
    forced, horizon = [], HORIZON
    for request in range(1, world.requests + 1):
        if request > horizon:
            horizon *= 2
        forced.append(request % math.ceil(horizon**FORCED_POWER) == 0)
    sent = world.plans.offloads[plans]
    assert sent[np.array(forced)].all()
    assert sent[20:][~np.array(forced)[20:]].mean() < 0.02, "once it knows the link"


def test_it_goes_on_learning_through_the_episodes():
    world = still(60e6, requests=30)
    rule = Ans(world, 1.0, 0.1, 1.0)
    first = evaluate(world, rule, range(1)).reward.mean()
    theta = rule.model.theta.copy()
    rule.begin()
    np.testing.assert_array_equal(rule.model.theta, theta)
    assert evaluate(world, rule, range(1)).reward.mean() > first

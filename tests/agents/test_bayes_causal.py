"""The planner: its rule is the tuned one, its futures have the right law, and it mends a rule that looks no further than one request."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from msgspec.structs import replace

from cutlayer.agents.bayes import causal, rollouts
from cutlayer.agents.bayes.compiled import Compiled
from cutlayer.agents.episodes import TUNING, VALIDATION
from cutlayer.envs import scenarios
from cutlayer.envs.batch import Bank
from cutlayer.envs.channels import GilbertElliott
from cutlayer.errors import ConfigError
from cutlayer.runtime import filters
from cutlayer.runtime.priced import Prices

EPISODES = VALIDATION[:2]


@pytest.fixture(scope="module")
def scenario():
    return dataclasses.replace(scenarios.make("urllc-ge"), channel=GilbertElliott(60e6, 8e6, 2.0, 0.7), requests=100)


@pytest.fixture(scope="module")
def planner(scenario):
    return causal.Planner(scenario, EPISODES)


def test_without_samples_it_is_the_priced_rule(scenario, planner):
    parameters = replace(planner.parameters, prices=Prices(device_s=5.0, backlog=0.5, safety=0.02))
    played = Compiled(scenario, Bank.draw(scenario, EPISODES))
    rewards = played.play(parameters)
    np.testing.assert_array_equal(planner.play(parameters), rewards)
    np.testing.assert_array_equal(planner.result().plans, played.plans)
    np.testing.assert_allclose(planner.result().reward.mean(axis=1), rewards, rtol=1e-12)


def test_rollouts_mend_a_rule_without_prices_and_repeat_themselves():
    """In a burst, without prices, each request takes what is best for it alone, and those after it wait."""
    scenario = dataclasses.replace(scenarios.make("bursty-deadline"), requests=100)
    planner = causal.Planner(scenario, EPISODES)
    alone = planner.play(planner.parameters).mean()
    planned = planner.play(planner.parameters, samples=16, horizon=3, seed=1)
    plans = planner.result().plans.copy()
    assert planned.mean() > alone + 0.1
    one = planner.play(planner.parameters, samples=16, horizon=3, seed=1, episodes=np.array([1]))
    np.testing.assert_array_equal(planner.result().plans[1], plans[1])
    np.testing.assert_array_equal(one, planned[1:])


def test_who_is_told_the_link_earns_more(planner):
    parameters = replace(planner.parameters, prices=Prices(device_s=5.0))
    assert planner.play(parameters, told=True).mean() > planner.play(parameters).mean()


def test_prices_are_tuned_on_top_of_the_exact_model(scenario):
    found = causal.priced(scenario, 0, trials=12, episodes=TUNING[:4])
    assert found.link == causal.exact(scenario).link
    planner = causal.Planner(scenario, TUNING[:4])
    assert planner.play(found).mean() >= planner.play(planner.parameters).mean()


# --- what it samples


def believed(numbers, **entries):
    state = np.array(filters.fresh(numbers))
    for name, value in entries.items():
        state[getattr(filters, name)] = value
    return state


def test_sampled_links_go_on_from_what_is_believed():
    """A drift of mean 0.5 and deviation 0.1 now; its mean and spread over time are those of the autoregression."""
    numbers = np.array(causal.exact(scenarios.make("bursty-deadline")).numbers(*_of("bursty-deadline")))
    state = believed(numbers, DRIFT=0.0)
    state[filters.DRIFT + 1], state[filters.COVARIANCE + 4] = 0.5, 0.01
    logs = []
    for _ in range(3000):
        rate, carried = np.empty((1, 20)), np.empty((1, 20))
        rollouts._sample_link(0.5, state, numbers, 0.0, 20, 0.02, rate, carried)
        np.testing.assert_allclose(np.diff(carried[0]), 0.02 * rate[0, :-1], rtol=1e-9)
        logs.append(np.log(8 * rate[0]) - numbers[filters.LOG_RATE])
    logs = np.array(logs)
    sd, forget = numbers[filters.SD + 1], numbers[filters.FORGET_PER_S + 1]
    keep = np.exp(-forget * 0.02 * np.arange(20))
    np.testing.assert_allclose(logs.mean(axis=0), 0.5 * keep, atol=0.03)
    np.testing.assert_allclose(logs.std(axis=0), np.sqrt(0.01 * keep**2 + sd**2 * (1 - keep**2)), atol=0.02)


def test_sampled_chains_go_on_from_what_is_believed(scenario):
    numbers = np.array(causal.exact(scenario).numbers(scenario.path, scenario.objective))
    state = believed(numbers, BLOCKED=0.3)
    blocked = []
    for draw in range(3000):
        rate, carried = np.empty((1, 12)), np.empty((1, 12))
        rollouts._sample_link((draw + 0.5) / 3000, state, numbers, 0.0, 12, 0.02, rate, carried)
        assert set(np.round(8 * rate[0])) <= {60e6, 8e6}
        blocked.append(8 * rate[0] < 10e6)
    share = numbers[filters.BLOCK] / (numbers[filters.BLOCK] + numbers[filters.UNBLOCK])
    kept = (1 - numbers[filters.BLOCK] - numbers[filters.UNBLOCK]) ** np.arange(12)
    np.testing.assert_allclose(np.mean(blocked, axis=0), share + (0.3 - share) * kept, atol=0.03)


def test_sampled_arrivals_come_as_the_process_says():
    """Mean gaps from calm and from a burst, by the first arrivals of the process itself."""
    scenario = scenarios.make("bursty-deadline")
    numbers = np.array(causal.exact(scenario).numbers(scenario.path, scenario.objective))
    rates, generator = np.array([5.0, 60.0]), np.array([[-1.0, 1.0], [2.0, -2.0]])
    mean_gap_s = np.linalg.solve(np.diag(rates) - generator, np.ones(2))  # from each state
    for burst in (0.0, 1.0):
        state, coming, first = believed(numbers, BURST=burst), np.empty(2), []
        for draw in range(2000):
            rollouts._sample_arrivals(0.5, (draw + 0.5) / 2000, state, numbers, 3.0, coming)
            assert 3.0 < coming[0] < coming[1]
            first.append(coming[0] - 3.0)
        assert np.mean(first) == pytest.approx(mean_gap_s[int(burst)], rel=0.08)


def _of(name):
    scenario = scenarios.make(name)
    return scenario.path, scenario.objective


# --- what it does not know


@pytest.mark.parametrize("name", ["hidden-load", "lte-uplink", "paper-linear", "compound", "battery-harvest"])
def test_other_laws_are_refused(name):
    with pytest.raises(ConfigError, match=f"no causal bound for {name}"):
        causal.exact(scenarios.make(name))


def test_the_laws_are_the_scenarios():
    for name in ("urllc-ge", "bursty-deadline"):
        scenario = scenarios.make(name)
        link = causal.exact(scenario).link
        rng = np.random.default_rng(0)
        rate = np.concatenate([scenario.channel.draw(rng, 20_000, scenario.slot_s) for _ in range(10)])
        if name == "urllc-ge":
            assert set(rate) == {link.median_bps, link.blocked_bps}
            assert (rate == link.blocked_bps).mean() == pytest.approx(link.block / (link.block + link.unblock), abs=0.03)
        else:
            log = np.log(rate / link.median_bps)
            assert log.std() == pytest.approx(link.sd[1], rel=0.05)
            lag = round(link.memory_s[1] / scenario.slot_s)
            assert np.corrcoef(log[:-lag], log[lag:])[0, 1] == pytest.approx(math.exp(-1), abs=0.05)

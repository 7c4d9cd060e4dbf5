"""Fitting finds what the streams were drawn with; tuning is repeatable and pays; the tuned rule is one in compiled code and on a device."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from msgspec.structs import replace

from cutlayer.agents import baselines, evaluate
from cutlayer.agents.bayes import fit, tuning
from cutlayer.agents.bayes.compiled import Compiled
from cutlayer.agents.episodes import TUNING, VALIDATION
from cutlayer.envs import scenarios
from cutlayer.envs.batch import Bank
from cutlayer.envs.channels import Cellular, Constant, GilbertElliott, Trace
from cutlayer.envs.simulation import Simulation
from cutlayer.envs.streams import Streams, draw
from cutlayer.envs.workload import Bursty, EdgeStream, Periodic, Poisson, SlowDown
from cutlayer.runtime.filters import Aging
from cutlayer.runtime.priced import Priced, Prices

KINDS = ("belief-greedy", "bayes-greedy")
FEW = TUNING[:8]


def rates(channel, slots=4000, episodes=20):
    return [channel.draw(np.random.default_rng(seed), slots, 0.02) for seed in range(episodes)]


# --- fitting


def test_a_link_of_two_levels_is_fitted_as_such():
    link = fit.link_of(rates(GilbertElliott(60e6, 3e6, 2.0, 0.7)), 0.02)
    assert link.median_bps == pytest.approx(60e6, rel=1e-9)
    assert link.blocked_bps == pytest.approx(3e6, rel=1e-9)
    assert link.sd == (0.0, 0.0, 0.0)
    assert link.block == pytest.approx(0.01, rel=0.15)
    assert link.unblock == pytest.approx(0.02 / 0.7, rel=0.15)


def test_a_drifting_link_with_outages_is_fitted_as_such():
    link = fit.link_of(rates(Cellular(5e6, 0.6, 0.9, 0.1, 0.4)), 0.02)
    assert link.median_bps == pytest.approx(5e6, rel=0.15)
    assert np.square(link.sd).sum() == pytest.approx(0.36, rel=0.2)
    lag_s = np.array([0.1, 0.5, 1.0])
    found = sum(sd**2 * np.exp(-lag_s / memory_s) for sd, memory_s in zip(link.sd, link.memory_s, strict=True))
    np.testing.assert_allclose(found, 0.36 * np.exp(-lag_s / 0.9), atol=0.04)
    assert link.block / (link.block + link.unblock) == pytest.approx(0.1, abs=0.03)
    assert link.unblock == pytest.approx(0.05, rel=0.2)


def test_drives_that_differ_are_told_from_drift_within_one():
    link = fit.link_of(rates(Cellular(5e6, 0.3, 0.5, drive_spread=0.8), slots=1500, episodes=40), 0.02)
    assert link.sd[0] == pytest.approx(0.8, rel=0.3)
    assert np.square(link.sd[1:]).sum() == pytest.approx(0.09, rel=0.5)
    assert link.block == 0.0


def test_a_steady_link_is_certain():
    link = fit.link_of(rates(Constant(7e6)), 0.02)
    assert (link.sd, link.block, link.median_bps) == ((0.0, 0.0, 0.0), 0.0, pytest.approx(7e6))


def test_a_trace_with_few_samples_jumps():
    """A new value every second, held in between, against one every slot."""
    drift = [np.exp(Cellular(1.0, 0.5, 8.0).draw(np.random.default_rng(seed), 100, 1.0)) * 5e6 for seed in range(20)]
    assert fit.link_of([np.repeat(one, 50) for one in drift], 0.02).jump_per_s == pytest.approx(1.0, abs=0.05)
    assert fit.link_of(rates(Cellular(5e6, 0.5, 8.0)), 0.02).jump_per_s == 0.0


def test_what_other_drives_are_like_is_not_known_from_one():
    scenario = scenarios.make("lte-uplink")
    trace = Trace(("a",), (np.arange(0.0, 60.0, 0.1),), (np.full(600, 3e6),))
    assert fit.parameters(scenario, FEW).link.sd[0] < fit.DRIVE_SD
    assert fit.parameters(dataclasses.replace(scenario, channel=trace), FEW).link.sd[0] == fit.DRIVE_SD


@pytest.mark.parametrize(
    ("arrivals", "bursty"), [(Bursty((5.0, 60.0), (1.0, 0.5)), True), (Poisson(10.0), False), (Periodic(0.1, 0.1), False)]
)
def test_bursts_are_fitted_where_there_are_any(arrivals, bursty):
    found = fit.arrivals_of([np.diff(arrivals.draw(np.random.default_rng(seed), 201)) for seed in range(40)])
    if bursty:
        assert (found.calm_per_s, found.burst_per_s) == (pytest.approx(5.0, rel=0.2), pytest.approx(60.0, rel=0.1))
        assert (found.calm_s, found.burst_s) == (pytest.approx(1.0, rel=0.3), pytest.approx(0.5, rel=0.3))
    else:
        assert found.calm_per_s == found.burst_per_s == pytest.approx(10.0, rel=0.05)


def test_slow_down_and_waits_are_fitted():
    scenario = dataclasses.replace(
        scenarios.make("hidden-load"),
        slow_down=SlowDown(3.0, 0.4, 2.0),
        edge_jobs=EdgeStream(Poisson(100.0), 0.005),
        requests=400,
    )
    drawn = [draw(scenario, episode) for episode in range(20)]
    device = fit.device_of(scenario, drawn)
    assert (device.calm, device.busy) == (pytest.approx(1.0), pytest.approx(3.0))
    assert device.busy_share == pytest.approx(0.4, abs=0.1)
    assert device.memory_s == pytest.approx(1.2, rel=0.3), "two states that last 2 s and 3 s forget in 1 / (1/2 + 1/3)"
    # M/M/1 at half load: nobody waits half of the time, else for 1 / (service rate - arrival rate) = 10 ms on average.
    low, middle, high = fit.edge_of(scenario, drawn).waits_s
    assert low == 0.0
    assert middle == pytest.approx(0.0, abs=1.5e-3)
    assert high == pytest.approx(0.01 * np.log(3.0), rel=0.35)


# --- tuning


def test_the_search_finds_the_top_of_a_hill_and_repeats_itself():
    axes = {"x": tuning.Axis(1.0, 100.0, 0.9), "y": tuning.Axis(0.1, 10.0, 0.9, price=True)}
    played = []

    def play(point, episodes):
        played.append(len(episodes))
        return -((np.log(point["x"] / 10.0)) ** 2) - point["y"] + 0.01 * np.sin(episodes)

    found, most = tuning.search(play, 40, axes, 1, 120)
    assert found["x"] == pytest.approx(10.0, rel=0.1)
    assert found["y"] == 0.0
    assert most == pytest.approx(-((np.log(found["x"] / 10.0)) ** 2), abs=0.01)
    assert sum(played) < 0.6 * 120 * 40, "what is clearly behind plays no more"
    assert tuning.search(play, 40, axes, 1, 120) == (found, most)
    assert tuning.search(play, 40, axes, 2, 120)[0] != found


def two_levels():
    """A link whose worse level still carries a small tensor in time: what it is now can be found out without a miss."""
    return dataclasses.replace(scenarios.make("urllc-ge"), channel=GilbertElliott(60e6, 8e6, 2.0, 0.7))


@pytest.fixture(scope="module", params=["two levels", "bursty-deadline"])
def tuned(request):
    """A scenario and both rules, tuned on a few of its tuning episodes with a small budget."""
    scenario = two_levels() if request.param == "two levels" else scenarios.make(request.param)
    return scenario, {kind: tuning.tuned(scenario, 0, kind, 40, FEW) for kind in KINDS}


def test_tuned_rules_beat_the_best_single_plan_and_neurosurgeon_where_they_were_tuned(tuned):
    scenario, rules = tuned
    rivals = (baselines.best_static(scenario, FEW), baselines.greedy_ewma(scenario))
    best = max(float(evaluate.evaluate(scenario, rival, FEW).reward.mean()) for rival in rivals)
    assert all(rule.tuning_reward > best + 0.03 for rule in rules.values())


@pytest.mark.parametrize("kind", KINDS)
def test_compiled_and_on_a_view_it_takes_the_same_plans(tuned, kind):
    scenario, rules = tuned
    played = Compiled(scenario, Bank.draw(scenario, VALIDATION[:3]))
    rewards = played.play(rules[kind].parameters)
    result = evaluate.evaluate(scenario, rules[kind], VALIDATION[:3])
    np.testing.assert_array_equal(played.plans, result.plans)
    np.testing.assert_allclose(played.latency_s, result.latency_s, rtol=1e-12)
    np.testing.assert_allclose(rewards, result.reward.mean(axis=1), rtol=1e-12)
    assert len(np.unique(result.plans)) > 2


@pytest.mark.slow  # a world with more than link, device and edge is compiled apart
def test_with_everything_switched_on_it_takes_the_same_plans_too():
    scenario = dataclasses.replace(scenarios.make("compound"), requests=60)
    fitted = fit.parameters(scenario, FEW)
    for aging in (None, Aging(5e6, 1.0, 0.3, 0.3, 0.1, 0.1)):
        parameters = replace(fitted, aging=aging, prices=Prices(1.0, 0.5, 0.5, 1e-6, 0.1, 0.0, 0.05, 0.02, 1.1))
        played = Compiled(scenario, Bank.draw(scenario, VALIDATION[:2]))
        played.play(parameters)
        rule = tuning.Tuned(parameters, 0.0, Priced(scenario.plans, scenario.path, scenario.objective, parameters))
        np.testing.assert_array_equal(played.plans, evaluate.evaluate(scenario, rule, VALIDATION[:2]).plans)


def test_a_seed_gives_the_same_rule_again_and_another_seed_another(tuned):
    scenario, rules = tuned
    tuning._CACHE.clear()
    again = tuning.tuned(scenario, 0, "belief-greedy", 40, FEW)
    assert again.parameters == rules["belief-greedy"].parameters
    assert tuning.tuned(scenario, 1, "belief-greedy", 40, FEW).parameters != again.parameters


def test_it_is_found_once_in_a_process(tuned, monkeypatch):
    scenario, _ = tuned
    first = tuning.tuned(scenario, 0, "belief-greedy", 40, FEW)
    monkeypatch.setattr(tuning, "search", None)
    second = tuning.tuned(scenario, 0, "belief-greedy", 40, FEW)
    assert second.parameters == first.parameters
    assert second.rule is not first.rule, "each policy has a memory of its own"
    with pytest.raises(TypeError, match="not callable"):
        tuning.tuned(dataclasses.replace(scenario, cancel_margin_s=0.03), 0, "belief-greedy", 40, FEW)


@pytest.mark.parametrize("kind", KINDS)
def test_what_comes_later_changes_no_earlier_plan(tuned, kind):
    """The streams after a moment replaced by those of another episode: slots and requests from then on."""
    scenario, rules = tuned
    past, future = (draw(scenario, episode) for episode in VALIDATION[:2])
    k = 120
    now_s = float(past.arrival_s[k])
    kept = past.slot(now_s) + 1
    other = Streams(
        past.slot_s,
        np.concatenate([past.arrival_s[: k + 1], now_s + np.cumsum(np.diff(future.arrival_s)[k:])]),
        np.concatenate([past.rate_bps[:kept], np.resize(future.rate_bps, len(past.rate_bps))[kept:]]),
        past.slow_down,
        past.job_arrival_s,
        past.job_service_s,
    )
    plans = []
    for streams in (past, other):
        world, rule = Simulation(scenario, streams), rules[kind]
        rule.begin()
        plans.append([world.decide(rule.act(world)).plan for _ in range(scenario.requests)])
    assert plans[0][: k + 1] == plans[1][: k + 1]

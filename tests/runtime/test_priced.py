"""The priced rule: Neurosurgeon's where the belief is certain, the simulator's mean where it is not, and what prices do."""

from __future__ import annotations

import dataclasses
import math

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace

from cutlayer.envs import scenarios
from cutlayer.envs.channels import Cellular, GilbertElliott
from cutlayer.envs.simulation import Simulation
from cutlayer.envs.streams import draw
from cutlayer.profiles.cost import Path, deadline, energy, expected_latency_s, linear
from cutlayer.runtime import filters
from cutlayer.runtime import telemetry as tm
from cutlayer.runtime.filters import Aging, Link
from cutlayer.runtime.priced import Device, Edge, Loads, Parameters, Priced, Prices, delivered, sending
from cutlayer.runtime.rules import Greedy, estimate

NEVER_S = 1e12  # a memory that never fades
LINK = Link(5e6, (0.0, 0.6, 0.0), (1.0, 0.9, 1.0), 0.02, 0.02, 0.06, tm.SLOWEST_BPS, 0.5, 0.02)
SURE = Parameters(
    LINK,
    100.0,  # never given up: Neurosurgeon's rule waits for ever
    device=Device(1.0, 2.0, 0.3, NEVER_S),
    edge=Edge((0.0, 0.001, 0.002), NEVER_S),
    aging=Aging(1e6, NEVER_S),
)


def told(rng, *, queue):
    """Readings of a device that measured everything a moment ago."""
    readings, now_s = tm.fresh(), 10.0
    tm.sampled(readings, now_s, 0.1, 10 ** rng.uniform(2, 7))
    tm.device_ended(readings, now_s, 0.01, 0.01 * rng.uniform(1, 4))
    tm.edge_waited(readings, now_s, rng.uniform(0, 0.02))
    tm.arrived(readings, now_s)
    tm.decided(readings, rng.uniform(0, 0.03), rng.uniform(0, 1e4) if queue else 0.0)
    return readings, now_s


@pytest.mark.parametrize("objective", [deadline(0.1), deadline(0.06, 3.0), linear(0.1), energy(0.1)])
@pytest.mark.parametrize("queue", [False, True])
def test_without_prices_and_doubts_it_is_the_greedy_rule(plans, objective, queue):
    """With a queue the round trip is 0: the filter knows that what is acknowledged is half of it old, the greedy rule does not."""
    rng = np.random.default_rng(3)
    path = Path(rtt_s=0.0 if queue else 0.02)
    rule, greedy = Priced(plans, path, objective, SURE), Greedy(plans, path, objective)
    for _ in range(100):
        readings, now_s = told(rng, queue=queue)
        now = estimate(readings, now_s, 0.0)
        rule.begin()  # what it chose before is not in these readings
        plan, latency_s, reward = rule.choose(readings, now_s, 0.0)
        assert plan == greedy.choose(now)[0]
        assert latency_s == pytest.approx(expected_latency_s(plans, path, now)[plan], abs=1e-9)
        _, best_latency_s = greedy.choose(now)
        worth = objective.reward(np.array(best_latency_s), plans.accuracy[plan], plans.device_j[plan])
        assert reward <= worth + 1e-9, "the energy of sending is all that may be missing"


def calibration(scenario, parameters, episodes, seed=0, told_s=None):
    """Expected and earned reward of random plans, request by request."""
    rng, found = np.random.default_rng(seed), []
    rule = Priced(scenario.plans, scenario.path, scenario.objective, parameters)
    for episode in episodes:
        world = Simulation(scenario, draw(scenario, episode))
        rule.begin()
        while not world.done:
            rule.choose(world.readings, world.now_s, world.acked_bytes())
            expected = rule._worth.copy()
            # Mostly plans that are in doubt: those whose worth is neither that of success nor that of failure.
            doubt = np.abs(expected - scenario.plans.accuracy) > 0.01
            doubt &= np.abs(expected + scenario.objective.late_penalty) > 0.01
            choice = rng.choice(np.flatnonzero(doubt)) if doubt.any() and rng.uniform() < 0.8 else rng.integers(len(scenario.plans))
            record = world.decide(int(choice))
            columns = (np.array(x) for x in (record.latency_s, record.accuracy, record.energy_j))
            found.append((expected[choice], float(scenario.objective.reward(*columns)), scenario.plans.offloads[choice]))
    return np.array(found)


def assert_calibrated(found, grain):
    """In every fifth of what is expected, the mean earned is the mean expected: within four standard errors of it and a grain."""
    found = found[found[:, 2] > 0]
    for part in np.array_split(found[np.argsort(found[:, 0])], 5):
        expected, earned = part[:, 0].mean(), part[:, 1].mean()
        # Of a reward that is an accuracy of 0.88 at most, or minus three.
        spread = math.sqrt(max(0.0, (0.88 - expected) * (expected + 3.0)))
        assert abs(earned - expected) < grain + 4.0 * spread / math.sqrt(len(part)), (expected, earned)


def test_what_it_expects_on_a_link_of_two_levels_is_what_the_simulator_pays():
    scenario = dataclasses.replace(scenarios.make("urllc-ge"), objective=deadline(0.04, 3.0), requests=100)
    channel = scenario.channel
    assert isinstance(channel, GilbertElliott)
    share = channel.bad_s / (channel.good_s + channel.bad_s)
    unblock = 0.02 / channel.bad_s
    link = Link(
        channel.good_bps, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 0.02, unblock * share / (1 - share), unblock, channel.bad_bps, 0.02, 0.02,
    )  # fmt: skip
    assert_calibrated(calibration(scenario, Parameters(link, scenario.cancel_margin_s), range(6)), 0.04)


def test_what_it_expects_with_outages_drift_and_a_co_tenant_is_what_the_simulator_pays():
    """Outages, a log-normal rate, a slow-down: all hidden, all at once."""
    scenario = dataclasses.replace(scenarios.make("lte-uplink"), requests=100)
    scenario = dataclasses.replace(scenario, channel=Cellular(4e6, 0.6, 0.9, 0.1, 0.4))
    link = Link(4e6, (0.0, 0.6, 0.0), (1.0, 0.9, 1.0), 0.02, 0.02 / 0.4 * 0.1 / 0.9, 0.02 / 0.4, tm.SLOWEST_BPS, 0.02)
    slow = scenario.slow_down
    memory_s = slow.busy_s * (1.0 - slow.busy_share)
    parameters = Parameters(link, scenario.cancel_margin_s, device=Device(1.0, slow.factor, slow.busy_share, memory_s))
    assert_calibrated(calibration(scenario, parameters, range(6)), 0.08)


def test_a_price_of_device_time_leaves_the_device_less_to_do():
    scenario = scenarios.make("bursty-deadline")
    rng = np.random.default_rng(5)
    for _ in range(20):
        readings, now_s = told(rng, queue=True)
        work = []
        for price in (0.0, 0.5, 2.0, 8.0, 32.0):
            parameters = Parameters(LINK, 0.02, prices=Prices(device_s=price))
            plan = Priced(scenario.plans, scenario.path, scenario.objective, parameters).choose(readings, now_s, 0.0)[0]
            work.append(scenario.plans.device_s[plan] + scenario.plans.encode_s[plan])
        assert work == sorted(work, reverse=True)


def test_a_price_of_bytes_sends_less_and_backlog_makes_the_device_dearer():
    scenario = scenarios.make("bursty-deadline")
    rng = np.random.default_rng(6)
    for _ in range(20):
        readings, now_s = told(rng, queue=False)

        def plan(readings=readings, now_s=now_s, **prices):
            parameters = Parameters(LINK, 0.02, prices=Prices(**prices))
            return Priced(scenario.plans, scenario.path, scenario.objective, parameters).choose(readings, now_s, 0.0)[0]

        sent = [scenario.plans.wire_bytes[plan(byte=price)] for price in (0.0, 1e-6, 1e-5, 1e-4)]
        assert sent == sorted(sent, reverse=True)
        work = [scenario.plans.device_s[plan(device_s=1.0, backlog=price)] for price in (0.0, 3.0, 30.0)]
        assert work == sorted(work, reverse=True)


def test_its_own_deadline_counts_where_a_request_has_one(plans):
    path, objective = Path(rtt_s=0.02), deadline(0.1)
    rule = Priced(plans, path, objective, Parameters(LINK, 0.02))
    readings = tm.fresh()
    tm.arrived(readings, 1.0)
    assert rule.choose(readings, 1.0, 0.0)[0] == 7, "52 ms are in time"
    tm.due(readings, 0.04)
    plan, latency_s, reward = rule.choose(readings, 1.0, 0.0)
    assert plan == 2
    assert latency_s == pytest.approx(0.011)
    assert reward == pytest.approx(plans.accuracy[2])


def test_what_has_to_be_loaded_first_takes_longer(plans):
    unit = tuple(-1 if not work else 1 for work in plans.device_s)
    loads = Loads(unit, tuple(0.2 if own >= 0 else 0.0 for own in unit))
    rule = Priced(plans, Path(rtt_s=0.02), deadline(0.1), Parameters(LINK, 0.02, loads=loads))
    readings = tm.fresh()
    tm.arrived(readings, 1.0)
    assert plans.device_s[rule.choose(readings, 1.0, 0.0)[0]] == 0.0
    tm.loads(readings, 1)
    assert rule.choose(readings, 1.0, 0.0)[0] == 7


def test_work_that_runs_for_too_long_is_in_the_slow_state(plans):
    parameters = Parameters(LINK, 0.02, device=Device(1.0, 3.0, 0.01, 2.0))
    rule = Priced(plans, Path(rtt_s=0.02), deadline(0.1), parameters)
    readings = tm.fresh()
    tm.decided(readings, 0.011, 0.0)
    tm.device_started(readings, 1.0, 0.011)
    tm.arrived(readings, 1.005)
    assert rule.choose(readings, 1.005, 0.0)[0] == 7, "52 ms, and 6 are left of the other"
    assert rule.choose(readings, 1.02, 0.0)[0] == 2, "it should have ended at 1.011: all takes three times as long"


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf])
def test_a_broken_reading_does_not_keep_it_from_deciding(plans, broken):
    rule = Priced(plans, Path(rtt_s=0.02), deadline(0.1), Parameters(LINK, 0.02))
    for place in range(tm.SIZE):
        readings = tm.fresh()
        tm.arrived(readings, 1.0)
        readings[place] = broken
        plan, latency_s, reward = rule.choose(readings, 1.0, 0.0)
        assert 0 <= plan < len(plans)
        assert math.isfinite(latency_s)
        assert math.isfinite(reward)
    assert math.isfinite(rule.choose(tm.fresh(), 2.0, broken)[2])


def test_it_forgets_when_it_begins_again(plans):
    never_blocked = Link(5e6, (0.0, 0.6, 0.0), (1.0, 0.9, 1.0))
    rule = Priced(plans, Path(rtt_s=0.02), deadline(0.045), Parameters(never_blocked, 0.02))
    readings = tm.fresh()
    tm.arrived(readings, 1.0)
    first = rule.choose(readings, 1.0, 0.0)
    tm.sampled(readings, 1.1, 0.1, 1e6)
    tm.arrived(readings, 1.2)
    assert rule.choose(readings, 1.2, 0.0) != first
    rule.begin()
    readings = tm.fresh()
    tm.arrived(readings, 1.0)
    assert rule.choose(readings, 1.0, 0.0) == first


def test_parameters_travel_as_json():
    everything = replace(SURE, loads=Loads((0, -1), (0.1, 0.0)), prices=Prices(device_s=1.0, safety=0.1))
    data = msgspec.json.encode(everything)
    assert msgspec.json.decode(data, type=Parameters) == everything
    with pytest.raises(msgspec.ValidationError, match="unknown field"):
        msgspec.json.decode(data.replace(b'"prices"', b'"costs"'), type=Parameters)


def test_what_is_still_on_the_device_is_not_sent_before_it_is_ready():
    """A certain link of 1 Mb/s, and a transfer of 5 kB behind 30 ms of work: ours waits for both, although the link is idle now."""
    link = Link(1e6, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    scenario = scenarios.make("camera")
    rule = Priced(scenario.plans, Path(rtt_s=0.0), deadline(0.1), Parameters(link, 0.02))
    readings = tm.fresh()
    tm.arrived(readings, 1.0)
    tm.decided(readings, 0.03, 5000.0)
    rule.begin()
    rule._state[filters.LAST_BYTES] = 5000.0
    rule.choose(readings, 1.0, 0.0)
    chance = [float(delivered(0.03, 1.03, 1.03 + end_s, 1000.0, rule._moment, rule._ahead)) for end_s in (0.047, 0.049)]
    assert chance == [pytest.approx(0.0, abs=1e-6), pytest.approx(1.0, abs=1e-6)], "48 ms for 6 kB, from 30 ms on"
    end_s, air_s = sending(0.03, 1.03, 1000.0, rule._moment, rule._ahead)
    assert (float(end_s), float(air_s)) == (pytest.approx(1.078), pytest.approx(0.008))

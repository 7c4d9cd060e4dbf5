"""The greedy rule where its answer is known."""

from __future__ import annotations

import dataclasses

import msgspec
import numpy as np
import pytest

from cutlayer.profiles.cost import Estimate, Path, deadline, energy, expected_latency_s, linear
from cutlayer.profiles.plans import PlanTable
from cutlayer.runtime import rules
from cutlayer.runtime import telemetry as tm
from cutlayer.runtime.rules import Greedy, estimate

PATH = Path(rtt_s=0.02)
RAW, CUT, LATE_CUT, LOCAL = 3, 5, 6, 7  # plans of the small table that end at exit 1
SHALLOW = 2  # device-only at exit 0


@pytest.fixture
def choose(plans):
    def run(now, objective=deadline(0.1), table=plans):  # noqa: B008 - a frozen value
        return Greedy(table, PATH, objective).choose(now)[0]

    return run


@pytest.mark.parametrize("objective", [deadline(0.1), linear(0.1), energy(0.1)])
@pytest.mark.parametrize("rate_bps", [tm.SLOWEST_BPS, 1.0, 1e-6])
def test_without_a_link_the_device_answers(choose, plans, rate_bps, objective):
    for slow_down in (1.0, 3.0, 50.0):
        assert not plans.offloads[choose(Estimate(rate_bps, slow_down), objective)]


def test_without_a_link_the_deepest_exit_in_time_answers(choose):
    assert choose(Estimate(1.0)) == LOCAL  # 52 ms
    assert choose(Estimate(1.0, slow_down=3.0)) == SHALLOW  # 33 ms; the deep one takes 156


def test_with_a_fast_link_and_edge_a_slow_device_offloads(choose):
    assert choose(Estimate(1e9, slow_down=3.0)) == RAW
    assert choose(Estimate(1e9), linear(0.1)) == RAW
    assert choose(Estimate(1e9), energy(0.1)) == RAW


def test_between_the_two_the_network_is_split(choose):
    # 3318 bytes take 99.5 ms, 626 bytes 18.8: only the tensor comes in time, and the device alone does not.
    now = Estimate(8 * 3318 / 0.0995, slow_down=2.0)
    assert choose(now) == CUT


def test_a_busy_edge_and_a_full_link_keep_it_local(choose, plans):
    free = Estimate(1e9, slow_down=3.0)
    assert choose(dataclasses.replace(free, edge_wait_s=0.2)) == SHALLOW
    assert choose(dataclasses.replace(free, queued_bytes=1e9 * 0.2 / 8)) == SHALLOW
    # The device's own backlog is in the way of every plan, of long ones the more.
    assert choose(dataclasses.replace(free, backlog_s=0.02)) == RAW


def only(table, *indices, **changes):
    rows = tuple(msgspec.structs.replace(table.rows[i], **changes) for i in indices)
    return PlanTable(table.model, table.device, table.edge, table.depths, rows)


def test_ties_go_to_fewer_bytes(choose, plans):
    """All three are in time and equally accurate."""
    assert choose(Estimate(1e9)) == LOCAL
    for order in ((RAW, LATE_CUT), (LATE_CUT, RAW)):
        assert order[choose(Estimate(1e9), table=only(plans, *order))] == LATE_CUT


def test_then_to_less_energy_of_the_device(choose, plans):
    for order in ((RAW, LATE_CUT), (LATE_CUT, RAW)):
        assert order[choose(Estimate(1e9), table=only(plans, *order, wire_bytes=500))] == RAW


def test_it_tells_the_latency_that_it_expects(plans):
    now = Estimate(5e6, 2.0, 0.01, 1000.0, 0.003)
    plan, latency_s = Greedy(plans, PATH, deadline(0.1)).choose(now)
    assert latency_s == pytest.approx(expected_latency_s(plans, PATH, now)[plan])


def test_no_other_plan_is_worth_more(plans):
    rng = np.random.default_rng(0)
    for _ in range(100):
        now = Estimate(10 ** rng.uniform(4, 9), rng.uniform(1, 4), *rng.uniform(0, 0.02, 1), rng.uniform(0, 1e4), rng.uniform(0, 0.02))
        for objective in (deadline(0.1), linear(0.1), energy(0.1)):
            chosen, _ = Greedy(plans, PATH, objective).choose(now)
            latency = expected_latency_s(plans, PATH, now)
            joules = plans.device_j + 8 * plans.wire_bytes * (PATH.radio.base_w / now.rate_bps + PATH.radio.joules_per_bit)
            worth = objective.reward(latency, plans.accuracy, joules)
            assert worth[chosen] == pytest.approx(worth.max(), abs=1e-11)


# --- what it believes


def test_before_any_reading_it_believes_the_prior():
    assert estimate(tm.fresh(), 5.0, 0.0) == Estimate(rules.PRIOR_RATE_BPS, 1.0, 0.0, 0.0, 0.0)
    assert estimate(tm.fresh(), 5.0, 0.0, prior_bps=7e5).rate_bps == 7e5


def test_it_takes_the_readings_at_face_value():
    readings = tm.fresh()
    tm.decided(readings, 0.05, 9000.0)
    tm.device_ended(readings, 1.0, 0.02, 0.05)
    tm.device_started(readings, 1.0, 0.03)
    tm.sampled(readings, 1.5, 0.1, 50_000.0)
    tm.edge_waited(readings, 1.5, 0.007)
    now = estimate(readings, 1.01, 4000.0)
    assert (now.rate_bps, now.slow_down, now.edge_wait_s) == (pytest.approx(4e6), 2.5, 0.007)
    assert (now.backlog_s, now.queued_bytes) == (pytest.approx(0.02), 5000.0)
    assert estimate(readings, 1.01, 1e9).queued_bytes == 0.0


def test_an_outage_is_a_very_slow_link_not_none():
    readings = tm.fresh()
    tm.sampled(readings, 1.5, 0.1, 0.0)
    assert estimate(readings, 2.0, 0.0).rate_bps == tm.SLOWEST_BPS > 0

"""Readings: each event changes what it should, whichever kind of sequence holds them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cutlayer.runtime import features
from cutlayer.runtime import telemetry as tm


@pytest.fixture(params=[list, np.array], ids=["list", "array"])
def readings(request):
    """The daemon keeps them in a list, the compiled simulator in an array."""
    return request.param(tm.fresh())


def ring(readings):
    values = [float(value) for value in readings[tm.RING : tm.RING + 3 * tm.RING_LENGTH]]
    return [tuple(values[i : i + 3]) for i in range(0, len(values), 3)]


NOTHING = (tm.NEVER, tm.NEVER, tm.NEVER)


def test_a_fresh_device_has_seen_nothing(readings):
    counts = {tm.IN_FLIGHT, tm.BACKLOG_S, tm.RUNNING_S, tm.LOADING_S, tm.TO_SEND_BYTES, tm.SAMPLES}
    assert len(readings) == tm.SIZE
    for i, value in enumerate(readings):
        assert value == (0.0 if i in counts else tm.NEVER)
    assert tm.backlog_s(readings, 5.0) == 0.0


def test_reset_forgets_everything(readings):
    tm.arrived(readings, 1.0)
    tm.decided(readings, 0.1, 500.0)
    tm.device_started(readings, 1.0, 0.1)
    tm.sampled(readings, 2.0, 0.1, 1000.0)
    tm.edge_waited(readings, 2.0, 0.1)
    tm.reset(readings)
    assert list(readings) == tm.fresh()


def test_gaps_are_known_from_the_second_and_third_request_on(readings):
    seen = []
    for now in (10.0, 10.5, 12.0, 12.25):
        tm.arrived(readings, now)
        seen.append((readings[tm.LAST_ARRIVAL], readings[tm.GAP], readings[tm.GAP_BEFORE]))
    assert seen == [(10.0, tm.NEVER, tm.NEVER), (10.5, 0.5, tm.NEVER), (12.0, 1.5, 0.5), (12.25, 0.25, 1.5)]


def test_a_request_adds_work_and_bytes_until_it_is_through(readings):
    tm.decided(readings, 0.03, 1000.0)
    tm.decided(readings, 0.02, 0.0)
    tm.decided(readings, 0.01, 500.0)
    assert (readings[tm.IN_FLIGHT], readings[tm.TO_SEND_BYTES]) == (3.0, 1500.0)
    assert readings[tm.BACKLOG_S] == pytest.approx(0.06)
    tm.device_ended(readings, 1.0, 0.03, 0.03)
    tm.send_ended(readings, 1000.0)
    tm.finished(readings)
    assert (readings[tm.IN_FLIGHT], readings[tm.TO_SEND_BYTES]) == (2.0, 500.0)
    assert readings[tm.BACKLOG_S] == pytest.approx(0.03)


def test_nothing_falls_below_zero_when_reports_come_twice(readings):
    tm.decided(readings, 0.03, 1000.0)
    for _ in range(2):
        tm.device_ended(readings, 1.0, 0.03, 0.03)
        tm.send_ended(readings, 1000.0)
        tm.finished(readings)
    assert [readings[i] for i in (tm.BACKLOG_S, tm.TO_SEND_BYTES, tm.IN_FLIGHT)] == [0.0, 0.0, 0.0]


def test_running_work_counts_as_done_by_the_time_it_has_run_at_most_in_full(readings):
    tm.decided(readings, 0.04, 0.0)
    tm.decided(readings, 0.02, 0.0)
    assert tm.backlog_s(readings, 7.0) == pytest.approx(0.06)
    tm.device_started(readings, 7.0, 0.04)
    assert tm.backlog_s(readings, 7.0) == pytest.approx(0.06)
    assert tm.backlog_s(readings, 7.01) == pytest.approx(0.05)
    # It takes longer than it should: how much longer is not known before it ends.
    assert tm.backlog_s(readings, 7.04) == tm.backlog_s(readings, 9.0) == pytest.approx(0.02)
    tm.device_ended(readings, 9.0, 0.04, 2.0)
    assert tm.backlog_s(readings, 9.5) == pytest.approx(0.02)
    assert (readings[tm.RUNNING_SINCE], readings[tm.RUNNING_S]) == (tm.NEVER, 0.0)


def test_slow_down_is_measured_over_nominal_time(readings):
    tm.device_ended(readings, 3.0, 0.02, 0.05)
    assert (readings[tm.SLOW_DOWN], readings[tm.SLOW_DOWN_AT]) == (2.5, 3.0)


def test_work_below_the_grain_of_the_clock_says_nothing_of_slow_down(readings):
    tm.device_ended(readings, 3.0, 0.02, 0.05)
    tm.device_ended(readings, 4.0, 0.99 * tm.MIN_WORK_S, 0.05)
    tm.device_ended(readings, 5.0, 0.0, 0.0)
    assert (readings[tm.SLOW_DOWN], readings[tm.SLOW_DOWN_AT]) == (2.5, 3.0)


def test_the_running_transfer_has_a_start_until_it_ends(readings):
    tm.send_started(readings, 4.0)
    assert readings[tm.SENDING_SINCE] == 4.0
    tm.send_ended(readings, 0.0)
    assert readings[tm.SENDING_SINCE] == tm.NEVER


def test_the_first_rate_is_taken_and_later_ones_are_weighted(readings):
    tm.sampled(readings, 5.0, 0.1, 125_000.0)  # 10 Mb/s
    assert (readings[tm.RATE_BPS], readings[tm.RATE_AT], readings[tm.SAMPLES]) == (pytest.approx(10e6), 5.0, 1.0)
    tm.sampled(readings, 6.0, 0.05, 125_000.0)  # 20 Mb/s
    assert tm.RATE_WEIGHT == 0.3
    assert (readings[tm.RATE_BPS], readings[tm.RATE_AT], readings[tm.SAMPLES]) == (pytest.approx(13e6), 6.0, 2.0)
    tm.sampled(readings, 7.0, 0.5, 0.0)  # an outage
    assert readings[tm.RATE_BPS] == pytest.approx(9.1e6)


@pytest.mark.parametrize(("took_s", "sent_bytes"), [(0.0, 1000.0), (0.5, 0.0), (0.0, 0.0)])
def test_every_transfer_has_a_finite_rate(readings, took_s, sent_bytes):
    tm.sampled(readings, 5.0, took_s, sent_bytes)
    assert np.isfinite(readings[tm.RATE_BPS])
    assert readings[tm.RING] >= math.log10(tm.SLOWEST_BPS)
    assert np.isfinite(readings[tm.RING])


def test_the_ring_keeps_the_last_transfers_newest_first(readings):
    assert ring(readings) == [NOTHING] * tm.RING_LENGTH
    made = []
    for i in range(tm.RING_LENGTH + 3):
        tm.sampled(readings, 10.0 + i, 0.5, 1000.0 * (i + 1))
        made.insert(0, (math.log10(16_000.0 * (i + 1)), 10.0 + i, 0.5))
        expected = (made + [NOTHING] * tm.RING_LENGTH)[: tm.RING_LENGTH]
        assert ring(readings) == [pytest.approx(one) for one in expected]
    assert readings[tm.SAMPLES] == tm.RING_LENGTH + 3


def test_the_edge_tells_how_long_a_request_waited(readings):
    tm.edge_waited(readings, 8.0, 0.004)
    assert (readings[tm.EDGE_WAIT_S], readings[tm.EDGE_WAIT_AT]) == (0.004, 8.0)


def test_what_the_edge_broadcasts_is_kept_with_the_time_it_was_sent(readings):
    tm.edge_told(readings, 3.0, 0.25)
    tm.edge_told(readings, 4.0, 0.0)
    assert (readings[tm.EDGE_QUEUE_S], readings[tm.EDGE_QUEUE_AT]) == (0.0, 4.0)
    assert readings[tm.EDGE_WAIT_AT] == tm.NEVER  # no reply has come


def test_a_segment_lies_ready_until_a_plan_asks_for_another(readings):
    seen = []
    for unit in (-1, 2, -1, 0):
        tm.loads(readings, unit)
        seen.append(readings[tm.UNIT])
    assert seen == [tm.NEVER, 2.0, 2.0, 0.0]


def test_a_deadline_is_that_of_the_latest_request(readings):
    for deadline_s in (0.1, 0.4):
        tm.due(readings, deadline_s)
    assert readings[tm.DEADLINE_S] == 0.4


def test_stages_may_report_in_any_order(readings):
    """Functions of different stages change different readings."""
    other = tm.fresh()
    events = [
        lambda r: tm.device_ended(r, 1.0, 0.02, 0.03),
        lambda r: tm.send_ended(r, 700.0),
        lambda r: tm.sampled(r, 1.2, 0.1, 700.0),
        lambda r: tm.edge_waited(r, 1.3, 0.01),
        tm.finished,
    ]
    for held, order in ((readings, events), (other, events[::-1])):
        tm.arrived(held, 0.5)
        tm.decided(held, 0.02, 700.0)
        for event in order:
            event(held)
    assert list(readings) == other


def test_a_fresh_device_has_an_observation_in_bounds(readings, plans):
    out = [float("nan")] * features.SIZE
    features.encode(readings, features.scales(plans, 0.1), 0.0, 0.0, out)
    assert all(features.LOW <= value <= features.HIGH for value in out)

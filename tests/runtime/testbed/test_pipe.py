"""One direction of an emulated link, held to a twin that integrates the rate and to what a link may never do."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.errors import ConfigError
from cutlayer.runtime.testbed.pipe import UNLIMITED_BPS, Conditions, Pipe


def never():
    raise AssertionError("no chance was asked for")


def deliveries(pipe, pushes, changes=(), until_s=100.0):
    """(arrival, packet) of everything, by sleeping from one event to the next as an emulator does; pushes and changes are (time, ...)."""
    events = sorted([(at, 0, what) for at, what in changes] + [(at, 1, what) for at, what in pushes], key=lambda one: one[:2])
    got, now = [], 0.0
    while True:
        upcoming = events[0][0] if events else math.inf
        now = max(now, min(upcoming, pipe.wake_s()))
        if now > until_s:
            return got
        if upcoming <= now:
            _, push, what = events.pop(0)
            if push:
                pipe.push(now, *what)
            else:
                pipe.set(now, what)
        got += [(now, packet) for packet in pipe.pop(now)]


def test_an_idle_link_takes_size_over_rate_and_the_delay():
    pipe = Pipe(Conditions(rate_bps=8e6, delay_s=0.02), never)
    assert deliveries(pipe, [(1.0, ("a", 1000))]) == [(pytest.approx(1.0 + 0.001 + 0.02), "a")]


def test_packets_queue_behind_each_other_and_the_delay_overlaps():
    pipe = Pipe(Conditions(rate_bps=8e6, delay_s=0.5), never)
    got = deliveries(pipe, [(0.0, (i, 1000)) for i in range(4)])
    assert [packet for _, packet in got] == [0, 1, 2, 3]
    assert [at for at, _ in got] == pytest.approx([0.501, 0.502, 0.503, 0.504])


def test_a_change_of_rate_acts_on_the_packet_that_is_half_way_through():
    pipe = Pipe(Conditions(rate_bps=8e3), never)
    # 500 of 1000 bytes in half a second, then nothing for a second, then the rest at twice the rate.
    got = deliveries(pipe, [(0.0, ("a", 1000))], [(0.5, Conditions(rate_bps=0.0)), (1.5, Conditions(rate_bps=16e3))])
    assert got == [(pytest.approx(1.75), "a")]


def test_an_outage_says_that_nothing_will_happen():
    pipe = Pipe(Conditions(rate_bps=0.0), never)
    pipe.push(1.0, "a", 100)
    assert pipe.wake_s() == math.inf


@given(
    st.lists(st.tuples(st.floats(0, 5), st.integers(40, 1514)), max_size=40),
    st.lists(st.tuples(st.floats(0, 5), st.sampled_from([0.0, 1e4, 1e5, 3e6])), max_size=6),
)
def test_arrivals_are_those_of_a_twin_that_integrates_the_rate(pushes, changes):
    changes = sorted([(0.0, 1e5), *changes, (6.0, 1e6)])

    def carried_bits(t):
        ends = [at for at, _ in changes[1:]] + [math.inf]
        return sum(rate * max(0.0, min(t, end) - at) for (at, rate), end in zip(changes, ends, strict=True))

    free, expected = 0.0, []
    for at, size in sorted(pushes, key=lambda one: one[0]):
        target = carried_bits(max(at, free)) + 8 * size
        low, high = 0.0, 1e3
        for _ in range(200):
            middle = (low + high) / 2
            low, high = (low, middle) if carried_bits(middle) >= target else (middle, high)
        free = high
        expected.append(high)
    pipe = Pipe(Conditions(changes[0][1]), never, queue_bytes=10**9)
    ordered = [(at, (i, size)) for i, (at, size) in enumerate(sorted(pushes, key=lambda one: one[0]))]
    got = deliveries(pipe, ordered, [(at, Conditions(rate)) for at, rate in changes[1:]], until_s=1e3)
    assert [packet for _, packet in got] == list(range(len(pushes)))
    assert [at for at, _ in got] == pytest.approx(expected, abs=1e-6)


def test_a_full_queue_drops_what_comes_and_keeps_what_is_there():
    pipe = Pipe(Conditions(rate_bps=8e3), never, queue_bytes=3000)
    assert [pipe.push(0.0, i, 1000) for i in range(5)] == [True, True, True, False, False]
    assert (pipe.dropped, pipe.queued_bytes) == (2, 3000)
    assert [packet for _, packet in deliveries(pipe, [])] == [0, 1, 2]


def test_a_packet_larger_than_the_queue_passes_an_empty_link():
    pipe = Pipe(Conditions(), never, queue_bytes=100)
    assert pipe.push(0.0, "a", 1000)


def test_loss_takes_its_share_and_the_time_on_air():
    pipe = Pipe(Conditions(rate_bps=8e6, loss=0.3), random.Random(3).random, queue_bytes=10**9)
    got = deliveries(pipe, [(0.0, (i, 1000)) for i in range(5000)])
    assert len(got) + pipe.lost == 5000
    assert pipe.lost / 5000 == pytest.approx(0.3, abs=0.02)
    assert all(at == pytest.approx((packet + 1) * 1e-3) for at, packet in got)


def test_jitter_keeps_the_order_and_its_bounds():
    pipe = Pipe(Conditions(rate_bps=8e6, delay_s=0.02, jitter_s=0.02), random.Random(3).random, queue_bytes=10**9)
    got = deliveries(pipe, [(0.0, (i, 1000)) for i in range(500)])
    assert [packet for _, packet in got] == list(range(500))
    late = [at - (packet + 1) * 1e-3 for at, packet in got]
    assert min(late) >= 0.0
    assert max(late) <= 0.04 + 1e-9
    assert max(late) - min(late) > 0.01


def test_what_a_sender_takes_back_makes_room_at_once():
    pipe = Pipe(Conditions(rate_bps=8e3), never)
    for i in range(4):
        pipe.push(0.0, ("ab"[i % 2], i), 1000)
    pipe.forget(lambda packet: packet[0] == "a")
    assert pipe.queued_bytes == 2000
    assert deliveries(pipe, []) == [(pytest.approx(1.0), ("b", 1)), (pytest.approx(2.0), ("b", 3))]


def test_taking_back_others_leaves_the_running_packet_where_it_is():
    pipe = Pipe(Conditions(rate_bps=8e3), never)
    pipe.push(0.0, "a", 1000)
    pipe.push(0.0, "b", 1000)
    pipe.set(0.5, Conditions(rate_bps=8e3))
    pipe.forget(lambda packet: packet == "b")
    assert deliveries(pipe, []) == [(pytest.approx(1.0), "a")]


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"rate_bps": -1.0}, "rate"),
        ({"rate_bps": math.nan}, "rate"),
        ({"rate_bps": math.inf}, "rate"),
        ({"delay_s": -0.1}, "delay"),
        ({"delay_s": 0.01, "jitter_s": 0.02}, "jitter"),
        ({"loss": 1.0}, "loss"),
    ],
)
def test_impossible_conditions_are_refused_by_name(fields, named):
    with pytest.raises(ConfigError, match=f"{named} of the link"):
        Conditions(**fields)


def test_without_conditions_the_link_is_no_hindrance():
    pipe = Pipe(Conditions(), never)
    ((at, _),) = deliveries(pipe, [(1.0, ("a", 1514))])
    assert at - 1.0 == pytest.approx(8 * 1514 / UNLIMITED_BPS, abs=1e-9)

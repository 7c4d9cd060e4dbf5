"""What tells that a source is not to be trusted: ranges, breakers, silence and pace, each driven by values alone."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.errors import BundleError
from cutlayer.runtime import features
from cutlayer.runtime.guard import MARGIN, Breaker, Pace, Ranges, Silence

# --- ranges


def test_what_was_seen_is_inside_and_what_is_well_beyond_is_not():
    seen = np.random.default_rng(1).normal(0.5, 0.3, (5000, 32)).astype(np.float32)
    ranges = Ranges.seen(seen)
    assert not any(ranges.outside(row.tolist()) for row in seen)
    for feature in range(32):
        for beyond, outside in ((MARGIN / 2, False), (2 * MARGIN, True)):
            for value in (seen[:, feature].max() + beyond, seen[:, feature].min() - beyond):
                values = [0.5] * 32
                values[feature] = float(value)
                assert ranges.outside(values) == outside


@given(st.lists(st.floats(allow_infinity=True, allow_nan=True), min_size=4, max_size=4))
def test_it_is_the_obvious_comparison(values):
    ranges = Ranges((-1.0, 0.0, 0.5, 0.0), (1.0, 0.0, 4.0, 2.0))
    obvious = bool(np.any(~((np.array(values) >= np.array(ranges.low)) & (np.array(values) <= np.array(ranges.high)))))
    assert ranges.outside(values) == obvious


def test_without_ranges_only_what_is_no_number_is_outside():
    ranges = Ranges.unbounded(3)
    assert not ranges.outside([features.LOW, 0.0, features.HIGH])
    assert ranges.outside([0.0, math.nan, 0.0])


@pytest.mark.parametrize(
    "ranges",
    [
        Ranges((0.0,), (1.0,)),
        Ranges((0.0, 0.0), (1.0,)),
        Ranges((0.0, 2.0), (1.0, 1.0)),
        Ranges((0.0, math.nan), (1.0, 1.0)),
        Ranges((0.0, 0.0), (1.0, math.nan)),
    ],
)
def test_ranges_that_fit_nothing_are_refused(ranges):
    with pytest.raises(BundleError, match=r"ranges of x\.cutlayer are not 2 pairs"):
        ranges.check(2, "x.cutlayer")


def test_ranges_survive_the_bundle():
    ranges = Ranges.seen(np.random.default_rng(2).random((100, 5)))
    ranges.check(5, "x")
    assert msgspec.json.decode(msgspec.json.encode(ranges), type=Ranges) == ranges


# --- breakers


def test_it_opens_after_enough_failures_in_a_row_over_long_enough():
    breaker = Breaker(3, 1.0, 0.5, 4.0)
    for now_s in (0.0, 0.1, 0.2, 0.9):
        breaker.failed(now_s)
        assert not breaker.open
        assert breaker.allows(now_s)
    breaker.failed(1.0)
    assert breaker.open
    assert (breaker.allows(1.49), breaker.allows(1.5)) == (False, True)


def test_a_success_between_begins_the_row_anew():
    breaker = Breaker(2, 0.0, 0.5, 4.0)
    for now_s in range(10):
        breaker.failed(now_s)
        assert breaker.troubled
        breaker.succeeded()
        assert not breaker.troubled
    assert not breaker.open


def test_each_probe_that_fails_doubles_the_wait_up_to_the_longest():
    breaker, waits = Breaker(1, 0.0, 0.5, 4.0), []
    breaker.failed(0.0)
    for _ in range(6):
        waits.append(breaker.due_s)
        now_s = breaker.due_s
        assert breaker.allows(now_s)
        breaker.probe()
        assert not breaker.allows(now_s + 100.0), "one probe at a time"
        breaker.failed(now_s)
    assert np.diff([0.0, *waits]).tolist() == [0.5, 1.0, 2.0, 4.0, 4.0, 4.0]
    breaker.probe()
    breaker.succeeded()
    assert not breaker.open
    breaker.failed(100.0)
    assert breaker.due_s == 100.5


def test_what_was_tried_before_it_opened_counts_for_nothing():
    breaker = Breaker(1, 0.0, 0.5, 4.0)
    breaker.failed(0.0)
    breaker.failed(0.1)
    assert breaker.due_s == 0.5


def test_a_probe_that_told_nothing_may_be_repeated():
    breaker = Breaker(1, 0.0, 0.5, 4.0)
    breaker.failed(0.0)
    breaker.probe()
    breaker.release()
    assert (breaker.allows(0.5), breaker.due_s) == (True, 0.5)


@given(st.lists(st.tuples(st.sampled_from(["ok", "fail"]), st.floats(0.0, 3.0)), max_size=60))
def test_it_is_never_shut_for_longer_than_the_longest_wait(events):
    breaker, now_s = Breaker(2, 0.5, 0.25, 2.0), 0.0
    for what, step_s in events:
        now_s += step_s
        if breaker.allows(now_s):
            if breaker.open:
                breaker.probe()
            breaker.succeeded() if what == "ok" else breaker.failed(now_s)
        assert breaker.due_s <= now_s + 2.0
        assert breaker.allows(now_s + 2.0)


# --- silence and pace


def test_silence_counts_from_the_first_decision_after_a_report():
    silence = Silence(5.0)
    assert [silence.decided(now_s) for now_s in (100.0, 103.0, 105.0, 105.1)] == [False, False, False, True]
    silence.heard()
    assert [silence.decided(now_s) for now_s in (200.0, 205.0, 205.1)] == [False, False, True]


def test_only_slow_answers_in_a_row_make_it_pause():
    took_s = iter([0.2, 0.2, 0.1, 0.2, 0.2, 0.2, 0.2, 0.05])
    now = [0.0]
    pace = Pace(Breaker(3, 0.0, 1.0, 60.0), 0.15, lambda: now[0])
    pauses = []
    for at_s in (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 1.5, 1.6, 3.4, 3.5, 3.6):
        pauses.append(pace.pauses(at_s))
        if not pauses[-1]:
            begun_s = pace.begin()
            now[0] += next(took_s, 0.0)
            pace.end(at_s, begun_s)
    assert pauses == [False] * 6 + [True, False, True, True, False, False]


def test_without_a_clock_nothing_is_too_slow():
    pace = Pace(Breaker(1, 0.0, 1.0, 60.0), 0.0, None)
    pace.end(0.0, pace.begin())
    assert not pace.pauses(0.1)

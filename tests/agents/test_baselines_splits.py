"""Edgent's search, DynO and Dynamic Split Computing against plain loops over the plan table."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.agents.baselines import splits
from cutlayer.agents.baselines.edgent import EdgentStatic
from cutlayer.agents.baselines.link import Belief
from cutlayer.envs import scenarios
from cutlayer.profiles import builtin
from cutlayer.profiles.cost import Estimate, Path, expected_latency_s
from cutlayer.profiles.plans import PlanTable

PLANS, PATH = scenarios.plan_table(), Path(rtt_s=0.02)
LATENCIES = st.builds(
    Estimate,
    rate_bps=st.floats(4.0, 9.0).map(lambda log: 10.0**log),
    slow_down=st.floats(0.5, 5.0),
    backlog_s=st.floats(0.0, 0.1),
    queued_bytes=st.floats(0.0, 1e5),
    edge_wait_s=st.floats(0.0, 0.1),
)
WIDTHS = st.sampled_from([2, 4, 8, 16, 32])
BELIEF = Belief(5e6)


def at_one_width(plans, bits):
    """Plans of a system that codes every tensor in one way, by a loop."""
    return [i for i, row in enumerate(plans.rows) if row.bits == 0 or row.partition == 0 or row.bits == bits]


# --- Edgent in a static environment


def edgent(bits):
    return EdgentStatic(PLANS, PATH, np.flatnonzero(splits.at_width(PLANS, bits)), 1.0, BELIEF)


@given(LATENCIES, WIDTHS, st.floats(1e-3, 0.5))
def test_no_deeper_exit_meets_the_deadline_and_no_cut_of_it_is_faster(now, bits, required_s):
    chosen = edgent(bits).choose(now, required_s)
    latency = expected_latency_s(PLANS, PATH, now)
    in_time = [i for i in at_one_width(PLANS, bits) if latency[i] <= required_s]
    if not in_time:
        assert latency[chosen] == min(latency[i] for i in at_one_width(PLANS, bits))
        return
    assert chosen in in_time
    for other in in_time:
        assert PLANS.rows[other].exit <= PLANS.rows[chosen].exit
        if PLANS.rows[other].exit == PLANS.rows[chosen].exit:
            assert latency[other] >= latency[chosen]


@given(LATENCIES, WIDTHS, st.floats(1e-3, 0.5), st.floats(1.0, 10.0))
def test_the_exit_never_deepens_as_time_gets_shorter_or_the_link_slower(now, bits, required_s, factor):
    rule, latency = edgent(bits), expected_latency_s(PLANS, PATH, now)
    slower = Estimate(now.rate_bps / factor, now.slow_down, now.backlog_s, now.queued_bytes, now.edge_wait_s)
    depth = PLANS.exit[rule.choose(now, required_s)]
    if (latency[at_one_width(PLANS, bits)] <= required_s / factor).any():
        assert PLANS.exit[rule.choose(now, required_s / factor)] <= depth
    if (expected_latency_s(PLANS, PATH, slower)[at_one_width(PLANS, bits)] <= required_s).any():
        assert PLANS.exit[rule.choose(slower, required_s)] <= depth


# --- DynO


@given(LATENCIES, st.integers(0, 4), st.sampled_from(splits.DROPS))
def test_dyno_keeps_the_floor_and_no_plan_above_it_is_faster(now, exit_, drop):
    chosen = splits.Fastest(PLANS, PATH, splits.above_floor(PLANS, exit_, drop), BELIEF).choose(now)
    latency = expected_latency_s(PLANS, PATH, now)
    floor = PLANS.rows[PLANS.device_only(exit_)].accuracy - drop
    assert PLANS.rows[chosen].accuracy >= floor
    for i, row in enumerate(PLANS.rows):
        if row.exit == exit_ and row.accuracy >= floor:
            assert latency[i] >= latency[chosen]


def test_a_lower_floor_allows_more():
    for exit_ in range(5):
        sizes = [len(splits.above_floor(PLANS, exit_, drop)) for drop in splits.DROPS]
        assert sizes == sorted(sizes)
        assert sizes[0] < sizes[-1] == (PLANS.exit == exit_).sum()


def test_dyno_uses_no_trained_bottleneck():
    plans = builtin.table("bottleneck")
    allowed = splits.above_floor(plans, 4, 1.0)
    assert len(plans.units)
    assert not plans.unit[allowed].any()
    assert {plans.rows[i].codec for i in allowed} == {"affine", "zstd"}


# --- Dynamic Split Computing


def chain(values, *, raw=True):
    """A network of one exit whose tensors have so many values; the first is the input."""
    depth, base = len(values) - 1, PLANS.rows[PLANS.edge_only()]
    rows = [
        msgspec.structs.replace(base, exit=0, partition=cut, bits=8, payload_bytes=count, wire_bytes=count)
        for cut, count in enumerate(values)
        if cut or raw
    ]
    local = msgspec.structs.replace(PLANS.rows[PLANS.device_only()], exit=0, partition=depth + 1)
    return PlanTable("chain", "device", "edge", (depth,), (*rows, local))


def test_the_bottlenecks_of_the_built_in_network():
    # Values of the tensors: 49,152 in, then 16,384 8,192 12,288 12,288 2,048 384 256.
    assert splits.natural_bottlenecks(PLANS) == [1, 2, 5, 6, 7]


@given(st.lists(st.integers(1, 20), min_size=2, max_size=8), st.booleans())
def test_a_bottleneck_is_smaller_than_all_before_it(values, raw):
    got = splits.natural_bottlenecks(chain(values, raw=raw))
    before = [values[0]] if raw else []
    for cut in range(1, len(values)):
        assert (cut in got) == all(values[cut] < earlier for earlier in before)
        before.append(values[cut])


def test_a_network_without_bottlenecks_is_not_cut():
    plans = chain([10, 10, 20, 15])
    assert splits.natural_bottlenecks(plans) == []
    assert plans.partition[splits.at_bottlenecks(plans, 0, 8)].tolist() == [0, 4]


@given(LATENCIES, st.integers(0, 4), WIDTHS)
def test_dynamic_split_is_the_fastest_of_its_cuts(now, exit_, bits):
    chosen = splits.Fastest(PLANS, PATH, splits.at_bottlenecks(PLANS, exit_, bits), BELIEF).choose(now)
    latency = expected_latency_s(PLANS, PATH, now)
    for i in at_one_width(PLANS, bits):
        row = PLANS.rows[i]
        if row.exit == exit_ and (row.bits == 0 or row.partition in (0, 1, 2, 5, 6, 7)):
            assert latency[i] >= latency[chosen]
    row = PLANS.rows[chosen]
    assert row.exit == exit_
    assert row.bits in (0, bits) or row.partition == 0
    assert row.bits == 0 or row.partition in (0, 1, 2, 5, 6, 7)


def test_no_link_means_the_device_and_a_fast_one_the_edge():
    # A good link carries the input; where that may not be sent, what the first cut leaves of it.
    for bits in (32, 8):
        rule = splits.Fastest(PLANS, PATH, splits.at_bottlenecks(PLANS, 4, bits), BELIEF)
        assert not PLANS.offloads[rule.choose(Estimate(1e4))]
        assert PLANS.partition[rule.choose(Estimate(1e10))] == 0
    private = builtin.table("privacy")
    rule = splits.Fastest(private, PATH, splits.at_bottlenecks(private, 4, 8), BELIEF)
    assert private.partition[rule.choose(Estimate(1e10))] == 1


@pytest.mark.parametrize("table", ["default", "privacy", "jpeg", "bottleneck"])
def test_every_set_of_plans_can_stay_on_the_device(table):
    plans = builtin.table(table)
    assert splits.widths(plans) == [32, 16, 8, 4, 2]
    for exit_ in range(len(plans.depths)):
        local = plans.device_only(exit_)
        assert local in splits.above_floor(plans, exit_, 0.0)
        for bits in splits.widths(plans):
            assert local in splits.at_bottlenecks(plans, exit_, bits)
            assert splits.at_width(plans, bits)[local]

"""Pruning loses nothing: whatever is wanted, as long as less cost and more accuracy are never worse."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.profiles import builtin
from cutlayer.profiles.cost import Estimate, Objective, Path, expected_energy_j, expected_latency_s
from cutlayer.profiles.plans import PlanRow, PlanTable

# Few different values, so that ties and dominance are common.
seconds = st.sampled_from([0.0, 0.001, 0.002, 0.01, 0.05])
joules = st.sampled_from([0.0, 0.01, 0.02, 0.1])
shares = st.sampled_from([0.5, 0.6, 0.61, 0.8])
lengths = st.sampled_from([178, 1_514, 5_000, 50_000])


@st.composite
def tables(draw):
    """Tables of arbitrary, not only of plausible, plans; each exit can stay on the device."""
    rows = []
    for exit_ in range(draw(st.integers(1, 3))):
        for partition, bits in [(0, 8), *((p, b) for p in (1, 2) for b in (2, 4, 8)), (3, 0)]:
            local = bits == 0
            rows.append(
                PlanRow(
                    exit=exit_,
                    partition=partition,
                    bits=bits,
                    device_s=draw(seconds),
                    encode_s=0.0 if local else draw(seconds),
                    decode_s=0.0 if local else draw(seconds),
                    edge_s=0.0 if local else draw(seconds),
                    payload_bytes=0,
                    wire_bytes=0 if local else draw(lengths),
                    accuracy=draw(shares),
                    device_j=draw(joules),
                    fallback_exit=0,
                    fallback_s=0.0 if local else draw(seconds),
                    fallback_accuracy=draw(shares),
                    fallback_j=draw(joules),
                )
            )
    return PlanTable("net", "device", "edge", (2,) * len({row.exit for row in rows}), tuple(rows))


estimates = st.builds(
    Estimate,
    rate_bps=st.floats(1e4, 1e9),
    slow_down=st.floats(0.5, 10.0),
    backlog_s=st.floats(0.0, 0.1),
    queued_bytes=st.floats(0.0, 1e5),
    edge_wait_s=st.floats(0.0, 0.1),
)
objectives = st.builds(
    Objective,
    deadline_s=st.floats(0.005, 0.2),
    enforce_deadline=st.booleans(),
    late_penalty=st.floats(0.0, 2.0),
    latency_weight=st.floats(0.0, 2.0),
    energy_weight=st.floats(0.0, 5.0),
)
weights = st.lists(st.floats(0.0, 10.0), min_size=9, max_size=9)


def best(plans, now, objective):
    path = Path(rtt_s=0.01)
    latency, energy = expected_latency_s(plans, path, now), expected_energy_j(plans, path, now.rate_bps)
    return objective.reward(latency, plans.accuracy, energy).max()


@given(tables(), estimates, objectives)
def test_the_best_reward_is_that_of_the_full_table(plans, now, objective):
    assert best(plans.pruned(), now, objective) == pytest.approx(best(plans, now, objective), abs=1e-12)


@given(tables(), weights, st.floats(0.0, 0.1), st.floats(0.0, 2.0))
def test_so_is_any_other_monotone_worth_fallback_included(plans, weights, limit_s, penalty):
    """A weight on everything a plan costs, and a step where the whole takes too long."""

    def worth(these):
        busy = (these.device_s, these.encode_s, 8e-7 * these.wire_bytes, these.decode_s + these.edge_s, these.fallback_s)
        costs = (*busy, these.device_j, these.fallback_j)
        gains = weights[7] * these.accuracy + weights[8] * these.fallback_accuracy
        return gains - sum(w * cost for w, cost in zip(weights, costs, strict=False)) - penalty * (sum(busy) > limit_s)

    assert worth(plans.pruned()).max() == pytest.approx(worth(plans).max(), abs=1e-12)


@given(tables())
def test_what_is_left_is_in_order_cannot_be_pruned_further_and_can_stay_on_the_device(plans):
    left = plans.pruned()
    where = [plans.rows.index(row) for row in left.rows]
    assert where == sorted(where)
    assert left.pruned().rows == left.rows
    assert left.depths == plans.depths
    assert not left.offloads[left.device_only()]


@given(tables())
def test_of_equal_plans_the_first_stays(plans):
    twice = dataclasses.replace(plans, rows=tuple(row for row in plans.rows for _ in range(2)))
    assert twice.pruned().rows == plans.pruned().rows


def test_a_plan_that_is_beaten_goes_and_one_that_is_better_in_anything_stays():
    one = {"exit": 0, "partition": 1, "bits": 4, "device_s": 0.01, "encode_s": 0.0, "decode_s": 0.0, "edge_s": 0.01, "device_j": 0.0}
    one |= {"payload_bytes": 0, "wire_bytes": 500, "accuracy": 0.7}
    one |= {"fallback_exit": 0, "fallback_s": 0.0, "fallback_accuracy": 0.5, "fallback_j": 0.0}
    good = PlanRow(**one)
    for worse in ({"wire_bytes": 501}, {"accuracy": 0.69}, {"edge_s": 0.02}, {"fallback_accuracy": 0.4}, {"encode_s": 0.001}):
        beaten = PlanRow(**(one | worse))
        assert PlanTable("net", "d", "e", (2,), (beaten, good)).pruned().rows == (good,)
        for better in ({"device_s": 0.009}, {"device_j": -0.1}, {"fallback_s": -0.1}):
            kept = PlanRow(**(one | worse | better))
            assert PlanTable("net", "d", "e", (2,), (kept, good)).pruned().rows == (kept, good)


def test_the_built_in_table_loses_plans_and_no_reward():
    plans = builtin.table()
    left = plans.pruned()
    assert len(left) < len(plans)
    rng = np.random.default_rng(0)
    for _ in range(300):
        now = Estimate(10 ** rng.uniform(5, 8.7), slow_down=rng.uniform(1, 8), edge_wait_s=rng.uniform(0, 0.05))
        objective = Objective(rng.uniform(0.02, 0.2), enforce_deadline=bool(rng.integers(2)), latency_weight=rng.uniform(0, 1))
        assert best(left, now, objective) == pytest.approx(best(plans, now, objective), abs=1e-12)

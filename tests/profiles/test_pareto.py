"""Pruning loses nothing: whatever is wanted, as long as less cost and more accuracy are never worse."""

from __future__ import annotations

import dataclasses
import itertools

import msgspec
import numpy as np
import pytest
from hypothesis import example, given
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
UNITS = ("", "bottle3@1", "bottle6@1")


def coded(*plans):
    """(unit, device_s, accuracy, swap_s) of each plan; one that stays on the device ends the table."""
    free = {"encode_s": 0.0, "decode_s": 0.0, "edge_s": 0.0, "device_j": 0.0, "fallback_s": 0.0, "fallback_j": 0.0}
    free |= {"fallback_exit": 0, "fallback_accuracy": 0.5}
    rows = [
        PlanRow(
            exit=0, partition=1, bits=8, device_s=device_s, accuracy=accuracy, payload_bytes=50, wire_bytes=178, codec=f"codec{i}",
            unit=unit, swap_s=swap_s, **free,
        )
        for i, (unit, device_s, accuracy, swap_s) in enumerate(plans)
    ]  # fmt: skip
    local = PlanRow(exit=0, partition=2, bits=0, device_s=0.02, accuracy=0.5, payload_bytes=0, wire_bytes=0, **free)
    return PlanTable("net", "device", "edge", (1,), (*rows, local))


@st.composite
def coded_tables(draw):
    """A few plans that differ in little but their bottleneck and their longest payload: what beats what hangs on these."""
    swaps = {"": 0.0} | {unit: draw(st.sampled_from([0.002, 0.01])) for unit in UNITS[1:]}
    units = draw(st.lists(st.sampled_from(UNITS), min_size=2, max_size=5))
    table = coded(*((unit, draw(st.sampled_from([0.0, 0.01])), draw(st.sampled_from([0.5, 0.6])), swaps[unit]) for unit in units))
    rows = (
        msgspec.structs.replace(row, payload_p95_bytes=draw(st.sampled_from([None, 5_000])) if row.bits else None) for row in table.rows
    )
    return dataclasses.replace(table, rows=tuple(rows))


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


@given(coded_tables(), st.floats(0.001, 10.0), st.floats(0.001, 10.0), st.sampled_from([50, 5_000]))
def test_so_is_a_worth_of_the_longest_payload(plans, per_s, per_kb, limit_bytes):
    """As a price for each byte of it, and as a limit that it must not pass."""
    for worth in (
        lambda these: these.accuracy - per_s * these.device_s - per_kb * 1e-3 * these.payload_p95_bytes,
        lambda these: these.accuracy - per_s * these.device_s - (these.payload_p95_bytes > limit_bytes),
    ):
        assert worth(plans.pruned()).max() == pytest.approx(worth(plans).max(), abs=1e-12)


def best_run(plans, limits_s, weight, penalty, first):
    """Worth of the best plans for several requests in a row: whoever needs a bottleneck that is not in place swaps it in first,
    and it stays. Found by trying every sequence of (bottleneck, plan).
    """
    at = {unit: [i for i, row in enumerate(plans.rows) if row.unit == unit] for unit in UNITS}
    total = -np.inf
    for needs in itertools.product(UNITS, repeat=len(limits_s)):
        placed, worth = first, 0.0
        for need, limit_s in zip(needs, limits_s, strict=True):
            if not at[need]:
                worth = -np.inf
                break
            swap = need not in ("", placed)
            placed = need or placed
            these = at[need]
            latency = plans.device_s[these] + swap * plans.swap_s[these]
            worth += (plans.accuracy[these] - weight * latency - penalty * (latency > limit_s)).max()
        total = max(total, worth)
    return total


@example(  # the second plan is beaten by the first, but makes the third possible in time for the next request
    coded(("", 0.0, 0.5, 0.0), ("bottle3@1", 0.0, 0.5, 0.002), ("bottle3@1", 0.01, 0.6, 0.002)), [0.011] * 3, 0.0, 1.0, ""
)
@given(
    coded_tables(),
    st.lists(st.sampled_from([0.001, 0.004, 0.011, 0.05]), min_size=3, max_size=3),
    st.floats(0.0, 10.0),
    st.floats(0.0, 2.0),
    st.sampled_from(UNITS),
)
def test_so_is_the_best_run_of_requests_that_swap_bottlenecks(plans, limits_s, weight, penalty, first):
    """A plan that is beaten may still leave the bottleneck in place that the next, more urgent request needs."""
    assert best_run(plans.pruned(), limits_s, weight, penalty, first) == pytest.approx(
        best_run(plans, limits_s, weight, penalty, first), abs=1e-9
    )


def test_plans_of_different_bottlenecks_are_not_compared():
    cheap = PlanRow(
        exit=0, partition=1, bits=8, device_s=0.01, encode_s=0.0, decode_s=0.0, edge_s=0.01, payload_bytes=9, wire_bytes=99, accuracy=0.7,
        device_j=0.0, fallback_exit=0, fallback_s=0.0, fallback_accuracy=0.5, fallback_j=0.0,
    )  # fmt: skip
    worse = {"accuracy": 0.6, "unit": "bottle3@1", "codec": "bottle3", "swap_s": 0.001, "unit_bytes": 9}
    dear = msgspec.structs.replace(cheap, **worse)
    dearer = msgspec.structs.replace(dear, accuracy=0.5)
    assert PlanTable("net", "d", "e", (2,), (cheap, dear, dearer)).pruned().rows == (cheap, dear)
    longer = msgspec.structs.replace(cheap, payload_p95_bytes=10)
    assert PlanTable("net", "d", "e", (2,), (longer, cheap)).pruned().rows == (cheap,)


@given(st.one_of(tables(), coded_tables()))
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

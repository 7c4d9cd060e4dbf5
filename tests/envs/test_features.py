"""The observation says what its tables say, in every world, whether the encoder is compiled or not."""

from __future__ import annotations

import inspect
import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cutlayer.envs import compiling
from cutlayer.envs.offload_env import OffloadEnv
from cutlayer.envs.simulation import Simulation
from cutlayer.profiles.cost import deadline
from cutlayer.runtime import features
from cutlayer.runtime import telemetry as tm
from cutlayer.runtime.features import Blocks

EVERYTHING = Blocks(deadline=True, throttle_c=80.0, limit_c=85.0, capacity_j=4.0, units=3, broadcast=True)


@pytest.fixture(scope="module")
def plans(lab):
    return lab.table(lab.plan(device_s=0.05), lab.plan(device_s=0.01, wire_bytes=50_000))


def never_or(low, high):
    return st.one_of(st.just(tm.NEVER), st.floats(low, high))


ANY_READINGS = st.fixed_dictionaries(
    {
        tm.LAST_ARRIVAL: st.floats(0, 100), tm.GAP: never_or(0, 50), tm.GAP_BEFORE: never_or(0, 50), tm.IN_FLIGHT: st.integers(0, 300),
        tm.BACKLOG_S: st.floats(0, 100), tm.RUNNING_SINCE: never_or(0, 100), tm.RUNNING_S: st.floats(0, 5), tm.SLOW_DOWN: st.floats(0, 1e6),
        tm.SLOW_DOWN_AT: never_or(0, 100), tm.TO_SEND_BYTES: st.floats(0, 1e9), tm.SENDING_SINCE: never_or(0, 100),
        tm.EDGE_WAIT_S: st.floats(0, 1e3), tm.EDGE_WAIT_AT: never_or(0, 100), tm.RATE_BPS: st.floats(0, 1e12),
        tm.RATE_AT: never_or(0, 100), tm.SAMPLES: st.integers(0, 5), tm.LOADING_S: st.floats(0, 5), tm.TEMPERATURE_C: never_or(0, 120),
        tm.CHARGE_J: never_or(0, 1e4), tm.SENSED_AT: never_or(0, 100), tm.UNIT: st.integers(-1, 5),
        tm.DEADLINE_S: never_or(1e-3, 10), tm.EDGE_QUEUE_S: never_or(0, 100), tm.EDGE_QUEUE_AT: never_or(0, 100),
        **{tm.RING + 3 * i: st.floats(math.log10(tm.SLOWEST_BPS), 12) for i in range(tm.RING_LENGTH)},
        **{tm.RING + 3 * i + 1: never_or(0, 100) for i in range(tm.RING_LENGTH)},
        **{tm.RING + 3 * i + 2: st.floats(0, 1e3) for i in range(tm.RING_LENGTH)},
    }
)  # fmt: skip


ANY_BLOCKS = st.builds(
    Blocks, st.booleans(), st.just(80.0), st.sampled_from([80.0, 85.0]), st.sampled_from([0.0, 2.5]), st.integers(0, 4), st.booleans()
)


@given(ANY_READINGS, st.floats(0, 100), st.floats(0, 1e9), ANY_BLOCKS)
@settings(max_examples=300)
def test_the_compiled_encoder_is_the_plain_one_and_both_keep_the_bounds(plans, readings, now_s, acked_bytes, blocks):
    """And the base features are the same whatever stands behind them."""
    values = [float(readings[i]) for i in range(tm.SIZE)]
    base, size, scale = [math.nan] * features.SIZE, features.size(blocks), features.scales(plans, 0.1, blocks)
    plain, fast = [math.nan] * size, np.full(size, np.nan)
    features.encode(values, features.scales(plans, 0.1), now_s, acked_bytes, base)
    features.encode(values, scale, now_s, acked_bytes, plain)
    compiling.encode(np.array(values), np.array(scale), now_s, acked_bytes, fast)
    np.testing.assert_allclose(plain, fast, rtol=1e-12, atol=1e-12)
    assert all(features.LOW <= x <= features.HIGH for x in plain)
    assert plain[: features.SIZE] == base


def test_the_compiled_encoder_is_the_plain_one_on_whole_episodes(lab):
    for seed in range(10):
        world = lab.world(seed, link="outages")
        scale = features.scales(world.scenario.plans, world.scenario.objective.deadline_s)
        simulation = Simulation(world.scenario, world.streams)
        fast = np.empty(features.SIZE)
        for plan in world.plans:
            compiling.encode(
                np.array(simulation.readings), np.array(scale), simulation.now_s, simulation.acked_bytes(), fast
            )  # fmt: skip
            np.testing.assert_allclose(simulation.observation(), fast, rtol=1e-6, atol=1e-7)
            simulation.decide(plan)


@pytest.mark.parametrize(("rate_bps", "value"), [(0.0, -1.0), (8e3, -1.0), (math.sqrt(8e3 * 1e9), 0.0), (1e9, 1.0)])
def test_rates_are_scaled_by_their_logarithm(rate_bps, value):
    assert features.scaled_rate(rate_bps) == pytest.approx(value, abs=1e-12)


def test_ages_are_scaled_to_their_share_of_half_a_second():
    ages = [features.scaled_age(t) for t in (-1.0, 0.0, 0.125, 0.5, 1.5, 1e9)]
    assert ages == pytest.approx([0.0, 0.0, 0.2, 0.5, 0.75, 1.0], abs=1e-8)


def test_the_observation_says_what_its_table_says(lab):
    """Readings chosen by hand; every value worked out from the table in `OffloadEnv`."""
    scenario = lab.scenario(lab.plan(device_s=0.5, wire_bytes=3000), lab.plan(device_s=1.0), objective=deadline(0.5))
    readings = tm.fresh()
    chosen = {
        tm.LAST_ARRIVAL: 10.0, tm.GAP: 0.25, tm.GAP_BEFORE: 0.125, tm.IN_FLIGHT: 4.0, tm.BACKLOG_S: 1.5, tm.RUNNING_SINCE: 9.75,
        tm.RUNNING_S: 0.5, tm.SLOW_DOWN: math.e, tm.SLOW_DOWN_AT: 9.875, tm.TO_SEND_BYTES: 4500.0, tm.SENDING_SINCE: 9.0,
        tm.EDGE_WAIT_S: 0.1, tm.EDGE_WAIT_AT: 9.5, tm.RATE_BPS: 1e9, tm.SAMPLES: 1.0,
        tm.RING: math.log10(8e3), tm.RING + 1: 8.5, tm.RING + 2: 1.0,
    }  # fmt: skip
    for i, value in chosen.items():
        readings[i] = value
    out = [math.nan] * features.SIZE
    features.encode(readings, features.scales(scenario.plans, 0.5), 10.0, 1500.0, out)
    # Largest device time 1 s, largest payload 3000 B, deadline 0.5 s. Work ahead: 1.5 s less the 0.25 s that it has run.
    rate = 2 * math.log10(12_000 / 8e3) / math.log10(1e9 / 8e3) - 1  # 1500 B in 1 s
    head = [1.25, 0.5, 0.5, 1.0, 1.0, rate, 2.0, 0.5, 0.25, 1.0, 0.2, 0.2, 0.5, 1.0]
    assert out == pytest.approx(head + [-1.0, 0.75, 2.0] + [0.0, 1.0, 0.0] * 5, abs=1e-12)


def test_an_empty_history_has_stated_values(lab):
    out = [math.nan] * features.SIZE
    features.encode(tm.fresh(), [1.0, 1.0, 1.0], 5.0, 0.0, out)
    assert out == [0.0] * 7 + [1.0, 1.0] + [0.0, 1.0, 0.0, 1.0, 0.0] + [0.0, 1.0, 0.0] * 6


def encoded(readings, scale, blocks=EVERYTHING):
    out = [math.nan] * features.size(blocks)
    features.encode(readings, scale, 10.0, 0.0, out)
    return out


def test_the_blocks_say_what_their_table_says(plans):
    """Deadline 0.5 s. 0.25 s for this request; 81 C on 80 to 85 C, 3 of 4 J, both read 0.5 s ago; segment 1 of 3; 0.1 s, 1.5 s ago."""
    readings = tm.fresh()
    tm.due(readings, 0.25)
    tm.sensed(readings, 9.5, 81.0, 3.0)
    tm.loads(readings, 1)
    tm.edge_told(readings, 8.5, 0.1)
    scale = features.scales(plans, 0.5, EVERYTHING)
    names = [feature.name for feature in features.table(EVERYTHING)[features.SIZE :]]
    seen = dict(zip(names, encoded(readings, scale)[features.SIZE :], strict=True))
    told = {"deadline": 0.5, "temperature": 0.2, "charge": 0.75, "sensed_age": 0.5, "unit0": 0.0, "unit1": 1.0, "unit2": 0.0}
    assert seen == pytest.approx(told | {"edge_queue": 0.2, "edge_queue_age": 0.75})
    tm.loads(readings, -1)  # a plan that loads nothing leaves what was
    assert encoded(readings, scale)[features.SIZE + names.index("unit1")] == 1.0


def test_blocks_of_which_nothing_is_known_yet_have_stated_values(plans):
    seen = encoded(tm.fresh(), features.scales(plans, 0.5, EVERYTHING))[features.SIZE :]
    assert seen == [1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0]


def test_each_block_stands_alone(plans):
    """One at a time shows the very numbers that all together show, under the same names."""
    readings = tm.fresh()
    tm.due(readings, 0.25)
    tm.sensed(readings, 9.5, 81.0, 3.0)
    tm.loads(readings, 2)
    tm.edge_told(readings, 8.5, 0.1)
    everything = dict(zip(features.table(EVERYTHING), encoded(readings, features.scales(plans, 0.5, EVERYTHING)), strict=True))
    alone = (Blocks(deadline=True), Blocks(throttle_c=80.0, limit_c=85.0), Blocks(capacity_j=4.0), Blocks(units=3), Blocks(broadcast=True))
    for blocks in alone:
        own = features.table(blocks)
        assert own[: features.SIZE] == features.FEATURES
        assert len(own) == features.size(blocks) > features.SIZE
        assert encoded(readings, features.scales(plans, 0.5, blocks), blocks) == [everything[feature] for feature in own]


def test_a_world_without_any_has_the_base_alone(plans):
    assert features.table() == features.table(Blocks()) == features.FEATURES
    assert features.size() == features.SIZE == 32  # bundles of earlier releases hold so many
    assert len(features.scales(plans, 0.5, Blocks())) == 3


def cells(doc, title):
    """First cells of the table whose first column has this title."""
    rows = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in doc.splitlines() if line.strip().startswith("|")]
    start = next(k for k, row in enumerate(rows) if row[0] == title) + 2
    ends = [k for k in range(start, len(rows)) if k + 1 < len(rows) and rows[k + 1][0].startswith("---")]
    return rows[start : (ends or [len(rows)])[0]]


def test_the_tables_of_features_agree():
    """`features.FEATURES`, the size that is encoded, the space, and the table in the env's docstring."""
    doc = inspect.getdoc(OffloadEnv)
    listed = []
    for index, *_ in cells(doc, "index"):
        parts = [part.strip() for part in index.split(",")]
        if "i" in index:
            numbers = [re.fullmatch(r"(\d+) \+ 3i", part).group(1) for part in parts]
            listed += [int(n) + 3 * i for i in range(tm.RING_LENGTH) for n in numbers]
            assert f"i = 0..{tm.RING_LENGTH - 1}" in doc
        else:
            listed += [int(part) for part in parts]
    assert listed[:14] == list(range(14))
    assert sorted(listed) == list(range(features.SIZE))
    assert len(features.FEATURES) == features.SIZE == features.FIXED + 3 * tm.RING_LENGTH
    names = [feature.name for feature in features.table(EVERYTHING)]
    assert len(set(names)) == len(names)
    # One row for each kind of entry behind the base: deadline, temperature, charge, age, segments, queue with its age.
    assert len(cells(doc, "world with")) == len(names) - features.SIZE - (EVERYTHING.units - 1) - 1
    box = re.search(r"`Box\((-?\d+), (\d+), \((\d+),\), float32\)`", doc)
    assert [float(x) for x in box.groups()] == [features.LOW, features.HIGH, features.SIZE]

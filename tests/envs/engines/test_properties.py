"""What must hold of any record holds: order, work conservation, bytes, monotony, clones, and that nothing later changes it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cutlayer.envs import kernel
from cutlayer.envs.kernel import Kernel
from cutlayer.envs.record import Status
from cutlayer.envs.reference import Reference


def merged_edge_starts(world, records):
    """When the edge begins each of our requests, by Lindley's recursion over jobs and requests in order of arrival."""
    half_rtt = world.scenario.path.rtt_s / 2
    rows = world.scenario.plans.rows
    queue = [(a, s, -1) for a, s in zip(world.streams.job_arrival_s, world.streams.job_service_s, strict=True)]
    queue += [
        (r.send_end_s + half_rtt, rows[r.plan].decode_s + rows[r.plan].edge_s, k) for k, r in enumerate(records) if r.status is Status.EDGE
    ]
    free, starts = 0.0, {}
    for arrival, work, k in sorted(queue):
        starts[k] = max(arrival, free)
        free = starts[k] + work
    starts.pop(-1, None)
    return starts


@given(st.data())
@settings(max_examples=150)
def test_every_station_serves_in_order_and_never_idles_while_there_is_work(lab, data):
    world = lab.drawn(data)
    records = lab.run(Kernel, world)
    device_free = uplink_free = 0.0
    for k, record in enumerate(records):
        assert record.arrival_s == world.streams.arrival_s[k]
        assert record.device_start_s == max(record.arrival_s, device_free)
        device_free = record.device_end_s
        if record.status is not Status.DEVICE:
            assert record.send_start_s == max(record.device_end_s, uplink_free)
            uplink_free = record.send_end_s
    half_rtt = world.scenario.path.rtt_s / 2
    for k, start in merged_edge_starts(world, records).items():
        assert records[k].send_end_s + half_rtt + records[k].edge_wait_s == pytest.approx(start, rel=1e-9, abs=1e-12)


@given(st.data())
@settings(max_examples=150)
def test_no_request_is_faster_than_its_own_work_and_statuses_mean_what_they_say(lab, data):
    world = lab.drawn(data)
    scenario = world.scenario
    for record in lab.run(Kernel, world):
        row = scenario.plans.rows[record.plan]
        slow = world.streams.slow_down[world.streams.slot(record.device_start_s)]
        device = (row.device_s + row.encode_s) * slow
        give_up = record.arrival_s + scenario.give_up_s
        assert record.device_end_s - record.device_start_s == pytest.approx(device, rel=1e-9, abs=1e-12)
        assert record.device_start_s <= record.device_end_s <= record.send_start_s <= record.send_end_s <= record.finish_s
        assert record.edge_wait_s >= 0.0
        on_air = record.send_end_s - record.send_start_s
        radio = scenario.path.radio
        energy = row.device_j + radio.base_w * on_air + radio.joules_per_bit * 8 * record.sent_bytes
        if record.status is Status.DEVICE:
            assert row.bits == 0
            assert (record.latency_s, record.finish_s) == (record.device_end_s - record.arrival_s, record.device_end_s)
        elif record.status is Status.EDGE:
            work = row.decode_s + row.edge_s + scenario.path.rtt_s / 2 + scenario.path.return_s
            assert record.latency_s >= (device + on_air + work) * (1 - 1e-9)
            assert record.send_end_s <= give_up
            assert record.sent_bytes == row.wire_bytes
        else:
            energy += row.fallback_j
            assert record.accuracy == row.fallback_accuracy
            assert record.finish_s == pytest.approx(record.send_end_s + row.fallback_s * slow)
            assert record.edge_wait_s == 0.0
            if record.status is Status.GIVEN_UP:
                assert record.send_end_s == give_up
                assert record.sent_bytes < row.wire_bytes
            else:
                assert record.send_start_s == record.send_end_s >= give_up
                assert record.sent_bytes == 0.0
        if record.status in (Status.DEVICE, Status.EDGE):
            assert record.accuracy == row.accuracy
        assert record.energy_j == pytest.approx(energy, rel=1e-9, abs=1e-12)


@given(st.data())
@settings(max_examples=150)
def test_bytes_sent_are_the_integral_of_the_rate(lab, data):
    """Integrated here once more, slot by slot, beside `Streams.carried_bytes`."""
    world = lab.drawn(data)
    rate, slot_s = world.streams.rate_bps, world.streams.slot_s
    edges = np.append(np.arange(len(rate)) * slot_s, math.inf)
    for record in lab.run(Kernel, world):
        inside = np.minimum(edges[1:], record.send_end_s) - np.maximum(edges[:-1], record.send_start_s)
        integral = float(np.maximum(inside, 0.0) @ rate) / 8
        assert record.sent_bytes == pytest.approx(integral, rel=1e-9, abs=1e-6)
        assert world.streams.carried_bytes(record.send_start_s, record.send_end_s) == pytest.approx(integral, rel=1e-9, abs=1e-6)


@given(st.data(), st.floats(1.0, 5.0))
@settings(max_examples=100)
def test_more_bytes_never_make_a_request_faster(lab, data, factor):
    """Of all plans, and none is given up; with giving up, the link still never gets free earlier."""
    world = lab.drawn(data)
    more = [math.ceil(factor * row.wire_bytes) for row in world.scenario.plans.rows]
    before, after = (lab.run(Kernel, w) for w in (world, world.replace(wire_bytes=more)))
    for k, (a, b) in enumerate(zip(before, after, strict=True)):
        assert b.send_end_s >= a.send_end_s - 1e-9, k
    patient = world.replace(cancel_margin_s=1e9)
    if patient.streams.rate_bps[-1] > 0:
        before, after = (lab.run(Kernel, w) for w in (patient, patient.replace(wire_bytes=more)))
        for k, (a, b) in enumerate(zip(before, after, strict=True)):
            assert {a.status, b.status} <= {Status.DEVICE, Status.EDGE}
            assert b.latency_s >= a.latency_s - 1e-9 * (1 + a.latency_s), k


@given(st.data(), st.floats(1.0, 5.0))
@settings(max_examples=100)
def test_more_device_time_never_makes_a_request_faster(lab, data, factor):
    """Where the slow-down does not change: a later start might meet a faster device. And no transfer is given up."""
    world = lab.drawn(data, slow=False).replace(cancel_margin_s=1e9)
    if world.streams.rate_bps[-1] == 0:
        return
    slower = world.replace(device_s=[factor * row.device_s for row in world.scenario.plans.rows])
    for k, (a, b) in enumerate(zip(lab.run(Kernel, world), lab.run(Kernel, slower), strict=True)):
        assert b.latency_s >= a.latency_s - 1e-9 * (1 + a.latency_s), k


@given(st.data(), st.integers(0, 39), st.sampled_from([(kernel.WIRE_BYTES, 1.0), (kernel.WORK_S, 0.01), (kernel.EDGE_WORK_S, 0.01)]))
@settings(max_examples=100)
def test_of_two_plans_that_differ_in_one_cost_the_dearer_is_not_faster(lab, data, at, cost):
    """For one request, whatever was chosen before it and however slow the device is: it starts at the same time with either."""
    world = lab.drawn(data).replace(cancel_margin_s=1e9)
    if world.streams.rate_bps[-1] == 0:
        return
    at %= len(world.plans)
    table, *arrays = kernel.arrays(world.scenario, world.streams)
    state, row, other = kernel.fresh_state(), np.zeros(kernel.ROW), np.zeros(kernel.ROW)
    for k in range(at):
        kernel.step(world.plans[k], world.streams.arrival_s[k], table, *arrays, state, row)
    plan = next(i for i, row in enumerate(world.scenario.plans.rows) if row.bits > 0)
    column, more = cost
    dearer = table.copy()
    dearer[plan, column] += more * (1 + dearer[plan, column])
    kernel.step(plan, world.streams.arrival_s[at], table, *arrays, state.copy(), row)
    kernel.step(plan, world.streams.arrival_s[at], dearer, *arrays, state.copy(), other)
    assert row[kernel.R_STATUS] == other[kernel.R_STATUS] == Status.EDGE
    assert other[kernel.R_FINISH] >= row[kernel.R_FINISH]


@given(st.data(), st.integers(0, 39))
@settings(max_examples=60)
def test_a_clone_steps_as_the_original_and_leaves_it_alone(lab, data, at):
    world = lab.drawn(data)
    at %= len(world.plans)
    arrays = kernel.arrays(world.scenario, world.streams)
    state, row = kernel.fresh_state(), np.zeros(kernel.ROW)
    for k in range(at):
        kernel.step(world.plans[k], world.streams.arrival_s[k], *arrays, state, row)
    clone, other = state.copy(), np.zeros(kernel.ROW)
    kept = state.copy()
    for k in range(at, len(world.plans)):  # another future, on the clone
        kernel.step((world.plans[k] + 1) % len(world.scenario.plans), world.streams.arrival_s[k], *arrays, clone, other)
    assert np.array_equal(state, kept)
    clone = state.copy()
    for k in range(at, len(world.plans)):
        kernel.step(world.plans[k], world.streams.arrival_s[k], *arrays, state, row)
        kernel.step(world.plans[k], world.streams.arrival_s[k], *arrays, clone, other)
        assert np.array_equal(row, other)
    assert np.array_equal(state, clone)


def test_an_episode_at_once_is_the_episode_step_by_step(lab):
    for seed in range(30):
        world = lab.world(seed, link="outages")
        rows = kernel.run(world.scenario, world.streams, np.array(world.plans))
        assert [kernel.record(p, row) for p, row in zip(world.plans, rows, strict=True)] == lab.run(Kernel, world)


@given(st.data(), st.integers(0, 39))
@settings(max_examples=60)
def test_later_decisions_change_no_earlier_record(lab, one_clock, data, at):
    """In the engines because they tell a record at once; in the one-clock world, which knows nothing of that, because it is so."""
    world = lab.drawn(data)
    at %= len(world.plans)
    plans = world.plans[:at] + [(p + 1) % len(world.scenario.plans) for p in world.plans[at:]]
    other = world.replace(requested=plans)
    for engine in (Reference, Kernel):
        assert lab.run(engine, world)[:at] == lab.run(engine, other)[:at]
    one, two = (one_clock(w.scenario, w.streams).run(w.plans)[:at] for w in (world, other))
    assert lab.differences(one, two, relative=0.0) == []

"""Three models of one world, written in three ways, make the same records; and what must hold of any record holds.

The SimPy engine runs each station on a clock of its own, the compiled one computes in closed form. The third is below:
one clock, three contended resources, a process for each request, as one would write it without any thought of deciding
request by request.
"""

from __future__ import annotations

import bisect
import math
from collections import Counter

import numpy as np
import pytest
import simpy
from hypothesis import given, settings
from hypothesis import strategies as st

from cutlayer.envs import kernel, scenarios
from cutlayer.envs.channels import Constant
from cutlayer.envs.kernel import Kernel
from cutlayer.envs.record import Record, Status
from cutlayer.envs.reference import Reference
from cutlayer.envs.streams import draw
from cutlayer.envs.workload import EdgeJobs, Poisson
from cutlayer.profiles.cost import deadline
from cutlayer.profiles.energy import Radio

PLAIN = {
    "seed": st.integers(0, 2**32),
    "requests": st.integers(20, 40),
    "link": st.sampled_from(["steady", "slots", "outages", "dies"]),
    "jobs": st.sampled_from(["none", "light", "overload"]),
    "arrivals": st.sampled_from(["periodic", "poisson", "bursts"]),
    "slow": st.booleans(),
    "rtt": st.booleans(),
    "margin": st.booleans(),
    "short": st.booleans(),
}
EXTRAS = {
    "servers": st.sampled_from([1, 2, 5]),
    "platform": st.booleans(),
    "batching": st.booleans(),
    "restart": st.booleans(),
    "heat": st.booleans(),
    "battery": st.booleans(),
    "loads": st.sampled_from(["nothing", "swaps", "memory"]),
}
WORLDS = st.fixed_dictionaries(PLAIN)
# A batch runs on one server.
SWITCHED = st.fixed_dictionaries(PLAIN | EXTRAS).map(lambda knobs: knobs | {"batching": knobs["batching"] and knobs["servers"] == 1})


class OneClock:
    """The whole world in one SimPy environment, for plans that are all known beforehand."""

    def __init__(self, scenario, streams):
        self.scenario, self.streams = scenario, streams
        self.world = simpy.Environment()
        self.processor, self.uplink = simpy.Resource(self.world), simpy.Resource(self.world)
        self.server = simpy.Resource(self.world, scenario.edge.servers)
        self.heat = (0.0, scenario.thermal.idle_c if scenario.thermal else 0.0)
        self.charge = (0.0, scenario.battery.start * scenario.battery.capacity_j if scenario.battery else 0.0)
        self.unpaid_j, self.link_used, self.running, self.resident, self.batches = 0.0, -math.inf, -1, [], {}
        self.slot_ends = [(i + 1) * streams.slot_s for i in range(len(streams.rate_bps) - 1)] + [math.inf]
        self.records = []

    def run(self, plans):
        self.records = [None] * len(plans)
        for arrival_s, work_s in zip(self.streams.job_arrival_s, self.streams.job_service_s, strict=True):
            self.world.process(self.job(arrival_s, work_s))
        for k, plan in enumerate(plans):
            self.world.process(self.request(k, plan))
        self.world.run()
        return self.records

    def job(self, arrival_s, work_s):
        yield self.world.timeout(arrival_s)
        with self.server.request() as turn:
            yield turn
            yield self.world.timeout(work_s)

    def request(self, k, plan):
        world, scenario, row = self.world, self.scenario, self.scenario.plans.rows[plan]
        arrival = self.streams.arrival_s[k]
        yield world.timeout(arrival)
        with self.processor.request() as turn:
            yield turn
            device_start = world.now
            while world.peek() == world.now:
                yield world.timeout(0.0)
            slow = self.streams.slow_down[self.slot()]
            if scenario.thermal is not None:
                slow *= self.throttle()
            runs = scenario.battery is None or self.pay(row.device_j)
            found = [0.0, self.heat[1], self.charge[1] + (row.device_j if runs and scenario.battery else 0.0)]
            if runs:
                found[0] = self.load(plan)
                yield world.timeout(found[0] + (row.device_s + row.encode_s) * slow)
                if scenario.thermal is not None:
                    self.tend(scenario.thermal.busy_c)
        device_end = send_start = send_end = world.now
        if not runs:
            finish = max(world.now, arrival + scenario.give_up_s)
            self.records[k] = Record(
                plan, Status.EMPTY, arrival, *[world.now] * 4, 0.0, 0.0, finish, 0.0, 0.0, *found
            )  # fmt: skip
            return
        status, sent, waited, accuracy, energy = Status.DEVICE, 0.0, 0.0, row.accuracy, row.device_j
        if row.bits > 0:
            give_up = arrival + scenario.give_up_s
            with self.uplink.request() as turn:
                yield turn
                send_start = world.now
                if send_start < give_up and send_start - self.link_used > scenario.link.restart_after_s:
                    yield world.timeout(min(self.wait_for_window(row.wire_bytes), give_up - send_start))
                    # Waited till the end: the clock may have missed it by its last digit.
                    send_start = self.link_used = give_up if math.isclose(world.now, give_up, rel_tol=1e-14) else world.now
                if send_start < give_up:
                    transfer = world.process(self.transfer(row.wire_bytes))
                    yield transfer | world.timeout(give_up - send_start)
                    if transfer.is_alive:
                        transfer.interrupt()
                    sent = yield transfer
                    self.link_used = world.now
                send_end = world.now
            radio = scenario.path.radio
            sending_j = radio.base_w * (send_end - send_start) + radio.joules_per_bit * 8 * sent
            self.unpaid_j += sending_j + (row.fallback_j if sent < row.wire_bytes else 0.0)
            energy += sending_j
            if sent == row.wire_bytes:
                status = Status.EDGE
                yield world.timeout(scenario.path.rtt_s / 2)
                reached = world.now
                platform = scenario.edge.platform
                work_s = platform.request_s + (row.decode_s + row.edge_s) * platform.work_factor
                if scenario.edge.batching is not None:
                    window = math.floor(reached / scenario.edge.batching.window_s)
                    if window not in self.batches:
                        self.batches[window] = []
                        world.process(self.batch(window))
                    self.batches[window].append((work_s, started := world.event(), ended := world.event()))
                    waited = (yield started) - reached
                    yield ended
                else:
                    with self.server.request() as turn:
                        yield turn
                        waited = world.now - reached
                        yield world.timeout(work_s)
                yield world.timeout(scenario.path.rtt_s / 2)
                yield world.timeout(8 * scenario.path.reply_bytes / scenario.path.downlink_bps + scenario.path.fixed_s)
            else:
                # The exit's own head is charged to the request, not to the processor that by now serves others.
                status = Status.UNSENT if send_start >= give_up else Status.GIVEN_UP
                accuracy = row.fallback_accuracy
                energy += row.fallback_j
                yield world.timeout(row.fallback_s * slow)
        self.records[k] = Record(
            plan, status, arrival, device_start, device_end, send_start, send_end, sent, waited, world.now, accuracy, energy, *found
        )  # fmt: skip

    def tend(self, level_c):
        """The processor's temperature now, after a time at that level: steps of a quarter, for exp(-4 x) = exp(-x)^4."""
        since, before = self.heat
        kept = math.exp(-(self.world.now - since) / 4 / self.scenario.thermal.time_constant_s) ** 4
        self.heat = (self.world.now, kept * before + (1 - kept) * level_c)

    def throttle(self):
        thermal = self.scenario.thermal
        self.tend(thermal.idle_c)
        return float(np.interp(self.heat[1], [thermal.throttle_c, thermal.limit_c], [1.0, thermal.slowest]))

    def pay(self, joules):
        """Whether the battery can; if so it has."""
        battery, (since, charge), harvest = self.scenario.battery, self.charge, self.streams.harvest_w
        edges = np.append(np.arange(len(harvest)) * self.streams.slot_s, math.inf)
        inside = np.minimum(edges[1:], self.world.now) - np.maximum(edges[:-1], since)
        charge += float(np.maximum(inside, 0.0) @ harvest) - battery.idle_w * (self.world.now - since)
        if self.uplink.count == 0 and self.link_used + self.scenario.path.rtt_s / 2 <= self.world.now:
            charge, self.unpaid_j = charge - self.unpaid_j, 0.0
        charge = float(np.clip(charge, 0.0, battery.capacity_j))
        self.charge = (self.world.now, charge - joules if charge >= joules else charge)
        return charge >= joules

    def load(self, plan):
        """A list of resident units, newest first."""
        segments, memory, took = self.scenario.segments, self.scenario.memory, 0.0
        if segments is None or segments.unit[plan] < 0:
            return 0.0
        unit, size = segments.unit[plan], dict(zip(segments.unit, segments.unit_bytes, strict=True))
        if unit != self.running:
            took, self.running = segments.swap_s[plan], unit
        if memory is None:
            return took
        if unit in self.resident:
            self.resident.remove(unit)
        else:
            took += size[unit] / memory.read_bytes_per_s + memory.init_s
        if size[unit] <= memory.capacity_bytes:
            self.resident.insert(0, unit)
        while sum(size[u] for u in self.resident) > memory.capacity_bytes:
            self.resident.pop()
        return took

    def wait_for_window(self, left):
        """Each round trip in which the window is shorter than what the link carries in one, the link stands for the rest of it."""
        carries, rtt_s = self.streams.rate_bps[self.slot()] / 8, self.scenario.path.rtt_s
        waits = []
        for doubled in range(60):
            window = 10 * 1514 * 2**doubled
            if left <= window or window >= carries * rtt_s:
                return sum(waits)
            waits.append(rtt_s - window / carries)
            left -= window
        return None

    def batch(self, window):
        """Serve what came within a window at its end, in order; the n-th member adds what the table says it does."""
        batching = self.scenario.edge.batching
        yield self.world.timeout((window + 1) * batching.window_s - self.world.now)
        while self.world.peek() == self.world.now:
            yield self.world.timeout(0.0)
        with self.server.request() as turn:
            yield turn
            for n, (work_s, started, ended) in enumerate(self.batches[window]):
                table = batching.latency
                before = 0.0 if n == 0 else table[min(n, len(table)) - 1]
                adds = table[n] - before if n < len(table) else table[-1] - (table[-2] if len(table) > 1 else 0.0)
                started.succeed(self.world.now)
                yield self.world.timeout(work_s * adds)
                ended.succeed()

    def transfer(self, wire_bytes):
        """Send until done or interrupted; bytes carried."""
        carried, slot, now = 0.0, self.slot(), self.world.now
        try:
            while True:
                now, rate = self.world.now, self.streams.rate_bps[slot] / 8
                needs_s = (wire_bytes - carried) / rate if rate > 0 else math.inf
                if now + needs_s <= self.slot_ends[slot]:
                    yield self.world.timeout(needs_s) if needs_s < math.inf else self.world.event()
                    return wire_bytes
                yield self.world.timeout(self.slot_ends[slot] - now)
                carried += rate * (self.slot_ends[slot] - now)
                slot += 1
        except simpy.Interrupt:
            return carried + rate * (self.world.now - now)

    def slot(self):
        return bisect.bisect_right(self.slot_ends, self.world.now)


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


@given(SWITCHED)
@settings(max_examples=500)
def test_reference_kernel_and_a_one_clock_world_make_the_same_records(lab, knobs):
    """Whatever is switched on or off, in any combination."""
    world = lab.world(**knobs)
    reference = lab.run(Reference, world)
    assert lab.differences(reference, lab.run(Kernel, world)) == []
    assert lab.differences(reference, OneClock(world.scenario, world.streams).run(world.plans)) == []


def test_the_random_worlds_reach_every_status_and_every_queue(lab):
    """Without this the tests on random worlds could hold of nothing."""
    seen, queued = Counter(), Counter()
    for seed in range(60):
        world = lab.world(seed, link=["steady", "slots", "outages", "dies"][seed % 4], jobs=["light", "overload"][seed % 2])
        records = lab.run(Kernel, world)
        seen.update(r.status for r in records)
        queued.update(device=sum(r.device_start_s > r.arrival_s for r in records))
        queued.update(link=sum(r.send_start_s > r.device_end_s for r in records), edge=sum(r.edge_wait_s > 0 for r in records))
    assert all(seen[status] >= 60 for status in (Status.DEVICE, Status.EDGE, Status.GIVEN_UP, Status.UNSENT)), seen
    assert all(queued[station] >= 100 for station in ("device", "link", "edge")), queued


@pytest.mark.parametrize("name", scenarios.names())
def test_engines_agree_on_drawn_episodes_of_each_scenario(lab, name):
    scenario = scenarios.make(name)
    rng = np.random.default_rng(5)
    for seed in range(5):
        streams = draw(scenario, seed)
        plans = rng.integers(len(scenario.plans), size=scenario.requests).tolist()
        world = lab.World(scenario, streams, plans)
        records = lab.run(Reference, world)
        assert lab.differences(records, lab.run(Kernel, world)) == []
        assert lab.differences(records, OneClock(scenario, streams).run(plans)) == []


def test_engines_agree_to_the_end_of_a_long_episode(lab):
    """Sums over a whole episode must not eat up the precision of its end."""
    world = lab.world(1, requests=5000, link="slots", jobs="light")
    assert lab.differences(lab.run(Reference, world), lab.run(Kernel, world)) == []


def coincident(lab, seed, job_offset_s):
    """A world in which all times are multiples of 1/64 s and all rates powers of two: arithmetic is exact, and times coincide."""
    grain, rng = 2.0**-6, np.random.default_rng(seed)
    rows = [
        lab.plan(
            device_s=grain * rng.integers(0, 4), edge_s=grain * rng.integers(0, 4), wire_bytes=2 ** int(rng.integers(4, 8)),
            fallback_s=grain * rng.integers(0, 3),
        )
        for _ in range(4)
    ]  # fmt: skip
    scenario = lab.scenario(
        *rows, lab.plan(device_s=2 * grain), requests=15, slot_s=2 * grain, objective=deadline(4 * grain),
        cancel_margin_s=float(grain * rng.integers(0, 6)), path=lab.path(rtt_s=float(2 * grain * rng.integers(0, 2))),
    )  # fmt: skip
    jobs = zip(np.sort(rng.integers(0, 80, 30)) * grain + job_offset_s, rng.integers(1, 3, 30) * grain, strict=True)
    streams = lab.streams(
        np.cumsum(rng.integers(0, 5, 16)) * grain,
        8 * np.array([0, 2.0**8, 2.0**9, 2.0**10, 2.0**12])[rng.integers(0, 5, 200)],
        np.array([1.0, 2.0])[rng.integers(0, 2, 200)],
        jobs,
        2 * grain,
    )
    return lab.World(scenario, streams, rng.integers(0, 5, 15).tolist())


@pytest.mark.parametrize("model", [Reference, OneClock])
@pytest.mark.parametrize("job_offset_s", [2.0**-20, 0.0], ids=["requests and slots", "also at the edge"])
def test_engines_agree_where_times_coincide(lab, model, job_offset_s):
    """Requests that come at once, transfers that end in the instant they would be given up, starts on the border of a slot; and
    with jobs on the same grid, jobs that reach the edge together with a request, and go first.
    """
    wrong = []
    for seed in range(300):
        world = coincident(lab, seed, job_offset_s)
        records = OneClock(world.scenario, world.streams).run(world.plans) if model is OneClock else lab.run(model, world)
        different = lab.differences(records, lab.run(Kernel, world))
        wrong += [(seed, *different[0])] if different else []
    assert not wrong, f"{len(wrong)} of 300 worlds, the first (seed, request, field, {model.__name__}, Kernel): {wrong[0]}"


@pytest.mark.parametrize("engine", [Reference, Kernel])
def test_requests_that_arrive_in_the_same_instant_are_served_in_order(lab, engine):
    """The first transfer is given up at the very time at which the second one would be: the second is never sent."""
    scenario = lab.scenario(lab.plan(wire_bytes=10_000, fallback_s=0.25), path=lab.path(rtt_s=0.1), cancel_margin_s=0.5)
    first, second = lab.run(engine, lab.World(scenario, lab.streams([0.3, 0.3, 9.0], 8e3), [0, 0]))
    assert (first.status, second.status) == (Status.GIVEN_UP, Status.UNSENT)
    assert first.send_end_s == pytest.approx(0.3 + 1.5)
    assert (second.send_start_s, second.send_end_s, second.sent_bytes) == (pytest.approx(1.8), pytest.approx(1.8), 0.0)


@pytest.mark.parametrize("engine", [Reference, Kernel])
@pytest.mark.parametrize(("bytes_", "status"), [(1500, Status.EDGE), (1501, Status.GIVEN_UP)])
def test_a_transfer_that_ends_just_at_its_give_up_time_counts(lab, engine, bytes_, status):
    scenario = lab.scenario(lab.plan(wire_bytes=bytes_), cancel_margin_s=0.5)  # 1500 B at 1000 B/s take deadline and margin
    (record,) = lab.run(engine, lab.World(scenario, lab.streams([0.0, 9.0], 8e3), [0]))
    assert record.status is status
    assert (record.send_end_s, record.sent_bytes) == (1.5, 1500.0)


@pytest.mark.parametrize("engine", [Reference, Kernel])
@pytest.mark.parametrize(("device_s", "status"), [(1.5, Status.UNSENT), (1.4375, Status.EDGE)])
def test_a_transfer_that_would_begin_at_its_give_up_time_does_not(lab, engine, device_s, status):
    scenario = lab.scenario(lab.plan(device_s=device_s, wire_bytes=1, fallback_s=0.5), cancel_margin_s=0.5)
    (record,) = lab.run(engine, lab.World(scenario, lab.streams([0.0, 9.0], 8e3), [0]))
    assert record.status is status
    if status is Status.UNSENT:
        assert (record.send_start_s, record.send_end_s, record.finish_s, record.sent_bytes) == (1.5, 1.5, 2.0, 0.0)


@pytest.mark.parametrize("engine", [Reference, Kernel, OneClock])
def test_an_episode_worked_out_by_hand(lab, engine):
    """1000 B/s; the device is slowed to half in the second second; one background job; give up at the age of 1.5 s.

    The reply takes 0.1 s half round trip + 0.1 s (100 B at 8 kb/s) + 0.05 s = 0.25 s. Sending costs 2 W and 0.1 mJ a bit.
    """
    small = lab.plan(
        device_s=0.2, encode_s=0.1, wire_bytes=400, decode_s=0.05, edge_s=0.25, accuracy=0.8, device_j=0.6,
        fallback_s=0.1, fallback_accuracy=0.5, fallback_j=0.2,
    )  # fmt: skip
    big = lab.plan(
        device_s=0.1, wire_bytes=1600, edge_s=0.3, accuracy=0.9, device_j=0.2,
        fallback_s=0.4, fallback_accuracy=0.4, fallback_j=0.7,
    )  # fmt: skip
    local = lab.plan(device_s=0.9, accuracy=0.7, device_j=1.8)
    scenario = lab.scenario(
        small, big, local, objective=deadline(1.0), cancel_margin_s=0.5,
        path=lab.path(rtt_s=0.2, downlink_bps=8e3, reply_bytes=100, fixed_s=0.05, radio=Radio(2.0, 1e-4)),
    )  # fmt: skip
    streams = lab.streams([0.0, 0.5, 1.1, 1.2, 1.9, 5.0], 8e3, [1.0, 2.0, 1.0, 1.0], jobs=[(0.5, 0.6)])
    plans = [0, 1, 0, 2, 0]
    expected = [
        # Device 0 to 0.3; 400 B take 0.4 s; at the edge at 0.8, where the job that came at 0.5 leaves at 1.1; 0.3 s of work
        # there, 0.25 s back. Energy 0.6 + 2 * 0.4 + 1e-4 * 3200.
        Record(0, Status.EDGE, 0.0, 0.0, 0.3, 0.3, 0.7, 400.0, 0.3, 1.65, 0.8, 1.72),
        # Device 0.5 to 0.6, waits for the link until 0.7; 1600 B would take until 2.3, cut off at 0.5 + 1.5 = 2.0 after 1300 B;
        # the device was not slowed when it began, so its own exit takes 0.4 s. Energy 0.2 + 2 * 1.3 + 1e-4 * 10400 + 0.7.
        Record(1, Status.GIVEN_UP, 0.5, 0.5, 0.6, 0.7, 2.0, 1300.0, 0.0, 2.4, 0.4, 4.54),
        # Begins at 1.1, in the slow second: 0.6 s to 1.7; the link is free at 2.0; at the edge at 2.5, idle since 1.4.
        Record(0, Status.EDGE, 1.1, 1.1, 1.7, 2.0, 2.4, 400.0, 0.0, 3.05, 0.8, 1.72),
        # The device is free at 1.7, still in the slow second: 1.8 s. The link has no part in it.
        Record(2, Status.DEVICE, 1.2, 1.7, 3.5, 3.5, 3.5, 0.0, 0.0, 3.5, 0.7, 1.8),
        # The device is free at 3.5, in a fast second, and done at 3.8; by 1.9 + 1.5 = 3.4 the transfer should have ended, so it
        # never begins; 0.1 s for its own exit. Energy 0.6 + 0.2.
        Record(0, Status.UNSENT, 1.9, 3.5, 3.8, 3.8, 3.8, 0.0, 0.0, 3.9, 0.5, 0.8),
    ]
    world = lab.World(scenario, streams, plans)
    records = OneClock(scenario, streams).run(plans) if engine is OneClock else lab.run(engine, world)
    assert lab.differences(records, expected, relative=1e-12) == []
    assert [r.latency_s for r in records] == pytest.approx([1.65, 1.9, 1.95, 2.3, 2.0])


@given(WORLDS)
@settings(max_examples=150)
def test_every_station_serves_in_order_and_never_idles_while_there_is_work(lab, knobs):
    world = lab.world(**knobs)
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


@given(WORLDS)
@settings(max_examples=150)
def test_no_request_is_faster_than_its_own_work_and_statuses_mean_what_they_say(lab, knobs):
    world = lab.world(**knobs)
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


@given(WORLDS)
@settings(max_examples=150)
def test_bytes_sent_are_the_integral_of_the_rate(lab, knobs):
    """Integrated here once more, slot by slot, beside `Streams.carried_bytes`."""
    world = lab.world(**knobs)
    rate, slot_s = world.streams.rate_bps, world.streams.slot_s
    edges = np.append(np.arange(len(rate)) * slot_s, math.inf)
    for record in lab.run(Kernel, world):
        inside = np.minimum(edges[1:], record.send_end_s) - np.maximum(edges[:-1], record.send_start_s)
        integral = float(np.maximum(inside, 0.0) @ rate) / 8
        assert record.sent_bytes == pytest.approx(integral, rel=1e-9, abs=1e-6)
        assert world.streams.carried_bytes(record.send_start_s, record.send_end_s) == pytest.approx(integral, rel=1e-9, abs=1e-6)


@given(WORLDS, st.floats(1.0, 5.0))
@settings(max_examples=100)
def test_more_bytes_never_make_a_request_faster(lab, knobs, factor):
    """Of all plans, and none is given up; with giving up, the link still never gets free earlier."""
    world = lab.world(**knobs)
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


@given(WORLDS, st.floats(1.0, 5.0))
@settings(max_examples=100)
def test_more_device_time_never_makes_a_request_faster(lab, knobs, factor):
    """Where the slow-down does not change: a later start might meet a faster device. And no transfer is given up."""
    world = lab.world(**(knobs | {"slow": False})).replace(cancel_margin_s=1e9)
    if world.streams.rate_bps[-1] == 0:
        return
    slower = world.replace(device_s=[factor * row.device_s for row in world.scenario.plans.rows])
    for k, (a, b) in enumerate(zip(lab.run(Kernel, world), lab.run(Kernel, slower), strict=True)):
        assert b.latency_s >= a.latency_s - 1e-9 * (1 + a.latency_s), k


@given(WORLDS, st.integers(0, 39), st.sampled_from([(kernel.WIRE_BYTES, 1.0), (kernel.WORK_S, 0.01), (kernel.EDGE_WORK_S, 0.01)]))
@settings(max_examples=100)
def test_of_two_plans_that_differ_in_one_cost_the_dearer_is_not_faster(lab, knobs, at, cost):
    """For one request, whatever was chosen before it and however slow the device is: it starts at the same time with either."""
    world = lab.world(**knobs).replace(cancel_margin_s=1e9)
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


@given(WORLDS, st.integers(0, 39))
@settings(max_examples=60)
def test_a_clone_steps_as_the_original_and_leaves_it_alone(lab, knobs, at):
    world = lab.world(**knobs)
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


@given(WORLDS, st.integers(0, 39))
@settings(max_examples=60)
def test_later_decisions_change_no_earlier_record(lab, knobs, at):
    """In the engines because they tell a record at once; in the one-clock world, which knows nothing of that, because it is so."""
    world = lab.world(**knobs)
    at %= len(world.plans)
    plans = world.plans[:at] + [(p + 1) % len(world.scenario.plans) for p in world.plans[at:]]
    other = world.replace(requested=plans)
    for engine in (Reference, Kernel):
        assert lab.run(engine, world)[:at] == lab.run(engine, other)[:at]
    one, two = (OneClock(w.scenario, w.streams).run(w.plans)[:at] for w in (world, other))
    assert lab.differences(one, two, relative=0.0) == []


def probe(lab, arrival_s, edge_s, jobs=()):
    """Mean wait at the edge of requests that reach it as soon as they arrive."""
    scenario = lab.scenario(lab.plan(wire_bytes=1, edge_s=edge_s), channel=Constant(8e12), requests=len(arrival_s) - 1)
    streams = lab.streams(arrival_s, 8e12, jobs=jobs)
    rows = kernel.run(scenario, streams, np.zeros(scenario.requests, np.int64))
    assert (rows[:, kernel.R_STATUS] == Status.EDGE).all()
    return rows[:, kernel.R_EDGE_WAIT].mean()


def test_mean_wait_of_a_queue_with_fixed_service_is_that_of_theory(lab):
    """M/D/1: wait = load * service / (2 (1 - load)); 200,000 requests at load 0.6 tell it to about 1 %."""
    arrival_s = Poisson(60.0).draw(np.random.default_rng(3), 200_001)
    assert probe(lab, arrival_s, 0.01) == pytest.approx(0.6 * 0.01 / (2 * 0.4), rel=0.03)


def test_mean_wait_behind_background_jobs_is_that_of_theory(lab):
    """M/M/1: a request without work of its own that comes at random waits for load / (1 - load) * service; 5000 s tell it to about 1 %."""
    rng = np.random.default_rng(4)
    jobs = EdgeJobs(rate_per_s=50.0, mean_s=0.01).draw(rng, 5000.0)
    arrival_s = Poisson(20.0).draw(rng, 100_001)
    assert arrival_s[-1] > 4900
    arrival_s = arrival_s[arrival_s < 4990]
    assert probe(lab, arrival_s, 0.0, jobs=zip(*jobs, strict=True)) == pytest.approx(0.01, rel=0.04)

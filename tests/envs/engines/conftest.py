"""A third model of the world, as one would write it without any thought of deciding request by request.

One clock, three contended resources, a process for each request. The SimPy engine runs each station on a clock of its own, the
compiled one computes in closed form; all three have to make the same records.
"""

from __future__ import annotations

import bisect
import math

import numpy as np
import pytest
import simpy

from cutlayer.envs.record import Record, Status
from cutlayer.envs.streams import deadlines


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
        self.records, self.waits = [], {}
        self.give_up_s = deadlines(scenario, streams) + scenario.cancel_margin_s

    def run(self, plans):
        self.records = [None] * len(plans)
        for arrival_s, work_s in zip(self.streams.job_arrival_s, self.streams.job_service_s, strict=True):
            self.world.process(self.job(arrival_s, work_s))
        for k, plan in enumerate(plans):
            self.world.process(self.request(k, plan))
        period_s = self.scenario.edge.broadcast_s
        for n in range(0 if period_s is None else int(self.streams.arrival_s[-1] / period_s) + 1):
            self.world.process(self.probe(n * period_s))
        self.world.run()
        return self.records

    def job(self, arrival_s, work_s):
        yield self.world.timeout(arrival_s)
        with self.server.request() as turn:
            yield turn
            yield self.world.timeout(work_s)

    def probe(self, at_s):
        """What a broadcast tells: somebody who wants nothing of the edge comes at that instant, last of all, and waits for his turn."""
        yield self.world.timeout(at_s)
        while self.world.peek() == self.world.now:
            yield self.world.timeout(0.0)
        with self.server.request() as turn:
            yield turn
            self.waits[at_s] = self.world.now - at_s

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
            finish = max(world.now, arrival + self.give_up_s[k])
            self.records[k] = Record(
                plan, Status.EMPTY, arrival, *[world.now] * 4, 0.0, 0.0, finish, 0.0, 0.0, *found
            )  # fmt: skip
            return
        status, sent, waited, accuracy, energy = Status.DEVICE, 0.0, 0.0, row.accuracy, row.device_j
        if row.bits > 0:
            give_up = arrival + self.give_up_s[k]
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


@pytest.fixture(scope="session")
def one_clock():
    """The class: test modules cannot import it from here."""
    return OneClock

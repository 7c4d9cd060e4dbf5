"""The SimPy engine, written as the specification of the simulator.

A request passes three stations in order: the device's processor, the uplink, the edge server. Nobody overtakes on the
first two, so what becomes of a request depends on decisions up to its own and on the streams, and an environment wants
to know it at once. Therefore each station is a small SimPy world with a clock of its own, which runs ahead exactly as
far as this request needs, and no further:

    device, uplink   until this request has left: nobody else uses them, so the clock stands where the next one may begin
    edge             until this request's turn has come. All servers are busy until then, so whoever arrived later has not
                     begun; a later request of ours that arrives before them takes its place by time of arrival

A transfer that is not done in time is given up: the link is free again, and the device answers with `fallback_s` of work that is
charged to this request, but does not occupy the processor for others. What becomes of a request is therefore known when it is
decided, whatever is decided later.

What the device carries from one request to the next (heat, charge, loaded segments) is in `device`.

This is how conservative parallel simulation couples clocks (Chandy and Misra 1979). The compiled engine in `kernel.py`
computes the same records in closed form; a property test holds the two and a plain one-clock SimPy model equal.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import simpy

from cutlayer.envs.device import Charge, Heat, Loaded
from cutlayer.envs.record import Record, Status
from cutlayer.envs.streams import deadlines
from cutlayer.profiles.cost import MSS_BYTES, OVERHEAD_BYTES

if TYPE_CHECKING:
    from collections.abc import Generator

    from cutlayer.envs.spec import Batching, Scenario
    from cutlayer.envs.streams import Streams

    Process = Generator[simpy.Event, Any, Any]

DEVICE, EDGE, GIVEN_UP, UNSENT, EMPTY = Status  # by name once: an enumeration's members are slow to look up
WINDOW_BYTES = 10 * (MSS_BYTES + OVERHEAD_BYTES)  # a connection's first round trip: ten packets (RFC 6928), as they are on the wire


class Reference:
    """Engine of one episode: decide request after request, get each one's record."""

    def __init__(self, scenario: Scenario, streams: Streams) -> None:
        self.scenario, self.streams = scenario, streams
        self.requests = 0
        # As Python floats: numpy's scalars are three times as slow in arithmetic.
        self.arrival_s, self.rate, self.slow_down = (x.tolist() for x in (streams.arrival_s, streams.rate_bps / 8.0, streams.slow_down))
        self.give_up_s: list[float] = (deadlines(scenario, streams) + scenario.cancel_margin_s).tolist()
        self.device, self.uplink, self.edge = simpy.Environment(), simpy.Environment(), simpy.Environment()
        self.rows, platform = scenario.plans.rows, scenario.edge.platform
        self.edge_work_s = [platform.work_factor * (row.decode_s + row.edge_s) + platform.request_s for row in self.rows]
        self.restart_after_s = scenario.link.restart_after_s
        self.heat = Heat(scenario.thermal) if scenario.thermal is not None else None
        self.charge = Charge(scenario.battery, streams) if scenario.battery is not None else None
        self.loaded = Loaded(scenario.loads(), scenario.memory) if scenario.loading else None
        self.last_sent = -math.inf  # when the link was used last: a new connection begins as slowly as one that stood idle
        self.windows: dict[int, int] = {}  # members of each batch so far
        # First come, first served by time of arrival, also for a request of ours that is announced late: (time, number, work, its turn).
        self.queue = simpy.PriorityStore(self.edge)
        for _ in range(scenario.edge.servers):
            self.edge.process(self._serve())
        self.edge.process(self._background())

    def submit(self, plan: int) -> Record:
        """Run the next request with `plan` and tell what becomes of it."""
        scenario, row = self.scenario, self.rows[plan]
        arrival = self.arrival_s[self.requests]
        give_up = arrival + self.give_up_s[self.requests]
        self.requests += 1
        start, end, slow_down, found = self._run(self.device, self._compute(arrival, plan))
        if slow_down == 0.0:  # the battery is empty
            return Record(plan, EMPTY, arrival, start, end, end, end, 0.0, 0.0, max(end, give_up), 0.0, 0.0, *found)
        if row.bits == 0:
            return Record(plan, DEVICE, arrival, start, end, end, end, 0.0, 0.0, end, row.accuracy, row.device_j, *found)

        send_start, send_end, sent = self._run(self.uplink, self._send(end, row.wire_bytes, give_up))
        radio = scenario.path.radio
        sending_j = radio.base_w * (send_end - send_start) + radio.joules_per_bit * 8.0 * sent
        if sent < row.wire_bytes:
            status = UNSENT if send_start >= give_up else GIVEN_UP
            finish = send_end + row.fallback_s * slow_down
            sending_j += row.fallback_j
            if self.charge is not None:
                self.charge.unpaid_j += sending_j
            return Record(
                plan, status, arrival, start, end, send_start, send_end, sent, 0.0, finish, row.fallback_accuracy,
                row.device_j + sending_j, *found,
            )  # fmt: skip

        if self.charge is not None:
            self.charge.unpaid_j += sending_j
        ready = reached = send_end + scenario.path.rtt_s / 2
        work = self.edge_work_s[plan]
        if scenario.edge.batching is not None:
            ready, share = self._batch(reached, scenario.edge.batching)
            work *= share
        turn = self.edge.event()
        self.edge.process(self._reach(ready, work, turn))
        edge_start: float = self.edge.run(until=turn)  # type: ignore[assignment]  # the value its process gave the event
        finish = edge_start + work + scenario.path.return_s
        return Record(
            plan, EDGE, arrival, start, end, send_start, send_end, sent, edge_start - reached, finish, row.accuracy,
            row.device_j + sending_j, *found,
        )  # fmt: skip

    @staticmethod
    def _run(world: simpy.Environment, process: Process) -> Any:
        return world.run(until=world.process(process))

    def _compute(self, arrival: float, plan: int) -> Process:
        """The device's part: start, end, slow-down (0: not run), and what the start found: loading time, temperature, charge."""
        if self.device.now < arrival:
            yield self.device.timeout(arrival - self.device.now)
        row = self.rows[plan]
        start, heat, charge = self.device.now, self.heat, self.charge
        slow_down, load, temperature, joules = self.slow_down[self.streams.slot(start)], 0.0, 0.0, 0.0
        if heat is not None:
            heat.rest(start)
            temperature = heat.temperature_c
            slow_down *= heat.throttle()
        if charge is not None:
            charge.reckon(start, self.last_sent + self.scenario.path.rtt_s / 2)
            joules = charge.charge_j
            if joules < row.device_j:
                return start, start, 0.0, (0.0, temperature, joules)
            charge.charge_j -= row.device_j
        if self.loaded is not None:
            load = self.loaded.load_s(plan)
        yield self.device.timeout(load + (row.device_s + row.encode_s) * slow_down)
        if heat is not None:
            heat.work(self.device.now)
        return start, self.device.now, slow_down, (load, temperature, joules)

    def _send(self, ready: float, wire_bytes: float, give_up: float) -> Process:
        if self.uplink.now < ready:
            yield self.uplink.timeout(ready - self.uplink.now)
        if self.uplink.now < give_up and self.uplink.now - self.last_sent > self.restart_after_s:
            wait = self._window_wait(wire_bytes)
            if wait >= give_up - self.uplink.now:
                yield self.uplink.timeout(give_up - self.uplink.now)
                self.last_sent = give_up
                return give_up, give_up, 0.0
            yield self.uplink.timeout(wait)
        start = self.uplink.now
        if start >= give_up:
            return start, start, 0.0
        left, slot = wire_bytes, self.streams.slot(start)
        while True:
            now, rate = self.uplink.now, self.rate[slot]
            last = slot == len(self.rate) - 1
            until = give_up if last else min(give_up, (slot + 1) * self.streams.slot_s)
            if left <= rate * (until - now):
                yield self.uplink.timeout(left / rate)
                self.last_sent = self.uplink.now
                return start, self.uplink.now, float(wire_bytes)
            yield self.uplink.timeout(max(0.0, until - now))
            left -= rate * (until - now)
            if until >= give_up:
                self.last_sent = self.uplink.now
                return start, self.uplink.now, wire_bytes - left
            slot += 1

    def _window_wait(self, left: float) -> float:
        """How long the link would stand while a window of ten packets, doubled each round trip, grows to what it carries in one."""
        rate, rtt, window, waited = self.rate[self.streams.slot(self.uplink.now)], self.scenario.path.rtt_s, float(WINDOW_BYTES), 0.0
        while window < left and window < rate * rtt:
            waited += rtt - window / rate
            left -= window
            window *= 2
        return waited

    def _batch(self, reached: float, batching: Batching) -> tuple[float, float]:
        """When a request that reaches the edge may begin, and which share of its own work it adds to its batch."""
        window = int(reached / batching.window_s)
        member = self.windows.get(window, 0)
        self.windows[window] = member + 1
        shares = batching.shares()
        return (window + 1) * batching.window_s, shares[min(member, len(shares) - 1)]

    def _reach(self, ready: float, work_s: float, turn: simpy.Event) -> Process:
        # A request that is announced late takes its place before anything else happens: it is before all that waits.
        if ready >= self.edge.now:
            yield self.edge.timeout(ready - self.edge.now)
            # Background work that arrives in the same instant goes first: let all that happens now happen.
            while self.edge.peek() == self.edge.now:
                yield self.edge.timeout(0.0)
        self.queue.put((ready, self.requests, work_s, turn))

    def _serve(self) -> Process:
        while True:
            _, _, work_s, turn = yield self.queue.get()
            if turn is not None:
                turn.succeed(self.edge.now)
            yield self.edge.timeout(work_s)

    def _background(self) -> Process:
        jobs = list(zip(self.streams.job_arrival_s.tolist(), self.streams.job_service_s.tolist(), strict=True))
        for number, (arrival, work_s) in enumerate(jobs, -len(jobs)):  # before any of our requests of the same instant
            yield self.edge.timeout(max(0.0, arrival - self.edge.now))
            self.queue.put((arrival, number, work_s, None))

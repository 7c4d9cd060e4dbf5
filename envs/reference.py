"""The SimPy engine, written as the specification of the simulator.

A request passes three stations in order: the device's processor, the uplink, the edge server. Nobody overtakes on the
first two, so what becomes of a request depends on decisions up to its own and on the streams, and an environment wants
to know it at once. Therefore each station is a small SimPy world with a clock of its own, which runs ahead exactly as
far as this request needs, and no further:

    device, uplink   until this request has left: nobody else uses them, so the clock stands where the next one may begin
    edge             until this request's turn has come. All servers are busy until then, so whoever arrived later has not
                     begun; a later request of ours that arrives before them takes its place by time of arrival

A transfer that is not done in time is given up: the link is free again, and the device answers with `fallback_s` of work that is
charged to this request, but does not occupy the processor for others.

This is how conservative parallel simulation couples clocks (Chandy and Misra 1979). The compiled engine in `kernel.py`
computes the same records in closed form; a property test holds the two and a plain one-clock SimPy model equal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import simpy

from cutlayer.envs.record import Record, Status

if TYPE_CHECKING:
    from collections.abc import Generator

    from cutlayer.envs.spec import Scenario
    from cutlayer.envs.streams import Streams

    Process = Generator[simpy.Event, Any, Any]


class Reference:
    """Engine of one episode: decide request after request, get each one's record."""

    def __init__(self, scenario: Scenario, streams: Streams) -> None:
        self.scenario, self.streams = scenario, streams
        self.requests = 0
        # As Python floats: numpy's scalars are three times as slow in arithmetic.
        self.arrival_s, self.rate, self.slow_down = (x.tolist() for x in (streams.arrival_s, streams.rate_bps / 8.0, streams.slow_down))
        self.device, self.uplink, self.edge = simpy.Environment(), simpy.Environment(), simpy.Environment()
        # First come, first served by time of arrival, also for a request of ours that is announced late.
        self.server = simpy.PriorityResource(self.edge)
        self.edge.process(self._background())

    def submit(self, plan: int) -> Record:
        """Run the next request with `plan` and tell what becomes of it."""
        scenario, row = self.scenario, self.scenario.plans.rows[plan]
        arrival = self.arrival_s[self.requests]
        self.requests += 1
        start, end, slow_down = self._run(self.device, self._compute(arrival, row.device_s + row.encode_s))
        if row.bits == 0:
            return Record(plan, Status.DEVICE, arrival, start, end, end, end, 0.0, 0.0, end, row.accuracy, row.device_j)

        give_up = arrival + scenario.give_up_s
        send_start, send_end, sent = self._run(self.uplink, self._send(end, row.wire_bytes, give_up))
        radio = scenario.path.radio
        energy = row.device_j + radio.base_w * (send_end - send_start) + radio.joules_per_bit * 8.0 * sent
        if sent < row.wire_bytes:
            status = Status.UNSENT if send_start >= give_up else Status.GIVEN_UP
            finish = send_end + row.fallback_s * slow_down
            energy += row.fallback_j
            return Record(
                plan, status, arrival, start, end, send_start, send_end, sent, 0.0, finish, row.fallback_accuracy, energy
            )  # fmt: skip

        reached = send_end + scenario.path.rtt_s / 2
        turn = self.edge.event()
        work = row.decode_s + row.edge_s
        self.edge.process(self._serve(reached, work, turn))
        edge_start: float = self.edge.run(until=turn)  # type: ignore[assignment]  # the value its process gave the event
        finish = edge_start + work + scenario.path.return_s
        return Record(
            plan, Status.EDGE, arrival, start, end, send_start, send_end, sent, edge_start - reached, finish, row.accuracy, energy
        )  # fmt: skip

    @staticmethod
    def _run(world: simpy.Environment, process: Process) -> Any:
        return world.run(until=world.process(process))

    def _compute(self, arrival: float, work_s: float) -> Process:
        if self.device.now < arrival:
            yield self.device.timeout(arrival - self.device.now)
        start = self.device.now
        slow_down = self.slow_down[self.streams.slot(start)]
        yield self.device.timeout(work_s * slow_down)
        return start, self.device.now, slow_down

    def _send(self, ready: float, wire_bytes: float, give_up: float) -> Process:
        if self.uplink.now < ready:
            yield self.uplink.timeout(ready - self.uplink.now)
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
                return start, self.uplink.now, float(wire_bytes)
            yield self.uplink.timeout(max(0.0, until - now))
            left -= rate * (until - now)
            if until >= give_up:
                return start, self.uplink.now, wire_bytes - left
            slot += 1

    def _serve(self, arrival: float, work_s: float, started: simpy.Event) -> Process:
        # A request that is announced late asks for its turn before anything else happens: its place is before all that waits.
        if arrival >= self.edge.now:
            yield self.edge.timeout(arrival - self.edge.now)
            # Background work that arrives in the same instant goes first: let all that happens now happen.
            while self.edge.peek() == self.edge.now:
                yield self.edge.timeout(0.0)
        with self.server.request(priority=arrival) as turn:  # type: ignore[arg-type]  # any ordered value will do
            yield turn
            started.succeed(self.edge.now)
            yield self.edge.timeout(work_s)

    def _background(self) -> Process:
        for arrival, work_s in zip(self.streams.job_arrival_s.tolist(), self.streams.job_service_s.tolist(), strict=True):
            yield self.edge.timeout(max(0.0, arrival - self.edge.now))
            self.edge.process(self._serve_other(arrival, work_s))

    def _serve_other(self, arrival: float, work_s: float) -> Process:
        with self.server.request(priority=arrival) as turn:  # type: ignore[arg-type]  # as above
            yield turn
            yield self.edge.timeout(work_s)

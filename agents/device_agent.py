"""A device agent in a simulated world: tells who decides what a real agent would tell, each part when it would know it."""

from __future__ import annotations

import heapq
import itertools
import math
from typing import TYPE_CHECKING, Protocol

from cutlayer.envs.record import Status
from cutlayer.envs.simulation import Simulation
from cutlayer.runtime import telemetry as tm
from cutlayer.runtime.messages import Outcome, Progress, Request

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cutlayer.envs.record import Record
    from cutlayer.envs.spec import Scenario
    from cutlayer.envs.streams import Streams
    from cutlayer.runtime.messages import Decision


class Decider(Protocol):
    """A controller, or the way to one: simulated time comes with each message."""

    def decide(self, at_s: float, request: Request) -> Decision:
        """The plan for a request."""
        ...

    def progress(self, at_s: float, progress: Progress) -> None:
        """Take in how far a request has come."""
        ...

    def report(self, at_s: float, outcome: Outcome) -> None:
        """Take in what became of a request."""
        ...


class Agent:
    """Keeps what is to be told until its time."""

    def __init__(self, scenario: Scenario, decider: Decider) -> None:
        self._decider = decider
        self._late_s = scenario.path.rtt_s / 2  # until an acknowledgement is back
        self._senses = not scenario.plain
        self._replied_s = 0.0
        self._coming: list[tuple[float, int, Progress | Outcome]] = []
        self._order = itertools.count()

    def ran(self, number: int, record: Record) -> None:
        """The record of a request: what will be told of it, and when."""
        plan, start_s, took_s = record.plan, record.device_start_s, record.device_end_s - record.device_start_s
        temperature_c, charge_j = (record.temperature_c, record.charge_j) if self._senses else (None, None)
        if record.status is Status.EMPTY:  # a device without charge tells nothing
            return
        begun = Progress(number, plan, start_s, load_s=record.load_s, temperature_c=temperature_c, charge_j=charge_j)
        self._at(start_s, begun)
        if record.status is Status.DEVICE:
            self._at(record.device_end_s, Outcome(plan, start_s, took_s, id=number, load_s=record.load_s))
            return
        self._at(record.device_end_s, Progress(number, plan, start_s, took_s, record.load_s))
        self._at(record.send_start_s + self._late_s, Progress(number, plan, send_start_s=record.send_start_s + self._late_s))
        self._at(record.send_end_s + self._late_s, Progress(number, plan, sent=True))
        answered = record.status is Status.EDGE
        # Reports are made in order: one that is ready early waits for those before it.
        self._replied_s = max(self._replied_s, record.finish_s if answered else record.send_end_s + self._late_s)
        outcome = Outcome(
            plan,
            start_s,
            took_s,
            record.send_start_s,
            record.send_end_s - record.send_start_s,
            record.sent_bytes,
            edge_wait_s=record.edge_wait_s if answered else -1.0,
            id=number,
            latency_s=record.latency_s,
            load_s=record.load_s,
        )
        self._at(self._replied_s, outcome)

    def _at(self, when_s: float, event: Progress | Outcome) -> None:
        heapq.heappush(self._coming, (when_s, next(self._order), event))

    def tell(self, now_s: float) -> None:
        """Everything that is known by now."""
        while self._coming and self._coming[0][0] <= now_s:
            when_s, _, event = heapq.heappop(self._coming)
            if isinstance(event, Progress):
                self._decider.progress(when_s, event)
            else:
                self._decider.report(when_s, event)


def request(world: Simulation) -> Request:
    """What comes with the present request; number 0 would mean that the agent gives none."""
    scenario, readings = world.scenario, world.readings
    told = scenario.link.rate_told
    broadcast = scenario.edge.broadcast_s is not None and readings[tm.EDGE_QUEUE_AT] != tm.NEVER
    return Request(
        world.request + 1,
        world.acked_bytes(),
        deadline_s=-1.0 if scenario.deadlines is None else world.deadline_s,
        link_bps=readings[tm.RATE_BPS] if told else -1.0,
        link_at_s=readings[tm.RATE_AT] if told else -1.0,
        edge_queue_s=readings[tm.EDGE_QUEUE_S] if broadcast else -1.0,
        edge_queue_at_s=readings[tm.EDGE_QUEUE_AT] if broadcast else -1.0,
    )


def drive(scenario: Scenario, streams: Streams, decider: Decider) -> Iterator[tuple[Decision, Record]]:
    """One episode, decided by the decider, which is told everything; at the end, the rest too."""
    world, agent = Simulation(scenario, streams), Agent(scenario, decider)
    while not world.done:
        agent.tell(world.now_s)
        number = world.request + 1
        decision = decider.decide(world.now_s, request(world))
        record = world.decide(decision.plan)
        agent.ran(number, record)
        yield decision, record
    agent.tell(math.inf)

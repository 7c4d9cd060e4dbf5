"""One episode: an engine, and the telemetry that the device would have gathered by now.

The engine tells the whole record of a request when it is decided; `Observer` lets each part of it become known only when
the device would know it, through `runtime.telemetry`, the code that runs on the device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from cutlayer.envs.broadcast import EdgeQueue
from cutlayer.envs.compiling import encode
from cutlayer.envs.kernel import Kernel
from cutlayer.envs.record import Status
from cutlayer.envs.reference import Reference
from cutlayer.envs.streams import deadlines
from cutlayer.runtime import features
from cutlayer.runtime import telemetry as tm

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cutlayer.envs.record import Record
    from cutlayer.envs.spec import Scenario
    from cutlayer.envs.streams import Streams
    from cutlayer.profiles.plans import PlanTable

DEVICE, EDGE, GIVEN_UP, UNSENT, EMPTY = Status  # by name once: an enumeration's members are slow to look up
EngineName = Literal["simpy", "kernel"]


class Engine(Protocol):
    """Runs requests in order."""

    def submit(self, plan: int) -> Record:
        """Run the next request with `plan` and tell what becomes of it."""
        ...


ENGINES: dict[EngineName, type[Reference | Kernel]] = {"simpy": Reference, "kernel": Kernel}


class Observer:
    """What the device knows of the records so far, at a time that only moves forward.

    Each stage has a pointer to the first request that has not passed it yet; requests pass each stage in order. The
    sender learns of the link half a round trip late, and of a rate when the reply is back.
    """

    def __init__(self, scenario: Scenario, streams: Streams) -> None:
        self._plans, self._streams = scenario.plans, streams
        self._late_s = scenario.path.rtt_s / 2
        self._senses, self._told = not scenario.plain, scenario.link.rate_told
        self._unit = scenario.loads().unit if scenario.loading else None
        self._due: list[float] = [] if streams.deadline_s is None else streams.deadline_s.tolist()
        self._queue = EdgeQueue(scenario, streams) if scenario.edge.broadcast_s is not None else None
        self._scale = np.array(features.scales(scenario.plans, scenario.objective.deadline_s, scenario.blocks))
        self._size = features.size(scenario.blocks)
        self.readings = tm.fresh()
        self._computed: list[Record] = []
        self._sent: list[Record] = []
        self._at_device = self._at_link = self._at_reply = 0

    def decided(self, record: Record) -> None:
        """A request was decided, and this will become of it."""
        row = self._plans.rows[record.plan]
        tm.decided(self.readings, row.device_s + row.encode_s, row.wire_bytes)
        if self._unit is not None:
            tm.loads(self.readings, self._unit[record.plan])
        self._computed.append(record)
        if record.status is not DEVICE:
            self._sent.append(record)

    def arrived(self, now_s: float) -> None:
        """A request comes in: all that the device knows by `now_s` enters the readings."""
        self._device(now_s)
        self._link(now_s)
        self._replies(now_s)
        if self._told:
            known_s = max(0.0, now_s - self._late_s)
            tm.rate_told(self.readings, known_s, float(self._streams.rate_bps[self._streams.slot(known_s)]))
        if self._queue is not None:
            self._queue.hear(self.readings, now_s - self._late_s, self._sent)
        if self._due:
            # At the end of the episode no request waits: the last one's deadline stays.
            tm.due(self.readings, self._due[min(len(self._computed), len(self._due) - 1)])
        tm.arrived(self.readings, now_s)

    def observation(self, now_s: float) -> NDArray[np.float32]:
        """The readings as features; a new array each time."""
        out = np.empty(self._size, np.float32)
        encode(np.array(self.readings), self._scale, now_s, self.acked_bytes(now_s), out)
        return out

    def acked_bytes(self, now_s: float) -> float:
        """Bytes of the running transfer that the sender knows to have arrived."""
        if self.readings[tm.SENDING_SINCE] == tm.NEVER:
            return 0.0
        return self._streams.carried_bytes(self._sent[self._at_link].send_start_s, now_s - self._late_s)

    def _device(self, now_s: float) -> None:
        while self._at_device < len(self._computed):
            record = self._computed[self._at_device]
            if record.device_start_s > now_s:
                return
            row = self._plans.rows[record.plan]
            work_s, took_s = row.device_s + row.encode_s, record.device_end_s - record.device_start_s
            if self._senses:
                tm.sensed(self.readings, record.device_start_s, record.temperature_c, record.charge_j)
            if record.status is EMPTY:
                tm.device_skipped(self.readings, work_s)
                self._at_device += 1
                continue
            tm.device_started(self.readings, record.device_start_s, work_s, record.load_s)
            if record.device_end_s > now_s:
                return
            tm.device_ended(self.readings, record.device_end_s, work_s, took_s, record.load_s)
            if record.status is DEVICE:
                tm.finished(self.readings)
            self._at_device += 1

    def _link(self, now_s: float) -> None:
        known_s = now_s - self._late_s
        while self._at_link < len(self._sent):
            record = self._sent[self._at_link]
            if record.send_start_s > known_s:
                return
            tm.send_started(self.readings, record.send_start_s + self._late_s)
            if record.send_end_s > known_s:
                return
            tm.send_ended(self.readings, self._plans.rows[record.plan].wire_bytes)
            self._at_link += 1

    def _replies(self, now_s: float) -> None:
        while self._at_reply < len(self._sent):
            record = self._sent[self._at_reply]
            known_s = record.finish_s if record.status is EDGE else record.send_end_s + self._late_s
            # Reports are taken in order: one that is ready early waits for those before it.
            if known_s > now_s:
                return
            if record.status in (EDGE, GIVEN_UP):
                tm.sampled(self.readings, record.send_end_s, record.send_end_s - record.send_start_s, record.sent_bytes)
            if record.status is EDGE:
                tm.edge_waited(self.readings, record.finish_s, record.edge_wait_s)
            tm.finished(self.readings)
            self._at_reply += 1


class View(Protocol):
    """What a policy may look at when it decides."""

    @property
    def readings(self) -> list[float]:
        """Telemetry, by the indices of `runtime.telemetry`."""
        ...

    @property
    def now_s(self) -> float:
        """The present, seconds."""
        ...

    @property
    def deadline_s(self) -> float:
        """By when the present request has to be answered, seconds from now."""
        ...

    @property
    def plans(self) -> PlanTable:
        """What can be chosen."""
        ...

    def acked_bytes(self) -> float:
        """Bytes of the running transfer that are acknowledged."""
        ...

    def observation(self) -> NDArray[np.float32]:
        """The readings as features."""
        ...


class Simulation:
    """An episode that is decided request by request; it is its own `View` of the present request."""

    def __init__(self, scenario: Scenario, streams: Streams, engine: EngineName = "kernel") -> None:
        self.scenario, self.streams = scenario, streams
        self.plans = scenario.plans
        self.request = 0
        self._arrival_s: list[float] = streams.arrival_s.tolist()
        self._deadline_s: list[float] = deadlines(scenario, streams).tolist()
        self._engine: Engine = ENGINES[engine](scenario, streams)
        self._observer = Observer(scenario, streams)
        self._observer.arrived(self.now_s)

    @property
    def now_s(self) -> float:
        """Arrival of the request that waits for a decision; after the last one, the end of the episode."""
        return self._arrival_s[self.request]

    @property
    def deadline_s(self) -> float:
        """See `View`; after the last request that of the last one."""
        return self._deadline_s[min(self.request, len(self._deadline_s) - 1)]

    @property
    def done(self) -> bool:
        """Whether every request was decided."""
        return self.request == len(self._arrival_s) - 1

    @property
    def readings(self) -> list[float]:
        """See `View`."""
        return self._observer.readings

    def acked_bytes(self) -> float:
        """See `View`."""
        return self._observer.acked_bytes(self.now_s)

    def observation(self) -> NDArray[np.float32]:
        """See `View`."""
        return self._observer.observation(self.now_s)

    def decide(self, plan: int) -> Record:
        """Run the present request with `plan`, tell what becomes of it, and go on to the next arrival."""
        record = self._engine.submit(plan)
        self._observer.decided(record)
        self.request += 1
        self._observer.arrived(self.now_s)
        return record

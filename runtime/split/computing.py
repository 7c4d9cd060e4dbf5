"""How the edge computes: one request at a time, or as one batch those that reach it within one window.

Batches are off unless asked for: on one core a batch of four takes four times as long as one request, so nothing is gained; it pays where
the runtime has more cores, or a processor, than one request keeps busy. The simulator's `envs.spec.Batching` is this rule: a window of
window_s begins at each multiple of it, and what reached the edge within begins at its end. It counts all requests of a window as one batch;
here only those of one exit and partition are, because they run the same graph.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from cutlayer.profiles.codecs import decode
from cutlayer.runtime.split.protocol import Request, Status

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from cutlayer.runtime.split.graphs import Graphs

Answer = tuple[Status, bytes, tuple[float, float, float]]  # logits, and seconds of waiting, decoding and computing
logger = logging.getLogger("cutlayer.edge")


class OneByOne:
    """Computes a request when those before it are done: the profiles are those of an edge that serves one at a time."""

    def __init__(self, graphs: Graphs, clock: Callable[[], float]) -> None:
        self._graphs = graphs
        self._clock = clock
        self._turn = threading.Lock()

    def __call__(self, request: Request, payload: memoryview, first_s: float) -> Answer:
        """What becomes of `request`, whose first bytes came at the instant first_s."""
        arrived_s = self._clock()
        with self._turn:
            start_s = self._clock()
            queue_s = start_s - arrived_s
            if start_s > _due_s(request, first_s):
                return Status.LATE, b"", (queue_s, 0.0, 0.0)
            try:
                x = decode(payload, request.bits, request.lo, request.scale, self._graphs.shapes.cuts[request.partition])
                decoded_s = self._clock()
                logits = self._graphs.suffix(request.partition, request.exit, x).tobytes()
            except Exception:  # whatever the runtime raises, the device is told and the server goes on
                logger.exception("exit %d from cut %d failed", request.exit, request.partition)
                return Status.FAILED, b"", (queue_s, 0.0, 0.0)
            return Status.OK, logits, (queue_s, decoded_s - start_s, self._clock() - decoded_s)


@dataclass(slots=True, eq=False)
class _Member:
    """A request of a batch; behind its tensor what became of it."""

    x: NDArray[np.float32]
    due_s: float
    status: Status = Status.FAILED
    logits: bytes = b""
    start_s: float = 0.0
    compute_s: float = 0.0


@dataclass(slots=True, eq=False)
class _Batch:
    """What is collected until end_s; full: no more fit in, done: every member is answered."""

    end_s: float
    members: list[_Member] = field(default_factory=list)
    full: threading.Event = field(default_factory=threading.Event)
    done: threading.Event = field(default_factory=threading.Event)


class Batches:
    """Collects requests of one exit and partition: a batch begins when its window ends, or at once when it has `size` members.

    Each thread decodes its own request; the first of a batch waits for the others and runs it. clock is in seconds; wait(event, seconds)
    returns when either has come.
    """

    def __init__(
        self,
        graphs: Graphs,
        window_s: float,
        size: int,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[threading.Event, float], Any] = threading.Event.wait,
    ) -> None:
        self._graphs = graphs
        self._window_s = window_s
        self._size = size
        self._clock = clock
        self._wait = wait
        self._turn = threading.Lock()
        self._guard = threading.Lock()  # of what is open and its members
        self._open: dict[tuple[int, int], _Batch] = {}

    def __call__(self, request: Request, payload: memoryview, first_s: float) -> Answer:
        """What becomes of `request`, whose first bytes came at the instant first_s; it waits for its batch and is computed with it."""
        arrived_s = self._clock()
        try:
            x = decode(payload, request.bits, request.lo, request.scale, self._graphs.shapes.cuts[request.partition])
        except Exception:  # before it could join the others: it harms none of them
            logger.exception("decoding cut %d failed", request.partition)
            return Status.FAILED, b"", (0.0, 0.0, 0.0)
        joined_s = self._clock()
        member = _Member(x, _due_s(request, first_s))
        self._answer((request.partition, request.exit), member, joined_s)
        return member.status, member.logits, (member.start_s - joined_s, joined_s - arrived_s, member.compute_s)

    def _answer(self, graph: tuple[int, int], member: _Member, now_s: float) -> None:
        with self._guard:
            batch = self._open.get(graph)
            leads = batch is None or batch.end_s <= now_s
            if batch is None or leads:
                batch = self._open[graph] = _Batch((math.floor(now_s / self._window_s) + 1) * self._window_s)
            batch.members.append(member)
            if len(batch.members) == self._size:
                del self._open[graph]
                batch.full.set()
        if not leads:
            batch.done.wait()
            return
        try:
            self._wait(batch.full, batch.end_s - now_s)
            with self._guard:
                if self._open.get(graph) is batch:  # whoever comes from now on opens the next one
                    del self._open[graph]
            with self._turn:
                self._run(graph, batch.members)
        finally:
            batch.done.set()

    def _run(self, graph: tuple[int, int], members: list[_Member]) -> None:
        start_s = self._clock()
        for member in members:
            member.start_s = start_s
            if start_s > member.due_s:
                member.status = Status.LATE
        timely = [member for member in members if member.status != Status.LATE]
        try:
            if len(timely) > 1:
                rows = self._graphs.suffixes(*graph, np.stack([member.x for member in timely]))
                for member, logits in zip(timely, rows, strict=True):
                    member.status, member.logits = Status.OK, logits.tobytes()
        except Exception:  # one of them may be at fault: each by itself then
            logger.exception("a batch of %d, exit %d from cut %d, failed", len(timely), graph[1], graph[0])
        for member in timely:
            if member.status != Status.OK:
                self._run_alone(graph, member)
        compute_s = self._clock() - start_s
        for member in timely:
            member.compute_s = compute_s

    def _run_alone(self, graph: tuple[int, int], member: _Member) -> None:
        try:
            member.logits = self._graphs.suffix(*graph, member.x).tobytes()
            member.status = Status.OK
        except Exception:  # whatever the runtime raises, the device is told and the server goes on
            logger.exception("exit %d from cut %d failed", graph[1], graph[0])


def _due_s(request: Request, first_s: float) -> float:
    """The instant after which nobody waits for `request` any more."""
    return first_s + request.deadline_s if request.deadline_s > 0 else math.inf

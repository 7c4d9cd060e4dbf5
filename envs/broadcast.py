"""What the edge tells of its queue, reckoned from what has reached it by then and from nothing later.

The rule is that of `spec.Edge`. A record holds when its request reached the edge and when it left; the streams hold the jobs. Taken
in the order in which they queue, each goes to the server that is free first, as in the engines, and what is queued up to the
instant of a broadcast says how long a newcomer would wait. Requests that are decided later reach the edge later than what a
device can have heard of, so none is missing; a request's departure may lie ahead, but hangs on those before it alone.

`EdgeQueue` does it on the records of one episode, `hear` on the rows of a lane.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from cutlayer.envs import kernel
from cutlayer.envs.record import Status
from cutlayer.runtime import telemetry as tm

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from cutlayer.envs.record import Record
    from cutlayer.envs.spec import Scenario
    from cutlayer.envs.streams import Streams

composed = kernel.composed
R_STATUS, R_SEND_END, R_FINISH = kernel.R_STATUS, kernel.R_SEND_END, kernel.R_FINISH
HALF_RTT_S, RETURN_S = kernel.HALF_RTT_S, kernel.RETURN_S
BROADCAST_S, WINDOW_S, SERVER_COUNT = kernel.BROADCAST_S, kernel.WINDOW_S, kernel.SERVER_COUNT
EDGE = float(Status.EDGE)
AT_EDGE, AT_JOB = 5, 6  # of a lane's place, behind those of `batch`: the first request and the first job that have not been taken up


class EdgeQueue:
    """The servers of an edge that broadcasts, as far as the device can have heard of them."""

    def __init__(self, scenario: Scenario, streams: Streams) -> None:
        self._edge, self._path = scenario.edge, scenario.path
        # As the compiled engine holds them: differences of the work up to each job.
        work = np.concatenate([[0.0], np.cumsum(streams.job_service_s)])
        self._arrival_s: list[float] = streams.job_arrival_s.tolist()
        self._work_s: list[float] = (work[1:] - work[:-1]).tolist()
        self._free_s = [0.0] * scenario.edge.servers
        self._request = self._job = 0

    def hear(self, readings: list[float], known_s: float, sent: Sequence[Record]) -> None:
        """Enter the latest broadcast that was sent by `known_s`; `sent` are the records of all requests that were to be sent."""
        period_s = self._edge.broadcast_s
        if period_s is None or known_s < 0.0:
            return
        at_s = period_s * math.floor(known_s / period_s)
        if at_s != readings[tm.EDGE_QUEUE_AT]:
            self._take_up(at_s, sent)
            tm.edge_told(readings, at_s, max(0.0, min(self._free_s) - at_s))
        self._take_up(known_s, sent)

    def _take_up(self, until_s: float, sent: Sequence[Record]) -> None:
        """Let all that has queued up by then have its server."""
        while True:
            while self._request < len(sent) and sent[self._request].status is not Status.EDGE:
                self._request += 1
            ready_s = self._ready_s(sent[self._request]) if self._request < len(sent) else math.inf
            arrival_s = self._arrival_s[self._job] if self._job < len(self._arrival_s) else math.inf
            if min(ready_s, arrival_s) > until_s:
                return
            server = self._free_s.index(min(self._free_s))
            if arrival_s <= ready_s:
                self._free_s[server] = max(arrival_s, self._free_s[server]) + self._work_s[self._job]
                self._job += 1
            else:
                self._free_s[server] = sent[self._request].finish_s - self._path.return_s
                self._request += 1

    def _ready_s(self, record: Record) -> float:
        reached_s, batching = record.send_end_s + self._path.rtt_s / 2, self._edge.batching
        return reached_s if batching is None else (int(reached_s / batching.window_s) + 1) * batching.window_s


@composed
def _take_up(
    until: float,
    lane: int,
    requests: int,
    half_rtt: float,
    back: float,
    episode: int,
    job_arrival: NDArray[np.float64],
    job_work: NDArray[np.float64],
    settings: NDArray[np.float64],
    places: NDArray[np.int64],
    rows: NDArray[np.float64],
    free: NDArray[np.float64],
) -> None:
    mask, window = rows.shape[1] - 1, settings[WINDOW_S]
    request, job = places[lane, AT_EDGE], places[lane, AT_JOB]
    while True:
        while request < requests and rows[lane, request & mask, R_STATUS] != EDGE:
            request += 1
        ready, arrival = np.inf, np.inf
        if request < requests:
            ready = rows[lane, request & mask, R_SEND_END] + half_rtt
            if window > 0.0:
                ready = (float(int(ready / window)) + 1.0) * window
        if job < job_arrival.shape[1]:
            arrival = job_arrival[episode, job]
        if min(ready, arrival) > until:
            break
        server = np.argmin(free)
        if arrival <= ready:
            free[server] = max(arrival, free[server]) + (job_work[episode, job + 1] - job_work[episode, job])
            job += 1
        else:
            free[server] = rows[lane, request & mask, R_FINISH] - back
            request += 1
    places[lane, AT_EDGE], places[lane, AT_JOB] = request, job


@composed
def hear(
    now: float,
    lane: int,
    requests: int,
    episode: int,
    parameters: NDArray[np.float64],
    job_arrival: NDArray[np.float64],
    job_work: NDArray[np.float64],
    settings: NDArray[np.float64],
    places: NDArray[np.int64],
    rows: NDArray[np.float64],
    state: NDArray[np.float64],
    readings: Any,
) -> None:
    """Enter the latest broadcast that the lane's device has heard by `now`; it is as far as its place and the end of its `state` say."""
    period, known = settings[BROADCAST_S], now - parameters[HALF_RTT_S]
    if period == 0.0 or known < 0.0:
        return
    free = state[len(state) - int(settings[SERVER_COUNT]) :]
    half_rtt, back, sent = parameters[HALF_RTT_S], parameters[RETURN_S], period * math.floor(known / period)
    if sent != readings[tm.EDGE_QUEUE_AT]:
        _take_up(sent, lane, requests, half_rtt, back, episode, job_arrival, job_work, settings, places, rows, free)
        tm.edge_told(readings, sent, max(0.0, free.min() - sent))
    _take_up(known, lane, requests, half_rtt, back, episode, job_arrival, job_work, settings, places, rows, free)

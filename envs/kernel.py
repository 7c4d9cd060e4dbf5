"""The compiled engine: the same records as `reference.py` in closed form, on a state of five numbers.

Because the state is so small, cloning a world is copying five numbers: the clairvoyant planner searches on it.

    device   D' = max(t, D) + work * f(start)
    uplink   U' = the time at which C(max(D', U)) + bytes have been carried, C the integral of the rate
    edge     with background jobs that arrive at a_j and bring S_j = s_1 + ... + s_j of work in all, and our last departure F after
             m of them: a request that finds n of them before it starts at max(x, F + S_n - S_m, S_n + M_n),
             M_n = max over j <= n of a_j - S_(j-1)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
from numba import njit

from cutlayer.envs.record import Record, Status

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from cutlayer.envs.spec import Scenario
    from cutlayer.envs.streams import Streams

Function = TypeVar("Function")
# numba is untyped; a compiled function keeps its signature. Nothing here divides by zero: the check in front of each division goes.
compiled = cast("Callable[[Function], Function]", njit(cache=True, error_model="numpy"))
# The same for functions that call into other modules: numba's cache watches a function's own file only, and would go on with old code.
composed = cast("Callable[[Function], Function]", njit(error_model="numpy"))

# Columns of the table and of a row of records, and the entries of the state and of the parameters.
WORK_S, WIRE_BYTES, EDGE_WORK_S, ACCURACY, DEVICE_J, FALLBACK_S, FALLBACK_ACCURACY, FALLBACK_J = range(8)
(
    R_STATUS, R_ARRIVAL, R_DEVICE_START, R_DEVICE_END, R_SEND_START, R_SEND_END,
    R_SENT, R_EDGE_WAIT, R_FINISH, R_ACCURACY, R_ENERGY,
) = range(11)  # fmt: skip
ROW = 11
DEVICE_FREE, UPLINK_FREE, EDGE_DEPARTURE, EDGE_JOBS, SLOT = range(5)
STATE = 5
GIVE_UP_S, HALF_RTT_S, RETURN_S, SLOT_S, BASE_W, JOULES_PER_BIT = range(6)

DEVICE, EDGE, GIVEN_UP, UNSENT = (float(status) for status in Status)


@compiled
def step(
    plan: int,
    arrival: float,
    table: NDArray[np.float64],
    parameters: NDArray[np.float64],
    episode: int,
    rate: NDArray[np.float64],
    carried: NDArray[np.float64],
    slow_down: NDArray[np.float64],
    job_arrival: NDArray[np.float64],
    job_work: NDArray[np.float64],
    job_bound: NDArray[np.float64],
    state: NDArray[np.float64],
    row: NDArray[np.float64],
) -> None:
    """Run one request of one of the episodes in the bank: read and change `state`, write its record into `row`.

    Streams are stacked, (episodes, slots) and (episodes, jobs): an index costs nothing, a slice a reference count.
    """
    slot_s, slots = parameters[SLOT_S], rate.shape[1]
    start = max(arrival, state[DEVICE_FREE])
    slow = slow_down[episode, min(int(start / slot_s), slots - 1)]
    end = start + table[plan, WORK_S] * slow
    state[DEVICE_FREE] = end
    energy = table[plan, DEVICE_J]
    row[R_STATUS], row[R_ARRIVAL], row[R_DEVICE_START], row[R_DEVICE_END] = DEVICE, arrival, start, end
    row[R_SEND_START], row[R_SEND_END], row[R_SENT], row[R_EDGE_WAIT] = end, end, 0.0, 0.0
    row[R_FINISH], row[R_ACCURACY], row[R_ENERGY] = end, table[plan, ACCURACY], energy
    wire_bytes = table[plan, WIRE_BYTES]
    if wire_bytes == 0.0:
        return

    give_up = arrival + parameters[GIVE_UP_S]
    begin = max(end, state[UPLINK_FREE])
    sent_at, sent, status = begin, 0.0, UNSENT
    if begin < give_up:
        slot = min(int(begin / slot_s), slots - 1)
        before = carried[episode, slot] + (begin - slot * slot_s) * rate[episode, slot]
        target = before + wire_bytes
        while slot < slots - 1 and carried[episode, slot + 1] < target and (slot + 1) * slot_s < give_up:
            slot += 1
        at_give_up = carried[episode, slot] + (give_up - slot * slot_s) * rate[episode, slot]
        if at_give_up >= target:
            sent_at, sent, status = slot * slot_s + (target - carried[episode, slot]) / rate[episode, slot], wire_bytes, EDGE
        else:
            sent_at, sent, status = give_up, at_give_up - before, GIVEN_UP
    state[UPLINK_FREE] = sent_at
    energy += parameters[BASE_W] * (sent_at - begin) + parameters[JOULES_PER_BIT] * 8.0 * sent
    row[R_STATUS], row[R_SEND_START], row[R_SEND_END], row[R_SENT] = status, begin, sent_at, sent
    if status != EDGE:
        row[R_FINISH] = sent_at + table[plan, FALLBACK_S] * slow
        row[R_ACCURACY] = table[plan, FALLBACK_ACCURACY]
        row[R_ENERGY] = energy + table[plan, FALLBACK_J]
        return

    reached = sent_at + parameters[HALF_RTT_S]
    m = int(state[EDGE_JOBS])
    n = m
    while n < job_arrival.shape[1] and job_arrival[episode, n] <= reached:
        n += 1
    free = max(state[EDGE_DEPARTURE] + job_work[episode, n] - job_work[episode, m], job_work[episode, n] + job_bound[episode, n])
    edge_start = max(reached, free)
    state[EDGE_DEPARTURE] = edge_start + table[plan, EDGE_WORK_S]
    state[EDGE_JOBS] = n
    row[R_EDGE_WAIT] = edge_start - reached
    row[R_FINISH] = state[EDGE_DEPARTURE] + parameters[RETURN_S]
    row[R_ENERGY] = energy


@compiled
def replay(
    plans: NDArray[np.int64],
    arrivals: NDArray[np.float64],
    table: NDArray[np.float64],
    parameters: NDArray[np.float64],
    episode: int,
    rate: NDArray[np.float64],
    carried: NDArray[np.float64],
    slow_down: NDArray[np.float64],
    job_arrival: NDArray[np.float64],
    job_work: NDArray[np.float64],
    job_bound: NDArray[np.float64],
    state: NDArray[np.float64],
    rows: NDArray[np.float64],
) -> None:
    """Run a whole episode of given plans; `rows` gets one record a request."""
    for k in range(len(plans)):
        step(
            plans[k], arrivals[k], table, parameters, episode, rate, carried, slow_down, job_arrival, job_work, job_bound, state, rows[k]
        )  # fmt: skip


Arrays = tuple[Any, Any, int, Any, Any, Any, Any, Any, Any]


def arrays(scenario: Scenario, streams: Streams) -> Arrays:
    """The arguments of `step` from `table` to `job_bound`: a bank of this one episode."""
    plans, path = scenario.plans, scenario.path
    table = np.column_stack(
        [
            plans.device_s + plans.encode_s, plans.wire_bytes, plans.decode_s + plans.edge_s, plans.accuracy,
            plans.device_j, plans.fallback_s, plans.fallback_accuracy, plans.fallback_j,
        ]
    )  # fmt: skip
    parameters = np.array([scenario.give_up_s, path.rtt_s / 2, path.return_s, streams.slot_s, path.radio.base_w, path.radio.joules_per_bit])
    rate = streams.rate_bps / 8.0
    carried = np.concatenate([[0.0], np.cumsum(rate[:-1] * streams.slot_s)])
    work = np.concatenate([[0.0], np.cumsum(streams.job_service_s)])
    bound = np.concatenate([[-np.inf], np.maximum.accumulate(streams.job_arrival_s - work[:-1])])
    bank = [stream[None] for stream in (rate, carried, streams.slow_down, streams.job_arrival_s, work, bound)]
    return table, parameters, 0, bank[0], bank[1], bank[2], bank[3], bank[4], bank[5]


def fresh_state() -> NDArray[np.float64]:
    """State of a world in which nothing has happened."""
    return np.zeros(STATE)


def record(plan: int, row: NDArray[np.float64]) -> Record:
    """A row of numbers as a record."""
    return Record(plan, Status(int(row[R_STATUS])), *row[R_ARRIVAL:].tolist())


class Kernel:
    """Engine of one episode with the face of `Reference`."""

    def __init__(self, scenario: Scenario, streams: Streams) -> None:
        self.streams = streams
        self.requests = 0
        self._arrays = arrays(scenario, streams)
        self._state, self._row = fresh_state(), np.empty(ROW)

    def submit(self, plan: int) -> Record:
        """Run the next request with `plan` and tell what becomes of it."""
        step(plan, self.streams.arrival_s[self.requests], *self._arrays, self._state, self._row)
        self.requests += 1
        return record(plan, self._row)


def run(scenario: Scenario, streams: Streams, plans: NDArray[np.int64]) -> NDArray[np.float64]:
    """Records of an episode with given plans, as rows of numbers, shape (requests, ROW)."""
    rows = np.empty((len(plans), ROW))
    replay(plans, streams.arrival_s, *arrays(scenario, streams), fresh_state(), rows)
    return rows

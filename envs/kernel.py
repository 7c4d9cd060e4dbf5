"""The compiled engine: the same records as `reference.py` in closed form, on a state of a few numbers.

Because the state is so small, cloning a world is copying those numbers: the clairvoyant planner searches on it.

    device   D' = max(t, D) + work * f(start)
    uplink   U' = the time at which C(max(D', U)) + bytes have been carried, C the integral of the rate
    edge     with background jobs that arrive at a_j and bring S_j = s_1 + ... + s_j of work in all, and our last departure F after
             m of them: a request that finds n of them before it starts at max(x, F + S_n - S_m, S_n + M_n),
             M_n = max over j <= n of a_j - S_(j-1)

That is the plain world. What else a scenario may switch on (several servers, batches, slow start, heat, charge, loading, deadlines that
differ) comes in one argument, `extra`. Where it is None the compiler drops every line that asks for it: what is off costs nothing.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

import numpy as np
from numba import njit

from cutlayer.envs.record import Record, Status
from cutlayer.profiles.cost import MSS_BYTES, OVERHEAD_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

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
    R_SENT, R_EDGE_WAIT, R_FINISH, R_ACCURACY, R_ENERGY, R_LOAD, R_TEMPERATURE, R_CHARGE,
) = range(14)  # fmt: skip
PLAIN_ROW, ROW = 11, 14  # a plain world writes no more than the first
DEVICE_FREE, UPLINK_FREE, EDGE_DEPARTURE, EDGE_JOBS = range(4)
STATE = 4  # of a plain world
# With extras: when the link was used last; the heat and when it was reckoned; the charge, when, and what is unpaid; the batch that is open
# and its members; the unit that ran last and a count of uses; a count of requests. Then when each server is free, then the last use of
# each unit; at the end, where the edge broadcasts, when each server is free as far as `broadcast.hear` has come.
LAST_SENT, HEAT_C, HEAT_AT, CHARGE_J, CHARGE_AT, UNPAID_J, WINDOW, MEMBERS, RUNNING, USES, REQUESTS = range(4, 15)
SERVERS = 15
GIVE_UP_S, HALF_RTT_S, RETURN_S, SLOT_S, BASE_W, JOULES_PER_BIT, RATE_TOLD = range(7)

DEVICE, EDGE, GIVEN_UP, UNSENT, EMPTY = (float(status) for status in Status)

# Settings of the extras; what is off has the value in brackets.
(
    SERVER_COUNT,  # [1]
    WINDOW_S,  # [0] of batching
    RESTART_S,  # [inf] idle time after which a connection starts slowly
    TIME_CONSTANT_S, IDLE_C, BUSY_C, THROTTLE_C, LIMIT_C, SLOWEST,  # [0, ...]
    CAPACITY_J, IDLE_W,  # [0, ...]
    LOADING, MEMORY_BYTES, READ_BYTES_PER_S, INIT_S,  # [0, ...]; memory -1: none is kept account of
    CANCEL_MARGIN_S,  # of requests with deadlines of their own
    BROADCAST_S,  # [0]
) = range(17)  # fmt: skip
WINDOW_BYTES = 10.0 * (MSS_BYTES + OVERHEAD_BYTES)  # a connection's first round trip: ten packets (RFC 6928), as they are on the wire


class Extra(NamedTuple):
    """What a world has beyond the plain one, as arrays.

    settings by the indices above; start is the state in which an episode begins; unit and swap_s (plans,), unit_bytes (units,);
    shares of the members of a batch; harvest_w and harvested_j (episodes, slots), the watts in each slot and the joules before it;
    deadline_s (episodes, requests), or (episodes, 0) where all have the objective's.
    """

    settings: NDArray[np.float64]
    start: NDArray[np.float64]
    unit: NDArray[np.int64]
    swap_s: NDArray[np.float64]
    unit_bytes: NDArray[np.float64]
    shares: NDArray[np.float64]
    harvest_w: NDArray[np.float64]
    harvested_j: NDArray[np.float64]
    deadline_s: NDArray[np.float64]


@compiled
def _harvested(now: float, slot_s: float, episode: int, harvest_w: NDArray[np.float64], harvested_j: NDArray[np.float64]) -> float:
    slot = min(int(now / slot_s), harvest_w.shape[1] - 1)
    total: float = harvested_j[episode, slot] + (now - slot * slot_s) * harvest_w[episode, slot]
    return total


@compiled
def _pays(start: float, device_j: float, slot_s: float, half_rtt_s: float, episode: int, extra: Extra, state: NDArray[np.float64]) -> bool:
    """Reckon the charge at `start`; whether there is enough for the device work."""
    before = state[CHARGE_AT]
    change = _harvested(start, slot_s, episode, extra.harvest_w, extra.harvested_j)
    change -= _harvested(before, slot_s, episode, extra.harvest_w, extra.harvested_j)
    change -= extra.settings[IDLE_W] * (start - before)
    if state[LAST_SENT] + half_rtt_s <= start:
        change -= state[UNPAID_J]
        state[UNPAID_J] = 0.0
    state[CHARGE_AT] = start
    state[CHARGE_J] = min(max(state[CHARGE_J] + change, 0.0), extra.settings[CAPACITY_J])
    return bool(state[CHARGE_J] >= device_j)


@compiled
def _throttle(start: float, settings: NDArray[np.float64], state: NDArray[np.float64]) -> float:
    """Cool down until `start`; the factor by which work that begins there takes longer."""
    level = settings[IDLE_C]
    state[HEAT_C] = level + (state[HEAT_C] - level) * math.exp((state[HEAT_AT] - start) / settings[TIME_CONSTANT_S])
    state[HEAT_AT] = start
    over = (state[HEAT_C] - settings[THROTTLE_C]) / (settings[LIMIT_C] - settings[THROTTLE_C])
    factor: float = 1.0 + (settings[SLOWEST] - 1.0) * min(max(over, 0.0), 1.0)
    return factor


@compiled
def _warm(end: float, settings: NDArray[np.float64], state: NDArray[np.float64]) -> None:
    level = settings[BUSY_C]
    state[HEAT_C] = level + (state[HEAT_C] - level) * math.exp((state[HEAT_AT] - end) / settings[TIME_CONSTANT_S])
    state[HEAT_AT] = end


@compiled
def _load(plan: int, extra: Extra, state: NDArray[np.float64]) -> float:
    """Make ready what `plan` runs; how long that takes. A unit's last use is its place in the order of all uses, 0: not resident."""
    unit = extra.unit[plan]
    if unit < 0:
        return 0.0
    took: float = extra.swap_s[plan] if unit != state[RUNNING] else 0.0
    state[RUNNING] = unit
    room = extra.settings[MEMORY_BYTES]
    if room < 0.0:
        return took
    first = SERVERS + int(extra.settings[SERVER_COUNT])
    size = extra.unit_bytes[unit]
    if state[first + unit] == 0.0:
        took += size / extra.settings[READ_BYTES_PER_S] + extra.settings[INIT_S]
        if size > room:
            return took
        while True:
            held, oldest = size, -1
            for other in range(len(extra.unit_bytes)):
                if state[first + other] > 0.0:
                    held += extra.unit_bytes[other]
                    if oldest < 0 or state[first + other] < state[first + oldest]:
                        oldest = other
            if held <= room:
                break
            state[first + oldest] = 0.0
    state[USES] += 1.0
    state[first + unit] = state[USES]
    return took


@compiled
def _window_wait(left: float, rate: float, rtt: float) -> float:
    """How long the link would stand while a window of ten packets, doubled each round trip, grows to what it carries in one."""
    window, waited = WINDOW_BYTES, 0.0
    while window < left and window < rate * rtt:
        waited += rtt - window / rate
        left -= window
        window *= 2.0
    return waited


@compiled
def _server(settings: NDArray[np.float64], state: NDArray[np.float64]) -> int:
    """Place of the server that is free first."""
    first = SERVERS
    for i in range(SERVERS + 1, SERVERS + int(settings[SERVER_COUNT])):
        if state[i] < state[first]:
            first = i
    return first


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
    extra: Extra | None,
    state: NDArray[np.float64],
    row: NDArray[np.float64],
) -> None:
    """Run one request of one of the episodes in the bank: read and change `state`, write its record into `row`.

    Streams are stacked, (episodes, slots) and (episodes, jobs): an index costs nothing, a slice a reference count.
    """
    slot_s, slots = parameters[SLOT_S], rate.shape[1]
    start = max(arrival, state[DEVICE_FREE])
    slow = slow_down[episode, min(int(start / slot_s), slots - 1)]
    give_up = arrival + parameters[GIVE_UP_S]
    energy = table[plan, DEVICE_J]
    if extra is not None:
        row[R_LOAD], row[R_TEMPERATURE], row[R_CHARGE] = 0.0, 0.0, 0.0
        if extra.deadline_s.shape[1] > 0:
            give_up = arrival + (extra.deadline_s[episode, int(state[REQUESTS])] + extra.settings[CANCEL_MARGIN_S])
            state[REQUESTS] += 1.0
        if extra.settings[TIME_CONSTANT_S] > 0.0:
            slow *= _throttle(start, extra.settings, state)
            row[R_TEMPERATURE] = state[HEAT_C]
        if extra.settings[CAPACITY_J] > 0.0:
            enough = _pays(start, energy, slot_s, parameters[HALF_RTT_S], episode, extra, state)
            row[R_CHARGE] = state[CHARGE_J]
            if not enough:
                state[DEVICE_FREE] = start
                row[R_STATUS], row[R_ARRIVAL], row[R_DEVICE_START], row[R_DEVICE_END] = EMPTY, arrival, start, start
                row[R_SEND_START], row[R_SEND_END], row[R_SENT], row[R_EDGE_WAIT] = start, start, 0.0, 0.0
                row[R_FINISH], row[R_ACCURACY], row[R_ENERGY] = max(start, give_up), 0.0, 0.0
                return
            state[CHARGE_J] -= energy
        if extra.settings[LOADING] > 0.0:
            row[R_LOAD] = _load(plan, extra, state)
    end = start + table[plan, WORK_S] * slow
    if extra is not None:
        end += row[R_LOAD]
        if extra.settings[TIME_CONSTANT_S] > 0.0:
            _warm(end, extra.settings, state)
    state[DEVICE_FREE] = end
    row[R_STATUS], row[R_ARRIVAL], row[R_DEVICE_START], row[R_DEVICE_END] = DEVICE, arrival, start, end
    row[R_SEND_START], row[R_SEND_END], row[R_SENT], row[R_EDGE_WAIT] = end, end, 0.0, 0.0
    row[R_FINISH], row[R_ACCURACY], row[R_ENERGY] = end, table[plan, ACCURACY], energy
    wire_bytes = table[plan, WIRE_BYTES]
    if wire_bytes == 0.0:
        return

    begin = max(end, state[UPLINK_FREE])
    in_time = begin < give_up
    if extra is not None and in_time and begin - state[LAST_SENT] > extra.settings[RESTART_S]:
        now_bytes_per_s = rate[episode, min(int(begin / slot_s), slots - 1)]
        begin = min(begin + _window_wait(wire_bytes, now_bytes_per_s, 2.0 * parameters[HALF_RTT_S]), give_up)
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
    sending = parameters[BASE_W] * (sent_at - begin) + parameters[JOULES_PER_BIT] * 8.0 * sent
    energy += sending
    if extra is not None:
        if in_time:
            state[LAST_SENT] = sent_at
        state[UNPAID_J] += sending if status == EDGE else sending + table[plan, FALLBACK_J]
    row[R_STATUS], row[R_SEND_START], row[R_SEND_END], row[R_SENT] = status, begin, sent_at, sent
    if status != EDGE:
        row[R_FINISH] = sent_at + table[plan, FALLBACK_S] * slow
        row[R_ACCURACY] = table[plan, FALLBACK_ACCURACY]
        row[R_ENERGY] = energy + table[plan, FALLBACK_J]
        return

    reached = sent_at + parameters[HALF_RTT_S]
    ready, work = reached, table[plan, EDGE_WORK_S]
    if extra is not None and extra.settings[WINDOW_S] > 0.0:
        window = float(int(reached / extra.settings[WINDOW_S]))
        state[MEMBERS] = state[MEMBERS] + 1.0 if window == state[WINDOW] else 0.0
        state[WINDOW] = window
        ready = (window + 1.0) * extra.settings[WINDOW_S]
        work *= extra.shares[min(int(state[MEMBERS]), len(extra.shares) - 1)]
    m = int(state[EDGE_JOBS])
    n = m
    while n < job_arrival.shape[1] and job_arrival[episode, n] <= ready:
        n += 1
    state[EDGE_JOBS] = n
    if extra is not None and extra.settings[SERVER_COUNT] > 1.0:
        for job in range(m, n):
            at = _server(extra.settings, state)
            state[at] = max(job_arrival[episode, job], state[at]) + job_work[episode, job + 1] - job_work[episode, job]
        at = _server(extra.settings, state)
        edge_start = max(ready, state[at])
        state[at] = edge_start + work
    else:
        free = max(state[EDGE_DEPARTURE] + job_work[episode, n] - job_work[episode, m], job_work[episode, n] + job_bound[episode, n])
        edge_start = max(ready, free)
        state[EDGE_DEPARTURE] = edge_start + work
    row[R_EDGE_WAIT] = edge_start - reached
    row[R_FINISH] = edge_start + work + parameters[RETURN_S]
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
    extra: Extra | None,
    state: NDArray[np.float64],
    rows: NDArray[np.float64],
) -> None:
    """Run a whole episode of given plans; `rows` gets one record a request."""
    for k in range(len(plans)):
        step(
            plans[k], arrivals[k], table, parameters, episode, rate, carried, slow_down, job_arrival, job_work, job_bound, extra,
            state, rows[k],
        )  # fmt: skip


def extras(scenario: Scenario, streams: Sequence[Streams]) -> Extra | None:
    """What `scenario` has beyond a plain world, over a bank of these episodes."""
    edge, heat, battery, memory = scenario.edge, scenario.thermal, scenario.battery, scenario.memory
    if scenario.plain:
        return None
    # Shorter episodes are padded so that nothing changes: the last slot holds for ever.
    slots = max(len(one.harvest_w) for one in streams)
    harvest_w = np.array([np.pad(one.harvest_w, (0, slots - len(one.harvest_w)), mode="edge") for one in streams])
    before = np.concatenate([np.zeros((len(streams), 1)), np.cumsum(harvest_w[:, :-1] * streams[0].slot_s, axis=1)], axis=1)
    own = np.array([[] if one.deadline_s is None else one.deadline_s for one in streams], float)
    loads = scenario.loads()
    unit = np.array(loads.unit, np.int64)
    unit_bytes = np.zeros(max(0, unit.max() + 1))
    unit_bytes[unit[unit >= 0]] = np.array(loads.unit_bytes)[unit >= 0]
    settings = [
        edge.servers,
        edge.batching.window_s if edge.batching else 0.0,
        scenario.link.restart_after_s,
        *((heat.time_constant_s, heat.idle_c, heat.busy_c, heat.throttle_c, heat.limit_c, heat.slowest) if heat else (0.0,) * 6),
        *((battery.capacity_j, battery.idle_w) if battery else (0.0, 0.0)),
        scenario.loading,
        *((memory.capacity_bytes, memory.read_bytes_per_s, memory.init_s) if memory else (-1.0, 0.0, 0.0)),
        scenario.cancel_margin_s,
        edge.broadcast_s or 0.0,
    ]
    start = np.zeros(SERVERS + edge.servers + len(unit_bytes) + (edge.servers if edge.broadcast_s else 0))
    start[[LAST_SENT, WINDOW, RUNNING]] = -np.inf, -1.0, -1.0
    start[HEAT_C] = heat.idle_c if heat else 0.0
    start[CHARGE_J] = battery.start * battery.capacity_j if battery else 0.0
    shares = np.array(edge.batching.shares() if edge.batching else [1.0])
    return Extra(np.array(settings, float), start, unit, np.array(loads.swap_s), unit_bytes, shares, harvest_w, before, own)


def fresh_state(more: Extra | None = None) -> NDArray[np.float64]:
    """State of a world in which nothing has happened."""
    return np.zeros(STATE) if more is None else more.start.copy()


def row_size(more: Extra | None) -> int:
    """Length of a record as `step` writes it."""
    return PLAIN_ROW if more is None else ROW


Arrays = tuple[Any, Any, int, Any, Any, Any, Any, Any, Any, Any]


def arrays(scenario: Scenario, streams: Streams) -> Arrays:
    """The arguments of `step` from `table` to `extra`: a bank of this one episode."""
    plans, path, platform = scenario.plans, scenario.path, scenario.edge.platform
    table = np.column_stack(
        [
            plans.device_s + plans.encode_s, plans.wire_bytes, platform.work_factor * (plans.decode_s + plans.edge_s) + platform.request_s,
            plans.accuracy, plans.device_j, plans.fallback_s, plans.fallback_accuracy, plans.fallback_j,
        ]
    )  # fmt: skip
    parameters = np.array(
        [
            scenario.give_up_s, path.rtt_s / 2, path.return_s, streams.slot_s, path.radio.base_w, path.radio.joules_per_bit,
            float(scenario.link.rate_told),
        ]
    )  # fmt: skip
    rate = streams.rate_bps / 8.0
    carried = np.concatenate([[0.0], np.cumsum(rate[:-1] * streams.slot_s)])
    work = np.concatenate([[0.0], np.cumsum(streams.job_service_s)])
    bound = np.concatenate([[-np.inf], np.maximum.accumulate(streams.job_arrival_s - work[:-1])])
    bank = [stream[None] for stream in (rate, carried, streams.slow_down, streams.job_arrival_s, work, bound)]
    more = extras(scenario, [streams])
    return table, parameters, 0, bank[0], bank[1], bank[2], bank[3], bank[4], bank[5], more


def record(plan: int, row: NDArray[np.float64]) -> Record:
    """A row of numbers as a record."""
    return Record(plan, Status(int(row[R_STATUS])), *row[R_ARRIVAL:].tolist())


class Kernel:
    """Engine of one episode with the face of `Reference`."""

    def __init__(self, scenario: Scenario, streams: Streams) -> None:
        self.streams = streams
        self.requests = 0
        self._arrays = arrays(scenario, streams)
        self._state, self._row = fresh_state(self._arrays[-1]), np.empty(row_size(self._arrays[-1]))

    def submit(self, plan: int) -> Record:
        """Run the next request with `plan` and tell what becomes of it."""
        step(plan, self.streams.arrival_s[self.requests], *self._arrays, self._state, self._row)
        self.requests += 1
        return record(plan, self._row)


def run(scenario: Scenario, streams: Streams, plans: NDArray[np.int64]) -> NDArray[np.float64]:
    """Records of an episode with given plans, as rows of numbers, shape (requests, ROW)."""
    bank = arrays(scenario, streams)
    rows = np.empty((len(plans), row_size(bank[-1])))
    replay(plans, streams.arrival_s, *bank, fresh_state(bank[-1]), rows)
    return rows

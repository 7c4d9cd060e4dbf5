"""Many episodes side by side, compiled: the kernel's records, the device's telemetry and the observation of every lane in one call.

The telemetry and the features are not written again: the functions that run on the device are compiled here. What
`simulation.Observer` does with a list of records, `_advance` does with a ring of rows: a pointer for each stage, to the first
request that has not passed it. Arrays that those functions take for sequences of floats are `Any` here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cutlayer.envs import broadcast, compiling, kernel
from cutlayer.envs.record import Status
from cutlayer.envs.streams import draw
from cutlayer.errors import ConfigError
from cutlayer.profiles import cost
from cutlayer.runtime import features
from cutlayer.runtime import telemetry as tm

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from cutlayer.envs.spec import Scenario
    from cutlayer.envs.streams import Streams

assert compiling.encode is not None, "imported so that the functions below are known to numba"
composed, step, hear = kernel.composed, kernel.step, broadcast.hear
R_STATUS, R_DEVICE_START, R_DEVICE_END = kernel.R_STATUS, kernel.R_DEVICE_START, kernel.R_DEVICE_END
R_SEND_START, R_SEND_END, R_SENT, R_EDGE_WAIT = kernel.R_SEND_START, kernel.R_SEND_END, kernel.R_SENT, kernel.R_EDGE_WAIT
R_FINISH, R_ACCURACY, R_ENERGY = kernel.R_FINISH, kernel.R_ACCURACY, kernel.R_ENERGY
R_LOAD, R_TEMPERATURE, R_CHARGE, LOADING = kernel.R_LOAD, kernel.R_TEMPERATURE, kernel.R_CHARGE, kernel.LOADING
WORK_S, WIRE_BYTES, HALF_RTT_S, SLOT_S, RATE_TOLD = kernel.WORK_S, kernel.WIRE_BYTES, kernel.HALF_RTT_S, kernel.SLOT_S, kernel.RATE_TOLD
DEVICE, EDGE, GIVEN_UP, EMPTY = (float(status) for status in (Status.DEVICE, Status.EDGE, Status.GIVEN_UP, Status.EMPTY))

# Entries of a lane's place: its episode in the bank, its request, and the first request that has not passed each stage; then those that
# `broadcast` keeps.
EPISODE, REQUEST, AT_DEVICE, AT_LINK, AT_REPLY = range(broadcast.AT_EDGE)
PLACE = broadcast.AT_JOB + 1
MOST_PENDING = 1024  # requests of one lane on their way at once; more means a device that will never catch up


@composed
def _carried(now: float, slot_s: float, episode: int, rate: NDArray[np.float64], carried: NDArray[np.float64]) -> float:
    slot = min(int(now / slot_s), rate.shape[1] - 1)
    total: float = carried[episode, slot] + (now - slot * slot_s) * rate[episode, slot]
    return total


@composed
def _advance(
    now: float,
    half_rtt: float,
    slot_s: float,
    table: NDArray[np.float64],
    rate: NDArray[np.float64],
    carried: NDArray[np.float64],
    lane: int,
    places: NDArray[np.int64],
    plans: NDArray[np.int64],
    rows: NDArray[np.float64],
    extra: kernel.Extra | None,
    readings: Any,
) -> float:
    """Let everything enter a lane's readings that its device knows by `now`; return the acknowledged bytes of the running transfer."""
    mask = rows.shape[1] - 1
    requests = places[lane, REQUEST]
    k = places[lane, AT_DEVICE]
    while k < requests:
        i = k & mask
        start, end, work = rows[lane, i, R_DEVICE_START], rows[lane, i, R_DEVICE_END], table[plans[lane, i], WORK_S]
        if start > now:
            break
        load = 0.0
        if extra is not None:
            load = rows[lane, i, R_LOAD]
            tm.sensed(readings, start, rows[lane, i, R_TEMPERATURE], rows[lane, i, R_CHARGE])
            if rows[lane, i, R_STATUS] == EMPTY:
                tm.device_skipped(readings, work)
                k += 1
                continue
        tm.device_started(readings, start, work, load)
        if end > now:
            break
        tm.device_ended(readings, end, work, end - start, load)
        if rows[lane, i, R_STATUS] == DEVICE:
            tm.finished(readings)
        k += 1
    places[lane, AT_DEVICE] = k

    known, acked = now - half_rtt, 0.0
    k = places[lane, AT_LINK]
    while k < requests:
        i = k & mask
        if rows[lane, i, R_STATUS] != DEVICE:
            start, end = rows[lane, i, R_SEND_START], rows[lane, i, R_SEND_END]
            if start > known:
                break
            tm.send_started(readings, start + half_rtt)
            if end > known:
                episode = places[lane, EPISODE]
                acked = _carried(known, slot_s, episode, rate, carried) - _carried(start, slot_s, episode, rate, carried)
                break
            tm.send_ended(readings, table[plans[lane, i], WIRE_BYTES])
        k += 1
    places[lane, AT_LINK] = k

    k = places[lane, AT_REPLY]
    while k < requests:
        i = k & mask
        status = rows[lane, i, R_STATUS]
        if status != DEVICE:
            start, end, finish = rows[lane, i, R_SEND_START], rows[lane, i, R_SEND_END], rows[lane, i, R_FINISH]
            if (finish if status == EDGE else end + half_rtt) > now:
                break
            if status in (EDGE, GIVEN_UP):
                tm.sampled(readings, end, end - start, rows[lane, i, R_SENT])
            if status == EDGE:
                tm.edge_waited(readings, finish, rows[lane, i, R_EDGE_WAIT])
            tm.finished(readings)
        k += 1
    places[lane, AT_REPLY] = k
    return acked


@composed
def numbers_of(
    objective: tuple[float, float, float, float, float, float], episode: int, request: int, extra: kernel.Extra | None
) -> tuple[float, float, float, float, float, float]:
    """`Objective.numbers` of one request of an episode, whose deadline may be its own."""
    if extra is not None and extra.deadline_s.shape[1] > 0:
        return cost.of_deadline(objective, extra.deadline_s[episode, request])
    return objective


@composed
def _tell_rate(now: float, parameters: NDArray[np.float64], episode: int, rate: NDArray[np.float64], readings: Any) -> None:
    if parameters[RATE_TOLD] > 0.0:
        known = max(0.0, now - parameters[HALF_RTT_S])
        tm.rate_told(readings, known, 8.0 * rate[episode, min(int(known / parameters[SLOT_S]), rate.shape[1] - 1)])


@composed
def _tell_more(
    now: float,
    lane: int,
    request: int,
    parameters: NDArray[np.float64],
    job_arrival: NDArray[np.float64],
    job_work: NDArray[np.float64],
    places: NDArray[np.int64],
    rows: NDArray[np.float64],
    extra: kernel.Extra,
    state: NDArray[np.float64],
    readings: Any,
) -> None:
    """Let what the edge has told by now, and the deadline of the request that comes in, enter a lane's readings."""
    episode = places[lane, EPISODE]
    hear(now, lane, request, episode, parameters, job_arrival, job_work, extra.settings, places, rows, state, readings)
    if extra.deadline_s.shape[1] > 0:
        # At the end of the episode no request waits: the last one's deadline stays.
        tm.due(readings, extra.deadline_s[episode, min(request, extra.deadline_s.shape[1] - 1)])


@composed
def _encode(readings: Any, scale: Any, now: float, acked: float, extra: kernel.Extra | None, out: Any) -> None:
    """`features.encode`; a plain world has no blocks, so its compiler leaves out what asks for them."""
    if extra is None:
        features.encode_base(readings, scale, now, acked, out)
    else:
        features.encode(readings, scale, now, acked, out)


@composed
def _begin(
    lane: int,
    episode: int,
    arrivals: NDArray[np.float64],
    parameters: NDArray[np.float64],
    rate: NDArray[np.float64],
    job_arrival: NDArray[np.float64],
    job_work: NDArray[np.float64],
    extra: kernel.Extra | None,
    scale: Any,
    places: NDArray[np.int64],
    rows: NDArray[np.float64],
    state: NDArray[np.float64],
    readings: Any,
    out: Any,
) -> None:
    places[lane] = 0
    places[lane, EPISODE] = episode
    if extra is None:
        state[:] = 0.0
    else:
        state[:] = extra.start
    tm.reset(readings)
    now = arrivals[episode, 0]
    _tell_rate(now, parameters, episode, rate, readings)
    if extra is not None:
        _tell_more(now, lane, 0, parameters, job_arrival, job_work, places, rows, extra, state, readings)
    tm.arrived(readings, now)
    _encode(readings, scale, now, 0.0, extra, out)


@composed
def _begin_some(
    lanes: NDArray[np.int64],
    episodes: NDArray[np.int64],
    arrivals: NDArray[np.float64],
    parameters: NDArray[np.float64],
    rate: NDArray[np.float64],
    job_arrival: NDArray[np.float64],
    job_work: NDArray[np.float64],
    extra: kernel.Extra | None,
    scale: Any,
    places: NDArray[np.int64],
    rows: NDArray[np.float64],
    states: NDArray[np.float64],
    readings: Any,
    out: Any,
) -> None:
    for lane in lanes:
        _begin(
            lane, episodes[lane], arrivals, parameters, rate, job_arrival, job_work, extra, scale, places, rows, states[lane],
            readings[lane], out[lane],
        )  # fmt: skip


@composed
def _step_all(
    actions: NDArray[np.int64],
    following: NDArray[np.int64],
    objective: tuple[float, float, float, float, float, float],
    arrivals: NDArray[np.float64],
    table: NDArray[np.float64],
    parameters: NDArray[np.float64],
    rate: NDArray[np.float64],
    carried: NDArray[np.float64],
    slow_down: NDArray[np.float64],
    job_arrival: NDArray[np.float64],
    job_work: NDArray[np.float64],
    job_bound: NDArray[np.float64],
    extra: kernel.Extra | None,
    scale: Any,
    places: NDArray[np.int64],
    states: NDArray[np.float64],
    readings: Any,
    plans: NDArray[np.int64],
    rows: NDArray[np.float64],
    out: Any,
    last: NDArray[np.float32],
    rewards: NDArray[np.float64],
    dones: NDArray[np.bool_],
) -> bool:
    """One decision in every lane; False where a lane had more requests on their way than a ring holds."""
    ring, requests = rows.shape[1], arrivals.shape[1] - 1
    for lane in range(len(actions)):
        episode, k, plan = places[lane, EPISODE], places[lane, REQUEST], actions[lane]
        if k - min(places[lane, AT_DEVICE], places[lane, AT_LINK], places[lane, AT_REPLY]) >= ring:
            return False
        i = k & (ring - 1)
        arrival, now = arrivals[episode, k], arrivals[episode, k + 1]
        # Each slice costs a reference count: one a lane for every array that is handed on.
        mine, seen, state = readings[lane], out[lane], states[lane]
        step(
            plan, arrival, table, parameters, episode, rate, carried, slow_down, job_arrival, job_work, job_bound, extra, state,
            rows[lane, i],
        )  # fmt: skip
        plans[lane, i] = plan
        own = numbers_of(objective, episode, k, extra)
        rewards[lane] = cost.reward(
            rows[lane, i, R_FINISH] - arrival, rows[lane, i, R_ACCURACY], rows[lane, i, R_ENERGY],
            own[0], own[1], own[2], own[3], own[4], own[5],
        )  # fmt: skip
        tm.decided(mine, table[plan, WORK_S], table[plan, WIRE_BYTES])
        if extra is not None and extra.settings[LOADING] > 0.0:
            tm.loads(mine, extra.unit[plan])
        places[lane, REQUEST] = k + 1
        acked = _advance(now, parameters[HALF_RTT_S], parameters[SLOT_S], table, rate, carried, lane, places, plans, rows, extra, mine)
        _tell_rate(now, parameters, episode, rate, mine)
        if extra is not None:
            _tell_more(now, lane, k + 1, parameters, job_arrival, job_work, places, rows, extra, state, mine)
        tm.arrived(mine, now)
        _encode(mine, scale, now, acked, extra, seen)
        dones[lane] = k + 1 == requests
        if dones[lane]:
            last[lane] = seen
            _begin(
                lane, following[lane], arrivals, parameters, rate, job_arrival, job_work, extra, scale, places, rows, state, mine, seen
            )  # fmt: skip
    return True


@dataclass(frozen=True, slots=True, eq=False)
class Bank:
    """The streams of many episodes of one scenario, stacked; shorter ones are padded so that nothing changes.

    arrivals (episodes, requests + 1); rate, carried and slow_down (episodes, slots); jobs (episodes, jobs).
    """

    arrivals: NDArray[np.float64]
    table: NDArray[np.float64]
    parameters: NDArray[np.float64]
    rate: NDArray[np.float64]
    carried: NDArray[np.float64]
    slow_down: NDArray[np.float64]
    job_arrival: NDArray[np.float64]
    job_work: NDArray[np.float64]
    job_bound: NDArray[np.float64]
    extra: kernel.Extra | None

    def __len__(self) -> int:
        return len(self.arrivals)

    @staticmethod
    def draw(scenario: Scenario, episodes: Sequence[int]) -> Bank:
        """The bank of episodes with these seeds."""
        return Bank.stack(scenario, [draw(scenario, episode) for episode in episodes])

    @staticmethod
    def stack(scenario: Scenario, streams: Sequence[Streams]) -> Bank:
        """The bank of given streams.

        Raises:
            ConfigError: there are none.
        """
        if not streams:
            raise ConfigError("a bank of no episodes; give at least one seed")
        drawn: list[Any] = [kernel.arrays(scenario, one) for one in streams]
        slots = max(len(one.rate_bps) for one in streams)
        jobs = max(len(one.job_arrival_s) for one in streams)

        def held(column: int, length: int) -> NDArray[np.float64]:
            """Padded with the last value: the last slot holds for ever, and no job is added."""
            rows = [arrays[column][0] for arrays in drawn]
            return np.array([np.pad(row, (0, length - len(row)), mode="edge") for row in rows])

        rate = held(3, slots)
        # Carried bytes go on at the last rate.
        carried = np.concatenate([np.zeros((len(drawn), 1)), np.cumsum(rate[:, :-1] * streams[0].slot_s, axis=1)], axis=1)
        arrival = np.full((len(drawn), jobs), np.inf)
        for i, one in enumerate(streams):
            arrival[i, : len(one.job_arrival_s)] = one.job_arrival_s
        return Bank(
            np.array([one.arrival_s for one in streams]),
            drawn[0][0], drawn[0][1], rate, carried, held(5, slots), arrival, held(7, jobs + 1), held(8, jobs + 1),
            kernel.extras(scenario, streams),
        )  # fmt: skip


class Lanes:
    """Episodes side by side over a bank; when a lane ends its episode it begins the one named for it.

    After `reset` and `step`, `observations` (lanes, features) is what each lane's device sees now; `rewards`, `dones` and, where
    done, `last` (the observation at the end of the episode) belong to the step. The arrays are written again by the next step.
    """

    def __init__(self, scenario: Scenario, bank: Bank, lanes: int) -> None:
        self.bank = bank
        self._objective = scenario.objective.numbers()
        self._scale = np.array(features.scales(scenario.plans, scenario.objective.deadline_s, scenario.blocks))
        ring = min(1 << (scenario.requests - 1).bit_length(), MOST_PENDING)  # a power of two, so that a mask finds the place
        self._places = np.zeros((lanes, PLACE), np.int64)
        self._states = np.zeros((lanes, len(kernel.fresh_state(bank.extra))))
        self._readings = np.zeros((lanes, tm.SIZE))
        self._plans = np.zeros((lanes, ring), np.int64)
        self._rows = np.zeros((lanes, ring, kernel.row_size(bank.extra)))
        self.observations = np.zeros((lanes, features.size(scenario.blocks)), np.float32)
        self.last = np.zeros_like(self.observations)
        self.rewards = np.zeros(lanes)
        self.dones = np.zeros(lanes, np.bool_)

    @property
    def episodes(self) -> NDArray[np.int64]:
        """Index in the bank of each lane's episode."""
        return self._places[:, EPISODE].copy()

    @property
    def requests(self) -> NDArray[np.int64]:
        """Each lane's present request."""
        return self._places[:, REQUEST].copy()

    def row(self, lane: int, request: int) -> NDArray[np.float64]:
        """Record of one of the lane's latest requests, as the kernel writes it."""
        row: NDArray[np.float64] = self._rows[lane, request % self._rows.shape[1]].copy()
        return row

    def rows(self, requests: NDArray[np.int64]) -> NDArray[np.float64]:
        """Record of one of its latest requests in every lane, (lanes, ROW)."""
        rows: NDArray[np.float64] = self._rows[np.arange(len(requests)), requests % self._rows.shape[1]]
        return rows

    def reset(self, episodes: NDArray[np.int64]) -> None:
        """Begin the given episodes of the bank, one a lane."""
        self.begin(np.arange(len(episodes)), episodes)

    def begin(self, lanes: NDArray[np.int64], episodes: NDArray[np.int64]) -> None:
        """Begin `episodes[lane]` in each of the given lanes; the others go on."""
        bank = self.bank
        _begin_some(
            lanes, episodes, bank.arrivals, bank.parameters, bank.rate, bank.job_arrival, bank.job_work, bank.extra, self._scale,
            self._places, self._rows, self._states, self._readings, self.observations,
        )  # fmt: skip

    def step(self, actions: NDArray[np.int64], following: NDArray[np.int64]) -> None:
        """Decide every lane's request; a lane that ends goes on with `following[lane]`.

        Raises:
            ConfigError: a device has fallen so far behind that its requests no longer fit.
        """
        bank = self.bank
        fits = _step_all(
            actions, following, self._objective, bank.arrivals, bank.table, bank.parameters, bank.rate, bank.carried, bank.slow_down,
            bank.job_arrival, bank.job_work, bank.job_bound, bank.extra, self._scale, self._places, self._states, self._readings,
            self._plans, self._rows, self.observations, self.last, self.rewards, self.dones,
        )  # fmt: skip
        if not fits:
            raise ConfigError(f"over {self._rows.shape[1]} requests on their way in one lane; shorten the episodes or lower the load")

"""The priced rule compiled: whole episodes of the kernel decided by it, many times faster than through a view.

The rule is not written a second time: numba compiles the functions of `runtime.filters` and `runtime.priced`. Only the walk over the
plans is here: one after the other, and none that could not be the best.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numba.extending import register_jitable

from cutlayer.envs import batch, kernel
from cutlayer.profiles import cost
from cutlayer.runtime import filters, forecasts, priced
from cutlayer.runtime import telemetry as tm

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cutlayer.envs.batch import Bank
    from cutlayer.envs.spec import Scenario
    from cutlayer.runtime.priced import Parameters

for _function in (*filters.FUNCTIONS, *forecasts.FUNCTIONS, *priced.FUNCTIONS):
    register_jitable(_function)

composed, step = kernel.composed, kernel.step
# Names that compiled code can read: numba follows no module at run time.
_believe, _look, _price, _local_worth, _sent_worth = priced.believe, priced.look, priced.price, priced.local_worth, priced.sent_worth
_loading_s = priced.loading_s
# What a device knows by when is told in `batch`, and only there.
advance, _tell_rate, _tell_more = batch._advance, batch._tell_rate, batch._tell_more  # noqa: SLF001 - as said
_numbers_of = batch.numbers_of
_reset, _after_gap, _reward = filters.reset, filters.after_gap, cost.reward
MOMENT, FORECAST, STATE, LAST_BYTES, TIE = priced.MOMENT, forecasts.FORECAST, filters.STATE, filters.LAST_BYTES, priced.TIE
SLOW, SLOW_CASES, WAIT, WAIT_COUNT = priced.SLOW, priced.SLOW_CASES, priced.WAIT, priced.WAIT_COUNT
WORK_S, WIRE_BYTES, EDGE_WORK_S, ACCURACY = kernel.WORK_S, kernel.WIRE_BYTES, kernel.EDGE_WORK_S, kernel.ACCURACY
DEVICE_J, FALLBACK_S, FALLBACK_ACCURACY, FALLBACK_J = kernel.DEVICE_J, kernel.FALLBACK_S, kernel.FALLBACK_ACCURACY, kernel.FALLBACK_J
HALF_RTT_S, SLOT_S = kernel.HALF_RTT_S, kernel.SLOT_S
R_FINISH, R_ACCURACY, R_ENERGY = kernel.R_FINISH, kernel.R_ACCURACY, kernel.R_ENERGY
PLACE, REQUEST, LOADING = batch.PLACE, batch.REQUEST, batch.LOADING


@composed
def arrive(
    now: float,
    request: int,
    parameters: NDArray[np.float64],
    rate: NDArray[np.float64],
    job_arrival: NDArray[np.float64],
    job_work: NDArray[np.float64],
    places: NDArray[np.int64],
    rows: NDArray[np.float64],
    extra: kernel.Extra | None,
    state: NDArray[np.float64],
    readings: Any,
) -> None:
    """A request comes in to the only lane: what `batch` tells the device as it does."""
    _tell_rate(now, parameters, places[0, 0], rate, readings)
    if extra is not None:
        _tell_more(now, 0, request, parameters, job_arrival, job_work, places, rows, extra, state, readings)
    tm.arrived(readings, now)


@composed
def expected_worth(
    plan: int, table: NDArray[np.float64], loads: NDArray[np.float64], numbers: Any, moment: Any, ahead: Any, mark: float = -np.inf
) -> float:
    """Expected reward of one plan at a moment; -inf as soon as it cannot reach `mark`."""
    total, left = 0.0, 1.0
    work_s, wire_bytes = table[plan, WORK_S], table[plan, WIRE_BYTES]
    most = max(table[plan, ACCURACY], table[plan, FALLBACK_ACCURACY])  # no reward is above the accuracy of the answer
    load_s = _loading_s(loads[plan, 0], loads[plan, 1], moment)
    for i in range(int(moment[SLOW_CASES])):
        at = SLOW + 3 * i
        if wire_bytes == 0.0:
            total += moment[at] * _local_worth(
                moment[at + 2] + load_s, moment[at + 1], work_s, table[plan, ACCURACY], table[plan, DEVICE_J], numbers, moment
            )
            continue
        for j in range(int(moment[WAIT_COUNT])):
            chance = moment[at] * moment[WAIT + 2 * j]
            total += chance * _sent_worth(
                moment[at + 2] + load_s, moment[at + 1], moment[WAIT + 2 * j + 1], work_s, wire_bytes, table[plan, EDGE_WORK_S],
                table[plan, ACCURACY], table[plan, DEVICE_J], table[plan, FALLBACK_S], table[plan, FALLBACK_ACCURACY],
                table[plan, FALLBACK_J], numbers, moment, ahead,
            )  # fmt: skip
            left -= chance
            if total + left * most < mark:
                return -np.inf
    return total


@composed
def best(
    table: NDArray[np.float64],
    loads: NDArray[np.float64],
    order: NDArray[np.int64],
    rank: NDArray[np.int64],
    numbers: Any,
    moment: Any,
    ahead: Any,
    worth: Any,
) -> int:
    """The plan worth most at a moment, prices paid; `worth` is written for the plans that could have been it, -inf for others."""
    most = -np.inf
    for plan in order:
        pays = _price(table[plan, WORK_S], table[plan, WIRE_BYTES], table[plan, DEVICE_J], numbers, moment)
        worth[plan] = -np.inf
        mark = most - TIE + pays
        if max(table[plan, ACCURACY], table[plan, FALLBACK_ACCURACY]) >= mark:
            worth[plan] = expected_worth(plan, table, loads, numbers, moment, ahead, mark) - pays
            most = max(most, worth[plan])
    chosen = -1
    for plan in range(len(table)):
        if worth[plan] >= most - TIE and (chosen < 0 or rank[plan] < rank[chosen]):
            chosen = plan
    return chosen


@composed
def _play(
    episodes: NDArray[np.int64],
    numbers: Any,
    sizes: Any,
    loads: NDArray[np.float64],
    order: NDArray[np.int64],
    rank: NDArray[np.int64],
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
    kernel_state: NDArray[np.float64],
    readings: Any,
    rows: NDArray[np.float64],
    plans: NDArray[np.int64],
    latency_s: NDArray[np.float64],
    accuracy: NDArray[np.float64],
    energy_j: NDArray[np.float64],
    rewards: NDArray[np.float64],
) -> None:
    """Decide every request of the given episodes by the rule; `rewards` holds each one's mean."""
    requests = arrivals.shape[1] - 1
    state: Any
    moment: Any
    ahead: Any
    state, moment, ahead, worth = np.zeros(STATE), np.zeros(MOMENT), np.zeros(FORECAST), np.empty(len(table))
    places, ring = np.zeros((1, PLACE), np.int64), np.zeros((1, rows.shape[1]), np.int64)
    mask = rows.shape[1] - 1
    for episode in episodes:
        total = 0.0
        for i in range(PLACE):
            places[0, i] = 0
        places[0, 0] = episode
        for i in range(len(kernel_state)):
            kernel_state[i] = 0.0 if extra is None else extra.start[i]
        tm.reset(readings)
        _reset(state, numbers)
        acked = 0.0
        for k in range(requests):
            now = arrivals[episode, k]
            if k > 0:
                acked = advance(
                    now, parameters[HALF_RTT_S], parameters[SLOT_S], table, rate, carried, 0, places, ring, rows, extra, readings
                )
            arrive(now, k, parameters, rate, job_arrival, job_work, places, rows, extra, kernel_state, readings)
            _believe(state, numbers, sizes, readings, now, acked)
            _look(state, numbers, readings, now, acked, moment, ahead)
            plan = best(table, loads, order, rank, numbers, moment, ahead, worth)
            state[LAST_BYTES] = table[plan, WIRE_BYTES]
            i = k & mask
            step(
                plan, now, table, parameters, episode, rate, carried, slow_down, job_arrival, job_work, job_bound, extra,
                kernel_state, rows[0, i],
            )  # fmt: skip
            ring[0, i] = plan
            tm.decided(readings, table[plan, WORK_S], table[plan, WIRE_BYTES])
            if extra is not None and extra.settings[LOADING] > 0.0:
                tm.loads(readings, extra.unit[plan])
            places[0, REQUEST] = k + 1
            plans[episode, k], latency_s[episode, k] = plan, rows[0, i, R_FINISH] - now
            accuracy[episode, k], energy_j[episode, k] = rows[0, i, R_ACCURACY], rows[0, i, R_ENERGY]
            own = _numbers_of(objective, episode, k, extra)
            total += _reward(
                latency_s[episode, k], accuracy[episode, k], energy_j[episode, k], own[0], own[1], own[2], own[3], own[4], own[5]
            )
        rewards[episode] = total / requests


@composed
def gaps_likelihood(
    gaps_s: NDArray[np.float64], calm_per_s: float, burst_per_s: float, end_calm_per_s: float, end_burst_per_s: float
) -> float:
    """Log likelihood of the gaps of episodes (episodes, gaps) under a Markov-modulated Poisson process in its steady state."""
    total = 0.0
    for episode in range(gaps_s.shape[0]):
        calm, burst = end_burst_per_s * calm_per_s, end_calm_per_s * burst_per_s
        calm, burst = calm / (calm + burst), burst / (calm + burst)
        for gap_s in gaps_s[episode]:
            calm, burst, lacked = _after_gap(calm, burst, gap_s, calm_per_s, burst_per_s, end_calm_per_s, end_burst_per_s)
            total += lacked + np.log(calm + burst)
            calm, burst = calm / (calm + burst), burst / (calm + burst)
    return total


class Compiled:
    """Plays a scenario's episodes with any parameters of the rule: what tuning asks thousands of times.

    After `play`, `plans`, `latency_s`, `accuracy` and `energy_j` (episodes, requests) say what was done.
    """

    def __init__(self, scenario: Scenario, bank: Bank) -> None:
        self.scenario, self.bank = scenario, bank
        table = bank.table
        sends = table[:, WIRE_BYTES] > 0.0
        self.sizes = np.unique(table[sends, WIRE_BYTES])
        self.rank = priced.ranks(table[:, WIRE_BYTES], table[:, DEVICE_J])
        # What answers on the device is reckoned fast and sets a mark; of the others, the most accurate first.
        self.order = np.lexsort((-table[:, ACCURACY], sends))
        shape = (len(bank), bank.arrivals.shape[1] - 1)
        ring = 1 << (shape[1] - 1).bit_length()  # a power of two, as `_advance` wants it; it holds a whole episode
        self.rows = np.zeros((1, ring, kernel.row_size(bank.extra)))
        self._kernel_state = np.zeros(len(kernel.fresh_state(bank.extra)))
        self._readings = np.zeros(tm.SIZE)
        self.plans = np.empty(shape, np.int64)
        self.latency_s, self.accuracy, self.energy_j = np.empty(shape), np.empty(shape), np.empty(shape)
        self._rewards = np.empty(len(bank))

    def play(self, parameters: Parameters, episodes: NDArray[np.int64] | None = None) -> NDArray[np.float64]:
        """Mean reward of each of the given episodes of the bank, of all unless given."""
        scenario, bank = self.scenario, self.bank
        chosen = np.arange(len(bank)) if episodes is None else episodes
        _play(
            chosen, np.array(parameters.numbers(scenario.path, scenario.objective)), self.sizes, loads_table(parameters, len(bank.table)),
            self.order, self.rank, scenario.objective.numbers(), bank.arrivals, bank.table, bank.parameters, bank.rate, bank.carried,
            bank.slow_down, bank.job_arrival, bank.job_work, bank.job_bound, bank.extra, self._kernel_state, self._readings, self.rows,
            self.plans, self.latency_s, self.accuracy, self.energy_j, self._rewards,
        )  # fmt: skip
        return self._rewards[chosen]


def loads_table(parameters: Parameters, plans: int) -> NDArray[np.float64]:
    """Segment of each plan and how long it takes to load, (plans, 2)."""
    if parameters.loads is None:
        return np.tile([-1.0, 0.0], (plans, 1))
    return np.column_stack([np.array(parameters.loads.unit, np.float64), parameters.loads.load_s])

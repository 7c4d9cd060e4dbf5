"""Rollouts of the priced rule on its own filter, compiled: what each of a few plans leads to in futures drawn from what is believed.

A sampled world is the kernel's: its step, the device's telemetry and the filter's updates are those of the episodes themselves. What is
in it of the past is what the device knows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cutlayer.agents.bayes import compiled
from cutlayer.envs import batch, kernel
from cutlayer.profiles import cost
from cutlayer.runtime import filters, forecasts
from cutlayer.runtime import priced as rule
from cutlayer.runtime import telemetry as tm

if TYPE_CHECKING:
    from numpy.typing import NDArray

composed, step = kernel.composed, kernel.step
_best, _expected_worth = compiled.best, compiled.expected_worth
_believe, _look, _price, _reset, _reward = rule.believe, rule.look, rule.price, filters.reset, cost.reward
_wait, _carried_in = filters.wait, batch._carried  # noqa: SLF001 - the link's integral is written there
_advance, _arrive = compiled.advance, compiled.arrive
DEADLINE_AT, DUE_AT = rule.DEADLINE_AT, rule.DUE_AT
MOMENT, TIE, FORECAST, F_STATE, NEVER = rule.MOMENT, rule.TIE, forecasts.FORECAST, filters.STATE, tm.NEVER
AT, BLOCKED, DRIFT, COVARIANCE, DRIFTS, BELIEF = (
    filters.AT, filters.BLOCKED, filters.DRIFT, filters.COVARIANCE, filters.DRIFTS, filters.BELIEF
)  # fmt: skip
LAST_BYTES, BURST, LOG_RATE, SD, FORGET_PER_S = filters.LAST_BYTES, filters.BURST, filters.LOG_RATE, filters.SD, filters.FORGET_PER_S
BLOCK, UNBLOCK, B_LOG = filters.BLOCK, filters.UNBLOCK, filters.BLOCKED_LOG
CALM_PER_S, BURST_PER_S, END_CALM, END_BURST = filters.CALM_PER_S, filters.BURST_PER_S, filters.END_CALM_PER_S, filters.END_BURST_PER_S
BACKLOG_S, RUNNING_SINCE, RUNNING_S, LAST_ARRIVAL, GAP = tm.BACKLOG_S, tm.RUNNING_SINCE, tm.RUNNING_S, tm.LAST_ARRIVAL, tm.GAP
TO_SEND_BYTES, SENDING_SINCE = tm.TO_SEND_BYTES, tm.SENDING_SINCE
WORK_S, WIRE_BYTES, DEVICE_J = kernel.WORK_S, kernel.WIRE_BYTES, kernel.DEVICE_J
R_STATUS, R_ARRIVAL, R_DEVICE_END, R_SEND_START, R_SEND_END, R_SENT = (
    kernel.R_STATUS, kernel.R_ARRIVAL, kernel.R_DEVICE_END, kernel.R_SEND_START, kernel.R_SEND_END, kernel.R_SENT
)  # fmt: skip
R_FINISH, R_ACCURACY, R_ENERGY, ROW = kernel.R_FINISH, kernel.R_ACCURACY, kernel.R_ENERGY, kernel.PLAIN_ROW
GIVE_UP_S, HALF_RTT_S, SLOT_S = kernel.GIVE_UP_S, kernel.HALF_RTT_S, kernel.SLOT_S
DEVICE_FREE, UPLINK_FREE, STATE = kernel.DEVICE_FREE, kernel.UPLINK_FREE, kernel.STATE
PLACE, REQUEST, AT_LINK = batch.PLACE, batch.REQUEST, batch.AT_LINK
DEVICE, EDGE, UNSENT = kernel.DEVICE, kernel.EDGE, kernel.UNSENT

# A transfer of a world: bytes to send, start, end, bytes carried by then, when its report comes, 1 where it is a rate sample,
# and bytes that were acknowledged before the world was copied.
BYTES, START, END, SENT, REPORT, SAMPLED, BEFORE = range(7)
TRANSFER = 7
MOST_TRANSFERS = 64  # of one world at once; more means a link that never catches up
MOST_PENDING = MOST_TRANSFERS // 2  # of these, those that are on their way when a world is copied
LEAST_BYTES = 1e-6
KRONECKER = (0.7548776662466927, 0.5698402909980532)  # of the most even sequence in two dimensions (Roberts 2018)
CAUTION = 1.0  # standard errors of a lead that do not count: our choice
ACTIONS = 8  # plans that are tried: our choice, the rule's order is near enough


@composed
def _copy(source: Any, to: Any, count: int) -> None:
    """One by one: a slice compiles for seconds."""
    for i in range(count):
        to[i] = source[i]


@composed
def _sample_link(
    even: float,
    state: Any,
    numbers: Any,
    from_s: float,
    slots: int,
    slot_s: float,
    rate: NDArray[np.float64],
    carried: NDArray[np.float64],
) -> None:
    """One future of the link from the shown belief: bytes a second in each slot from that of `from_s` on, and bytes carried before it.

    `even`, from 0 to 1, draws the first state of the chain.
    """
    belief: Any = np.empty(BELIEF)
    _copy(state, belief, BELIEF)
    _wait(belief, 0, numbers, from_s)
    blocked = even < belief[BLOCKED]
    # The drifts one after the other, each given those before it; what is certain, or rounded below 0, moves nothing.
    for i in range(DRIFTS):
        variance = belief[COVARIANCE + i * DRIFTS + i]
        if variance <= 1e-12:
            continue
        away = np.random.normal() / np.sqrt(variance)  # noqa: NPY002 - numba knows the old generator only
        for j in range(DRIFTS):
            belief[DRIFT + j] += away * belief[COVARIANCE + j * DRIFTS + i]
        for j in range(DRIFTS):
            for k in range(DRIFTS):
                if i not in (j, k):
                    belief[COVARIANCE + j * DRIFTS + k] -= (
                        belief[COVARIANCE + j * DRIFTS + i] * belief[COVARIANCE + i * DRIFTS + k] / variance
                    )
        for j in range(DRIFTS):
            belief[COVARIANCE + i * DRIFTS + j], belief[COVARIANCE + j * DRIFTS + i] = 0.0, 0.0
    total = 0.0
    for k in range(slots):
        if k > 0:
            u = np.random.random()  # noqa: NPY002 - as above
            blocked = u >= numbers[UNBLOCK] if blocked else u < numbers[BLOCK]
            for i in range(DRIFTS):
                if numbers[SD + i] > 0.0:
                    keep = np.exp(-numbers[FORGET_PER_S + i] * slot_s)
                    fresh = numbers[SD + i] * np.sqrt(1.0 - keep * keep) * np.random.normal()  # noqa: NPY002 - as above
                    belief[DRIFT + i] = keep * belief[DRIFT + i] + fresh
        log_rate = numbers[B_LOG] if blocked else numbers[LOG_RATE] + belief[DRIFT] + belief[DRIFT + 1] + belief[DRIFT + 2]
        rate[0, k], carried[0, k] = np.exp(log_rate) / 8.0, total
        total += slot_s * rate[0, k]


@composed
def _sample_arrivals(even_state: float, even_gap: float, state: Any, numbers: Any, now: float, arrivals: NDArray[np.float64]) -> None:
    """When the next requests come, from the chance of a burst now; the first draws are handed in, from 0 to 1."""
    bursty = even_state < state[BURST]
    for h in range(len(arrivals)):
        while True:
            per_s, end_per_s = (numbers[BURST_PER_S], numbers[END_BURST]) if bursty else (numbers[CALM_PER_S], numbers[END_CALM])
            if numbers[CALM_PER_S] == numbers[BURST_PER_S]:
                end_per_s = 0.0
            now -= np.log(1.0 - even_gap) / (per_s + end_per_s)
            even_gap = np.random.random()  # noqa: NPY002 - numba knows the old generator only
            if np.random.random() * (per_s + end_per_s) < per_s:  # noqa: NPY002 - as above
                break
            bursty = not bursty
        arrivals[h] = now


@composed
def _read(
    now: float,
    gap: float,
    device_free: float,
    base_s: float,
    from_s: float,
    half_rtt: float,
    slot_s: float,
    rate: NDArray[np.float64],
    carried: NDArray[np.float64],
    transfers: NDArray[np.float64],
    count: int,
    reported: int,
    readings: Any,
) -> tuple[int, float]:
    """Write what the device of a sampled world reads at `now`; transfers reported so far, and acknowledged bytes of the running one."""
    readings[LAST_ARRIVAL], readings[GAP] = now, gap
    readings[BACKLOG_S], readings[RUNNING_SINCE], readings[RUNNING_S] = max(0.0, device_free - now), NEVER, 0.0
    while reported < count and transfers[reported, REPORT] <= now:
        if transfers[reported, SAMPLED] > 0.0:
            end_s = transfers[reported, END]
            tm.sampled(readings, end_s, end_s - transfers[reported, START], transfers[reported, SENT])
        reported += 1
    known = now - half_rtt
    readings[TO_SEND_BYTES], readings[SENDING_SINCE], acked = 0.0, NEVER, 0.0
    for i in range(count):
        if transfers[i, END] > known:
            readings[TO_SEND_BYTES] += transfers[i, BYTES]
            if transfers[i, START] <= known:
                readings[SENDING_SINCE] = transfers[i, START] + half_rtt
                since = max(transfers[i, START], from_s)
                acked = transfers[i, BEFORE] + _carried_in(known - base_s, slot_s, 0, rate, carried)
                acked -= _carried_in(since - base_s, slot_s, 0, rate, carried)
    return reported, acked


@composed
def _go(
    plan: int,
    arrival: float,
    base_s: float,
    table: NDArray[np.float64],
    parameters: NDArray[np.float64],
    rate: NDArray[np.float64],
    carried: NDArray[np.float64],
    ones: NDArray[np.float64],
    no_jobs: NDArray[np.float64],
    no_work: NDArray[np.float64],
    no_bound: NDArray[np.float64],
    state: NDArray[np.float64],
    row: NDArray[np.float64],
    transfers: NDArray[np.float64],
    count: int,
) -> int:
    """Run a request in a sampled world; the count of its transfers after it. Times of `state` and `row` begin at `base_s`."""
    step(plan, arrival - base_s, table, parameters, 0, rate, carried, ones, no_jobs, no_work, no_bound, None, state, row)
    if row[R_STATUS] == DEVICE:
        return count
    transfers[count, BYTES], transfers[count, BEFORE], transfers[count, SENT] = table[plan, WIRE_BYTES], 0.0, row[R_SENT]
    transfers[count, START], transfers[count, END] = row[R_SEND_START] + base_s, row[R_SEND_END] + base_s
    transfers[count, REPORT] = base_s + (row[R_FINISH] if row[R_STATUS] == EDGE else row[R_SEND_END] + parameters[HALF_RTT_S])
    transfers[count, SAMPLED] = 0.0 if row[R_STATUS] == UNSENT else 1.0
    return count + 1


@composed
def _tell(state: Any, numbers: Any, now: float, bytes_per_s: float) -> None:
    """Put the truth in the place of the shown belief; of a link with one drift."""
    for i in range(BELIEF):
        state[i] = 0.0
    state[AT] = now
    log_rate = np.log(8.0 * bytes_per_s)
    if numbers[BLOCK] > 0.0 and abs(log_rate - numbers[B_LOG]) < 1e-9:
        state[BLOCKED] = 1.0
    else:
        state[DRIFT + 1] = log_rate - numbers[LOG_RATE]


@composed
def _candidates(
    table: NDArray[np.float64],
    loads: NDArray[np.float64],
    rank: NDArray[np.int64],
    numbers: Any,
    moment: Any,
    ahead: Any,
    worth: Any,
    chosen: NDArray[np.int64],
) -> int:
    """The best plans by the rule, of each way to cut and to code at most one: which exit follows is for one step to say."""
    for plan in range(len(table)):
        pays = _price(table[plan, WORK_S], table[plan, WIRE_BYTES], table[plan, DEVICE_J], numbers, moment)
        worth[plan] = _expected_worth(plan, table, loads, numbers, moment, ahead) - pays
    count = 0
    while count < len(chosen):
        best = -1
        for plan in range(len(table)):
            if worth[plan] > -np.inf and (
                best < 0 or worth[plan] > worth[best] + TIE or (worth[plan] >= worth[best] - TIE and rank[plan] < rank[best])
            ):
                best = plan
        if best < 0:
            break
        chosen[count] = best
        count += 1
        for plan in range(len(table)):
            if table[plan, WIRE_BYTES] == table[best, WIRE_BYTES] and (
                plan == best or (table[plan, WIRE_BYTES] > 0.0 and table[plan, WORK_S] == table[best, WORK_S])
            ):
                worth[plan] = -np.inf
    return count


@composed
def _roll_out(
    now: float,
    from_s: float,
    before: float,
    first: int,
    requests: int,
    told: bool,  # noqa: FBT001 - numba takes no keywords
    samples: int,
    table: NDArray[np.float64],
    loads: NDArray[np.float64],
    order: NDArray[np.int64],
    rank: NDArray[np.int64],
    numbers: Any,
    sizes: Any,
    parameters: NDArray[np.float64],
    made: NDArray[np.int64],
    rows: NDArray[np.float64],
    device_free: float,
    state: Any,
    readings: Any,
    chosen: NDArray[np.int64],
    arrivals: NDArray[np.float64],
    values: NDArray[np.float64],
) -> None:
    """Make of each candidate's expected reward its lead over the first one, what the rule earns after either included.

    The lead is a mean over sampled futures, the same for all; so much of its standard error is taken off that a plan has to be better, not
    lucky, to take the place of the rule's own. First draws are spread evenly over the samples (Kronecker sequence with a random shift).

    What the planner knows of its past: rows `first` to `requests` were not yet through the link at `from_s`, and of the one that ran then,
    `before` bytes had arrived. Of those rows only plan, arrival and end on the device are looked at, which it knows.
    """
    slot_s, half_rtt = parameters[SLOT_S], parameters[HALF_RTT_S]
    base = int(from_s / slot_s)
    base_s = base * slot_s
    moment: Any
    ahead: Any
    belief: Any
    read: Any
    moment, ahead, worth = np.zeros(MOMENT), np.zeros(FORECAST), np.empty(len(table))
    row = np.empty(ROW)
    scratch = np.zeros((1, table.shape[1]))
    no_jobs, no_work, no_bound = np.empty((1, 0)), np.zeros((1, 1)), np.empty((1, 1))
    no_bound[0, 0] = -np.inf
    start_transfers, transfers = np.zeros((MOST_TRANSFERS, TRANSFER)), np.zeros((MOST_TRANSFERS, TRANSFER))
    start_state, world = np.zeros(STATE), np.zeros(STATE)
    belief, read = np.empty(len(state)), np.empty(len(readings))
    earned, lead, square = np.zeros(len(values)), np.zeros(len(values)), np.zeros(len(values))
    shifts = np.random.random(), np.random.random(), np.random.random()  # noqa: NPY002 - numba knows the old generator only
    for m in range(samples):
        _sample_arrivals((shifts[0] + m * KRONECKER[0]) % 1.0, (shifts[1] + m / samples) % 1.0, state, numbers, now, arrivals)
        slots = int((arrivals[-1] + parameters[GIVE_UP_S] - base_s) / slot_s) + 2
        rate, carried, ones = np.empty((1, slots)), np.empty((1, slots)), np.ones((1, slots))
        _sample_link((shifts[2] + m * KRONECKER[1]) % 1.0, state, numbers, from_s, slots, slot_s, rate, carried)
        for i in range(STATE):
            start_state[i] = 0.0
        start_state[UPLINK_FREE] = from_s - base_s
        count = 0
        for k in range(first, requests):
            if rows[k, R_STATUS] == DEVICE or count == MOST_PENDING:
                continue
            plan = made[k]
            running = count == 0 and before >= 0.0
            for column in range(table.shape[1]):
                scratch[0, column] = table[plan, column]
            scratch[0, WORK_S] = 0.0
            if running:  # a rest of nothing would be a plan that sends nothing
                scratch[0, WIRE_BYTES] = max(scratch[0, WIRE_BYTES] - before, LEAST_BYTES)
            start_state[DEVICE_FREE] = max(rows[k, R_DEVICE_END], from_s) - base_s
            count = _go(
                0, rows[k, R_ARRIVAL], base_s, scratch, parameters, rate, carried, ones, no_jobs, no_work, no_bound, start_state,
                row, start_transfers, count,
            )  # fmt: skip
            start_transfers[count - 1, BYTES] = table[plan, WIRE_BYTES]
            if running:
                start_transfers[count - 1, START], start_transfers[count - 1, BEFORE] = rows[k, R_SEND_START], before
                start_transfers[count - 1, SENT] += before
        start_state[DEVICE_FREE] = device_free - base_s
        for i in range(len(values)):
            _copy(start_state, world, STATE)
            _copy(state, belief, len(state))
            _copy(readings, read, len(readings))
            belief[LAST_BYTES] = table[chosen[i], WIRE_BYTES]
            for j in range(count):
                for column in range(TRANSFER):
                    transfers[j, column] = start_transfers[j, column]
            held = _go(
                chosen[i], now, base_s, table, parameters, rate, carried, ones, no_jobs, no_work, no_bound, world, row, transfers, count
            )
            reported, last, earned[i] = 0, now, 0.0
            for at in arrivals:
                reported, acked = _read(
                    at, at - last, world[DEVICE_FREE] + base_s, base_s, from_s, half_rtt, slot_s, rate, carried, transfers, held, reported,
                    read,
                )  # fmt: skip
                last = at
                _believe(belief, numbers, sizes, read, at, acked)
                if told:
                    _tell(belief, numbers, at, rate[0, min(int((at - base_s) / slot_s), slots - 1)])
                _look(belief, numbers, read, at, acked, moment, ahead)
                plan = _best(table, loads, order, rank, numbers, moment, ahead, worth)
                belief[LAST_BYTES] = table[plan, WIRE_BYTES]
                moment[DEADLINE_AT] = moment[DUE_AT]
                earned[i] += _expected_worth(plan, table, loads, numbers, moment, ahead)
                if held == MOST_TRANSFERS:
                    break
                held = _go(
                    plan, at, base_s, table, parameters, rate, carried, ones, no_jobs, no_work, no_bound, world, row, transfers, held
                )
        for i in range(len(values)):
            ahead_by = earned[i] - earned[0]
            lead[i] += ahead_by / samples
            square[i] += ahead_by * ahead_by / samples
    ours = values[0]
    for i in range(len(values)):
        values[i] += lead[i] - ours - CAUTION * np.sqrt(max(0.0, square[i] - lead[i] * lead[i]) / samples)


@composed
def plan_episodes(
    told: bool,  # noqa: FBT001 - numba takes no keywords
    samples: int,
    horizon: int,
    seed: int,
    numbers: Any,
    sizes: Any,
    loads: NDArray[np.float64],
    order: NDArray[np.int64],
    rank: NDArray[np.int64],
    objective: tuple[float, float, float, float, float, float],
    chosen_episodes: NDArray[np.int64],
    arrivals: NDArray[np.float64],
    table: NDArray[np.float64],
    parameters: NDArray[np.float64],
    rate: NDArray[np.float64],
    carried: NDArray[np.float64],
    slow_down: NDArray[np.float64],
    job_arrival: NDArray[np.float64],
    job_work: NDArray[np.float64],
    job_bound: NDArray[np.float64],
    readings: Any,
    rows: NDArray[np.float64],
    plans: NDArray[np.int64],
    latency_s: NDArray[np.float64],
    accuracy: NDArray[np.float64],
    energy_j: NDArray[np.float64],
    rewards: NDArray[np.float64],
) -> None:
    """Plan every request of the given episodes; without samples, by the rule alone."""
    requests, slot_s, half_rtt = arrivals.shape[1] - 1, parameters[SLOT_S], parameters[HALF_RTT_S]
    state: Any
    moment: Any
    ahead: Any
    state, moment, ahead, worth = np.zeros(F_STATE), np.zeros(MOMENT), np.zeros(FORECAST), np.empty(len(table))
    world, places, made = np.zeros(STATE), np.zeros((1, PLACE), np.int64), np.zeros((1, rows.shape[1]), np.int64)
    chosen, coming = np.zeros(ACTIONS, np.int64), np.zeros(horizon)
    for episode in chosen_episodes:
        np.random.seed(seed + episode)  # noqa: NPY002 - numba knows the old generator only
        for i in range(PLACE):
            places[0, i] = 0
        places[0, 0] = episode
        for i in range(STATE):
            world[i] = 0.0
        tm.reset(readings)
        _reset(state, numbers)
        acked, total = 0.0, 0.0
        for k in range(requests):
            now = arrivals[episode, k]
            if k > 0:
                acked = _advance(now, half_rtt, slot_s, table, rate, carried, 0, places, made, rows, None, readings)
            _arrive(now, k, parameters, rate, job_arrival, job_work, places, rows, None, world, readings)
            _believe(state, numbers, sizes, readings, now, acked)
            if told:
                _tell(state, numbers, now, rate[episode, min(int(now / slot_s), rate.shape[1] - 1)])
            _look(state, numbers, readings, now, acked, moment, ahead)
            plan = _best(table, loads, order, rank, numbers, moment, ahead, worth)
            if samples > 0:
                count = _candidates(table, loads, rank, numbers, moment, ahead, worth, chosen)
                values = np.empty(count)
                # The rule's reserve is for choosing, not a part of what is expected.
                moment[DEADLINE_AT] = moment[DUE_AT]
                for i in range(count):
                    values[i] = _expected_worth(chosen[i], table, loads, numbers, moment, ahead)
                # Who is told knows the link up to now; else it is known as far as acknowledgements are back.
                from_s = now if told else max(now - half_rtt, 0.0)
                first, before = places[0, AT_LINK], -1.0
                while first < k and (rows[0, first, R_STATUS] == DEVICE or rows[0, first, R_SEND_END] <= from_s):
                    first += 1
                if first < k and rows[0, first, R_SEND_START] <= from_s:
                    sent_by = _carried_in(from_s, slot_s, episode, rate, carried)
                    before = sent_by - _carried_in(rows[0, first, R_SEND_START], slot_s, episode, rate, carried)
                _roll_out(
                    now, from_s, before, first, k, told, samples, table, loads, order, rank, numbers, sizes, parameters, made[0], rows[0],
                    world[DEVICE_FREE], state, readings, chosen, coming, values,
                )  # fmt: skip
                plan = chosen[np.argmax(values)]
            step(plan, now, table, parameters, episode, rate, carried, slow_down, job_arrival, job_work, job_bound, None, world, rows[0, k])
            made[0, k], state[LAST_BYTES] = plan, table[plan, WIRE_BYTES]
            tm.decided(readings, table[plan, WORK_S], table[plan, WIRE_BYTES])
            places[0, REQUEST] = k + 1
            plans[episode, k], latency_s[episode, k] = plan, rows[0, k, R_FINISH] - now
            accuracy[episode, k], energy_j[episode, k] = rows[0, k, R_ACCURACY], rows[0, k, R_ENERGY]
            total += _reward(
                latency_s[episode, k], accuracy[episode, k], energy_j[episode, k],
                objective[0], objective[1], objective[2], objective[3], objective[4], objective[5],
            )  # fmt: skip
        rewards[episode] = total / requests

"""What the device believes of its link and of who comes next: a Bayes filter on its own telemetry, in flat sequences of floats.

The link is open or blocked, a two-state chain over steps (Gilbert 1960, Elliott 1963). While it is open, the logarithm of its rate is
a median plus three drifts, Ornstein-Uhlenbeck processes of different memory: one may stand for the drive, one for shadowing, one
for fading. Without drifts this is Gilbert-Elliott, without a chain a Kalman filter; with both, outages and good links are handled
alike. Requests may come in bursts: a two-state chain as well, seen through the gaps between arrivals.

A transfer is seen through the readings only, once its report is in: it carried so many bytes from its start to its end. The filter
keeps what finished transfers taught; what is shown for a decision also holds the running transfer as far as it is acknowledged.

How a transfer is taken: the steps that it touches are open or blocked; the time for which it was open decides what its bytes say of
the open rate. Every such case is weighed exactly (a recursion over the count of open steps); the cases are then merged into one
chance and one Gaussian. Plain arithmetic on sequences, without a library: a compiled simulator compiles these very functions.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec

from cutlayer.runtime import telemetry as tm

if TYPE_CHECKING:
    from collections.abc import MutableSequence, Sequence

# --- numbers of a model, by index; `Link.numbers` and `Arrivals.numbers` write them
DRIFTS = 3
(
    LOG_RATE,  # natural logarithm of the median open rate, b/s
    NOISE_SD,  # of a transfer's measured logarithm
    BLOCK, UNBLOCK,  # chance at each step that an open link is blocked, that a blocked one opens
    BLOCKED_LOG, BLOCKED_SD,  # logarithm of the blocked rate, b/s
    STEP_S,  # of the chain; steps begin at multiples of it
    LATE_S,  # half a round trip: how late the sender knows of the link
    TOLD,  # 1 where the link itself tells its rate
    JUMP_PER_S,  # how often the drifts move, if they jump; 0: all the time
) = range(10)  # fmt: skip
SD = 10  # of each drift, then how fast each forgets
FORGET_PER_S = SD + DRIFTS
CALM_PER_S, BURST_PER_S, END_CALM_PER_S, END_BURST_PER_S = range(FORGET_PER_S + DRIFTS, FORGET_PER_S + DRIFTS + 4)
NUMBERS = FORGET_PER_S + DRIFTS + 4

# --- a belief about the link, by index: the time it holds for, the chance that the link is blocked then, drifts and their covariance
AT, BLOCKED, DRIFT = range(3)
COVARIANCE = DRIFT + DRIFTS  # rows one after another
BELIEF = COVARIANCE + DRIFTS * DRIFTS
# --- the state: the belief that is shown, the one that is kept, and what was taken up
SHOWN, KEPT = 0, BELIEF
# End of the last transfer, last arrival, chance of a burst; bytes that the last plan sends, which who decides writes down.
SEEN_END, SEEN_ARRIVAL, BURST, LAST_BYTES = range(2 * BELIEF, 2 * BELIEF + 4)
_SHARE = 2 * BELIEF + 4  # scratch: how much of each drift's start is in its mean over a transfer
_CROSS = _SHARE + DRIFTS  # scratch: covariance of each drift's end with the mean over a transfer
_MOVED_CROSS = _CROSS + DRIFTS  # scratch: the part of it that comes of what moves, and of the variance at the end; 0 without jumps
_MOVED = _MOVED_CROSS + DRIFTS
_STEP = _MOVED + DRIFTS  # scratch: what a transfer adds to the drifts and to their covariance
_SPREAD = _STEP + DRIFTS
_CASES = _SPREAD + DRIFTS * DRIFTS  # scratch: chance of each case of a transfer
MOST_STEPS = 8  # a transfer over more is cut into as many equal parts: our choice, longer than nearly all deadlines at 20 ms
_COUNTS = MOST_STEPS - 1
STATE = _CASES + 4 * _COUNTS

# What no case explains is believed of a chance this small and spread this wide: a broken sample must not break the belief.
OUTLIER, OUTLIER_SD = 1e-6, 3.0
SHORTEST_S = 1e-6  # a shorter transfer is rounding
LEAST_JUMP = 1e-6  # chance of a jump, at least: a deviation is divided by it
# Beyond these a reading is broken, and not taken up (one that is no number neither): an hour; 1 Tb/s, or less than a bit a second.
LONGEST_S, TOP_LOG = 3600.0, math.log(1e12)
_SAME_BYTES = 1e-6  # relative: a logarithm was taken in between


class Link(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a link behaves.

    median_bps while open, and the natural logarithm's drifts about it: deviations sd, correlation exp(-lag / memory_s). noise_sd of
    a transfer's measured logarithm. block and unblock are chances at each step of step_s; blocked_bps with deviation blocked_sd of
    its logarithm is what a blocked link carries. told: the link tells its rate.
    jump_per_s: the drifts stand still but for so many jumps a second, as a measured trace of few samples does; 0: they move all the time.
    """

    median_bps: float
    sd: tuple[float, float, float]
    memory_s: tuple[float, float, float]
    noise_sd: float = 0.02  # our choice: rounding of the simulator is less, of a real stack more
    block: float = 0.0
    unblock: float = 1.0
    blocked_bps: float = tm.SLOWEST_BPS
    blocked_sd: float = 1.0
    step_s: float = 0.02
    told: bool = False
    jump_per_s: float = 0.0

    def numbers(self, late_s: float) -> list[float]:
        """By the indices above, up to those of the arrivals; the sender knows of the link `late_s` late."""
        return [
            math.log(self.median_bps), self.noise_sd, self.block, self.unblock, math.log(self.blocked_bps), self.blocked_sd, self.step_s,
            late_s, float(self.told), self.jump_per_s, *self.sd, *(1.0 / memory for memory in self.memory_s),
        ]  # fmt: skip


class Arrivals(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How requests come: so many a second in calm times and in bursts, which last calm_s and burst_s on average."""

    calm_per_s: float = 1.0
    burst_per_s: float = 1.0
    calm_s: float = 1.0
    burst_s: float = 1.0

    def numbers(self) -> list[float]:
        """By the indices above."""
        return [self.calm_per_s, self.burst_per_s, 1.0 / self.calm_s, 1.0 / self.burst_s]


def fresh(numbers: Sequence[float]) -> list[float]:
    """The state of a device that has seen nothing: the steady state of the model."""
    state = [0.0] * STATE
    reset(state, numbers)
    return state


def reset(state: MutableSequence[float], numbers: Sequence[float]) -> None:
    """Forget everything."""
    for i in range(STATE):
        state[i] = 0.0
    if numbers[BLOCK] > 0.0:
        state[KEPT + BLOCKED] = numbers[BLOCK] / (numbers[BLOCK] + numbers[UNBLOCK])
    for i in range(DRIFTS):
        state[KEPT + COVARIANCE + i * DRIFTS + i] = numbers[SD + i] ** 2
    state[SEEN_END] = tm.NEVER
    state[SEEN_ARRIVAL] = tm.NEVER
    state[BURST] = numbers[END_CALM_PER_S] / (numbers[END_CALM_PER_S] + numbers[END_BURST_PER_S])
    _show(state)


def update(
    state: MutableSequence[float],
    numbers: Sequence[float],
    sizes: Sequence[float],
    readings: Sequence[float],
    now_s: float,
    acked_bytes: float,
) -> None:
    """Take up what the readings tell at the arrival of a request; to be called once for each.

    `sizes` are the bytes that plans put on the wire: a transfer of such a size was not given up, so its end was decided by the link.
    """
    _take_arrival(state, numbers, readings)
    if numbers[TOLD] > 0.0:
        if readings[tm.SAMPLES] > 0.0 and readings[tm.RATE_AT] >= state[KEPT + AT]:
            at_s = readings[tm.RATE_AT]
            _take(state, KEPT, numbers, at_s, at_s, math.log(max(readings[tm.RATE_BPS], tm.SLOWEST_BPS)), 0.0)
        _show(state)
        return
    for i in range(tm.RING_LENGTH - 1, -1, -1):
        end_s = readings[tm.RING + 3 * i + 1]
        if end_s == tm.NEVER or not state[SEEN_END] < end_s <= now_s:
            continue
        took_s = readings[tm.RING + 3 * i + 2]
        log_rate = math.log(10.0) * readings[tm.RING + 3 * i]
        state[SEEN_END] = end_s
        if SHORTEST_S <= took_s <= LONGEST_S and 0.0 <= log_rate <= TOP_LOG:
            _take(state, KEPT, numbers, end_s - took_s, end_s, log_rate, _timed(sizes, math.exp(log_rate) * took_s / 8.0))
    _show(state)
    if readings[tm.SENDING_SINCE] != tm.NEVER:
        start_s, end_s = readings[tm.SENDING_SINCE] - numbers[LATE_S], now_s - numbers[LATE_S]
        rate_bps = max(8.0 * acked_bytes / max(end_s - start_s, SHORTEST_S), tm.SLOWEST_BPS)
        if SHORTEST_S <= end_s - start_s <= LONGEST_S and math.log(rate_bps) <= TOP_LOG:
            _take(state, SHOWN, numbers, start_s, end_s, math.log(rate_bps), 0.0)


def _show(state: MutableSequence[float]) -> None:
    for i in range(BELIEF):
        state[SHOWN + i] = state[KEPT + i]


def _timed(sizes: Sequence[float], sent_bytes: float) -> float:
    """1 where the transfer went through, so that its end is what was observed; 0 where it was cut off, and its bytes are."""
    for size in sizes:
        if abs(size - sent_bytes) <= _SAME_BYTES * size:
            return 1.0
    return 0.0


def _take_arrival(state: MutableSequence[float], numbers: Sequence[float], readings: Sequence[float]) -> None:
    a, b, q, r = numbers[CALM_PER_S], numbers[BURST_PER_S], numbers[END_CALM_PER_S], numbers[END_BURST_PER_S]
    if a == b or readings[tm.LAST_ARRIVAL] == state[SEEN_ARRIVAL]:
        return
    calm, burst = 1.0 - state[BURST], state[BURST]
    if state[SEEN_ARRIVAL] != tm.NEVER:
        calm, burst, _ = after_gap(calm, burst, readings[tm.LAST_ARRIVAL] - state[SEEN_ARRIVAL], a, b, q, r)
    else:  # the first arrival is more likely in a burst
        calm, burst = calm * a, burst * b
    state[BURST] = burst / (calm + burst)
    state[SEEN_ARRIVAL] = readings[tm.LAST_ARRIVAL]


def after_gap(
    calm: float, burst: float, gap_s: float, calm_per_s: float, burst_per_s: float, end_calm_per_s: float, end_burst_per_s: float
) -> tuple[float, float, float]:
    """Weights of calm and burst after a gap and the arrival that ends it, and the logarithm of a factor that both lack.

    A Markov-modulated Poisson process: (calm, burst) exp((Q - L) gap) L, where Q moves between the two and L holds their rates; the
    exponential of a matrix of two rows in closed form.
    """
    half = 0.5 * (end_burst_per_s + burst_per_s - end_calm_per_s - calm_per_s)
    root = math.sqrt(half * half + end_calm_per_s * end_burst_per_s)
    fade = math.exp(-2.0 * root * gap_s)
    even, odd = 1.0 + fade, (1.0 - fade) / root
    calm, burst = (
        calm_per_s * (calm * (even + odd * half) + burst * odd * end_burst_per_s),
        burst_per_s * (calm * odd * end_calm_per_s + burst * (even - odd * half)),
    )
    middle = -0.5 * (end_burst_per_s + burst_per_s + end_calm_per_s + calm_per_s)
    return calm, burst, (middle + root) * gap_s - math.log(2.0)


def wait(state: MutableSequence[float], belief: int, numbers: Sequence[float], until_s: float) -> None:
    """Let the belief grow old: nothing is seen until then."""
    lag_s = until_s - state[belief + AT]
    if lag_s > 0.0:
        if numbers[BLOCK] > 0.0:
            steps = math.floor(until_s / numbers[STEP_S]) - math.floor(state[belief + AT] / numbers[STEP_S])
            share = numbers[BLOCK] / (numbers[BLOCK] + numbers[UNBLOCK])
            kept = (1.0 - numbers[BLOCK] - numbers[UNBLOCK]) ** steps
            state[belief + BLOCKED] = share + (state[belief + BLOCKED] - share) * kept
        _drift_on(state, belief, numbers, lag_s)
        state[belief + AT] = until_s


def _drift_on(state: MutableSequence[float], belief: int, numbers: Sequence[float], lag_s: float) -> None:
    for i in range(DRIFTS):
        keep = math.exp(-numbers[FORGET_PER_S + i] * lag_s)
        state[belief + DRIFT + i] *= keep
        for j in range(DRIFTS):
            state[belief + COVARIANCE + i * DRIFTS + j] *= keep
            state[belief + COVARIANCE + j * DRIFTS + i] *= keep
        # Row and column meet on the diagonal, which has forgotten twice by now.
        state[belief + COVARIANCE + i * DRIFTS + i] += numbers[SD + i] ** 2 * (1.0 - keep * keep)


def _expect_mean(state: MutableSequence[float], belief: int, numbers: Sequence[float], took_s: float) -> tuple[float, float]:
    """Let the drifts go on for a transfer; mean and variance of its measured logarithm, were the link open.

    An Ornstein-Uhlenbeck process x of deviation s and rate k from x0: with e = exp(-k d) and p = 1 - e its mean over d has mean
    x0 p / (k d), variance s^2 (2 k d - 2 p - p^2) / (k d)^2 and covariance s^2 p^2 / (k d) with its end.
    """
    mean, variance = numbers[LOG_RATE], numbers[NOISE_SD] ** 2
    for i in range(DRIFTS):
        lost = numbers[FORGET_PER_S + i] * took_s
        state[_SHARE + i] = -math.expm1(-lost) / lost if lost > 0.0 else 1.0
    for i in range(DRIFTS):
        lost = numbers[FORGET_PER_S + i] * took_s
        p = lost * state[_SHARE + i]
        mean += state[_SHARE + i] * state[belief + DRIFT + i]
        cross = 0.0
        for j in range(DRIFTS):
            cross += state[belief + COVARIANCE + i * DRIFTS + j] * state[_SHARE + j]
        variance += state[_SHARE + i] * cross
        state[_CROSS + i] = (1.0 - p) * cross
        if lost > 0.0:
            variance += numbers[SD + i] ** 2 * max(0.0, 2.0 * lost - 2.0 * p - p * p) / (lost * lost)
            state[_CROSS + i] += numbers[SD + i] ** 2 * p * p / lost
    _drift_on(state, belief, numbers, took_s)
    return mean, variance


def _count_cases(state: MutableSequence[float], blocked: float, inner: int, block: float, unblock: float) -> None:
    """Chance of (first step open?, latest step open?, open steps between), after `inner` steps behind the first one."""
    for i in range(4 * _COUNTS):
        state[_CASES + i] = 0.0
    state[_CASES] = blocked
    state[_CASES + 3 * _COUNTS] = 1.0 - blocked
    for done in range(inner):
        for first in range(2):
            shut, wide = _CASES + 2 * first * _COUNTS, _CASES + (2 * first + 1) * _COUNTS
            for count in range(done, -1, -1):
                was_shut, was_open = state[shut + count], state[wide + count]
                state[wide + count + 1] = was_open * (1.0 - block) + was_shut * unblock
                state[shut + count] = was_open * block + was_shut * (1.0 - unblock)
            state[wide] = 0.0


def _weigh_cases(
    state: Sequence[float],
    numbers: Sequence[float],
    steps: int,
    lengths_s: tuple[float, float, float],
    took_s: float,
    turns: tuple[float, float],
    log_rate: float,
    timed: float,
    mean: float,
    variance: float,
) -> tuple[float, float, float, float, float, float]:
    """Likelihood of a transfer over all cases, of those that end blocked, and of those that were ever open; the first two moments, times
    that, by which the open rate was missed; and the chance to end blocked if nothing had been seen.

    lengths_s: of the first, each inner and the last step; turns: chances to be blocked and to open.
    """
    first_s, step_s, last_s = lengths_s
    blocked_sd = math.hypot(numbers[BLOCKED_SD], numbers[NOISE_SD])
    rate, blocked_rate = math.exp(log_rate), math.exp(numbers[BLOCKED_LOG])
    total, total_blocked, total_open, missed, squared, end_blocked = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for case in range(4):
        for count in range(max(1, steps - 1)):
            chance = state[_CASES + case * _COUNTS + count]
            if chance == 0.0:
                continue
            for last in range(2):
                if steps == 1:  # the first step is the last
                    if last != case % 2:
                        continue
                    weight, open_s = chance, took_s * last
                else:
                    opens = 1.0 - turns[0] if case % 2 == 1 else turns[1]
                    weight = chance * (opens if last == 1 else 1.0 - opens)
                    open_s = first_s * (case // 2) + step_s * count + last_s * last
                if last == 0:
                    end_blocked += weight
                share = open_s / took_s if took_s > 0.0 else float(last)
                miss = 0.0
                if share <= 0.0:
                    away = (log_rate - numbers[BLOCKED_LOG]) / blocked_sd
                    weight *= math.exp(-0.5 * away * away) / blocked_sd
                else:
                    open_rate = (rate - (1.0 - share) * blocked_rate) / share
                    if open_rate <= 0.0:
                        continue
                    miss = math.log(open_rate) - mean
                    weight *= math.exp(-0.5 * miss * miss / variance) / math.sqrt(variance) * rate / (share * open_rate)
                    # Where the bytes were given and the time was not, the chance is one of time: the rate at the end comes in.
                    if timed > 0.0 and last == 1:
                        weight *= open_rate / rate
                    total_open += weight if timed == 0.0 or last == 1 else weight * blocked_rate / rate
                if timed > 0.0 and last == 0:
                    weight *= blocked_rate / rate
                total += weight
                if last == 0:
                    total_blocked += weight
                missed += weight * miss
                squared += weight * miss * miss
    return total, total_blocked, total_open, missed, squared, end_blocked


def _note_moves(state: MutableSequence[float], numbers: Sequence[float], gap_s: float, took_s: float) -> float:
    """What moves of the drifts in a gap and a transfer after it adds to the variance of the mean over the transfer; and, in scratch, to
    its covariance with each drift's end and to that end's variance.
    """
    added = 0.0
    for i in range(DRIFTS):
        share, lost = state[_SHARE + i], numbers[FORGET_PER_S + i] * took_s
        p, variance = lost * share, numbers[SD + i] ** 2
        before = variance * -math.expm1(-2.0 * numbers[FORGET_PER_S + i] * gap_s)
        added += share * share * before
        state[_MOVED_CROSS + i] = (1.0 - p) * share * before
        state[_MOVED + i] = (1.0 - p) ** 2 * before + variance * p * (2.0 - p)
        if lost > 0.0:
            added += variance * max(0.0, 2.0 * lost - 2.0 * p - p * p) / (lost * lost)
            state[_MOVED_CROSS + i] += variance * p * p / lost
    return added


def _take(
    state: MutableSequence[float], belief: int, numbers: Sequence[float], start_s: float, end_s: float, log_rate: float, timed: float
) -> None:
    """Take up that the link carried exp(log_rate) b/s on average from `start_s` to `end_s`; a transfer of no length is a moment."""
    start_s = max(start_s, state[belief + AT])
    gap_s, took_s = start_s - state[belief + AT], max(0.0, end_s - start_s)
    wait(state, belief, numbers, start_s)
    mean, variance = _expect_mean(state, belief, numbers, took_s)
    state[belief + AT] = max(end_s, start_s)

    # Steps that it touches: the first and the last in part. Where there are many, equal parts instead.
    step_s, block, unblock = numbers[STEP_S], numbers[BLOCK], numbers[UNBLOCK]
    begun = math.floor(start_s / step_s)
    steps = int(math.floor(end_s / step_s) - begun) + 1
    first_s = took_s if steps <= 1 else (begun + 1.0) * step_s - start_s
    last_s = took_s - first_s - step_s * (steps - 2)
    if block > 0.0 and steps > MOST_STEPS:
        steps = MOST_STEPS
        parts = took_s / (MOST_STEPS * step_s)
        fade = 1.0 - max(0.0, 1.0 - block - unblock) ** parts
        block, unblock = fade * block / (block + unblock), fade * unblock / (block + unblock)
        step_s = first_s = last_s = took_s / MOST_STEPS
    if block == 0.0:
        steps, first_s = 1, took_s
    _count_cases(state, state[belief + BLOCKED], max(0, steps - 2), block, unblock)

    # Two ways in which drifts may have come here where they jump, else one: they stood still, or all that moves did so in jumps.
    jumped, added = 1.0, 0.0
    if numbers[JUMP_PER_S] > 0.0:
        jumped = max(-math.expm1(-numbers[JUMP_PER_S] * (gap_s + took_s)), LEAST_JUMP)
        added = _note_moves(state, numbers, gap_s, took_s)
    for i in range(DRIFTS):
        state[_STEP + i] = 0.0
        for j in range(DRIFTS):
            state[_SPREAD + i * DRIFTS + j] = 0.0
    total, total_blocked, moved = 0.0, 0.0, 0.0
    for way in range(2):
        chance, times = (jumped, 1.0 / jumped) if way == 0 else (1.0 - jumped, 0.0)
        if chance == 0.0:
            continue
        inner = variance + added * (times - 1.0)
        seen, blocked, opened, missed, squared, end_blocked = _weigh_cases(
            state, numbers, steps, (first_s, step_s, last_s), took_s, (block, unblock), log_rate, timed, mean, inner
        )
        away = (log_rate - mean) / OUTLIER_SD
        odd = OUTLIER * math.exp(-0.5 * away * away) / OUTLIER_SD
        total += chance * (seen + odd)
        total_blocked += chance * (blocked + odd * end_blocked)
        if way == 0:
            moved = chance * (seen + odd)
        for i in range(DRIFTS):
            cross_i = state[_CROSS + i] + state[_MOVED_CROSS + i] * (times - 1.0)
            state[_STEP + i] += chance * cross_i * missed / inner
            for j in range(DRIFTS):
                cross_j = state[_CROSS + j] + state[_MOVED_CROSS + j] * (times - 1.0)
                state[_SPREAD + i * DRIFTS + j] += chance * cross_i * cross_j * (squared / (inner * inner) - opened / inner)
    state[belief + BLOCKED] = total_blocked / total
    for i in range(DRIFTS):
        step = state[_STEP + i] / total
        state[belief + DRIFT + i] += step
        state[belief + COVARIANCE + i * DRIFTS + i] += state[_MOVED + i] * (moved / total / jumped - 1.0)
        for j in range(DRIFTS):
            state[belief + COVARIANCE + i * DRIFTS + j] += (state[_SPREAD + i * DRIFTS + j] - step * state[_STEP + j]) / total


# --- a rule of thumb in the place of the filter

(
    AGE_PER_S,  # how fast a measured rate grows old
    NEWEST,  # weight of the newest transfer against the mean over transfers, of logarithms
    RUNNING,  # weight of the running transfer's rate so far
    CAUTION, OLD_CAUTION,  # taken off the logarithm of the rate, always and when it is old
) = range(NUMBERS, NUMBERS + 5)  # fmt: skip
AGED_NUMBERS = NUMBERS + 5


class Aging(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An aged rate: the measured one shrunk to a prior as it grows old, less a margin; what `aged` makes a belief of.

    All weights and margins are of natural logarithms; `prior_bps` is what is believed after memory_s many times over.
    """

    prior_bps: float
    memory_s: float
    newest: float = 0.0
    running: float = 0.0
    caution: float = 0.0
    old_caution: float = 0.0

    def numbers(self) -> list[float]:
        """By the indices above."""
        return [1.0 / self.memory_s, self.newest, self.running, self.caution, self.old_caution]


def aged(state: MutableSequence[float], numbers: Sequence[float], readings: Sequence[float], now_s: float, acked_bytes: float) -> None:
    """Show a certain belief: the aged rate, as if it stayed. `LOG_RATE` is the prior; `numbers` has no drifts and no chain."""
    log_rate, fresh_share = numbers[LOG_RATE], 0.0
    if readings[tm.SAMPLES] > 0.0:
        fresh_share = math.exp(-numbers[AGE_PER_S] * max(0.0, now_s - readings[tm.RATE_AT]))
        seen = math.log(max(readings[tm.RATE_BPS], tm.SLOWEST_BPS))
        if readings[tm.RING + 1] != tm.NEVER:
            seen += numbers[NEWEST] * (math.log(10.0) * readings[tm.RING] - seen)
        log_rate += fresh_share * (seen - log_rate)
    if readings[tm.SENDING_SINCE] != tm.NEVER and now_s - readings[tm.SENDING_SINCE] > SHORTEST_S:
        so_far = max(8.0 * acked_bytes / (now_s - readings[tm.SENDING_SINCE]), tm.SLOWEST_BPS)
        log_rate += numbers[RUNNING] * (math.log(so_far) - log_rate)
    log_rate -= numbers[CAUTION] + numbers[OLD_CAUTION] * (1.0 - fresh_share)
    for i in range(BELIEF):
        state[SHOWN + i] = 0.0
    state[AT] = now_s
    state[DRIFT] = log_rate - numbers[LOG_RATE]


# What compiled code calls of this file.
FUNCTIONS = (
    reset, update, aged, _show, _timed, _take_arrival, after_gap, wait, _drift_on, _expect_mean, _count_cases, _weigh_cases, _note_moves,
    _take,
)  # fmt: skip

"""A model of a scenario's link, arrivals, device and edge, fitted to the streams of training episodes by moments and likelihood.

Nothing is read off the scenario that a device's owner would not know of a deployment: its round trip, its margin, what its plans
load. Rates, gaps, slow-downs and background work come from the streams.
"""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import numpy as np
from msgspec.structs import replace

from cutlayer.agents.bayes import compiled
from cutlayer.envs.channels.statistics import OUTAGE_BPS
from cutlayer.envs.channels.traces import Trace
from cutlayer.envs.streams import draw
from cutlayer.runtime import telemetry as tm
from cutlayer.runtime.filters import Arrivals, Link
from cutlayer.runtime.priced import Device, Edge, Loads, Parameters

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from cutlayer.envs.spec import Scenario
    from cutlayer.envs.streams import Streams

# A share of slots under OUTAGE_BPS from which on outages are a state of their own: our choice, one slot in a thousand.
FEWEST_OUTAGES = 1e-3
# Two levels explain the logarithm of the rate if they leave at most this share of its variance; a normal distribution, cut in
# the best place, leaves 1 - 2/pi = 0.36.
LEFT_BY_LEVELS = 0.05
SURE_SD = 0.02  # deviation of a measured logarithm; a link that varies less does not vary
LEVEL_SD = 1e-3  # of a blocked link that always carries the same: rounding
DRIVE_MEMORY_S = 1e4  # what differs between drives stays for all of an episode
# Measured drives are few; how others differ from them is no measurement. Our choice: by a factor of two.
DRIVE_SD = math.log(2.0)
LONGEST_LAG_S = 10.0  # of the autocovariance: what is remembered for longer is the drive's
# Memories that are tried for the other two drifts, seconds: our choice, from a few slots to the longest lag.
MEMORIES_S = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6)
BURSTS_GAIN = 10.0  # of log likelihood, at least, for two rates of arrival instead of one: our choice, far beyond chance for three numbers
WAIT_QUANTILES = (1 / 6, 1 / 2, 5 / 6)  # each stands for a third
GRID_S = 0.02  # at which waits at the edge are looked at: a slot


def parameters(scenario: Scenario, episodes: Sequence[int]) -> Parameters:
    """The model of a scenario, with prices of zero; `episodes` must not be those it is judged on."""
    drawn = [draw(scenario, episode) for episode in episodes]
    link = link_of([one.rate_bps for one in drawn], scenario.slot_s)
    if isinstance(scenario.channel, Trace):
        link = replace(link, sd=(max(link.sd[0], DRIVE_SD), *link.sd[1:]))
    return Parameters(
        link=replace(link, told=scenario.link.rate_told),
        cancel_margin_s=scenario.cancel_margin_s,
        arrivals=arrivals_of([np.diff(one.arrival_s) for one in drawn]),
        device=device_of(scenario, drawn),
        edge=edge_of(scenario, drawn),
        loads=loads_of(scenario, cold=1.0),
    )


# --- link


def link_of(rates_bps: Sequence[NDArray[np.float64]], slot_s: float) -> Link:
    """The chain from counts of changes, the drifts from the autocovariance of the open link's logarithm."""
    logs = [np.log(np.maximum(rates, tm.SLOWEST_BPS)) for rates in rates_bps]
    edge = _edge(np.concatenate(logs))
    blocked = [log < edge for log in logs]
    open_ = np.concatenate([log[~shut] for log, shut in zip(logs, blocked, strict=True)])
    middle = float(open_.mean())
    sd, memory_s = _drifts([np.where(shut, np.nan, log - middle) for log, shut in zip(logs, blocked, strict=True)], slot_s)
    found = Link(math.exp(middle), sd, memory_s, SURE_SD, step_s=slot_s, jump_per_s=_jumps(rates_bps, slot_s) if max(sd) > 0.0 else 0.0)
    if not any(shut.any() for shut in blocked):
        return found
    shut_log = np.concatenate([log[shut] for log, shut in zip(logs, blocked, strict=True)])
    entered = sum(int((shut[1:] & ~shut[:-1]).sum()) for shut in blocked)
    left = sum(int((~shut[1:] & shut[:-1]).sum()) for shut in blocked)
    open_slots = sum(int((~shut[:-1]).sum()) for shut in blocked)
    shut_slots = sum(int(shut[:-1].sum()) for shut in blocked)
    # One change is counted that was not seen: a chance of 0 or 1 would be certainty out of a finite sample.
    return replace(
        found,
        block=(entered + 1) / (open_slots + 2),
        unblock=(left + 1) / (shut_slots + 2),
        blocked_bps=math.exp(float(shut_log.mean())),
        blocked_sd=max(LEVEL_SD, float(shut_log.std())),
    )


def _edge(log: NDArray[np.float64]) -> float:
    """Below this logarithm of the rate the link is blocked: in an outage, or on the lower of two levels; -inf where it never is."""
    if (log < math.log(OUTAGE_BPS)).mean() >= FEWEST_OUTAGES:
        return math.log(OUTAGE_BPS)
    values = np.sort(log)
    if values[-1] - values[0] < SURE_SD:
        return -math.inf
    # The cut that leaves least variance within the two parts (Otsu, IEEE Trans. SMC 9(1), 1979).
    count = np.arange(1, len(values))
    low, total = np.cumsum(values)[:-1], float(values.sum())
    between = (low - total * count / len(values)) ** 2 / (count * (1.0 - count / len(values)))
    cut = int(between.argmax())
    left = 1.0 - float(between[cut]) / float(((values - values.mean()) ** 2).sum())
    return float(values[cut] + values[cut + 1]) / 2.0 if left <= LEFT_BY_LEVELS else -math.inf


def _jumps(rates_bps: Sequence[NDArray[np.float64]], slot_s: float) -> float:
    """Changes a second, where the rate stands still in most slots: a trace with few samples a second; else 0."""
    changed = np.concatenate([rates[1:] != rates[:-1] for rates in rates_bps])
    return float(changed.mean()) / slot_s if changed.mean() < 0.5 else 0.0


def _drifts(deviations: Sequence[NDArray[np.float64]], slot_s: float) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """Deviations and memories of what stays, of a slow and of a fast drift: the best fit to the autocovariance with no part below 0."""
    most = min(round(LONGEST_LAG_S / slot_s), min(len(one) for one in deviations) - 1)
    lags = np.unique(np.round(np.geomspace(1, max(most, 1), 24)).astype(int))
    lags = np.concatenate([[0], lags[lags <= most]])
    covariance = np.array([_covariance(deviations, int(lag)) for lag in lags])
    if not covariance[0] > SURE_SD**2:
        return (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    best = (math.inf, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    for slow_s, fast_s in itertools.combinations(reversed(MEMORIES_S), 2):
        memory = (DRIVE_MEMORY_S, slow_s, fast_s)
        parts = np.exp(-np.outer(lags * slot_s, 1.0 / np.array(memory)))
        for used in itertools.chain.from_iterable(itertools.combinations(range(3), n) for n in (1, 2, 3)):
            share = np.zeros(3)
            share[list(used)] = np.linalg.lstsq(parts[:, used], covariance, rcond=None)[0]
            error = float(((parts @ share - covariance) ** 2).sum())
            if (share >= 0.0).all() and error < best[0]:
                best = (error, (*np.sqrt(share).tolist(),), memory)
    return best[1], best[2]


def _covariance(deviations: Sequence[NDArray[np.float64]], lag: int) -> float:
    """Mean product of deviations so many slots apart, of open slots only."""
    total, pairs = 0.0, 0
    for one in deviations:
        product = one[: len(one) - lag] * one[lag:]
        known = ~np.isnan(product)
        total += float(product[known].sum())
        pairs += int(known.sum())
    return total / max(pairs, 1)


# --- arrivals


def arrivals_of(gaps_s: Sequence[NDArray[np.float64]]) -> Arrivals:
    """Two rates of arrival by maximum likelihood, or one where two explain no more."""
    pooled = np.concatenate(gaps_s)
    per_s = 1.0 / float(pooled.mean())
    one = Arrivals(per_s, per_s)
    if pooled.std() <= pooled.mean():  # no more spread than Poisson's
        return one
    stacked = np.array(gaps_s)
    steady = len(pooled) * (math.log(per_s) - 1.0)  # log likelihood of a Poisson process at its own rate

    def likelihood(point: NDArray[np.float64]) -> float:
        return float(compiled.gaps_likelihood(stacked, *np.exp(point)))

    # Uphill by steps that shrink; begun at rates about the mean and stays of ten requests.
    point = np.log([per_s / 3.0, per_s * 3.0, per_s / 10.0, per_s / 10.0])
    value, step = likelihood(point), 0.8
    while step > 0.02:  # two per cent: finer than the sample tells
        moved = False
        for i, sign in itertools.product(range(4), (-1.0, 1.0)):
            there = point.copy()
            there[i] += sign * step
            if (found := likelihood(there)) > value:
                point, value, moved = there, found, True
        step = step if moved else step / 2.0
    if value - steady < BURSTS_GAIN:
        return one
    calm, burst, end_calm, end_burst = np.exp(point).tolist()
    if calm > burst:
        calm, burst, end_calm, end_burst = burst, calm, end_burst, end_calm
    return Arrivals(calm, burst, 1.0 / end_calm, 1.0 / end_burst)


# --- device and edge


def device_of(scenario: Scenario, drawn: Sequence[Streams]) -> Device:
    """Two states of the slow-down: below and above the middle of its range, with their means; heat counts as the busy one."""
    factors = np.concatenate([one.slow_down for one in drawn])
    low, high = float(factors.min()), float(factors.max())
    heat = scenario.thermal
    if high - low < 0.01 * low:  # a percent is nothing
        if heat is None or heat.slowest == 1.0:
            return Device(low, low)
        # What heat does is measured with each work; here only that it may, and for how long.
        return Device(low, low * (1.0 + heat.slowest) / 2.0, 0.0, heat.time_constant_s)
    middle = math.sqrt(low * high)
    busy = [one.slow_down > middle for one in drawn]
    turns = sum(int((x[1:] != x[:-1]).sum()) for x in busy)
    share = float(np.concatenate(busy).mean())
    # A chain that turns `turns` times forgets at the sum of its two rates: turns per second over 2 share (1 - share).
    seconds = sum(len(x) - 1 for x in busy) * scenario.slot_s
    forgets_per_s = max(turns, 1) / seconds / (2.0 * share * (1.0 - share))
    return Device(float(factors[factors <= middle].mean()), float(factors[factors > middle].mean()), share, 1.0 / forgets_per_s)


def edge_of(scenario: Scenario, drawn: Sequence[Streams]) -> Edge:
    """What other people's jobs make us wait, from their own queue alone; several servers count as one that is as much faster."""
    platform = scenario.edge.platform
    waits = [_waits(one, scenario.edge.servers) for one in drawn]
    pooled = np.concatenate(waits)
    usual = tuple(float(x) for x in np.quantile(pooled, WAIT_QUANTILES))
    batching = 0.0 if scenario.edge.batching is None else scenario.edge.batching.window_s / 2.0
    found = Edge((usual[0] + batching, usual[1] + batching, usual[2] + batching), 1.0, platform.work_factor, platform.request_s)
    if pooled.max() == 0.0:
        return found
    centred = [one - pooled.mean() for one in waits]
    variance = _covariance(centred, 0)
    lag = 1
    while lag < min(len(one) for one in centred) // 4 and _covariance(centred, lag) > variance / math.e:
        lag += 1
    return replace(found, memory_s=lag * GRID_S)


def _waits(streams: Streams, servers: int) -> NDArray[np.float64]:
    """How long a job that came would wait, at each point of a grid over the episode."""
    at_s = np.arange(0.0, float(streams.arrival_s[-1]), GRID_S)
    if len(streams.job_arrival_s) == 0:
        return np.zeros(len(at_s))
    work = np.concatenate([[0.0], np.cumsum(streams.job_service_s / servers)])
    bound = np.concatenate([[-np.inf], np.maximum.accumulate(streams.job_arrival_s - work[:-1])])
    come = np.searchsorted(streams.job_arrival_s, at_s, side="right")
    waits: NDArray[np.float64] = np.maximum(0.0, work[come] + bound[come] - at_s)
    return waits


def loads_of(scenario: Scenario, cold: float) -> Loads | None:
    """What each plan loads where another segment lies ready; `cold`: the share of cases in which it is read from storage as well."""
    if not scenario.loading:
        return None
    loads, memory = scenario.loads(), scenario.memory
    read_s = np.zeros(len(loads.unit))
    if memory is not None:
        read_s = np.where(np.array(loads.unit) >= 0, np.array(loads.unit_bytes) / memory.read_bytes_per_s + memory.init_s, 0.0)
    return Loads(loads.unit, tuple((np.array(loads.swap_s) + cold * read_s).tolist()))

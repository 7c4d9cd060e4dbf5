"""What a rule believes of the link, which it knows from its own transfers only.

The papers' systems probe the link or are told its rate. A device that sends nothing here learns nothing, and a rule that
once saw a blocked link would stay on the device for ever; so a rule forgets: an estimate older than `forget_s` gives way
to what the link usually carried in training.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from cutlayer.envs.streams import draw
from cutlayer.runtime import telemetry as tm
from cutlayer.runtime.rules import FASTEST_BPS, PRIOR_RATE_BPS, estimate

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from cutlayer.envs.simulation import View
    from cutlayer.envs.spec import Scenario
    from cutlayer.profiles.cost import Estimate

SLOWEST_LOG, FASTEST_LOG = math.log10(tm.SLOWEST_BPS), math.log10(FASTEST_BPS)
# Tuned: how old an estimate may grow. Never as in the papers, or about the time an outage (LTE 0.4 s) or a drift of the scenarios lasts.
FORGET_S = (math.inf, 2.0, 0.5)


def new_rates(readings: Sequence[float], since_s: float) -> list[float]:
    """Logarithms (base 10, b/s) of what the link showed after `since_s`, oldest first; the rate it told where it tells one.

    At most what the readings keep, six transfers.
    """
    if readings[tm.SAMPLES] <= 0.0:
        return []
    if readings[tm.RATE_AT] != readings[tm.RING + 1]:  # a sampled transfer sets both to its end: so the link told this one
        told = readings[tm.RATE_BPS]
        return [_bounded(math.log10(told) if told > 0.0 else SLOWEST_LOG)] if readings[tm.RATE_AT] > since_s else []
    ring = range(tm.RING + 3 * tm.RING_LENGTH - 3, tm.RING - 1, -3)
    return [_bounded(readings[i]) for i in ring if readings[i + 1] > since_s and readings[i + 1] != tm.NEVER]


def last_rate_bps(readings: Sequence[float]) -> float:
    """Of the latest transfer, or as told by the link where it tells its rate; a usable LTE uplink before the first."""
    rates = new_rates(readings, tm.NEVER)
    return float(10.0 ** rates[-1]) if rates else PRIOR_RATE_BPS


def _bounded(log_rate: float) -> float:
    return min(FASTEST_LOG, max(SLOWEST_LOG, log_rate))


def believed(view: View, prior_bps: float = PRIOR_RATE_BPS) -> Estimate:
    """The readings at face value, the rate smoothed."""
    return estimate(view.readings, view.now_s, view.acked_bytes(), prior_bps)


@dataclass(frozen=True, slots=True)
class Belief:
    """The smoothed rate, or prior_bps before the first transfer and once the latest is older than forget_s."""

    prior_bps: float
    forget_s: float = math.inf

    def estimate(self, view: View) -> Estimate:
        """Of the present moment."""
        now = believed(view, self.prior_bps)
        if view.now_s - view.readings[tm.RATE_AT] > self.forget_s:
            return replace(now, rate_bps=self.prior_bps)
        return now


def usual_bps(scenario: Scenario, episodes: Iterable[int]) -> float:
    """The rate that the link exceeds half of the time."""
    return max(tm.SLOWEST_BPS, float(np.median(np.concatenate([draw(scenario, episode).rate_bps for episode in episodes]))))


def history(scenario: Scenario, episode: int) -> NDArray[np.float64]:
    """Logarithm (base 10) of the rate that each request of an episode meets: the mean over one deadline from its arrival on."""
    streams, span_s = draw(scenario, episode), scenario.objective.deadline_s
    edges_s = np.arange(len(streams.rate_bps) + 1) * streams.slot_s
    carried = np.concatenate([[0.0], np.cumsum(streams.rate_bps) * streams.slot_s])
    arrival_s = streams.arrival_s[:-1]
    mean_bps = (np.interp(arrival_s + span_s, edges_s, carried) - np.interp(arrival_s, edges_s, carried)) / span_s
    logs: NDArray[np.float64] = np.clip(np.log10(np.maximum(mean_bps, tm.SLOWEST_BPS)), SLOWEST_LOG, FASTEST_LOG)
    return logs

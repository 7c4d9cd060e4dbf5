"""Rules that decide without learning: baseline in the benchmark and fallback in the daemon, one code for both."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cutlayer.profiles.cost import Estimate, expected_energy_j, expected_latency_s, of_deadline, reward
from cutlayer.runtime import features
from cutlayer.runtime import telemetry as tm

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cutlayer.profiles.cost import Objective, Path
    from cutlayer.profiles.plans import PlanTable

# Believed before the first transfer was measured: a usable LTE uplink, so that the rule tries a small transfer and learns.
PRIOR_RATE_BPS = 5e6
# A rule decides whatever a broken reading says: beyond these bounds it means the bound.
FASTEST_BPS, LONG_S, MANY_BYTES = 1e12, 3600.0, 1e12
# How long until a reading says half: a poisoned one is forgotten even where the plan it led to never measures it again.
HALF_LIFE_S = features.HALF_AGE_S  # as the features have it
RATE_HALF_LIFE_S = 5.0  # our choice: between the decorrelation of LTE (0.9 s) and 5G-NSA uplinks (71 s)


def estimate(readings: Sequence[float], now_s: float, acked_bytes: float, prior_bps: float = PRIOR_RATE_BPS) -> Estimate:
    """What the readings say of the moment, taken at face value."""
    return Estimate(*_said(readings, now_s, acked_bytes, prior_bps))


def aged_estimate(readings: Sequence[float], now_s: float, acked_bytes: float, prior_bps: float = PRIOR_RATE_BPS) -> Estimate:
    """What the readings say, each drawn towards what is usual as it gets older: the prior rate, full speed, no wait.

    Taken at face value for ever, a slow-down or an outage that is over keeps the rule from the very plans that would show so.
    """
    rate_bps, slow_down, backlog_s, queued_bytes, edge_wait_s = _said(readings, now_s, acked_bytes, prior_bps)
    return Estimate(
        prior_bps * (rate_bps / prior_bps) ** _trust(now_s - readings[tm.RATE_AT], RATE_HALF_LIFE_S),
        slow_down ** _trust(now_s - readings[tm.SLOW_DOWN_AT], HALF_LIFE_S),
        backlog_s,
        queued_bytes,
        edge_wait_s * _trust(now_s - readings[tm.EDGE_WAIT_AT], HALF_LIFE_S),
    )


def _said(readings: Sequence[float], now_s: float, acked_bytes: float, prior_bps: float) -> tuple[float, float, float, float, float]:
    rate = readings[tm.RATE_BPS] if readings[tm.SAMPLES] > 0 else prior_bps
    return (
        # An outage sample may be zero, and the formulas divide by the rate.
        _sane(rate, tm.SLOWEST_BPS, FASTEST_BPS, prior_bps),
        _sane(readings[tm.SLOW_DOWN], 0.1, 1e3, 1.0) if readings[tm.SLOW_DOWN_AT] != tm.NEVER else 1.0,
        _sane(tm.backlog_s(readings, now_s), 0.0, LONG_S, 0.0),
        _sane(readings[tm.TO_SEND_BYTES] - acked_bytes, 0.0, MANY_BYTES, 0.0),
        _sane(readings[tm.EDGE_WAIT_S], 0.0, LONG_S, 0.0),
    )


def _trust(age_s: float, half_life_s: float) -> float:
    """What a reading still says: 1 when it is taken, half of it after each half-life; nothing where its age is no number."""
    return 0.5 ** (max(0.0, age_s) / half_life_s) if age_s < math.inf else 0.0


def _sane(value: float, low: float, high: float, otherwise: float) -> float:
    """The value within bounds; `otherwise` where it is no number."""
    if low <= value <= high:  # nearly always, and twice as fast as the line below
        return value
    return otherwise if math.isnan(value) else min(max(value, low), high)


@dataclass(frozen=True, slots=True)
class Greedy:
    """The plan that would be worth most if the present estimate stayed true: Neurosurgeon's argmin (Kang et al., ASPLOS
    2017), over exit, partition and bits, for this objective.
    """

    plans: PlanTable
    path: Path
    objective: Objective

    def choose(self, now: Estimate) -> tuple[int, float]:
        """Best plan and its expected latency in seconds; ties go to fewer bytes, then to less device energy."""
        plan, latency_s, _ = self.best(now)
        return plan, latency_s

    def best(self, now: Estimate, deadline_s: float | None = None) -> tuple[int, float, float]:
        """`choose`, and the reward that is expected; deadline_s of this request, where requests differ."""
        latency = expected_latency_s(self.plans, self.path, now)
        numbers = self.objective.numbers()
        free = self.objective.energy_weight == 0.0  # then energy is worked out for ties alone
        energy = np.zeros(1) if free else expected_energy_j(self.plans, self.path, now.rate_bps)
        worth = reward(latency, self.plans.accuracy, energy, *(numbers if deadline_s is None else of_deadline(numbers, deadline_s)))
        best = np.flatnonzero(worth >= worth.max() - 1e-12)
        if len(best) > 1:
            if free:
                energy = expected_energy_j(self.plans, self.path, now.rate_bps)
            best = best[np.lexsort((energy[best], self.plans.wire_bytes[best]))]
        plan = int(best[0])
        return plan, float(latency[plan]), float(worth[plan])

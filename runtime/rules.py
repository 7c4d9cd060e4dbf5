"""Rules that decide without learning: baseline in the benchmark and fallback in the daemon, one code for both."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cutlayer.profiles.cost import Estimate, expected_energy_j, expected_latency_s
from cutlayer.runtime import telemetry as tm

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cutlayer.profiles.cost import Objective, Path
    from cutlayer.profiles.plans import PlanTable

# Believed before the first transfer was measured: a usable LTE uplink, so that the rule tries a small transfer and learns.
PRIOR_RATE_BPS = 5e6
# A rule decides whatever a broken reading says: beyond these bounds it means the bound.
FASTEST_BPS, LONG_S, MANY_BYTES = 1e12, 3600.0, 1e12


def estimate(readings: Sequence[float], now_s: float, acked_bytes: float, prior_bps: float = PRIOR_RATE_BPS) -> Estimate:
    """What the readings say of the moment, taken at face value."""
    rate = readings[tm.RATE_BPS] if readings[tm.SAMPLES] > 0 else prior_bps
    return Estimate(
        # An outage sample may be zero, and the formulas divide by the rate.
        rate_bps=_sane(rate, tm.SLOWEST_BPS, FASTEST_BPS, prior_bps),
        slow_down=_sane(readings[tm.SLOW_DOWN], 0.1, 1e3, 1.0) if readings[tm.SLOW_DOWN_AT] != tm.NEVER else 1.0,
        backlog_s=_sane(tm.backlog_s(readings, now_s), 0.0, LONG_S, 0.0),
        queued_bytes=_sane(readings[tm.TO_SEND_BYTES] - acked_bytes, 0.0, MANY_BYTES, 0.0),
        edge_wait_s=_sane(readings[tm.EDGE_WAIT_S], 0.0, LONG_S, 0.0),
    )


def _sane(value: float, low: float, high: float, otherwise: float) -> float:
    """The value within bounds; `otherwise` where it is no number."""
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
        latency = expected_latency_s(self.plans, self.path, now)
        energy = expected_energy_j(self.plans, self.path, now.rate_bps)
        worth = self.objective.reward(latency, self.plans.accuracy, energy)
        best = np.flatnonzero(worth >= worth.max() - 1e-12)
        if len(best) > 1:
            best = best[np.lexsort((energy[best], self.plans.wire_bytes[best]))]
        return int(best[0]), float(latency[best[0]])

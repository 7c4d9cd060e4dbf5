"""Rules that decide without learning: baseline in the benchmark and fallback in the daemon, one code for both."""

from __future__ import annotations

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
SLOWEST_BPS = 8e3  # an outage sample may be zero; the formulas divide by the rate


def estimate(readings: Sequence[float], now_s: float, acked_bytes: float, prior_bps: float = PRIOR_RATE_BPS) -> Estimate:
    """What the readings say of the moment, taken at face value."""
    rate = readings[tm.RATE_BPS] if readings[tm.SAMPLES] > 0 else prior_bps
    return Estimate(
        rate_bps=max(rate, SLOWEST_BPS),
        slow_down=readings[tm.SLOW_DOWN] if readings[tm.SLOW_DOWN_AT] != tm.NEVER else 1.0,
        backlog_s=tm.backlog_s(readings, now_s),
        queued_bytes=max(0.0, readings[tm.TO_SEND_BYTES] - acked_bytes),
        edge_wait_s=max(0.0, readings[tm.EDGE_WAIT_S]),
    )


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

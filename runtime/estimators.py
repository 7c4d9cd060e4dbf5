"""Running estimates of what telemetry does not hold, and what they make of the cost model's arguments.

Telemetry is what a policy sees, on the device as in the simulator; here is what corrects the rule and the latency that a decision
expects, and what an operator is shown. No formula of the cost is written here.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cutlayer.runtime import telemetry as tm
from cutlayer.runtime.rules import aged_estimate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cutlayer.profiles.cost import Estimate, Path
    from cutlayer.profiles.rows import PlanRow
    from cutlayer.runtime.messages import Outcome

# Shorter transfers tell little of a rate: the dispersion of 3 kB was 11 to 58 % off, of 10 kB 2 to 28 % (20 Mb/s, without and with loss).
FULL_BYTES = 10_000.0
WEIGHT = tm.RATE_WEIGHT  # of a whole sample
EDGE_BOUNDS = 0.1, 100.0  # of the edge's slow-down: beyond them a report is broken, not an edge slow
LONGEST_RTT_S = 10.0  # a round trip beyond is broken too


@dataclass(slots=True)
class Smoothed:
    """Exponentially weighted mean and variance of samples, and when the last one was taken (Finch 2009); NaN mean: none yet."""

    mean: float = math.nan
    variance: float = 0.0
    at_s: float = math.nan

    def add(self, value: float, at_s: float, weight: float = WEIGHT) -> None:
        """Take in a sample; one that is no number is left out."""
        if not math.isfinite(value):
            return
        self.at_s = at_s
        if math.isnan(self.mean):
            self.mean = value
            return
        apart = value - self.mean
        step = weight * apart
        self.mean += step
        self.variance = (1.0 - weight) * (self.variance + apart * step)


class Estimators:
    """What outcomes tell beyond telemetry.

    rate_bps weighted by bytes; rtt_s as the connection measured it; edge_wait_s from replies; edge_slow_down: measured over
    nominal work of the edge, SPINN's scaling factor (Laskaridis et al., MobiCom 2020); slow_down the same for the device by the wall
    clock, and processor by its processor time: where the first is high and the second is not, other programs have the processor.
    """

    __slots__ = ("edge_slow_down", "edge_wait_s", "processor", "rate_bps", "rtt_s", "slow_down")

    def __init__(self) -> None:
        self.rate_bps, self.rtt_s, self.edge_wait_s = Smoothed(), Smoothed(), Smoothed()
        self.edge_slow_down, self.slow_down, self.processor = Smoothed(), Smoothed(), Smoothed()

    def take(self, other: Estimators) -> None:
        """Go on with what another one has gathered."""
        for name in self.__slots__:
            setattr(self, name, getattr(other, name))

    def report(self, now_s: float, outcome: Outcome, row: PlanRow) -> None:
        """Take in what became of a request with that plan."""
        work_s = row.device_s + row.encode_s
        if work_s >= tm.MIN_WORK_S:
            self.slow_down.add((outcome.device_s - outcome.load_s) / work_s, now_s)
            if outcome.device_cpu_s >= 0.0:
                self.processor.add(outcome.device_cpu_s / work_s, now_s)
        if row.bits == 0:
            return
        took_s, size = (outcome.rate_s, outcome.rate_bytes) if outcome.rate_s > 0.0 else (outcome.send_s, outcome.sent_bytes)
        if took_s > 0.0:
            self.rate_bps.add(8.0 * size / took_s, now_s, WEIGHT * min(1.0, max(0.0, size / FULL_BYTES)))
        if 0.0 <= outcome.rtt_s <= LONGEST_RTT_S:
            self.rtt_s.add(outcome.rtt_s, now_s)
        if outcome.edge_wait_s >= 0.0:
            self.edge_wait_s.add(outcome.edge_wait_s, now_s)
        nominal_s = row.decode_s + row.edge_s
        if outcome.edge_s >= 0.0 and nominal_s >= tm.MIN_WORK_S:
            low, high = EDGE_BOUNDS
            self.edge_slow_down.add(min(max(outcome.edge_s / nominal_s, low), high), now_s)

    def estimate(self, readings: Sequence[float], now_s: float, acked_bytes: float, path: Path) -> Estimate:
        """The rule's estimate from telemetry, with the round trip and the edge's slow-down as they were measured."""
        now = aged_estimate(readings, now_s, acked_bytes)
        if math.isnan(self.rtt_s.mean) and math.isnan(self.edge_slow_down.mean):
            return now
        later_s = 0.0 if math.isnan(self.rtt_s.mean) else self.rtt_s.mean - path.rtt_s
        slower = 1.0 if math.isnan(self.edge_slow_down.mean) else self.edge_slow_down.mean
        return dataclasses.replace(now, edge_wait_s=now.edge_wait_s + later_s, edge_slow_down=slower)

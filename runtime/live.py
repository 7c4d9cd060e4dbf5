"""What an operator is shown of the present: the last decision, how the last answers went, what is believed of link, device and edge.

A decision or a report pays an assignment or two for it; everything else is worked out when somebody looks.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import deque
from typing import TYPE_CHECKING

import msgspec

from cutlayer.runtime import telemetry as tm
from cutlayer.runtime.messages import Decision

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cutlayer.runtime.estimators import Estimators

RECENT = 256  # answers whose latencies are shown: eight seconds of a camera; a 95th percentile then has a dozen above it
# Upper bounds in seconds. A decision takes some 20 us on a desktop core and 20 times that on a small device; `budget_s` is 5 ms.
DECISION_S = (1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 0.1)
# Deadlines of the built-in scenarios lie between 40 ms and 1 s.
LATENCY_S = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5, 10.0)


class Histogram:
    """How many values fell under each bound (and above all of them), and their sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds, self.counts, self.total = bounds, [0] * (len(bounds) + 1), 0.0

    def add(self, value: float) -> None:
        """Count a value; a bound belongs to what lies under it."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def buckets(self) -> list[tuple[str, float]]:
        """As Prometheus counts them: each bound with all that lies under it, the last one is endless."""
        found, below = [], 0
        for bound, count in zip((*self.bounds, math.inf), self.counts, strict=True):
            below += count
            found.append(("+Inf" if bound == math.inf else repr(bound), float(below)))
        return found


class Live:
    """Kept by a controller as it decides and is told."""

    __slots__ = ("answers", "decided_s", "decision", "latency", "misses")

    def __init__(self) -> None:
        self.decision: Decision | None = None
        self.decided_s = -math.inf
        self.misses = 0
        self.latency = Histogram(LATENCY_S)
        self.answers: deque[tuple[float, float]] = deque(maxlen=RECENT)

    def answered(self, latency_s: float, deadline_s: float) -> None:
        """A request was answered (or given up) so long after it came in."""
        if not 0.0 <= latency_s < math.inf:
            return
        self.misses += latency_s > deadline_s
        self.latency.add(latency_s)
        self.answers.append((latency_s, deadline_s))


class Present(msgspec.Struct, frozen=True, kw_only=True):
    """What is shown: of `status` and of the live page. None where nothing is known yet.

    decision: the last one, decision_age_s ago. Latencies are those of the last `answers` answers, `missed` is the share of them that
    came after their deadline. rate_bps is what policies and rules go by, edge_wait_s what the last reply had waited at the edge.
    edge_slow_down and slow_down (of the device): measured over nominal time.
    """

    decision: Decision | None
    decision_age_s: float | None
    rate_bps: float | None
    rate_age_s: float | None
    rtt_s: float | None
    edge_wait_s: float | None
    edge_wait_age_s: float | None
    edge_slow_down: float | None
    slow_down: float | None
    slow_down_age_s: float | None
    in_flight: float | None
    answers: int
    deadline_s: float | None
    latency_last_s: float | None
    latency_p50_s: float | None
    latency_p95_s: float | None
    missed: float | None


def present(live: Live, readings: Sequence[float], estimators: Estimators, now_s: float) -> Present:
    """What there is to show at `now_s`."""
    answers = list(live.answers)
    ordered = sorted(latency_s for latency_s, _ in answers)
    sampled = readings[tm.SAMPLES] > 0.0
    waited, slowed = readings[tm.EDGE_WAIT_AT] != tm.NEVER, readings[tm.SLOW_DOWN_AT] != tm.NEVER
    return Present(
        decision=live.decision,
        decision_age_s=None if live.decision is None else _age(now_s, live.decided_s),
        rate_bps=_known(readings[tm.RATE_BPS]) if sampled else None,
        rate_age_s=_age(now_s, readings[tm.RATE_AT]) if sampled else None,
        rtt_s=_known(estimators.rtt_s.mean),
        edge_wait_s=_known(readings[tm.EDGE_WAIT_S]) if waited else None,
        edge_wait_age_s=_age(now_s, readings[tm.EDGE_WAIT_AT]) if waited else None,
        edge_slow_down=_known(estimators.edge_slow_down.mean),
        slow_down=_known(readings[tm.SLOW_DOWN]) if slowed else None,
        slow_down_age_s=_age(now_s, readings[tm.SLOW_DOWN_AT]) if slowed else None,
        in_flight=_known(readings[tm.IN_FLIGHT]),
        answers=len(answers),
        deadline_s=answers[-1][1] if answers else None,
        latency_last_s=answers[-1][0] if answers else None,
        latency_p50_s=_share(ordered, 0.5),
        latency_p95_s=_share(ordered, 0.95),
        missed=sum(latency_s > deadline_s for latency_s, deadline_s in answers) / len(answers) if answers else None,
    )


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _age(now_s: float, at_s: float) -> float | None:
    """Seconds since then: clients race the daemon's clock by a little, and no age is negative."""
    return _known(max(0.0, now_s - at_s))


def _share(ordered: Sequence[float], share: float) -> float | None:
    """The smallest value that so large a share of them does not exceed."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else None

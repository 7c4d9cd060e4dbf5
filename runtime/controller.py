"""Decides, one request after the other. No clock, no socket, no randomness: the time comes in with each call.

    decision = controller.decide(now_s, Request())
    ...                                    # run it
    controller.report(now_s, outcome)      # and tell how it went

What decides is a ladder: the first step that has a valid answer. Every step taken is counted by its reason.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import msgspec
import numpy as np

from cutlayer.profiles.cost import expected_latency_s
from cutlayer.runtime import features
from cutlayer.runtime import telemetry as tm
from cutlayer.runtime.rules import Greedy, estimate

if TYPE_CHECKING:
    from cutlayer.runtime.bundle import Bundle

Step = Literal["policy", "greedy", "static-safe"]

# The fallback ladder: why the policy's answer was not taken, and what answers instead.
LADDER: dict[str, Step] = {
    "": "policy",  # nothing is wrong
    "observation-not-finite": "greedy",  # a reading is broken; the rule clamps what it reads
    "logits-not-finite": "greedy",  # the policy is broken
    "edge-unreachable": "static-safe",  # the device agent says so: nothing may be sent
}


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What comes with a request: its number, and whether the edge can be reached at all."""

    id: int = 0
    acked_bytes: float = 0.0
    edge_reachable: bool = True


class Decision(msgspec.Struct, frozen=True):
    """The plan for a request, and why. `step` is who decided; `reason` is empty when it was the policy."""

    id: int
    plan: int
    exit: int
    partition: int
    bits: int
    step: Step
    reason: str
    expected_latency_s: float


class Outcome(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What became of a request. Durations in seconds; times on the device's monotonic clock, the one `now_s` is on.

    sent_bytes counts bytes on the wire, 0 where nothing was sent; `rate_bytes` in `rate_s` is the receiver's dispersion, where it
    measured one; edge_wait_s is negative where no reply came.
    """

    plan: int
    device_start_s: float
    device_s: float
    send_start_s: float = 0.0
    send_s: float = 0.0
    sent_bytes: float = 0.0
    rate_bytes: float = 0.0
    rate_s: float = 0.0
    edge_wait_s: float = -1.0
    id: int = 0


@dataclass(slots=True)
class Counts:
    """What was decided since the start."""

    decisions: int = 0
    reports: int = 0
    steps: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    plans: Counter[int] = field(default_factory=Counter)

    @property
    def fallbacks(self) -> int:
        """Decisions that the policy did not take."""
        return self.decisions - self.steps["policy"]


class Controller:
    """Decides with a bundle's policy and falls back by `LADDER`."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.readings = tm.fresh()
        self.counts = Counts()
        self._greedy = Greedy(bundle.plans, bundle.path, bundle.objective)
        self._safe = bundle.plans.static_safe(bundle.objective.deadline_s)
        self._scale = features.scales(bundle.plans, bundle.objective.deadline_s)
        self._out = [0.0] * features.SIZE
        self._observation = np.empty(features.SIZE, np.float32)

    def decide(self, now_s: float, request: Request) -> Decision:
        """The plan for a request that comes in at `now_s`."""
        tm.arrived(self.readings, now_s)
        now = estimate(self.readings, now_s, request.acked_bytes)
        plan, reason = self._ask_policy(now_s, request)
        step = LADDER[reason]
        if step == "greedy":
            plan, _ = self._greedy.choose(now)
        elif step == "static-safe":
            plan = self._safe
        row = self.bundle.plans.rows[plan]
        tm.decided(self.readings, row.device_s + row.encode_s, row.wire_bytes)
        counts = self.counts
        counts.decisions += 1
        counts.steps[step] += 1
        counts.plans[plan] += 1
        if reason:
            counts.reasons[reason] += 1
        expected_s = float(expected_latency_s(self.bundle.plans, self.bundle.path, now)[plan])
        return Decision(request.id, plan, row.exit, row.partition, row.bits, step, reason, expected_s)

    def _ask_policy(self, now_s: float, request: Request) -> tuple[int, str]:
        if not request.edge_reachable:
            return self._safe, "edge-unreachable"
        features.encode(self.readings, self._scale, now_s, request.acked_bytes, self._out)
        self._observation[:] = self._out
        if not np.isfinite(self._observation).all():
            return self._safe, "observation-not-finite"
        logits = self.bundle.policy.logits(self._observation)
        plan = int(logits.argmax())
        # argmax of an array with a NaN is the NaN's place, so the one value tells of all.
        if not np.isfinite(logits[plan]):
            return self._safe, "logits-not-finite"
        return plan, ""

    def report(self, now_s: float, outcome: Outcome) -> None:
        """Take in what became of a request; reports come in the order of requests."""
        row = self.bundle.plans.rows[outcome.plan]
        work_s = row.device_s + row.encode_s
        tm.device_ended(self.readings, outcome.device_start_s + outcome.device_s, work_s, outcome.device_s)
        if row.bits > 0:
            tm.send_ended(self.readings, row.wire_bytes)
        # A transfer that was tried and carried nothing tells of an outage.
        if outcome.send_s > 0.0 or outcome.sent_bytes > 0.0:
            measured = outcome.rate_s > 0.0 and outcome.rate_bytes > 0.0
            took_s, size = (outcome.rate_s, outcome.rate_bytes) if measured else (outcome.send_s, outcome.sent_bytes)
            tm.sampled(self.readings, outcome.send_start_s + outcome.send_s, took_s, size)
        if outcome.edge_wait_s >= 0.0:
            tm.edge_waited(self.readings, now_s, outcome.edge_wait_s)
        tm.finished(self.readings)
        self.counts.reports += 1

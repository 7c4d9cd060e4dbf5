"""The fallback ladder: why a learned policy does not decide, and what decides instead.

`ROWS` is the whole of it: `docs/fallbacks.md` is drawn from it, each row has its counter and its test. A rung that has no answer hands
over to the next one, by a row of its own. The last rung always answers, whatever the readings hold.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from operator import le
from struct import Struct
from typing import TYPE_CHECKING, Protocol

import numpy as np

from cutlayer.profiles.cost import latency_of_s
from cutlayer.runtime import features
from cutlayer.runtime import telemetry as tm
from cutlayer.runtime.guard import Ranges
from cutlayer.runtime.priced import Priced
from cutlayer.runtime.rules import Greedy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cutlayer.profiles.cost import Estimate, Objective, Path
    from cutlayer.profiles.plans import PlanTable
    from cutlayer.profiles.rows import PlanRow
    from cutlayer.runtime.bundle import Bundle
    from cutlayer.runtime.estimators import Estimators
    from cutlayer.runtime.guard import Pace
    from cutlayer.runtime.messages import Step
    from cutlayer.runtime.policy import Policy


@dataclass(frozen=True, slots=True)
class Row:
    """One reason: its condition in words, the rung that is tried first, and whether something is wrong."""

    reason: str
    condition: str
    rung: Step
    fault: bool = True

    @property
    def counter(self) -> str:
        """The counter of an operator's metrics that this row adds to."""
        return f'cutlayer_fallbacks_total{{reason="{self.reason}"}}' if self.fault else "none"


# In the order in which they are looked for.
ROWS = (
    Row("", "nothing is wrong", "policy", fault=False),
    Row("edge-unreachable", "the device agent has no connection, or nothing came back from the edge several times in a row", "static-safe"),
    Row("telemetry-stale", "decisions are made, and none was reported on for too long", "last-good"),
    Row("not-active", "the mode leaves this decision to the incumbent, and that is the rule", "greedy", fault=False),
    Row("no-bundle", "there is no bundle", "greedy"),
    Row("bundle-rejected", "the bundle was refused when it was loaded, and there is none from before", "greedy"),
    Row("over-time-budget", "the policy took too long several times in a row", "greedy"),
    Row("observation-not-finite", "a reading is broken: a feature is no number", "greedy"),
    Row("observation-outside-training", "a feature lies outside what training has seen", "greedy"),
    Row("policy-raised", "the policy gave an error instead of an answer", "greedy"),
    Row("logits-not-finite", "the policy is broken: its preference is no number", "greedy"),
    Row("plan-invalid", "the policy named a plan that is not in the table", "greedy"),
    Row(
        "edge-unheard",
        "the policy has kept to the device for long, so that nobody knows how link and edge are, and the rule would send",
        "greedy",
    ),
    Row("rule-failed", "the rule gave an error or no plan, or took too long several times in a row", "last-good"),
    Row("nothing-good", "no request was answered as planned and in time of late", "static-safe"),
    Row(
        "deadline-infeasible",
        "no plan is in time even on the best recent link with an idle edge (or all time out, where lateness is not forbidden)",
        "static-safe",
    ),
)
LADDER: dict[str, Step] = {row.reason: row.rung for row in ROWS}
FAULTS = frozenset(row.reason for row in ROWS if row.fault)

RUNGS: dict[Step, str] = {
    "policy": "the learned policy of the bundle: its best plan for the observation",
    "greedy": "the rule: the plan that is worth most by an estimate of link, device and edge",
    "last-good": "the plan of the last request that was answered as planned and in time",
    "static-safe": "the most accurate device-only plan in time at the measured slow-down and backlog, or the fastest one",
}


def table() -> str:
    """Rungs and rows as Markdown."""
    rungs = ["| rung | decides |", "|---|---|", *(f"| `{rung}` | {words} |" for rung, words in RUNGS.items())]
    rows = ["| reason | condition | rung tried first | counter |", "|---|---|---|---|"]
    rows += [f"| `{row.reason}` | {row.condition} | `{row.rung}` | `{row.counter}` |" for row in ROWS if row.reason]
    return "\n".join([*rungs, "", *rows, ""])


@dataclass(frozen=True, slots=True)
class Task:
    """What is decided on: all that the rungs below the policy need."""

    plans: PlanTable
    path: Path
    objective: Objective

    @staticmethod
    def of(bundle: Bundle) -> Task:
        """That of a bundle."""
        return Task(bundle.plans, bundle.path, bundle.objective)


class Rule(Protocol):
    """The rung below the policies. It may remember; it is asked in the order of requests."""

    def choose(self, readings: Sequence[float], now_s: float, acked_bytes: float) -> tuple[int, float, float]:
        """Plan, latency in seconds that it expects, reward that it expects."""
        ...


class Learned:
    """The first rung: a policy, how it sees, and what watches it. `observation` is what it saw last."""

    def __init__(self, bundle: Bundle, policy: Policy, pace: Pace) -> None:
        self._policy, self._pace = policy, pace
        self._plans = len(bundle.plans)
        self._scale = features.scales(bundle.plans, bundle.objective.deadline_s, bundle.blocks)
        size = features.size(bundle.blocks)
        self._ranges = Ranges.unbounded(size) if bundle.ranges is None else bundle.ranges
        self._values = [0.0] * size
        self.observation = np.empty(size, np.float32)
        self._memory = self.observation.data
        self._pack = Struct(f"{size}f").pack_into  # half the time of an assignment from a list

    def choose(self, readings: Sequence[float], now_s: float, acked_bytes: float) -> tuple[int, str]:
        """The plan; or -1, and the reason why there is none."""
        values = self._values
        features.encode(readings, self._scale, now_s, acked_bytes, values)
        self._pack(self._memory, 0, *values)
        if self._pace.pauses(now_s):
            return -1, "over-time-budget"
        if self._ranges.outside(values):
            return -1, "observation-outside-training" if all(map(math.isfinite, values)) else "observation-not-finite"
        begun_s = self._pace.begin()
        try:
            plan, finite = self._policy.choose(self.observation)
        except Exception:  # noqa: BLE001 - whatever a policy's library raises, there must be an answer
            return -1, "policy-raised"
        self._pace.end(now_s, begun_s)
        if not finite:
            return -1, "logits-not-finite"
        return (plan, "") if 0 <= plan < self._plans else (-1, "plan-invalid")


class Ruled:
    """The second rung: a rule and what watches it. One that is asked seldom knows what telemetry keeps, the last six transfers."""

    def __init__(self, rule: Rule, plans: int, pace: Pace) -> None:
        self._rule, self._plans, self._pace = rule, plans, pace

    def choose(self, readings: Sequence[float], now_s: float, acked_bytes: float) -> tuple[int, float]:
        """The plan and the latency that it expects; or -1 where there is none."""
        if self._pace.pauses(now_s):
            return -1, 0.0
        begun_s = self._pace.begin()
        try:
            plan, expected_s, _ = self._rule.choose(readings, now_s, acked_bytes)
        except (ArithmeticError, ValueError, IndexError):  # what arithmetic on a broken reading ends in
            return -1, 0.0
        self._pace.end(now_s, begun_s)
        return (plan, expected_s) if 0 <= plan < self._plans and math.isfinite(expected_s) else (-1, 0.0)


class AgedGreedy:
    """The greedy rule on an estimate that forgets: the rung where a bundle brings no rule of its own."""

    def __init__(self, task: Task, estimators: Estimators) -> None:
        self._greedy = Greedy(task.plans, task.path, task.objective)
        self._estimators = estimators

    def choose(self, readings: Sequence[float], now_s: float, acked_bytes: float) -> tuple[int, float, float]:
        """See `Rule`."""
        now = self._estimators.estimate(readings, now_s, acked_bytes, self._greedy.path)
        deadline_s = readings[tm.DEADLINE_S]
        return self._greedy.best(now, deadline_s if deadline_s > 0.0 else None)


def rule_of(bundle: Bundle | Task, estimators: Estimators) -> Rule:
    """The rule that a bundle brings the parameters for; else the greedy one."""
    if isinstance(bundle, Task):
        return AgedGreedy(bundle, estimators)
    if bundle.bayes is None:
        return AgedGreedy(Task.of(bundle), estimators)
    return Priced(bundle.plans, bundle.path, bundle.objective, bundle.bayes)


class Hope:
    """Whether a request can be in time at all: asked of the few plans that no other beats in device time, bytes and edge time at once."""

    def __init__(self, plans: PlanTable, path: Path) -> None:
        self._path = path
        self._rows = _unbeaten(plans.rows)

    def lost(self, at_best: Estimate, late_s: float) -> bool:
        """Whether every plan takes longer."""
        return all(latency_of_s(row, self._path, at_best) > late_s for row in self._rows)


def _unbeaten(rows: Sequence[PlanRow]) -> list[PlanRow]:
    """Those of which none is at least as cheap in everything that latency is made of."""
    costs = [(row.bits > 0, row.device_s + row.encode_s, row.wire_bytes, row.decode_s + row.edge_s) for row in rows]
    best: list[int] = []
    for one in sorted(range(len(rows)), key=costs.__getitem__):  # what none before it beats, none behind it does
        if not any(all(map(le, costs[better], costs[one])) for better in best):
            best.append(one)
    return [rows[one] for one in best]


class Safe:
    """The last rung: device-only plans, most accurate first."""

    def __init__(self, plans: PlanTable) -> None:
        local = [plan for plan in range(len(plans)) if not plans.offloads[plan]]
        work_s = {plan: float(plans.device_s[plan] + plans.encode_s[plan]) for plan in local}
        self._work_s = [(plan, work_s[plan]) for plan in sorted(local, key=lambda plan: -plans.accuracy[plan])]
        self.fastest = min(local, key=work_s.__getitem__)

    def choose(self, now: Estimate, deadline_s: float) -> int:
        """The plan at the present slow-down and backlog; an estimate is always a number."""
        for plan, work_s in self._work_s:
            if (now.backlog_s + work_s) * now.slow_down <= deadline_s:
                return plan
        return self.fastest

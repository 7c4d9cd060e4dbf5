"""Decides, one request after the other. No clock, no socket, no randomness: the time comes in with each call.

    decision = controller.decide(now_s, Request())
    ...                                    # run it
    controller.report(now_s, outcome)      # and tell how it went

What decides is a ladder (`runtime.ladder`): the first rung that has a valid answer. Every step down is counted by its reason.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cutlayer.errors import BundleError
from cutlayer.profiles.cost import Estimate, latency_of_s
from cutlayer.runtime import telemetry as tm
from cutlayer.runtime.books import Books, Open
from cutlayer.runtime.estimators import Estimators
from cutlayer.runtime.guard import Breaker, Pace, Silence
from cutlayer.runtime.ladder import FAULTS, LADDER, Hope, Learned, Rule, Ruled, Safe, Task, rule_of
from cutlayer.runtime.live import Live
from cutlayer.runtime.messages import Arm, Decision, Mode, Outcome, Progress, Request, Step
from cutlayer.runtime.modes import Trial, Verdict
from cutlayer.runtime.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cutlayer.profiles.rows import PlanRow
    from cutlayer.runtime.bundle import Bundle
    from cutlayer.runtime.policy import Policy
    from cutlayer.runtime.trace import Recorder

__all__ = ["LADDER", "Controller", "Counts", "Decision", "Outcome", "Progress", "Request", "Settings", "Task"]

MOST_LOG_BPS = 12.0  # of a rate that is believed, as `rules.FASTEST_BPS`
NOBODY: tuple[int, Step, float] = (-1, "policy", 0.0)  # plan, rung and expected latency where nothing has decided yet
AFTER: dict[str, Mode] = {"promote": "active", "roll-back": "off", "undecided": "shadow"}  # the mode that a trial's finding leads to


@dataclass(slots=True)
class Counts:
    """What was decided since the start."""

    decisions: int = 0
    reports: int = 0
    lost: int = 0  # decisions that were never reported on
    fallbacks: int = 0  # decisions for which something was wrong
    shadow_agreed: int = 0  # decisions for which a candidate that was only asked had the same plan
    steps: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    plans: Counter[int] = field(default_factory=Counter)


class Controller:
    """Decides with a bundle's policy and falls back by `LADDER`.

    A `Task` in place of a bundle has no policy: `missing` says why. policy: another form of the bundle's (`Bundle.form`). incumbent:
    what decided before, for the modes that need one; the rule where there is none. rule: the rung below the policies, where it is
    not the bundle's own. clock, in seconds, measures what an answer takes; without one none is too slow. recorder takes
    down the trace.
    """

    def __init__(
        self,
        bundle: Bundle | Task,
        *,
        mode: Mode = "active",
        policy: Policy | None = None,
        incumbent: Bundle | None = None,
        rule: Rule | None = None,
        missing: str = "no-bundle",
        settings: Settings = Settings(),  # noqa: B008 - a frozen value
        clock: Callable[[], float] | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        self.settings, self.clock, self.recorder = settings, clock, recorder
        self.task = bundle if isinstance(bundle, Task) else Task.of(bundle)
        self.readings = tm.fresh()
        self.counts = Counts()
        self.live = Live()
        self.estimators = Estimators()
        self.edge = Breaker(settings.edge_failures, settings.edge_silence_s, settings.probe_s, settings.longest_probe_s)
        self.mode: Mode = mode
        self.trial = Trial(settings.trial)
        self.verdict: Verdict | None = None
        self._bundle = None if isinstance(bundle, Task) else bundle
        self._missing = missing
        self._candidate = None if self._bundle is None else self._learned(self._bundle, policy)
        self._incumbent = None if incumbent is None else self._learned(incumbent, None)
        self._ruled = Ruled(rule_of(bundle, self.estimators) if rule is None else rule, len(self.task.plans), self._pace())
        self._units = _units(bundle)
        self._safe, self._hope = Safe(self.task.plans), Hope(self.task.plans, self.task.path)
        self._unheard = Breaker(settings.unheard_requests, settings.unheard_s, settings.unheard_s, settings.longest_unheard_s)
        self._to_try = -1  # the plan that is sent once, so that something is heard
        self._books = Books()
        self._silence = Silence(settings.stale_s)
        self._good = (-1, -math.inf)
        self._told_lost = False

    @property
    def bundle(self) -> Bundle:
        """The bundle that was given.

        Raises:
            BundleError: there is none.
        """
        if self._bundle is None:
            raise BundleError(f"no policy decides ({self._missing}); export one with: cutlayer export RUN -o FILE")
        return self._bundle

    def go_on_from(self, other: Controller) -> None:
        """Take over what another one knows of the world and has counted; open decisions too."""
        self.readings, self.counts, self.live = other.readings, other.counts, other.live
        self.estimators.take(other.estimators)
        self.edge, self._told_lost = other.edge, other._told_lost
        self._books, self._silence = other._books, other._silence

    def enter(self, mode: Mode) -> None:
        """Change the mode; a canary begins anew."""
        self.mode, self.trial, self.verdict = mode, Trial(self.settings.trial), None

    # --- decisions

    def decide(self, now_s: float, request: Request) -> Decision:
        """The plan for a request that comes in at `now_s`."""
        self._write_off(now_s)
        deadline_s = self._take_in(now_s, request)
        now = self.estimators.estimate(self.readings, now_s, request.acked_bytes, self.task.path)
        arm, block = self._turn()
        reason, probe = self._barred(now_s, request)
        asked = None if reason else self._candidate if arm == "candidate" else self._incumbent
        if asked is None and not reason:
            reason = self._missing if arm == "candidate" else "not-active"
        plan, step, expected_s = NOBODY if asked is None or self._to_try < 0 else self._ask_the_edge(now_s, now)
        if plan >= 0:
            asked, reason = None, "edge-unheard"
        elif asked is not None:
            plan, reason = asked.choose(self.readings, now_s, request.acked_bytes)
            if not reason:
                self._hear(now_s, plan)
                expected_s = latency_of_s(self.task.plans.rows[plan], self.task.path, now)
        if plan < 0:
            plan, step, reason, expected_s = self._descend(reason, now_s, request, now, deadline_s)
        if expected_s > deadline_s and step != "static-safe" and self._hopeless(now, deadline_s):
            plan, step, reason, expected_s = self._descend("deadline-infeasible", now_s, request, now, deadline_s)
        shadow = -1
        if self.mode == "shadow" and self._candidate is not None:
            asked = self._candidate
            shadow, _ = asked.choose(self.readings, now_s, request.acked_bytes)
            self.counts.shadow_agreed += shadow == plan

        row = self.task.plans.rows[plan]
        if probe and request.edge_reachable:
            probe = row.bits > 0
            if probe:
                self.edge.probe()
        self._enter(plan, row, step, reason)
        decision = Decision(
            request.id, plan, row.exit, row.partition, row.bits, step, reason, expected_s, row.codec,
            deadline_s + self.settings.cancel_margin_s, self.mode, probe, arm, shadow,
        )  # fmt: skip
        self.live.decision, self.live.decided_s = decision, now_s
        seen = None if asked is None else asked.observation
        traced = self.recorder is not None and self.recorder.decided(now_s, request, decision, seen)
        self._books.enter(Open(request.id, plan, row, now_s, deadline_s, arm, block, probe and row.bits > 0, traced))
        return decision

    def _enter(self, plan: int, row: PlanRow, step: Step, reason: str) -> None:
        """Count a decision; its work lies ahead."""
        tm.decided(self.readings, row.device_s + row.encode_s, row.wire_bytes)
        if self._units is not None:
            tm.loads(self.readings, self._units[plan])
        counts = self.counts
        counts.decisions += 1
        counts.steps[step] += 1
        counts.plans[plan] += 1
        counts.fallbacks += reason in FAULTS

    def _take_in(self, now_s: float, request: Request) -> float:
        """Enter what comes with a request into the readings; its deadline."""
        readings = self.readings
        if request.link_bps >= 0.0:
            tm.rate_told(readings, request.link_at_s, request.link_bps)
        if request.edge_queue_s >= 0.0:
            tm.edge_told(readings, request.edge_queue_at_s, request.edge_queue_s)
        tm.arrived(readings, now_s)
        usual_s = self.task.objective.deadline_s
        deadline_s = request.deadline_s if request.deadline_s > 0.0 else usual_s
        if deadline_s != usual_s or readings[tm.DEADLINE_S] != tm.NEVER:
            tm.due(readings, deadline_s)
        return deadline_s

    def _turn(self) -> tuple[Arm, int]:
        """Whose turn it is, and the block of the trial."""
        if self.mode == "active":
            return "candidate", -1
        if self.mode == "canary":
            block = self.counts.decisions // self.settings.trial.block
            return self.settings.trial.arm(block), block
        return "incumbent", -1

    def _barred(self, now_s: float, request: Request) -> tuple[str, bool]:
        """Why no policy is asked, if so; and whether this request is to try a lost edge."""
        edge, silent = self.edge, self._silence.decided(now_s)
        if not request.edge_reachable:
            first = not self._told_lost
            probe = not first and edge.allows(now_s)
            if (first and not edge.open) or probe:
                edge.trip(now_s)
            self._told_lost = True
            return "edge-unreachable", probe
        if self._told_lost:
            self._told_lost = False
            edge.succeeded()
        if edge.open and not edge.allows(now_s):
            return "edge-unreachable", False
        return "telemetry-stale" if silent else "", edge.open

    def _ask_the_edge(self, now_s: float, now: Estimate) -> tuple[int, Step, float]:
        """What is sent in a policy's place: plan, rung and expected latency."""
        plan, self._to_try = self._to_try, -1
        self._unheard.trip(now_s)
        self.counts.reasons["edge-unheard"] += 1
        return plan, "greedy", latency_of_s(self.task.plans.rows[plan], self.task.path, now)

    def _prepare_to_ask(self, now_s: float) -> None:
        """Have the rule say what to send, where it is time for that.

        A policy that keeps to the device because of what it heard last never hears that this is over. So the rule, for which readings
        age, is asked ever more seldom. It takes longer than a policy: it is asked between two requests, not while one waits.
        """
        plan, _ = self._ruled.choose(self.readings, now_s, 0.0)
        if plan >= 0 and self.task.plans.rows[plan].bits > 0:
            self._to_try = plan
        else:
            self._unheard.put_off(now_s)

    def _hear(self, now_s: float, plan: int) -> None:
        """A policy sends, or keeps to the device once more."""
        if self.task.plans.rows[plan].bits == 0:
            self._unheard.failed(now_s)
        elif self._unheard.troubled:
            self._unheard.succeeded()
            self._to_try = -1

    def _descend(self, reason: str, now_s: float, request: Request, now: Estimate, deadline_s: float) -> tuple[int, Step, str, float]:
        """Plan, rung, reason and expected latency, from the rung that the reason's row names downwards."""
        reasons, task = self.counts.reasons, self.task
        reasons[reason] += 1
        rung = LADDER[reason]
        if rung == "greedy":
            plan, expected_s = self._ruled.choose(self.readings, now_s, request.acked_bytes)
            if plan >= 0:
                return plan, "greedy", reason, expected_s
            reason = "rule-failed"
            reasons[reason] += 1
            rung = LADDER[reason]
        if rung == "last-good":
            plan, at_s = self._good
            if now_s - at_s <= self.settings.good_s:
                return plan, "last-good", reason, latency_of_s(task.plans.rows[plan], task.path, now)
            reason = "nothing-good"
            reasons[reason] += 1
        plan = self._safe.choose(now, deadline_s)
        return plan, "static-safe", reason, latency_of_s(task.plans.rows[plan], task.path, now)

    def _hopeless(self, now: Estimate, deadline_s: float) -> bool:
        """Whether every plan is late even with the best recent rate, an idle edge and the device at full speed.

        Where deadlines are not enforced, late is what counts as timed out: all plans are worth the same then, and the most accurate
        ones would keep the queue full for ever.
        """
        objective = self.task.objective
        late_s = deadline_s if objective.enforce_deadline else deadline_s * objective.timeout_deadlines
        best_bps = now.rate_bps
        for at in range(tm.RING, tm.RING + 3 * tm.RING_LENGTH, 3):
            if self.readings[at + 1] != tm.NEVER and self.readings[at] <= MOST_LOG_BPS:
                best_bps = max(best_bps, 10.0 ** self.readings[at])
        return self._hope.lost(Estimate(best_bps, min(1.0, now.slow_down), now.backlog_s, now.queued_bytes), late_s)

    # --- what became of them

    def progress(self, now_s: float, progress: Progress) -> None:
        """Take in how far a request has come; one that is not open is left out."""
        one = self._books.find(progress.id, progress.plan)
        if one is None:
            return
        self._silence.heard()
        work_s = one.row.device_s + one.row.encode_s
        self._sense(progress)
        if progress.device_start_s >= 0.0 and not one.computed:
            if progress.device_s >= 0.0:
                end_s = progress.device_start_s + progress.device_s
                tm.device_ended(self.readings, end_s, work_s, progress.device_s, progress.load_s)
                one.computed = True
            else:
                tm.device_started(self.readings, progress.device_start_s, work_s, progress.load_s)
        if not one.sent and one.row.bits > 0:
            if progress.sent:
                tm.send_ended(self.readings, one.row.wire_bytes)
                one.sent = True
            elif progress.send_start_s >= 0.0:
                tm.send_started(self.readings, progress.send_start_s)
        if self.recorder is not None:
            self.recorder.progressed(now_s, progress)

    def report(self, now_s: float, outcome: Outcome) -> None:
        """Take in what became of a request; reports come in the order of requests."""
        one = self._books.find(outcome.id, outcome.plan)
        row = self.task.plans.rows[outcome.plan] if one is None else one.row
        readings, work_s = self.readings, row.device_s + row.encode_s
        self._sense(outcome)
        if one is None or not one.computed:
            if outcome.device_s >= 0.0:
                tm.device_ended(readings, outcome.device_start_s + outcome.device_s, work_s, outcome.device_s, outcome.load_s)
            else:
                tm.device_skipped(readings, work_s)
        if row.bits > 0 and (one is None or not one.sent):
            tm.send_ended(readings, row.wire_bytes)
        # A transfer that was tried and carried nothing tells of an outage.
        if outcome.send_s > 0.0 or outcome.sent_bytes > 0.0:
            measured = outcome.rate_s > 0.0 and outcome.rate_bytes > 0.0
            took_s, size = (outcome.rate_s, outcome.rate_bytes) if measured else (outcome.send_s, outcome.sent_bytes)
            tm.sampled(readings, outcome.send_start_s + outcome.send_s, took_s, size)
        if outcome.edge_wait_s >= 0.0:
            tm.edge_waited(readings, now_s, outcome.edge_wait_s)
            if self.edge.troubled:
                self.edge.succeeded()
        tm.finished(readings)
        self.estimators.report(now_s, outcome, row)
        self._silence.heard()
        self.counts.reports += 1
        if one is not None:
            self._books.close(one)
            self._judge(now_s, one, outcome)
        if self._unheard.open and self._to_try < 0 and self._unheard.allows(now_s):
            self._prepare_to_ask(now_s)

    def _sense(self, told: Progress | Outcome) -> None:
        """What the device's sensors read as its work began."""
        if told.temperature_c is not None or told.charge_j is not None:
            tm.sensed(self.readings, told.device_start_s, told.temperature_c or 0.0, told.charge_j or 0.0)

    def _judge(self, now_s: float, one: Open, outcome: Outcome) -> None:
        """What an outcome says of its decision: of the edge, of the plan, of the side of a trial."""
        answered = outcome.edge_wait_s >= 0.0 or one.row.bits == 0
        latency_s = outcome.latency_s if outcome.latency_s >= 0.0 else now_s - one.at_s
        self.live.answered(latency_s, one.deadline_s)
        if answered and latency_s <= one.deadline_s:
            self._good = (one.plan, now_s)
        if not answered:
            tried = outcome.send_s > 0.0 or outcome.sent_bytes > 0.0
            # A transfer that stopped half-way tells of a slow link; nothing carried, or all and no reply, of an edge that is not there.
            if tried and (one.probe or not 0.0 < outcome.sent_bytes < one.row.wire_bytes):
                self.edge.failed(now_s)
            elif one.probe:
                self.edge.release()
        self._try(one, latency_s)
        if one.traced and self.recorder is not None:
            self.recorder.reported(now_s, outcome)

    def _try(self, one: Open, latency_s: float) -> None:
        """Enter a decision's latency into the trial it was made in, and follow what that finds."""
        if self.mode != "canary" or one.block < 0:
            return
        timeout_s = self.task.objective.timeout_deadlines * self.task.objective.deadline_s
        found = self.trial.add(one.arm, one.block, min(max(latency_s, 0.0), timeout_s), late=latency_s > one.deadline_s)
        if found is not None:
            self.verdict = found
            self.mode = AFTER.get(found.finding, self.mode)

    def _write_off(self, now_s: float) -> None:
        """Decisions that were never reported on no longer count as on their way; in a trial they are late."""
        while (one := self._books.overdue(now_s - self.settings.lost_s)) is not None:
            self.counts.lost += 1
            if not one.computed:
                tm.device_skipped(self.readings, one.row.device_s + one.row.encode_s)
            if one.row.bits > 0 and not one.sent:
                tm.send_ended(self.readings, one.row.wire_bytes)
            tm.finished(self.readings)
            if one.probe:
                self.edge.failed(now_s)
            self._try(one, math.inf)

    def _learned(self, bundle: Bundle, policy: Policy | None) -> Learned:
        if bundle.plans is not self.task.plans and bundle.plans.digest() != self.task.plans.digest():
            raise BundleError(f"incumbent {bundle.algorithm!r} has another plan table than the candidate; make the candidate active")
        return Learned(bundle, bundle.policy if policy is None else policy, self._pace())

    def _pace(self) -> Pace:
        settings = self.settings
        return Pace(Breaker(settings.slow_answers, 0.0, settings.pause_s, settings.longest_pause_s), settings.budget_s, self.clock)


def _units(bundle: Bundle | Task) -> Sequence[int] | None:
    """The segment that each plan loads, -1 for none; None where nothing is ever loaded."""
    if isinstance(bundle, Task) or bundle.bayes is None or bundle.bayes.loads is None:
        return (bundle.plans.unit - 1).tolist() if bundle.plans.units else None
    return bundle.bayes.loads.unit

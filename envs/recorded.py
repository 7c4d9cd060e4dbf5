"""The world of a recorded trace, to ask in the simulator what another policy would have made of it.

Arrivals and deadlines are those of the trace. Rate and slow-down are known where a transfer or device work ran, and hold until
the next one: what nobody measured is not known. A wait at the edge becomes a job of somebody else, of that length, just before
our request. So this world is as the recorded requests met it, not as it was.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from cutlayer.envs.channels import Constant
from cutlayer.envs.deadlines import ChosenDeadlines
from cutlayer.envs.spec import Scenario
from cutlayer.envs.streams import Streams
from cutlayer.envs.workload import Periodic
from cutlayer.errors import ConfigError
from cutlayer.runtime.telemetry import MIN_WORK_S
from cutlayer.runtime.trace import Decided, Reported, Trace

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from cutlayer.profiles.cost import Objective, Path
    from cutlayer.profiles.plans import PlanTable

SLOT_S = 0.02  # as a scenario's
BEFORE_S = 1e-4  # by which a job comes before the request that waited for it: far less than any wait that matters


def world(trace: Trace, plans: PlanTable, path: Path, objective: Objective) -> tuple[Scenario, Streams]:
    """Scenario and future of a trace; its first decision is at 0.

    Raises:
        ConfigError: not every decision was recorded, there are fewer than two, or `Trace.check` refuses.
    """
    if trace.head.every != 1:
        raise ConfigError(f"the trace holds one decision in {trace.head.every}: arrivals are missing; record with 1")
    trace.check(plans)
    asked = [event for event in trace.events if isinstance(event, Decided)]
    if len(asked) < 2:
        raise ConfigError(f"the trace holds {len(asked)} decisions; two are the least that make a world")
    begin_s = asked[0].at_s
    arrival_s = np.array([event.at_s - begin_s for event in asked])
    deadline_s = np.array([event.request.deadline_s if event.request.deadline_s > 0.0 else objective.deadline_s for event in asked])
    end_s = arrival_s[-1] + arrival_s[-1] / (len(asked) - 1)
    slots = math.ceil((end_s + deadline_s.max() + 1.0) / SLOT_S) + 1
    scenario = Scenario(
        name=f"trace of {trace.head.scenario}",
        plans=plans,
        channel=Constant(1.0),  # not drawn from: the streams are at hand
        arrivals=Periodic(1.0),
        objective=objective,
        path=path,
        requests=len(asked),
        slot_s=SLOT_S,
        inputs="trace",
        deadlines=ChosenDeadlines(tuple(np.unique(deadline_s).tolist())) if (deadline_s != objective.deadline_s).any() else None,
    )
    rate, slow, jobs = _measured(trace, plans, begin_s, path.rtt_s / 2)
    streams = Streams(
        SLOT_S,
        np.append(arrival_s, end_s),
        _held(rate, slots, usual=0.0),
        _held(slow, slots, usual=1.0),
        np.array([at_s for at_s, _ in jobs]),
        np.array([wait_s for _, wait_s in jobs]),
        deadline_s=None if scenario.deadlines is None else deadline_s,
    )
    return scenario, streams


Span = tuple[float, float, float]  # from, to, value


def _measured(trace: Trace, plans: PlanTable, begin_s: float, late_s: float) -> tuple[list[Span], list[Span], list[tuple[float, float]]]:
    """Rates, slow-downs and waits at the edge, from the outcomes."""
    rate: list[Span] = []
    slow: list[Span] = []
    jobs: list[tuple[float, float]] = []
    for event in trace.events:
        if not isinstance(event, Reported):
            continue
        outcome, row = event.outcome, plans.rows[event.outcome.plan]
        start_s, work_s = outcome.device_start_s - begin_s, row.device_s + row.encode_s
        if work_s >= MIN_WORK_S and outcome.device_s >= 0.0:
            slow.append((start_s, start_s + outcome.device_s, (outcome.device_s - outcome.load_s) / work_s))
        if outcome.send_s > 0.0:
            sent_s = outcome.send_start_s - begin_s
            rate.append((sent_s, sent_s + outcome.send_s, 8.0 * outcome.sent_bytes / outcome.send_s))
            if outcome.edge_wait_s > 0.0:
                jobs.append((sent_s + outcome.send_s + late_s - BEFORE_S, outcome.edge_wait_s + BEFORE_S))
    return sorted(rate), sorted(slow), sorted(jobs)


def _held(spans: Iterable[Span], slots: int, usual: float) -> NDArray[np.float64]:
    """One value a slot: the mean over the spans that touch it, else the last one before, else the first one after, else the usual."""
    total, count = np.zeros(slots), np.zeros(slots)
    for from_s, to_s, value in spans:
        first, last = (min(max(int(at_s / SLOT_S), 0), slots - 1) for at_s in (from_s, to_s))
        total[first : last + 1] += value
        count[first : last + 1] += 1
    known = np.flatnonzero(count)
    if not len(known):
        return np.full(slots, usual)
    at = np.maximum(np.searchsorted(known, np.arange(slots), side="right") - 1, 0)
    held: NDArray[np.float64] = (total[known] / count[known])[at]
    return held

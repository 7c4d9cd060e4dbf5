"""Edgent: the deepest exit that meets the deadline, or a plan for each state of the bandwidth (Li, Zeng, Zhou, Chen, IEEE TWC 2020).

Edgent right-sizes a network by its exits and cuts it between device and edge. In a static environment it searches at the
present bandwidth; in a dynamic one it looks up the plan made beforehand for the state that change-point detection tells. It
sends floats: bits are no knob of it. Here one width for all tensors is tuned, 32 bits among them.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cutlayer.agents.baselines import tuning
from cutlayer.agents.baselines.changepoint import ChangePoint
from cutlayer.agents.baselines.link import FORGET_S, Belief, history, new_rates, usual_bps
from cutlayer.agents.baselines.splits import at_width, widths
from cutlayer.agents.baselines.worth import worth
from cutlayer.profiles.cost import Estimate, expected_latency_s
from cutlayer.runtime import telemetry as tm

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from cutlayer.envs.simulation import View
    from cutlayer.envs.spec import Scenario
    from cutlayer.profiles.cost import Path
    from cutlayer.profiles.plans import PlanTable

HAZARDS = (0.2, 0.05, 0.0125)  # tuned: a change every 5, 20 or 80 transfers; our choice
STATES = 16  # of the bandwidth, equally frequent in training; our choice: finer ones hold under 500 of 8,000 requests each
# Robust spread of a normal variable: the median distance of two neighbours is 0.6745 deviations times the root of two.
NEIGHBOURS = 0.6745 * 2**0.5


@dataclass(frozen=True, slots=True, eq=False)
class EdgentStatic:
    """The deepest exit that some cut answers within `part` of the deadline, cut for least latency; the fastest plan where none does.

    The paper's search for a static environment, which returns nothing where no exit is fast enough. Its regression models know
    the rate only; the estimate here also has what waits ahead, the slow-down of the device and the last wait at the edge.
    """

    plans: PlanTable
    path: Path
    allowed: NDArray[np.int64]
    part: float
    belief: Belief

    def begin(self) -> None:
        """Remembers nothing; the readings do."""

    def act(self, view: View) -> int:
        """The plan."""
        return self.choose(self.belief.estimate(view), self.part * view.deadline_s)

    def choose(self, now: Estimate, required_s: float) -> int:
        """The plan for an estimate and a latency that is asked for; ties go to the table's order."""
        latency = expected_latency_s(self.plans, self.path, now)[self.allowed]
        exit_ = self.plans.exit[self.allowed]
        in_time = latency <= required_s
        if in_time.any():
            latency = np.where(in_time & (exit_ == exit_[in_time].max()), latency, np.inf)
        return int(self.allowed[latency.argmin()])


def edgent_static(scenario: Scenario, episodes: Sequence[int]) -> EdgentStatic:
    """The rule with its width, its latency requirement and its time to forget tuned."""
    plans, usual = scenario.plans, usual_bps(scenario, episodes)
    field = [
        EdgentStatic(plans, scenario.path, np.flatnonzero(at_width(plans, bits)), part, Belief(usual, forget_s))
        for part, bits, forget_s in itertools.product(tuning.REQUIREMENTS, widths(plans), FORGET_S)
    ]
    return tuning.best(scenario, field, episodes)


class EdgentDynamic:
    """The plan that was best in training in the present state of the bandwidth; the state changes where its history does.

    In the paper the map is made from bandwidth traces for a reward of accuracy and throughput within the deadline; here from the
    training episodes for the scenario's objective: for each state, the plan with the highest mean worth at the rates that came next,
    on idle stations, which is all that the paper's map knows too.
    """

    def __init__(self, detector: ChangePoint, borders: Sequence[float], plans: Sequence[int], forget_s: float) -> None:
        """`plans` for the states that `borders` part, log10 b/s, rising; a state is forgotten `forget_s` after the last transfer."""
        self._detector, self._borders, self._plans, self._forget_s = detector, list(borders), list(plans), forget_s
        self.begin()

    def begin(self) -> None:
        """The link is as it is on average."""
        self._detector.reset()
        self._seen_s = tm.NEVER

    def act(self, view: View) -> int:
        """The plan."""
        readings = view.readings
        for rate in new_rates(readings, self._seen_s):
            self._detector.observe(rate)
        self._seen_s = max(self._seen_s, readings[tm.RATE_AT])
        if view.now_s - self._seen_s > self._forget_s:
            self._detector.reset()
        return self._plans[bisect_right(self._borders, self._detector.level)]


def detector(rates: Sequence[NDArray[np.float64]], hazard: float) -> ChangePoint:
    """A detector for episodes like these: levels as all rates lie, noise as neighbours differ (most have no change between them)."""
    every = np.concatenate(rates)
    steps = np.concatenate([np.abs(np.diff(one)) for one in rates])
    return ChangePoint(float(every.mean()), float(every.std()), float(np.median(steps)) / NEIGHBOURS if len(steps) else 0.0, hazard)


def watch(detect: ChangePoint, rates: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """The level that the detector believes before each request of the episodes, in their order."""
    levels = []
    for episode in rates:
        detect.reset()
        for rate in episode.tolist():
            levels.append(detect.level)
            detect.observe(rate)
    return np.array(levels)


def state_borders(levels: NDArray[np.float64]) -> list[float]:
    """Levels that part equally frequent states: fewer than `STATES` where many levels are the same, and none is empty."""
    borders = np.unique(np.quantile(levels, np.arange(1, STATES) / STATES, method="higher"))
    return [border for border in borders.tolist() if border > levels.min()]


def worth_at(scenario: Scenario, log_rates: NDArray[np.float64], part: float) -> NDArray[np.float64]:
    """Worth of each plan on idle stations at each rate, shape (rates, plans), where the answer is asked for after part of the deadline."""
    asked_s = part * scenario.objective.deadline_s
    rates = (10.0**log_rates).tolist()
    return np.array([worth(scenario, expected_latency_s(scenario.plans, scenario.path, Estimate(rate)), rate, asked_s) for rate in rates])


def configuration_map(states: NDArray[np.int64], worths: NDArray[np.float64], allowed: NDArray[np.bool_]) -> list[int]:
    """The allowed plan with the highest mean worth over the requests in each state; states are 0, 1, ... and all occur."""
    mean = np.array([worths[states == state].mean(axis=0) for state in range(states.max() + 1)])
    chosen: list[int] = np.where(allowed, mean, -np.inf).argmax(axis=1).tolist()
    return chosen


def edgent_dynamic(scenario: Scenario, episodes: Sequence[int]) -> EdgentDynamic:
    """The rule with its map from `episodes`; its width, its latency requirement, the chance of a change and its time to forget tuned."""
    plans = scenario.plans
    rates = [history(scenario, episode) for episode in episodes]
    worths = [worth_at(scenario, np.concatenate(rates), part) for part in tuning.REQUIREMENTS]
    field: dict[tuple[object, ...], EdgentDynamic] = {}
    for hazard in HAZARDS:
        levels = watch(detector(rates, hazard), rates)
        borders = state_borders(levels)
        states = np.searchsorted(borders, levels, side="right")
        for paid, bits, forget_s in itertools.product(worths, widths(plans), FORGET_S):
            chosen = configuration_map(states, paid, at_width(plans, bits))
            key = (hazard, forget_s, *chosen) if len(set(chosen)) > 1 else tuple(chosen[:1])  # one plan for all: nothing else matters
            field.setdefault(key, EdgentDynamic(detector(rates, hazard), borders, chosen, forget_s))
    return tuning.best(scenario, list(field.values()), episodes)

"""Neurosurgeon's rule (Kang, Hauswald, Gao, Rovinski, Mudge, Mars, Tang, ASPLOS 2017) with two ways to know the rate.

Neurosurgeon predicts what each layer takes on either side, and runs the cut that is best for latency or energy at the
present rate. Here the argmax is over exit, partition and bits, and of the scenario's objective; the measured table takes the
place of the regression models. Both are meant as they are published: no margin, nothing tuned. They hold the zero of the score.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cutlayer.agents.baselines.link import believed, last_rate_bps
from cutlayer.runtime.rules import Greedy

if TYPE_CHECKING:
    from cutlayer.envs.simulation import View
    from cutlayer.envs.spec import Scenario


@dataclass(frozen=True, slots=True)
class GreedyEwma:
    """The plan that is best if the smoothed rate and the last slow-down stay as they are (Neurosurgeon, ASPLOS 2017)."""

    greedy: Greedy

    def begin(self) -> None:
        """Remembers nothing; the readings do."""

    def act(self, view: View) -> int:
        """The plan."""
        return self.greedy.best(believed(view), view.deadline_s)[0]


@dataclass(frozen=True, slots=True)
class GreedyLast:
    """The plan that is best if the link goes on as in the latest transfer (Neurosurgeon, ASPLOS 2017)."""

    greedy: Greedy

    def begin(self) -> None:
        """Remembers nothing; the readings do."""

    def act(self, view: View) -> int:
        """The plan."""
        return self.greedy.best(replace(believed(view), rate_bps=last_rate_bps(view.readings)), view.deadline_s)[0]


def greedy_ewma(scenario: Scenario) -> GreedyEwma:
    """The rule for a scenario's plans, path and objective."""
    return GreedyEwma(Greedy(scenario.plans, scenario.path, scenario.objective))


def greedy_last(scenario: Scenario) -> GreedyLast:
    """The rule for a scenario's plans, path and objective."""
    return GreedyLast(Greedy(scenario.plans, scenario.path, scenario.objective))

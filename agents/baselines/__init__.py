"""Policies that are not learned: the rivals every learned one is printed beside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cutlayer.agents.episodes import TUNING
from cutlayer.envs import kernel
from cutlayer.envs.streams import draw
from cutlayer.errors import ConfigError
from cutlayer.runtime.rules import Greedy, estimate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from cutlayer.agents.evaluate import Policy
    from cutlayer.envs.simulation import View
    from cutlayer.envs.spec import Scenario


@dataclass(frozen=True, slots=True)
class Fixed:
    """The same plan for every request."""

    plan: int

    def begin(self) -> None:
        """Remembers nothing."""

    def act(self, view: View) -> int:  # noqa: ARG002 - looks at nothing, that is its point
        """The plan."""
        return self.plan


@dataclass(frozen=True, slots=True)
class Random:
    """Any plan with equal chance."""

    plans: int
    rng: np.random.Generator

    def begin(self) -> None:
        """Goes on drawing."""

    def act(self, view: View) -> int:  # noqa: ARG002 - looks at nothing
        """A plan."""
        return int(self.rng.integers(self.plans))


@dataclass(frozen=True, slots=True)
class GreedyEwma:
    """The plan that is best if the smoothed rate and the last slow-down stay as they are (Neurosurgeon, ASPLOS 2017)."""

    greedy: Greedy

    def begin(self) -> None:
        """Remembers nothing; the readings do."""

    def act(self, view: View) -> int:
        """The plan."""
        return self.greedy.choose(estimate(view.readings, view.now_s, view.acked_bytes()))[0]


def greedy_ewma(scenario: Scenario) -> GreedyEwma:
    """The rule for a scenario's plans, path and objective."""
    return GreedyEwma(Greedy(scenario.plans, scenario.path, scenario.objective))


def best_static(scenario: Scenario, episodes: Iterable[int]) -> Fixed:
    """The single plan with the highest mean reward over `episodes`, which must not be those it is judged on."""
    total = np.zeros(len(scenario.plans))
    for episode in episodes:
        streams = draw(scenario, episode)
        for plan in range(len(scenario.plans)):
            rows = kernel.run(scenario, streams, np.full(scenario.requests, plan))
            latency = rows[:, kernel.R_FINISH] - rows[:, kernel.R_ARRIVAL]
            total[plan] += scenario.objective.reward(latency, rows[:, kernel.R_ACCURACY], rows[:, kernel.R_ENERGY]).mean()
    return Fixed(int(total.argmax()))


def edge_only(scenario: Scenario) -> Fixed:
    """The deepest exit on the edge.

    Raises:
        ConfigError: no plan of the scenario sends the input.
    """
    try:
        return Fixed(scenario.plans.edge_only())
    except KeyError as error:
        reason = "none of its plans sends the input; take another policy, as best-static"
        raise ConfigError(f"edge-only cannot run on {scenario.name}: {reason}") from error


# By name: what each is made of a scenario (tuned on it, where it is tuned) and a seed.
RULES: Mapping[str, Callable[[Scenario, int], Policy]] = {
    "device-only": lambda scenario, _seed: Fixed(scenario.plans.device_only()),
    "edge-only": lambda scenario, _seed: edge_only(scenario),
    "random": lambda scenario, seed: Random(len(scenario.plans), np.random.default_rng(seed)),
    "best-static": lambda scenario, _seed: best_static(scenario, TUNING),
    "greedy-ewma": lambda scenario, _seed: greedy_ewma(scenario),
}

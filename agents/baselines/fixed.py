"""Rules that look at nothing: one plan for every request, or any. The yardsticks of every paper."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cutlayer.envs import kernel
from cutlayer.envs.streams import draw
from cutlayer.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable

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


def best_static(scenario: Scenario, episodes: Iterable[int]) -> Fixed:
    """The single plan with the highest mean reward over `episodes`, which must not be those it is judged on."""
    plans, requests = len(scenario.plans), scenario.requests
    total = np.zeros(plans)
    for episode in episodes:
        streams = draw(scenario, episode)
        bank = kernel.arrays(scenario, streams)
        rows = np.empty((plans, requests, kernel.row_size(bank[-1])))
        for plan in range(plans):
            kernel.replay(np.full(requests, plan), streams.arrival_s, *bank, kernel.fresh_state(bank[-1]), rows[plan])
        latency = rows[..., kernel.R_FINISH] - rows[..., kernel.R_ARRIVAL]
        accuracy, energy = rows[..., kernel.R_ACCURACY], rows[..., kernel.R_ENERGY]
        total += scenario.objective.reward(latency, accuracy, energy, streams.deadline_s).mean(axis=1)
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

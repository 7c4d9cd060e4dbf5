"""Judge policies on the same episodes: mean reward, latency, misses with their interval, accuracy, energy, knobs used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from cutlayer.agents.oracle import clairvoyant
from cutlayer.envs import kernel
from cutlayer.envs.simulation import EngineName, Simulation
from cutlayer.envs.streams import draw
from cutlayer.profiles.stats import wilson

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from cutlayer.envs.simulation import View
    from cutlayer.envs.spec import Scenario
    from cutlayer.runtime.policy import Mlp


class Policy(Protocol):
    """Anything that decides from what the device knows."""

    def begin(self) -> None:
        """A new episode begins: forget the last one."""
        ...

    def act(self, view: View) -> int:
        """Index of a plan."""
        ...


@dataclass(frozen=True, slots=True)
class Learned:
    """A network's best plan on the observation: the numpy network that ships."""

    network: Mlp

    def begin(self) -> None:
        """Remembers nothing."""

    def act(self, view: View) -> int:
        """The plan."""
        return int(self.network.logits(view.observation()).argmax())


@dataclass(frozen=True, slots=True)
class Result:
    """Every request of every episode, in columns of shape (episodes, requests)."""

    scenario: Scenario
    plans: NDArray[np.int64]
    latency_s: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    energy_j: NDArray[np.float64]

    @property
    def reward(self) -> NDArray[np.float64]:
        """Worth of each request."""
        return self.scenario.objective.reward(self.latency_s, self.accuracy, self.energy_j)

    def summary(self) -> dict[str, Any]:
        """The figures that other programs read, by their keys in the contract of `--json`."""
        plans, late = self.scenario.plans, self.latency_s > self.scenario.objective.deadline_s
        p50, p95, p99 = (float(x) for x in np.percentile(self.latency_s, [50, 95, 99]))
        return {
            "reward_mean": float(self.reward.mean()),
            "latency_p50_s": p50,
            "latency_p95_s": p95,
            "latency_p99_s": p99,
            "miss_rate": float(late.mean()),
            "miss_ci95": list(wilson(int(late.sum()), late.size)),
            "accuracy": float(self.accuracy.mean()),
            "energy_j": float(self.energy_j.mean()),
            "share": {
                "exit": _share(plans.exit[self.plans]),
                "partition": _share(plans.partition[self.plans]),
                "bits": _share(plans.bits[self.plans]),
            },
        }


def _share(values: NDArray[np.int64]) -> dict[str, float]:
    found, counts = np.unique(values, return_counts=True)
    return {str(value): float(count / values.size) for value, count in zip(found, counts, strict=True)}


def evaluate(scenario: Scenario, policy: Policy, episodes: Sequence[int], engine: EngineName = "kernel") -> Result:
    """Let `policy` decide every request of `episodes`."""
    shape = (len(episodes), scenario.requests)
    plans = np.empty(shape, np.int64)
    latency, accuracy, energy = (np.empty(shape) for _ in range(3))
    for i, episode in enumerate(episodes):
        world = Simulation(scenario, draw(scenario, episode), engine)
        policy.begin()
        while not world.done:
            k, record = world.request, world.decide(policy.act(world))
            plans[i, k], latency[i, k] = record.plan, record.latency_s
            accuracy[i, k], energy[i, k] = record.accuracy, record.energy_j
    return Result(scenario, plans, latency, accuracy, energy)


def evaluate_clairvoyant(scenario: Scenario, episodes: Sequence[int], others: Sequence[Result] = ()) -> Result:
    """The clairvoyant's result; in an episode where another policy did better, that one's (it is a feasible plan too)."""
    columns = []
    for i, episode in enumerate(episodes):
        streams = draw(scenario, episode)
        plans = clairvoyant(scenario, streams)
        rows = kernel.run(scenario, streams, plans)
        latency, accuracy, energy = (
            rows[:, kernel.R_FINISH] - rows[:, kernel.R_ARRIVAL],
            rows[:, kernel.R_ACCURACY],
            rows[:, kernel.R_ENERGY],
        )
        best = (scenario.objective.reward(latency, accuracy, energy).sum(), plans, latency, accuracy, energy)
        for other in others:
            total = other.reward[i].sum()
            if total > best[0]:
                best = (total, other.plans[i], other.latency_s[i], other.accuracy[i], other.energy_j[i])
        columns.append(best[1:])
    plans, latency, accuracy, energy = (np.array(column) for column in zip(*columns, strict=True))
    return Result(scenario, plans, latency, accuracy, energy)

"""States that policies visit, many episodes side by side: what ranges are taken from, and what a tree is fitted to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cutlayer.envs.batch import Bank, Lanes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from cutlayer.envs.spec import Scenario
    from cutlayer.runtime.policy import Mlp

FIRST_EPISODE = 2**62  # learners draw theirs from here on (`agents.episodes`)


@dataclass(frozen=True, slots=True)
class Visited:
    """observations (requests, episodes, features), the plans taken there and their rewards (requests, episodes)."""

    observations: NDArray[np.float32]
    plans: NDArray[np.int64]
    rewards: NDArray[np.float64]

    def flat(self) -> NDArray[np.float32]:
        """Observations in one row after the other."""
        return self.observations.reshape(-1, self.observations.shape[-1])


def training_episodes(rng: np.random.Generator, count: int) -> range:
    """Seeds that no rule is tuned, no checkpoint chosen and nothing judged on."""
    first = FIRST_EPISODE + int(rng.integers(2**50))
    return range(first, first + count)


def visit(scenario: Scenario, episodes: Sequence[int], choose: Callable[[NDArray[np.float32]], NDArray[np.int64]]) -> Visited:
    """Let `choose` decide every request of the episodes: plans (lanes,) for observations (lanes, features)."""
    lanes = Lanes(scenario, Bank.draw(scenario, episodes), len(episodes))
    everywhere = np.arange(len(episodes))
    lanes.reset(everywhere)
    shape = (scenario.requests, len(episodes))
    seen = np.empty((*shape, lanes.observations.shape[1]), np.float32)
    plans, rewards = np.empty(shape, np.int64), np.empty(shape)
    for k in range(scenario.requests):
        seen[k] = lanes.observations
        plans[k] = choose(seen[k])
        lanes.step(plans[k], everywhere)
        rewards[k] = lanes.rewards
    return Visited(seen, plans, rewards)


def logits(policy: Mlp, observations: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of many observations at once, (n, plans)."""
    x = observations
    for i, (weight, bias) in enumerate(policy.layers):
        x = x @ weight.T + bias
        if i < len(policy.layers) - 1:
            x = np.tanh(x) if policy.activation == "tanh" else np.maximum(x, np.float32(0.0))
    return x


def exploring(policy: Mlp, share: float, rng: np.random.Generator) -> Callable[[NDArray[np.float32]], NDArray[np.int64]]:
    """The policy, but for a share of requests that get any plan."""

    def choose(observations: NDArray[np.float32]) -> NDArray[np.int64]:
        plans: NDArray[np.int64] = logits(policy, observations).argmax(axis=1)
        any_plan = rng.random(len(plans)) < share
        plans[any_plan] = rng.integers(policy.outputs, size=int(any_plan.sum()))
        return plans

    return choose

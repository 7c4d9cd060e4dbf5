"""How each learner is trained: hyper-parameters that worked, and why.

A short horizon suits the task: a request's reward depends on later ones only through queues, and with a discount of 0.97
the noise of the value swamps the advantage (PPO then stays at the safe plan).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Ppo:
    """Proximal policy optimisation by Stable-Baselines3; minibatches that fit the L2 cache, entropy and rate annealed."""

    steps: int = 160_000
    lanes: int = 8
    rollout: int = 128  # steps a lane between updates
    batch: int = 256
    epochs: int = 8
    learning_rate: float = 1e-3  # falls to 0 in a straight line
    gamma: float = 0.8
    gae_lambda: float = 0.95
    entropy: float = 0.02
    hidden: tuple[int, ...] = (64, 64)


@dataclass(frozen=True, slots=True)
class SacD:
    """Discrete soft actor-critic on the flat list of plans; one update for every eight requests."""

    steps: int = 48_000
    lanes: int = 8
    gamma: float = 0.8
    batch: int = 256
    learning_rate: float = 2e-3  # falls to 0 in a straight line; held constant, the best plan flickers
    warm_up: int = 2_000  # random requests before the first update
    hidden: tuple[int, ...] = (64, 64)

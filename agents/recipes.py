"""How each algorithm is trained, scenario by scenario: hyper-parameters that worked, and why.

The discount is matched to how far a decision reaches: a request's reward depends on later ones through queues and charge only, and
where it reaches no further than the next few requests a long horizon adds noise that swamps the advantage (with 0.97 PPO stays at the
safe plan). The settings of PPO and DQN are also in `hyperparams/*.yml` for RL Baselines3 Zoo; `agents.zoo` writes them.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Recipe:
    """What every algorithm has: requests to learn from, lanes side by side, and how much what follows a request counts."""

    steps: int
    lanes: int
    gamma: float
    episodes: int = 2_048  # drawn beforehand and met again in random order; below about 1,500 futures are learned by heart (our study)


@dataclass(frozen=True, slots=True)
class Ppo(Recipe):
    """Proximal policy optimisation, masked or not: minibatches as large as the L2 cache takes, entropy and rate annealed."""

    steps: int = 1_000_000
    lanes: int = 128
    gamma: float = 0.8
    rollout: int = 32  # steps a lane between updates
    batch: int = 1024
    epochs: int = 3
    learning_rate: float = 1e-3  # falls to 0 in a straight line
    gae_lambda: float = 0.95
    entropy: float = 0.05  # weight of its bonus; falls to a twentieth with the rate. From 0.01 it settles on few plans too early
    hidden: tuple[int, ...] = (64, 64)


@dataclass(frozen=True, slots=True)
class SacD(Recipe):
    """Discrete soft actor-critic on the flat list of plans; what costs are its updates, not the requests between them."""

    steps: int = 64_000
    lanes: int = 32
    gamma: float = 0.8
    batch: int = 256
    update_ratio: float = 1 / 12  # updates a request; 1/8 on 48,000 requests learned no more and took a quarter longer
    learning_rate: float = 2e-3  # falls to 0 in a straight line; held constant, the best plan flickers
    warm_up: int = 2_000  # random requests before the first update
    hidden: tuple[int, ...] = (64, 64)


@dataclass(frozen=True, slots=True)
class Dqn(Recipe):
    """Deep Q-learning by Stable-Baselines3, for comparison; one update for every eight requests."""

    steps: int = 160_000
    lanes: int = 32
    gamma: float = 0.8
    batch: int = 256
    updates: int = 4  # after every step of all lanes
    learning_rate: float = 1e-3  # falls to 0 in a straight line
    warm_up: int = 2_000
    replay: int = 100_000
    target_interval: int = 1_000  # requests between copies to the slow network
    exploring: float = 0.3  # share of the training in which random plans become rarer
    random_plans: float = 0.02  # their share afterwards
    hidden: tuple[int, ...] = (64, 64)


# How far a decision reaches, by scenario; what is not named takes the recipe's own 0.8.
REACH: dict[str, dict[str, Any]] = {
    "paper-linear": {"gamma": 0.6},  # closed loop: a request touches the next one at most
    "paper-urllc": {"gamma": 0.6},  # as above
    "urllc-ge": {"gamma": 0.6},  # short queues; with 0.97 PPO reached 12 % of the gap, with 0.6 61-64 % (our study)
    "battery-harvest": {"gamma": 0.95},  # charge spent now is missed for dozens of requests
    "lte-uplink": {"gamma": 0.9},  # outages last seconds, and only what is sent tells of them
    "nsa-uplink": {"gamma": 0.9},  # as above
}
# Algorithm: its recipe, and what differs from it by scenario.
RECIPES: dict[str, tuple[Recipe, Mapping[str, Mapping[str, Any]]]] = {
    "ppo": (Ppo(), REACH),
    "myopic-ppo": (Ppo(gamma=0.0), {}),  # learns the plan that is best for this request alone: what planning adds is what PPO has more
    "maskable-ppo": (Ppo(), REACH),
    "dqn": (Dqn(), REACH),
    "sac-d": (SacD(), REACH),
}


def choose(algorithm: str, scenario: str) -> Recipe:
    """The recipe of an algorithm in `RECIPES` for a scenario by name; unknown scenarios take the recipe as it is."""
    recipe, by_scenario = RECIPES[algorithm]
    return dataclasses.replace(recipe, **by_scenario.get(scenario, {}))

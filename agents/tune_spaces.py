"""What `agents.tune` searches of each learner's recipe: ranges around what is known to work, from our studies and the recipes' comments."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    import optuna


@dataclass(frozen=True, slots=True)
class Scale:
    """A number from low to high, on a logarithmic scale."""

    low: float
    high: float

    def suggest(self, trial: optuna.Trial, name: str) -> float:
        """Optuna's choice."""
        return trial.suggest_float(name, self.low, self.high, log=True)

    def value(self, param: Any) -> float:
        """What a study keeps, as a recipe has it."""
        return float(param)

    def param(self, value: Any) -> float:
        """What a recipe has, as a study keeps it; the nearer end where it lies outside."""
        return float(min(max(value, self.low), self.high))


@dataclass(frozen=True, slots=True)
class Choice:
    """One of a few values."""

    values: tuple[Any, ...]

    def suggest(self, trial: optuna.Trial, name: str) -> Any:
        """Optuna's choice."""
        return self.value(trial.suggest_categorical(name, [self.param(one) for one in self.values]))

    def value(self, param: Any) -> Any:
        """See `Scale`; text stands for layers, as 64x64."""
        return tuple(int(one) for one in param.split("x")) if isinstance(param, str) else param

    def param(self, value: Any) -> Any:
        """See `Scale`."""
        return "x".join(str(one) for one in value) if isinstance(value, tuple) else value


Space = dict[str, Scale | Choice]

# The discount decides most: with 0.97 PPO stays at the safe plan, with 0.6 it does not (recipes.REACH). Ranges are our choice: a factor of
# ten around the recipe's rate; every size that trains in the same time within a factor of two.
_GAMMA = Choice((0.0, 0.4, 0.6, 0.8, 0.9, 0.95, 0.98))
_RATE = Scale(3e-4, 5e-3)
_HIDDEN = Choice(((32, 32), (64, 64), (128, 64)))
_PPO: Space = {
    "gamma": _GAMMA,
    "learning_rate": _RATE,
    "entropy": Scale(3e-3, 0.3),
    "rollout": Choice((16, 32, 64)),
    "batch": Choice((512, 1024, 2048)),
    "epochs": Choice((2, 3, 5)),
    "gae_lambda": Choice((0.8, 0.9, 0.95, 1.0)),
    "hidden": _HIDDEN,
}
SPACES: Mapping[str, Space] = {
    "ppo": _PPO,
    "maskable-ppo": _PPO,
    "myopic-ppo": {name: axis for name, axis in _PPO.items() if name != "gamma"},
    "sac-d": {
        "gamma": _GAMMA,
        "learning_rate": Scale(5e-4, 8e-3),
        "update_ratio": Scale(1 / 48, 1 / 6),
        "batch": Choice((128, 256, 512)),
        "hidden": _HIDDEN,
    },
    "dqn": {
        "gamma": _GAMMA,
        "learning_rate": _RATE,
        "updates": Choice((2, 4, 8)),
        "target_interval": Choice((500, 1_000, 4_000)),
        "exploring": Choice((0.1, 0.3, 0.5)),
        "hidden": _HIDDEN,
    },
    "all-action": {
        "gamma": _GAMMA,
        "learning_rate": Scale(5e-4, 1e-2),
        "entropy": Scale(0.1, 3.0),
        "updates": Choice((6, 12, 24)),
        "hidden": _HIDDEN,
    },
}


def point_of(space: Space, recipe: Any) -> dict[str, Any]:
    """Where the recipe itself lies in the space, or the nearest place."""
    point = {}
    for name, axis in space.items():
        value = getattr(recipe, name)
        if isinstance(axis, Choice) and value not in axis.values:
            value = min(axis.values, key=functools.partial(_apart, value))
        point[name] = axis.param(value)
    return point


def _apart(value: Any, one: Any) -> float:
    """How far two values of a field lie apart, layers by their sizes."""
    return float(abs(sum(one) - sum(value)) if isinstance(one, tuple) else abs(one - value))

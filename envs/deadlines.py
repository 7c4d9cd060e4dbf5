"""By when each request has to be answered, where requests differ, as frozen descriptions drawn with a generator handed in."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from cutlayer.envs.channels.chains import not_negative, positive
from cutlayer.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Deadlines(Protocol):
    """Anything that draws a deadline for each request."""

    @property
    def longest_s(self) -> float:
        """No deadline is longer: as far as the future of an episode is asked for."""
        ...

    def draw(self, rng: np.random.Generator, count: int) -> NDArray[np.float64]:
        """Seconds from its arrival for each of `count` requests, above 0."""
        ...


@dataclass(frozen=True, slots=True)
class ChosenDeadlines:
    """Kinds of requests: each is of one, with chances in proportion to `weights` (alike without), whoever came before it.

    choices_s: the deadline of each kind.
    """

    choices_s: tuple[float, ...]
    weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not self.choices_s or len(self.weights) not in (0, len(self.choices_s)):
            raise ConfigError(
                f"chosen deadlines: {len(self.choices_s)} choices_s and {len(self.weights)} weights; give one of each, or no weights"
            )
        positive("chosen deadlines", **{f"choices_s[{i}]": choice for i, choice in enumerate(self.choices_s)})
        not_negative("chosen deadlines", **{f"weights[{i}]": weight for i, weight in enumerate(self.weights)})
        if self.weights and not any(self.weights):
            raise ConfigError("chosen deadlines: every entry of weights is 0; give one above 0")

    @property
    def longest_s(self) -> float:
        """See `Deadlines`."""
        return max(self.choices_s)

    def draw(self, rng: np.random.Generator, count: int) -> NDArray[np.float64]:
        """See `Deadlines`."""
        weights = np.array(self.weights or (1.0,) * len(self.choices_s))
        return rng.choice(np.array(self.choices_s), count, p=weights / weights.sum())


@dataclass(frozen=True, slots=True)
class UniformDeadlines:
    """Deadlines anywhere between shortest_s and longest_s, each as likely, whoever came before."""

    shortest_s: float
    longest_s: float

    def __post_init__(self) -> None:
        positive("uniform deadlines", shortest_s=self.shortest_s)
        if not self.shortest_s <= self.longest_s < math.inf:
            raise ConfigError(f"uniform deadlines: longest_s is {self.longest_s}; give seconds from shortest_s ({self.shortest_s}) on")

    def draw(self, rng: np.random.Generator, count: int) -> NDArray[np.float64]:
        """See `Deadlines`."""
        return rng.uniform(self.shortest_s, self.longest_s, count)

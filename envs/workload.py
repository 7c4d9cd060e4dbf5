"""When requests and background jobs arrive, and how the device slows down, as frozen descriptions drawn with a generator handed in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from cutlayer.envs.channels import on_off

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Arrivals(Protocol):
    """Anything that draws request times."""

    def draw(self, rng: np.random.Generator, count: int) -> NDArray[np.float64]:
        """Times of `count` requests in seconds, rising, from 0 on."""
        ...


@dataclass(frozen=True, slots=True)
class Periodic:
    """A camera: one request every period, each shifted by up to `jitter` of a period, from a random phase on."""

    period_s: float
    jitter: float = 0.0

    def draw(self, rng: np.random.Generator, count: int) -> NDArray[np.float64]:
        """See `Arrivals`."""
        phase = rng.uniform()
        return self.period_s * (phase + np.arange(count) + self.jitter * rng.uniform(size=count))


@dataclass(frozen=True, slots=True)
class Poisson:
    """Requests that know nothing of each other."""

    rate_per_s: float

    def draw(self, rng: np.random.Generator, count: int) -> NDArray[np.float64]:
        """See `Arrivals`."""
        return np.cumsum(rng.exponential(1.0 / self.rate_per_s, count))


@dataclass(frozen=True, slots=True)
class SlowDown:
    """Another program on the device: for busy_s on average, busy_share of the time, all work takes `factor` times as long."""

    factor: float = 1.0
    busy_share: float = 0.0
    busy_s: float = 1.0

    def draw(self, rng: np.random.Generator, slots: int, slot_s: float) -> NDArray[np.float64]:
        """Factor of each slot, shape (slots,)."""
        if self.busy_share == 0.0:
            return np.ones(slots)
        return np.where(on_off(rng, slots, slot_s, self.busy_share, self.busy_s), self.factor, 1.0)


@dataclass(frozen=True, slots=True)
class EdgeJobs:
    """Other people's work on the edge server: Poisson arrivals, exponential service; none at rate 0."""

    rate_per_s: float = 0.0
    mean_s: float = 0.01

    def draw(self, rng: np.random.Generator, until_s: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Arrival times up to `until_s` and service times, seconds."""
        gaps: list[float] = []
        at = 0.0
        while self.rate_per_s > 0.0:
            at += rng.exponential(1.0 / self.rate_per_s)
            if at > until_s:
                break
            gaps.append(at)
        return np.array(gaps), rng.exponential(self.mean_s, len(gaps))

"""Generators of uplink rates: frozen descriptions, drawn with a generator handed in, each begun in its steady state.

Rates are bits per second on the link layer; times are seconds of the world, so that no statistic depends on how long a slot is,
as long as slots are not longer than what they sample. Numbers fitted to measured drives: `fitted.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from cutlayer.envs.channels.chains import (
    autoregression,
    check_transitions,
    not_negative,
    on_off,
    positive,
    step_of_slot,
    walk,
)
from cutlayer.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Channel(Protocol):
    """Anything that draws uplink rates."""

    def draw(self, rng: np.random.Generator, slots: int, slot_s: float) -> NDArray[np.float64]:
        """Rate of each slot, b/s, shape (slots,), never negative."""
        ...


@dataclass(frozen=True, slots=True)
class Constant:
    """The same rate always: a wired link, or the mean of any other.

    rate_bps: what it carries.
    """

    rate_bps: float

    def __post_init__(self) -> None:
        not_negative("constant channel", rate_bps=self.rate_bps)

    def draw(self, rng: np.random.Generator, slots: int, slot_s: float) -> NDArray[np.float64]:  # noqa: ARG002 - the protocol's signature
        """See `Channel`."""
        return np.full(slots, self.rate_bps)


@dataclass(frozen=True, slots=True)
class Markov:
    """A rate that jumps between any number of levels and remembers only the present one.

    rates_bps: one a state. transitions: chance to go from the row's state to the column's at each step; rows add up to one.
    step_s: time between steps; a slot has the rate of the step that it begins in. Finite-state channels for fading go back to
    Wang and Moayeri, IEEE Trans. Vehicular Technology 44(1), 1995.
    """

    rates_bps: tuple[float, ...]
    transitions: tuple[tuple[float, ...], ...]
    step_s: float

    def __post_init__(self) -> None:
        for i, rate in enumerate(self.rates_bps):
            not_negative("Markov channel", **{f"rates_bps[{i}]": rate})
        check_transitions("Markov channel", self.transitions, len(self.rates_bps))
        positive("Markov channel", step_s=self.step_s)

    def draw(self, rng: np.random.Generator, slots: int, slot_s: float) -> NDArray[np.float64]:
        """See `Channel`."""
        step = step_of_slot(rng, slots, slot_s, self.step_s)
        return np.array(self.rates_bps)[walk(rng, self.transitions, int(step[-1]) + 1)[step]]


@dataclass(frozen=True, slots=True)
class GilbertElliott:
    """A link that is either good or bad (Gilbert 1960; Elliott 1963), here in its rate.

    good_bps, bad_bps: what it carries; bad_bps 0 is an outage. good_s, bad_s: mean stays; they are geometric, so bad_s counts only
    where it is at least a slot. Share of bad time is bad_s / (good_s + bad_s).
    """

    good_bps: float
    bad_bps: float
    good_s: float
    bad_s: float

    def __post_init__(self) -> None:
        not_negative("Gilbert-Elliott channel", good_bps=self.good_bps, bad_bps=self.bad_bps)
        positive("Gilbert-Elliott channel", good_s=self.good_s, bad_s=self.bad_s)

    def draw(self, rng: np.random.Generator, slots: int, slot_s: float) -> NDArray[np.float64]:
        """See `Channel`."""
        bad = on_off(rng, slots, slot_s, self.bad_s / (self.good_s + self.bad_s), self.bad_s)
        return np.where(bad, self.bad_bps, self.good_bps)


@dataclass(frozen=True, slots=True)
class Cellular:
    """AR(1) log-normal: log-normal rate with exponentially decaying correlation, and outages during which nothing is carried.

    median_bps and spread (standard deviation of the natural logarithm) outside outages; decorrelation_s is the time after
    which the correlation of the logarithm has fallen to 1/e; an outage lasts outage_s on average and takes outage_share
    of the time. drive_spread varies the median from episode to episode, as from drive to drive. The correlation is Gudmundson's
    for shadowing, Electronics Letters 27(23), 1991.
    """

    median_bps: float
    spread: float
    decorrelation_s: float
    outage_share: float = 0.0
    outage_s: float = 1.0
    drive_spread: float = 0.0

    def __post_init__(self) -> None:
        what = "AR(1) log-normal channel"
        positive(what, median_bps=self.median_bps, decorrelation_s=self.decorrelation_s, outage_s=self.outage_s)
        not_negative(what, spread=self.spread, drive_spread=self.drive_spread)
        if not 0.0 <= self.outage_share < 1.0:
            raise ConfigError(f"{what}: outage_share is {self.outage_share}; give a share of time from 0 to below 1")

    def draw(self, rng: np.random.Generator, slots: int, slot_s: float) -> NDArray[np.float64]:
        """See `Channel`."""
        level = math.log(self.median_bps) + self.drive_spread * rng.standard_normal()
        log_rate = autoregression(rng.standard_normal(slots), math.exp(-slot_s / self.decorrelation_s))
        rate: NDArray[np.float64] = np.exp(level + self.spread * log_rate)
        if self.outage_share > 0:
            rate[on_off(rng, slots, slot_s, self.outage_share, self.outage_s)] = 0.0
        return rate


@dataclass(frozen=True, slots=True)
class Rayleigh:
    """Rayleigh block fading: the signal's power is exponential, anew for every block, and the rate is what Shannon allows.

    bandwidth_hz: of the channel. snr_db: of the mean power. block_s: coherence time, during which the rate stays; about
    0.423 c / (carrier_hz speed), Rappaport, Wireless Communications, ch. 5. Blocks are independent; the first slot begins
    anywhere in one. rate = bandwidth log2(1 + snr h), h exponential with mean 1.
    """

    bandwidth_hz: float
    snr_db: float
    block_s: float

    def __post_init__(self) -> None:
        positive("Rayleigh channel", bandwidth_hz=self.bandwidth_hz, block_s=self.block_s)
        if not math.isfinite(self.snr_db):
            raise ConfigError(f"Rayleigh channel: snr_db is {self.snr_db}; give a finite number of decibels")

    def draw(self, rng: np.random.Generator, slots: int, slot_s: float) -> NDArray[np.float64]:
        """See `Channel`."""
        block = step_of_slot(rng, slots, slot_s, self.block_s)
        power = rng.exponential(size=int(block[-1]) + 1)
        rate: NDArray[np.float64] = self.bandwidth_hz * np.log2(1.0 + 10 ** (self.snr_db / 10) * power)
        return rate[block]


@dataclass(frozen=True, slots=True)
class Regimes:
    """Regime switching: a hidden Markov chain says which of several channels is in force; the others go on unseen.

    channels: one a regime. transitions: chance to go from the row's regime to the column's at each step; rows add up to one.
    step_s: time between steps. A tunnel, a crowded cell and an open road are regimes; the idea is Hamilton's, Econometrica 57(2), 1989.
    """

    channels: tuple[Channel, ...]
    transitions: tuple[tuple[float, ...], ...]
    step_s: float

    def __post_init__(self) -> None:
        check_transitions("regimes", self.transitions, len(self.channels))
        positive("regimes", step_s=self.step_s)

    def draw(self, rng: np.random.Generator, slots: int, slot_s: float) -> NDArray[np.float64]:
        """See `Channel`."""
        step = step_of_slot(rng, slots, slot_s, self.step_s)
        regime = walk(rng, self.transitions, int(step[-1]) + 1)[step]
        return np.stack([channel.draw(rng, slots, slot_s) for channel in self.channels])[regime, np.arange(slots)]


@dataclass(frozen=True, slots=True)
class Mixture:
    """One of several channels, chosen anew for each episode with equal chance."""

    channels: tuple[Channel, ...]

    def __post_init__(self) -> None:
        if not self.channels:
            raise ConfigError("mixture: channels is empty; name at least one")

    def draw(self, rng: np.random.Generator, slots: int, slot_s: float) -> NDArray[np.float64]:
        """See `Channel`."""
        return self.channels[rng.integers(len(self.channels))].draw(rng, slots, slot_s)

"""Uplink rates over time, as frozen descriptions that are drawn with a generator handed in.

A channel gives the rate of every slot of an episode; the rate is constant within a slot.
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from cutlayer.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from numpy.typing import NDArray


class Channel(Protocol):
    """Anything that draws uplink rates."""

    def draw(self, rng: np.random.Generator, slots: int, slot_s: float) -> NDArray[np.float64]:
        """Rate of each slot, b/s, shape (slots,), never negative."""
        ...


@dataclass(frozen=True, slots=True)
class Constant:
    """The same rate always."""

    rate_bps: float

    def draw(self, rng: np.random.Generator, slots: int, slot_s: float) -> NDArray[np.float64]:  # noqa: ARG002 - the protocol's signature
        """See `Channel`."""
        return np.full(slots, self.rate_bps)


@dataclass(frozen=True, slots=True)
class Cellular:
    """Log-normal rate with exponentially decaying correlation, and outages during which nothing is carried.

    median_bps and spread (standard deviation of the natural logarithm) outside outages; decorrelation_s is the time after
    which the correlation of the logarithm has fallen to 1/e; an outage lasts outage_s on average and takes outage_share
    of the time. drive_spread varies the median from episode to episode, as from drive to drive.
    """

    median_bps: float
    spread: float
    decorrelation_s: float
    outage_share: float = 0.0
    outage_s: float = 1.0
    drive_spread: float = 0.0

    def draw(self, rng: np.random.Generator, slots: int, slot_s: float) -> NDArray[np.float64]:
        """See `Channel`."""
        rho = math.exp(-slot_s / self.decorrelation_s)
        level = math.log(self.median_bps) + self.drive_spread * rng.standard_normal()
        noise = rng.standard_normal(slots)
        log_rate = np.empty(slots)
        x = noise[0]
        for i in range(slots):
            x = rho * x + math.sqrt(1 - rho * rho) * noise[i] if i else x
            log_rate[i] = x
        rate = np.exp(level + self.spread * log_rate)
        if self.outage_share > 0:
            rate[on_off(rng, slots, slot_s, self.outage_share, self.outage_s)] = 0.0
        return rate


@dataclass(frozen=True, slots=True)
class Mixture:
    """One of several channels, chosen anew for each episode with equal chance."""

    channels: tuple[Channel, ...]

    def draw(self, rng: np.random.Generator, slots: int, slot_s: float) -> NDArray[np.float64]:
        """See `Channel`."""
        return self.channels[rng.integers(len(self.channels))].draw(rng, slots, slot_s)


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """Replay of measured traces: a random start in a random file, the last value held, wrapped at the end.

    times_s and rates_bps hold one array a file; names say which files they are.
    """

    names: tuple[str, ...]
    times_s: tuple[NDArray[np.float64], ...]
    rates_bps: tuple[NDArray[np.float64], ...]

    def draw(self, rng: np.random.Generator, slots: int, slot_s: float) -> NDArray[np.float64]:
        """See `Channel`."""
        file = rng.integers(len(self.names))
        times, rates = self.times_s[file], self.rates_bps[file]
        # The last sample holds as long as the median one.
        length = times[-1] + float(np.median(np.diff(times)))
        at = (rng.uniform(0.0, length) + np.arange(slots) * slot_s) % length
        held: NDArray[np.float64] = rates[np.searchsorted(times, at, side="right") - 1]
        return held


def on_off(rng: np.random.Generator, slots: int, slot_s: float, share: float, mean_s: float) -> NDArray[np.bool_]:
    """Which slots are 'on' in a two-state Markov chain that is on `share` of the time for `mean_s` on average."""
    leave = min(1.0, slot_s / mean_s)
    enter = min(1.0, leave * share / (1.0 - share))
    draws = rng.uniform(size=slots)
    on = np.empty(slots, np.bool_)
    state = bool(rng.uniform() < share)
    for i in range(slots):
        state = draws[i] >= leave if state else draws[i] < enter
        on[i] = state
    return on


def read_trace(path: Path, column: str = "ul_mbps") -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Times (s, from 0) and rates (b/s) of a CSV with the columns `t_s` and `column` (Mb/s); empty cells are left out.

    Raises:
        ConfigError: the file is missing, a column is, or a value is no number, negative, or out of order.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"cannot read trace {path}: {error}; give a CSV with the columns t_s and {column}") from error
    if not rows or "t_s" not in rows[0] or column not in rows[0]:
        have = ", ".join(rows[0]) if rows else "nothing"
        raise ConfigError(f"trace {path} has the columns {have}; it needs t_s (seconds) and {column} (Mb/s)")
    try:
        kept = [(float(row["t_s"]), float(row[column])) for row in rows if row[column]]
    except (TypeError, ValueError) as error:
        raise ConfigError(f"trace {path} holds a value that is no number ({error}); mend or remove that row") from error
    times, rates = np.array([t for t, _ in kept]), np.array([r for _, r in kept]) * 1e6
    bad = not (np.isfinite(times).all() and np.isfinite(rates).all()) or (rates < 0).any() or (np.diff(times) <= 0).any()
    if len(kept) < 2 or bad:
        raise ConfigError(f"trace {path} needs at least two rows with rising t_s and rates that are finite and not negative")
    return times - times[0], rates


def replay(paths: Iterable[Path], column: str = "ul_mbps") -> Trace:
    """Replay of the CSV files at `paths`; raises as `read_trace` does, and ConfigError without any file."""
    files = sorted(paths)
    if not files:
        raise ConfigError("no trace files given; name at least one CSV with the columns t_s and ul_mbps")
    read = [read_trace(path, column) for path in files]
    return Trace(tuple(path.stem for path in files), tuple(t for t, _ in read), tuple(r for _, r in read))

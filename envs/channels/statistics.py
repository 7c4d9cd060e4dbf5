"""What a set of drives looks like in numbers, and whether a generator looks the same: the part of a fit that can fail.

A drive is one trace in bins of equal length. A generator is drawn again and again in the lengths of the drives; where a number of
the drives lies outside what 95 % of these draws show, the generator does not match in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cutlayer.envs.channels import traces
from cutlayer.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from cutlayer.envs.channels.generators import Channel

# Under this nothing worth a request gets through: the smallest tensor that any plan sends takes over a deadline of 100 ms.
OUTAGE_BPS = 0.1e6
LAGS_S = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
# An autocorrelation needs this many times its lag: with less, its own mean is the largest part of it.
LENGTHS_PER_LAG = 4
# Rounding only: what a generator repeats exactly is no mismatch.
_GRAIN = 1e-9


@dataclass(frozen=True, slots=True, eq=False)
class Drives:
    """Measured rates of several drives, b/s, one array a drive, in bins of bin_s."""

    names: tuple[str, ...]
    rates_bps: tuple[NDArray[np.float64], ...]
    bin_s: float

    @property
    def pooled(self) -> NDArray[np.float64]:
        """All bins of all drives."""
        return np.concatenate(self.rates_bps)


@dataclass(frozen=True, slots=True)
class Compared:
    """A number of the drives, and of the generator: the median of its draws and the range that holds 95 % of them."""

    trace: float
    generated: float
    low: float
    high: float

    @property
    def matches(self) -> bool:
        """Whether the drives could be a draw of the generator, as far as this number goes."""
        grain = _GRAIN * max(abs(self.low), abs(self.high))
        return self.low - grain <= self.trace <= self.high + grain


def load(paths: Sequence[Path], column: str = "ul_mbps", time_column: str = "t_s", bin_s: float | None = None) -> Drives:
    """The files as drives in equal bins; each bin has the mean rate of its time. Without `bin_s`, the bins of the files.

    Raises:
        ConfigError: a file cannot be read, is shorter than ten bins, or the files come in different bins and none is given.
    """
    read = {path: traces.read(path, column, time_column) for path in paths}
    if not read:
        raise ConfigError("no trace files given; name at least one")
    native = {path: float(np.median(np.diff(times))) for path, (times, _) in read.items()}
    coarsest = max(native, key=lambda path: native[path])
    finest = min(native, key=lambda path: native[path])
    if bin_s is None:
        if native[coarsest] > 1.5 * native[finest]:
            raise ConfigError(
                f"{finest} has samples every {native[finest]:g} s and {coarsest} every {native[coarsest]:g} s; "
                f"fit them apart, or give --bin-s {native[coarsest]:g}"
            )
        bin_s = round(native[coarsest], 6)
    elif bin_s < native[coarsest] * (1 - 1e-3):
        raise ConfigError(f"--bin-s {bin_s:g} is finer than {coarsest}, sampled every {native[coarsest]:g} s; give at least that")
    rates = tuple(in_bins(times, values, bin_s) for times, values in read.values())
    for path, values in zip(read, rates, strict=True):
        if len(values) < 10:
            raise ConfigError(f"{path} lasts {len(values)} bins of {bin_s:g} s; a fit needs at least 10: give a longer trace")
    return Drives(tuple(path.stem for path in read), rates, bin_s)


def in_bins(times: NDArray[np.float64], rates: NDArray[np.float64], bin_s: float) -> NDArray[np.float64]:
    """Mean rate of each whole bin of a trace that holds every rate until the next time."""
    ends = np.append(times, traces.length_s(times))
    carried = np.append(0.0, np.cumsum(rates * np.diff(ends)))
    edges = np.arange(int(ends[-1] / bin_s + 1e-6) + 1) * bin_s
    # In whole b/s, so that nothing stays nothing: differences of sums over an hour at 1 Gb/s are off by a hundredth.
    mean: NDArray[np.float64] = np.round(np.diff(np.interp(edges, ends, carried)) / bin_s)
    return np.maximum(mean, 0.0)


def autocorrelation(drives: Sequence[NDArray[np.float64]], lag: int) -> float | None:
    """Correlation of the rate with itself `lag` bins later, about each drive's own mean; None where every drive is too short."""
    long = [x - x.mean() for x in drives if len(x) >= LENGTHS_PER_LAG * lag]
    power = sum(float((x * x).mean()) * (len(x) - lag) for x in long)
    if power == 0.0:
        return 0.0 if long else None
    return sum(float((x[:-lag] * x[lag:]).sum()) for x in long) / power


def outages(drives: Sequence[NDArray[np.float64]], outage_bps: float) -> NDArray[np.int64]:
    """Lengths in bins of all stretches under `outage_bps`, those at the ends of a drive too."""
    lengths = []
    for rates in drives:
        edges = np.flatnonzero(np.diff(np.concatenate([[False], rates < outage_bps, [False]]).astype(np.int8)))
        lengths.append(edges[1::2] - edges[::2])
    return np.concatenate(lengths)


def measure(
    drives: Sequence[NDArray[np.float64]], bin_s: float, lags_s: Sequence[float] = LAGS_S, outage_bps: float = OUTAGE_BPS
) -> dict[str, float]:
    """The numbers that are compared, by name. Lags that are no whole bins, or too long for every drive, are left out."""
    pooled = np.concatenate(drives)
    p5, p50, p95 = np.percentile(pooled, (5, 50, 95))
    found = {"mean_bps": float(pooled.mean()), "p5_bps": float(p5), "p50_bps": float(p50), "p95_bps": float(p95)}
    for lag_s in lags_s:
        lag = round(lag_s / bin_s)
        if lag >= 1 and abs(lag * bin_s - lag_s) < 1e-6 * lag_s:
            value = autocorrelation(drives, lag)
            if value is not None:
                found[f"autocorrelation_{lag_s:g}s"] = value
    lengths_s = outages(drives, outage_bps) * bin_s
    found["outage_share"] = float((pooled < outage_bps).mean())
    found["outages_per_hour"] = 3600.0 * len(lengths_s) / (len(pooled) * bin_s)
    # Without any outage its lengths are 0.
    found["outage_mean_s"] = float(lengths_s.mean()) if len(lengths_s) else 0.0
    found["outage_p95_s"] = float(np.percentile(lengths_s, 95)) if len(lengths_s) else 0.0
    found["outage_longest_s"] = float(lengths_s.max(initial=0.0))
    return found


def distance(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Largest difference of two distribution functions (Kolmogorov and Smirnov): 0 the same, 1 nothing in common."""
    at = np.concatenate([a, b])
    return float(np.abs(np.searchsorted(np.sort(a), at, "right") / len(a) - np.searchsorted(np.sort(b), at, "right") / len(b)).max())


def again(channel: Channel, drives: Drives, rng: np.random.Generator) -> list[NDArray[np.float64]]:
    """One draw of the channel for each drive, as long as it."""
    return [channel.draw(rng, len(rates), drives.bin_s) for rates in drives.rates_bps]


def compare(
    channel: Channel,
    drives: Drives,
    replicas: int = 100,
    seed: int = 0,
    lags_s: Sequence[float] = LAGS_S,
    outage_bps: float = OUTAGE_BPS,
) -> dict[str, Compared]:
    """Every number of `measure`, of the drives and of `replicas` draws of the channel."""
    rng = np.random.default_rng(seed)
    real = measure(drives.rates_bps, drives.bin_s, lags_s, outage_bps)
    drawn = [again(channel, drives, rng) for _ in range(replicas)]
    found = [measure(draw, drives.bin_s, lags_s, outage_bps) for draw in drawn]
    compared = {}
    for name, value in real.items():
        low, middle, high = np.percentile([one[name] for one in found], (2.5, 50, 97.5))
        compared[name] = Compared(value, float(middle), float(low), float(high))
    return compared


def rate_distance(channel: Channel, drives: Drives, replicas: int = 100, seed: int = 0) -> float:
    """`distance` of the drives' rates from those of many draws together."""
    rng = np.random.default_rng(seed)
    return distance(drives.pooled, np.concatenate([x for _ in range(replicas) for x in again(channel, drives, rng)]))

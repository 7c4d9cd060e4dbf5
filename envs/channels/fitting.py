"""Generators fitted to drives by moments, counts and quantiles: no search, no seed, so that the same drives give the same numbers.

Chains count transitions along a ring: the last bin of a drive is followed by the first of the next. So every state is left as often as
it is entered, and the chain's steady state is exactly the share of time that was measured. The price is one made-up step a drive.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from cutlayer.envs.channels.generators import Cellular, Constant, GilbertElliott, Markov, Rayleigh, Regimes
from cutlayer.envs.channels.statistics import OUTAGE_BPS, outages
from cutlayer.errors import ConfigError, nearest

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from cutlayer.envs.channels.generators import Channel
    from cutlayer.envs.channels.statistics import Drives

    Matrix = tuple[tuple[float, ...], ...]
    Floats = NDArray[np.float64]

# Eight levels resolve a distribution's tails at 6 %; each then has a hundred visits in a drive of 800 bins.
MARKOV_STATES = 8
REGIMES = 3
# Regimes are told apart by the mean log rate over this long: ten times a decorrelation of 1 s, a sixth of a minute's tunnel.
REGIME_S = 10.0
# Decorrelation is read at 1 s, or a bin where that is longer: shorter lags see the scheduler's pattern, longer ones noise.
LAG_S = 1.0
# What a correlation is clipped to before its logarithm is taken: 1 % is noise, 99.9 % is longer than a drive of 1000 bins tells.
CORRELATION = (0.01, 0.999)
SNR_DB = (-30.0, 60.0)  # beyond these the ratio of two percentiles no longer moves
DIGITS = 5  # of every fitted number: more than any drive settles


def rounded(value: float) -> float:
    """To `DIGITS` significant digits."""
    return float(f"{value:.{DIGITS}g}")


def constant(drives: Drives, outage_bps: float = OUTAGE_BPS) -> Constant:  # noqa: ARG001 - as all fits
    """The mean rate."""
    return Constant(rounded(float(drives.pooled.mean())))


def markov(drives: Drives, outage_bps: float = OUTAGE_BPS) -> Markov:
    """Levels of equal shares of the time outside outages, each at its mean rate, and outages as one more; transitions counted."""
    pooled = drives.pooled
    up = pooled[pooled >= outage_bps]
    inner = np.unique(np.percentile(up, np.linspace(0, 100, MARKOV_STATES + 1)[1:-1])) if len(up) else np.empty(0)
    # A level begins at its edge; the lowest edge is the end of outages.
    edges = np.append(outage_bps, inner[inner > outage_bps])
    level = np.searchsorted(edges, pooled, side="right")
    used, state = np.unique(level, return_inverse=True)
    rates = tuple(rounded(float(pooled[state == i].mean())) for i in range(len(used)))
    return Markov(rates, transitions(state, len(used)), drives.bin_s)


def gilbert_elliott(drives: Drives, outage_bps: float = OUTAGE_BPS) -> GilbertElliott:  # noqa: ARG001 - as all fits
    """Good and bad are the two clusters of the rate (2-means); stays from counted transitions."""
    pooled = drives.pooled
    good = clusters(pooled, 2)
    if good.min() == good.max():
        raise ConfigError("gilbert-elliott: the rate never changes, so there is no bad state; fit constant instead")
    matrix = transitions(good, 2)
    return GilbertElliott(
        good_bps=rounded(float(pooled[good == 1].mean())),
        bad_bps=rounded(float(pooled[good == 0].mean())),
        good_s=rounded(drives.bin_s / matrix[1][0]),
        bad_s=rounded(drives.bin_s / matrix[0][1]),
    )


def cellular(drives: Drives, outage_bps: float = OUTAGE_BPS) -> Cellular:
    """Each drive's level is its mean log rate outside outages; spread is about the levels, over all bins; the correlation is that of
    the logarithm over pairs of bins outside outages, a mean over drives; outages are counted.
    """
    parts = [rates for rates in drives.rates_bps if (rates >= outage_bps).sum() > 1]
    if not parts:
        raise ConfigError(f"ar1-log-normal: no drive is ever above {outage_bps:g} b/s; give a lower --outage-mbps")
    up = [rates >= outage_bps for rates in parts]
    levels = [float(np.log(rates[u]).mean()) for rates, u in zip(parts, up, strict=True)]
    about = [np.log(np.maximum(rates, 1.0)) - level for rates, level in zip(parts, levels, strict=True)]
    return Cellular(
        median_bps=rounded(math.exp(float(np.mean(levels)))),
        spread=rounded(float(np.concatenate([x[u] for x, u in zip(about, up, strict=True)]).std())),
        decorrelation_s=rounded(_decorrelation_s(about, up, drives.bin_s)),
        drive_spread=rounded(float(np.std(levels, ddof=1))) if len(levels) > 1 else 0.0,
        **_outages(drives.rates_bps, drives.bin_s, outage_bps),
    )


def rayleigh(drives: Drives, outage_bps: float = OUTAGE_BPS) -> Rayleigh:  # noqa: ARG001 - as all fits
    """Signal-to-noise ratio from p95 / p50 of the rate, bandwidth from p50, and blocks so long that the correlation at 1 s is right.

    Blocks that begin anywhere give a correlation that falls on a line to 0 at the block's length.
    """
    p50, p95 = np.percentile(drives.pooled, (50, 95))
    if p50 <= 0.0:
        raise ConfigError("rayleigh: the median rate is 0, and fading alone never takes a link away; fit another generator")
    low, high = SNR_DB
    least, most = (_capacity(snr_db, 95) / _capacity(snr_db, 50) for snr_db in (high, low))
    if not least < p95 / p50 < most:
        raise ConfigError(
            f"rayleigh: p95 of the rate is {p95 / p50:.2f} times its median, and fading gives {least:.2f} to {most:.2f}; "
            "fit another generator"
        )
    for _ in range(60):  # bisection: the ratio falls as the ratio of signal to noise grows
        middle = (low + high) / 2
        low, high = (low, middle) if _capacity(middle, 95) / _capacity(middle, 50) < p95 / p50 else (middle, high)
    lag = _lag(drives.bin_s)
    pairs = [x - x.mean() for x in drives.rates_bps if len(x) > lag]
    correlation = sum(float((x[:-lag] * x[lag:]).sum()) for x in pairs) / max(sum(float((x * x).sum()) for x in pairs), 1e-300)
    block_s = lag * drives.bin_s / (1.0 - min(max(correlation, 0.0), CORRELATION[1]))
    return Rayleigh(rounded(float(p50) / _capacity(low, 50)), rounded(low), rounded(block_s))


def regimes(drives: Drives, outage_bps: float = OUTAGE_BPS) -> Regimes:
    """Clusters of the mean log rate over 10 s, each with a log-normal of its own, and counted transitions between them."""
    window = max(3, 2 * (round(REGIME_S / drives.bin_s) // 2) + 1)
    logs = [np.log(np.maximum(rates, outage_bps)) for rates in drives.rates_bps]
    regime = clusters(np.concatenate([_smooth(x, window) for x in logs]), REGIMES)
    used, regime = np.unique(regime, return_inverse=True)
    of_drive = np.split(regime, np.cumsum([len(x) for x in logs])[:-1])
    parts = tuple(_one_regime(drives, of_drive, i, outage_bps) for i in range(len(used)))
    return Regimes(parts, transitions(regime, len(used)), drives.bin_s)


def _one_regime(drives: Drives, of_drive: list[NDArray[np.int64]], regime: int, outage_bps: float) -> Channel:
    """A log-normal with outages for the bins of one regime; nothing at all where it is all outage."""
    inside = [x == regime for x in of_drive]
    up = [i & (rates >= outage_bps) for i, rates in zip(inside, drives.rates_bps, strict=True)]
    logs = [np.log(np.maximum(rates, 1.0)) for rates in drives.rates_bps]
    values = np.concatenate([x[u] for x, u in zip(logs, up, strict=True)])
    if len(values) < 2:
        return Constant(0.0)
    about = [x - values.mean() for x in logs]
    # Bins of other regimes are no outages.
    rates = [np.where(i, x, np.inf) for i, x in zip(inside, drives.rates_bps, strict=True)]
    share = 1.0 - len(values) / sum(int(i.sum()) for i in inside)
    return Cellular(
        median_bps=rounded(math.exp(float(values.mean()))),
        spread=rounded(float(values.std())),
        decorrelation_s=rounded(_decorrelation_s(about, up, drives.bin_s)),
        **{**_outages(rates, drives.bin_s, outage_bps), "outage_share": rounded(share)},
    )


def _outages(drives: tuple[Floats, ...] | list[Floats], bin_s: float, outage_bps: float) -> dict[str, float]:
    """Share and mean length; a length of one bin where there is none, which is then never used."""
    lengths = outages(drives, outage_bps)
    share = float(np.concatenate([rates < outage_bps for rates in drives]).mean())
    return {"outage_share": rounded(share), "outage_s": rounded(bin_s * float(lengths.mean()) if len(lengths) else bin_s)}


def _decorrelation_s(about: list[Floats], up: list[NDArray[np.bool_]], bin_s: float) -> float:
    """Time constant of an exponential that goes through the correlation at 1 s (or one bin); a mean over drives."""
    lag = _lag(bin_s)
    found = []
    for x, u in zip(about, up, strict=True):
        pairs = u[:-lag] & u[lag:]
        power = float((x[u] ** 2).mean()) if u.any() else 0.0
        if pairs.any() and power > 0.0:
            found.append(float((x[:-lag] * x[lag:])[pairs].mean()) / power)
    low, high = CORRELATION
    return -lag * bin_s / math.log(min(max(float(np.mean(found)) if found else low, low), high))


def _lag(bin_s: float) -> int:
    return max(1, round(LAG_S / bin_s))


def _capacity(snr_db: float, percentile: float) -> float:
    """Bits a second and hertz that Rayleigh fading stays under for so many per cent of the time."""
    return math.log2(1.0 - 10 ** (snr_db / 10) * math.log(1.0 - percentile / 100.0))


def _smooth(values: Floats, window: int) -> Floats:
    """Mean over a window of an odd number of values; at the ends, over what there is of it."""
    ones = np.ones(window)
    half = window // 2
    total, count = (np.convolve(x, ones)[half : half + len(values)] for x in (values, np.ones(len(values))))
    return total / count


def clusters(values: Floats, count: int) -> NDArray[np.int64]:
    """Index of each value's cluster, rising with the value: k-means on a line, begun by splitting where it gains most.

    Begun at quantiles it would never find an outage that takes a tenth of the time. There may be fewer clusters than asked for.
    """
    ordered = np.sort(values)
    edges = [0, len(ordered)]
    while len(edges) <= count:
        gain, cut = max(_best_cut(ordered, low, high) for low, high in pairwise(edges))
        if gain <= 0.0:
            break
        edges = sorted([*edges, cut])
    centres = np.array([ordered[low:high].mean() for low, high in pairwise(edges)])
    for _ in range(200):  # each round lowers the sum of squares; on a line it settles after some tens
        label = np.searchsorted((centres[1:] + centres[:-1]) / 2, values, side="right")
        moved = np.array([values[label == i].mean() if (label == i).any() else centres[i] for i in range(len(centres))])
        if np.array_equal(moved, centres):
            break
        centres = moved
    return np.searchsorted((centres[1:] + centres[:-1]) / 2, values, side="right").astype(np.int64)


def _best_cut(ordered: Floats, low: int, high: int) -> tuple[float, int]:
    """By how much the sum of squares falls at most if a part of the sorted values is cut in two, and where."""
    part = ordered[low:high] - ordered[low:high].mean()
    left = np.arange(1, len(part))
    if part[0] == part[-1] or not len(left):
        return 0.0, low
    # About the mean both sides have the same sum but for its sign.
    gain = np.cumsum(part)[:-1] ** 2 * (1.0 / left + 1.0 / (len(part) - left)) * (part[1:] > part[:-1])
    return float(gain.max()), low + 1 + int(gain.argmax())


def transitions(state: NDArray[np.int64], states: int) -> Matrix:
    """Share of the exits of each state that go to each; the last bin goes to the first. Rows add up to one to the last digit kept."""
    counts = np.zeros((states, states))
    np.add.at(counts, (state, np.roll(state, -1)), 1.0)
    share = np.round(counts / counts.sum(axis=1, keepdims=True), 8)
    share[np.diag_indices(states)] += 1.0 - share.sum(axis=1)
    return tuple(tuple(float(chance) for chance in row) for row in np.clip(share, 0.0, 1.0))


FITS: dict[str, Callable[[Drives, float], Channel]] = {
    "constant": constant,
    "gilbert-elliott": gilbert_elliott,
    "markov": markov,
    "ar1-log-normal": cellular,
    "rayleigh": rayleigh,
    "regimes": regimes,
}


def fit(kind: str, drives: Drives, outage_bps: float = OUTAGE_BPS) -> Channel:
    """A generator of that kind with the statistics of the drives that it can have.

    Raises:
        ConfigError: the kind is unknown, or cannot describe these drives at all.
    """
    if kind not in FITS:
        raise ConfigError(f"unknown generator {kind!r}; {nearest(kind, FITS)}known: all, {', '.join(FITS)}")
    return FITS[kind](drives, outage_bps)

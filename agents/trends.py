"""Whether a policy's knobs follow the link: rank correlation with the true rate, and a test that keeps what is like the moment before.

Rates and plans drift, so that neighbours are alike and a test that shuffles single requests finds a trend in everything. Here a
policy's plans are shifted against the rates, in a circle within each episode: each series stays as it is, only their meeting is by chance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHIFTS = 499  # with the observed one 500: the smallest p is 0.002
SEED = 20_261  # our choice: the same p every time


@dataclass(frozen=True, slots=True)
class Trend:
    """Spearman's rank correlation, mean over episodes, and the chance of one as high where plans knew nothing of the rate."""

    rho: float
    p: float


def rising(rates: NDArray[np.float64], values: NDArray[np.float64]) -> Trend:
    """Whether `values` rise with `rates`, both (episodes, requests); episodes in which either never changes say 0."""
    x, y = _centred(rates), _centred(values)
    # Correlations of all circular shifts at once, as a product of spectra; the shift by 0 is the observed one.
    spectrum = np.fft.rfft(x, axis=1) * np.conj(np.fft.rfft(y, axis=1))
    shifted = np.fft.irfft(spectrum, n=x.shape[1], axis=1)
    observed = float(shifted[:, 0].mean())
    rng = np.random.default_rng(SEED)
    by_chance = np.array([shifted[np.arange(len(x)), rng.integers(x.shape[1], size=len(x))].mean() for _ in range(SHIFTS)])
    return Trend(observed, float((1 + (by_chance >= observed - 1e-12).sum()) / (1 + SHIFTS)))


def _centred(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks within each episode, ties sharing theirs, of mean 0 and length 1; zeros where nothing changes."""
    ranks = np.array([_ranks(row) for row in values])
    ranks -= ranks.mean(axis=1, keepdims=True)
    length = np.linalg.norm(ranks, axis=1, keepdims=True)
    centred: NDArray[np.float64] = np.divide(ranks, length, out=np.zeros_like(ranks), where=length > 0)
    return centred


def _ranks(row: NDArray[np.float64]) -> NDArray[np.float64]:
    _, place, counts = np.unique(row, return_inverse=True, return_counts=True)
    ranks: NDArray[np.float64] = (np.cumsum(counts) - (counts - 1) / 2.0)[place]
    return ranks

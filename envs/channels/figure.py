"""A picture of a fit: distribution, correlation, outages and a stretch of rate, of the drives and of each generator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cutlayer.envs.channels import statistics as st
from cutlayer.envs.channels.kinds import build

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from cutlayer.envs.channels.statistics import Drives

# Okabe and Ito's colours, told apart with any colour vision; the drives are black.
_COLOURS = ("#E69F00", "#0072B2", "#009E73", "#D55E00", "#CC79A7", "#56B4E9")
STRETCH_BINS = 600


def draw(drives: Drives, result: dict[str, Any], file: Path) -> None:
    """Draw the fits of a report beside the drives; PNG."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    rng = np.random.default_rng(result["seed"])
    shown: dict[str, tuple[str, Sequence[NDArray[np.float64]]]] = {"drives": ("black", drives.rates_bps)}
    for fit, colour in zip((fit for fit in result["fits"] if "channel" in fit), _COLOURS, strict=False):
        shown[fit["generator"]] = (colour, st.again(build(fit["channel"]), drives, rng))
    figure, ((spread, memory), (gaps, stretch)) = plt.subplots(2, 2, figsize=(10.0, 7.0), layout="constrained")
    longest = max(len(rates) for rates in drives.rates_bps) // st.LENGTHS_PER_LAG
    lags = np.unique(np.geomspace(1, max(1, longest), 40).astype(int))
    for name, (colour, rates) in shown.items():
        pooled = np.sort(np.concatenate(rates)) / 1e6
        spread.plot(pooled, np.arange(1, len(pooled) + 1) / len(pooled), color=colour, label=name)
        memory.plot(lags * drives.bin_s, [st.autocorrelation(rates, int(lag)) for lag in lags], color=colour)
        lengths = np.sort(st.outages(rates, result["outage_bps"])) * drives.bin_s
        if len(lengths):
            gaps.step(lengths, 1.0 - np.arange(len(lengths)) / len(lengths), where="pre", color=colour)
        first = rates[0][:STRETCH_BINS] / 1e6
        stretch.plot(np.arange(len(first)) * drives.bin_s, first, color=colour, linewidth=1.4 if name == "drives" else 0.7)
    spread.set(xlabel="uplink rate (Mb/s)", ylabel="share of bins at most that", xscale="symlog")
    memory.set(xlabel="lag (s)", ylabel="autocorrelation of the rate", xscale="log")
    gaps.set(xlabel="length of an outage (s)", ylabel="share of outages at least that", yscale="log")
    if not gaps.lines:
        gaps.text(0.5, 0.5, "no outage", ha="center", transform=gaps.transAxes)
        gaps.set(yscale="linear")
    stretch.set(xlabel="time (s)", ylabel="uplink rate (Mb/s)", title="the first stretch, and a draw of each")
    figure.legend(loc="outside lower center", ncols=7, fontsize="small", frameon=False)
    figure.suptitle(
        f"{', '.join(drives.names)}: {drives.bin_s:g} s bins, outage under {result['outage_bps'] / 1e6:g} Mb/s", fontsize="medium"
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)
    plt.close(figure)

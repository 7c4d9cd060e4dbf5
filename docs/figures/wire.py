# noqa: INP001 - a script, no module
"""Draws `wire.png`: latency predicted and measured, from the folders of `cutlayer testbed calibrate -o` and `cutlayer testbed run -o`.

python docs/figures/wire.py runs/wire runs/wire/lte
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

HERE = Path(__file__).parent
# Okabe and Ito's colours, which the colour-blind tell apart.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9")
ARRIVAL, FINISH = 2, 9  # of a record (cutlayer.envs.record)


def configurations(axes: Axes, told: dict[str, Any]) -> None:
    """Each configuration of a calibration, predicted against measured; on the line they are equal."""
    measured, predicted, naive = (
        1e3 * np.array([one[name] for one in told["measured"]]) for name in ("measured_s", "predicted_s", "naive_s")
    )
    axes.loglog(measured, naive, "x", color="#999999", markersize=4, label=f"naive formula, off by {told['naive_mape']:.1%}")
    off = f"held out: off by {told['mape']:.1%}, bias {told['bias']:+.1%}"
    axes.loglog(measured, predicted + 1e3 * told["c0_s"], "o", color=COLOURS[0], markersize=3, label=f"cost model, {off}")
    ends = [measured.min(), measured.max()]
    axes.loglog(ends, ends, color="black", linewidth=0.8)
    _plain(axes.xaxis, (1, 1.5, 2, 3, 5, 7))
    _plain(axes.yaxis, (1, 1.5, 2, 3, 5, 7))
    axes.set_xlabel("measured ms")
    axes.set_ylabel("predicted ms")
    axes.set_title(f"{told['configurations']} configurations over {told['backend']}{_state(told)}", fontsize=9)
    axes.legend(fontsize=7)


def run(axes: Axes, folder: Path, told: dict[str, Any]) -> None:
    """How latency is spread in a run: measured as a line, simulated dashed, a colour for each policy."""
    for colour, (label, row) in zip(COLOURS, told["policies"].items(), strict=False):
        side = json.loads((folder / f"{label}.json").read_text(encoding="utf-8"))
        for kind, style in (("measured", "-"), ("simulated", "--")):
            latency = np.sort([1e3 * (one[FINISH] - one[ARRIVAL]) for one in side[f"{kind}_records"]])
            said = f"{label}, mean {row['latency_error']:+.1%}" if kind == "measured" else None
            axes.step(latency, np.arange(1, len(latency) + 1) / len(latency), style, where="post", color=colour, linewidth=1.1, label=said)
    axes.set_xscale("log")
    _plain(axes.xaxis, (1, 2, 5))  # two decades and a half
    axes.set_xlabel("latency ms (dashed: simulated)")
    axes.set_ylabel("share of requests")
    axes.set_title(f"{told['scenario']}, {told['requests']} requests over {told['backend']}{_state(told)}", fontsize=9)
    axes.legend(fontsize=7)


def _plain(axis: Axis, steps: Sequence[float]) -> None:
    """Milliseconds as they are read, not as powers."""
    axis.set_major_locator(FixedLocator([a * 10**b for b in range(4) for a in steps]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _state(told: dict[str, Any]) -> str:
    return "" if told["quiet"] else " (machine busy: judges nothing)"


def main(folders: list[Path]) -> None:
    """Draw every result that lies in the folders."""
    mpl.use("agg")
    from matplotlib import pyplot as plt

    drawn = []
    for folder in folders:
        if (folder / "calibrate.json").exists():
            told = json.loads((folder / "calibrate.json").read_text(encoding="utf-8"))
            drawn.append(lambda axes, told=told: configurations(axes, told))
        if (folder / "run.json").exists():
            told = json.loads((folder / "run.json").read_text(encoding="utf-8"))
            drawn.append(lambda axes, folder=folder, told=told: run(axes, folder, told))
    if not drawn:
        sys.exit(f"no calibrate.json and no run.json in {', '.join(map(str, folders))}; make them with: cutlayer testbed calibrate -o DIR")
    figure, axes = plt.subplots(1, len(drawn), figsize=(4.6 * len(drawn), 4.0), squeeze=False)
    for draw, own in zip(drawn, axes[0], strict=True):
        draw(own)
        own.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(HERE / "wire.png", dpi=110)


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])

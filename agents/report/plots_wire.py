"""What the panels of a test bed draw: measured and simulated on the same axes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cutlayer.agents.report import ink, plots

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from cutlayer.agents.report.colours import Knob

THICK, THIN = 0.4, 0.16  # of a row: the bars of both worlds, and air between rows


def span(latency_s: NDArray[np.float64], deadline_s: float | None) -> tuple[float, float]:
    """Ends of the axis of latencies in ms, the same for every policy: fastest answer, and well past the deadline or the 99th percentile."""
    least, most = 1e3 * float(latency_s.min()), 1e3 * float(np.percentile(latency_s, 99))
    if deadline_s is not None:
        least, most = max(least, 10.0 * deadline_s), plots.HIGHEST * 1e3 * deadline_s
    return 0.9 * least, max(most, 1.2 * least)


def latencies(axis: Axes, measured_s: NDArray[np.float64], simulated_s: NDArray[np.float64], colour: str, deadline_s: float | None) -> None:
    """The share of requests answered by each latency: measured as a line, simulated dashed in the page's ink."""
    for latency_s, hue, style in ((measured_s, colour, "-"), (simulated_s, ink.INK, (0, (3, 2)))):
        ms = np.sort(1e3 * latency_s)
        at = np.unique(np.linspace(0, len(ms) - 1, plots.POINTS).astype(int))
        axis.plot(ms[at], 100 * (at + 1) / len(ms), color=hue, linestyle=style, linewidth=2.2 if style == "-" else 1.1)
    if deadline_s is not None:
        axis.axvline(1e3 * deadline_s, color=ink.MUTED, linewidth=0.9)
        axis.annotate(
            f"deadline {1e3 * deadline_s:g} ms", (1e3 * deadline_s, 3), (4, 0), textcoords="offset points", color=ink.MUTED, fontsize=7
        )
    axis.set_xscale("log")
    plots.plain_log(axis)
    axis.set_ylim(0, 101)
    axis.set_xlabel("latency (ms, logarithmic)")
    axis.set_ylabel("answered by then (%)")


def rewards(axis: Axes, ends: Mapping[str, tuple[float, float]], colour: Mapping[str, str]) -> None:
    """A row for each policy: a dot for what was measured, a ring for what was simulated, a line between."""
    for y, (label, (measured, simulated)) in enumerate(ends.items()):
        hue = colour.get(label, ink.GREY)
        axis.plot([measured, simulated], [y, y], color=hue, linewidth=1.2, zorder=2)
        axis.plot([measured], [y], marker="o", markersize=5.5, color=hue, zorder=3)
        axis.plot([simulated], [y], marker="o", markersize=8.5, markerfacecolor="none", markeredgecolor=hue, markeredgewidth=1.3, zorder=3)
    plots.name_rows(axis, list(ends))
    axis.margins(x=0.08)
    axis.set_xlabel("mean reward")


def shares(axis: Axes, share: NDArray[np.float64], knob: Knob, labels: Sequence[str]) -> None:
    """Stacked shares of a knob's values, (policies, worlds, values): a thick bar for what was measured, a thin one below it."""
    for y, both in enumerate(share):
        for values, height, middle in zip(both, (THICK, THIN), (y - THIN / 2, y + THICK / 2 + 0.04), strict=True):
            left = np.concatenate([[0.0], np.cumsum(values)[:-1]])
            axis.barh(np.full(len(values), middle), 100 * values, height=height, left=100 * left, color=knob.colours, linewidth=0)
    plots.name_rows(axis, list(labels))
    axis.set_xlim(0, 100)
    axis.set_title(knob.name)
    axis.set_xlabel("requests (%)")

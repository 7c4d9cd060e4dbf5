"""What each panel draws, on axes that it is given: the same drawing stands in the page and in a file for a paper."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np

from cutlayer.agents.report import colours, ink, maps, numbers

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from cutlayer.agents.report.colours import Knob, Palette
    from cutlayer.agents.report.maps import Maps
    from cutlayer.agents.report.numbers import Curves, Gap, Row
    from cutlayer.agents.report.played import Requests

MOST = 12  # our choice: policies in a panel that stay legible on a telephone; the table has all
POINTS = 300  # of a distribution's line: finer than a printed page shows
LOWEST = -0.5  # of the scores' axis; who is worse is an arrow with its number
HIGHEST = 4.0  # deadlines, up to which latencies are shown; the rest stands in the table's p99


def score(axis: Axes, rows: Sequence[Row], colour: Mapping[str, str]) -> None:
    """Dot and whisker, best on top; 0 and 1 are the ends of the scale."""
    from matplotlib.ticker import MultipleLocator

    _, low = min((row.score, row.score if row.score_low is None else row.score_low) for row in rows if row.score is not None)
    floor = max(LOWEST, min(-0.05, low - 0.05))
    for y, row in enumerate(rows):
        assert row.score is not None
        hue, thick = colour.get(row.policy, ink.GREY), row.kind == "learner"
        if row.score_low is not None and row.score_high is not None and row.score >= floor:
            axis.plot([max(row.score_low, floor), max(row.score_high, floor)], [y, y], color=hue, linewidth=2.6 if thick else 1.4, zorder=2)
        if row.score >= floor:
            axis.plot([row.score], [y], marker="o", markersize=5, color=hue, markeredgecolor=ink.PAPER, markeredgewidth=0.8, zorder=3)
        else:
            inside = floor + 0.03
            axis.plot([inside], [y], marker="<", markersize=4.5, color=hue, zorder=3)
            axis.annotate(
                f"{row.score:.1f}".replace("-", "−"),
                (inside, y),
                (6, 0),
                textcoords="offset points",
                va="center",
                color=ink.MUTED,
                fontsize=7,
            )
    axis.set_xlim(floor, 1.05)
    axis.xaxis.set_major_locator(MultipleLocator(0.25 if floor > LOWEST else 0.5))
    for end in (0.0, 1.0):
        axis.axvline(end, color=ink.MUTED, linewidth=0.8, zorder=1)
    name_rows(axis, [row.policy for row in rows])
    axis.set_xlabel("score (0: best simple rule, 1: clairvoyant)")


def gap(axis: Axes, gaps: Sequence[Gap], colour: Mapping[str, str]) -> None:
    """Bars from the clairvoyant down, each with its interval and its number; bars that are far longer than the best are cut."""
    cap = 6.0 * float(np.median([one.mean for one in gaps])) + 1e-12
    longest = max(min(one.high, cap) for one in gaps)
    for y, one in enumerate(gaps):
        shown = min(one.mean, longest)
        axis.barh(y, shown, height=0.62, color=colour.get(one.policy, ink.GREY), zorder=2)
        high = min(one.high, longest)
        if one.mean <= longest:
            axis.plot([max(one.low, 0.0), high], [y, y], color=ink.INK, linewidth=1.0, zorder=3)
        axis.annotate(
            f"{one.mean:.3f}", (max(shown, high), y), (4, 0), textcoords="offset points", va="center", color=ink.MUTED, fontsize=7
        )
    axis.set_xlim(0.0, 1.17 * longest)
    name_rows(axis, [one.policy for one in gaps])
    axis.set_xlabel("mean reward below the clairvoyant")


def name_rows(axis: Axes, names: Sequence[str]) -> None:
    """A name for each row, the first one on top."""
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.set_yticks(range(len(names)), names)
    axis.tick_params(axis="y", length=0, labelcolor=ink.INK)
    axis.grid(visible=False, axis="y")
    axis.spines["left"].set_visible(False)


def learning(axis: Axes, curves: Sequence[Curves], colour: Mapping[str, str]) -> None:
    """The median seed's line, the span of all seeds, and every seed as a thin line; named at the right end."""
    ends = []
    for one in curves:
        hue, x = colour.get(one.name, ink.GREY), one.steps / 1e3
        axis.fill_between(x, one.reward.min(axis=0), one.reward.max(axis=0), color=hue, alpha=0.18, linewidth=0)
        for seed in one.reward:
            axis.plot(x, seed, color=hue, linewidth=0.5, alpha=0.6)
        axis.plot(x, one.median, color=hue)
        ends.append((float(one.median[-1]), one.name, hue))
    low, high = axis.get_ylim()
    for y, (_, name, hue) in zip(_apart([end[0] for end in ends], 0.07 * (high - low)), ends, strict=True):
        axis.text(1.01, y, name, transform=axis.get_yaxis_transform(), color=hue, va="center", fontsize=7.5)
    axis.set_xlabel("requests learned from (thousands)")
    axis.set_ylabel("mean reward, validation")


def _apart(values: Sequence[float], least: float) -> list[float]:
    """The values, moved so that neighbours are `least` apart; the highest stays."""
    moved = list(values)
    order = sorted(range(len(values)), key=lambda i: -values[i])
    for before, after in itertools.pairwise(order):
        moved[after] = min(moved[after], moved[before] - least)
    return moved


def latency(axis: Axes, requests: Mapping[str, Requests], colour: Mapping[str, str], deadline_s: float) -> None:
    """The share of requests answered by each latency; and the line of the deadline."""
    relative = False
    shortest = np.inf
    for name, one in requests.items():
        found, relative = numbers.latencies(one)
        scaled = found if relative else 1e3 * found
        limit = HIGHEST * (1.0 if relative else 1e3 * deadline_s)
        at = np.unique(np.linspace(0, len(scaled) - 1, POINTS).astype(int))
        shortest = min(shortest, float(scaled[0]))
        x, y = np.minimum(scaled[at], 2 * limit), 100 * (at + 1) / len(scaled)
        style: dict[str, Any] = {"linestyle": (0, (4, 2))} if name == "clairvoyant" else {}
        axis.plot(x, y, color=colour.get(name, ink.GREY), **style)
    end = 1.0 if relative else 1e3 * deadline_s
    axis.axvline(end, color=ink.INK, linewidth=0.9)
    axis.annotate(
        "deadline" if relative else f"deadline {end:g} ms", (end, 3), (4, 0), textcoords="offset points", color=ink.INK, fontsize=7.5
    )
    axis.set_xscale("log")
    axis.set_xlim(max(shortest, end / 100), HIGHEST * end)
    axis.set_ylim(0, 101)
    plain_log(axis)
    axis.set_xlabel("latency / deadline" if relative else "latency (ms, logarithmic)")
    axis.set_ylabel("requests answered by then (%)")


def plain_log(axis: Axes) -> None:
    """Numbers on a logarithmic axis as they are read, not as powers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=12))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.xaxis.set_minor_locator(NullLocator())


def shares(axis: Axes, share: NDArray[np.float64], knob: Knob, bounds: Sequence[str]) -> None:
    """Stacked shares of a knob's values, a bar for each bin of the condition, edges as ticks."""
    bins = share.shape[1]
    below = np.zeros(bins)
    for own, colour in zip(share, knob.colours, strict=True):
        if own.any():
            axis.bar(np.arange(bins) + 0.5, 100 * own, width=0.94, bottom=100 * below, color=colour, linewidth=0)
        below = below + own
    axis.set_xlim(0, bins)
    axis.set_ylim(0, 100)
    axis.set_yticks([0, 50, 100])
    axis.set_xticks(range(bins + 1), bounds)
    axis.tick_params(axis="x", labelsize=7)
    axis.set_ylabel(f"{knob.name} (%)")
    axis.grid(visible=False)


def policy_map(axis: Axes, found: Maps, name: str, palette: Palette) -> None:
    """The plan at each rate and slow-down by its colour, fine lines between plans, and the names of the larger regions."""
    chosen, grid = found.chosen[name], found.grid
    x, slow = np.log10(np.array(grid.rates_bps) / 1e6), np.array(grid.slow_downs)
    step_x, step_y = (x[-1] - x[0]) / (len(x) - 1), (slow[-1] - slow[0]) / (len(slow) - 1)
    left, bottom = x[0] - step_x / 2, slow[0] - step_y / 2
    image = np.array([[_rgb(palette.of_plan[int(plan)]) for plan in line] for line in chosen], np.uint8)
    axis.imshow(
        image,
        origin="lower",
        aspect="auto",
        interpolation="none",
        extent=(left, x[-1] + step_x / 2, bottom, slow[-1] + step_y / 2),
        zorder=1,
    )
    _borders(axis, chosen, (left, step_x), (bottom, step_y))
    for region in maps.regions(chosen):
        axis.text(
            x[region.column], slow[region.row], found.plans.name(region.plan), ha="center", va="center", fontsize=7,
            color=colours.legible_on(palette.of_plan[region.plan]), zorder=3,
        )  # fmt: skip
    decades = [k for k in range(-3, 4) if x[0] <= k <= x[-1]]
    axis.set_xticks(decades, [f"{10.0**k:g}" for k in decades])
    axis.set_yticks(
        [s for s in (1, 2, 3, 4, 8, 16) if slow[0] <= s <= slow[-1]], [f"{s}×" for s in (1, 2, 3, 4, 8, 16) if slow[0] <= s <= slow[-1]]
    )
    axis.grid(visible=False)
    for spine in axis.spines.values():
        spine.set_visible(False)
    axis.set_title(name)
    axis.set_xlabel("uplink rate (Mb/s, logarithmic)")
    axis.set_ylabel("slow-down of the device")


def _borders(axis: Axes, chosen: NDArray[np.int64], across: tuple[float, float], up: tuple[float, float]) -> None:
    """Lines where neighbours differ: plans that differ in bits alone have one colour."""
    (left, dx), (bottom, dy) = across, up
    segments = [
        [(left + (j + 1) * dx, bottom + i * dy), (left + (j + 1) * dx, bottom + (i + 1) * dy)]
        for i, j in np.argwhere(chosen[:, 1:] != chosen[:, :-1]).tolist()
    ] + [
        [(left + j * dx, bottom + (i + 1) * dy), (left + (j + 1) * dx, bottom + (i + 1) * dy)]
        for i, j in np.argwhere(chosen[1:] != chosen[:-1]).tolist()
    ]
    from matplotlib.collections import LineCollection

    axis.add_collection(LineCollection(segments, colors="#ffffff", linewidths=0.6, zorder=2))


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)

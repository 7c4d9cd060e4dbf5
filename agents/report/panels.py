"""The panels of a world: what each is called, says and is drawn from; a panel whose data is absent is named with the reason instead."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cutlayer.agents.judge import CLAIRVOYANT
from cutlayer.agents.report import colours, ink, maps, numbers, played, plots

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from matplotlib.figure import Figure, FigureBase
    from numpy.typing import NDArray

    from cutlayer.agents.report.colours import Palette
    from cutlayer.agents.report.maps import Grid, Maps
    from cutlayer.agents.report.played import Section

# Widths of tiles, chosen so that their text is as large as the page's: of one that stands in half a wide page, of one of three in a row;
# each fits on a telephone of 400 pixels.
HALF_IN, THIRD_IN = 4.4, 3.2


UNPLAYED = "no policy could be played again"


@dataclass(frozen=True, slots=True)
class Tile:
    """A part of a panel that keeps its size on a narrow page: what it says in words, its height, and how it is painted."""

    alt: str
    height_in: float
    paint: Callable[[FigureBase], None]


@dataclass(frozen=True, slots=True)
class Legend:
    """A row of a legend that its tiles share: a word for the row, and colours with their labels, None where there is nothing."""

    name: str
    entries: list[tuple[str, str | None]]


@dataclass(frozen=True, slots=True)
class Panel:
    """Tiles under one title, with the sentence that says how to read them."""

    name: str
    title: str
    reading: str
    tiles: list[Tile]
    legend: list[Legend]
    width_in: float = HALF_IN


def of(section: Section, found: Maps | None) -> tuple[list[Panel], list[str]]:
    """The panels, in the order of the page, and for each that is left out its name and the reason."""
    colour = colours.of_policies(
        [one.run.policy for one in played.ranked(section.stood, "learner")],
        [one.run.policy for one in played.ranked(section.stood, "rule")],
    )
    made: list[Panel] = []
    absent = list(section.absent)
    for part in (
        _map(found, section),
        _score(section, colour),
        _gap(section, colour),
        _learning(section, colour),
        _latency(section, colour),
        _knobs(section, "rate"),
        _knobs(section, "load"),
    ):
        if isinstance(part, Panel):
            made.append(part)
        elif section.requests or not part.endswith(UNPLAYED):  # else the section says why
            absent.append(part)
    return made, absent


def _score(section: Section, colour: Mapping[str, str]) -> Panel | str:
    rows = [row for row in numbers.rows(section.stood) if row.score is not None and row.policy != CLAIRVOYANT][: plots.MOST]
    if not rows:
        return f"scores: {played.why_unscored(section.stood)}"
    said = ", ".join(f"{row.policy} {row.score:.2f}" for row in rows)
    tile = Tile(
        f"Scores with 95 % intervals: {said}",
        0.75 + 0.24 * len(rows),
        lambda figure: plots.score(figure.subplots(), rows, colour),
    )
    simple = section.stood.policies[rows[0].policy].score.simple
    reading = (
        f"The share of what can be gained over {simple}, the best simple rule here, that each policy gains. "
        f"Whiskers: 95 % bootstrap {section.stood.over.words()}."
    )
    return Panel("score", "Score", reading, [tile], [])


def _gap(section: Section, colour: Mapping[str, str]) -> Panel | str:
    gaps = numbers.gaps(section.stood)[: plots.MOST] if CLAIRVOYANT in section.stood.policies else []
    if not gaps:
        return "the gap to the clairvoyant: there is no run of it, or of nothing else"
    said = ", ".join(f"{one.policy} {one.mean:.3f}" for one in gaps)
    tile = Tile(
        f"Mean reward below the clairvoyant: {said}", 0.75 + 0.24 * len(gaps), lambda figure: plots.gap(figure.subplots(), gaps, colour)
    )
    return Panel(
        "gap",
        "Gap to the clairvoyant",
        "What not knowing the future costs, and what is left to win: the shorter, the better. Lines: 95 % intervals of the paired "
        "difference.",
        [tile],
        [],
    )


def _learning(section: Section, colour: Mapping[str, str]) -> Panel | str:
    curves = numbers.curves(section.trained)
    if not curves:
        return "learning curves: no training with two looks at its validation episodes lies under these folders"
    seeds = ", ".join(f"{one.name} {len(one.reward)}" for one in curves)
    tile = Tile(
        f"Mean reward on validation episodes while learning, seeds: {seeds}",
        2.6,
        lambda figure: plots.learning(figure.subplots(), curves, colour),
    )
    reading = f"Line: the median seed; band: from the worst seed to the best; thin lines: every seed ({seeds}). One seed has no spread."
    return Panel("learning", "Learning", reading, [tile], [])


def _latency(section: Section, colour: Mapping[str, str]) -> Panel | str:
    requests = {name: section.requests[name] for name in numbers.order(section)}
    if not requests:
        return f"latencies: {UNPLAYED}"
    assert section.world is not None, "requests were played in it"
    deadline_s = section.world.judged.objective.deadline_s
    said = ", ".join(f"{name} {100 * numbers.in_time(one):.1f} %" for name, one in requests.items())
    tile = Tile(
        f"Share of requests answered in time: {said}", 2.6, lambda figure: plots.latency(figure.subplots(), requests, colour, deadline_s)
    )
    reading = "How many requests were answered within each latency: the higher where it meets the deadline, the better."
    legend = Legend(
        "in time", [(f"{name} {100 * numbers.in_time(one):.1f} %", colour.get(name, ink.GREY)) for name, one in requests.items()]
    )
    return Panel("latency", "Latency against the deadline", reading, [tile], [legend])


def _knobs(section: Section, condition: str) -> Panel | str:
    names = [name for name in dict.fromkeys((*numbers.order(section)[:1], CLAIRVOYANT, "greedy-ewma")) if name in section.requests]
    title = "Knobs over the uplink's rate" if condition == "rate" else "Knobs over the device's load"
    if not names:
        return f"{title.lower()}: {UNPLAYED}"
    met = {name: section.requests[name].rate_bps / 1e6 if condition == "rate" else section.requests[name].slow_down for name in names}
    at = numbers.edges(next(iter(met.values())))
    if len(at) < 3:
        return f"{title.lower()}: it never changes in this world"
    knobs = colours.knobs(section.requests[names[0]].result.scenario.plans)
    bounds = [f"{edge:.2g}" for edge in at]
    shares = {name: [numbers.usage(section.requests[name], knob.of_plan, met[name], at) for knob in knobs] for name in names}

    def paint(name: str) -> Callable[[FigureBase], None]:
        def painted(figure: FigureBase) -> None:
            axes = figure.subplots(len(knobs), 1, sharex=True)
            for axis, knob, share in zip(axes, knobs, shares[name], strict=True):
                plots.shares(axis, share, knob, bounds)
            axes[0].set_title(name)
            axes[-1].set_xlabel(
                "uplink rate when the request came (Mb/s)" if condition == "rate" else "slow-down of the device when the request came (×)"
            )

        return painted

    tiles = [Tile(f"{name}: {_said(knobs, shares[name], condition)}", 3.5, paint(name)) for name in names]
    legend = [
        Legend(
            knob.name,
            [(knob.labels[i], knob.colours[i]) for i in range(len(knob.labels)) if any(shares[name][k][i].any() for name in names)],
        )
        for k, knob in enumerate(knobs)
    ]
    reading = "Each bar is an equal share of the requests, from the " + (
        "worst link to the best." if condition == "rate" else "idlest device to the busiest."
    )
    return Panel(f"knobs-{condition}", title, reading, tiles, legend, THIRD_IN)


def _said(knobs: list[colours.Knob], shares: list[NDArray[np.float64]], condition: str) -> str:
    """The values most used at either end."""
    ends = []
    for where, words in ((0, "lowest"), (-1, "highest")):
        most = ", ".join(knob.labels[int(share[:, where].argmax())] for knob, share in zip(knobs, shares, strict=True))
        ends.append(f"at the {words} {condition} mostly {most}")
    return "; ".join(ends)


MAP_READING = (
    "Which plan each policy settles on in a world that stays at this rate and this slow-down, with nobody else at the edge. Hue: where "
    "the layers run; shade: the exit, deeper is darker; white lines part plans that differ in bits alone. A region's name: e exit, "
    "p layers on the device, b bits; local: nothing is sent; raw: the input is."
)


def _map(found: Maps | None, section: Section) -> Panel | str:
    if found is None:
        return "the policy map: " + ("it was not asked for" if section.policies else UNPLAYED)
    return map_panel(found)


def map_panel(found: Maps) -> Panel:
    """The maps side by side, with one legend."""
    used, counts = np.unique(np.concatenate([one.ravel() for one in found.chosen.values()]), return_counts=True)
    palette = colours.palette(found.plans, used[np.argsort(-counts, kind="stable")].tolist())

    def paint(name: str) -> Callable[[FigureBase], None]:
        return lambda figure: plots.policy_map(figure.subplots(), found, name, palette)

    tiles = [Tile(_map_said(found, name), 2.6, paint(name)) for name in found.chosen]
    return Panel("policy-map", "Policy map", MAP_READING, tiles, _map_legend(palette), THIRD_IN)


def _map_said(found: Maps, name: str) -> str:
    """The plans that cover most of a map."""
    plans, counts = np.unique(found.chosen[name], return_counts=True)
    order = np.argsort(-counts, kind="stable")[:4]
    said = ", ".join(f"{found.plans.name(int(plans[i]))} on {counts[i] / counts.sum():.0%}" for i in order)
    return f"Policy map of {name}: {said}"


def _map_legend(palette: Palette) -> list[Legend]:
    return [Legend(name, [(f"e{e}", colour) for e, colour in zip(palette.exits, row, strict=True)]) for name, row in palette.legend]


def survey(section: Section, grid: Grid, report: Callable[[float], None]) -> Maps | None:
    """Maps of the best learner, who knows the future, the greedy rule and the best rule, as far as they can be played."""
    names = [
        name for name in (*numbers.order(section)[:1], CLAIRVOYANT, "greedy-ewma", *numbers.order(section)) if name in section.policies
    ]
    wanted = list(dict.fromkeys(names))[:3]
    if not wanted or section.world is None:
        return None
    scenario = section.world.judged
    return maps.survey(
        scenario, {name: maps.clairvoyant(scenario) if name == CLAIRVOYANT else section.policies[name] for name in wanted}, grid, report
    )


def figure(panel: Panel) -> Figure:
    """The whole panel as one figure: its tiles side by side, its legend below."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    entries = [
        (f"{row.name}, {label}" if panel.name == "policy-map" else label, colour)
        for row in panel.legend
        for label, colour in row.entries
        if colour
    ]
    lines = -(-len(entries) // 4)
    whole = Figure(figsize=(panel.width_in * len(panel.tiles), max(tile.height_in for tile in panel.tiles) + 0.17 * lines))
    parts = whole.subfigures(1, len(panel.tiles), squeeze=False)[0]
    for part, tile in zip(parts, panel.tiles, strict=True):
        tile.paint(part)
    if entries:
        handles = [Patch(color=colour, label=label) for label, colour in entries]
        whole.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=7)
    return whole


def save_png(panel: Panel, file: Path) -> None:
    """The whole panel as a picture on white, for a page that takes no SVG."""
    import matplotlib as mpl

    with mpl.rc_context(ink.settings(panel.name, "path")):
        file.parent.mkdir(parents=True, exist_ok=True)
        figure(panel).savefig(file, format="png", dpi=120, facecolor="white")


def inline(panel: Panel, prefix: str) -> list[ink.Drawing]:
    """Each tile as SVG for a page."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    drawn = []
    for i, tile in enumerate(panel.tiles):
        name = f"{prefix}-{panel.name}-{i}"
        with mpl.rc_context(ink.settings(name, "none")):
            alone = Figure(figsize=(panel.width_in, tile.height_in))
            tile.paint(alone)
            drawn.append(ink.inline(alone, name, tile.alt))
    return drawn

"""One colour for a policy in every figure, and one for a plan in every map.

A plan's hue says where its layers run, its shade which exit answers: the darker, the deeper. Bits have no colour; a region's name has them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cutlayer.agents.report import ink
from cutlayer.profiles.rows import AFFINE

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from cutlayer.profiles.plans import PlanTable

FIXED = {"clairvoyant": ink.INK, "greedy-ewma": ink.ORANGE, "greedy-last": ink.ORANGE, "best-static": ink.GREY}
LEARNED = (ink.BLUE, ink.GREEN, ink.SKY, ink.PURPLE)
RULE = (ink.VERMILLION, ink.PURPLE, ink.SKY)

_LOCAL, _RAW, _CODED = (0x00, 0x72, 0xB2), (0x00, 0x9E, 0x73), (0x56, 0xB4, 0xE9)  # Okabe and Ito's blue, bluish green, sky blue
_CUTS = ((0xE6, 0x9F, 0x00), (0xCC, 0x79, 0xA7), (0xD5, 0x5E, 0x00))  # their orange, reddish purple, vermillion: the most used cuts
_OTHER = (0x80, 0x80, 0x80)
LIGHTEST, DARKEST = 0.78, 0.4  # our choice: how far the first exit's shade goes to white, the last one's to black


def of_policies(learned: Sequence[str], rules: Sequence[str]) -> dict[str, str]:
    """A colour for each: best first, so that the best keep theirs; what there is no colour for is grey."""
    found = dict(FIXED)
    for names, ramp in ((learned, LEARNED), (rules, RULE)):
        free = list(ramp)
        for name in names:
            if name not in found:
                found[name] = free.pop(0) if free else ink.GREY
    return found


@dataclass(frozen=True, slots=True)
class Place:
    """Where a plan's layers run: its name in the legend, and a key that orders places from the device to the edge."""

    order: tuple[int, int]
    name: str


def place(plans: PlanTable, plan: int) -> Place:
    """The place of a plan."""
    row = plans.rows[plan]
    if row.bits == 0:
        return Place((0, 0), "all on the device")
    if row.partition == 0:
        return Place((2, int(row.codec != AFFINE)), "input sent raw" if row.codec == AFFINE else f"input sent as {row.codec}")
    return Place((1, -row.partition), f"cut after layer {row.partition}")


@dataclass(frozen=True, slots=True)
class Palette:
    """Colours of plans, as #rrggbb, and the legend: places, and for each the colour of every exit."""

    of_plan: dict[int, str]
    legend: list[tuple[str, list[str | None]]]
    exits: list[int]


def palette(plans: PlanTable, used: Iterable[int]) -> Palette:
    """Colours for the plans that are used, in order of use, most used first."""
    order = list(dict.fromkeys(used))
    places = list(dict.fromkeys(place(plans, plan) for plan in order))
    cuts = [one for one in places if one.order[0] == 1]
    hues = {one: _LOCAL if one.order[0] == 0 else _RAW if one.order == (2, 0) else _CODED for one in places if one.order[0] != 1}
    hues |= {one: _CUTS[i] if i < len(_CUTS) else _OTHER for i, one in enumerate(cuts)}
    last = len(plans.depths) - 1
    of_plan = {plan: shade(hues[place(plans, plan)], int(plans.exit[plan]) / max(1, last)) for plan in order}
    exits = list(range(last + 1))
    met = {(place(plans, plan), int(plans.exit[plan])): of_plan[plan] for plan in order}
    legend = [(one.name, [met.get((one, exit_)) for exit_ in exits]) for one in sorted(places, key=lambda one: one.order)]
    return Palette(of_plan, legend, exits)


@dataclass(frozen=True, slots=True)
class Knob:
    """A knob's values in the order of the stack, each with its words and colour; of_plan (plans,) has the place of each plan's value."""

    name: str
    labels: list[str]
    colours: list[str]
    of_plan: NDArray[np.int64]


def knobs(plans: PlanTable) -> list[Knob]:
    """Exit, partition and bits: the same hues as the map's, whose shades are the exits'."""
    last = max(1, len(plans.depths) - 1)
    exits = list(range(len(plans.depths)))
    places = sorted({place(plans, plan) for plan in range(len(plans))}, key=lambda one: one.order)
    cuts = [one for one in places if one.order[0] == 1]
    hues = {one: _LOCAL if one.order[0] == 0 else _RAW if one.order == (2, 0) else _CODED for one in places if one.order[0] != 1}
    named = {one: shade(_CUTS[0], 0.9 - 0.6 * i / max(1, len(cuts) - 1)) for i, one in enumerate(cuts)} | {
        one: shade(hue, 0.5) for one, hue in hues.items()
    }
    bits = sorted({int(value) for value in plans.bits})
    sent = [value for value in bits if value]
    of_bits = {value: shade(_CUTS[1], i / max(1, len(sent) - 1)) for i, value in enumerate(sent)} | {0: "#b9bdc4"}
    return [
        Knob("exit", [f"exit {e}" for e in exits], [shade(_LOCAL, e / last) for e in exits], np.asarray(plans.exit)),
        Knob(
            "partition",
            [one.name for one in places],
            [named[one] for one in places],
            np.array([places.index(place(plans, plan)) for plan in range(len(plans))]),
        ),
        Knob(
            "bits",
            [f"{value} bits" if value else "nothing sent" for value in bits],
            [of_bits[value] for value in bits],
            np.searchsorted(bits, plans.bits),
        ),
    ]


def shade(hue: tuple[int, int, int], depth: float) -> str:
    """The hue from pale (depth 0) over itself (half way) to dark (depth 1)."""
    if depth <= 0.5:
        mixed = [c + (255 - c) * LIGHTEST * (1 - 2 * depth) for c in hue]
    else:
        mixed = [c * (1 - DARKEST * (2 * depth - 1)) for c in hue]
    red, green, blue = (round(c) for c in mixed)
    colour = f"#{red:02x}{green:02x}{blue:02x}"
    # A stand-in would follow the page's colours, and leave its ramp.
    return f"#{red:02x}{green:02x}{blue ^ 1:02x}" if ink.variable(colour) != colour else colour


def legible_on(colour: str) -> str:
    """Black or white, whichever stands out more on #rrggbb (relative luminance of WCAG 2, where both have equal contrast: 0.179)."""
    linear = [(v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4) for v in (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#111111" if luminance > 0.179 else "#ffffff"

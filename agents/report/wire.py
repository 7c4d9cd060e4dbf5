"""What a test bed's folder says: measured and simulated side by side, with the same policies, requests and link in both worlds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cutlayer.agents.evaluate import FEWEST_MISSES
from cutlayer.agents.report import colours, played, plots_wire
from cutlayer.agents.report.beds import WORLDS
from cutlayer.agents.report.panels import THIRD_IN, Legend, Panel, Tile
from cutlayer.agents.report.part import Part
from cutlayer.agents.report.tables import Table, missed
from cutlayer.profiles.stats import wilson

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from matplotlib.figure import FigureBase
    from numpy.typing import NDArray

    from cutlayer.agents.report.beds import Bed, Figures, Told
    from cutlayer.agents.report.colours import Knob

CLOSE = 0.10  # our choice: what a simulated mean latency may be off by, the bound that this project holds itself to
READING = (
    "Two lines for each policy, best first by measured reward: what was measured, and below it what the simulator says of the same "
    "requests, link and slow-downs. Accuracy is the table's in both, of the exit that answered; on images: the share of real answers "
    "that were right."
)
HEAD = (
    ("policy", ""), ("world", ""), ("mean", "ms"), ("p50", "ms"), ("p95", "ms"), ("p99", "ms"), ("missed", "%, 95 %"),
    ("accuracy", "%"), ("on images", "%, 95 %"), ("reward", "mean"),
)  # fmt: skip

EMULATIONS = {
    "pad": "device work padded to the profiled time",
    "quota": "the device slowed by a processor quota, which is jittery",
    "none": "the device as fast as this machine is",
}


@dataclass(frozen=True, slots=True)
class Row:
    """A policy in one world; SI units. miss_rate is None where so few misses tell no rate, right without labelled images.

    late: device work that overran what it was padded to; resets: connections given up to free the link; None in the simulator.
    """

    policy: str
    world: str
    requests: int
    latency_mean_s: float
    latency_p50_s: float
    latency_p95_s: float
    latency_p99_s: float
    miss_rate: float | None
    miss_low: float
    miss_high: float
    accuracy: float
    right: float | None
    right_low: float | None
    right_high: float | None
    reward_mean: float
    energy_j: float
    late: int | None
    resets: int | None


def parts(beds: Sequence[Bed]) -> list[Part]:
    """A part for each folder, each with a name of its own."""
    titles = [f"{bed.told.scenario} on the wire" for bed in beds]
    titles = [title if titles.count(title) == 1 else f"{title}, {bed.folder.name}" for title, bed in zip(titles, beds, strict=True)]
    numbered = [title if titles.count(title) == 1 else f"{title} {titles[:i].count(title) + 1}" for i, title in enumerate(titles)]
    return [_part(bed, title) for bed, title in zip(beds, numbered, strict=True)]


def _part(bed: Bed, name: str) -> Part:
    told, found = bed.told, rows(bed.told)
    table = Table(HEAD, found, [_cells(row) for row in found], [row.world for row in found])
    panels = [_latency(bed), _reward(told), _plans(bed)]
    return Part(name, headline(told), _about(told), READING, table, panels, _absent(told), _sources(told))


def rows(told: Told) -> list[Row]:
    """The table: of each policy what was measured, then what was simulated."""
    return [_row(told, label, world) for label in told.ranking_measured for world in WORLDS]


def _row(told: Told, label: str, world: str) -> Row:
    both = told.policies[label]
    one, real = both.of(world), world == "measured"
    right_low, right_high = _right(one)
    return Row(
        label,
        world,
        one.requests,
        one.latency_mean_s,
        one.latency_p50_s,
        one.latency_p95_s,
        one.latency_p99_s,
        one.miss_rate if one.misses >= FEWEST_MISSES else None,
        one.miss_ci95[0],
        one.miss_ci95[1],
        one.accuracy,
        one.accuracy_of_images,
        right_low,
        right_high,
        one.reward_mean,
        one.energy_j,
        both.late if real else None,
        both.resets if real else None,
    )


def _right(one: Figures) -> tuple[float, float] | tuple[None, None]:
    share = one.accuracy_of_images
    return (None, None) if share is None else wilson(round(share * one.requests), one.requests)


def _cells(row: Row) -> list[str]:
    latency = [row.latency_mean_s, row.latency_p50_s, row.latency_p95_s, row.latency_p99_s]
    right = "–"
    if row.right is not None and row.right_low is not None and row.right_high is not None:
        right = f"{100 * row.right:.1f} [{100 * row.right_low:.1f}, {100 * row.right_high:.1f}]"
    return [
        row.policy, row.world, *(f"{1e3 * value:.1f}" for value in latency), missed(row.miss_rate, row.miss_low, row.miss_high),
        f"{100 * row.accuracy:.1f}", right, f"{row.reward_mean:.4f}".replace("-", "−"),
    ]  # fmt: skip


def headline(told: Told) -> str:
    """Whether the simulator tells what the wire does, in a sentence or two."""
    if not told.quiet:
        return f"The machine was busy with other work while {_listed(told.busy)} ran: nothing here judges the simulator."
    label, worst = max(((label, one.latency_error) for label, one in told.policies.items()), key=lambda one: abs(one[1]))
    off, most = f"{_percent(worst)} for {label}", "at most " if len(told.policies) > 1 else ""
    if abs(worst) <= CLOSE:
        said = f"The simulator's mean latency is within {100 * CLOSE:g} % of the measured one ({most}{off})"
    else:
        said = f"The simulator's mean latency is off by {off}, more than the {100 * CLOSE:g} % that it may be"
    if len(told.policies) == 1:
        return f"{said}."
    if told.same_ranking:
        return f"{said}; both worlds rank the {len(told.policies)} policies alike, {told.ranking_measured[0]} first."
    ranked = [" > ".join(order) for order in (told.ranking_measured, told.ranking_simulated)]
    return f"{said}; the rankings differ: measured {ranked[0]}, simulated {ranked[1]}."


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _percent(share: float) -> str:
    return f"{round(100 * share, 1) + 0.0:+.1f} %".replace("-", "−")  # + 0.0: nothing is no less than nothing


def _about(told: Told) -> str:
    late, done = sum(one.late for one in told.policies.values()), sum(one.measured.requests for one in told.policies.values())
    said = [f"{told.requests} requests over {told.backend}", f"link {told.inputs or 'generated'}", f"images {told.images}"]
    said.append(EMULATIONS[told.emulation] + (f" ({late} of {done} overran it)" if told.emulation == "pad" else ""))
    return f"{', '.join(said)}; energy is modelled in both worlds."


def _absent(told: Told) -> list[str]:
    if told.deadline_s is not None:
        return []
    return ["the line of the deadline: requests have their own, or an older version ran them (the same command again writes it down)"]


def _sources(told: Told) -> list[dict[str, Any]]:
    """What ran the policies: a folder may have been gone on with, by a later commit too."""
    last: dict[str, Any] = {name: getattr(told, name) for name in ("version", "commit", "command", "date", "machine")}
    calls: dict[tuple[str, ...], list[str]] = {}
    for one in told.policies.values():
        made = one.made or last
        machine = f"{made['machine'].get('cpu', 'unknown')}, {made['date']}"
        calls.setdefault((made["version"], made["commit"], machine), []).append(made["command"])
    what = f"policies played over {told.backend} and in the simulator"
    return [
        {
            "runs": len(commands),
            "what": what,
            "version": version,
            "commit": commit,
            "machine": machine,
            "commands": list(dict.fromkeys(commands)),
        }
        for (version, commit, machine), commands in calls.items()
    ]


# --- panels


def _colours(told: Told) -> Mapping[str, str]:
    learned = [label for label in told.ranking_measured if played.kind_of(label) == "learner"]
    return colours.of_policies(learned, [label for label in told.ranking_measured if label not in learned])


def _latency(bed: Bed) -> Panel:
    told, hues = bed.told, _colours(bed.told)
    everything = np.concatenate([one.latency_s for worlds in bed.requests.values() for one in worlds.values()])
    span = plots_wire.span(everything, told.deadline_s)

    def tile(label: str) -> Tile:
        worlds, error = bed.requests[label], _percent(told.policies[label].latency_error)

        def paint(figure: FigureBase) -> None:
            axis = figure.subplots()
            plots_wire.latencies(axis, worlds["measured"].latency_s, worlds["simulated"].latency_s, hues[label], told.deadline_s)
            axis.set_xlim(*span)
            axis.set_title(f"{label}: simulated mean {error}")

        mean = [f"{1e3 * told.policies[label].of(world).latency_mean_s:.1f} ms {world}" for world in WORLDS]
        return Tile(f"Latency of {label}: mean {' and '.join(mean)}", 2.2, paint)

    reading = "The share of requests answered within each latency. Solid: measured; dashed: simulated. Where they part, the simulator errs."
    return Panel("wire-latency", "Latency measured and simulated", reading, [tile(label) for label in told.ranking_measured], [], THIRD_IN)


def _reward(told: Told) -> Panel:
    ends = {
        label: (told.policies[label].measured.reward_mean, told.policies[label].simulated.reward_mean) for label in told.ranking_measured
    }
    said = ", ".join(f"{label} {measured:.3f} and {simulated:.3f}" for label, (measured, simulated) in ends.items())
    tile = Tile(
        f"Mean reward measured and simulated: {said}",
        0.75 + 0.28 * len(ends),
        lambda figure: plots_wire.rewards(figure.subplots(), ends, _colours(told)),
    )
    reading = (
        "Mean reward of each policy. Dot: measured; ring: simulated. Order is what a simulator is asked for: rings should fall as dots do."
    )
    return Panel("wire-reward", "Reward measured and simulated", reading, [tile], [])


def _plans(bed: Bed) -> Panel:
    knobs = colours.knobs(bed.plans)
    labels = bed.told.ranking_measured
    shares = {knob.name: _shares(bed, labels, knob) for knob in knobs}

    def paint(knob: Knob) -> Callable[[FigureBase], None]:
        return lambda figure: plots_wire.shares(figure.subplots(), shares[knob.name], knob, labels)

    tiles = [Tile(_most(knob, shares[knob.name], labels), 0.7 + 0.34 * len(labels), paint(knob)) for knob in knobs]
    legend = [
        Legend(knob.name, [(knob.labels[i], knob.colours[i]) for i in range(len(knob.labels)) if shares[knob.name][:, :, i].any()])
        for knob in knobs
    ]
    reading = "How often each exit, partition point and bit width was chosen. Thick: measured; thin: simulated."
    return Panel("wire-plans", "Plans chosen", reading, tiles, legend, THIRD_IN)


def _shares(bed: Bed, labels: Sequence[str], knob: Knob) -> NDArray[np.float64]:
    """Share of each of the knob's values, (policies, worlds, values)."""
    values = len(knob.labels)
    found = [[np.bincount(knob.of_plan[bed.requests[label][world].plans], minlength=values) for world in WORLDS] for label in labels]
    counts = np.array(found, float)
    share: NDArray[np.float64] = counts / counts.sum(axis=2, keepdims=True)
    return share


def _most(knob: Knob, shares: NDArray[np.float64], labels: Sequence[str]) -> str:
    """In words: the value of the knob that each policy used most, and how often, in both worlds."""
    said = []
    for label, (measured, simulated) in zip(labels, shares, strict=True):
        most = int(measured.argmax())
        said.append(f"{label} {knob.labels[most]} {measured[most]:.0%} measured, {simulated[most]:.0%} simulated")
    return f"{knob.name}: {'; '.join(said)}"

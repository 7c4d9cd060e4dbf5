"""Which knob values are ever optimal, and what all knobs together gain over the best two: the knob report of a plan table.

The question is put for one request that meets an idle device and an idle link, so that the answer is about the table and
not about a queue. Every state of a grid has one optimal plan; ties go to fewer bytes, then to less device energy.

    rate        0.1 to 500 Mb/s, evenly in the logarithm
    slow-down   of the device, 1 to 8, evenly in the logarithm
    edge load   0 to 0.8 (`edge_wait_s`, `edge_slow_down`)

A value counts as optimal if it is so on at least 1 % of the grid. Of a partition the values are `input` (sent as it is),
1, 2, ... (trunk layers on the device: an interior cut) and `local` (nothing sent); of bits they are the width of the
tensor at an interior cut, and of the codec its name there, else `raw`, `jpeg` or `none`. `optimal_bits` counts widths
alone, `optimal_codecs` those of tensors, `optimal_partitions` all.

To judge what all knobs gain over the best two, bits and codec are one, the coding: a bottleneck has its own width. What it
takes to change from one plan to the next, such as to swap a bottleneck in, is no part of this static report.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import msgspec
import numpy as np

from cutlayer.profiles.cost import Estimate, Path, deadline, expected_energy_j, expected_latency_s
from cutlayer.profiles.rows import AFFINE, codec_order, coding

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cutlayer.profiles.cost import Objective
    from cutlayer.profiles.plans import PlanTable
    from cutlayer.profiles.rows import PlanRow

KNOBS = ("exit", "partition", "bits", "codec")
COUNTS_FROM = 0.01  # share of the sweep from which a value counts as optimal: the project's bar for its own tables
TIE = 1e-12  # of reward, as in runtime.rules.Greedy
# Of 5,000 images, on which the built-in tables are measured: with d more wrong answers among b + c changed ones, McNemar's
# statistic d * d / (b + c) is at most d, so that fewer than 3.84 (chi-squared, 5 %) never tell two plans apart.
RESOLUTION = 3.84 / 5000
# Our choice: the edge on the network of the device's own access point. Cellular networks have 15 to 21 ms to a near server
# (Narayanan et al., SIGCOMM 2021); the report shows what is left at 20 ms.
PATH = Path(rtt_s=0.005)
EDGE_JOB_S = 0.005  # mean service of the edge's other requests: those of the scenario camera


def edge_wait_s(load: float) -> float:
    """Mean wait for the edge where other requests keep it busy for this share: M/M/1, first come first served."""
    return load / (1.0 - load) * EDGE_JOB_S


def edge_slow_down(load: float) -> float:
    """Stretch of the edge's own work where a program outside its queue wants the core for this share and gets half of it then."""
    return 1.0 / (1.0 - 0.5 * load)


@dataclass(frozen=True, slots=True)
class Sweep:
    """The grid of states: uplink rates in bit/s, slow-downs of the device, loads of the edge from 0 to under 1."""

    rates_bps: tuple[float, ...] = tuple(np.geomspace(0.1e6, 500e6, 112).tolist())  # 30 a decade
    slow_downs: tuple[float, ...] = tuple(np.geomspace(1.0, 8.0, 30).tolist())  # our choice: alone, to one of eight equal programs
    edge_loads: tuple[float, ...] = (0.0, 0.2, 0.4, 0.6, 0.8)

    def rewards(self, plans: PlanTable, path: Path, objective: Objective) -> NDArray[np.float64]:
        """Reward of every plan in every state; shape (loads, slow-downs, rates, plans)."""
        waits, stretches = [edge_wait_s(load) for load in self.edge_loads], [edge_slow_down(load) for load in self.edge_loads]
        wait, slow, rates = (axis[..., None] for axis in np.meshgrid(waits, self.slow_downs, self.rates_bps, indexing="ij"))
        # A slower edge is an edge that is awaited for longer, by a share of this plan's own work.
        wait_s = wait + (np.array(stretches)[:, None, None, None] - 1.0) * (plans.decode_s + plans.edge_s)
        # The formulas broadcast; they are annotated for one state.
        now = Estimate(cast("float", rates), slow_down=cast("float", slow), edge_wait_s=cast("float", wait_s))
        latency_s, energy_j = expected_latency_s(plans, path, now), expected_energy_j(plans, path, now.rate_bps)
        return objective.reward(latency_s, np.broadcast_to(plans.accuracy, latency_s.shape), np.broadcast_to(energy_j, latency_s.shape))


SWEEP = Sweep()


def standard(plans: PlanTable, sweep: Sweep = SWEEP) -> Objective:
    """Accuracy if in time: the deadline is what the device alone needs for the last exit in the middle of its slow-downs.

    So half of the sweep leaves the device time for everything it can do and half does not, for a fast and for a slow
    network alike; with a fixed deadline the answer would be about the deadline.
    """
    middle = math.sqrt(min(sweep.slow_downs) * max(sweep.slow_downs))
    return deadline(float(plans.device_s[plans.device_only()]) * middle)


def settled(plans: PlanTable, resolution: float = RESOLUTION) -> PlanTable:
    """The table without lucky accuracies: what is coded is right at most as often as what is not.

    A coded tensor holds nothing that the exact one lacks, so a higher count is chance, and so is a deficit under
    `resolution`; an objective that looks at accuracy first would make a rule of it. A trained bottleneck could know better
    than the network behind it; it is given no credit for that.
    """
    exact = {row.exit: row.accuracy for row in plans.rows if row.bits == 0}

    def level(accuracy: float, exit_: int) -> float:
        return exact[exit_] if exit_ in exact and accuracy > exact[exit_] - resolution else accuracy

    return replace(plans, rows=tuple(msgspec.structs.replace(row, accuracy=level(row.accuracy, row.exit)) for row in plans.rows))


def values(plans: PlanTable) -> dict[str, list[str]]:
    """The value of each knob in each plan, by name (see the head of this file)."""

    def sent(row: PlanRow, tensor: str) -> str:
        return tensor if coding(row) else "none" if row.bits == 0 else "raw" if row.codec == AFFINE else row.codec

    return {
        "exit": [str(row.exit) for row in plans.rows],
        "partition": [("input" if row.partition == 0 else str(row.partition)) if row.bits else "local" for row in plans.rows],
        "bits": [sent(row, str(row.bits)) for row in plans.rows],
        "codec": [sent(row, row.codec) for row in plans.rows],
    }


def offered(plans: PlanTable) -> dict[str, list[str]]:
    """The values a table offers for each knob, in order: what is sent whole, numbers and codecs, what stays."""
    first, last = ("input", "raw", "jpeg"), ("local", "none")
    codecs = [codec for codec, _ in tensor_codecs(plans)]

    def order(name: str) -> tuple[int, int]:
        if name in first or name in last:
            return (0, first.index(name)) if name in first else (2, 0)
        return 1, codecs.index(name) if name in codecs else int(name)

    return {knob: sorted(set(names), key=order) for knob, names in values(plans).items()}


def tensor_codecs(plans: PlanTable) -> list[tuple[str, int]]:
    """(codec, channels) of every way to send a tensor, in the table's order of codecs; channels 0: all of them."""
    found = {(row.codec, row.channels): codec_order(row.codec, trained=bool(row.unit)) for row in plans.rows if coding(row)}
    return sorted(found, key=lambda way: (found[way], way))


def optimal(plans: PlanTable, rewards: NDArray[np.float64]) -> NDArray[np.int64]:
    """Index of the best plan along the last axis; ties go to fewer bytes, then to less device energy, then to the first."""
    order = np.lexsort((plans.device_j, plans.wire_bytes))
    best = rewards >= rewards.max(axis=-1, keepdims=True) - TIE
    return cast("NDArray[np.int64]", order[best[..., order].argmax(axis=-1)])


@dataclass(frozen=True)
class Pair:
    """Two knobs free, the third frozen at `value`, the constant that is best for it over the sweep; mean reward, gain of freeing it.

    The coding is called `bits` where a table has one codec of tensors.
    """

    frozen: str
    value: str
    reward: float
    gain: float


@dataclass(frozen=True, eq=False)
class Report:
    """What the sweep finds. `plans` is the table it judged, with settled accuracies; arrays have shape (loads, slow-downs, rates)."""

    name: str
    plans: PlanTable
    path: Path
    objective: Objective
    sweep: Sweep
    chosen: NDArray[np.int64]
    pairs: tuple[Pair, ...]
    reward: float  # mean, all knobs
    gains: NDArray[np.float64]  # over the best pair, in each state
    interior_gain: float  # mean over the sweep, over the same table without interior cuts
    codec: str  # the one codec of tensors that does best alone; empty without interior cuts
    codec_gain: float  # mean over the sweep, over the same table with that codec alone

    @cached_property
    def share(self) -> dict[str, dict[str, float]]:
        """Share of the sweep on which each value of each knob is optimal; sums to 1 for each knob."""
        return {
            knob: {value: float(self._of_plan[np.array(names) == value].sum()) for value in self.offered[knob]}
            for knob, names in values(self.plans).items()
        }

    @cached_property
    def _of_plan(self) -> NDArray[np.float64]:
        return np.bincount(self.chosen.ravel(), minlength=len(self.plans)) / self.chosen.size

    @property
    def codecs(self) -> list[dict[str, Any]]:
        """Share of each (codec, channels) of a tensor; channels null where all of them are sent."""
        ways = [(row.codec, row.channels) if coding(row) else None for row in self.plans.rows]
        return [
            {
                "codec": codec,
                "channels": channels or None,
                "share": float(sum(share for way, share in zip(ways, self._of_plan, strict=True) if way == (codec, channels))),
            }
            for codec, channels in tensor_codecs(self.plans)
        ]

    @property
    def bottleneck(self) -> float:
        """Share of the sweep on which some trained bottleneck is optimal."""
        return float(self._of_plan[self.plans.unit > 0].sum())

    @cached_property
    def offered(self) -> dict[str, list[str]]:
        """See `offered`."""
        return offered(self.plans)

    @property
    def interior(self) -> float:
        """Share of the sweep on which some interior cut is optimal."""
        return sum(share for value, share in self.share["partition"].items() if value.isdigit())

    @property
    def never(self) -> dict[str, list[str]]:
        """Values that the table offers and that are optimal nowhere on the sweep."""
        return {knob: [value for value, share in shares.items() if share == 0.0] for knob, shares in self.share.items()}

    def counts(self) -> dict[str, int]:
        """How many values are optimal on at least 1 % of the sweep."""
        counted = {knob: [value for value, share in shares.items() if share >= COUNTS_FROM] for knob, shares in self.share.items()}
        return {
            "optimal_exits": len(counted["exit"]),
            "optimal_partitions": len(counted["partition"]),
            "optimal_interior_partitions": sum(value.isdigit() for value in counted["partition"]),
            "optimal_bits": sum(value.isdigit() for value in counted["bits"]),
            "optimal_codecs": sum(value in dict(tensor_codecs(self.plans)) for value in counted["codec"]),
        }

    def where(self) -> dict[str, dict[str, dict[str, Any]]]:
        """For each value that is optimal somewhere: its share, and the range of each axis in which it is."""
        axes = {"edge_load": self.sweep.edge_loads, "slow_down": self.sweep.slow_downs, "rate_bps": self.sweep.rates_bps}
        found: dict[str, dict[str, dict[str, Any]]] = {}
        for knob, names in values(self.plans).items():
            here = np.array(names)[self.chosen]
            found[knob] = {}
            for value, share in self.share[knob].items():
                at = np.nonzero(here == value)
                if share > 0.0:
                    ranges = {axis: [float(grid[i.min()]), float(grid[i.max()])] for (axis, grid), i in zip(axes.items(), at, strict=True)}
                    found[knob][value] = {"share": share, **ranges}
        return found

    @property
    def best_pair(self) -> Pair:
        """The two knobs that do best without the third."""
        return max(self.pairs, key=lambda pair: pair.reward)

    def largest_gain(self) -> dict[str, Any]:
        """The state in which all knobs gain most over the best pair, and the plan they choose there."""
        load, slow, rate = np.unravel_index(int(self.gains.argmax()), self.gains.shape)
        return {
            "gain": float(self.gains[load, slow, rate]),
            "rate_bps": self.sweep.rates_bps[rate],
            "slow_down": self.sweep.slow_downs[slow],
            "edge_load": self.sweep.edge_loads[load],
            "plan": self.plans.name(int(self.chosen[load, slow, rate])),
        }


def report(
    plans: PlanTable,
    path: Path = PATH,
    objective: Objective | None = None,
    sweep: Sweep = SWEEP,
    *,
    name: str = "",
    resolution: float | None = RESOLUTION,
) -> Report:
    """Judge a plan table; `objective` is `standard` if none is given, `resolution=None` leaves its accuracies as they are."""
    table = plans if resolution is None else settled(plans, resolution)
    goal = standard(plans, sweep) if objective is None else objective
    rewards = sweep.rewards(table, path, goal)
    chosen, best = optimal(table, rewards), rewards.max(axis=-1)
    by_knob, codings = values(table), [coding(row) for row in table.rows]
    frozen = {"exit": by_knob["exit"], "partition": by_knob["partition"]}
    if one_codec(table):
        frozen["bits"] = [value if value.isdigit() else "" for value in by_knob["bits"]]
    else:
        frozen["coding"] = codings
    pairs: list[Pair] = []
    of_best_pair, best_pair = best, -math.inf
    for knob, names in frozen.items():
        value, kept = _frozen(rewards, names)
        if not value:
            continue  # no interior cut: there is no coding to freeze
        pairs.append(Pair(knob, value, float(kept.mean()), float((best - kept).mean())))
        if pairs[-1].reward > best_pair:
            of_best_pair, best_pair = kept, pairs[-1].reward
    uncut = rewards[..., np.array(codings) == ""].max(axis=-1)
    codec, alone = _frozen(rewards, [row.codec if coding(row) else "" for row in table.rows])
    return Report(
        name=name, plans=table, path=path, objective=goal, sweep=sweep, chosen=chosen, pairs=tuple(pairs),
        reward=float(best.mean()), gains=best - of_best_pair, interior_gain=float((best - uncut).mean()),
        codec=codec, codec_gain=float((best - alone).mean()) if codec else 0.0,
    )  # fmt: skip


def one_codec(plans: PlanTable) -> bool:
    """There is at most one way to code a tensor, but for its width."""
    return len(tensor_codecs(plans)) <= 1


def _frozen(rewards: NDArray[np.float64], names: list[str]) -> tuple[str, NDArray[np.float64]]:
    """The constant that does best over the sweep, and what is then the best reward of each state.

    Plans without a name stay free: what is sent whole, or not at all, has no coding to choose. Without any name the
    constant is empty.
    """
    free = np.array(names) == ""
    kept = {value: rewards[..., free | (np.array(names) == value)].max(axis=-1) for value in dict.fromkeys(names) if value}
    value = max(kept, key=lambda value: float(kept[value].mean()), default="")
    return value, kept[value] if value else rewards.max(axis=-1)

"""Which knob values are ever optimal, and what all knobs together gain over the best two: the knob report of a plan table.

The question is put for one request that meets an idle device and an idle link, so that the answer is about the table and
not about a queue. Every state of a grid has one optimal plan; ties go to fewer bytes, then to less device energy.

    rate        0.1 to 500 Mb/s, evenly in the logarithm
    slow-down   of the device, 1 to 8, evenly in the logarithm
    edge load   0 to 0.8 (`edge_wait_s`, `edge_slow_down`)

A value counts as optimal if it is so on at least 1 % of the grid. Of a partition the values are `input` (sent as it is),
1, 2, ... (trunk layers on the device: an interior cut) and `local` (nothing sent); of bits they are the width of the
tensor at an interior cut, else `raw`, `jpeg` or `none`. `optimal_bits` counts widths alone, `optimal_partitions` all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import msgspec
import numpy as np

from cutlayer.profiles.cost import Estimate, Path, deadline, expected_energy_j, expected_latency_s

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cutlayer.profiles.cost import Objective
    from cutlayer.profiles.plans import PlanTable

KNOBS = ("exit", "partition", "bits")
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
    `resolution`; an objective that looks at accuracy first would make a rule of it.
    """
    exact = {row.exit: row.accuracy for row in plans.rows if row.bits == 0}

    def level(accuracy: float, exit_: int) -> float:
        return exact[exit_] if exit_ in exact and accuracy > exact[exit_] - resolution else accuracy

    return replace(plans, rows=tuple(msgspec.structs.replace(row, accuracy=level(row.accuracy, row.exit)) for row in plans.rows))


def values(plans: PlanTable) -> dict[str, list[str]]:
    """The value of each knob in each plan, by name (see the head of this file)."""
    partition = [("input" if row.partition == 0 else str(row.partition)) if row.bits else "local" for row in plans.rows]
    sent = [("jpeg" if row.codec == "jpeg" else "raw") if row.partition == 0 else str(row.bits) for row in plans.rows]
    return {
        "exit": [str(row.exit) for row in plans.rows],
        "partition": partition,
        "bits": [name if row.bits else "none" for name, row in zip(sent, plans.rows, strict=True)],
    }


def offered(plans: PlanTable) -> dict[str, list[str]]:
    """The values a table offers for each knob, in order: what is sent whole, numbers, what stays."""
    first, last = ("input", "raw", "jpeg"), ("local", "none")

    def order(name: str) -> tuple[int, int]:
        return (0, first.index(name)) if name in first else (2, 0) if name in last else (1, int(name))

    return {knob: sorted(set(names), key=order) for knob, names in values(plans).items()}


def optimal(plans: PlanTable, rewards: NDArray[np.float64]) -> NDArray[np.int64]:
    """Index of the best plan along the last axis; ties go to fewer bytes, then to less device energy, then to the first."""
    order = np.lexsort((plans.device_j, plans.wire_bytes))
    best = rewards >= rewards.max(axis=-1, keepdims=True) - TIE
    return cast("NDArray[np.int64]", order[best[..., order].argmax(axis=-1)])


@dataclass(frozen=True)
class Pair:
    """Two knobs free, the third frozen at `value`, the constant that is best for it over the sweep; mean reward, gain of freeing it."""

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

    @cached_property
    def share(self) -> dict[str, dict[str, float]]:
        """Share of the sweep on which each value of each knob is optimal; sums to 1 for each knob."""
        of_plan = np.bincount(self.chosen.ravel(), minlength=len(self.plans)) / self.chosen.size
        return {
            knob: {value: float(of_plan[np.array(names) == value].sum()) for value in self.offered[knob]}
            for knob, names in values(self.plans).items()
        }

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
    interior = np.array([value.isdigit() for value in values(table)["partition"]])
    pairs: list[Pair] = []
    of_best_pair, best_pair = best, -math.inf
    for knob, names in values(table).items():
        # Frozen bits are those of interior cuts: what is sent whole, or not at all, has no width to choose.
        constants = [value for value in offered(table)[knob] if knob != "bits" or value.isdigit()]
        always = ~interior if knob == "bits" else np.zeros_like(interior)
        kept = {value: rewards[..., always | (np.array(names) == value)].max(axis=-1) for value in constants}
        if not kept:
            continue  # no interior cut: there is no width to freeze
        value = max(kept, key=lambda value: float(kept[value].mean()))
        pairs.append(Pair(knob, value, float(kept[value].mean()), float((best - kept[value]).mean())))
        if pairs[-1].reward > best_pair:
            of_best_pair, best_pair = kept[value], pairs[-1].reward
    uncut = rewards[..., ~interior].max(axis=-1)
    interior_gain = float((best - uncut).mean())
    return Report(name, table, path, goal, sweep, chosen, tuple(pairs), float(best.mean()), best - of_best_pair, interior_gain)

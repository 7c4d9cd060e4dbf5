"""Rules that only choose where to cut and how to code: the fastest of a set of plans, all of one network.

The papers take the network as given. A scenario's network has several exits, each a network of its own for such a rule; which
one is deployed is chosen on the tuning episodes.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cutlayer.agents.baselines import tuning
from cutlayer.agents.baselines.link import FORGET_S, Belief, usual_bps
from cutlayer.profiles.codecs import RAW_BITS
from cutlayer.profiles.cost import expected_latency_s
from cutlayer.profiles.rows import AFFINE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from cutlayer.envs.simulation import View
    from cutlayer.envs.spec import Scenario
    from cutlayer.profiles.cost import Estimate, Path
    from cutlayer.profiles.plans import PlanTable

# Tuned: accuracy that DynO's user gives away, share of all images. Our choice: none, less and more than 2 bits cost, and between.
DROPS = (0.0, 0.002, 0.01, 0.03)


@dataclass(frozen=True, slots=True, eq=False)
class Fastest:
    """Of some plans, the one that is answered first if the estimate stays true; `allowed` are their indices."""

    plans: PlanTable
    path: Path
    allowed: NDArray[np.int64]
    belief: Belief

    def begin(self) -> None:
        """Remembers nothing; the readings do."""

    def act(self, view: View) -> int:
        """The plan."""
        return self.choose(self.belief.estimate(view))

    def choose(self, now: Estimate) -> int:
        """The plan for an estimate; ties go to the table's order."""
        return int(self.allowed[expected_latency_s(self.plans, self.path, now)[self.allowed].argmin()])


def widths(plans: PlanTable) -> list[int]:
    """The bit widths at which tensors may be sent, widest first: what the papers without compression have comes first."""
    tensors = [row.bits for row in plans.rows if row.bits and row.partition and row.codec == AFFINE]
    return sorted(set(tensors), reverse=True) or [RAW_BITS]


def at_width(plans: PlanTable, bits: int) -> NDArray[np.bool_]:
    """Plans of a system without a choice of coding: nothing or the input is sent, or any tensor quantised to one width."""
    affine = np.array([row.codec == AFFINE for row in plans.rows])
    allowed: NDArray[np.bool_] = ~plans.offloads | (plans.partition == 0) | (affine & (plans.bits == bits))
    return allowed


def above_floor(plans: PlanTable, exit_: int, drop: float) -> NDArray[np.int64]:
    """Plans of one exit that lose at most `drop` accuracy to that exit on the device, at any width; none with a trained bottleneck."""
    own = (plans.exit == exit_) & (plans.unit == 0)
    whole = own & ~plans.offloads
    floor = plans.accuracy[whole if whole.any() else own].max(initial=0.0) - drop
    return np.flatnonzero(own & (plans.accuracy >= floor))


def natural_bottlenecks(plans: PlanTable) -> list[int]:
    """Cuts whose tensor has fewer values than the input and every tensor before it.

    A table that never sends the input does not tell its size; its first cut then has nothing before it, and counts.
    """
    # Rows come by width: the widest stays, whose bytes are not padded.
    values = {row.partition: 8 * row.payload_bytes // row.bits for row in plans.rows if row.bits and row.codec == AFFINE}
    cuts = sorted(values)
    return [cut for i, cut in enumerate(cuts) if cut and all(values[cut] < values[before] for before in cuts[:i])]


def at_bottlenecks(plans: PlanTable, exit_: int, bits: int) -> NDArray[np.int64]:
    """Plans of one exit that cut at a natural bottleneck, or not at all: all on the device, all on the edge."""
    uncut = ~plans.offloads | (plans.partition == 0)
    natural = np.isin(plans.partition, natural_bottlenecks(plans))
    return np.flatnonzero((plans.exit == exit_) & at_width(plans, bits) & (uncut | natural))


def dyno(scenario: Scenario, episodes: Sequence[int]) -> Fastest:
    """Partition and bits of least latency above an accuracy floor (DynO: Almeida, Laskaridis, Venieris, Leontiadis, Lane, TECS 2022).

    DynO jointly tunes cut and precision of what is sent, at run time, for goals that its user weighs. Here the goal is latency:
    throughput and server cost have no price in any scenario. Its packing, whose precision varies within a tensor, is not in the
    table: one width for a whole tensor. The floor, left to the user, is tuned, with the network's depth and when to forget.
    """
    plans = scenario.plans
    choices = itertools.product(sorted(set(plans.exit.tolist()), reverse=True), DROPS)
    return _tuned(scenario, [above_floor(plans, exit_, drop) for exit_, drop in choices], episodes)


def dynamic_split(scenario: Scenario, episodes: Sequence[int]) -> Fastest:
    """The natural bottleneck of least latency (Bakhtiarnia, Milosevic, Zhang, Bajovic, Iosifidis, ICASSP 2023, arXiv 2205.11269).

    Dynamic Split Computing moves the cut with the state of the channel, among layers whose output is smaller than the input
    and all before, in a network as it is: nothing is trained, accuracy stays. It sends floats; here one width for all tensors is
    tuned (32 bits come first), with the network's depth and when to forget. Its batch size is one.
    """
    plans = scenario.plans
    choices = itertools.product(sorted(set(plans.exit.tolist()), reverse=True), widths(plans))
    return _tuned(scenario, [at_bottlenecks(plans, exit_, bits) for exit_, bits in choices], episodes)


def _tuned(scenario: Scenario, sets: Sequence[NDArray[np.int64]], episodes: Sequence[int]) -> Fastest:
    """The best of these sets of plans, with the best time to forget."""
    usual = usual_bps(scenario, episodes)
    distinct = {allowed.tobytes(): allowed for allowed in sets if len(allowed)}.values()
    field = [
        Fastest(scenario.plans, scenario.path, allowed, Belief(usual, forget_s))
        for allowed, forget_s in itertools.product(distinct, FORGET_S)
    ]
    return tuning.best(scenario, field, episodes)

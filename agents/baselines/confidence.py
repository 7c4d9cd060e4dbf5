"""SPINN: a confidence threshold and a cut, chosen together (Laskaridis, Venieris, Almeida, Leontiadis, Lane, MobiCom 2020).

In SPINN an image runs until an exit is sure enough; exits before the cut answer on the device, the rest is sent and may stop
early at the edge. Its scheduler takes what each exit answers at each threshold from recorded images, and corrects what the
device takes at a cut by a scaling factor: real over predicted time, applied to every cut.

**Half faithful.** The simulator charges a plan the mean accuracy of its exit over all images; it knows of no image that is easy.
So each request draws one of the recorded images and takes the plan of the exit that this image would stop at. Times, bytes and
shares of exits are those of SPINN; two things are not. Stopping early is charged the accuracy of all images, not of the sure
ones: with AlexNet at a threshold of 0.8 that is 0.804 for the true 0.866. And heads that an image passes on its way are free.
The scheduler is told what is charged, since it would otherwise choose thresholds that do not pay here.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cutlayer.agents.baselines import tuning
from cutlayer.agents.baselines.link import FORGET_S, Belief, usual_bps
from cutlayer.agents.baselines.worth import worth
from cutlayer.errors import ConfigError
from cutlayer.profiles import traces
from cutlayer.profiles.cost import expected_latency_s
from cutlayer.profiles.rows import UNIT_BITS
from cutlayer.runtime import telemetry as tm

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from cutlayer.envs.simulation import View
    from cutlayer.envs.spec import Scenario
    from cutlayer.profiles.plans import PlanTable
    from cutlayer.profiles.traces import Traces

# Never sure, surely sure, and steps between at which the shares of AlexNet's exits move by a tenth or so: our choice.
THRESHOLDS = (0.0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, math.inf)
WEIGHTS = (1.0, 0.5, 0.2)  # tuned: of a new measurement in the scaling factor; our choice, 1 is the last one alone
LEAST_FACTOR, MOST_FACTOR = 0.1, 1e3  # a broken reading counts as the bound, as in `runtime.rules`
BITS = UNIT_BITS  # our choice for what is sent: costs no accuracy in the tables that ship


class Branches(NamedTuple):
    """Every (threshold, cut): shares of plans, shape (choices, plans); the plan of each exit, (choices, exits), -1 where none stops.

    Then the choice's threshold, an index into `stops`, and the exit that each image stops at for each threshold, (thresholds, images).
    """

    shares: NDArray[np.float64]
    plans: NDArray[np.int64]
    threshold: NDArray[np.int64]
    stops: NDArray[np.int64]


def branches(plans: PlanTable, recorded: Traces) -> Branches:
    """What a table allows: an exit up to the cut answers on the device, a later one from the tensor at the cut.

    Every exit at which images stop needs its plan in the table. Of choices with the same plans and shares the first stays.

    Raises:
        ConfigError: the table and the traces have not the same exits, or a plan is missing for every (threshold, cut).
    """
    if recorded.exits != len(plans.depths):
        raise ConfigError(
            f"spinn: the traces of {plans.model} have {recorded.exits} exits, its table {len(plans.depths)}; record them anew with: "
            "cutlayer profile traces"
        )
    stopped = [recorded.stop([threshold] * (recorded.exits - 1)) for threshold in THRESHOLDS]
    found: dict[bytes, tuple[NDArray[np.float64], NDArray[np.int64], int]] = {}
    for (i, stop), cut in itertools.product(enumerate(stopped), range(plans.depths[-1] + 1)):
        taken, of_exit = stop.share > 0, np.array([_plan(plans, exit_, cut) for exit_ in range(recorded.exits)])
        if (of_exit[taken] >= 0).all():
            mix = np.zeros(len(plans))
            mix[of_exit[taken]] = stop.share[taken]
            found.setdefault(mix.tobytes(), (mix, np.where(taken, of_exit, -1), i))
    if not found:
        raise ConfigError(f"spinn: the table of {plans.model} lacks a plan for every threshold and cut; take another policy")
    shares, chosen, threshold = (np.array(column) for column in zip(*found.values(), strict=True))
    return Branches(shares, chosen, threshold, np.array([stop.exit for stop in stopped]))


def _plan(plans: PlanTable, exit_: int, cut: int) -> int:
    """The plan of an image that stops at this exit; -1 where the table has none."""
    on_device = plans.depths[exit_] <= cut
    try:
        return plans.index(exit_, plans.depths[exit_] + 1 if on_device else cut, BITS)
    except KeyError:
        return -1


@dataclass(slots=True, eq=False)
class Spinn:
    """The (threshold, cut) of highest expected worth at the corrected times; an image is drawn, and its exit's plan taken."""

    scenario: Scenario
    branches: Branches
    part: float
    belief: Belief
    weight: float
    rng: np.random.Generator
    factor: float = 1.0
    measured_at_s: float = tm.NEVER

    def begin(self) -> None:
        """The device is as fast as its profile says; images are drawn on."""
        self.factor, self.measured_at_s = 1.0, tm.NEVER

    def act(self, view: View) -> int:
        """The plan."""
        self.correct(view.readings)
        choice = self.choose(view)
        stops = self.branches.stops[self.branches.threshold[choice]]
        return int(self.branches.plans[choice, stops[self.rng.integers(len(stops))]])

    def correct(self, readings: Sequence[float]) -> None:
        """Move the scaling factor towards what the last work on the device took, over what its profile says."""
        if readings[tm.SLOW_DOWN_AT] == self.measured_at_s:
            return
        self.measured_at_s = readings[tm.SLOW_DOWN_AT]
        measured = min(MOST_FACTOR, max(LEAST_FACTOR, readings[tm.SLOW_DOWN]))
        self.factor += self.weight * (measured - self.factor)

    def latency_s(self, view: View) -> tuple[NDArray[np.float64], float]:
        """Corrected latency of every plan, and the rate that is believed."""
        now = self.belief.estimate(view)
        return expected_latency_s(self.scenario.plans, self.scenario.path, replace(now, slow_down=self.factor)), now.rate_bps

    def choose(self, view: View) -> int:
        """Index of the (threshold, cut); ties go to the sooner answer."""
        latency, rate_bps = self.latency_s(view)
        return int((self.branches.shares @ worth(self.scenario, latency, rate_bps, self.part * view.deadline_s)).argmax())


def spinn(scenario: Scenario, episodes: Sequence[int], seed: int) -> Spinn:
    """The rule with its latency requirement, the weight of its scaling factor and its time to forget tuned; `seed` draws the images.

    Raises:
        ProfileError: no traces ship for the scenario's network.
        ConfigError: they do not fit its table, or a plan is missing for every threshold and cut.
    """
    ways = branches(scenario.plans, traces.load(scenario.plans.model))
    usual = usual_bps(scenario, episodes)
    field = [
        Spinn(scenario, ways, part, Belief(usual, forget_s), weight, np.random.default_rng(seed))
        for part, weight, forget_s in itertools.product(tuning.REQUIREMENTS, WEIGHTS, FORGET_S)
    ]
    return tuning.best(scenario, field, episodes)

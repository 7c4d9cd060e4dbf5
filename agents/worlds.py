"""The worlds of the benchmark: the scenarios, and those that a policy meets unprepared.

NAME                    a scenario, judged on held-out episodes, on drives that none trained on where drives are at hand
drifting                a link and a device load that both drift: the world of the joint-optimisation papers
NAME+elsewhere          the same on drives of another radio: neither rules nor learners are tuned on it
NAME+slow-device        the same on a device that takes half as long again for everything: rules get its plan table and are tuned
                        on it, learners see it only in the scale of their features and are not trained anew
"""

from __future__ import annotations

import dataclasses
import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from cutlayer.agents import inputs
from cutlayer.agents.drives import DRIVES
from cutlayer.envs import scenarios
from cutlayer.envs.channels import Cellular
from cutlayer.envs.workload import DriftingSlowDown, Periodic
from cutlayer.errors import ConfigError, nearest
from cutlayer.profiles.cost import deadline

if TYPE_CHECKING:
    from cutlayer.envs.spec import Scenario
    from cutlayer.profiles.plans import PlanTable

DRIFTING, ELSEWHERE, SLOW_DEVICE = "drifting", "elsewhere", "slow-device"
VARIANTS = {
    "": "",
    ELSEWHERE: "Here on drives of another radio, which no rule and no learner was tuned on.",
    SLOW_DEVICE: "Here on a device half as slow again; rules are tuned on it, learners are not trained anew.",
}
SLOWER = 1.5  # our choice: beyond the spread of derived devices over networks (1.21, `profiles.derived`)


@dataclass(frozen=True, slots=True)
class World:
    """Where a policy is judged, what rules are tuned on, and what learners are trained on."""

    name: str
    judged: Scenario
    tuning: Scenario
    training: Scenario


# The benchmark's, in its order: what is known already first.
WORLDS = (
    *scenarios.SCENARIOS, DRIFTING, *(f"{name}+{ELSEWHERE}" for name in DRIVES), f"bursty-deadline+{SLOW_DEVICE}",
)  # fmt: skip


def make(name: str) -> World:
    """A world by name.

    Raises:
        ConfigError: no such scenario or variant, or its drives are not at hand.
    """
    base, plus, variant = name.partition("+")
    given = drifting() if base == DRIFTING else scenarios.make(base)
    judged, training = inputs.on_drives(given, "test"), inputs.on_drives(given, "train")
    if not plus:
        return World(given.name, judged, training, training)
    name = f"{given.name}+{variant}"
    if variant == SLOW_DEVICE:
        slow = dataclasses.replace(judged, name=name, plans=slower(judged.plans))
        return World(name, slow, dataclasses.replace(training, plans=slow.plans), training)
    if variant == ELSEWHERE and base in DRIVES:
        return World(name, elsewhere(judged, name), training, training)
    raise ConfigError(f"unknown world {name!r}; {nearest(name, WORLDS)}known: {', '.join(WORLDS)}, and a scenario with +{SLOW_DEVICE}")


def claim(name: str) -> str:
    """What a world models, in a line."""
    base, _, variant = name.partition("+")
    if base == DRIFTING:
        said = (inspect.getdoc(drifting) or "").splitlines()[0]
    else:
        said = scenarios.claim(base) if base in scenarios.SCENARIOS else ""
    return f"{said} {VARIANTS[variant]}".strip()


def drifting() -> Scenario:
    """Ten images a second, 50 ms: a link that drifts beside a device load that drifts; no outage, no queue, nothing sudden."""
    return dataclasses.replace(
        scenarios.camera(),
        name=DRIFTING,
        # Median: our choice, the raw image takes 41 ms, the first layer's tensor 7 ms at 4 bits. Spread: measured on LTE uplinks
        # (0.61, as in bursty-deadline). Decorrelation: our choice, 50 requests.
        channel=Cellular(median_bps=10e6, spread=0.61, decorrelation_s=5.0),
        arrivals=Periodic(period_s=0.1),  # our choice: hardly a request meets another
        objective=deadline(0.05),  # our choice: the last exit takes 36 ms on an idle device, and the device is seldom idle
        slow_down=DriftingSlowDown(extra=0.6, spread=0.8, decorrelation_s=5.0),  # our choice: a median of 1.6, above 3 for 7 % of the time
        inputs="generated",
    )


def elsewhere(scenario: Scenario, name: str) -> Scenario:
    """The scenario on drives of a radio that nobody trains on.

    Raises:
        ConfigError: they are not at hand.
    """
    sides, found = DRIVES[scenario.name], inputs.on_drives(scenario, "elsewhere")
    if found is scenario:
        wanted = sides.elsewhere[0]
        raise ConfigError(f"{name} needs drives such as {wanted} under {inputs.folder()}; set CUTLAYER_DATA to the folder of the data")
    return dataclasses.replace(found, name=name, inputs=f"{found.inputs} ({sides.elsewhere_of})")


def slower(plans: PlanTable, times: float = SLOWER) -> PlanTable:
    """The plans of a device that takes `times` as long for all it computes, at the same watts; as if derived by such a ratio."""
    rows = tuple(
        msgspec.structs.replace(
            row, **{name: times * getattr(row, name) for name in ("device_s", "encode_s", "device_j", "fallback_s", "fallback_j", "swap_s")}
        )
        for row in plans.rows
    )
    return dataclasses.replace(plans, device=f"{plans.device}, {times:g} times slower", rows=rows)

# noqa: INP001 - a script, no module
"""What the row `deadline-infeasible` is worth: misses of trained runs on held-out episodes with it and without it, in equal worlds.

`python docs/figures/hopeless.py lte-uplink=runs/lte camera=runs/camera` prints a line for each SCENARIO=RUN, as docs/fallbacks.md tells.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cutlayer.agents import device_agent, export, inputs
from cutlayer.agents.bench_decision import random_bundle
from cutlayer.envs import scenarios
from cutlayer.envs.streams import draw
from cutlayer.runtime.controller import Controller

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cutlayer.envs.spec import Scenario
    from cutlayer.profiles.cost import Estimate
    from cutlayer.runtime.bundle import Bundle

EPISODES = range(9_100_000, 9_100_040)  # nobody's training, tuning or validation


class Without(Controller):
    """A controller that always hopes."""

    def _hopeless(self, now: Estimate, deadline_s: float) -> bool:  # noqa: ARG002 - the controller's signature
        return False


def misses(kind: type[Controller], bundle: Bundle, world: Scenario) -> NDArray[np.float64]:
    """The share of late answers of each episode."""
    late_s = world.objective.deadline_s
    return np.array(
        [
            np.mean([record.latency_s > late_s for _, record in device_agent.drive(world, draw(world, one), kind(bundle))])
            for one in EPISODES
        ]
    )


for said in sys.argv[1:]:
    name, _, run = said.partition("=")
    made = scenarios.make(name)
    actor, _ = export.load_run(Path(run))
    # Without ranges and rule of its own: the row alone is to differ.
    bundle = dataclasses.replace(random_bundle(made), policy=export.network(actor))
    world = inputs.on_drives(made, "test")
    apart = 100.0 * (misses(Controller, bundle, world) - misses(Without, bundle, world))
    half = 1.96 * apart.std(ddof=1) / len(apart) ** 0.5
    print(f"{said}: {apart.mean():+.2f} points of misses with the row (95 % within {half:.2f}), worst episode {apart.max():+.1f}")

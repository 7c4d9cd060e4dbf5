"""What decides in a testbed run: the same controller behind the daemon's socket and in the simulator.

A learned policy is a bundle, served by `cutlayerd`. A rule of `agents.baselines` has no bundle: it takes the place of the controller's
own rule (`runtime.ladder.Rule`), which decides where no policy does; `ruled` is the daemon with such a rule. Both are told the same by
the device and guarded by the same ladder; but a rule expects nothing, so it is never called infeasible.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cutlayer.agents import baselines
from cutlayer.errors import ConfigError
from cutlayer.runtime import bundle as bundles
from cutlayer.runtime import features
from cutlayer.runtime import telemetry as tm
from cutlayer.runtime.controller import Controller, Task
from cutlayer.runtime.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from cutlayer.agents.evaluate import Policy
    from cutlayer.envs.spec import Scenario
    from cutlayer.profiles.plans import PlanTable
    from cutlayer.runtime.bundle import Bundle
    from cutlayer.runtime.messages import Decision, Outcome, Progress, Request

SURVEY = "survey"  # a rule of this module alone: every cut in turn
BUDGET_S = 1.0  # our choice: a baseline is a yardstick; one that is slow the first time it runs must not be fallen back from


@dataclass(frozen=True, slots=True)
class Seen:
    """A `View` of the controller's readings."""

    readings: list[float]
    now_s: float
    deadline_s: float
    plans: PlanTable
    scale: list[float]
    acked: float

    def acked_bytes(self) -> float:
        """See `View`."""
        return self.acked

    def observation(self) -> NDArray[np.float32]:
        """See `View`."""
        out = [0.0] * (features.SIZE)
        features.encode(self.readings, self.scale, self.now_s, self.acked, out)
        return np.array(out, np.float32)


class Acting:
    """A policy of the simulator as a `Rule` of the controller."""

    def __init__(self, policy: Policy, scenario: Scenario) -> None:
        self._policy, self._plans = policy, scenario.plans
        self._deadline_s = scenario.objective.deadline_s
        self._scale = features.scales(scenario.plans, self._deadline_s)
        policy.begin()

    def choose(self, readings: Sequence[float], now_s: float, acked_bytes: float) -> tuple[int, float, float]:
        """See `Rule`."""
        due_s = readings[tm.DEADLINE_S] if readings[tm.DEADLINE_S] > 0.0 else self._deadline_s
        return self._policy.act(Seen(list(readings), now_s, due_s, self._plans, self._scale, acked_bytes)), 0.0, 0.0


@dataclass(slots=True)
class Survey:
    """Every exit and partition, one after the other and round again, at 8 bits where there is a choice."""

    plans: tuple[int, ...]
    at: int = -1

    @staticmethod
    def of(plans: PlanTable) -> Survey:
        """Of a table."""
        found: dict[tuple[int, int], int] = {}
        for plan, row in enumerate(plans.rows):
            if (row.exit, row.partition) not in found or row.bits == 8:
                found[row.exit, row.partition] = plan
        return Survey(tuple(found.values()))

    def begin(self) -> None:
        """From the first one on."""
        self.at = -1

    def act(self, view: object) -> int:  # noqa: ARG002 - looks at nothing
        """The next plan."""
        self.at += 1
        return self.plans[self.at % len(self.plans)]


@dataclass(frozen=True, slots=True)
class Choice:
    """A policy by the name it was asked for by; label names it in results. file: its bundle, None where it is a rule."""

    name: str
    label: str
    file: Path | None


def choice(scenario: Scenario, name: str, folder: Path) -> Choice:
    """What a name means: a rule, a bundle, what ships for the scenario, or a run folder, which is exported into `folder`.

    Raises:
        ConfigError: nothing has that name, or it was made for another plan table.
    """
    if name in baselines.RULES or name == SURVEY:
        return Choice(name, name, None)
    from cutlayer.agents import export, policies, shipped  # torch: a daemon with a rule does without

    file = shipped.find(scenario.name) if name == policies.BEST_LEARNED else Path(name)
    label = name if name == policies.BEST_LEARNED else file.stem
    if file.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        export.export(file, folder / f"{label}.cutlayer", scenario)
        file = folder / f"{label}.cutlayer"
    if not file.exists():
        raise ConfigError(f"no policy {name!r}; give a bundle, a run folder or one of: {', '.join(baselines.RULES)}")
    if bundles.load(file).plans.digest() != scenario.plans.digest():
        raise ConfigError(f"{file} was exported for another plan table than {scenario.name} has; export it anew")
    return Choice(name, label, file)


def ruled(scenario: Scenario, tuning: Scenario, name: str, seed: int) -> Controller:
    """A controller that a rule decides in, made and tuned on `tuning`.

    Raises:
        ConfigError: no such rule, or none for this scenario.
    """
    policy: Policy = Survey.of(scenario.plans) if name == SURVEY else baselines.RULES[name](tuning, seed)
    task = Task(scenario.plans, scenario.path, scenario.objective)
    return Controller(task, rule=Acting(policy, scenario), settings=Settings(budget_s=BUDGET_S, cancel_margin_s=scenario.cancel_margin_s))


def controller(scenario: Scenario, tuning: Scenario, chosen: Choice, seed: int) -> Controller:
    """What decides in the simulator: made as the daemon makes it."""
    if chosen.file is None:
        return ruled(scenario, tuning, chosen.name, seed)
    loaded: Bundle = bundles.load(chosen.file)
    return Controller(loaded, settings=Settings(cancel_margin_s=scenario.cancel_margin_s))


@dataclass(frozen=True, slots=True)
class Here:
    """A controller in this process as `device_agent.Decider`."""

    controller: Controller

    def decide(self, at_s: float, request: Request) -> Decision:
        """See `Decider`."""
        return self.controller.decide(at_s, request)

    def progress(self, at_s: float, progress: Progress) -> None:
        """See `Decider`."""
        self.controller.progress(at_s, progress)

    def report(self, at_s: float, outcome: Outcome) -> None:
        """See `Decider`."""
        self.controller.report(at_s, outcome)

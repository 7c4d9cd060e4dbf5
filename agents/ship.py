"""Make the bundles that ship from the trainings of a benchmark: `python -m cutlayer.agents.ship runs/benchmark agents/shipped`.

For each scenario the finished run with the best validation reward, of whatever learner and seed, with the Bayes filter's rule as the
fallback; nothing where that is below the best static plan's. Only runs of the recipe that the learner has now: `cutlayer train` makes what
ships again. The benchmark's held-out episodes are not looked at.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from cutlayer import __version__
from cutlayer.agents import baselines, evaluate, export, inputs
from cutlayer.agents.bayes import tuning
from cutlayer.agents.benchmark import TRAINING
from cutlayer.agents.episodes import VALIDATION
from cutlayer.agents.learners import LEARNERS
from cutlayer.agents.shipped import SUFFIX
from cutlayer.agents.train import RUN
from cutlayer.envs import scenarios
from cutlayer.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping


def best(benchmark: Path) -> Mapping[str, tuple[float, Path]]:
    """Scenario to validation reward and folder of its best run; scenarios without a name and runs that are not finished are left out.

    Raises:
        ConfigError: there is no run.
    """
    found: dict[str, tuple[float, Path]] = {}
    for file in sorted((benchmark / TRAINING).glob(f"*/{RUN}")):
        run: dict[str, Any] = msgspec.json.decode(file.read_bytes())
        name = str(run["scenario"])
        if not run["finished"] or name not in scenarios.SCENARIOS or not _is_current(run):
            continue
        reward = float(run["best"]["reward_mean"])
        if name not in found or reward > found[name][0]:
            found[name] = (reward, file.parent)
    if not found:
        raise ConfigError(f"no finished training under {benchmark / TRAINING}; make some with: cutlayer benchmark -o {benchmark}")
    return found


def _is_current(run: Mapping[str, Any]) -> bool:
    """Whether the run's recipe is its learner's; a setting that the run does not know yet had no effect then."""
    recipe = dataclasses.asdict(LEARNERS[run["algorithm"]].recipe(run["scenario"]))
    own = msgspec.json.decode(msgspec.json.encode(recipe))  # as it would be read again
    return all(own.get(key) == value for key, value in run["recipe"].items())


def ship(benchmark: Path, folder: Path) -> list[Path]:
    """Write `SCENARIO.cutlayer` for each scenario that has a run worth it."""
    written = []
    for name, (reward, run) in best(benchmark).items():
        made, scenario = export.make(run)
        training = inputs.on_drives(scenario, "train")
        static = evaluate.evaluate(training, baselines.RULES["best-static"](training, 0), VALIDATION).reward.mean()
        if reward <= static:
            print(f"{name}: nothing, for {run.name} has {reward:.4f} and the best static plan {static:.4f}")
            continue
        rule = tuning.tuned(training, 0, "bayes-greedy").parameters
        written.append(folder / f"{name}{SUFFIX}")
        dataclasses.replace(made, bayes=rule).save(written[-1], __version__)
        print(f"{written[-1]}, {written[-1].stat().st_size} bytes: {run.name}")
    return written


if __name__ == "__main__":
    ship(Path(sys.argv[1]), Path(sys.argv[2]))

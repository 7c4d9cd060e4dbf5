"""Train a learner on a scenario in a run folder: the best state on validation episodes, its curve, `run.json`, and a checkpoint on the way.

    model.zip        the state with the best mean reward on `episodes.VALIDATION` so far
    validation.csv   every look at them: requests learned from, CPU seconds of learning, mean reward
    run.json         what makes it repeatable; `finished` tells whether it is done
    checkpoint.pt    everything that the rest depends on; gone when the run is finished
    tensorboard/     the learner's own log, where tensorboard is installed

A run that was cut off goes on from its checkpoint when the same command is given again and ends in the same state, bit for bit, as one
that was not: generators, replay, optimiser and the lanes' own states are kept. A folder that was begun otherwise is refused.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import io
import pickle
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import torch
from stable_baselines3.common.logger import KVWriter, Logger, TensorBoardOutputFormat

from cutlayer.agents import resumable, runs
from cutlayer.agents.episodes import VALIDATION
from cutlayer.agents.learners import LEARNERS
from cutlayer.agents.validation import Trial
from cutlayer.errors import ConfigError, nearest
from cutlayer.files import write_atomic

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cutlayer.agents.learners import Trainee
    from cutlayer.envs.simulation import EngineName
    from cutlayer.envs.spec import Scenario

MODEL, RUN, CURVE, CHECKPOINT, LOG = "model.zip", "run.json", "validation.csv", "checkpoint.pt", "tensorboard"
CHECKS = 20  # our choice: looks at the validation episodes, each with a checkpoint; together 1 to 3 % of the time
# What a run must have in common with the one that its folder holds.
SETTINGS = ("scenario", "algorithm", "engine", "seeds", "recipe", "checks", "world_sha256")


class Look(NamedTuple):
    """One look at the validation episodes."""

    steps: int
    learning_cpu_s: float  # without looks and checkpoints
    reward_mean: float


def train(
    scenario: Scenario,
    algorithm: str,
    seed: int,
    folder: Path,
    *,
    engine: EngineName = "kernel",
    recipe: Any = None,
    steps: int | None = None,
    report: Callable[[float], None] = lambda _share: None,
) -> dict[str, Any]:
    """Learn until the recipe's steps (or `steps`) are done, and return the manifest; a finished run is left as it is.

    recipe: the algorithm's own for the scenario unless given.

    Raises:
        ConfigError: unknown algorithm, or the folder holds another run.
    """
    if algorithm not in LEARNERS:
        raise ConfigError(f"unknown algorithm {algorithm!r}; {nearest(algorithm, LEARNERS)}known: {', '.join(LEARNERS)}")
    # Two threads on two shared cores made training 8 to 25 times slower.
    torch.set_num_threads(1)
    clock = Clock()
    learner = LEARNERS[algorithm]
    if recipe is None:
        recipe = learner.recipe(scenario.name)
    if steps is not None:
        recipe = dataclasses.replace(recipe, steps=steps)
    trial = Trial(scenario, VALIDATION)
    manifest = runs.manifest(
        scenario,
        {"training": seed, "validation": [VALIDATION.start, VALIDATION.stop]},
        algorithm=algorithm,
        engine=engine,
        recipe=dataclasses.asdict(recipe),
        checks=CHECKS,
        world_sha256=resumable.digest([trial.bank, scenario.objective, scenario.blocks]),
    )
    before = _before(folder, manifest)
    if before is not None and before["finished"]:
        return before
    sitting = Sitting(folder, learner.make(recipe, scenario, seed, engine), trial, recipe.steps, manifest, report, clock)
    if before is not None and (folder / CHECKPOINT).exists():
        sitting.go_on()
    return sitting.run()


def tensorboard_installed() -> bool:
    """Whether runs are logged for TensorBoard."""
    return importlib.util.find_spec("tensorboard") is not None


def _before(folder: Path, manifest: dict[str, Any]) -> dict[str, Any] | None:
    """The manifest of the run that the folder holds, where it is the same run; None where it holds none.

    Raises:
        ConfigError: it is another run.
    """
    if not (folder / RUN).exists():
        return None
    try:
        found = msgspec.json.decode((folder / RUN).read_bytes(), type=dict[str, Any])
        old, new = ({key: one[key] for key in (*SETTINGS, "finished")} for one in (found, {**manifest, "finished": True}))
    except (KeyError, ValueError, msgspec.DecodeError) as error:
        raise ConfigError(f"{folder} holds another {RUN} ({error}); give another folder with -o, or remove it") from error
    new = msgspec.json.decode(msgspec.json.encode(new))  # as it would be read again
    for key in SETTINGS:
        if old[key] != new[key]:
            raise ConfigError(f"{folder} was begun with {_difference(key, old[key], new[key])}; give another folder with -o, or remove it")
    return found


def _difference(key: str, old: Any, new: Any) -> str:
    if isinstance(old, dict) and isinstance(new, dict):
        inner = next(name for name in {**old, **new} if old.get(name) != new.get(name))
        return f"{key} {inner} {old.get(inner)!r}, not {new.get(inner)!r}"
    if key == "world_sha256":
        return "another world under the same name: its plan table, link or objective has changed"
    return f"{key} {old!r}, not {new!r}"


class Clock:
    """Seconds of a run over all its sittings; looking at the validation episodes is no learning."""

    def __init__(self) -> None:
        self._wall_s, self._cpu_s, self._looking_cpu_s = -time.monotonic(), -time.process_time(), 0.0

    def seconds(self) -> dict[str, float]:
        """Whole seconds of wall and CPU, and those of the CPU that went into learning."""
        cpu_s = time.process_time() + self._cpu_s
        return {"wall_s": time.monotonic() + self._wall_s, "cpu_s": cpu_s, "learning_cpu_s": cpu_s - self._looking_cpu_s}

    def looked(self, cpu_s: float) -> None:
        """So much was no learning."""
        self._looking_cpu_s += cpu_s

    def add(self, before: dict[str, float]) -> None:
        """Count the seconds of former sittings too."""
        self._wall_s += before["wall_s"]
        self._cpu_s += before["cpu_s"]
        self._looking_cpu_s += before["cpu_s"] - before["learning_cpu_s"]


class Sitting:
    """One go at a run, from the beginning or from a checkpoint, to its end or until it is cut off."""

    def __init__(
        self,
        folder: Path,
        trainee: Trainee,
        trial: Trial,
        goal: int,
        manifest: dict[str, Any],
        report: Callable[[float], None],
        clock: Clock,
    ) -> None:
        self._folder, self._trainee, self._trial = folder, trainee, trial
        self._goal, self._manifest, self._report, self._clock = goal, manifest, report, clock
        self._curve: list[Look] = []
        self._sittings = 1

    def go_on(self) -> None:
        """Take over what the checkpoint holds.

        Raises:
            ConfigError: it cannot be read.
        """
        file = self._folder / CHECKPOINT
        try:
            kept = torch.load(file, weights_only=True)
            self._trainee.restore(kept["trainee"])
            self._curve = [Look(*one) for one in kept["curve"]]
            self._sittings = kept["sittings"] + 1
            self._clock.add(kept["seconds"])
            resumable.restore_generators(kept["generators"])
        except (RuntimeError, ValueError, TypeError, KeyError, EOFError, pickle.UnpicklingError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ConfigError(f"{file} cannot be read ({reason}); remove {self._folder} and train anew") from error

    def run(self) -> dict[str, Any]:
        """Learn to the end; the manifest."""
        self._folder.mkdir(parents=True, exist_ok=True)
        if not self._curve:
            self._write_manifest(finished=False)
        formats: list[KVWriter] = [TensorBoardOutputFormat(str(self._folder / LOG))] if tensorboard_installed() else []
        self._logger = Logger(str(self._folder), formats)
        self._due = self._next()
        self._trainee.learn(self._between, self._logger)
        if not self._curve or self._curve[-1].steps < self._trainee.steps:
            self._look()
        self._logger.close()
        finished = self._write_manifest(finished=True, state_sha256=resumable.digest(self._trainee.state()))
        (self._folder / CHECKPOINT).unlink(missing_ok=True)
        self._report(1.0)
        return finished

    def _between(self) -> None:
        self._report(min(1.0, self._trainee.steps / self._goal))
        if self._trainee.steps >= self._due:
            self._look()

    def _next(self) -> float:
        """The number of steps from which on the next look is due."""
        return (self._trainee.steps * CHECKS // self._goal + 1) * self._goal / CHECKS

    def _look(self) -> None:
        began_s, seconds = time.process_time(), self._clock.seconds()
        steps, score = self._trainee.steps, self._trial.score(self._trainee.actor())
        if score > max((look.reward_mean for look in self._curve), default=-float("inf")):
            self._save()
        self._curve.append(Look(steps, seconds["learning_cpu_s"], score))
        lines = [",".join(Look._fields), *(f"{look.steps},{look.learning_cpu_s:.3f},{look.reward_mean!r}" for look in self._curve)]
        write_atomic(self._folder / CURVE, ("\n".join(lines) + "\n").encode())
        self._logger.record("validation/reward_mean", score)
        self._logger.dump(steps)
        self._due = self._next()
        # Last: what was written before is written again, and alike, by a sitting that goes on from the checkpoint before this one.
        self._checkpoint()
        self._clock.looked(time.process_time() - began_s)

    def _save(self) -> None:
        temporary = self._folder / f".{MODEL}"  # SB3 adds .zip to a name without a suffix
        self._trainee.save(temporary)
        temporary.replace(self._folder / MODEL)

    def _checkpoint(self) -> None:
        held = io.BytesIO()
        content = {
            "trainee": self._trainee.state(),
            "generators": resumable.generators(),
            "curve": [list(look) for look in self._curve],
            "sittings": self._sittings,
            "seconds": self._clock.seconds(),
        }
        torch.save(content, held)
        write_atomic(self._folder / CHECKPOINT, held.getvalue())

    def _write_manifest(self, *, finished: bool, **more: str) -> dict[str, Any]:
        best = max(self._curve, key=lambda look: look.reward_mean, default=None)
        content = {
            **self._manifest,
            "finished": finished,
            "steps": self._trainee.steps,
            "best": None if best is None else {"steps": best.steps, "reward_mean": best.reward_mean},
            "sittings": self._sittings,
            **self._clock.seconds(),
            **more,
        }
        runs.write(self._folder, RUN, content)
        return content

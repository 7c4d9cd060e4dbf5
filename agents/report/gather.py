"""What lies under the folders that a report is asked of: runs that were judged, runs that were trained, records of a test bed.

A number counts only with the `run.json` that says how it was made; numbers without one are refused, and so are runs of different worlds
under one name.
"""

from __future__ import annotations

import csv
import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from cutlayer.agents import standings
from cutlayer.agents.benchmark import TRAINING
from cutlayer.agents.report import beds
from cutlayer.agents.sweep.grid import LEARNER
from cutlayer.agents.testbed.side import KIND, SURVEY
from cutlayer.agents.train import CURVE, MODEL, RUN, Look
from cutlayer.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

# Files that hold numbers or what was learned: each needs a `run.json` beside it.
NUMBERS = (CURVE, MODEL, SURVEY)
RUNS, TABLE = "runs", "results.parquet"  # of a sweep; its module loads what only a sweep needs
UNKNOWN = "unknown"


class Judged(standings.Run, frozen=True):
    """A run of a policy on held-out episodes, as the benchmark leaves it; see `standings.Run`."""

    plans_sha256: str
    seeds: dict[str, Any]
    version: str = UNKNOWN
    date: str = UNKNOWN
    scenario: str = ""
    fields: dict[str, Any] = msgspec.field(default_factory=dict)  # of a sweep: what its grid told the run


class _Manifest(msgspec.Struct, frozen=True):
    scenario: str
    algorithm: str
    seeds: dict[str, Any]
    plans_sha256: str
    recipe: dict[str, Any] = {}
    world_sha256: str = ""
    finished: bool = True
    inputs: str = UNKNOWN
    commit: str = UNKNOWN
    command: str = UNKNOWN
    version: str = UNKNOWN
    date: str = UNKNOWN
    machine: dict[str, Any] = {}


@dataclass(frozen=True, slots=True)
class Trained:
    """A training's folder: its manifest, its looks at the validation episodes, and a name that tells it from others of its algorithm."""

    folder: Path
    manifest: _Manifest
    curve: tuple[Look, ...]
    name: str
    world: str
    judged: bool  # by the benchmark or sweep that it is a part of

    @property
    def seed(self) -> int:
        """Of the training."""
        return int(self.manifest.seeds.get("training", 0))


@dataclass(slots=True)
class Found:
    """All that the folders hold; notes say what of it no panel can show, and why."""

    judged: list[Judged] = field(default_factory=list)
    trained: list[Trained] = field(default_factory=list)
    beds: list[beds.Bed] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def worlds(self) -> list[str]:
        """Names of the worlds that something was judged or trained in, in alphabetical order."""
        return sorted({run.world for run in self.judged} | {one.world for one in self.trained if not one.judged})


def gather(folders: Sequence[Path]) -> Found:
    """Read every `run.json` under the folders.

    Raises:
        ConfigError: there is none, one is damaged, numbers lie without one, or two runs of one name are of different worlds.
    """
    found = Found()
    for folder in folders:
        if not folder.is_dir():
            raise ConfigError(f"{folder} is no folder; give what cutlayer train, benchmark, sweep or testbed run wrote")
        _refuse_unsigned(folder)
        for table in sorted(folder.rglob(TABLE)):
            _refuse_lost(table)
        paths = sorted(folder.rglob(RUN))
        if not paths:
            raise ConfigError(f"{folder} holds no {RUN}, and no figure is drawn without one; make a run with: cutlayer train -o {folder}")
        for path in paths:
            _take(path, found)
    found.judged = _newest(_named_by_fields(found.judged))
    found.trained = named(found.trained)
    if not found.judged and not found.trained and not found.beds:
        raise ConfigError(
            f"{folders[0]}: no {RUN} there is of a trained or judged policy or of a test bed; make one with: cutlayer train -o {folders[0]}"
        )
    _refuse_mixed(found)
    return found


def _refuse_unsigned(folder: Path) -> None:
    for name in NUMBERS:
        for path in sorted(folder.rglob(name)):
            if not (path.parent / RUN).exists():
                raise ConfigError(f"{path} has no {RUN} beside it that says how it was made; remove it, or make the run again")


def _refuse_lost(table: Path) -> None:
    """A sweep's row without its `run.json` is a number without one."""
    import polars as pl

    try:
        rows = pl.read_parquet(table).select("run", "error").rows()
    except (OSError, pl.exceptions.PolarsError) as error:
        raise ConfigError(f"{table} is damaged ({error}); remove it and give the same cutlayer sweep again") from error
    for run, failed in rows:
        path = table.parent / RUNS / run / RUN
        if failed is None and not path.exists():
            raise ConfigError(
                f"{table} has a row of run {run}, and {path} is not there; give the same cutlayer sweep again, which makes it"
            )


def _take(path: Path, found: Found) -> None:
    """One `run.json`, by what it holds."""
    try:
        content = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
        if "rewards" in content:
            found.judged.append(msgspec.convert(content, Judged))
        elif content.get("kind") == KIND:
            found.beds.append(beds.read(path, content))
        elif "algorithm" in content:
            manifest = msgspec.convert(content, _Manifest)
            found.trained.append(_trained(path, manifest))
        elif not any(other != path for other in path.parent.rglob(RUN)):  # a sweep's own tells of the runs below it
            found.notes.append(f"{path.parent}: its {RUN} is of no trained or judged policy")
    except (OSError, ValueError, TypeError, msgspec.MsgspecError) as error:
        raise ConfigError(f"{path} is damaged ({error}); remove its folder and make the run again") from error


def _trained(path: Path, manifest: _Manifest) -> Trained:
    """A training by itself, of a benchmark (DIR/training/...) or of a run of a sweep (RUN/training), whose world is that run's."""
    of_run = path.parent.parent / RUN
    world = manifest.scenario
    if path.parent.name == TRAINING and of_run.exists():
        world = str(msgspec.json.decode(of_run.read_bytes(), type=dict[str, Any])["world"])
    judged = TRAINING in (path.parent.name, path.parent.parent.name)
    return Trained(path.parent, manifest, _curve(path.parent / CURVE), manifest.algorithm, world, judged)


def _named_by_fields(judged: list[Judged]) -> list[Judged]:
    """Runs of a sweep, each with what its recipe differs in where others of that policy have another, as `named` does it for trainings."""
    of: dict[tuple[str, str], list[Judged]] = {}
    for run in judged:
        of.setdefault((run.world, run.policy), []).append(run)
    result = []
    for (_, policy), group in of.items():
        keys = sorted({key for run in group for key in run.fields if key == "steps" or key.startswith(LEARNER)})
        differing = [key for key in keys if len({str(run.fields.get(key)) for run in group}) > 1]
        for run in group:
            said = ", ".join(f"{key.removeprefix(LEARNER)} {run.fields.get(key)}" for key in differing)
            short = policy.rpartition("/")[2]  # a bundle's or run folder's name, not the way to it
            result.append(msgspec.structs.replace(run, policy=f"{short} ({said})" if said else short))
    return result


def _curve(path: Path) -> tuple[Look, ...]:
    """The looks of a training; none where it has none yet."""
    if not path.exists():
        return ()
    with path.open(newline="", encoding="utf-8") as file:
        return tuple(Look(int(row["steps"]), float(row["learning_cpu_s"]), float(row["reward_mean"])) for row in csv.DictReader(file))


def _newest(judged: list[Judged]) -> list[Judged]:
    """Of each world, policy and seed the newest run."""
    found: dict[tuple[str, str, int], Judged] = {}
    for run in judged:
        key = (run.world, run.policy, run.seed)
        if key not in found or found[key].made_at < run.made_at:
            found[key] = run
    return list(found.values())


def named(trained: list[Trained]) -> list[Trained]:
    """Each with a name: its algorithm, and what its recipe differs in where others of that algorithm have another."""
    of: dict[tuple[str, str], list[Trained]] = {}
    for one in trained:
        of.setdefault((one.world, one.manifest.algorithm), []).append(one)
    result = []
    for group in of.values():
        differing = sorted({key for one in group for key in one.manifest.recipe if _differs(group, key)})
        for one in group:
            said = ", ".join(f"{key} {one.manifest.recipe.get(key)}" for key in differing)
            result.append(dataclasses.replace(one, name=f"{one.manifest.algorithm} ({said})" if said else one.manifest.algorithm))
    return sorted(result, key=lambda one: (one.world, one.name, one.seed, str(one.folder)))


def _differs(group: list[Trained], key: str) -> bool:
    return len({str(one.manifest.recipe.get(key)) for one in group}) > 1


def _refuse_mixed(found: Found) -> None:
    """One name, one world."""
    seen: dict[tuple[str, str], tuple[str, str]] = {}
    for name, kind, digest, where in (
        *((run.world, "judged", run.world_sha256, f"the run of {run.policy}, seed {run.seed}") for run in found.judged),
        *((one.world, "trained", one.manifest.world_sha256, str(one.folder)) for one in found.trained if not one.judged),
        *((run.world, "plans", run.plans_sha256, f"the run of {run.policy}, seed {run.seed}") for run in found.judged),
        *((one.world, "plans", one.manifest.plans_sha256, str(one.folder)) for one in found.trained if not one.judged),
    ):
        other, place = seen.setdefault((name, kind), (digest, where))
        if other != digest:
            raise ConfigError(
                f"two different worlds are called {name} ({place}: {other[:12]}, {where}: {digest[:12]}); report them apart, or rename one"
            )

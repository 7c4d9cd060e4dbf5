"""A whole sweep: what is not there yet is made, here or on a cluster, and everything ends in one table."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutlayer import __version__
from cutlayer.agents import runs as manifests
from cutlayer.agents.sweep import local, plan, results
from cutlayer.agents.sweep.work import attempt
from cutlayer.errors import ConfigError
from cutlayer.files import write_atomic
from cutlayer.profiles import machine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from cutlayer.agents.sweep.grid import Grid
    from cutlayer.agents.sweep.plan import Run
    from cutlayer.agents.sweep.results import Finished
    from cutlayer.agents.sweep.work import Outcome

    # Runs and where each may write, to runs as they end with what became of them.
    Executor = Callable[[Sequence[Run], Callable[[Run], Path]], Iterator[tuple[Run, Outcome]]]

TABLE_EVERY_S = 10.0  # our choice: what a kill may cost of the table; `run.json` of a finished run is never lost
PILOT = 20  # a pilot of a learner takes a twentieth of its steps: our choice, seconds for most


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep came to: how many runs there are, how many were there before and how many were made, and what failed, by key."""

    table: Path
    runs: int
    before: int
    made: int
    errors: dict[str, str]


@dataclass(frozen=True, slots=True)
class Estimate:
    """What is still to do of a sweep, in seconds of one processor, and what that is reckoned from."""

    runs: int
    left: int
    cpu_s: float
    source: str


def sweep(grid: Grid, out: Path, executor: Executor, report: Callable[[float], None] = lambda _share: None) -> Swept:
    """Make every run of the grid that `out` does not hold.

    Raises:
        ConfigError: the grid is wrong, or `out` holds something else.
        KeyboardInterrupt: it was cut off; the table then holds what is done.
    """
    runs = plan.runs(grid)
    done, left = _parted(out, runs)
    before, errors = len(done), dict[str, str]()
    command = machine.command_line()
    write_atomic(out / results.GRID, grid.file.read_bytes())
    report(before / len(runs))
    written_s = time.monotonic()
    try:
        for run, outcome in executor(left, lambda run: results.folder_of(out, run)):
            one = results.keep(out, run, outcome, command)
            if one is None:
                errors[run.key] = outcome.error or "no result"
            else:
                done[run.key] = one
            report((len(done) + len(errors)) / len(runs))
            if time.monotonic() - written_s > TABLE_EVERY_S:
                results.write(out, runs, done, errors)
                written_s = time.monotonic()
    finally:
        table = results.write(out, runs, done, errors)
        _sign(out, runs, done, errors)
    return Swept(table, len(runs), before, len(done) - before, errors)


def _parted(out: Path, runs: Sequence[Run]) -> tuple[dict[str, Finished], list[Run]]:
    """What is done, and what is not, ordered by world and policy: what a process keeps of one run serves the next."""
    done = {run.key: one for run in runs if (one := results.finished(out, run)) is not None}
    left = [run for run in runs if run.key not in done]
    return done, sorted(left, key=lambda run: (run.world_sha256, run.policy))


def _sign(out: Path, runs: Sequence[Run], done: dict[str, Finished], errors: dict[str, str]) -> None:
    """The sweep's own `run.json`; what is of one world or policy stands in those of the runs."""
    content: dict[str, object] = {
        "version": __version__,
        "commit": manifests.commit(),
        "command": machine.command_line(),
        "date": machine.today(),
        "seeds": sorted({run.seed for run in runs}),
        "machine": {"cpu": machine.cpu_name(), "load_average": machine.load_average()},
        "runs": len(runs),
        "finished": len(done),
        "failed": errors,
        "cpu_s": sum(one.cpu_s for one in done.values()),
    }
    manifests.write(out, results.RUN, content)


def estimate(grid: Grid, out: Path, report: Callable[[float], None] = lambda _share: None) -> Estimate:
    """How long what is left would take: reckoned from runs that are finished in `out`, else from one that is tried and thrown away.

    Raises:
        ConfigError: the grid is wrong, or its first run fails.
    """
    runs = plan.runs(grid)
    done, left = _parted(out, runs)
    if done:
        spent: dict[str, list[float]] = {}
        for one in done.values():
            spent.setdefault(one.policy, []).append(one.cpu_s)
        everything = [seconds for of in spent.values() for seconds in of]
        mean = {policy: sum(of) / len(of) for policy, of in spent.items()}
        other = sum(everything) / len(everything)
        return Estimate(len(runs), len(left), sum(mean.get(run.policy, other) for run in left), f"{len(done)} finished runs in {out}")
    seconds, source = _pilot(runs[0], report)
    return Estimate(len(runs), len(left), seconds * len(left), source)


def _pilot(run: Run, report: Callable[[float], None]) -> tuple[float, str]:
    """CPU seconds of one run in a process that has compiled what it needs."""
    shorter, times = run, 1.0
    if run.recipe is not None:
        shorter = dataclasses.replace(run, recipe=dataclasses.replace(run.recipe, steps=max(1, run.recipe.steps // PILOT)))
        times = run.recipe.steps / shorter.recipe.steps
    with tempfile.TemporaryDirectory() as folder:
        records: list[dict[str, Any]] = []
        for name in ("first", "second"):  # the first one compiles
            outcome = attempt(shorter, Path(folder) / name)
            if outcome.record is None:
                raise ConfigError(f"the pilot of {run.policy} failed: {outcome.error}")
            records.append(outcome.record)
            report(len(records) / 2)
    trained, whole = records[1]["training_cpu_s"], records[1]["cpu_s"]
    said = f"one pilot, {run.policy}, the grid's first run"
    return trained * times + whole - trained, said if times == 1.0 else f"{said}, on {shorter.recipe.steps} of {run.recipe.steps} steps"


def on_this_machine(jobs: int) -> Executor:
    """Runs on `jobs` processes."""
    return lambda runs, folder: local.processes(runs, folder, jobs)


def on_ray(address: str) -> Executor:
    """Runs on a Ray cluster."""
    from cutlayer.agents.sweep import cluster

    return lambda runs, folder: cluster.tasks(runs, folder, address)

"""The command `cutlayer sweep`: make every run of a grid that is not there yet, and one table of all."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutlayer.options import command, positive, show

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator


def sweep(options: argparse.Namespace) -> None:
    """`cutlayer sweep`."""
    from cutlayer.agents.sweep import grid, job

    given = grid.load(options.grid)
    if options.dry_run:
        with rich_bar(f"pilot of {options.grid.name}") as report:
            found = job.estimate(given, options.out, report)
        jobs = 1 if options.ray else options.jobs
        result = {**dataclasses.asdict(found), "jobs": jobs, "wall_s": found.cpu_s / jobs}
        text = f"{found.runs} runs, {found.left} of them to make: about {_long(found.cpu_s)} of processor time"
        show(options, result, f"{text}, {_long(found.cpu_s / jobs)} on {jobs} (from {found.source})")
        return
    executor = job.on_ray(options.ray) if options.ray else job.on_this_machine(options.jobs)
    with rich_bar(f"sweep {options.grid.name}") as report:
        swept = job.sweep(given, options.out, executor, report)
    text = f"{swept.table}: {swept.runs} runs, {swept.before} of them there before, {swept.made} made, {len(swept.errors)} failed"
    result = {**dataclasses.asdict(swept), "table": str(swept.table)}
    show(options, result, f"{text}\nnext: cutlayer report {options.out}")
    if swept.errors:
        for key, error in swept.errors.items():
            print(f"cutlayer: run {key} failed: {error}", file=sys.stderr)
        raise SystemExit(1)


def _long(seconds: float) -> str:
    """A length of time in the unit in which it is said."""
    if seconds < 120:  # our choice, as the next: two of a unit say more than a fraction of the next
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


@contextlib.contextmanager
def rich_bar(name: str) -> Iterator[Callable[[float], None]]:
    """A bar with the time left on a terminal, nothing in a pipe."""
    if not sys.stderr.isatty():
        yield lambda _share: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(name, total=1.0)
        yield lambda share: bar.update(task, completed=share)


def add(commands: Any) -> None:
    """Add the command to the parser's."""
    text = "make every run of a grid, on local processes or a Ray cluster; the same command again makes only what is missing"
    one = command(commands, "sweep", sweep, text, "cutlayer sweep grid.toml -o runs/sweep --jobs 2")
    one.add_argument("grid", type=Path, metavar="GRID", help="a TOML file with [grid], and [fixed] and [sample] where needed")
    one.add_argument("-o", "--out", type=Path, required=True, metavar="DIR", help="where runs and results.parquet go")
    one.add_argument(
        "--jobs", type=positive, default=os.cpu_count() or 1, metavar="N", help="processes (one for each processor without it)"
    )
    one.add_argument("--dry-run", action="store_true", help="print the number of runs and how long they would take, and make none")
    one.add_argument("--ray", metavar="auto|ADDRESS", help="run them as tasks of this Ray cluster")

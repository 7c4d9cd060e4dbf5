"""What a sweep leaves: a `run.json` for each finished run, and one row for each in `results.parquet`.

    DIR/grid.toml                  the grid as it was given
    DIR/run.json                   version, commit, command line, machine; how many runs, finished and failed
    DIR/results.parquet            one row a run, in the grid's order; written again from time to time, at the end, and when cut off
    DIR/runs/KEY/run.json          one run, of the shape that the benchmark's have; `fields` is what the grid told it
    DIR/runs/KEY/training/         the run folder of a learner

The table holds nothing that differs from one doing to another (no times of computing, no dates, no machine): the same grid gives the same
table, byte for byte, however often it was cut off and wherever it ran. `run` is KEY, `world_sha256` the digest of the world; then come the
grid's own keys, whose units stand in their names; then figures a request: reward_mean; score, score_low, score_high (95 %), headroom with
`scored = true`; latency_*_s; miss_rate, miss_low, miss_high (95 %); accuracy; energy_j; requests_total, misses; share_KNOB_VALUE of all
requests. A failed run has `error` and no figures.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import msgspec
import polars as pl

from cutlayer.agents import runs as manifests
from cutlayer.errors import ConfigError
from cutlayer.files import write_atomic

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from cutlayer.agents.sweep.plan import Run
    from cutlayer.agents.sweep.work import Outcome

RUN, TABLE, GRID, RUNS = "run.json", "results.parquet", "grid.toml", "runs"
FIGURES = ("reward_mean", "score", "headroom", "latency_p50_s", "latency_p95_s", "latency_p99_s", "miss_rate", "accuracy", "energy_j")
INTERVALS = ("score", "miss")
COUNTS = {"requests": "requests_total", "misses": "misses"}  # `requests` is a field of scenarios


class Finished(msgspec.Struct, frozen=True):
    """Of a finished run what the table and an estimate need."""

    key: str
    policy: str
    figures: dict[str, Any]
    cpu_s: float
    training_cpu_s: float


def folder_of(out: Path, run: Run) -> Path:
    """Where a run's own files lie."""
    return out / RUNS / run.key


def finished(out: Path, run: Run) -> Finished | None:
    """The run, where it is done.

    Raises:
        ConfigError: what lies there is no run.
    """
    file = folder_of(out, run) / RUN
    try:
        return msgspec.json.decode(file.read_bytes(), type=Finished)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise ConfigError(f"{file} is no run of a sweep ({error}); remove its folder, and it is made again") from error


def keep(out: Path, run: Run, outcome: Outcome, command: str) -> Finished | None:
    """Write the `run.json` of a run that came to its end; a failed one leaves none, and is tried again by the next call."""
    if outcome.record is None:
        return None
    content = {**outcome.record, "fields": run.fields, "command": command}  # a worker's own command line says nothing
    manifests.write(folder_of(out, run), RUN, content)
    return msgspec.convert(msgspec.to_builtins(content), Finished)


def write(out: Path, runs: Sequence[Run], done: Mapping[str, Finished], errors: Mapping[str, str]) -> Path:
    """The table of all runs that finished or failed."""
    rows = [_row(run, done.get(run.key), errors.get(run.key)) for run in runs if run.key in done or run.key in errors]
    shares = sorted({key for row in rows for key in row if key.startswith("share_")}, key=_by_knob)
    fields = list(dict.fromkeys(key for run in runs for key in run.fields))
    numbers = [*FIGURES, *(f"{name}_{end}" for name in INTERVALS for end in ("low", "high"))]
    columns: list[pl.Series] = [_series(name, [row.get(name) for row in rows]) for name in ("run", "world_sha256")]
    columns += [_series(name, [row["fields"].get(name) for row in rows]) for name in fields]
    columns += [pl.Series(name, [row.get(name) for row in rows], pl.Float64) for name in numbers]
    columns += [pl.Series(name, [row.get(name) for row in rows], pl.Int64) for name in COUNTS.values()]
    # What one run never chose another did: where a run has figures at all, its share is 0.
    columns += [pl.Series(name, [row.get(name, None if row["error"] else 0.0) for row in rows], pl.Float64) for name in shares]
    columns += [pl.Series("error", [row["error"] for row in rows], pl.String)]
    held = io.BytesIO()
    pl.DataFrame(columns).write_parquet(held)
    write_atomic(out / TABLE, held.getvalue())
    return out / TABLE


def _row(run: Run, one: Finished | None, error: str | None) -> dict[str, Any]:
    row: dict[str, Any] = {"run": run.key, "world_sha256": run.world_sha256, "fields": run.fields, "error": error if one is None else None}
    if one is None:
        return row
    row |= {name: one.figures.get(name) for name in FIGURES}  # a score only where it was asked for
    row |= {column: one.figures[name] for name, column in COUNTS.items()}
    for name in INTERVALS:
        row |= dict(zip((f"{name}_low", f"{name}_high"), one.figures.get(f"{name}_ci95") or (None, None), strict=True))
    return row | {f"share_{knob}_{value}": share for knob, values in one.figures["share"].items() for value, share in values.items()}


def _by_knob(name: str) -> tuple[str, int]:
    _, knob, value = name.split("_")
    return knob, int(value)


def _series(name: str, values: list[Any]) -> pl.Series:
    """A column of plain values of one kind; whole numbers beside others become numbers, anything mixed becomes JSON."""
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float} and len(kinds) == 2:
        return pl.Series(name, values, pl.Float64, strict=False)
    if len(kinds) <= 1 and kinds <= {bool, int, float, str}:
        return pl.Series(name, values)
    texts = [value if isinstance(value, str) or value is None else msgspec.json.encode(value).decode() for value in values]
    return pl.Series(name, texts, pl.String)

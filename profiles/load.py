"""Read and write tables; a table that is read is whole, plausible and of this version.

Built-in tables are found by name, others by path.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec

from cutlayer.errors import ProfileError
from cutlayer.files import write_atomic
from cutlayer.profiles.schema import SCHEMA_VERSION, AccuracyTable, ModelProfile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cutlayer.profiles.schema import Cell, Timing

BUILT_IN = Path(__file__).parent / "data"
LONGEST_S = 3600.0  # a layer that takes over an hour is a wrong unit

T = TypeVar("T", ModelProfile, AccuracyTable)


def profile(name_or_path: str | Path) -> ModelProfile:
    """The model profile of that built-in name or path, checked.

    Raises:
        ProfileError: it is missing, malformed, of another version or implausible.
    """
    path = _find(name_or_path)
    table = _read(path, ModelProfile)
    _check_profile(table, path)
    return table


def accuracy(name_or_path: str | Path) -> AccuracyTable:
    """The accuracy table of that built-in name or path, checked; raises as `profile` does."""
    path = _find(name_or_path)
    table = _read(path, AccuracyTable)
    if table.images < 1:
        raise ProfileError(f"{table.images} images in {path} measure nothing; measure the table on labelled images")
    for plan in table.plans:
        if not 0 <= plan.correct <= table.images:
            where = f"exit {plan.exit}, partition {plan.partition}, {plan.bits} bits"
            raise ProfileError(f"{plan.correct} right answers of {table.images} images at {where} in {path}; measure the table anew")
    return table


def save(table: ModelProfile | AccuracyTable, path: Path) -> None:
    """Write `table` as indented JSON, whole or not at all."""
    write_atomic(path, msgspec.json.format(msgspec.json.encode(table), indent=1) + b"\n")


def _find(name_or_path: str | Path) -> Path:
    path = Path(name_or_path)
    built_in = BUILT_IN / f"{name_or_path}.json"
    for candidate in (path, built_in):
        # A name too long for a file exists nowhere; Path.exists raises for it before Python 3.12.
        if os.path.exists(candidate):  # noqa: PTH110 - it never raises
            return candidate
    known = ", ".join(sorted(file.stem for file in BUILT_IN.glob("*.json")))
    raise ProfileError(f"no table {str(name_or_path)!r}; give the path of a JSON file or a built-in name: {known}")


def _read(path: Path, kind: type[T]) -> T:
    try:
        table = msgspec.json.decode(path.read_bytes(), type=kind)
    except OSError as error:
        raise ProfileError(f"cannot read {path}: {error.strerror}; check the path and its permissions") from error
    except msgspec.ValidationError as error:
        raise ProfileError(f"{path} is not a {kind.__name__}: {error}; compare it with a built-in table") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ProfileError(f"{path} is not whole JSON: {error}; copy or measure it again") from error
    if table.schema_version != SCHEMA_VERSION:
        raise ProfileError(f"{path} has schema version {table.schema_version}, this cutlayer reads {SCHEMA_VERSION}; measure it anew")
    return table


def _timings(table: ModelProfile) -> Iterator[tuple[str, Timing]]:
    yield "whole", table.whole
    for cost in (*table.layers, *table.heads):
        yield cost.name, cost.time
    for codec in table.codecs:
        yield f"encode of cut {codec.cut} at {codec.bits} bits", codec.encode
        yield f"decode of cut {codec.cut} at {codec.bits} bits", codec.decode
    for piece in (*table.prefixes, *table.suffixes):
        where = f"prefix {piece.cut}" if piece.exit is None else f"suffix {piece.cut} of exit {piece.exit}"
        yield where, piece.time
        if piece.load is not None:
            yield f"load of {where}", piece.load
    if table.preprocess is not None:
        yield "preprocess", table.preprocess.time
    if table.postprocess is not None:
        yield "postprocess", table.postprocess


def _check_profile(table: ModelProfile, path: Path) -> None:
    for name, timing in _timings(table):
        for clock, cell in (("wall", timing.wall), ("cpu", timing.cpu)):
            _check_cell(cell, f"{name} ({clock}) in {path}")
    ordered = all(a < b for a, b in zip(table.depths, table.depths[1:], strict=False))
    if not table.depths or not ordered or table.depths[0] < 1 or table.depths[-1] != len(table.layers):
        raise ProfileError(f"depths {table.depths} in {path} must rise from at least 1 to the number of layers, {len(table.layers)}")
    if len(table.heads) != len(table.depths):
        raise ProfileError(f"{len(table.heads)} heads for {len(table.depths)} exits in {path}; one head an exit is needed")
    if not math.isfinite(table.busy_w) or table.busy_w < 0:
        raise ProfileError(f"busy_w {table.busy_w} in {path} is no power; give watts")


def _check_cell(cell: Cell, where: str) -> None:
    for field in ("mean_s", "std_s", "p50_s", "p95_s", "p99_s"):
        value = getattr(cell, field)
        if not math.isfinite(value) or value < 0:
            raise ProfileError(f"{field} {value} of {where} is no duration; measure it anew")
        if value > LONGEST_S:
            raise ProfileError(f"{field} {value} of {where} is over an hour; are these milliseconds? The unit is seconds")
    if cell.n < 1:
        raise ProfileError(f"n {cell.n} of {where}: a cell needs at least one run")

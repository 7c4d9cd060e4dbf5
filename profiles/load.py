"""Read and write tables; a table that is read is whole, plausible and of this version, or was brought to it.

Built-in tables are found by name, others by path. Every kind of table, here and in the modules beside this one, is read
by `read`, and an older version of any is upgraded by `UPGRADES`; what is newer is refused.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from cutlayer.errors import ProfileError
from cutlayer.files import write_atomic
from cutlayer.profiles.schema import SCHEMA_VERSION, AccuracyTable, ModelProfile, Table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from cutlayer.profiles.schema import Cell, Sizes, Timing

BUILT_IN = Path(__file__).parent / "data"
LONGEST_S = 3600.0  # a layer that takes over an hour is a wrong unit

T = TypeVar("T", bound=Table)


def _to_2(table: dict[str, Any]) -> dict[str, Any]:
    """Version 2 adds keys that may be left out; what version 1 says, it says in the same words."""
    return {**table, "schema_version": 2}


# By the version of a file: what makes the next version of it, on the decoded JSON, for every kind of table.
UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _to_2}


class _Version(msgspec.Struct):
    """What can be read of a table of any kind and version."""

    schema_version: int


def profile(name_or_path: str | Path) -> ModelProfile:
    """The model profile of that built-in name or path, checked.

    Raises:
        ProfileError: it is missing, malformed, of another version or implausible.
    """
    path = find(name_or_path)
    table = read(path, ModelProfile)
    _check_profile(table, path)
    return table


def accuracy(name_or_path: str | Path) -> AccuracyTable:
    """The accuracy table of that built-in name or path, checked; raises as `profile` does."""
    path = find(name_or_path)
    table = read(path, AccuracyTable)
    _check_accuracy(table, path)
    return table


def read(path: Path, kind: type[T], again: str = "measure it anew") -> T:
    """A table of that kind and of this version from its JSON; `again` says how such a table is made. Its figures are not checked yet.

    Raises:
        ProfileError: it is missing, no JSON, of another kind, or of a version that is not known here.
    """
    try:
        data = path.read_bytes()
        version = msgspec.json.decode(data, type=_Version).schema_version
        if version == SCHEMA_VERSION:
            return msgspec.json.decode(data, type=kind)
        if version in UPGRADES:
            table = msgspec.json.decode(data, type=dict[str, Any])
            for old in range(version, SCHEMA_VERSION):
                table = UPGRADES[old](table)
            return msgspec.convert(table, kind)
    except OSError as error:
        raise ProfileError(f"cannot read {path}: {error.strerror}; check the path and its permissions") from error
    except msgspec.ValidationError as error:
        raise ProfileError(f"{path} is not a {kind.__name__}: {error}; compare it with a built-in table, or {again}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProfileError(f"{path} is not whole JSON: {error}; copy it again, or {again}") from error
    mend = f"update cutlayer, or {again}" if version > SCHEMA_VERSION else again
    raise ProfileError(f"{path} has schema version {version}, this cutlayer reads {min(UPGRADES)} to {SCHEMA_VERSION}; {mend}")


def keys(path: Path) -> set[str]:
    """The keys of a JSON file, by which kinds of tables are told apart; none where it is no JSON object."""
    try:
        return set(msgspec.json.decode(path.read_bytes(), type=dict[str, msgspec.Raw]))
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return set()


def save(table: Table, path: Path) -> None:
    """Write `table` as indented JSON, whole or not at all."""
    write_atomic(path, msgspec.json.format(msgspec.json.encode(table), indent=1) + b"\n")


def find(name_or_path: str | Path) -> Path:
    """The file of that path or built-in name.

    Raises:
        ProfileError: there is none.
    """
    path = Path(name_or_path)
    built_in = BUILT_IN / f"{name_or_path}.json"
    for candidate in (path, built_in):
        # A name too long for a file exists nowhere; Path.exists raises for it before Python 3.12.
        if os.path.exists(candidate):  # noqa: PTH110 - it never raises
            return candidate
    known = ", ".join(sorted(file.stem for file in BUILT_IN.glob("*.json")))
    raise ProfileError(f"no table {str(name_or_path)!r}; give the path of a JSON file or a built-in name: {known}")


def _timings(table: ModelProfile) -> Iterator[tuple[str, Timing]]:
    yield "whole", table.whole
    for cost in (*table.layers, *table.heads):
        yield cost.name, cost.time
    for codec in table.codecs:
        where = f"of cut {codec.cut} at {codec.bits} bits ({codec.codec})"
        yield f"encode {where}", codec.encode
        yield f"decode {where}", codec.decode
    for piece in (*table.prefixes, *table.suffixes):
        where = f"prefix {piece.cut}" if piece.exit is None else f"suffix {piece.cut} of exit {piece.exit}"
        yield where, piece.time
        if piece.load is not None:
            yield f"load of {where}", piece.load
    if table.preprocess is not None:
        yield "preprocess", table.preprocess.time
    if table.postprocess is not None:
        yield "postprocess", table.postprocess
    for unit in table.units:
        yield f"swap of {unit.name} at cut {unit.cut}", unit.swap


def _check_profile(table: ModelProfile, path: Path) -> None:
    for name, timing in _timings(table):
        for clock, cell in (("wall", timing.wall), ("cpu", timing.cpu)):
            _check_cell(cell, f"{name} ({clock}) in {path}")
    if not min(table.whole.wall.p50_s, table.whole.cpu.p50_s, table.whole.cpu.mean_s) > 0:
        raise ProfileError(f"whole in {path} takes no time; measure it anew")
    ordered = all(a < b for a, b in zip(table.depths, table.depths[1:], strict=False))
    if not table.depths or not ordered or table.depths[0] < 1 or table.depths[-1] != len(table.layers):
        raise ProfileError(f"depths {table.depths} in {path} must rise from at least 1 to the number of layers, {len(table.layers)}")
    if len(table.heads) != len(table.depths):
        raise ProfileError(f"{len(table.heads)} heads for {len(table.depths)} exits in {path}; one head an exit is needed")
    _check_once((f"cut {cost.cut} at {cost.bits} bits ({cost.codec})" for cost in table.codecs), path)
    _check_once((f"unit {unit.name} at cut {unit.cut}" for unit in table.units), path)
    for unit in table.units:
        if min(unit.encoder_bytes, unit.decoder_bytes, unit.channels, *unit.code_shape) < 1 or not 1 <= unit.cut <= len(table.layers):
            raise ProfileError(f"unit {unit.name} at cut {unit.cut} in {path} has a size below 1 or no such cut; measure it anew")
    for name, power_w in (("busy_w", table.busy_w), ("idle_w", table.idle_w)):
        if power_w is not None and not 0 <= power_w < math.inf:
            raise ProfileError(f"{name} {power_w} in {path} is no power; give watts")
    if table.idle_w is not None and table.idle_w > table.busy_w:
        raise ProfileError(f"idle_w {table.idle_w} in {path} is above busy_w {table.busy_w}; are the two exchanged?")


def _check_accuracy(table: AccuracyTable, path: Path) -> None:
    if table.images < 1:
        raise ProfileError(f"{table.images} images in {path} measure nothing; measure the table on labelled images")
    for plan in table.plans:
        if not 0 <= plan.correct <= table.images:
            where = f"exit {plan.exit}, partition {plan.partition}, {plan.bits} bits"
            raise ProfileError(f"{plan.correct} right answers of {table.images} images at {where} in {path}; measure the table anew")
    _check_once((f"exit {p.exit}, partition {p.partition}, {p.bits} bits ({p.codec})" for p in table.plans), path)
    for payload in table.payloads:
        check_sizes(payload.sizes, f"cut {payload.cut} at {payload.bits} bits ({payload.codec}) in {path}")


def _check_once(names: Iterable[str], path: Path) -> None:
    """One thing that is there twice would be read as either."""
    for name, times in Counter(names).items():
        if times > 1:
            raise ProfileError(f"{name} is there {times} times in {path}; keep one, or measure it anew")


def check_sizes(sizes: Sizes, where: str) -> None:
    """Refuse lengths that no encoded images can have; raises ProfileError that names `where`."""
    for field in ("mean_bytes", "std_bytes", "p50_bytes", "p95_bytes", "p99_bytes"):
        value = getattr(sizes, field)
        if not 0 <= value < math.inf or (value < 1 and field != "std_bytes"):
            raise ProfileError(f"{field} {value} of {where} is no size; measure it anew")
    if not sizes.p50_bytes <= sizes.p95_bytes <= sizes.p99_bytes:
        raise ProfileError(f"p50_bytes, p95_bytes, p99_bytes of {where} do not rise; measure it anew")
    if sizes.n < 1:
        raise ProfileError(f"n {sizes.n} of {where}: sizes need at least one image; measure it anew")


def _check_cell(cell: Cell, where: str) -> None:
    for field in ("mean_s", "std_s", "p50_s", "p95_s", "p99_s"):
        value = getattr(cell, field)
        if not math.isfinite(value) or value < 0:
            raise ProfileError(f"{field} {value} of {where} is no duration; measure it anew")
        if value > LONGEST_S:
            raise ProfileError(f"{field} {value} of {where} is over an hour; are these milliseconds? The unit is seconds")
    if not cell.p50_s <= cell.p95_s <= cell.p99_s:
        raise ProfileError(f"p50_s {cell.p50_s}, p95_s {cell.p95_s}, p99_s {cell.p99_s} of {where} do not rise; measure it anew")
    if cell.n < 1:
        raise ProfileError(f"n {cell.n} of {where}: a cell needs at least one run")

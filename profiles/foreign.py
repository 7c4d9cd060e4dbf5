"""Tables of other people: rows of a foreign CSV file read with suspicion, and the imported table on disk.

Nothing in a foreign file is run or trusted: it is text in columns that are known by name, a number is plain ASCII
digits, and what does not fit ends in one `ProfileError` that names the value, the line and the mend.
"""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cutlayer.errors import ProfileError
from cutlayer.profiles import load as tables
from cutlayer.profiles.schema import ImportedCost, ImportedMachine, ImportedTable, ImportedTime

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from pathlib import Path

LARGEST_BYTES = 64 << 20  # a choice: 70 times the largest table known here (ncnn, 0.9 MB)
SHOWN = 60  # a choice: characters of a foreign value that an error repeats
LONGEST_S = tables.LONGEST_S  # an inference that takes over an hour is a wrong unit
PER_SECOND = {"s": 1.0, "ms": 1e3, "us": 1e6}  # by the unit that ends a column's name (SI)
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)  # float() alone also takes 1_0, nan and other scripts' digits
PROVENANCE = "PROVENANCE.md"  # a table | field | value | beside a data file


@dataclass(frozen=True, slots=True)
class Origin:
    """Who made a table, and on what terms it may be used."""

    source: str
    licence: str
    citation: str


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a foreign table; every reader of a cell refuses what it cannot take at its word."""

    path: Path
    line: int
    cells: Mapping[str, str]

    def wrong(self, column: str, what: str, mend: str) -> ProfileError:
        """The error about one cell, to be raised by the caller."""
        return ProfileError(f"{column} {self.cells[column][:SHOWN]!r} in {self.path} line {self.line} {what}; {mend}")

    def has(self, column: str) -> bool:
        """Whether the column is there and the cell is not empty."""
        return bool(self.cells.get(column))

    def text(self, column: str) -> str:
        """A name that is not empty and stays on one line.

        Raises:
            ProfileError: it is empty or holds control characters.
        """
        value = self.cells[column]
        if not value or not value.isprintable():
            raise self.wrong(column, "is no name", "give printable text")
        return value

    def number(self, column: str) -> float:
        """A finite number that is not negative, in the unit of the column.

        Raises:
            ProfileError: it is no such number.
        """
        value = self.cells[column]
        if not NUMBER.fullmatch(value):
            raise self.wrong(column, "is no number", "give digits with a decimal point")
        number = float(value)
        if not math.isfinite(number):
            raise self.wrong(column, "is too large", "give a finite number")
        if number < 0:
            raise self.wrong(column, "is negative", "mend the line or leave it out")
        return number

    def whole(self, column: str, least: int = 0) -> int:
        """A whole number of at least `least`.

        Raises:
            ProfileError: it is no such number.
        """
        number = self.number(column)
        if number != int(number) or number < least:
            raise self.wrong(column, f"is no whole number of at least {least}", "mend the line or leave it out")
        return int(number)

    def seconds(self, column: str) -> float:
        """A duration in seconds, from a column whose name ends in its unit: `_s`, `_ms` or `_us`.

        Raises:
            ProfileError: it is no duration, or over an hour.
        """
        unit = column.rsplit("_", 1)[-1]
        duration_s = self.number(column) / PER_SECOND[unit]
        if duration_s > LONGEST_S:
            smaller = {"s": "milliseconds", "ms": "microseconds", "us": "nanoseconds"}[unit]
            raise self.wrong(column, f"is over an hour in {unit}", f"are these {smaller}? Name the column by its unit")
        return duration_s


@dataclass(frozen=True, slots=True)
class Sheet:
    """A whole foreign file: its columns in order, its rows, and the digest of its bytes."""

    path: Path
    sha256: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]


def sheet(path: Path, known: Collection[str], required: Collection[str]) -> Sheet:
    """Read a CSV file (RFC 4180, UTF-8, one header line) whose columns are all known; cells are stripped of blanks.

    Raises:
        ProfileError: it cannot be read, is empty, too large, no text, has an unknown, missing or repeated column, or a
            line with more or fewer cells than the header.
    """
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_BYTES + 1)
    except OSError as error:
        raise ProfileError(f"cannot read {path}: {error.strerror}; check the path and its permissions") from error
    if len(data) > LARGEST_BYTES:
        raise ProfileError(f"{path} has over {LARGEST_BYTES >> 20} MiB; is it a table of latencies? Cut it to the rows you need")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ProfileError(f"byte {data[error.start]:#04x} at {error.start} in {path} is no UTF-8; save it as CSV in UTF-8") from error
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    lines: list[tuple[int, list[str]]] = []
    try:
        lines.extend((reader.line_num, [cell.strip() for cell in line]) for line in reader if line)
    except csv.Error as error:
        raise ProfileError(f"{path} line {reader.line_num} is no CSV: {error}; is the file truncated?") from error
    if not lines:
        raise ProfileError(f"{path} is empty; give a CSV file with the columns {', '.join(required)}")
    columns = tuple(lines[0][1])
    _check_header(path, columns, known, required)
    if len(lines) == 1:
        raise ProfileError(f"{path} has a header and no rows; is it truncated?")
    for number, cells in lines:
        if len(cells) != len(columns):
            raise ProfileError(f"{len(cells)} cells in {path} line {number} under {len(columns)} columns; is the file truncated?")
    rows = tuple(Row(path, number, dict(zip(columns, cells, strict=True))) for number, cells in lines[1:])
    return Sheet(path, hashlib.sha256(data).hexdigest(), columns, rows)


def _check_header(path: Path, columns: tuple[str, ...], known: Collection[str], required: Collection[str]) -> None:
    for column in columns:
        if column not in known:
            raise ProfileError(f"unknown column {column[:SHOWN]!r} in {path} line 1; this format has: {', '.join(known)}")
        if columns.count(column) > 1:
            raise ProfileError(f"column {column!r} is there {columns.count(column)} times in {path} line 1; keep one")
    for column in required:
        if column not in columns:
            raise ProfileError(f"no column {column!r} in {path} line 1; this format needs: {', '.join(required)}")


def origin(path: Path, otherwise: Origin) -> Origin:
    """Source, licence and citation from `PROVENANCE.md` beside the file, and `otherwise` where it says nothing."""
    try:
        lines = (path.parent / PROVENANCE).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return otherwise
    cells = [[cell.strip() for cell in line.strip().strip("|").split("|", 1)] for line in lines if line.startswith("|")]
    said = {pair[0]: pair[1] for pair in cells if len(pair) == 2 and pair[1]}
    repository, commit, inside = said.get("source repository", ""), said.get("commit", ""), said.get("path in it", "")
    named = repository + (f"@{commit[:12]}" if commit else "") + (f", {inside}" if inside else "")
    return Origin(
        source=named if repository else otherwise.source,
        licence=said.get("licence", otherwise.licence),
        citation=said.get("cite", otherwise.citation),
    )


def check_time(time: ImportedTime, where: str) -> None:
    """Refuse a duration that contradicts itself.

    Raises:
        ProfileError: a figure is no duration or over an hour, the order min, mean, max or p50, p95, p99, max is broken, or n < 1.
    """
    for name in ("mean_s", "min_s", "max_s", "std_s", "p50_s", "p95_s", "p99_s"):
        value = getattr(time, name)
        if value is not None and not 0 <= value <= LONGEST_S:
            raise ProfileError(f"{name} {value} of {where} is negative or over an hour; the unit is seconds")
    for names in (("min_s", "mean_s", "max_s"), ("min_s", "p50_s", "p95_s", "p99_s", "max_s")):
        rising = [(name, getattr(time, name)) for name in names if getattr(time, name) is not None]
        for (low, less), (high, more) in itertools.pairwise(rising):
            if less > more:
                raise ProfileError(f"{low} {less} of {where} is above its {high} {more}; are two columns exchanged?")
    if time.n is not None and time.n < 1:
        raise ProfileError(f"n {time.n} of {where}: a mean needs at least one run")


def check_cost(cost: ImportedCost, where: str) -> None:
    """Refuse a part of a network whose figures are impossible; raises ProfileError that names `where`."""
    check_time(cost.time, where)
    for name in ("output_bytes", "output_elements", "compression_ratio", "power_w", "energy_j"):
        value = getattr(cost, name)
        if value is not None and not (0 <= value < math.inf):
            raise ProfileError(f"{name} {value} of {where} is impossible; read the source again")


def load(path: Path) -> ImportedTable:
    """Read an imported table, and check it.

    Raises:
        ProfileError: it is missing, malformed, of a version that is not known here, or implausible.
    """
    table = tables.read(path, ImportedTable, "import the source again")
    if not all(machine.models for machine in table.machines) or not table.machines:
        raise ProfileError(f"{path} has a machine without networks, or no machine; import the source again")
    for cost, where in costs(table):
        check_cost(cost, f"{where} in {path}")
    return table


def costs(table: ImportedTable) -> Iterator[tuple[ImportedCost, str]]:
    """Every part of every network, with words that say which it is."""
    for machine in table.machines:
        for model in machine.models:
            whole = () if model.whole is None else (model.whole,)
            for cost in (*whole, *model.blocks, *model.prefixes):
                yield cost, f"{cost.name} of {model.name} on {machine.provenance.machine}"


def whole_s(machine: ImportedMachine, statistic: str = "mean_s") -> dict[str, float]:
    """Seconds of every network of a machine: measured whole, else the sum of its blocks' means, else left out.

    A sum of blocks is what a chain of them costs; each was timed by itself in a loop, so it finds its weights in the
    cache and looks faster than a whole network. `statistic` is a field of ImportedTime; a sum is only of means.
    """
    seconds: dict[str, float] = {}
    for model in machine.models:
        if model.whole is not None:
            value = getattr(model.whole.time, statistic)
            if value is not None:
                seconds[model.name] = value
        elif model.blocks and statistic == "mean_s":
            seconds[model.name] = math.fsum(block.time.mean_s for block in model.blocks)
    return seconds


def summary(table: ImportedTable) -> dict[str, Any]:
    """The table in short, for a terminal or `--json`: per machine its networks, what is known of each, and its terms of use."""
    machines = []
    for machine in table.machines:
        seconds = whole_s(machine)
        models = [
            {
                "model": model.name,
                "seconds": seconds.get(model.name),
                "measured_whole": model.whole is not None,
                "blocks": len(model.blocks),
                "prefixes": len(model.prefixes),
            }
            for model in machine.models
        ]
        where = machine.provenance
        entry = {"machine": where.machine, "cpu": where.cpu, "threads": where.threads, "backend": where.backend, "clock": machine.clock}
        machines.append({**entry, "setting": machine.setting, "energy_method": where.energy_method, "models": models})
    terms = table.machines[0].provenance
    return {
        "format": table.format, "machines": machines, "source": terms.source, "source_sha256": terms.source_sha256,
        "licence": terms.licence, "citation": terms.citation,
    }  # fmt: skip

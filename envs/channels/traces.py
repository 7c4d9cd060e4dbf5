"""Measured uplink rates are replayed as they were measured: CSV files with named columns, and mahimahi's packet traces.

Every reader gives times in seconds from 0 and rates in bits per second; each rate holds until the next time.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cutlayer.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from numpy.typing import NDArray

# What the end of a column's name says of its values.
RATE_UNITS = {"_bps": 1.0, "_kbps": 1e3, "_mbps": 1e6, "_gbps": 1e9}
TIME_UNITS = {"_s": 1.0, "_ms": 1e-3}
# Where none is named, the first of these that a file has. The second says nothing of the direction: who replays it as an uplink says so.
RATE_COLUMNS = ("ul_mbps", "tput_mbps")
# An opportunity to deliver carries this many bytes (mm-link(1): "the ability to deliver 1500 bytes").
PACKET_BYTES = 1500
# Twelve days in bins of 100 ms: what claims to be longer is another file.
_MOST_BINS = 10_000_000


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """Replay of measured traces: a random start in a random file, the last value held, wrapped at the end.

    times_s and rates_bps hold one array a file; names say which files they are.
    """

    names: tuple[str, ...]
    times_s: tuple[NDArray[np.float64], ...]
    rates_bps: tuple[NDArray[np.float64], ...]

    def draw(self, rng: np.random.Generator, slots: int, slot_s: float) -> NDArray[np.float64]:
        """See `Channel`."""
        file = rng.integers(len(self.names))
        times, rates = self.times_s[file], self.rates_bps[file]
        at = (rng.uniform(0.0, length_s(times)) + np.arange(slots) * slot_s) % length_s(times)
        held: NDArray[np.float64] = rates[np.searchsorted(times, at, side="right") - 1]
        return held


def length_s(times: NDArray[np.float64]) -> float:
    """How long a trace lasts: its last sample holds as long as the median one."""
    return float(times[-1]) + float(np.median(np.diff(times)))


def _unit(path: Path, column: str, units: dict[str, float]) -> float:
    """What to multiply a column with; the longest matching end of its name says it."""
    ends = [end for end in units if column.lower().endswith(end)]
    if not ends:
        raise ConfigError(f"trace {path}: column {column!r} does not tell its unit; name it so that it ends in one of {', '.join(units)}")
    return units[max(ends, key=len)]


def read_trace(path: Path, column: str | None = None, time_column: str = "t_s") -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Times (s, from 0) and rates (b/s) of two columns of a CSV, whose names end in their units; empty rates are left out.

    Without `column` the rate is the first of `RATE_COLUMNS` that is there.

    Raises:
        ConfigError: the file is missing, a column or its unit is, or a value is no number, negative, or out of order.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"cannot read trace {path}: {error}; give a CSV with the columns {_asked(column, time_column)}") from error
    wanted = [name for name in ((column,) if column else RATE_COLUMNS) if rows and name in rows[0]]
    if not wanted or time_column not in rows[0]:
        have = ", ".join(map(str, rows[0])) if rows else "nothing"
        raise ConfigError(f"trace {path} has the columns {have}; it needs {_asked(column, time_column)}")
    column = wanted[0]
    second, bit_per_s = _unit(path, time_column, TIME_UNITS), _unit(path, column, RATE_UNITS)
    kept: list[tuple[float, float]] = []
    for line, row in enumerate(rows, start=2):
        if not row[column]:
            continue
        try:
            kept.append((float(row[time_column]), float(row[column])))
        except (TypeError, ValueError) as error:
            raise ConfigError(f"trace {path}, row {line}, holds a value that is no number ({error}); mend or remove it") from error
    times, rates = np.array([t for t, _ in kept]) * second, np.array([r for _, r in kept]) * bit_per_s
    bad = not (np.isfinite(times).all() and np.isfinite(rates).all()) or (rates < 0).any() or (np.diff(times) <= 0).any()
    if len(kept) < 2 or bad:
        raise ConfigError(
            f"trace {path} needs at least two rows with rising {time_column} and values of {column} that are finite and not negative"
        )
    return times - times[0], rates


def _asked(column: str | None, time_column: str) -> str:
    return f"{time_column} (time) and {column or ' or '.join(RATE_COLUMNS)} (rate)"


def read_mahimahi(path: Path, bin_s: float = 0.1) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Times and rates of a packet trace: each line is the millisecond at which 1500 bytes can leave, counted in bins.

    A bin that the trace ends inside is left out. 100 ms is what the field bins such traces in; finer bins see single packets.

    Raises:
        ConfigError: the file is missing, or is not a list of milliseconds that never fall and last two bins.
    """
    try:
        stamps = [int(line) for line in path.read_text(encoding="utf-8").split()]
    except OSError as error:
        raise ConfigError(f"cannot read trace {path}: {error}; give a mahimahi packet trace, one millisecond a line") from error
    except (UnicodeDecodeError, ValueError) as error:
        raise ConfigError(
            f"trace {path} is no mahimahi packet trace, one whole millisecond a line ({_short(error)}); a CSV's name must end in .csv"
        ) from error
    at_s = np.array(stamps, np.float64) * 1e-3
    # A stamp of 300 ms begins the fourth bin of 100 ms, though 0.3 / 0.1 is a hair under 3.
    index = np.floor(at_s / bin_s + 1e-9)
    if not stamps or not 2 <= index[-1] < _MOST_BINS or stamps[0] < 0 or (np.diff(at_s) < 0).any():
        raise ConfigError(
            f"trace {path} needs milliseconds from 0 on that never fall, and lasts from two to {_MOST_BINS} bins of {bin_s:g} s; "
            "mend or cut it"
        )
    bins = int(index[-1])
    packets = np.bincount(index[index < bins].astype(np.int64), minlength=bins)
    return np.arange(bins, dtype=np.float64) * bin_s, packets.astype(np.float64) * (8.0 * PACKET_BYTES / bin_s)


def _short(error: Exception) -> str:
    """An exception in a few words: what it quotes may be a whole binary file."""
    text = " ".join(str(error).split())
    return text if len(text) <= 80 else f"{text[:77]}..."


def read(path: Path, column: str | None = None, time_column: str = "t_s") -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Times and rates of a file by its name: `.csv` by named columns, anything else as a packet trace."""
    return read_trace(path, column, time_column) if path.suffix.lower() == ".csv" else read_mahimahi(path)


def replay(paths: Iterable[Path], column: str | None = None, time_column: str = "t_s") -> Trace:
    """Replay of the files at `paths`; raises as `read` does, and ConfigError without any file."""
    files = sorted(paths)
    if not files:
        raise ConfigError(f"no trace files given; name at least one CSV with the columns {_asked(column, time_column)}, or a packet trace")
    drives = [read(path, column, time_column) for path in files]
    return Trace(tuple(path.stem for path in files), tuple(t for t, _ in drives), tuple(r for _, r in drives))

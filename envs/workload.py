"""When requests and background jobs arrive, and how the device slows down, as frozen descriptions drawn with a generator handed in.

Times are seconds, rates are arrivals a second. All begin in their steady state, so that a short episode looks like a long one.
"""

from __future__ import annotations

import csv
import itertools
import math
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from cutlayer.envs.channels.chains import autoregression, not_negative, on_off, positive
from cutlayer.envs.channels.traces import Trace
from cutlayer.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

# Arrivals stamped alike are set this far apart, in their order: a request has to come after the one before it.
APART_S = 1e-6


class Arrivals(Protocol):
    """Anything that draws request times."""

    def draw(self, rng: np.random.Generator, count: int) -> NDArray[np.float64]:
        """Times of `count` requests in seconds, rising, from 0 on."""
        ...


class ArrivalsUntil(Protocol):
    """Anything that draws the arrivals of a stretch of time."""

    def until(self, rng: np.random.Generator, until_s: float) -> NDArray[np.float64]:
        """All arrivals up to `until_s`, seconds, rising, from 0 on."""
        ...


class BackgroundJobs(Protocol):
    """Anything that draws other people's work on the edge server."""

    def draw(self, rng: np.random.Generator, until_s: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Arrival times up to `until_s` and service times, seconds."""
        ...


class CoTenant(Protocol):
    """Anything that draws how many times as long work takes on the device."""

    def draw(self, rng: np.random.Generator, slots: int, slot_s: float) -> NDArray[np.float64]:
        """Factor of each slot, shape (slots,), at least 1."""
        ...


@dataclass(frozen=True, slots=True)
class Periodic:
    """A camera: one request every period, each shifted by up to `jitter` of a period, from a random phase on."""

    period_s: float
    jitter: float = 0.0

    def __post_init__(self) -> None:
        positive("periodic arrivals", period_s=self.period_s)
        if not 0.0 <= self.jitter < 1.0:
            raise ConfigError(f"periodic arrivals: jitter is {self.jitter}; give a share of the period from 0 to below 1")

    def draw(self, rng: np.random.Generator, count: int) -> NDArray[np.float64]:
        """See `Arrivals`."""
        phase = rng.uniform()
        return self.period_s * (phase + np.arange(count) + self.jitter * rng.uniform(size=count))


@dataclass(frozen=True, slots=True)
class Poisson:
    """Requests that know nothing of each other: gaps are exponential with mean 1 / rate_per_s."""

    rate_per_s: float

    def __post_init__(self) -> None:
        positive("Poisson arrivals", rate_per_s=self.rate_per_s)

    def draw(self, rng: np.random.Generator, count: int) -> NDArray[np.float64]:
        """See `Arrivals`."""
        return np.cumsum(rng.exponential(1.0 / self.rate_per_s, count))

    def until(self, rng: np.random.Generator, until_s: float) -> NDArray[np.float64]:
        """See `ArrivalsUntil`."""
        return np.sort(rng.uniform(0.0, until_s, rng.poisson(self.rate_per_s * until_s)))


@dataclass(frozen=True, slots=True)
class Bursty:
    """A Markov-modulated Poisson process (MMPP): a hidden state sets the rate of a Poisson process.

    rates_per_s: one a state. stays_s: mean stay in each; stays are exponential, and the next state is any other with equal chance.
    So the share of time in a state is its mean stay over the sum of all. With two states (rates a, b, left at rates q = 1/stay_a and
    r = 1/stay_b) counts over a long time have the index of dispersion 1 + 2 (a - b)^2 q r / ((q + r)^2 (a r + b q)):
    Fischer and Meier-Hellstern, Performance Evaluation 18(2), 1993.
    """

    rates_per_s: tuple[float, ...]
    stays_s: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.rates_per_s) != len(self.stays_s) or len(self.rates_per_s) < 2:
            raise ConfigError(
                f"bursty arrivals: {len(self.rates_per_s)} rates_per_s and {len(self.stays_s)} stays_s; give one of each, for two or more"
            )
        not_negative("bursty arrivals", **{f"rates_per_s[{i}]": rate for i, rate in enumerate(self.rates_per_s)})
        positive("bursty arrivals", **{f"stays_s[{i}]": stay for i, stay in enumerate(self.stays_s)})
        if not any(self.rates_per_s):
            raise ConfigError("bursty arrivals: every entry of rates_per_s is 0, so nothing would ever arrive; give one above 0")

    @property
    def rate_per_s(self) -> float:
        """Arrivals a second in the long run."""
        return sum(rate * stay for rate, stay in zip(self.rates_per_s, self.stays_s, strict=True)) / sum(self.stays_s)

    def draw(self, rng: np.random.Generator, count: int) -> NDArray[np.float64]:
        """See `Arrivals`."""
        return _first(self._chunks(rng), count)

    def until(self, rng: np.random.Generator, until_s: float) -> NDArray[np.float64]:
        """See `ArrivalsUntil`."""
        return _before(self._chunks(rng), until_s)

    def _chunks(self, rng: np.random.Generator) -> Iterator[tuple[float, NDArray[np.float64]]]:
        states = len(self.rates_per_s)
        state = int(rng.choice(states, p=np.array(self.stays_s) / sum(self.stays_s)))
        now_s = 0.0
        while True:
            # Exponential stays have no memory: what is left of the first one is as long as a whole one.
            stay_s = rng.exponential(self.stays_s[state])
            times = now_s + np.sort(rng.uniform(0.0, stay_s, rng.poisson(self.rates_per_s[state] * stay_s)))
            now_s += stay_s
            yield now_s, times
            state = (state + int(rng.integers(1, states))) % states


@dataclass(frozen=True, slots=True, eq=False)
class ArrivalTrace:
    """Replay of measured arrival times: a random start in a random file, wrapped at its end, `speed` times as fast as measured.

    times_s holds one rising array a file, seconds from 0; names say which files they are. After the last arrival the mean gap passes
    before the first comes again.
    """

    names: tuple[str, ...]
    times_s: tuple[NDArray[np.float64], ...]
    speed: float = 1.0

    def __post_init__(self) -> None:
        positive("arrival trace", speed=self.speed)

    def draw(self, rng: np.random.Generator, count: int) -> NDArray[np.float64]:
        """See `Arrivals`."""
        return _first(self._chunks(rng), count)

    def until(self, rng: np.random.Generator, until_s: float) -> NDArray[np.float64]:
        """See `ArrivalsUntil`."""
        return _before(self._chunks(rng), until_s)

    def _chunks(self, rng: np.random.Generator) -> Iterator[tuple[float, NDArray[np.float64]]]:
        times = self.times_s[rng.integers(len(self.names))] / self.speed
        length_s = float(times[-1]) * len(times) / (len(times) - 1)
        start_s = rng.uniform(0.0, length_s)
        yield length_s - start_s, times[times >= start_s] - start_s
        for lap in itertools.count(1):
            yield (lap + 1) * length_s - start_s, times + (lap * length_s - start_s)


@dataclass(frozen=True, slots=True, eq=False)
class RateTrace:
    """A Poisson process whose rate is a measured number of requests a second, `scale` times; from a random second on, wrapped.

    per_s: requests counted in each second.
    """

    name: str
    per_s: NDArray[np.float64]
    scale: float = 1.0

    def __post_init__(self) -> None:
        positive("rate trace", scale=self.scale)

    def draw(self, rng: np.random.Generator, count: int) -> NDArray[np.float64]:
        """See `Arrivals`."""
        return _first(self._chunks(rng), count)

    def until(self, rng: np.random.Generator, until_s: float) -> NDArray[np.float64]:
        """See `ArrivalsUntil`."""
        return _before(self._chunks(rng), until_s)

    def _chunks(self, rng: np.random.Generator) -> Iterator[tuple[float, NDArray[np.float64]]]:
        start = int(rng.integers(len(self.per_s)))
        for second in itertools.count():
            expected = self.scale * self.per_s[(start + second) % len(self.per_s)]
            yield second + 1.0, second + np.sort(rng.uniform(size=rng.poisson(expected)))


def _first(chunks: Iterator[tuple[float, NDArray[np.float64]]], count: int) -> NDArray[np.float64]:
    """The first `count` times of chunks that follow one another, each with its end."""
    found: list[NDArray[np.float64]] = []
    have = 0
    while have < count:
        _, times = next(chunks)
        found.append(times)
        have += len(times)
    return np.concatenate(found)[:count]


def _before(chunks: Iterator[tuple[float, NDArray[np.float64]]], until_s: float) -> NDArray[np.float64]:
    """The times up to `until_s`."""
    found: list[NDArray[np.float64]] = []
    for end_s, times in chunks:
        found.append(times)
        if end_s >= until_s:
            break
    times = np.concatenate(found)
    return times[times <= until_s]


def _columns(what: str, path: Path, *named: tuple[str, str]) -> list[NDArray[np.float64]]:
    """Columns of numbers of a CSV, each by its name and what it holds."""
    needs = " and ".join(f"{column} ({meaning})" for column, meaning in named)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
        return [np.array([float(row[column]) for row in rows]) for column, _ in named]
    except KeyError as error:
        raise ConfigError(f"{what} {path} has the columns {', '.join(map(str, rows[0]))}; it needs {needs}") from error
    except (OSError, UnicodeDecodeError, csv.Error, TypeError, ValueError) as error:
        raise ConfigError(f"cannot read {what} {path}: {error}; give a CSV with {needs}") from error


def read_arrivals(path: Path, time_column: str = "t_s", speed: float = 1.0) -> ArrivalTrace:
    """Arrivals of a CSV with a column of seconds that never fall; those stamped alike are set a microsecond apart.

    Raises:
        ConfigError: the file is missing, the column is, or it has no two numbers that never fall.
    """
    (times,) = _columns("arrival trace", path, (time_column, "seconds"))
    if len(times) < 2 or not np.isfinite(times).all() or (np.diff(times) < 0).any() or times[-1] == times[0]:
        raise ConfigError(f"arrival trace {path} needs at least two finite values of {time_column} that never fall and are not all alike")
    order = APART_S * np.arange(len(times))
    return ArrivalTrace((path.stem,), (np.maximum.accumulate(times - times[0] - order) + order,), speed)


def read_rates(path: Path, key: str = "req_per_s", scale: float = 1.0) -> RateTrace:
    """Requests counted in each second, an array of an `.npz`.

    Raises:
        ConfigError: the file is missing, the array is, or it is no list of numbers from 0 on with one above.
    """
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            per_s = np.asarray(file[key], np.float64)
    except KeyError as error:
        raise ConfigError(f"rate trace {path} holds no array {key}; name one that it holds") from error
    except (OSError, EOFError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise ConfigError(f"cannot read rate trace {path}: {error}; give an .npz with the array {key}") from error
    if per_s.ndim != 1 or not np.isfinite(per_s).all() or (per_s < 0).any() or not per_s.any():
        raise ConfigError(f"rate trace {path}: {key} has to be one list of finite numbers from 0 on, not all 0")
    return RateTrace(path.stem, per_s, scale)


@dataclass(frozen=True, slots=True)
class SlowDown:
    """Another program on the device: for busy_s on average, busy_share of the time, all work takes `factor` times as long.

    On and off are a Markov chain. busy_share 1: always.
    """

    factor: float = 1.0
    busy_share: float = 0.0
    busy_s: float = 1.0

    def __post_init__(self) -> None:
        positive("slow-down", busy_s=self.busy_s)
        if not 1.0 <= self.factor < math.inf:
            raise ConfigError(f"slow-down: factor is {self.factor}; give a finite number from 1 on")
        if not 0.0 <= self.busy_share <= 1.0:
            raise ConfigError(f"slow-down: busy_share is {self.busy_share}; give a share of time from 0 to 1")

    def draw(self, rng: np.random.Generator, slots: int, slot_s: float) -> NDArray[np.float64]:
        """See `CoTenant`."""
        if self.busy_share in (0.0, 1.0):
            return np.full(slots, self.factor if self.busy_share else 1.0)
        return np.where(on_off(rng, slots, slot_s, self.busy_share, self.busy_s), self.factor, 1.0)


@dataclass(frozen=True, slots=True)
class DriftingSlowDown:
    """Other programs whose load drifts: what they add to the factor is an AR(1) log-normal, so it is never below 1.

    factor = 1 + extra exp(spread z), z of variance 1 with correlation exp(-lag / decorrelation_s): the median factor is 1 + extra, the
    mean 1 + extra exp(spread^2 / 2).
    """

    extra: float
    spread: float
    decorrelation_s: float

    def __post_init__(self) -> None:
        not_negative("drifting slow-down", extra=self.extra, spread=self.spread)
        positive("drifting slow-down", decorrelation_s=self.decorrelation_s)

    def draw(self, rng: np.random.Generator, slots: int, slot_s: float) -> NDArray[np.float64]:
        """See `CoTenant`."""
        drift = autoregression(rng.standard_normal(slots), math.exp(-slot_s / self.decorrelation_s))
        factor: NDArray[np.float64] = 1.0 + self.extra * np.exp(self.spread * drift)
        return factor


@dataclass(frozen=True, slots=True, eq=False)
class SlowDownTrace:
    """Replay of a measured slow-down: a random start, the last factor held, wrapped at the end. replay: its numbers are factors."""

    replay: Trace

    def draw(self, rng: np.random.Generator, slots: int, slot_s: float) -> NDArray[np.float64]:
        """See `CoTenant`."""
        return self.replay.draw(rng, slots, slot_s)


def read_slow_down(path: Path, column: str = "slow_down", time_column: str = "t_s") -> SlowDownTrace:
    """Slow-down over time, two columns of a CSV: seconds that rise, and how many times as long work took from then on.

    Raises:
        ConfigError: the file is missing, a column is, or there are no two rising times with finite factors from 1 on.
    """
    times, factors = _columns("slow-down trace", path, (time_column, "seconds"), (column, "a factor"))
    if len(times) < 2 or not np.isfinite([times, factors]).all() or (np.diff(times) <= 0).any() or (factors < 1).any():
        raise ConfigError(f"slow-down trace {path} needs at least two rising values of {time_column} and finite ones of {column} from 1 on")
    return SlowDownTrace(Trace((path.stem,), (times - times[0],), (factors,)))


@dataclass(frozen=True, slots=True)
class EdgeJobs:
    """Other people's work on the edge server: Poisson arrivals, exponential service; none at rate 0."""

    rate_per_s: float = 0.0
    mean_s: float = 0.01

    def __post_init__(self) -> None:
        not_negative("edge jobs", rate_per_s=self.rate_per_s, mean_s=self.mean_s)

    def draw(self, rng: np.random.Generator, until_s: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """See `BackgroundJobs`."""
        gaps: list[float] = []
        at = 0.0
        while self.rate_per_s > 0.0:
            at += rng.exponential(1.0 / self.rate_per_s)
            if at > until_s:
                break
            gaps.append(at)
        return np.array(gaps), rng.exponential(self.mean_s, len(gaps))


@dataclass(frozen=True, slots=True)
class EdgeStream:
    """Other people's work with any arrivals (Poisson, bursty, traces) and gamma service of mean mean_s.

    cv: standard deviation of a service time over its mean; 0 always mean_s, 1 exponential, above that a heavier tail.
    """

    arrivals: ArrivalsUntil
    mean_s: float
    cv: float = 1.0

    def __post_init__(self) -> None:
        not_negative("edge stream", mean_s=self.mean_s, cv=self.cv)

    def draw(self, rng: np.random.Generator, until_s: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """See `BackgroundJobs`."""
        times = self.arrivals.until(rng, until_s)
        if self.cv == 0.0:
            return times, np.full(len(times), self.mean_s)
        shape = 1.0 / self.cv**2
        return times, rng.gamma(shape, self.mean_s / shape, len(times))

"""Grid files: TOML that says which runs to make.

    [fixed]                       # the same in every run
    scenario = "urllc-ge"         # a name, or a .toml file
    episodes = 50

    [grid]                        # every combination is run
    policy = ["greedy-ewma", "bayes-greedy", "ppo"]      # a learner is trained first; algo = [...] takes learners only
    seed = [0, 1, 2]
    "path.rtt_s" = { range = { low = 0.002, high = 0.05, n = 4, log = true } }
    "objective.deadline_s" = { sample = { n = 5, seed = 1, low = 0.01, high = 0.1 } }

    [sample]                      # of the combinations, only so many, drawn by this seed
    runs = 40
    seed = 0

Beside the keys of `OWN`, whose meaning is that of the options of `cutlayer evaluate` and `cutlayer train`, a key is a field of the
scenario as a scenario file has it (`envs.scenarios.files`; `plans` is the plan table), `learner.` and a field of the learner's recipe, or
`plan_factor.` and a column of the plan table that is multiplied. Keys may be dotted, quoted or not, or stand in tables. Paths begin at
the file. Everything drawn is drawn by the stated seed, so a grid file names the same runs wherever it is read.
"""

from __future__ import annotations

import itertools
import math
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np

from cutlayer.errors import ConfigError, nearest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

# What a run is told beside fields of the scenario, of the learner and of the plan table.
OWN: dict[str, Any] = {
    "scenario": str,
    "policy": str,
    "algo": str,
    "seed": int,
    "block": int,  # of held-out episodes: the seed's own, as in `cutlayer evaluate`, unless given
    "episodes": int,
    "steps": int,
    "engine": Literal["kernel", "simpy"],
    "scored": bool,  # beside the clairvoyant, which takes most of the time; not unless asked for
}
AT_LEAST = {"seed": 0, "block": 0, "episodes": 1, "steps": 1}
LEARNER, PLAN_FACTOR = "learner.", "plan_factor."
TABLES = ("grid", "sample", "fixed")


class _Span(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """n values from low to high, equally far apart, or by equal factors with `log`; whole ones where both ends are."""

    low: float | int
    high: float | int
    n: int
    log: bool = False

    def places(self) -> Any:
        return np.linspace(0.0, 1.0, self.n)

    def values(self) -> list[float] | list[int]:
        places = self.places()
        found = self.low * (self.high / self.low) ** places if self.log else self.low + (self.high - self.low) * places
        if isinstance(self.low, int) and isinstance(self.high, int):
            return [round(one) for one in found.tolist()]
        return [float(one) for one in found]

    def __post_init__(self) -> None:
        if self.n < 1:
            raise ValueError(f"n is {self.n}; give 1 or more")
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low <= self.high):
            raise ValueError(f"low is {self.low}, high is {self.high}; give finite numbers with low first")
        if self.log and self.low <= 0:
            raise ValueError(f"low is {self.low}; a logarithmic scale begins above 0")


class _Draw(_Span, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """n values drawn uniformly between low and high, on a logarithmic scale with `log`."""

    seed: int

    def places(self) -> Any:
        return np.random.default_rng(self.seed).uniform(size=self.n)


class Sample(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How many of all combinations are run."""

    runs: int
    seed: int = 0


SPANS = {"range": _Span, "sample": _Draw}


@dataclass(frozen=True, slots=True)
class Grid:
    """A grid file: what is fixed, the values of every axis in the file's order, and how many combinations are drawn, where not all are."""

    file: Path
    fixed: Mapping[str, Any]
    axes: Mapping[str, list[Any]]
    sample: Sample | None = None

    def __len__(self) -> int:
        return self.combinations if self.sample is None else self.sample.runs

    @property
    def combinations(self) -> int:
        """Of all values of all axes."""
        return math.prod(len(values) for values in self.axes.values())

    def points(self) -> Iterator[dict[str, Any]]:
        """What each run is told, the last axis changing fastest."""
        if self.sample is None:
            for values in itertools.product(*self.axes.values()):
                yield {**self.fixed, **dict(zip(self.axes, values, strict=True))}
            return
        rng = np.random.default_rng(self.sample.seed)
        for number in sorted(rng.choice(self.combinations, self.sample.runs, replace=False).tolist()):
            chosen = {}
            for key, values in reversed(list(self.axes.items())):
                number, place = divmod(number, len(values))
                chosen[key] = values[place]
            yield {**self.fixed, **{key: chosen[key] for key in self.axes}}


def load(file: Path) -> Grid:
    """The grid of a file.

    Raises:
        ConfigError: it cannot be read, or a key or a value of its own is wrong; fields of scenarios and learners are for `plan` to check.
    """
    given = _read(file)
    for key in given:
        if key not in TABLES:
            raise ConfigError(f"{file}: unknown key {key!r}; {nearest(key, TABLES)}known here: {', '.join(TABLES)}, each a table")
        if not isinstance(given[key], dict):
            raise ConfigError(f"{file}: {key} = {given[key]!r}: give a table, [{key}]")
    fixed = dict(_flat(given.get("fixed", {})))
    axes = {key: _axis(file, key, value) for key, value in _flat(given.get("grid", {}))}
    twice = next((key for key in axes if key in fixed), None)
    if twice is not None:
        raise ConfigError(f"{file}: {twice} is in [grid] and in [fixed]; leave it in one of them")
    if not fixed and not axes:
        raise ConfigError(f"{file}: there is neither [grid] nor [fixed] in it; name a policy and a scenario at least")
    grid = Grid(file, _checked(file, fixed), {key: [_own(file, key, one) for one in values] for key, values in axes.items()})
    if "sample" not in given:
        return grid
    sample = _convert(file, "sample", given["sample"], Sample)
    if not 1 <= sample.runs <= grid.combinations:
        raise ConfigError(f"{file}: sample.runs = {sample.runs}: there are {grid.combinations} combinations; give 1 to that many")
    return Grid(file, grid.fixed, grid.axes, sample)


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"cannot read grid file {file}: {reason}; give the path of a TOML file") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file} is no TOML: {error}; mend that line") from error


def _flat(given: Mapping[str, Any], before: str = "") -> Iterable[tuple[str, Any]]:
    """Dotted keys of nested tables, in their order; a table with the one key `range` or `sample` is a value."""
    for key, value in given.items():
        if isinstance(value, dict) and not (len(value) == 1 and next(iter(value)) in SPANS):
            yield from _flat(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


def _axis(file: Path, key: str, value: object) -> list[Any]:
    if isinstance(value, dict):
        ((kind, inner),) = value.items()
        values: list[Any] = _convert(file, f"{key}.{kind}", inner, SPANS[kind]).values()
    elif isinstance(value, list):
        values = value
    else:
        raise ConfigError(
            f"{file}: {key} = {value!r}: an axis of [grid] is a list, or a table {{ range = ... }} or {{ sample = ... }}; "
            "one value for all runs belongs into [fixed]"
        )
    if not values:
        raise ConfigError(f"{file}: {key} is an empty list; give a value, or leave it out")
    seen = set()
    for one in values:
        if repr(one) in seen:
            raise ConfigError(f"{file}: {key} holds {one!r} twice; every value is run once")
        seen.add(repr(one))
    return values


def _checked(file: Path, fixed: Mapping[str, Any]) -> dict[str, Any]:
    for key, value in fixed.items():
        if isinstance(value, dict):
            raise ConfigError(f"{file}: {key} = {value!r}: a range or a sample belongs into [grid]")
    return {key: _own(file, key, value) for key, value in fixed.items()}


def _own(file: Path, key: str, value: Any) -> Any:
    """A value of one of the sweep's own keys, checked; any other as it is."""
    if key not in OWN:
        return value
    made = _convert(file, key, value, OWN[key])
    if key in AT_LEAST and made < AT_LEAST[key]:
        raise ConfigError(f"{file}: {key} = {value!r}: give a whole number from {AT_LEAST[key]} on")
    return made


def _convert(file: Path, key: str, value: Any, kind: Any) -> Any:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{file}: {key} = {value!r}: {error}; see cutlayer sweep --help") from error

"""Scenario files: TOML that names a scenario to begin with and overrides its fields.

    base = "urllc-ge"          # camera without it
    requests = 400
    plans = "privacy"          # a built-in plan table, or the path of one

    [objective]
    deadline_s = 0.02

    [arrivals]
    kind = "bursty"            # with a kind the table is complete by itself; without one it changes fields of the base's
    rates_per_s = [5.0, 60.0]
    stays_s = [1.0, 0.5]

    [path]
    rtt_s = 0.01
    radio = "5g-nsa-low"       # or a table with base_w and joules_per_bit

    [edge_jobs]
    kind = "stream"
    mean_s = 0.005
    arrivals = { kind = "trace", file = "jobs.csv" }

Fields are those of `envs.spec.Scenario` and of the records in it, units in their names; paths begin at the file. A part that may be
missing (`MISSING`) is switched off by "none". `KINDS` lists the kinds of each part that has several, `READ` those that a file holds.
"""

from __future__ import annotations

import dataclasses
import math
import tomllib
from typing import TYPE_CHECKING, Any, get_type_hints

import msgspec

from cutlayer.envs import channels, deadlines, spec, workload
from cutlayer.errors import ConfigError, nearest
from cutlayer.profiles import builtin
from cutlayer.profiles.cost import Objective, Path
from cutlayer.profiles.energy import RADIOS, Radio
from cutlayer.profiles.plans import PlanTable

if TYPE_CHECKING:
    import pathlib
    from collections.abc import Callable, Mapping

# What a `kind` means in each place that has several; channels have their own table, `envs.channels.KINDS`.
KINDS: dict[str, dict[str, type]] = {
    "arrivals": {"periodic": workload.Periodic, "poisson": workload.Poisson, "bursty": workload.Bursty},
    "slow_down": {"on-off": workload.SlowDown, "drifting": workload.DriftingSlowDown},
    "edge_jobs": {"poisson": workload.EdgeJobs, "stream": workload.EdgeStream},
    "edge_jobs.arrivals": {"poisson": workload.Poisson, "bursty": workload.Bursty},
    "deadlines": {"choice": deadlines.ChosenDeadlines, "uniform": deadlines.UniformDeadlines},
}
# Further kinds, read from the file that `file` names: by whom, and what else may be given.
READ: dict[str, dict[str, tuple[Callable[..., Any], dict[str, type]]]] = {
    "arrivals": {
        "trace": (workload.read_arrivals, {"time_column": str, "speed": float}),
        "rates": (workload.read_rates, {"key": str, "scale": float}),
    },
    "slow_down": {"trace": (workload.read_slow_down, {"column": str, "time_column": str})},
}
READ["edge_jobs.arrivals"] = READ["arrivals"]
CHANNELS = ("channel", "harvest")  # read by `envs.channels.build`
# Parts that a base may lack: what a table without a base to change is a record of.
OPTIONAL: dict[str, type] = {
    "thermal": spec.Thermal,
    "battery": spec.Battery,
    "memory": spec.Memory,
    "batching": spec.Batching,
}
MISSING = {*OPTIONAL, "harvest", "deadlines", "broadcast_s"}
NAMED: dict[str, Mapping[str, object]] = {"platform": spec.PLATFORMS, "radio": RADIOS}  # parts that can be given by name
UNCHECKED = (spec.Scenario, Objective, Path, Radio)  # records that believe their numbers; the others check them themselves
ABOVE_ZERO = {"requests", "slot_s", "deadline_s", "downlink_bps", "timeout_deadlines"}
NONE = "none"
LEFT_OUT = {"plans", "segments"}  # fields of a scenario that are no plain values; plans is read apart


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """Where in which file a value stands, for messages and for paths."""

    file: pathlib.Path
    keys: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The keys, dotted."""
        return ".".join(self.keys)

    def under(self, key: str) -> Place:
        """That of a key of the table here."""
        return Place(self.file, (*self.keys, key))

    def wrong(self, value: object, why: str) -> ConfigError:
        """What to raise of a value here."""
        return ConfigError(f"{self.file}: {self.name} = {value!r}: {why}")

    def unknown(self, key: str, known: list[str]) -> ConfigError:
        """What to raise of a key of the table here."""
        name = ".".join((*self.keys, key))
        return ConfigError(f"{self.file}: unknown key {name!r}; {nearest(key, known)}known here: {', '.join(known)}")


def load(path: pathlib.Path, base: Callable[[str], spec.Scenario]) -> spec.Scenario:
    """The scenario that a file describes; `base` builds a scenario by its name.

    Raises:
        ConfigError: the file cannot be read, or a key or a value in it is wrong.
    """
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"cannot read scenario file {path}: {reason}; give the path of a TOML file") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is no TOML: {error}; mend that line") from error
    place = Place(path)
    try:
        start = base(_convert(place.under("base"), given.pop("base", "camera"), str))
    except ConfigError as error:
        raise ConfigError(f"{path}: base: {error}") from error
    changes: dict[str, Any] = {"name": path.stem, "inputs": f"{start.inputs}; changed by {path.name}"}
    if "plans" in given:
        changes["plans"] = read_plans(place.under("plans"), given.pop("plans"))
    known = [field.name for field in dataclasses.fields(spec.Scenario) if field.name not in LEFT_OUT]
    changes |= {key: read_field(place, start, key, value, [*known, "base", "plans"]) for key, value in given.items()}
    return _built(place, lambda: dataclasses.replace(start, **changes))  # type: ignore[no-any-return]  # `_built` is any


def _built(place: Place, build: Callable[[], Any]) -> Any:
    """What `build` makes; a fault that it finds is told with the place."""
    try:
        return build()
    except (ConfigError, TypeError) as error:
        where = f"{place.file}: {place.name}: " if place.keys else f"{place.file}: "
        raise ConfigError(f"{where}{error}") from error


def read_plans(place: Place, value: object) -> PlanTable:
    """A built-in table by its name, or one in a file beside the scenario's.

    Raises:
        ConfigError: there is none.
    """
    name = _convert(place, value, str)
    path = place.file.parent / name
    if path.suffix != ".json":
        return _built(place, lambda: builtin.table(name))  # type: ignore[no-any-return]  # `_built` is any
    try:
        return PlanTable.decode(path.read_bytes(), str(path))
    except OSError as error:
        raise place.wrong(
            name, f"{error.strerror}; give a built-in name ({', '.join(builtin.names())}) or the path of a plan table"
        ) from error


def read_field(place: Place, owner: object, key: str, value: object, known: list[str]) -> object:
    """The new value of one field of `owner`."""
    if key not in known:
        raise place.unknown(key, known)
    here, present = place.under(key), getattr(owner, key)
    if key in CHANNELS and not (key == "harvest" and value == NONE):
        return _channel(here, value)
    if value == NONE and key in MISSING:
        return None
    if isinstance(value, str) and key in NAMED:
        if value not in NAMED[key]:
            raise here.wrong(value, f"{nearest(value, NAMED[key])}known: {', '.join(NAMED[key])}")
        return NAMED[key][value]
    if isinstance(value, dict):
        return _record(here, key, present, value)
    if dataclasses.is_dataclass(present) or key in OPTIONAL or here.name in KINDS:
        raise here.wrong(value, f"give a table, [{here.name}]")
    kind = owner.kind if isinstance(owner, _Blank) else type(owner)
    converted = _convert(here, value, _hints(kind)[key])
    if kind in UNCHECKED and isinstance(converted, float | int):
        zero_too = key not in ABOVE_ZERO
        if not (0 <= converted < math.inf and (converted or zero_too)):
            raise here.wrong(value, f"give a finite number {'from 0 on' if zero_too else 'above 0'}")
    return converted


def _record(place: Place, key: str, present: object, given: dict[str, Any]) -> object:
    """A part of a scenario from a table: of the kind that it names, or the present one with these fields changed."""
    kinds, read = KINDS.get(place.name, {}), READ.get(place.name, {})
    if "kind" in given:
        if given["kind"] in read:
            return _from_file(place, *read[given["kind"]], given)
        if given["kind"] not in kinds:
            listed = ", ".join((*kinds, *read)) or "none: this part has no kinds"
            raise place.under("kind").wrong(given["kind"], f"{nearest(str(given['kind']), (*kinds, *read))}known: {listed}")
        kind, owner = kinds[given["kind"]], None
    elif present is None and kinds:
        raise ConfigError(f"{place.file}: {place.name} lacks kind; known: {', '.join((*kinds, *read))}")
    elif present is None:
        kind, owner = OPTIONAL[key], None
    else:
        kind, owner = type(present), present
    known = [field.name for field in dataclasses.fields(kind)]
    given = {name: value for name, value in given.items() if name != "kind"}
    if owner is not None:
        changes = {name: read_field(place, owner, name, value, known) for name, value in given.items()}
        return _built(place, lambda: dataclasses.replace(owner, **changes))  # type: ignore[type-var]  # a record
    blank = _Blank(kind)
    made = {name: read_field(place, blank, name, value, known) for name, value in given.items()}
    missing = [field.name for field in dataclasses.fields(kind) if _needed(field) and field.name not in made]
    if missing:
        raise ConfigError(f"{place.file}: {place.name} lacks {', '.join(missing)}; give a value for each")
    return _built(place, lambda: kind(**made))


class _Blank:
    """Stands for a record that is not there yet: its fields have no present value."""

    def __init__(self, kind: type) -> None:
        self.kind = kind

    def __getattr__(self, name: str) -> None:
        return None


def _needed(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _from_file(place: Place, reader: Callable[..., Any], more: dict[str, type], given: dict[str, Any]) -> object:
    hints = {"file": str, **more}
    for key in given:
        if key not in (*hints, "kind"):
            raise place.unknown(key, list(hints))
    if "file" not in given:
        raise ConfigError(f"{place.file}: {place.name} lacks file; name the one that holds the {given['kind']}")
    made = {name: _convert(place.under(name), given[name], hint) for name, hint in hints.items() if name in given}
    file = place.file.parent / made.pop("file")
    return _built(place, lambda: reader(file, **made))


def _channel(place: Place, value: object) -> channels.Channel:
    if not isinstance(value, dict):
        raise place.wrong(value, f"give a table with a kind: {', '.join(channels.KINDS)}, trace")
    return _built(place, lambda: channels.build(value, place.file.parent))  # type: ignore[no-any-return]  # `_built` is any


def _hints(kind: type) -> dict[str, Any]:
    # Names that only a checker needs stand for parts that are no plain values.
    names = ("PlanTable", "Channel", "Arrivals", "Objective", "Path", "CoTenant", "BackgroundJobs", "Deadlines", "NDArray")
    return get_type_hints(kind, localns=dict.fromkeys(names, object))


def _convert(place: Place, value: object, hint: Any) -> Any:
    try:
        return msgspec.convert(value, hint)
    except msgspec.ValidationError as error:
        raise place.wrong(value, f"{error}; give a value of that type") from error

"""Channels by name: what a scenario file, a table of fitted parameters and a report write down, and what is built from it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

import msgspec

from cutlayer.envs.channels.generators import Cellular, Constant, GilbertElliott, Markov, Mixture, Rayleigh, Regimes
from cutlayer.envs.channels.traces import replay
from cutlayer.errors import ConfigError, nearest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cutlayer.envs.channels.generators import Channel

KINDS: dict[str, type[Constant | Markov | GilbertElliott | Cellular | Rayleigh | Regimes | Mixture]] = {
    "constant": Constant,
    "markov": Markov,
    "gilbert-elliott": GilbertElliott,
    "ar1-log-normal": Cellular,
    "rayleigh": Rayleigh,
    "regimes": Regimes,
    "mixture": Mixture,
}
TRACE = "trace"


def describe(channel: Channel) -> dict[str, Any]:
    """A generator as plain values, `kind` first; `build` makes it again. A replay of traces has no such form: it is its files.

    Raises:
        ConfigError: it is of no kind that is known here.
    """
    for kind, made in KINDS.items():
        if type(channel) is made:
            fields = {field.name: getattr(channel, field.name) for field in dataclasses.fields(channel)}
            if "channels" in fields:
                fields["channels"] = [describe(part) for part in fields["channels"]]
            return {"kind": kind, **msgspec.to_builtins(fields)}
    raise ConfigError(f"a {type(channel).__name__} has no name; known kinds: {', '.join(KINDS)}")


def build(values: Mapping[str, Any], folder: Path = Path()) -> Channel:
    """The channel that plain values tell of: `kind` and its fields; `trace` takes `files` (paths from `folder` on) and the columns.

    Raises:
        ConfigError: the kind or a field is unknown, missing or of another type, or its value makes no sense.
    """
    kind = values.get("kind")
    known = [*KINDS, TRACE]
    if kind not in known:
        raise ConfigError(f"unknown channel kind {kind!r}; {nearest(str(kind), known)}known: {', '.join(known)}")
    given = {name: value for name, value in values.items() if name != "kind"}
    if kind == TRACE:
        _check_names(kind, given, {"files": True, "column": False, "time_column": False})
        files = _convert(kind, "files", given.pop("files"), tuple[str, ...])
        return replay([folder / name for name in files], **{name: _convert(kind, name, value, str) for name, value in given.items()})
    made = KINDS[kind]
    _check_names(kind, given, {field.name: field.default is dataclasses.MISSING for field in dataclasses.fields(made)})
    # Parts that are channels are built in their turn; their kinds, not their types, say what they are.
    types = {**get_type_hints(made), "channels": list[dict[str, Any]]}
    fields = {name: _convert(kind, name, value, types[name]) for name, value in given.items()}
    if "channels" in fields:
        fields["channels"] = tuple(build(part, folder) for part in fields["channels"])
    return made(**fields)


def _check_names(kind: str, given: Mapping[str, Any], fields: Mapping[str, bool]) -> None:
    for name in given:
        if name not in fields:
            raise ConfigError(f"{kind} channel: unknown field {name!r}; {nearest(name, fields)}known: {', '.join(fields)}")
    missing = [name for name, needed in fields.items() if needed and name not in given]
    if missing:
        raise ConfigError(f"{kind} channel: {', '.join(missing)} missing; give a value for each")


def _convert(kind: str, name: str, value: Any, to: Any) -> Any:
    try:
        return msgspec.convert(value, to)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{kind} channel: {name} is {value!r}: {error}; give a value of that type") from error

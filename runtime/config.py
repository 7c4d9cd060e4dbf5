"""The daemon's one configuration file: TOML, checked whole, unknown keys refused with their line and the nearest known one."""

from __future__ import annotations

import dataclasses
import difflib
import ipaddress
import math
import re
import tomllib
import types
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec

from cutlayer.errors import ConfigError
from cutlayer.profiles import cost
from cutlayer.runtime.lifelog import Style
from cutlayer.runtime.messages import Mode
from cutlayer.runtime.policy import Form
from cutlayer.runtime.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

Clock = Literal["device", "clients"]


def _says(text: str) -> msgspec.Meta:
    return msgspec.Meta(description=text)


class TaskConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is decided on while no bundle can be used: a plan table, the way to the edge and what an answer is worth."""

    plans: Annotated[str, _says("plan table (JSON), as cutlayer plans makes it")]
    path: cost.Path
    objective: cost.Objective

    def __post_init__(self) -> None:
        numbers = {f"objective.{name}": value for name, value in dataclasses.asdict(self.objective).items()}
        numbers |= {f"path.{name}": value for name, value in dataclasses.asdict(self.path).items() if name != "radio"}
        numbers |= {f"path.radio.{name}": value for name, value in dataclasses.asdict(self.path.radio).items()}
        for name, value in numbers.items():
            if isinstance(value, (int, float)) and not 0 <= value < math.inf:
                raise ValueError(f"{name} is {value}; give a finite number from 0 on")
        for name in ("objective.deadline_s", "objective.timeout_deadlines", "path.downlink_bps"):
            if not numbers[name]:
                raise ValueError(f"{name} is 0; give a number above")


class DaemonConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What `cutlayerd` needs to know."""

    bundle: Annotated[str, _says("exported policy; may be missing or damaged only where there is a [task]")] = ""
    form: Annotated[Form, _says("of its policy: numpy, onnxruntime (to be installed) or tree")] = "numpy"
    public_key: Annotated[str, _says("PEM file of an Ed25519 key that must have signed every bundle; empty: none has to be signed")] = ""
    mode: Annotated[Mode, _says("off, shadow, canary or active; the share of a canary is [controller.trial] share")] = "active"
    incumbent: Annotated[
        str, _says("bundle that the mode leaves decisions to; empty: what decided before the last reload, or the rule")
    ] = ""
    clock: Annotated[Clock, _says("device: messages count from now unless they have at_s; clients: all have it, for simulated time")] = (
        "device"
    )
    socket: Annotated[str, _says("Unix socket to listen on, mode 0660")] = "cutlayerd.sock"
    socket_group: Annotated[str, _says("group that may use it; empty: the daemon's own")] = ""
    allow_uids: Annotated[tuple[int, ...], _says("users that are answered, by the kernel's word; with none and no group: all")] = ()
    allow_gids: Annotated[tuple[int, ...], _says("groups that are answered, a client's primary or supplementary one")] = ()
    operator_uids: Annotated[tuple[int, ...], _says("users that may reload and roll back, beside the daemon's own and root")] = ()
    operator_gids: Annotated[tuple[int, ...], _says("groups that may")] = ()
    # Our choice: each costs a file descriptor and some kB.
    connections: Annotated[int, _says("open at once; one more gets an error")] = 1024
    # A decide request has about 60 bytes.
    request_bytes: Annotated[int, _says("longest line accepted")] = 65_536
    # Our choice: nobody who waits for decisions leaves them unread so long.
    stalled_s: Annotated[float, _says("a client that leaves its answers unread for so long is hung up on")] = 30.0
    drain_s: Annotated[float, _says("after SIGTERM, how long clients may still take what was answered")] = 2.0
    http: Annotated[str, _says("loopback address and port of the live page, /metrics and the rest, as 127.0.0.1:9464; empty: none")] = ""
    log: Annotated[Style, _says("lines about its own life on stdout: json, or keys for key=value")] = "json"
    trace_path: Annotated[str, _says("decision trace for cutlayer replay; empty: none")] = ""
    trace_every: Annotated[int, _says("one decision in so many is recorded; 1 can be rerun whole")] = 100
    # Our choice: 80,000 recorded decisions with their outcomes.
    trace_max_bytes: Annotated[int, _says("of the trace and the one before it, .1, together")] = 64 << 20
    controller: Settings = Settings()
    task: TaskConfig | None = None

    def __post_init__(self) -> None:
        if not self.bundle and self.task is None:
            raise ValueError("bundle is empty; name an exported policy, or give a [task] to decide without one")
        least = {"connections": 1, "request_bytes": 256, "trace_every": 1, "trace_max_bytes": 65_536}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise ValueError(f"{name} is {getattr(self, name)}; give at least {low}")
        if self.http:
            http_address(self.http)
        for name in ("stalled_s", "drain_s"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; give a finite number from 0 on")


def http_address(text: str) -> tuple[str, int]:
    """Host and port of `127.0.0.1:9464` or `[::1]:9464`; port 0 takes a free one.

    Raises:
        ValueError: it is none, or not on loopback.
    """
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not (colon and loopback and port.isascii() and port.isdigit() and int(port) < 65_536):
        raise ValueError(f"http is {text!r}; give a loopback address and a port, as 127.0.0.1:9464")
    return host, int(port)


def load(file: Path, given: Mapping[str, str] | None = None) -> DaemonConfig:
    """Read and check the file; what is given beside it (on the command line) counts in its place.

    Raises:
        ConfigError: it is missing, no TOML, or a key is unknown or its value wrong.
    """
    try:
        text = file.read_text(encoding="utf-8")
        table = tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}; give the path of a TOML file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is no TOML: {error}; compare it with: cutlayerd --print-defaults") from error
    for keys, known in _unknown(table, DaemonConfig, ()):
        near = difflib.get_close_matches(keys[-1], known, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
        raise ConfigError(f"unknown key {'.'.join(keys)!r} in {_place(file, text, keys)}; {hint}")
    try:
        return msgspec.convert(table | dict(given or {}), DaemonConfig)
    except msgspec.ValidationError as error:
        # "Expected `str`, got `int` - at `$.bundle`", or the words of a struct's own check: "name is value; mend - at `$.table`".
        said, _, path = str(error).partition(" - at `$")
        keys = tuple(re.findall(r"\.(\w+)", path))
        if first := re.match(r"([\w.]+) (is|of the trial is) ", said):
            keys += tuple(first[1].split("."))
            raise ConfigError(f"{_place(file, text, keys)}: {said}") from error
        value = _value(table | dict(given or {}), keys)
        named = f"{'.'.join(keys)} is {value!r}: " if keys else ""
        raise ConfigError(f"{_place(file, text, keys)}: {named}{said}; compare it with: cutlayerd --print-defaults") from error


def of_options(given: Mapping[str, str]) -> DaemonConfig:
    """The settings of a command line without a file.

    Raises:
        ConfigError: one of them is wrong.
    """
    try:
        return msgspec.convert(dict(given), DaemonConfig)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{error}; see cutlayerd --help") from error


def _unknown(table: dict[str, Any], kind: Any, above: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], list[str]]]:
    """Keys that the struct does not have, each with those it has."""
    known = get_type_hints(kind)
    for key, value in table.items():
        if key not in known:
            yield (*above, key), list(known)
        elif isinstance(value, dict) and (inner := _struct(known[key])) is not None:
            yield from _unknown(value, inner, (*above, key))


def _struct(hint: Any) -> Any:
    """The struct or dataclass of a type hint; None where there is none."""
    if get_origin(hint) in (types.UnionType, Annotated):
        return next((found for one in get_args(hint) if (found := _struct(one)) is not None), None)
    return hint if dataclasses.is_dataclass(hint) or (isinstance(hint, type) and issubclass(hint, msgspec.Struct)) else None


def _value(table: Any, keys: tuple[str, ...]) -> Any:
    for key in keys:
        table = table.get(key) if isinstance(table, dict) else table
    return table


def _place(file: Path, text: str, keys: tuple[str, ...]) -> str:
    """File and line of a key; only the file where it stands in no line of its own."""
    header: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), 1):
        if found := re.match(r"\s*\[+([^\]]+)\]", line):
            header = tuple(re.findall(r"[\w-]+", found[1]))
            here = header
        elif found := re.match(r"\s*([\w\"'.\s-]+?)\s*=", line):
            here = header + tuple(re.findall(r"[\w-]+", found[1]))
        else:
            continue
        if keys and here[: len(keys)] == keys:
            return f"{file}, line {number}"
    return str(file)


def rows() -> list[tuple[str, str, str]]:
    """Key, default as TOML and meaning of each setting of the first level: for --print-defaults and the docs."""
    plain = DaemonConfig(bundle="policy.cutlayer")
    hints = get_type_hints(DaemonConfig, include_extras=True)
    found = []
    for name in DaemonConfig.__struct_fields__:
        value = getattr(plain, name)
        if _struct(hints[name]) is None:
            found.append((name, _toml(value), get_args(hints[name])[1].description))
    return found


def defaults() -> str:
    """A complete configuration file with every default; what has none stands in comments."""
    plain = DaemonConfig(bundle="policy.cutlayer")
    lines = [line for name, value, words in rows() for line in (f"# {words}", f"{name} = {value}")]
    for title, numbers in (("controller", plain.controller), ("controller.trial", plain.controller.trial)):
        lines += ["", f"[{title}]  # docs/fallbacks.md explains these"]
        values = {name: getattr(numbers, name) for name in numbers.__struct_fields__}
        lines += [f"{name} = {_toml(value)}" for name, value in values.items() if not isinstance(value, msgspec.Struct)]
    lines += ["", "# Decide by the rule while no bundle can be used; without a [task] the daemon does not start then.", "# [task]"]
    lines += ['# plans = "plans.json"', "# [task.path]", "# rtt_s = 0.05", "# [task.objective]", "# deadline_s = 0.12"]
    return "\n".join(lines) + "\n"


def _toml(value: object) -> str:
    """Strings, numbers and lists of them are written in TOML as in JSON."""
    return msgspec.json.encode(value).decode()

"""The daemon's one configuration file: TOML, checked whole, unknown keys refused with the nearest known one."""

from __future__ import annotations

import difflib
import math
import tomllib
from typing import TYPE_CHECKING

import msgspec

from cutlayer.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path


class DaemonConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What `cutlayerd` needs to know."""

    bundle: str  # exported policy
    socket: str = "cutlayerd.sock"  # Unix socket to listen on
    request_bytes: int = 65_536  # longest line accepted; a decide request has about 60 bytes
    drain_s: float = 2.0  # after SIGTERM, how long open connections may still be answered


def load(file: Path) -> DaemonConfig:
    """Read and check the file.

    Raises:
        ConfigError: it is missing, no TOML, or a key is unknown or of the wrong type.
    """
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {file}: {error.strerror}; give the path of a TOML file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is no TOML: {error}; compare it with: cutlayerd --print-defaults") from error
    known = DaemonConfig.__struct_fields__
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"known keys: {', '.join(known)}"
            raise ConfigError(f"unknown key {key!r} in {file}; {hint}")
    try:
        config = msgspec.convert(table, DaemonConfig)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{file}: {error}; compare it with: cutlayerd --print-defaults") from error
    if config.request_bytes < 256 or not 0 <= config.drain_s < math.inf:
        raise ConfigError(f"{file}: request_bytes {config.request_bytes} must be at least 256 and drain_s {config.drain_s} not negative")
    return config


def defaults() -> str:
    """A complete configuration file with every default."""
    lines = ['bundle = "policy.cutlayer"']
    config = DaemonConfig(bundle="")
    for name in DaemonConfig.__struct_fields__[1:]:
        value = getattr(config, name)
        lines.append(f"{name} = {msgspec.json.encode(value).decode()}")
    return "\n".join(lines) + "\n"

"""Scenarios by name, and scenario files that override what a named one says.

`names()` lists what ships, `make` builds one by its name or from a TOML file, `claim` says in one line what it models.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING

from cutlayer.envs.scenarios import builtin, files
from cutlayer.envs.scenarios.builtin import GENERATED, camera, plan_table
from cutlayer.errors import ConfigError, nearest

if TYPE_CHECKING:
    from collections.abc import Callable

    from cutlayer.envs.spec import Scenario

__all__ = ["GENERATED", "SCENARIOS", "camera", "claim", "make", "names", "plan_table"]

SCENARIOS: dict[str, Callable[[], Scenario]] = {
    "camera": builtin.camera,
    "privacy": builtin.privacy,
    "paper-linear": builtin.paper_linear,
    "paper-urllc": builtin.paper_urllc,
    "urllc-ge": builtin.urllc_ge,
    "bursty-deadline": builtin.bursty_deadline,
    "hidden-load": builtin.hidden_load,
    "battery-harvest": builtin.battery_harvest,
    "cold-start": builtin.cold_start,
    "compound": builtin.compound,
    "lte-uplink": builtin.lte_uplink,
    "nsa-uplink": builtin.nsa_uplink,
}


def names() -> list[str]:
    """Names that `make` knows."""
    return list(SCENARIOS)


def claim(name: str) -> str:
    """What a named scenario models, in one line."""
    text = inspect.getdoc(SCENARIOS[name])
    assert text is not None, f"scenario {name} has no docstring"
    return text.splitlines()[0]


def make(name: str) -> Scenario:
    """A scenario by name, or from a file whose name ends in `.toml`.

    Raises:
        ConfigError: the name is unknown, or the file is wrong.
    """
    if name.endswith(".toml"):
        return files.load(Path(name), built_in)
    return built_in(name)


def built_in(name: str) -> Scenario:
    """A scenario by name.

    Raises:
        ConfigError: the name is unknown.
    """
    if name not in SCENARIOS:
        raise ConfigError(f"unknown scenario {name!r}; {nearest(name, names())}known: {', '.join(names())}, and any path of a .toml file")
    return SCENARIOS[name]()

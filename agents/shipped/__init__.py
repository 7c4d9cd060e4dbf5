"""The policies that ship: `SCENARIO.cutlayer` in this folder is what `best-learned` means there.

A bundle holds what it is and how it was made. Which run of which learner ships is chosen on validation episodes, never on those of the
benchmark; `agents.ship` wrote them.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from cutlayer.errors import ConfigError

SUFFIX = ".cutlayer"


def names() -> list[str]:
    """Scenarios that a policy ships for."""
    return sorted(entry.name.removesuffix(SUFFIX) for entry in resources.files(__package__).iterdir() if entry.name.endswith(SUFFIX))


def find(scenario: str) -> Path:
    """The bundle that ships for a scenario, by the scenario's name.

    Raises:
        ConfigError: there is none.
    """
    if scenario not in names():
        raise ConfigError(
            f"no learned policy ships for scenario {scenario!r} (one ships for: {', '.join(names()) or 'none'}); "
            f"train one with: cutlayer train --scenario {scenario}, and name its folder"
        )
    with resources.as_file(resources.files(__package__) / f"{scenario}{SUFFIX}") as path:
        return Path(path)

"""The policies that ship: for each scenario the bundle that `best-learned` means, in this folder.

A bundle holds what it is and how it was made (`run.json` of its training is quoted in its manifest); it may hold another form beside the
network. Which learner ships is chosen on validation episodes, never on those of the benchmark.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from cutlayer.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

# Scenario to file; a test loads each and holds it against its scenario.
BUNDLES: Mapping[str, str] = {}


def find(scenario: str) -> Path:
    """The bundle that ships for a scenario, by the scenario's name.

    Raises:
        ConfigError: there is none.
    """
    if scenario not in BUNDLES:
        raise ConfigError(
            f"no learned policy ships for scenario {scenario!r} (one ships for: {', '.join(BUNDLES) or 'none'}); "
            f"train one with: cutlayer train --scenario {scenario}, and name its folder"
        )
    with resources.as_file(resources.files(__package__) / BUNDLES[scenario]) as path:
        return Path(path)

"""A test bed's folder as a report reads it: what `run.json` tells of each policy in both worlds, and the requests behind it.

The requests lie in a file `POLICY.json` for each policy. One that is missing, damaged or of another call than `run.json` is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from cutlayer.agents.testbed.side import Side
from cutlayer.agents.train import RUN
from cutlayer.errors import ConfigError
from cutlayer.profiles.plans import PlanTable
from cutlayer.runtime.testbed.others import MOST

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

WORLDS = ("measured", "simulated")


class Figures(msgspec.Struct, frozen=True):
    """Of a policy in one world, as `agents.testbed.run.figures` tells them."""

    requests: int
    reward_mean: float
    latency_mean_s: float
    latency_p50_s: float
    latency_p95_s: float
    latency_p99_s: float
    misses: int
    miss_rate: float
    miss_ci95: tuple[float, float]
    accuracy: float
    energy_j: float
    accuracy_of_images: float | None


class Compared(msgspec.Struct, frozen=True):
    """A policy in both worlds; see `agents.testbed.run.compared`."""

    measured: Figures
    simulated: Figures
    latency_error: float
    late: int
    resets: int
    others: float
    made: dict[str, Any] = {}

    def of(self, world: str) -> Figures:
        """The figures of one of `WORLDS`."""
        found: Figures = getattr(self, world)
        return found


class Told(msgspec.Struct, frozen=True):
    """A `run.json`; deadline_s is None where requests have deadlines of their own, or where it was written by an older version."""

    scenario: str
    backend: str
    requests: int
    images: str
    quiet: bool
    policies: dict[str, Compared]
    ranking_measured: list[str]
    ranking_simulated: list[str]
    same_ranking: bool
    plans_sha256: str
    inputs: str
    version: str
    commit: str
    command: str
    date: str
    machine: dict[str, Any]
    deadline_s: float | None = None
    emulation: str = "pad"

    @property
    def busy(self) -> list[str]:
        """Policies during whose run others took too much of the machine."""
        return [label for label, one in self.policies.items() if one.others > MOST]


@dataclass(frozen=True, slots=True)
class Requests:
    """Every request of a policy in one world, in the order of their arrival."""

    plans: NDArray[np.int64]
    latency_s: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Bed:
    """A folder of `cutlayer testbed run`; requests by policy, then by world."""

    folder: Path
    told: Told
    plans: PlanTable
    requests: Mapping[str, Mapping[str, Requests]]


def read(path: Path, content: dict[str, Any]) -> Bed:
    """The folder of that `run.json`, whose content is given.

    Raises:
        ConfigError: a policy's file or the plan table is missing or belongs to another run.
        MsgspecError: `run.json` does not hold what it should.
    """
    folder, told = path.parent, msgspec.convert(content, Told)
    plans = PlanTable.decode(_bytes(folder / "plans.json"), str(folder / "plans.json"))
    if plans.digest() != told.plans_sha256:
        raise _foreign(folder / "plans.json", folder)
    requests = {}
    for label in told.policies:
        side = _side(folder / f"{label}.json")
        if any(getattr(side, world) != content["policies"][label][world] for world in WORLDS):
            raise _foreign(folder / f"{label}.json", folder)
        requests[label] = {
            world: Requests(np.array([one.plan for one in records]), np.array([one.latency_s for one in records]))
            for world, records in (("measured", side.measured_records), ("simulated", side.simulated_records))
        }
    return Bed(folder, told, plans, requests)


def _side(path: Path) -> Side:
    try:
        return msgspec.json.decode(_bytes(path), type=Side)
    except msgspec.DecodeError as error:
        raise ConfigError(
            f"{path} is damaged ({error}); remove it, and give the same cutlayer testbed run again, which makes it"
        ) from error


def _bytes(path: Path) -> bytes:
    if not path.exists():
        raise ConfigError(f"{path} is gone, and {RUN} beside it tells of it; give the same cutlayer testbed run again, which makes it")
    return path.read_bytes()


def _foreign(path: Path, folder: Path) -> ConfigError:
    return ConfigError(f"{path} belongs to another run than {RUN} beside it; give the same cutlayer testbed run again, with -o {folder}")

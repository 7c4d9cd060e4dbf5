"""What the runs of one world say of its policies: scores, differences and worst seeds. `agents.benchmark_page` writes them down."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from cutlayer.agents import oracle, policies, score
from cutlayer.agents.benchmark import CAUSAL, KNOB, RUN, TRAINING
from cutlayer.agents.learners import LEARNERS
from cutlayer.errors import ConfigError
from cutlayer.files import write_atomic

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from cutlayer.agents.score import Score, Units

RIVAL = "bayes-greedy"
PACKED = ".jsonl"


class Run(msgspec.Struct, frozen=True):
    """One `run.json` of the benchmark; see `benchmark`."""

    policy: str
    seed: int
    world: str
    world_sha256: str
    rewards: list[float]
    drives: list[str] | None
    outage: list[bool]
    figures: dict[str, Any]
    trend: dict[str, dict[str, float]]
    made_at: str
    commit: str
    command: str
    inputs: str
    machine: dict[str, Any]

    @property
    def mean(self) -> float:
        """Mean reward."""
        return float(np.mean(self.rewards))


@dataclass(frozen=True, slots=True)
class Standing:
    """A policy in a world: the run of its median seed (the lower one of two), with its score; of the worst seed the score alone.

    share: the score where 1 is the causal bound. apart: mean reward less that of the rival's median seed, with its interval.
    """

    run: Run
    seeds: int
    score: Score
    worst: float | None
    share: Score | None
    apart: tuple[float, float, float] | None


@dataclass(frozen=True, slots=True)
class Standings:
    """Everything about a world: its policies by name, the rewards that are 1, what was resampled, and runs that do not belong."""

    world: str
    policies: dict[str, Standing]
    top: NDArray[np.float64]
    over: Units
    held: dict[str, NDArray[np.float64]]
    stale: list[str]

    @property
    def any_run(self) -> Run:
        """Any of the runs: what they say of episodes, drives and outages is the same."""
        return next(iter(self.policies.values())).run

    @property
    def scale(self) -> Score:
        """The ends of the scale; its value is None where there is no headroom."""
        return self.policies["clairvoyant"].score

    def rewards(self, one: Standing) -> NDArray[np.float64]:
        """Mean reward of each episode; of the clairvoyant, the best that any run reached."""
        return self.top if one.run.policy == "clairvoyant" else np.array(one.run.rewards)

    def of_kind(self, kind: str) -> list[Standing]:
        """Standings of `rule`s, `learner`s or `oracle`s, best first."""
        return sorted((one for name, one in self.policies.items() if kind_of(name) == kind), key=lambda one: -one.run.mean)


def kind_of(policy: str) -> str:
    """Who decides: `learner`, `oracle` (which knows more than a device) or `rule`."""
    if policy in LEARNERS or policy == policies.BEST_LEARNED:
        return "learner"
    return "oracle" if policy in oracle.ORACLES or policy == CAUSAL else "rule"


def load(folder: Path) -> dict[str, list[Run]]:
    """Runs by world, of a benchmark's folder or of one that `pack` wrote; of each policy and seed the newest.

    Raises:
        ConfigError: there are none, or one cannot be read.
    """
    found: dict[str, dict[tuple[str, int], Run]] = {}
    for path, line in _lines(folder):
        try:
            run = msgspec.json.decode(line, type=Run)
        except msgspec.DecodeError as error:
            raise ConfigError(f"{path} is no run of the benchmark ({error}); remove it, and it is made again") from error
        before = found.setdefault(run.world, {}).get((run.policy, run.seed))
        if before is None or before.made_at < run.made_at:
            found[run.world][run.policy, run.seed] = run
    if not found:
        raise ConfigError(f"no runs under {folder}; make some with: cutlayer benchmark -o {folder}")
    return {world: list(runs.values()) for world, runs in found.items()}


def _lines(folder: Path) -> Iterator[tuple[Path, bytes]]:
    for path in sorted(folder.glob(f"*/*/{RUN}")):
        if path.parent.parent.name != TRAINING:
            yield path, path.read_bytes()
    for path in sorted(folder.glob(f"*{PACKED}")):
        for line in path.read_bytes().splitlines():
            yield path, line


def pack(folder: Path, out: Path) -> list[Path]:
    """Write a benchmark's `run.json` files to `out`, a line each, a file for each world: small enough to be kept beside the page.

    Raises:
        ConfigError: as `load`.
    """
    worlds = load(folder)
    lines: dict[str, list[bytes]] = {world: [] for world in worlds}
    for _, line in _lines(folder):
        run = msgspec.json.decode(line)
        lines[run["world"]].append(msgspec.json.encode(run))
    for world, of in lines.items():
        write_atomic(out / f"{world}{PACKED}", b"\n".join(of) + b"\n")
    return [out / f"{world}{PACKED}" for world in lines]


def stand(runs: list[Run]) -> Standings:
    """Score every policy of one world's runs against the best of all of them.

    Raises:
        ConfigError: there is no simple policy or no clairvoyant among them.
    """
    newest = max(runs, key=lambda run: run.made_at)
    alike = [run for run in runs if run.world_sha256 == newest.world_sha256 and len(run.rewards) == len(newest.rewards)]
    stale = sorted({run.policy for run in runs} - {run.policy for run in alike})
    by_policy: dict[str, list[Run]] = {}
    for run in sorted(alike, key=lambda run: run.mean):
        by_policy.setdefault(run.policy, []).append(run)
    median = {name: of[(len(of) - 1) // 2] for name, of in by_policy.items()}
    simple = {name: np.array(median[name].rewards) for name in score.SIMPLE if name in median}
    if not simple or "clairvoyant" not in median:
        raise ConfigError(
            f"runs of {newest.world} lack the clairvoyant or every simple policy; run: cutlayer benchmark --scenario {newest.world}"
        )
    # Whatever any run reached can be reached: the best of all is feasible, and nobody is above 1.
    top = np.max([run.rewards for run in alike], axis=0)
    over = score.units(newest.drives, len(newest.rewards))
    bound = np.array(median[CAUSAL].rewards) if CAUSAL in median else None
    rival = np.array(median[RIVAL].rewards) if RIVAL in median else None

    def standing(name: str) -> Standing:
        rewards = top if name == "clairvoyant" else np.array(median[name].rewards)
        return Standing(
            median[name],
            len(by_policy[name]),
            score.score(rewards, simple, top, over),
            score.score(np.array(by_policy[name][0].rewards), simple, top, over).value if len(by_policy[name]) > 1 else None,
            None if bound is None else score.score(rewards, simple, bound, over),
            None if rival is None or name == RIVAL else score.difference(rewards, rival, over),
        )

    held = {name.removeprefix(KNOB): np.array(run.rewards) for name, run in median.items() if name.startswith(KNOB)}
    return Standings(newest.world, {name: standing(name) for name in median if not name.startswith(KNOB)}, top, over, held, stale)

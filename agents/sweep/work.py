"""One run, from what it is told to what its `run.json` holds; every executor calls `perform`, in a process that stays for further runs.

A policy is evaluated as `cutlayer evaluate` does it, a learner trained first as `cutlayer train` does it. What costs more than an
evaluation is kept in the process: the world, and rules once tuned, of which every run gets a fresh copy.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import pickle
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from cutlayer.agents import benchmark, evaluate, judge, policies, train
from cutlayer.agents.bayes.tuning import Tuned
from cutlayer.agents.episodes import HELD_OUT
from cutlayer.envs.streams import deadlines, draw

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cutlayer.agents.evaluate import Policy, Result
    from cutlayer.agents.sweep.plan import Run
    from cutlayer.agents.worlds import World
    from cutlayer.envs.spec import Scenario

TRAINING = benchmark.TRAINING
SCORE = ("score", "score_ci95", "score_note", "headroom", "references")


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a run: what its `run.json` holds, or why it failed, in one line."""

    record: dict[str, Any] | None
    error: str | None = None


def attempt(run: Run, folder: Path) -> Outcome:
    """The run; whatever goes wrong in it is its outcome, and ends nothing else."""
    try:
        return Outcome(perform(run, folder))
    except Exception as error:  # noqa: BLE001 - as said
        text = " ".join(str(error).split())
        return Outcome(None, f"{type(error).__name__}: {text}" if text else type(error).__name__)


def perform(run: Run, folder: Path) -> dict[str, Any]:
    """Train, where a learner is asked for (in `folder`, going on where it was cut off), then evaluate on held-out episodes."""
    began_s = time.process_time()
    world = world_of(run.world)
    name, trained = run.policy, None
    if run.recipe is not None:
        place = folder / TRAINING
        trained = train.train(world.training, run.policy, run.seed, place, engine=run.engine, recipe=run.recipe)
        name, policy = str(place), policies.make(world.tuning, str(place), run.seed)
    else:
        policy = copy.deepcopy(_policy(run.world, run.policy, 0 if run.policy in benchmark.ONCE else run.seed))
    result = _play(world.judged, policy, run)
    record = benchmark.record(world, run.policy, run.seed, run.size, result, run.world_sha256)
    figures = evaluate.resolved(record["figures"])  # type: ignore[arg-type]  # it is a dict
    if run.scored:
        scored = judge.judge(world.judged, world.tuning, name, run.seed, run.size.seeds, run.engine)
        figures |= {key: scored[key] for key in SCORE}
    return {
        **record,
        "world": _named(world, run),
        "figures": figures,
        "key": run.key,
        "fields": run.fields,
        "engine": run.engine,
        "recipe": None if run.recipe is None else dataclasses.asdict(run.recipe),
        "training_cpu_s": 0.0 if trained is None else trained["cpu_s"],
        "cpu_s": time.process_time() - began_s,
    }


def _named(world: World, run: Run) -> str:
    """A world has one set of episodes: only then are its runs compared episode by episode."""
    first = run.size.seeds.start - HELD_OUT
    return world.name if first == 0 else f"{world.name}, episodes from {first}"


def _play(scenario: Scenario, policy: Policy, run: Run) -> Result:
    if isinstance(policy, Tuned) and run.engine == "kernel":
        return _compiled(scenario, policy, run.size.seeds)
    return evaluate.evaluate(scenario, policy, run.size.seeds, run.engine)


def _compiled(scenario: Scenario, policy: Tuned, episodes: Sequence[int]) -> Result:
    """A priced rule takes the same plans compiled, 14 times faster (10,000 requests of urllc-ge in 0.12 CPU-seconds, not 1.7)."""
    from cutlayer.agents.bayes.compiled import Compiled  # compiles for seconds; only these rules need it
    from cutlayer.envs.batch import Bank

    drawn = [draw(scenario, episode) for episode in episodes]
    played = Compiled(scenario, Bank.stack(scenario, drawn))
    played.play(policy.parameters)
    due = None if scenario.deadlines is None else np.array([deadlines(scenario, streams) for streams in drawn])
    return evaluate.Result(scenario, played.plans, played.latency_s, played.accuracy, played.energy_j, due)


@functools.lru_cache(maxsize=8)  # our choice: runs come ordered by world
def world_of(pickled: bytes) -> World:
    made: World = pickle.loads(pickled)  # noqa: S301 - pickled by this very program, see `plan`
    return made


@functools.lru_cache(maxsize=32)  # our choice: as many as there are baselines, with a few seeds
def _policy(world: bytes, name: str, seed: int) -> Policy:
    return policies.make(world_of(world).tuning, name, seed)

"""Runs of the benchmark: every (world, policy, seed) once, each with a `run.json` that a page is made of.

    DIR/WORLD/POLICY-SEED-KEY/run.json      mean reward of each episode, figures, what makes it repeatable
    DIR/training/...                        run folders of `agents.train`, which go on where they were cut off

KEY is a digest of all that a run is made from but the code: the world's streams and plan table, the episodes, the policy's recipe, the
seed. A run that is there is not made again, so a benchmark that was cut off goes on when the same call is made; one whose world or recipe
has changed is made anew, and a page takes the newest of each. The commit that made a run stands in it: after a change of the code that
changes what is decided, remove the folder.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from typing import TYPE_CHECKING, Any

import numpy as np

from cutlayer.agents import baselines, evaluate, oracle, policies, resumable, runs, score, shipped, train, trends
from cutlayer.agents.episodes import HELD_OUT, TUNING
from cutlayer.agents.learners import LEARNERS
from cutlayer.envs.batch import Bank
from cutlayer.envs.channels.statistics import OUTAGE_BPS
from cutlayer.envs.spec import Segments
from cutlayer.envs.streams import draw
from cutlayer.errors import ConfigError, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from cutlayer.agents.evaluate import Result
    from cutlayer.agents.worlds import World
    from cutlayer.envs.spec import Scenario

RUN, TRAINING = "run.json", "training"
CAUSAL = "causal-bound"  # what a planner on an exact filter reaches; worlds whose laws it does not know have none
EPISODES = 200  # 40,000 requests: a miss rate of 0.001 is then known to a third of itself
# What a seed changes nothing of is run once: a rule that only looks, or that is tuned by exact search.
ONCE = {
    *score.SIMPLE, "edgent-static", "edgent-dynamic", "dyno", "dynamic-split", *oracle.ORACLES, CAUSAL, policies.BEST_LEARNED,
}  # fmt: skip
OUTAGE_SHARE = 0.02  # of an episode's time, from which it is one with outages: our study's line
# Every knob in turn is held at each of its values, while the clairvoyant chooses the others; `uncut` allows no cut inside the network.
KNOB = "clairvoyant@"
UNCUT = f"{KNOB}uncut"


@dataclasses.dataclass(frozen=True, slots=True)
class Size:
    """How much: held-out episodes, and requests that learners learn from (the recipe's own number without)."""

    episodes: int = EPISODES
    steps: int | None = None

    @property
    def seeds(self) -> range:
        """The episodes."""
        return range(HELD_OUT, HELD_OUT + self.episodes)


def default_policies(world: World) -> list[str]:
    """Every policy that the world can have, rules first, then what holds a knob, then learners."""
    kept = [policies.BEST_LEARNED] if world.training.name in shipped.names() else []
    return [*baselines.RULES, *oracle.ORACLES, CAUSAL, *knobs(world.judged), *kept, *LEARNERS]


def knobs(scenario: Scenario) -> list[str]:
    """Names of the clairvoyants that lack a knob."""
    plans = scenario.plans
    cut = plans.offloads & (plans.partition > 0)
    exits = [f"{KNOB}exit={value}" for value in sorted(set(plans.exit.tolist()))]
    bits = [f"{KNOB}bits={value}" for value in sorted(set(plans.bits[cut].tolist()))]
    return [*exits, UNCUT, *bits]


def run(
    world: World,
    names: Sequence[str],
    seeds: Iterable[int],
    folder: Path,
    size: Size = Size(),
    tell: Callable[[str], None] = lambda _line: None,
) -> list[Path]:
    """Make what is not there yet; the `run.json` of every run, made now or before.

    Raises:
        ConfigError: a policy is unknown.
    """
    _check(names)
    made = []
    world_sha256 = resumable.digest([Bank.draw(world.judged, size.seeds[:4]), Bank.draw(world.tuning, TUNING[:4])])
    for name in names:
        for seed in list(seeds)[: 1 if name in ONCE or name.startswith(KNOB) else None]:
            try:
                key = resumable.digest([world_sha256, name, seed, size.episodes, *_made_of(world, name, seed, size)])
                place = folder / world.name / f"{name}-{seed}-{key[:12]}"
                if not (place / RUN).exists():
                    result = _result(world, name, seed, folder, size)
                    runs.write(place, RUN, record(world, name, seed, size, result, world_sha256))
                    tell(f"{world.name}: {name} seed {seed}: {result.reward.mean():.4f}")
            except ConfigError as error:  # a world without raw input has no edge-only, one whose laws are too many no causal bound
                tell(f"{world.name}: no {name}: {error}")
                break
            made.append(place / RUN)
    return made


def _check(names: Sequence[str]) -> None:
    known = [*policies.names(), CAUSAL, *LEARNERS]
    for name in names:
        if name not in known and not name.startswith(KNOB):
            raise ConfigError(f"unknown policy {name!r}; {nearest(name, known)}known: {', '.join(known)}, {UNCUT}")


def _made_of(world: World, name: str, seed: int, size: Size) -> list[Any]:
    """What a policy is made of beside the world: a learner's training, or the bundle that ships."""
    if name in LEARNERS:
        return [_training_key(world, name, seed, size)]
    if name == policies.BEST_LEARNED:
        return [shipped.find(world.training.name).read_bytes().hex()]
    return []


def _recipe(world: World, name: str, size: Size) -> Any:
    recipe = LEARNERS[name].recipe(world.training.name)
    return recipe if size.steps is None else dataclasses.replace(recipe, steps=size.steps)


def _training_key(world: World, name: str, seed: int, size: Size) -> str:
    return resumable.digest([Bank.draw(world.training, TUNING[:4]), name, seed, dataclasses.asdict(_recipe(world, name, size))])


def _result(world: World, name: str, seed: int, folder: Path, size: Size) -> Result:
    """What became of the requests; a learner is trained first."""
    if name == CAUSAL:
        from cutlayer.agents.bayes import causal  # compiles a planner; only this policy needs it

        return causal.causal(world.judged, size.seeds, seed)
    if name.startswith(KNOB):
        return without_knob(world.judged, name.removeprefix(KNOB), size.seeds)
    if name in LEARNERS:
        place = folder / TRAINING / f"{world.training.name}-{name}-{seed}-{_training_key(world, name, seed, size)[:12]}"
        train.train(world.training, name, seed, place, recipe=_recipe(world, name, size))
        policy = policies.make(world.training, str(place), seed)
    else:
        policy = policies.make(world.training if name == policies.BEST_LEARNED else world.tuning, name, seed)
    return evaluate.evaluate(world.judged, policy, size.seeds)


def without_knob(scenario: Scenario, held: str, episodes: Sequence[int]) -> Result:
    """The clairvoyant where a knob is held at a value: `exit=2`, `bits=8` of every tensor sent, or `uncut`.

    Raises:
        ConfigError: no plan has that value.
    """
    plans = scenario.plans
    cut = plans.offloads & (plans.partition > 0)
    knob, _, value = held.partition("=")
    if held == "uncut":
        kept = np.flatnonzero(~cut)
    elif knob == "exit" and value.isdigit():
        kept = np.flatnonzero(plans.exit == int(value))
    elif knob == "bits" and value.isdigit():
        kept = np.flatnonzero(~cut | (plans.bits == int(value))) if (plans.bits[cut] == int(value)).any() else np.array([], np.int64)
    else:
        raise ConfigError(f"cannot hold a knob at {held!r}; give uncut, or exit or bits with a value, as exit=2")
    if len(kept) == 0:
        raise ConfigError(f"no plan of {scenario.name} has {held}; it has: {', '.join(one.removeprefix(KNOB) for one in knobs(scenario))}")
    fewer = dataclasses.replace(plans, rows=tuple(plans.rows[i] for i in kept))
    return evaluate.evaluate_clairvoyant(dataclasses.replace(scenario, plans=fewer, segments=_some(scenario.segments, kept)), episodes)


def _some(segments: Segments | None, kept: NDArray[np.int64]) -> Segments | None:
    """Those of the plans that are kept."""
    if segments is None:
        return None
    return Segments(
        tuple(segments.unit[i] for i in kept), tuple(segments.swap_s[i] for i in kept), tuple(segments.unit_bytes[i] for i in kept)
    )


def record(world: World, name: str, seed: int, size: Size, result: Result, world_sha256: str) -> dict[str, object]:
    """What the `run.json` of a judged run holds."""
    scenario, episodes = world.judged, size.seeds
    drawn = [draw(scenario, episode) for episode in episodes]
    rates = np.array([streams.rate_bps[[streams.slot(now) for now in streams.arrival_s[:-1].tolist()]] for streams in drawn])
    spans = [streams.rate_bps[: streams.slot(float(streams.arrival_s[-1])) + 1] for streams in drawn]
    plans = result.scenario.plans
    trend = {knob: dataclasses.asdict(trends.rising(rates, getattr(plans, knob)[result.plans])) for knob in ("exit", "bits")}
    return {
        "policy": name,
        "seed": seed,
        "world": world.name,
        "world_sha256": world_sha256,
        "rewards": [round(float(mean), 7) for mean in result.reward.mean(axis=1)],
        "drives": score.drives(scenario, episodes),
        "outage": [bool((span < OUTAGE_BPS).mean() > OUTAGE_SHARE) for span in spans],
        "figures": result.summary(),
        "trend": trend,
        "made_at": dt.datetime.now(dt.UTC).isoformat(),
        **runs.manifest(scenario, {"policy": seed, "first_episode": episodes.start, "episodes": len(episodes)}),
    }

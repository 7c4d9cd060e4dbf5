"""Policies played again for what no `run.json` holds: every request's plan and latency, and the link and load it met.

A run that was judged before is believed only where playing it gives the very rewards of its `run.json`; a training that was not judged yet
is judged here, beside the references of its score, on held-out episodes.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cutlayer.agents import baselines, benchmark, evaluate, inputs, judge, oracle, policies, resumable, runs, score, standings, worlds
from cutlayer.agents.episodes import HELD_OUT, VALIDATION
from cutlayer.agents.report.gather import Judged
from cutlayer.agents.worlds import World
from cutlayer.envs.batch import Bank
from cutlayer.envs.channels import replay
from cutlayer.envs.streams import draw
from cutlayer.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from cutlayer.agents.evaluate import Policy, Result
    from cutlayer.agents.report.gather import Found, Trained
    from cutlayer.agents.standings import Standing, Standings
    from cutlayer.envs.spec import Scenario

EPISODES = 40  # as `cutlayer evaluate` has it
MOST_PLAYED = 4  # worlds that are played unless they are asked for: our choice, each takes half a minute to a minute
BLOCK = ", episodes from "  # what a sweep adds to a world's name where its episodes are others (`agents.sweep.work`)
PLAYED = 40  # episodes of a judged run that are played again: 8,000 requests resolve a share of 1 % to a tenth of itself
UNSCORED = "there is no run of the clairvoyant, or of no simple rule (device-only, best-static, greedy-ewma, ...), on these episodes"
SAME = 1e-6  # rewards in a run.json are rounded to seven places


@dataclass(frozen=True, slots=True)
class Requests:
    """Every request of a policy, and what it met: uplink rate and slow-down of the device when it came; shape (episodes, requests)."""

    result: Result
    rate_bps: NDArray[np.float64]
    slow_down: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Section:
    """Everything that one world's part of the report is drawn from."""

    name: str
    world: World | None  # None where it cannot be made again
    stood: Standings
    trained: list[Trained]
    requests: dict[str, Requests]
    policies: dict[str, Policy]
    made_here: list[Judged]
    absent: list[str]


def world(name: str, given: Mapping[str, Scenario]) -> World:
    """A world by name, or the scenario of that name that was given.

    Raises:
        ConfigError: no such world, or its drives are not at hand.
    """
    if name not in given:
        try:
            return worlds.make(name)
        except ConfigError as error:
            raise ConfigError(f"{error}; where {name} is in a .toml file, give it with --scenario") from error
    scenario = given[name]
    return World(name, inputs.on_drives(scenario, "test"), *(inputs.on_drives(scenario, "train"),) * 2)


def on_traces(place: World, traces: Sequence[Path]) -> World:
    """The world judged on these measured links, as `cutlayer evaluate --trace` does it; as it is where there are none."""
    if not traces:
        return place
    names = ", ".join(path.stem for path in traces)
    judged = dataclasses.replace(place.judged, channel=replay(list(traces)), inputs=f"traces: {names}")
    return dataclasses.replace(place, judged=judged)


def section(
    name: str,
    found: Found,
    given: Mapping[str, Scenario],
    *,
    traces: Sequence[Path] = (),
    episodes: int = EPISODES,
    play: bool = True,
    report: Callable[[float], None] = lambda _share: None,
) -> Section:
    """Judge what was not judged, play what is shown.

    Raises:
        ConfigError: the world of a training cannot be made, or is another one today than it was trained in.
    """
    judged = [run for run in found.judged if run.world == name]
    trained = [one for one in found.trained if one.world == name]
    absent: list[str] = []
    if judged:
        stood = stand(judged)
        if stood.stale:
            absent.append(f"{', '.join(stood.stale)}: run on another number of episodes than the others")
        absent += [
            f"the score of {one.folder}: this world's other runs were judged before; report it apart" for one in trained if not one.judged
        ]
        place = _place_of(name, given, absent) if play else None
        if not play:
            absent.append(f"latencies, knobs and map: more than {MOST_PLAYED} worlds lie here; ask for this one with --world")
        trained += [one for one in found.trained if place is not None and one.judged and one.world == place.training.name != name]
        if place is None:
            return Section(name, None, stood, trained, {}, {}, [], absent)
        makers = _makers(place, shown(stood), trained, stood)
        requests, made = _again(place, stood, makers, absent, report)
        return Section(name, place, stood, trained, requests, made, [], absent)
    place = on_traces(world(name, given), traces)
    made_here, of_all, policy_of = _judge(place, trained, episodes, absent, report)
    stood = stand(made_here)
    median = {policy: (policy, stood.policies[policy].run.seed) for policy in shown(stood)}
    requests = {policy: of_all[key] for policy, key in median.items()}
    made = {policy: policy_of[key] for policy, key in median.items()}
    return Section(name, place, stood, trained, requests, made, made_here, absent)


def _place_of(name: str, given: Mapping[str, Scenario], absent: list[str]) -> World | None:
    """The world that judged runs are of; None where it cannot be made again, and the reason among what is absent."""
    base = name.partition(BLOCK)[0]
    if "=" in base and base not in given:
        absent.append("latencies, knobs and map: a sweep changed this world's fields, and it is not made again here")
        return None
    try:
        return world(base, given)
    except ConfigError as error:
        absent.append(f"latencies, knobs and map: {error}")
        return None


def kind_of(name: str) -> str:
    """`learner`, `rule` or `oracle`; a training's name may say in brackets how its recipe differs."""
    return standings.kind_of(name.partition(" (")[0])


def ranked(stood: Standings, kind: str) -> list[Standing]:
    """Standings of a kind, best first."""
    return sorted((one for name, one in stood.policies.items() if kind_of(name) == kind), key=lambda one: -one.run.mean)


def stand(judged: Sequence[Judged]) -> Standings:
    """Their standings; without scores where the references of a score are not among them."""
    try:
        return standings.stand(list(judged))
    except ConfigError:
        longest = max(len(run.rewards) for run in judged)
        alike = sorted(
            (run for run in judged if len(run.rewards) == longest and not run.policy.startswith(benchmark.KNOB)), key=lambda run: run.mean
        )
        of = {name: [run for run in alike if run.policy == name] for name in dict.fromkeys(run.policy for run in alike)}
        none = score.Score(None, None, 0.0, "", float("nan"), float("nan"), UNSCORED)
        found = {name: standings.Standing(runs[(len(runs) - 1) // 2], len(runs), none, None, None, None) for name, runs in of.items()}
        over = score.units(alike[0].drives, longest)
        stale = sorted({run.policy for run in judged} - set(of))
        return standings.Standings(alike[0].world, found, np.max([run.rewards for run in alike], axis=0), over, {}, stale)


def why_unscored(stood: Standings) -> str:
    """The reason that is written down with the scores."""
    return next((one.score.note for one in stood.policies.values() if one.score.note), "there is no headroom")


def shown(stood: Standings) -> list[str]:
    """Policies whose requests are shown: the best learners, the best rule, the greedy rule, and who knows the future."""
    learned, rules = ([one.run.policy for one in ranked(stood, kind)] for kind in ("learner", "rule"))
    return [name for name in dict.fromkeys((*learned[:2], *rules[:1], "greedy-ewma", judge.CLAIRVOYANT)) if name in stood.policies]


def _judge(
    place: World, trained: Sequence[Trained], episodes: int, absent: list[str], report: Callable[[float], None]
) -> tuple[list[Judged], dict[tuple[str, int], Requests], dict[tuple[str, int], Policy]]:
    """Every training and the references of its score, on held-out episodes."""
    made: dict[tuple[str, int], Policy] = {}
    _same_world(place, trained)
    for one in trained:
        if not one.manifest.finished:
            absent.append(f"the score of {one.folder}: its training is not finished; the same cutlayer train goes on with it")
        elif (one.name, one.seed) in made:
            absent.append(f"{one.folder}: another folder holds {one.name} with seed {one.seed} already")
        else:
            made[one.name, one.seed] = policies.make(place.training, str(one.folder), one.seed)
    made |= {(name, 0): rule for name, rule in judge.simple(place.tuning, 0).items()}
    made[judge.CLAIRVOYANT, 0] = oracle.ORACLES[judge.CLAIRVOYANT](place.judged)
    span = range(HELD_OUT, HELD_OUT + episodes)
    met = _met(place.judged, span)
    names = score.drives(place.judged, span)
    judged, requests = [], {}
    about: dict[str, Any] = runs.manifest(place.judged, {})  # once: the checkout may go on while episodes are played
    for i, ((name, seed), policy) in enumerate(made.items()):
        result = evaluate.evaluate(place.judged, policy, span)
        requests[name, seed] = Requests(result, *met)
        judged.append(_signed(place, name, seed, span, result, names, about))
        report((i + 1) / len(made))
    return judged, requests, made


def _same_world(place: World, trained: Sequence[Trained]) -> None:
    """A policy is judged where it was trained."""
    now = resumable.digest([Bank.draw(place.training, VALIDATION), place.training.objective, place.training.blocks])
    for one in trained:
        if one.manifest.world_sha256 not in ("", now):  # an older run does not say
            raise ConfigError(
                f"{one.folder} was trained in another world than {place.name} is today (its plan table, link or objective differs); "
                "train it anew, or give its scenario's file with --scenario"
            )


def _signed(place: World, name: str, seed: int, span: range, result: Result, drives: list[str] | None, about: dict[str, Any]) -> Judged:
    """A judged run, as the benchmark would write it."""
    return Judged(
        policy=name,
        seed=seed,
        world=place.name,
        world_sha256="",
        rewards=[round(float(mean), 7) for mean in result.reward.mean(axis=1)],
        drives=drives,
        outage=[],
        figures=result.summary(),
        trend={},
        made_at="",
        seeds={"policy": seed, "first_episode": span.start, "episodes": len(span)},
        **{key: about[key] for key in ("commit", "command", "inputs", "machine", "plans_sha256", "version", "date", "scenario")},
    )


def _makers(place: World, names: Sequence[str], trained: Sequence[Trained], stood: Standings) -> dict[str, list[Callable[[], Policy]]]:
    """For each name the ways to have its policy of the median seed: of a learner, every training that it may be."""
    made: dict[str, list[Callable[[], Policy]]] = {}
    for name in names:
        seed = stood.policies[name].run.seed
        if name in oracle.ORACLES:
            made[name] = [lambda name=name: oracle.ORACLES[name](place.judged)]  # type: ignore[misc] # mypy infers no lambda with a default
        elif name in baselines.RULES:
            made[name] = [lambda name=name, seed=seed: baselines.RULES[name](place.tuning, seed)]  # type: ignore[misc] # as above
        else:
            algorithm = name.partition(" (")[0]
            folders = [one.folder for one in trained if one.manifest.algorithm == algorithm and one.seed == seed] or [Path(name)]
            made[name] = [lambda path=path, seed=seed: policies.make(place.training, str(path), seed) for path in folders]  # type: ignore[misc] # as above
    return made


def _again(
    place: World,
    stood: Standings,
    makers: Mapping[str, list[Callable[[], Policy]]],
    absent: list[str],
    report: Callable[[float], None],
) -> tuple[dict[str, Requests], dict[str, Policy]]:
    """The requests of judged runs, where playing them gives the rewards that were written down."""
    requests, made = {}, {}
    for i, (name, ways) in enumerate(makers.items()):
        run = stood.policies[name].run
        first = int(run.seeds["first_episode"]) if isinstance(run, Judged) else HELD_OUT
        span = range(first, first + min(PLAYED, len(run.rewards)))
        why = "playing it now does not give the rewards of its run.json: code or inputs have changed since"
        for way in ways:
            try:
                policy = way()
                result = evaluate.evaluate(place.judged, policy, span)
            except ConfigError as error:
                why = str(error)
                continue
            if np.allclose(result.reward.mean(axis=1), run.rewards[: len(span)], rtol=0.0, atol=SAME):
                requests[name], made[name] = Requests(result, *_met(place.judged, span)), policy
                break
        else:
            absent.append(f"latencies, knobs and map of {name}: {why}")
        report((i + 1) / len(makers))
    return requests, made


def _met(scenario: Scenario, span: Sequence[int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rate and slow-down at each arrival, of every episode."""
    rates, slow = np.empty((2, len(span), scenario.requests))
    for i, episode in enumerate(span):
        streams = draw(scenario, episode)
        slots = [streams.slot(now) for now in streams.arrival_s[:-1].tolist()]
        rates[i], slow[i] = streams.rate_bps[slots], streams.slow_down[slots]
    return rates, slow

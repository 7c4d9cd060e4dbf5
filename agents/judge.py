"""One policy beside the references of its score, all on the same episodes: what `cutlayer evaluate` prints."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from cutlayer.agents import evaluate, oracle, policies
from cutlayer.agents.baselines import RULES
from cutlayer.agents.score import SIMPLE, Score, drives, score, units
from cutlayer.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cutlayer.agents.evaluate import Result
    from cutlayer.envs.simulation import EngineName
    from cutlayer.envs.spec import Scenario

CLAIRVOYANT = "clairvoyant"


def simple(tuning: Scenario, seed: int) -> dict[str, evaluate.Policy]:
    """The policies whose best is 0, tuned on `tuning`; without those that its plan table cannot make."""
    made = {}
    for name in SIMPLE:
        try:
            made[name] = RULES[name](tuning, seed)
        except ConfigError:  # edge-only, where no plan sends the input
            continue
    return made


def alone(
    scenario: Scenario,
    tuning: Scenario,
    name: str,
    seed: int,
    episodes: Sequence[int],
    engine: EngineName = "kernel",
    report: Callable[[float], None] = lambda _share: None,
) -> dict[str, Any]:
    """The figures of a policy without a score.

    Raises:
        ConfigError: no such policy, or none for this scenario.
    """
    policy = policies.make(tuning, name, seed)
    result = evaluate.evaluate(scenario, policy, episodes, engine, report)
    empty = {"score": None, "score_ci95": None, "score_note": "not asked for", "headroom": None}
    return {**empty, **evaluate.resolved(result.summary())}


def judge(
    scenario: Scenario,
    tuning: Scenario,
    name: str,
    seed: int,
    episodes: Sequence[int],
    engine: EngineName = "kernel",
    report: Callable[[float], None] = lambda _share: None,
) -> dict[str, Any]:
    """The figures of a policy, made and tuned on `tuning` and run on `episodes` of `scenario`, with its score.

    Raises:
        ConfigError: no such policy, or none for this scenario.
    """
    policy = policies.make(tuning, name, seed)  # what is wrong with it is told before anything takes time
    report(0.0)
    searched = evaluate.evaluate(scenario, oracle.ORACLES[CLAIRVOYANT](scenario), episodes, engine, lambda share: report(0.8 * share))
    others = {one: evaluate.evaluate(scenario, rule, episodes, engine) for one, rule in simple(tuning, seed).items()}
    report(0.9)
    result = searched if name == CLAIRVOYANT else others.get(name) or evaluate.evaluate(scenario, policy, episodes, engine)
    top = evaluate.improved(searched, [*others.values(), result])
    if name == CLAIRVOYANT:
        result = top
    report(1.0)
    over = units(drives(scenario, episodes), len(episodes))
    means = {one: _means(other) for one, other in others.items()}
    found = score(_means(result), means, _means(top), over)
    return {
        **as_json(found),
        "score_over": {"unit": over.kind, "count": over.count, "drives": over.drives},
        "references": {
            "simple": found.simple,
            "reward_mean": {**{one: float(mean.mean()) for one, mean in means.items()}, CLAIRVOYANT: found.top_value},
            "clairvoyant_search": float(searched.reward.mean()),
        },
        **evaluate.resolved(result.summary()),
    }


def _means(result: Result) -> Any:
    return result.reward.mean(axis=1)


def as_json(found: Score) -> dict[str, Any]:
    """The keys of a score in the contract of `--json`."""
    return {
        "score": found.value,
        "score_ci95": None if found.interval is None else list(found.interval),
        "score_note": found.note,
        "headroom": found.headroom if math.isfinite(found.headroom) else None,
    }

"""Policies that are not learned: the rivals every learned one is printed beside. `ABOUT` says whose they are and what is left out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cutlayer.agents.baselines.about import ABOUT, About
from cutlayer.agents.baselines.bandit import ans
from cutlayer.agents.baselines.confidence import spinn
from cutlayer.agents.baselines.edgent import edgent_dynamic, edgent_static
from cutlayer.agents.baselines.fixed import Fixed, Random, best_static, edge_only
from cutlayer.agents.baselines.greedy import GreedyEwma, GreedyLast, greedy_ewma, greedy_last
from cutlayer.agents.baselines.splits import dynamic_split, dyno
from cutlayer.agents.episodes import TUNING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cutlayer.agents.bayes.tuning import Kind
    from cutlayer.agents.evaluate import Policy
    from cutlayer.envs.spec import Scenario

__all__ = [
    "ABOUT", "RULES", "About", "Fixed", "GreedyEwma", "GreedyLast", "Random", "ans", "best_static", "dynamic_split", "dyno", "edge_only",
    "edgent_dynamic", "edgent_static", "greedy_ewma", "greedy_last", "spinn",
]  # fmt: skip


def _priced(scenario: Scenario, seed: int, kind: Kind) -> Policy:
    from cutlayer.agents.bayes.tuning import tuned  # compiles for seconds

    return tuned(scenario, seed, kind, episodes=TUNING)


# By name: what each is made of a scenario (tuned on it, where it is tuned) and a seed.
RULES: Mapping[str, Callable[[Scenario, int], Policy]] = {
    "device-only": lambda scenario, _seed: Fixed(scenario.plans.device_only()),
    "edge-only": lambda scenario, _seed: edge_only(scenario),
    "random": lambda scenario, seed: Random(len(scenario.plans), np.random.default_rng(seed)),
    "best-static": lambda scenario, _seed: best_static(scenario, TUNING),
    "greedy-last": lambda scenario, _seed: greedy_last(scenario),
    "greedy-ewma": lambda scenario, _seed: greedy_ewma(scenario),
    "edgent-static": lambda scenario, _seed: edgent_static(scenario, TUNING),
    "edgent-dynamic": lambda scenario, _seed: edgent_dynamic(scenario, TUNING),
    "dyno": lambda scenario, _seed: dyno(scenario, TUNING),
    "spinn": lambda scenario, seed: spinn(scenario, TUNING, seed),
    "dynamic-split": lambda scenario, _seed: dynamic_split(scenario, TUNING),
    "ans": lambda scenario, _seed: ans(scenario, TUNING),
    "belief-greedy": lambda scenario, seed: _priced(scenario, seed, "belief-greedy"),
    "bayes-greedy": lambda scenario, seed: _priced(scenario, seed, "bayes-greedy"),
}

"""A decision tree in place of the network: a few comparisons, and a rule that people can read.

The states are those that matter once the tree decides: in each round the tree of the last one plays training episodes and the
network says what it would have done there (DAgger; Ross, Gordon, Bagnell, AISTATS 2011). A state weighs as much as a wrong plan
may cost in it, taken from the network's own logits (VIPER; Bastani, Pu, Solar-Lezama, NeurIPS 2018, which reads log pi as value). Of
the trees, the one with the best mean reward on the tuning episodes stays; what it loses is measured on the validation episodes.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from cutlayer.agents import states
from cutlayer.agents.episodes import TUNING, VALIDATION
from cutlayer.errors import ConfigError
from cutlayer.runtime.policy import Tree

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from cutlayer.envs.spec import Scenario
    from cutlayer.runtime.bundle import Bundle
    from cutlayer.runtime.policy import Mlp

LEAF = -1


@dataclasses.dataclass(frozen=True, slots=True)
class Recipe:
    """How large a tree may be, and what it is fitted to. Trees of a trained policy gained nothing beyond 128 leaves (docs/bundle.md)."""

    leaves: int = 256
    rounds: int = 8  # the first on states of the network, the others on those of the tree before
    episodes: int = 48  # of each round
    seed: int = 0

    def __post_init__(self) -> None:
        if self.leaves < 2:
            raise ConfigError(f"a tree of {self.leaves} leaves asks nothing; give it 2 or more, as with --leaves 256")


def distil(teacher: Mlp, scenario: Scenario, recipe: Recipe, report: Callable[[float], None] = lambda _share: None) -> Tree:
    """The best tree for episodes of `scenario`, which is to hold training drives only."""
    rng = np.random.default_rng(recipe.seed)
    seen: list[NDArray[np.float32]] = []
    best: tuple[float, Tree] | None = None
    choose = best_plans(teacher)
    for done in range(recipe.rounds):
        seen.append(states.visit(scenario, states.training_episodes(rng, recipe.episodes), choose).flat())
        tree = _fit(teacher, np.concatenate(seen), recipe)
        choose = many(tree)
        reward = float(states.visit(scenario, TUNING, choose).rewards.mean())
        if best is None or reward > best[0]:
            best = reward, tree
        report((done + 1) / recipe.rounds)
    assert best is not None
    return best[1]


def classifier() -> Any:
    """What fits a tree.

    Raises:
        ConfigError: scikit-learn, which is an extra, is not installed.
    """
    try:
        from sklearn.tree import DecisionTreeClassifier
    except ModuleNotFoundError as error:
        raise ConfigError(
            "a tree is fitted by scikit-learn, which is not installed; install it with: pip install 'cutlayer[tree]'"
        ) from error
    return DecisionTreeClassifier


def best_plans(teacher: Mlp) -> Callable[[NDArray[np.float32]], NDArray[np.int64]]:
    """The plans of the network, for many observations at once."""
    return lambda observations: states.logits(teacher, observations).argmax(axis=1)


def many(tree: Tree) -> Callable[[NDArray[np.float32]], NDArray[np.int64]]:
    """The plans of a tree, for many observations at once."""
    feature, threshold, yes, no, plan = (np.array(column) for column in (tree.feature, tree.threshold, tree.yes, tree.no, tree.plan))

    def choose(observations: NDArray[np.float32]) -> NDArray[np.int64]:
        rows, node = np.arange(len(observations)), np.zeros(len(observations), np.int64)
        while (inner := feature[node] != LEAF).any():
            goes_on = observations[rows, feature[node]].astype(np.float64) <= threshold[node]
            node = np.where(inner, np.where(goes_on, yes[node], no[node]), node)
        return plan[node]

    return choose


def _fit(teacher: Mlp, observations: NDArray[np.float32], recipe: Recipe) -> Tree:
    logits = states.logits(teacher, observations)
    weights = logits.max(axis=1) - logits.min(axis=1)
    fitted = classifier()(max_leaf_nodes=recipe.leaves, random_state=recipe.seed)
    fitted.fit(observations, logits.argmax(axis=1), sample_weight=weights)
    return converted(fitted)


def converted(fitted: Any) -> Tree:
    """A fitted classifier of scikit-learn as our tree; a question whose answers lead to the same plan is left out."""
    inner = fitted.tree_
    left, right = inner.children_left, inner.children_right
    plans = fitted.classes_[inner.value[:, 0].argmax(axis=1)]
    # A node's plan where everything below it has the same; children have higher numbers, so backwards is bottom up.
    single = np.where(left < 0, plans, LEAF)
    for node in range(len(left) - 1, -1, -1):
        if left[node] >= 0 and single[left[node]] == single[right[node]]:
            single[node] = single[left[node]]
    columns: list[list[Any]] = [[], [], [], [], []]

    def add(node: int) -> int:
        at = len(columns[0])
        leaf = single[node] != LEAF
        row = (LEAF, 0.0, 0, 0, int(single[node])) if leaf else (int(inner.feature[node]), float(inner.threshold[node]), 0, 0, 0)
        for column, value in zip(columns, row, strict=True):
            column.append(value)
        if not leaf:
            columns[2][at], columns[3][at] = add(left[node]), add(right[node])
        return at

    add(0)
    return Tree(*(tuple(column) for column in columns))


def judged(tree: Tree, teacher: Mlp, scenario: Scenario) -> dict[str, str | int | float]:
    """What the tree is worth on the validation episodes.

    fidelity: share of the requests that the tree decides on which the network would have decided alike. reward_loss: mean reward of
    the network less that of the tree, with its 95 % interval over episodes (bootstrap, paired).
    """
    played = states.visit(scenario, VALIDATION, many(tree))
    taught = states.visit(scenario, VALIDATION, best_plans(teacher))
    alike = best_plans(teacher)(played.flat()) == played.plans.ravel()
    loss = (taught.rewards - played.rewards).mean(axis=0)
    drawn = np.random.default_rng(0).integers(len(loss), size=(2_000, len(loss)))
    low, high = np.percentile(loss[drawn].mean(axis=1), [2.5, 97.5])
    return {
        "leaves": sum(feature == LEAF for feature in tree.feature),
        "depth": depth(tree),
        "episodes": len(VALIDATION),
        "fidelity": float(alike.mean()),
        "reward_network": float(taught.rewards.mean()),
        "reward_tree": float(played.rewards.mean()),
        "reward_loss": float(loss.mean()),
        "reward_loss_low": float(low),
        "reward_loss_high": float(high),
    }


def depth(tree: Tree) -> int:
    """Most questions on the way to a plan."""
    below = [0] * len(tree.feature)
    for node in range(len(below) - 1, -1, -1):
        if tree.feature[node] != LEAF:
            below[node] = 1 + max(below[tree.yes[node]], below[tree.no[node]])
    return below[0]


def with_tree(bundle: Bundle, scenario: Scenario, recipe: Recipe, report: Callable[[float], None] = lambda _share: None) -> Bundle:
    """The bundle with a tree of its network, and how much worse the tree decides."""
    tree = distil(bundle.policy, scenario, recipe, report)
    return dataclasses.replace(bundle, tree=tree, distilled=dataclasses.asdict(recipe) | judged(tree, bundle.policy, scenario))

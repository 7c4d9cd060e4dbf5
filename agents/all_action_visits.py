"""States on the way of a learning policy, and what every plan is worth in each of them.

Episodes are drawn anew as training goes on, a bank at a time, and none is begun twice: a network that is told the worth of every plan
learns a future by heart when it meets it again. Lanes begin a bank in the middle of their episodes, so that they do not end together.

A policy that has come to send nothing learns nothing of the link and so keeps to it. Two things lead out: stretches of requests in which
a lane only offloads, and episodes that a guide decides, the Bayes greedy as it was tuned. No correction is needed for either: the
gradient sums over all plans, whichever was taken.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from cutlayer.agents.bayes.compiled import Compiled
from cutlayer.envs.batch import Bank
from cutlayer.envs.branching import BranchingLanes

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

    from cutlayer.agents.all_action import AllActionRecipe
    from cutlayer.envs.spec import Scenario
    from cutlayer.runtime.priced import Parameters

FIRST_EPISODE = 2**62  # see agents/episodes.py
APART = 2**40  # our choice: between the first episodes of two learners; more than any of them draws
UNGUIDED = -1


class Visited(NamedTuple):
    """Observations (states, features), the worth of each plan there (states, plans), and the guide's plan (states,) or `UNGUIDED`."""

    seen: NDArray[np.float32]
    worth: NDArray[np.float32]
    shown: NDArray[np.int64]


class Share(NamedTuple):
    """Of all requests those that must be offloaded, and of all episodes those that the guide decides."""

    forced: float
    guided: float


class Visits:
    """Lanes that follow a policy, some a guide, with stretches of requests in which the plan is drawn from the offloading ones alone."""

    def __init__(self, scenario: Scenario, recipe: AllActionRecipe, rng: np.random.Generator, guide: Parameters | None = None) -> None:
        self._scenario, self._recipe, self._rng = scenario, recipe, rng
        self._first = FIRST_EPISODE + APART * int(rng.integers(2**20))
        self._bank, self._begun = -1, recipe.bank  # number of the bank, and how many of its episodes have begun
        self._forced = np.zeros(recipe.lanes, np.bool_)
        self._guide, self._guided = guide, np.zeros(recipe.lanes, np.bool_)
        self._shown: NDArray[np.int64]  # the guide's plan for every request of the bank
        self._lanes: BranchingLanes

    @torch.inference_mode()
    def collect(self, policy: nn.Module, value: nn.Module, share: Share) -> Visited:
        """Some steps of every lane.

        worth = reward + gamma * value of the next observation, at the end of an episode too: only the clock ends it.
        """
        if self._begun >= self._recipe.bank:
            self._next_bank(policy, share)
        lanes, gamma = self._lanes, self._recipe.gamma
        seen, worth, shown = [], [], []
        for _ in range(self._recipe.rollout):
            seen.append(lanes.observations.copy())
            lanes.branch()
            later = value(torch.from_numpy(lanes.branch_observations)).squeeze(-1).numpy()
            worth.append((lanes.branch_rewards + gamma * later).astype(np.float32))
            shown.append(np.full(len(later), UNGUIDED))
            shown[-1][self._guided] = self._plans_shown()
            self._step(policy, share)
        return Visited(np.concatenate(seen), np.concatenate(worth), np.concatenate(shown))

    def _open(self, number: int) -> None:
        first = self._first + number * self._recipe.bank
        bank = Bank.draw(self._scenario, range(first, first + self._recipe.bank))
        self._bank, self._lanes = number, BranchingLanes(self._scenario, bank, self._recipe.lanes)
        if self._guide is not None:
            played = Compiled(self._scenario, bank)
            played.play(self._guide)
            self._shown = played.plans

    def _next_bank(self, policy: nn.Module, share: Share) -> None:
        """A new bank, in which lane i has gone through its share i / lanes of an episode."""
        self._open(self._bank + 1)
        lanes = np.arange(self._recipe.lanes)
        episodes = lanes % self._recipe.bank
        self._lanes.reset(episodes)
        self._assign(lanes, share)
        self._begun = len(lanes)
        ahead = lanes * self._scenario.requests // len(lanes)
        for left in range(int(ahead.max()), 0, -1):
            self._step(policy, share)
            self._lanes.begin(np.flatnonzero(ahead == left - 1), episodes)

    def _assign(self, lanes: NDArray[np.int64], share: Share) -> None:
        """Who decides the episodes that these lanes begin."""
        if self._guide is not None:
            self._guided[lanes] = self._rng.random(len(lanes)) < share.guided

    def _plans_shown(self) -> NDArray[np.int64]:
        """The guide's plans for the present requests of the lanes that it decides."""
        lanes, guided = self._lanes, self._guided
        return self._shown[lanes.episodes[guided], lanes.requests[guided]] if guided.any() else np.empty(0, np.int64)

    def _step(self, policy: nn.Module, share: Share) -> None:
        recipe, lanes = self._recipe, self._lanes
        if share.forced > 0.0:
            leave = 1.0 / recipe.forced_requests
            enter = leave * share.forced / (1.0 - share.forced)
            self._forced ^= self._rng.random(recipe.lanes) < np.where(self._forced, leave, enter)
        logits = policy(torch.from_numpy(lanes.observations)).numpy()
        drawn = logits + self._rng.gumbel(size=logits.shape)
        drawn[np.ix_(self._forced, ~self._scenario.plans.offloads)] = -np.inf
        ending = lanes.requests == self._scenario.requests - 1
        following = (self._begun + np.cumsum(ending) - 1) % recipe.bank
        self._begun += int(ending.sum())
        plans = drawn.argmax(axis=1)
        plans[self._guided] = self._plans_shown()
        lanes.step(plans, following)
        self._assign(np.flatnonzero(ending), share)

    def state(self) -> dict[str, Any]:
        """All that `restore` needs; a bank is drawn again from its seeds."""
        lanes = self._lanes.snapshot() if self._bank >= 0 else {}
        named = {"first": self._first, "bank": self._bank, "begun": self._begun}
        return {**named, "forced": self._forced, "guided": self._guided, "lanes": lanes}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state` of visits of the same scenario and recipe."""
        self._first, self._begun = state["first"], state["begun"]
        self._forced[:], self._guided[:] = state["forced"], state["guided"]
        if state["bank"] >= 0:
            self._open(state["bank"])
            self._lanes.restore(state["lanes"])

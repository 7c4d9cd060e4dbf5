"""States on the way of a learning policy, and what every plan is worth in each of them.

Episodes are drawn anew as training goes on, a bank at a time, and none is begun twice: a network that is told the worth of every plan
learns a future by heart when it meets it again. Lanes begin a bank in the middle of their episodes, so that they do not end together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cutlayer.envs.batch import Bank
from cutlayer.envs.branching import BranchingLanes

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

    from cutlayer.agents.all_action import AllActionRecipe
    from cutlayer.envs.spec import Scenario

FIRST_EPISODE = 2**62  # see agents/episodes.py
APART = 2**40  # our choice: between the first episodes of two learners; more than any of them draws


class Visits:
    """Lanes that follow a policy, with stretches of requests in which they only offload.

    A policy that has come to send nothing learns nothing of the link and so keeps to it; in a stretch, the plan is drawn from the
    policy's offloading plans alone. No correction is needed: the gradient sums over all plans, whichever was taken.
    """

    def __init__(self, scenario: Scenario, recipe: AllActionRecipe, rng: np.random.Generator) -> None:
        self._scenario, self._recipe, self._rng = scenario, recipe, rng
        self._first = FIRST_EPISODE + APART * int(rng.integers(2**20))
        self._bank, self._begun = -1, recipe.bank  # number of the bank, and how many of its episodes have begun
        self._forced = np.zeros(recipe.lanes, np.bool_)
        self._lanes: BranchingLanes

    @torch.inference_mode()
    def collect(self, policy: nn.Module, value: nn.Module, forced: float) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Some steps of every lane: observations (states, features) and the worth of each plan there (states, plans).

        worth = reward + gamma * value of the next observation, at the end of an episode too: only the clock ends it.
        """
        if self._begun >= self._recipe.bank:
            self._next_bank(policy, forced)
        lanes, gamma = self._lanes, self._recipe.gamma
        seen, worth = [], []
        for _ in range(self._recipe.rollout):
            seen.append(lanes.observations.copy())
            lanes.branch()
            later = value(torch.from_numpy(lanes.branch_observations)).squeeze(-1).numpy()
            worth.append((lanes.branch_rewards + gamma * later).astype(np.float32))
            self._step(policy, forced)
        return np.concatenate(seen), np.concatenate(worth)

    def _open(self, number: int) -> None:
        first = self._first + number * self._recipe.bank
        bank = Bank.draw(self._scenario, range(first, first + self._recipe.bank))
        self._bank, self._lanes = number, BranchingLanes(self._scenario, bank, self._recipe.lanes)

    def _next_bank(self, policy: nn.Module, forced: float) -> None:
        """A new bank, in which lane i has gone through its share i / lanes of an episode."""
        self._open(self._bank + 1)
        lanes = np.arange(self._recipe.lanes)
        episodes = lanes % self._recipe.bank
        self._lanes.reset(episodes)
        self._begun = len(lanes)
        ahead = lanes * self._scenario.requests // len(lanes)
        for left in range(int(ahead.max()), 0, -1):
            self._step(policy, forced)
            self._lanes.begin(np.flatnonzero(ahead == left - 1), episodes)

    def _step(self, policy: nn.Module, forced: float) -> None:
        recipe, lanes = self._recipe, self._lanes
        if forced > 0.0:
            leave = 1.0 / recipe.forced_requests
            enter = leave * forced / (1.0 - forced)
            self._forced ^= self._rng.random(recipe.lanes) < np.where(self._forced, leave, enter)
        logits = policy(torch.from_numpy(lanes.observations)).numpy()
        drawn = logits + self._rng.gumbel(size=logits.shape)
        drawn[np.ix_(self._forced, ~self._scenario.plans.offloads)] = -np.inf
        ending = lanes.requests == self._scenario.requests - 1
        following = (self._begun + np.cumsum(ending) - 1) % recipe.bank
        self._begun += int(ending.sum())
        lanes.step(drawn.argmax(axis=1), following)

    def state(self) -> dict[str, Any]:
        """All that `restore` needs; a bank is drawn again from its seeds."""
        lanes = self._lanes.snapshot() if self._bank >= 0 else {}
        return {"first": self._first, "bank": self._bank, "begun": self._begun, "forced": self._forced, "lanes": lanes}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state` of visits of the same scenario and recipe."""
        self._first, self._begun = state["first"], state["begun"]
        self._forced[:] = state["forced"]
        if state["bank"] >= 0:
            self._open(state["bank"])
            self._lanes.restore(state["lanes"])

"""`BatchedVecEnv`: a Stable-Baselines3 vector environment on the compiled batch, for training at speed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import VecEnv

from cutlayer.envs import scenarios
from cutlayer.envs.batch import Bank, Lanes
from cutlayer.runtime import features

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from cutlayer.envs.spec import Scenario

# Episodes drawn beforehand and used again in random order: a learner memorises futures when it sees fewer than about 1,500.
EPISODES = 2_048
_CHANGING = ("_places", "_states", "_readings", "_plans", "_rows", "observations")  # arrays of the lanes, from step to step


class BatchedVecEnv(VecEnv):
    """Many episodes of one scenario side by side, stepped in one compiled call.

    Observations and rewards are those of `cutlayer/Offload-v0`. Episodes are staggered: at the first reset lane i begins in the
    middle of its episode, after as many random decisions as its share of the lanes asks for, so that they do not all end
    together. The end of an episode is a time limit: `infos` carry `TimeLimit.truncated` and `terminal_observation`, and `episode`
    (return and length) where the whole of it was seen. `env_method("action_masks")` serves MaskablePPO.
    """

    def __init__(self, scenario: str | Scenario, lanes: int, seed: int = 0, episodes: int = EPISODES, *, stagger: bool = True) -> None:
        self.render_mode = None
        self.scenario = scenarios.make(scenario) if isinstance(scenario, str) else scenario
        space = gym.spaces.Box(features.LOW, features.HIGH, (features.size(self.scenario.blocks),), np.float32)
        super().__init__(lanes, space, gym.spaces.Discrete(len(self.scenario.plans)))
        self._rng = np.random.default_rng(seed)
        self._stagger = stagger
        # Training draws its seeds from a range that neither tuning nor testing uses.
        self.first_episode = int(self._rng.integers(2**40, 2**41))
        drawn = range(self.first_episode, self.first_episode + episodes)
        self.lanes = Lanes(self.scenario, Bank.draw(self.scenario, drawn), lanes)
        self._actions = np.zeros(lanes, np.int64)
        self._returns = np.zeros(lanes)
        self._lengths = np.zeros(lanes, np.int64)

    def _episodes(self) -> NDArray[np.int64]:
        return self._rng.integers(len(self.lanes.bank), size=self.num_envs)

    def reset(self) -> NDArray[np.float32]:
        """Begin an episode in every lane."""
        self.lanes.reset(self._episodes())
        if self._stagger:
            ahead = np.arange(self.num_envs) * self.scenario.requests // self.num_envs
            for left in range(int(ahead.max()), 0, -1):
                self.lanes.begin(np.flatnonzero(ahead == left), self._episodes())
                self.lanes.step(self._rng.integers(len(self.scenario.plans), size=self.num_envs), self._episodes())
            self.lanes.begin(np.flatnonzero(ahead == 0), self._episodes())
        self._returns[:], self._lengths[:] = 0.0, 0
        return self.lanes.observations.copy()

    def step_async(self, actions: NDArray[np.int64]) -> None:
        """See `VecEnv`."""
        self._actions = actions

    def step_wait(self) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]:
        """Decide every lane's request; fresh arrays each time."""
        lanes = self.lanes
        lanes.step(np.asarray(self._actions, np.int64), self._episodes())
        self._returns += lanes.rewards
        self._lengths += 1
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for lane in np.flatnonzero(lanes.dones):
            infos[lane] = {"terminal_observation": lanes.last[lane].copy(), "TimeLimit.truncated": True}
            if self._lengths[lane] == self.scenario.requests:  # the return of a part would pass for a bad one
                infos[lane]["episode"] = {"r": float(self._returns[lane]), "l": int(self._lengths[lane])}
            self._returns[lane], self._lengths[lane] = 0.0, 0
        return lanes.observations.copy(), lanes.rewards.astype(np.float32), lanes.dones.copy(), infos

    def state(self) -> dict[str, Any]:
        """All that changes from step to step; the bank is drawn again from the seed that the environment was made with."""
        own = {"returns": self._returns.copy(), "lengths": self._lengths.copy(), "generator": self._rng.bit_generator.state}
        return {**own, "lanes": {name: getattr(self.lanes, name).copy() for name in _CHANGING}}

    def restore(self, found: dict[str, Any]) -> None:
        """Go on from `state` of an environment made alike."""
        self._returns[:], self._lengths[:] = found["returns"], found["lengths"]
        self._rng = np.random.default_rng()
        self._rng.bit_generator.state = found["generator"]
        for name in _CHANGING:
            getattr(self.lanes, name)[:] = found["lanes"][name]

    def close(self) -> None:
        """Nothing to release."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """See `VecEnv`."""
        return [getattr(self, attr_name)] * len(list(self._get_indices(indices)))

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:  # noqa: ARG002 - VecEnv's signature
        """Lanes are not objects of their own; what they share is set on this environment."""
        setattr(self, attr_name, value)

    def action_masks(self) -> NDArray[np.bool_]:
        """A lane's mask: every plan of the flat list can always be chosen."""
        return np.ones(len(self.scenario.plans), np.bool_)

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:  # noqa: ARG002 - VecEnv's signature
        """Lanes have one method, `action_masks`."""
        if method_name == "action_masks":
            return [self.action_masks() for _ in self._get_indices(indices)]
        raise AttributeError(f"lanes of a BatchedVecEnv have no method {method_name!r}; call it on an OffloadEnv")

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:  # noqa: ARG002 - VecEnv's signature
        """No lane is wrapped."""
        return [False] * len(list(self._get_indices(indices)))

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Seed the order of episodes; what happens in each is drawn already."""
        self._rng = np.random.default_rng(seed)
        return [seed] * self.num_envs

"""`OffloadVectorEnv`: Gymnasium's native vector environment on the compiled batch, what `gym.make_vec` returns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from cutlayer.envs import scenarios
from cutlayer.envs.batch import Bank, Lanes
from cutlayer.envs.record import Record
from cutlayer.envs.streams import deadlines, draw
from cutlayer.errors import ConfigError
from cutlayer.runtime import features

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from cutlayer.envs.spec import Scenario


class OffloadVectorEnv(VectorEnv["NDArray[np.float32]", "NDArray[np.int64]", Any]):
    """Many environments of one scenario, stepped in one compiled call.

    The same observations, rewards, ends and infos as `gym.make_vec(..., vectorization_mode="sync")` with the same seeds: lane i
    has a generator of its own, seeded with `seed + i`, that names its episodes. autoreset_mode "NextStep" (Gymnasium's usual:
    the step after an end resets the lane and ignores its action) or "SameStep" (the step that ends it does; the last observation is in
    `info["final_obs"]`). `stable_baselines3` trains on `BatchedVecEnv` instead, which draws its episodes beforehand.
    """

    def __init__(
        self,
        num_envs: int,
        scenario: str | Scenario = "camera",
        engine: str = "kernel",
        render_mode: None = None,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
    ) -> None:
        self.autoreset_mode = AutoresetMode(autoreset_mode)
        if self.autoreset_mode is AutoresetMode.DISABLED or engine != "kernel" or render_mode is not None:
            raise ConfigError(
                f"autoreset_mode {self.autoreset_mode.value!r}, engine {engine!r} and render_mode {render_mode!r}: the native vector "
                "environment resets lanes itself, runs the compiled engine and draws nothing; take vectorization_mode='sync'"
            )
        self.scenario = scenarios.make(scenario) if isinstance(scenario, str) else scenario
        self.num_envs, self.render_mode = num_envs, None
        self.metadata = {"render_modes": [], "autoreset_mode": self.autoreset_mode}
        self.single_observation_space = gym.spaces.Box(features.LOW, features.HIGH, (features.size(self.scenario.blocks),), np.float32)
        self.single_action_space = gym.spaces.Discrete(len(self.scenario.plans))
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._generators = [np.random.default_rng() for _ in range(num_envs)]
        self._names = np.zeros(num_envs, np.int64)
        self._drawn = [draw(self.scenario, 0)] * num_envs
        self._deadline_s = np.zeros((num_envs, self.scenario.requests))
        self._lanes = Lanes(self.scenario, Bank.stack(self.scenario, self._drawn), num_envs)
        self._own = np.arange(num_envs)
        self._ended = np.zeros(num_envs, np.bool_)

    def _begin(self, lanes: NDArray[np.int64], names: Sequence[int | None]) -> dict[str, Any]:
        """Begin an episode in each of the given lanes; a name of None means the next one of its generator."""
        for lane, name in zip(lanes, names, strict=True):
            self._names[lane] = int(self._generators[lane].integers(2**62)) if name is None else name
            self._drawn[lane] = draw(self.scenario, int(self._names[lane]))
            self._deadline_s[lane] = deadlines(self.scenario, self._drawn[lane])
        # Lanes that go on keep their streams in the new bank, padded perhaps, which changes nothing.
        self._lanes.bank = Bank.stack(self.scenario, self._drawn)
        self._lanes.begin(lanes, lanes)
        return {"episode": np.where(self._in(lanes), self._names, 0), "_episode": self._in(lanes)}

    def _in(self, lanes: NDArray[np.int64]) -> NDArray[np.bool_]:
        return np.isin(self._own, lanes)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Begin an episode in every lane; lane i is seeded with `seed + i`, or with the i-th of a list of seeds."""
        seeds = (
            [None] * self.num_envs if seed is None else [seed + i for i in range(self.num_envs)] if isinstance(seed, int) else list(seed)
        )
        if len(seeds) != self.num_envs:
            raise ConfigError(f"{len(seeds)} seeds for {self.num_envs} environments; give one seed each, or a single number")
        for lane, own in enumerate(seeds):
            if own is not None:
                self._generators[lane] = gym.utils.seeding.np_random(own)[0]
        self._ended[:] = False
        info = self._begin(self._own, [(options or {}).get("episode")] * self.num_envs)
        return self._lanes.observations.copy(), info

    def step(
        self, actions: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Decide every lane's request; fresh arrays each time."""
        lanes, actions = self._lanes, np.asarray(actions, np.int64)
        assert self.action_space.contains(actions), f"actions {actions!r} are not all among the {len(self.scenario.plans)} plans"
        requests = lanes.requests
        lanes.step(actions, self._own)
        ended, rewards, deadline_s = lanes.dones.copy(), lanes.rewards.copy(), self._deadline_s[self._own, requests]
        if self.autoreset_mode is AutoresetMode.SAME_STEP:
            return self._same_step(actions, requests, deadline_s, rewards, ended)
        waiting = self._ended
        # What the call did in lanes that ended in the step before counts for nothing: they begin anew.
        infos = _columns(lanes, actions, requests, deadline_s, ~waiting)
        ended &= ~waiting
        observations = np.where(ended[:, None], lanes.last, lanes.observations)
        if waiting.any():
            infos = {**infos, **self._begin(np.flatnonzero(waiting), [None] * int(waiting.sum()))}
            observations[waiting], rewards[waiting] = lanes.observations[waiting], 0.0
        self._ended = ended
        return observations, rewards, np.zeros(self.num_envs, np.bool_), ended.copy(), infos

    def _same_step(
        self,
        actions: NDArray[np.int64],
        requests: NDArray[np.int64],
        deadline_s: NDArray[np.float64],
        rewards: NDArray[np.float64],
        ended: NDArray[np.bool_],
    ) -> tuple[NDArray[np.float32], NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        lanes = self._lanes
        infos = _columns(lanes, actions, requests, deadline_s, ~ended)
        if ended.any():
            final = np.full(self.num_envs, None, object)
            for lane in np.flatnonzero(ended):
                final[lane] = lanes.last[lane].copy()
            infos |= {"final_obs": final, "_final_obs": ended.copy()}
            infos |= {"final_info": _columns(lanes, actions, requests, deadline_s, ended), "_final_info": ended.copy()}
            infos |= self._begin(np.flatnonzero(ended), [None] * int(ended.sum()))
        return lanes.observations.copy(), rewards, np.zeros(self.num_envs, np.bool_), ended, infos

    def action_masks(self) -> NDArray[np.bool_]:
        """Every plan of the flat list can always be chosen."""
        return np.ones((self.num_envs, len(self.scenario.plans)), np.bool_)


def _columns(
    lanes: Lanes, actions: NDArray[np.int64], requests: NDArray[np.int64], deadline_s: NDArray[np.float64], which: NDArray[np.bool_]
) -> dict[str, Any]:
    """Infos of `OffloadEnv` as Gymnasium's vector environments give them: a column for each entry, beside it whose it is."""
    if not which.any():
        return {}
    rows = lanes.rows(requests)
    # A world without extras writes no columns for them: they are 0, as in `Record`.
    missing = len(Record._fields) - 1 - rows.shape[1]
    columns = [actions, rows[:, 0].astype(np.int64), *rows[:, 1:].T, *np.zeros((missing, len(rows)))]
    record = {name: np.where(which, column, 0) for name, column in zip(Record._fields, columns, strict=True)}
    late = record["finish_s"] - record["arrival_s"] > deadline_s
    masks = {f"_{name}": which.copy() for name in record}
    return {"record": record | masks, "_record": which.copy(), "late": late & which, "_late": which.copy()}

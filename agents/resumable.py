"""Everything that the rest of a training depends on, taken out of Stable-Baselines3 algorithms and environments and put back.

SB3's own `save` leaves out the replay buffer, the world and the generators, so what it loads goes on differently. A state holds
tensors and plain values only: torch reads it without running code from it. It is taken between rounds, when no rollout is half done.
"""

from __future__ import annotations

import dataclasses
import hashlib
import random
from collections import deque
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv

import cutlayer.envs  # registers the environment

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.buffers import ReplayBuffer

    from cutlayer.envs.offload_env import OffloadEnv
    from cutlayer.envs.simulation import EngineName
    from cutlayer.envs.spec import Scenario

assert cutlayer.envs is not None
# What SB3's algorithms count, where they have it; `exploration_rate` and `_n_calls` are DQN's.
COUNTERS = ("num_timesteps", "_n_updates", "_episode_num", "_current_progress_remaining", "exploration_rate", "_n_calls")
REPLAYED = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


def state(model: BaseAlgorithm) -> dict[str, Any]:
    """Networks, optimiser, counters, replay, world and the last observations of it."""
    assert model.env is not None
    world: Any = model.env  # has state and restore, as BatchedVecEnv and EnvsOneByOne do
    found: dict[str, Any] = {
        "parameters": model.get_parameters(),
        "counters": {name: getattr(model, name) for name in COUNTERS if hasattr(model, name)},
        "returns": [dict(one) for one in model.ep_info_buffer or ()],  # of the last episodes, for the log
        "plans": model.action_space.np_random.bit_generator.state,
        "world": tensors(world.state()),
    }
    if model._last_obs is not None:  # noqa: SLF001 - SB3 has no public name for it
        found["seen"] = tensors({"last": model._last_obs, "starts": model._last_episode_starts})  # noqa: SLF001 - as above
    if isinstance(model, OffPolicyAlgorithm):
        found["replay"] = _replay(model.replay_buffer)
    return found


def restore(model: BaseAlgorithm, found: dict[str, Any]) -> None:
    """Make a newly made model of the same recipe what it was at `state`."""
    world: Any = model.env
    model.set_parameters(found["parameters"], device="cpu")
    for name, value in found["counters"].items():
        setattr(model, name, value)
    model.ep_info_buffer = deque(found["returns"], maxlen=model._stats_window_size)  # noqa: SLF001 - as above
    model.ep_success_buffer = deque(maxlen=model._stats_window_size)  # noqa: SLF001 - as above
    model.action_space.np_random.bit_generator.state = found["plans"]
    world.restore(arrays(found["world"]))
    if "seen" in found:
        seen = arrays(found["seen"])
        model._last_obs, model._last_episode_starts = seen["last"], seen["starts"]  # noqa: SLF001 - as above
    if isinstance(model, OffPolicyAlgorithm):
        _refill(model.replay_buffer, found["replay"])


def _replay(buffer: ReplayBuffer | None) -> dict[str, Any]:
    assert buffer is not None
    filled = buffer.buffer_size if buffer.full else buffer.pos
    kept = {name: torch.from_numpy(getattr(buffer, name)[:filled]) for name in REPLAYED}
    return {"at": buffer.pos, "full": buffer.full, **kept}


def _refill(buffer: ReplayBuffer | None, kept: dict[str, Any]) -> None:
    assert buffer is not None
    buffer.pos, buffer.full = kept["at"], kept["full"]
    for name in REPLAYED:
        getattr(buffer, name)[: len(kept[name])] = kept[name].numpy()


def generators() -> dict[str, Any]:
    """States of the global generators, from which SB3 draws actions, minibatches and replayed requests."""
    name, keys, at, has_gauss, gauss = np.random.get_state()  # noqa: NPY002 - the generator that SB3 uses
    return {
        "torch": torch.get_rng_state(),
        "numpy": [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), at, has_gauss, gauss],
        "python": random.getstate(),
    }


def restore_generators(found: dict[str, Any]) -> None:
    """Make the global generators go on from `generators`."""
    torch.set_rng_state(found["torch"])
    name, keys, at, has_gauss, gauss = found["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), at, has_gauss, gauss))  # noqa: NPY002 - the generator that SB3 uses
    random.setstate(found["python"])


def tensors(value: Any) -> Any:
    """The same with tensors for arrays, which torch reads without running code; copies, for arrays are written again."""
    if isinstance(value, dict):
        return {key: tensors(one) for key, one in value.items()}
    if isinstance(value, list):
        return [tensors(one) for one in value]
    return torch.from_numpy(value.copy()) if isinstance(value, np.ndarray) else value


def arrays(value: Any) -> Any:
    """The inverse of `tensors`."""
    if isinstance(value, dict):
        return {key: arrays(one) for key, one in value.items()}
    if isinstance(value, list):
        return [arrays(one) for one in value]
    return value.numpy() if isinstance(value, torch.Tensor) else value


def digest(value: Any) -> str:
    """SHA-256 of numbers, text, arrays, tensors, and lists, tuples, dicts and dataclasses of them, in their order."""
    content = hashlib.sha256()
    _feed(content, value)
    return content.hexdigest()


def _feed(content: hashlib._Hash, value: Any) -> None:
    if isinstance(value, torch.Tensor):
        value = value.detach().numpy()
    if isinstance(value, np.ndarray):
        content.update(f"{value.dtype}{value.shape}".encode())
        content.update(np.ascontiguousarray(value).tobytes())
        return
    if dataclasses.is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        value = [one for pair in value.items() for one in pair]
    if isinstance(value, (list, tuple)):
        content.update(f"[{len(value)}".encode())
        for one in value:
            _feed(content, one)
        return
    content.update(f"{value!r};".encode())


class Replayed(gym.Wrapper["NDArray[np.float32]", np.int64, "NDArray[np.float32]", np.int64]):
    """Remembers its episode and the plans taken in it, so that it can be played again up to the same request.

    The processes of the reference engine cannot be copied; what they did depends on nothing else.
    """

    def __init__(self, env: gym.Env[NDArray[np.float32], np.int64]) -> None:
        super().__init__(env)
        self._episode, self._taken = -1, list[int]()

    def reset(self, **given: Any) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """See `gym.Env`."""
        seen, info = self.env.reset(**given)
        self._episode, self._taken = int(info["episode"]), []
        return seen, info

    def step(self, action: np.int64) -> tuple[NDArray[np.float32], Any, bool, bool, dict[str, Any]]:
        """See `gym.Env`."""
        self._taken.append(int(action))
        return self.env.step(action)

    def state(self) -> dict[str, Any]:
        """Episode, plans, and the generator that draws further episodes."""
        return {"episode": self._episode, "taken": list(self._taken), "generator": self.unwrapped.np_random.bit_generator.state}

    def restore(self, found: dict[str, Any]) -> None:
        """Play the episode again up to where it was."""
        if found["episode"] >= 0:
            self.reset(options={"episode": found["episode"]})
            for plan in found["taken"]:
                self.step(np.int64(plan))
        self.unwrapped.np_random.bit_generator.state = found["generator"]


class EnvsOneByOne(DummyVecEnv):
    """Several `cutlayer/Offload-v0` side by side in this process, on either engine."""

    def __init__(self, scenario: Scenario, lanes: int, engine: EngineName) -> None:
        def make() -> gym.Env[Any, Any]:
            env: OffloadEnv = gym.make("cutlayer/Offload-v0", scenario=scenario, engine=engine)  # type: ignore[assignment] # what gym wraps it in passes everything on
            return Replayed(env)

        super().__init__([make] * lanes)

    def state(self) -> dict[str, Any]:
        """Of every environment."""
        return {"envs": self.env_method("state")}

    def restore(self, found: dict[str, Any]) -> None:
        """See `Replayed.restore`."""
        for env, one in zip(self.envs, found["envs"], strict=True):
            env.get_wrapper_attr("restore")(one)

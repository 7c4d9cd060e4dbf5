"""Train a learner on a scenario and leave a run folder: the model, its deployable weights and `run.json`."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING

import gymnasium as gym
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import nn

import cutlayer.envs  # registers the environment
from cutlayer.agents import recipes, runs
from cutlayer.agents.sac_discrete import SACDiscrete
from cutlayer.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cutlayer.envs.simulation import EngineName
    from cutlayer.envs.spec import Scenario

assert cutlayer.envs is not None
ALGORITHMS = ("ppo", "sac-d")
MODEL, RUN = "model.zip", "run.json"


class Progress(BaseCallback):
    """Tells the share done."""

    def __init__(self, steps: int, report: Callable[[float], None]) -> None:
        super().__init__()
        self._steps, self._tell = steps, report

    def _on_step(self) -> bool:
        if self.n_calls % 64 == 0:
            self._tell(min(1.0, self.num_timesteps / self._steps))
        return True


class AnnealedEntropy(BaseCallback):
    """Lowers PPO's entropy bonus with the learning rate; Stable-Baselines3 has no schedule for it."""

    def __init__(self, entropy: float) -> None:
        super().__init__()
        self._entropy = entropy

    def _on_step(self) -> bool:
        assert isinstance(self.model, PPO)
        left = 1.0 - self.num_timesteps / self.model._total_timesteps  # noqa: SLF001 - the only place that knows the goal
        self.model.ent_coef = self._entropy * max(0.05, left)
        return True


def environments(scenario: Scenario, lanes: int, engine: EngineName) -> DummyVecEnv:
    """Several copies of the environment side by side in this process."""
    return DummyVecEnv([lambda: gym.make("cutlayer/Offload-v0", scenario=scenario, engine=engine) for _ in range(lanes)])


def train(
    scenario: Scenario,
    algorithm: str,
    seed: int,
    folder: Path,
    *,
    engine: EngineName = "simpy",
    steps: int | None = None,
    report: Callable[[float], None] = lambda _share: None,
) -> PPO | SACDiscrete:
    """Learn, then write the model and `run.json` into `folder`.

    Raises:
        ConfigError: unknown algorithm.
    """
    if algorithm not in ALGORITHMS:
        raise ConfigError(f"unknown algorithm {algorithm!r}; known: {', '.join(ALGORITHMS)}")
    # Two threads on two shared cores made training 8 to 25 times slower.
    torch.set_num_threads(1)
    wall, cpu = time.monotonic(), time.process_time()
    recipe = recipes.Ppo() if algorithm == "ppo" else recipes.SacD()
    if steps is not None:
        recipe = dataclasses.replace(recipe, steps=steps)
    world = environments(scenario, recipe.lanes, engine)
    callbacks: list[BaseCallback] = [Progress(recipe.steps, report)]
    model: PPO | SACDiscrete
    if isinstance(recipe, recipes.Ppo):
        model = _ppo(recipe, world, seed)
        callbacks.append(AnnealedEntropy(recipe.entropy))
    else:
        model = _sac_d(recipe, world, seed)
    model.learn(recipe.steps, callback=callbacks)
    report(1.0)
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{MODEL}"
    model.save(temporary)
    temporary.replace(folder / MODEL)
    seconds = {"wall_s": time.monotonic() - wall, "cpu_s": time.process_time() - cpu}
    manifest = runs.manifest(scenario, {"training": seed}, algorithm=algorithm, engine=engine, recipe=dataclasses.asdict(recipe), **seconds)
    runs.write(folder, RUN, manifest)
    return model


def _ppo(recipe: recipes.Ppo, world: DummyVecEnv, seed: int) -> PPO:
    return PPO(
        "MlpPolicy",
        world,
        learning_rate=LinearSchedule(recipe.learning_rate, 0.0, 1.0),
        n_steps=recipe.rollout,
        batch_size=recipe.batch,
        n_epochs=recipe.epochs,
        gamma=recipe.gamma,
        gae_lambda=recipe.gae_lambda,
        ent_coef=recipe.entropy,
        policy_kwargs={"net_arch": {"pi": list(recipe.hidden), "vf": list(recipe.hidden)}, "activation_fn": nn.Tanh},
        seed=seed,
        device="cpu",
    )


def _sac_d(recipe: recipes.SacD, world: DummyVecEnv, seed: int) -> SACDiscrete:
    return SACDiscrete(
        "MlpPolicy",
        world,
        learning_rate=LinearSchedule(recipe.learning_rate, 0.0, 1.0),
        learning_starts=recipe.warm_up,
        batch_size=recipe.batch,
        gamma=recipe.gamma,
        policy_kwargs={"net_arch": list(recipe.hidden)},
        seed=seed,
        device="cpu",
    )

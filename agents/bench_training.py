"""How fast learning is, per CPU-second of one core, and how soon it is good.

The runs are those of `cutlayer train` with the shipped recipes, log and checkpoints included; looks at the validation episodes are not
counted. The rival is Stable-Baselines3 as it comes: PPO's defaults on eight environments in a `DummyVecEnv`, on the compiled engine, so
that the ratio is not owed to SimPy's slowness.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv

from cutlayer.agents import baselines, evaluate, recipes, runs
from cutlayer.agents import train as training
from cutlayer.agents.episodes import VALIDATION
from cutlayer.envs import scenarios
from cutlayer.envs.vector_env import BatchedVecEnv

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cutlayer.agents.train import Look
    from cutlayer.envs.spec import Scenario

SCENARIO = "bursty-deadline"  # where the time to a good SAC-d is asked for
PPO_STEPS = 131_072  # 32 rounds of the recipe: some four seconds
DEFAULT_ENVS = 8  # what is usual with a DummyVecEnv
SEEDS = (0, 1, 2)
# Best of these is the zero of a score (issue text: the simple rules).
SIMPLE = ("device-only", "edge-only", "best-static", "greedy-last", "greedy-ewma")
NEAR = 0.95  # of the final score


def training_speed(report: Callable[[float], None] = lambda _share: None) -> dict[str, Any]:
    """Steps per CPU-second of PPO by recipe, PPO by default and SAC-d by recipe; CPU seconds until SAC-d has 95 % of its score."""
    scenario = scenarios.make(SCENARIO)
    torch.set_num_threads(1)
    zero = max(_mean_reward(scenario, name) for name in SIMPLE)
    _warm_up(scenario)
    report(0.1)
    ppo = [speed(_learn(scenario, "ppo", seed, PPO_STEPS)) for seed in SEEDS]
    report(0.2)
    default = [_default_ppo(scenario, seed) for seed in SEEDS]
    report(0.4)
    curves = []
    for seed in SEEDS:
        curves.append(_learn(scenario, "sac-d", seed))
        report(0.4 + 0.6 * len(curves) / len(SEEDS))
    near = [seconds_to(curve, zero) for curve in curves]
    ppo_speed, default_speed = float(np.median(ppo)), float(np.median(default))
    return {
        "ppo_steps_per_cpu_s": ppo_speed,
        "ppo_sb3_default_steps_per_cpu_s": default_speed,
        "ratio": ppo_speed / default_speed,
        "sac_d_steps_per_cpu_s": float(np.median([speed(curve) for curve in curves])),
        # The median needs every seed to have learned something; one that has not leaves it unsaid.
        "sac_d_cpu_s_to_95": None if None in near else float(np.median([one for one in near if one is not None])),
        "sac_d_cpu_s_to_95_by_seed": near,
        "sac_d_reward_by_seed": [max(look.reward_mean for look in curve) for curve in curves],
        "best_simple_reward": zero,
        "ppo_by_seed": ppo,
        "ppo_sb3_default_by_seed": default,
        "sb3_default_engine": "kernel",
        "scenario_name": scenario.name,
        "recipes": {name: dataclasses.asdict(recipes.choose(name, scenario.name)) for name in ("ppo", "sac-d")},
        "run": runs.manifest(scenario, {"training": list(SEEDS), "validation": [VALIDATION.start, VALIDATION.stop]}),
    }


def seconds_to(curve: Sequence[Look], zero: float) -> float | None:
    """CPU seconds of learning until a curve first has 95 % of what the state that is kept gains over `zero`; None where it gains nothing.

    A score is a share of the way from the best simple rule to the clairvoyant; how long that way is cancels out of 95 % of it.
    """
    gain = max(look.reward_mean for look in curve) - zero
    if gain <= 0.0:
        return None
    return next(look.learning_cpu_s for look in curve if look.reward_mean - zero >= NEAR * gain)


def _mean_reward(scenario: Scenario, rule: str) -> float:
    policy = baselines.RULES[rule](scenario, 0)
    return float(evaluate.evaluate(scenario, policy, VALIDATION).reward.mean())


def _warm_up(scenario: Scenario) -> None:
    """Compile what all runs use."""
    for world in (BatchedVecEnv(scenario, 2, episodes=2), _default_world(scenario, 2)):
        world.reset()
        world.step(np.zeros(2, np.int64))


def _learn(scenario: Scenario, algorithm: str, seed: int, steps: int | None = None) -> list[Look]:
    with tempfile.TemporaryDirectory() as folder:
        training.train(scenario, algorithm, seed, Path(folder), steps=steps)
        _, *lines = (Path(folder) / training.CURVE).read_text(encoding="utf-8").splitlines()
    return [training.Look(int(at), float(cpu_s), float(reward)) for at, cpu_s, reward in (line.split(",") for line in lines)]


def speed(curve: Sequence[Look]) -> float:
    """Steps per CPU-second of learning between the first and the last look: episodes are drawn before it, once for all steps."""
    first, last = curve[0], curve[-1]
    return (last.steps - first.steps) / (last.learning_cpu_s - first.learning_cpu_s)


def _default_world(scenario: Scenario, envs: int) -> DummyVecEnv:
    return DummyVecEnv([lambda: gym.make("cutlayer/Offload-v0", scenario=scenario, engine="kernel")] * envs)


def _default_ppo(scenario: Scenario, seed: int) -> float:
    """One round of collecting and learning, as PPO's defaults have it."""
    model = PPO("MlpPolicy", _default_world(scenario, DEFAULT_ENVS), seed=seed, device="cpu")
    steps = model.n_steps * DEFAULT_ENVS
    began_s = time.process_time()
    model.learn(steps)
    return steps / (time.process_time() - began_s)

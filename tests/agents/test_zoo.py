"""Other people's learners train on the environment: MaskablePPO by its mask, RL Baselines3 Zoo by its command."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.utils import get_action_masks, is_masking_supported
from stable_baselines3.common.vec_env import DummyVecEnv

import cutlayer.envs  # noqa: F401 - registers the environments
from cutlayer.agents import recipes, zoo
from cutlayer.envs.vector_env import BatchedVecEnv

SIZE = {"n_steps": 32, "batch_size": 32, "n_epochs": 1, "seed": 0, "device": "cpu"}


@pytest.mark.parametrize("id_", ["cutlayer/Offload-v0", "cutlayer/OffloadMultiDiscrete-v0"])
def test_maskable_ppo_never_takes_what_the_mask_forbids(id_):
    """The privacy table has no plan that sends the image, so the second head must never say partition 0."""
    env = gym.make(id_, scenario="privacy", engine="kernel")
    assert is_masking_supported(env)
    model = MaskablePPO("MlpPolicy", env, **SIZE).learn(64)
    seen, _ = env.reset(seed=0)
    for _ in range(30):
        action, _ = model.predict(seen, action_masks=get_action_masks(env))
        if id_ != "cutlayer/Offload-v0":
            assert action[1] > 0
        seen = env.step(action)[0]


def test_maskable_ppo_reads_the_masks_of_vector_environments():
    lanes = BatchedVecEnv("privacy", 4, episodes=8)
    single = DummyVecEnv([lambda: gym.make("cutlayer/Offload-v0", scenario="privacy", engine="kernel")])
    for env, count in ((lanes, 4), (single, 1)):
        assert is_masking_supported(env)
        masks = get_action_masks(env)
        assert masks.shape == (count, 90)
        assert masks.dtype == np.bool_
    MaskablePPO("MlpPolicy", lanes, **SIZE).learn(128)


def test_the_settings_of_the_zoo_are_those_of_cutlayer_train():
    recipe = recipes.Ppo()
    settings = zoo.hyperparams["cutlayer/Offload-v0"]
    assert (settings["n_timesteps"], settings["n_envs"], settings["gamma"]) == (recipe.steps, recipe.lanes, recipe.gamma)
    assert settings["learning_rate"] == f"lin_{recipe.learning_rate}"
    assert set(zoo.hyperparams) <= set(gym.registry)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("rl_zoo3") is None, reason="rl_zoo3 is not installed; it pins an older pillow than ours")
def test_the_zoo_trains_by_its_command(tmp_path):
    command = (
        "-m rl_zoo3.train --algo ppo --env cutlayer/Offload-v0 --gym-packages cutlayer.envs --conf-file cutlayer.agents.zoo "
        "-n 1024 --device cpu --eval-freq -1 --seed 1 --log-folder"
    )
    given = ["--env-kwargs", "scenario:'urllc-ge'", "engine:'kernel'"]
    done = subprocess.run(
        [sys.executable, *command.split(), str(tmp_path), *given],
        cwd=tmp_path, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert list(tmp_path.glob("ppo/cutlayer-Offload-v0_1/*.zip")), done.stdout[-2000:]

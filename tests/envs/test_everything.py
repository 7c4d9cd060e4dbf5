"""A world in which everything is switched on keeps the contracts of the environments, in each of their forms."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.utils.env_match import check_environments_match
from stable_baselines3 import PPO
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from cutlayer.envs import scenarios
from cutlayer.envs.vector_env import BatchedVecEnv
from cutlayer.runtime import features

IDS = ["cutlayer/Offload-v0", "cutlayer/OffloadMultiDiscrete-v0", "cutlayer/OffloadBox-v0"]
TEXT = """
base = "compound"
requests = 25
[deadlines]
kind = "choice"
choices_s = [0.05, 0.3]
[edge]
servers = 2
broadcast_s = 0.03
[battery]
capacity_j = 2.0
harvest = { kind = "constant", rate_bps = 0.1 }
[link]
restart_after_s = 0.2
"""


@pytest.fixture
def everything(written):
    return scenarios.make(written(TEXT))


def test_it_shows_everything(everything):
    names = [feature.name for feature in features.table(everything.blocks)[features.SIZE :]]
    units = [f"unit{unit}" for unit in range(12)]  # one graph a cut, one an exit
    assert names == ["deadline", "temperature", "charge", "sensed_age", *units, "edge_queue", "edge_queue_age"]
    env = gym.make(IDS[0], scenario=everything, engine="kernel").unwrapped
    seen = []
    for episode in range(12):
        env.reset(seed=episode)
        env.action_space.seed(episode)
        seen += [env.step(env.action_space.sample())[0] for _ in range(everything.requests)]
    assert (np.std(seen, axis=0) > 0).all()


@pytest.mark.parametrize("engine", ["simpy", "kernel"])
@pytest.mark.parametrize("id_", IDS)
# Gymnasium advises to check what lies under a wrapper; here the wrapper itself is checked.
@pytest.mark.filterwarnings("ignore:.*is different from the unwrapped version")
def test_the_checkers_find_no_fault(everything, id_, engine):
    env = gym.make(id_, scenario=everything, engine=engine, disable_env_checker=True)
    check_env(env.unwrapped if id_ == IDS[0] else env, skip_render_check=True)
    sb3_check_env(env, warn=True)


def test_engines_and_vectors_agree(everything):
    one, two = (gym.make(IDS[0], scenario=everything, engine=engine) for engine in ("simpy", "kernel"))
    # Gymnasium compares floats exactly, and the engines agree to 1e-9: rewards are rounded to the precision of observations.
    rounded = [gym.wrappers.TransformReward(env, np.float32) for env in (one, two)]
    check_environments_match(*rounded, num_steps=60, seed=3, info_comparison="keys-equivalence")
    native = gym.make_vec(IDS[0], num_envs=2, scenario=everything)
    sync = gym.make_vec(IDS[0], num_envs=2, scenario=everything, engine="kernel", vectorization_mode="sync")
    assert all(map(data_equivalence, native.reset(seed=1), sync.reset(seed=1)))
    for actions in np.random.default_rng(0).integers(len(everything.plans), size=(60, 2)):
        assert all(map(data_equivalence, native.step(actions), sync.step(actions)))


def test_a_learner_takes_what_it_shows(everything):
    world = BatchedVecEnv(everything, 4, episodes=8)
    assert world.observation_space == gym.make(IDS[0], scenario=everything).observation_space
    PPO("MlpPolicy", world, n_steps=16, batch_size=32, n_epochs=1, device="cpu").learn(64)

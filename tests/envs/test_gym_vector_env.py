"""Gymnasium's native vector environment is its synchronous one, only faster: step by step, infos and ends included."""

from __future__ import annotations

import dataclasses

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import cutlayer.envs  # noqa: F401 - registers the environment
from cutlayer.envs import scenarios
from cutlayer.envs.gym_vector_env import OffloadVectorEnv
from cutlayer.envs.kernel import Kernel
from cutlayer.envs.record import Record
from cutlayer.envs.streams import draw
from cutlayer.errors import ConfigError

ID = "cutlayer/Offload-v0"
MODES = [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP]


def pair(scenario, lanes, mode):
    native = gym.make_vec(ID, num_envs=lanes, scenario=scenario, autoreset_mode=mode)
    sync = gym.make_vec(
        ID, num_envs=lanes, scenario=scenario, engine="kernel", vectorization_mode="sync", vector_kwargs={"autoreset_mode": mode}
    )
    assert isinstance(native, OffloadVectorEnv)
    assert isinstance(sync, SyncVectorEnv)
    return native, sync


def equal(one, two):
    assert all(data_equivalence(a, b) for a, b in zip(one, two, strict=True)), (one, two)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", scenarios.names())
def test_native_and_synchronous_agree_step_by_step(name, mode):
    """Through several ends of episodes; with a seed, with a list of seeds and without one."""
    scenario = dataclasses.replace(scenarios.make(name), requests=9)
    native, sync = pair(scenario, 3, mode)
    assert native.single_action_space == sync.single_action_space
    assert native.action_space == sync.action_space
    assert native.observation_space == sync.observation_space
    assert native.metadata["autoreset_mode"] is mode
    rng = np.random.default_rng(0)
    for seed, steps in ((7, 33), ([1, 5, 3], 4), (None, 12)):
        equal(native.reset(seed=seed), sync.reset(seed=seed))
        for actions in rng.integers(len(scenario.plans), size=(steps, 3)):
            equal(native.step(actions), sync.step(actions))


@pytest.mark.parametrize("mode", MODES)
def test_it_agrees_where_every_request_ends_an_episode(mode):
    scenario = dataclasses.replace(scenarios.make("camera"), requests=1)
    native, sync = pair(scenario, 2, mode)
    equal(native.reset(seed=0), sync.reset(seed=0))
    for actions in np.random.default_rng(0).integers(len(scenario.plans), size=(7, 2)):
        equal(native.step(actions), sync.step(actions))


def test_records_in_the_infos_are_those_of_the_engine():
    """A stranger to the batch: each lane's episode by its name, run by the engine itself."""
    env = OffloadVectorEnv(4, "hidden-load")
    _, info = env.reset(seed=3)
    engines = [Kernel(env.scenario, draw(env.scenario, int(episode))) for episode in info["episode"]]
    for actions in np.random.default_rng(1).integers(len(env.scenario.plans), size=(30, 4)):
        columns = env.step(actions)[4]["record"]
        for lane, engine in enumerate(engines):
            record = Record(**{name: columns[name][lane].item() for name in Record._fields})
            assert record == engine.submit(int(actions[lane]))


def test_a_named_episode_begins_in_every_lane():
    seen, info = OffloadVectorEnv(2, "camera").reset(options={"episode": 5})
    assert info["episode"].tolist() == [5, 5]
    assert np.array_equal(seen[0], seen[1])


def test_arrays_are_not_written_again():
    env = OffloadVectorEnv(2, "camera")
    first, _ = env.reset(seed=0)
    kept = first.copy()
    second = env.step(np.array([2, 3]))
    copies = [part.copy() for part in second[:4]]
    env.step(np.array([4, 5]))
    assert np.array_equal(first, kept)
    assert all(np.array_equal(a, b) for a, b in zip(second[:4], copies, strict=True))


def test_every_plan_may_be_taken():
    masks = OffloadVectorEnv(3, "privacy").action_masks()
    assert masks.shape == (3, 90)
    assert masks.all()


@pytest.mark.parametrize(("given", "named"), [({"autoreset_mode": AutoresetMode.DISABLED}, "Disabled"), ({"engine": "simpy"}, "simpy")])
def test_what_it_cannot_do_is_refused_by_name(given, named):
    with pytest.raises(ConfigError, match=named):
        OffloadVectorEnv(2, "camera", **given)


def test_too_few_seeds_are_refused():
    with pytest.raises(ConfigError, match="1 seeds for 2"):
        OffloadVectorEnv(2, "camera").reset(seed=[1])


def test_an_action_that_is_no_plan_is_refused():
    env = OffloadVectorEnv(2, "camera")
    env.reset(seed=0)
    with pytest.raises(AssertionError):
        env.step(np.array([0, 95]))

"""The batch is the environment many times over: same observations, rewards and episode ends, at any number of lanes."""

from __future__ import annotations

import dataclasses

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3 import PPO

import cutlayer.envs  # noqa: F401 - registers the environment
from cutlayer.envs import scenarios
from cutlayer.envs.batch import Bank, Lanes
from cutlayer.envs.kernel import record
from cutlayer.envs.simulation import Simulation
from cutlayer.envs.streams import draw
from cutlayer.envs.vector_env import BatchedVecEnv
from cutlayer.errors import ConfigError
from cutlayer.profiles.cost import reward


@pytest.fixture(scope="module")
def camera():
    return dataclasses.replace(scenarios.make("camera"), requests=40)


@pytest.mark.parametrize("lanes", [1, 7])
def test_every_lane_is_a_simulation_of_its_own(camera, lanes):
    """Episodes of unequal length in slots and jobs, so that padding would show; each lane goes through several."""
    bank = Bank.draw(camera, range(11))
    batch = Lanes(camera, bank, lanes)
    rng = np.random.default_rng(3)
    episodes = rng.integers(11, size=lanes)
    batch.reset(episodes)
    worlds = [Simulation(camera, draw(camera, int(episode))) for episode in episodes]
    for _ in range(130):
        for world, seen in zip(worlds, batch.observations, strict=True):
            np.testing.assert_array_equal(world.observation(), seen)
        # Mostly plans that send, else the link is never busy.
        plans = np.where(
            rng.random(lanes) < 0.7, rng.choice(np.flatnonzero(camera.plans.offloads), lanes), rng.integers(len(camera.plans), size=lanes)
        )
        following = rng.integers(11, size=lanes)
        requests = batch.requests
        batch.step(plans, following)
        for lane, world in enumerate(worlds):
            expected = world.decide(int(plans[lane]))
            if not world.done:
                assert record(int(plans[lane]), batch.row(lane, int(requests[lane]))) == expected
            worth = reward(expected.latency_s, expected.accuracy, expected.energy_j, *camera.objective.numbers())
            assert batch.rewards[lane] == pytest.approx(worth, rel=1e-12)
            assert batch.dones[lane] == world.done
            if world.done:
                np.testing.assert_array_equal(batch.last[lane], world.observation())
                worlds[lane] = Simulation(camera, draw(camera, int(following[lane])))


def test_a_lane_does_not_depend_on_its_neighbours(camera):
    bank = Bank.draw(camera, range(5))
    alone, together = Lanes(camera, bank, 1), Lanes(camera, bank, 64)
    alone.reset(np.array([2]))
    together.reset(np.arange(64) % 5)
    rng = np.random.default_rng(0)
    for _ in range(90):
        plans = rng.integers(len(camera.plans), size=64)
        alone.step(plans[2:3], np.array([4]))
        together.step(plans, np.full(64, 4))
        np.testing.assert_array_equal(alone.observations[0], together.observations[2])


def test_a_bank_of_nothing_is_refused(camera):
    with pytest.raises(ConfigError, match="no episodes"):
        Bank.draw(camera, [])


def test_a_device_that_never_catches_up_is_told_of(camera):
    """More requests on their way than a ring holds would overwrite each other."""
    long = dataclasses.replace(camera, requests=3_000, slow_down=dataclasses.replace(camera.slow_down, factor=400.0, busy_share=0.9))
    batch = Lanes(long, Bank.draw(long, [0]), 1)
    batch.reset(np.array([0]))
    plan, again = np.array([long.plans.device_only()]), np.array([0])

    def go_on():
        for _ in range(2_999):
            batch.step(plan, again)

    with pytest.raises(ConfigError, match="over 1024 requests on their way"):
        go_on()


def test_the_vector_environment_is_the_environment(camera):
    """Without staggering lane 0 steps through the very episodes of the single environment."""
    vector = BatchedVecEnv(camera, 3, seed=5, episodes=4, stagger=False)
    single = gym.make("cutlayer/Offload-v0", scenario=camera, engine="kernel")
    assert vector.observation_space == single.observation_space
    assert vector.action_space == single.action_space
    seen = vector.reset()
    first = vector.first_episode
    expected, _ = single.reset(options={"episode": first + int(vector.lanes.episodes[0])})
    rng = np.random.default_rng(1)
    for _ in range(100):
        np.testing.assert_array_equal(seen[0], expected)
        plans = rng.integers(len(camera.plans), size=3)
        seen, rewards, dones, infos = vector.step(plans)
        expected, worth, terminated, truncated, _ = single.step(plans[0])
        assert rewards[0] == np.float32(worth)
        assert dones[0] == truncated
        assert not terminated
        if truncated:
            np.testing.assert_array_equal(infos[0]["terminal_observation"], expected)
            assert infos[0]["TimeLimit.truncated"]
            assert infos[0]["episode"]["l"] == camera.requests
            expected, _ = single.reset(options={"episode": first + int(vector.lanes.episodes[0])})


def test_staggered_lanes_do_not_end_together(camera):
    vector = BatchedVecEnv(camera, 8, seed=0, episodes=16)
    vector.reset()
    steps = [vector.step(np.full(8, camera.plans.device_only(0))) for _ in range(2 * camera.requests)]
    ends = [int(dones.sum()) for _, _, dones, _ in steps]
    assert sum(ends) == 16
    assert max(ends) == 1
    # Seven of the first eight were seen from their middle on; each is cut off by the clock all the same.
    told = [info for _, _, _, infos in steps for info in infos if info]
    assert all(info["TimeLimit.truncated"] for info in told)
    assert [info["episode"]["l"] for info in told if "episode" in info] == [camera.requests] * 9


def test_arrays_are_not_written_again(camera):
    vector = BatchedVecEnv(camera, 2, episodes=4)
    before = vector.reset()
    kept = before.copy()
    vector.step(np.zeros(2, np.int64))
    np.testing.assert_array_equal(before, kept)


def test_equal_seeds_train_alike(camera):
    def train():
        world = BatchedVecEnv(camera, 8, seed=3, episodes=16)
        model = PPO("MlpPolicy", world, n_steps=32, batch_size=64, n_epochs=1, seed=3, device="cpu").learn(512)
        return [value.numpy() for value in model.policy.state_dict().values()]

    for a, b in zip(train(), train(), strict=True):
        np.testing.assert_array_equal(a, b)

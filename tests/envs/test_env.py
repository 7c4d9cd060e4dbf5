"""The environment keeps Gymnasium's and Stable-Baselines3's contracts and its own: seeds, truncation, records, rewards, workers."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import pickle
import re
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.utils.env_match import check_environments_match
from stable_baselines3.common.env_checker import check_env as sb3_check_env

import cutlayer.envs
from cutlayer.envs import scenarios
from cutlayer.envs.channels import Constant
from cutlayer.envs.kernel import Kernel
from cutlayer.envs.offload_env import OffloadEnv
from cutlayer.envs.record import Record, Status
from cutlayer.envs.streams import draw
from cutlayer.envs.workload import Periodic
from cutlayer.errors import ConfigError
from cutlayer.profiles.cost import deadline, energy, linear
from cutlayer.runtime import features

ID = "cutlayer/Offload-v0"
ENGINES = ("simpy", "kernel")
EVERY = [(name, engine) for name in scenarios.names() for engine in ENGINES]


@pytest.fixture
def small(lab):
    """A scenario of our own, of ten requests; all four statuses come about."""
    return lab.scenario(
        lab.plan(device_s=0.02, wire_bytes=5000, edge_s=0.01, accuracy=0.75, fallback_s=0.01, device_j=0.1),
        lab.plan(device_s=0.15, accuracy=0.6, device_j=0.5),
        lab.plan(wire_bytes=50_000, edge_s=0.02, accuracy=0.9, fallback_s=0.02, fallback_j=0.1),
        objective=deadline(0.1),
        path=lab.path(rtt_s=0.02),
        cancel_margin_s=0.05,
        requests=10,
    )


def episode(env, actions, seed=None):
    """Observations, rewards and infos of one episode."""
    observation, info = env.reset(seed=seed)
    seen, rewards, infos = [observation], [], [info]
    for action in actions:
        observation, reward, terminated, truncated, info = env.step(action)
        seen.append(observation)
        rewards.append(reward)
        infos.append(info)
        assert not terminated
        if truncated:
            break
    return np.array(seen), rewards, infos


# --- contracts -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "engine"), EVERY)
def test_gymnasium_finds_no_fault(name, engine):
    """Warnings are errors here."""
    check_env(gym.make(ID, scenario=name, engine=engine).unwrapped)


@pytest.mark.parametrize(("name", "engine"), EVERY)
def test_stable_baselines_finds_no_fault(name, engine):
    sb3_check_env(gym.make(ID, scenario=name, engine=engine).unwrapped, warn=True)
    sb3_check_env(gym.make(ID, scenario=name, engine=engine, render_mode="ansi"), warn=True)


IDS = ["cutlayer/OffloadMultiDiscrete-v0", "cutlayer/OffloadBox-v0"]


def test_every_registered_id_is_checked_here():
    assert [name for name in gym.registry if name.startswith("cutlayer/")] == [ID, *IDS]


@pytest.mark.parametrize(("name", "engine"), EVERY)
@pytest.mark.parametrize("id_", IDS)
# Gymnasium advises to check what lies under a wrapper; here the wrapper itself is checked.
@pytest.mark.filterwarnings("ignore:.*is different from the unwrapped version")
def test_other_faces_of_the_actions_are_without_fault(id_, name, engine):
    env = gym.make(id_, scenario=name, engine=engine, disable_env_checker=True)
    check_env(env, skip_render_check=True)
    sb3_check_env(env, warn=True)
    assert env.spec.id == id_


@pytest.mark.parametrize("name", scenarios.names())
def test_every_render_mode_is_without_fault(name):
    for mode in ("ansi", "rgb_array"):
        env = gym.make(ID, scenario=name, engine="kernel", render_mode=mode)
        check_env(env.unwrapped)
        sb3_check_env(env, warn=True)


@pytest.mark.parametrize("name", scenarios.names())
def test_the_spaces_are_those_of_plans_and_features(name):
    env = gym.make(ID, scenario=name)
    assert env.action_space == gym.spaces.Discrete(len(env.unwrapped.scenario.plans))
    size = len(features.table(env.unwrapped.scenario.blocks))
    assert size > features.SIZE if name in ("battery-harvest", "cold-start", "compound") else size == features.SIZE
    assert env.observation_space == gym.spaces.Box(features.LOW, features.HIGH, (size,), np.float32)
    assert env.spec.id == ID


@pytest.mark.parametrize("engine", ENGINES)
def test_an_action_that_is_no_plan_is_refused(small, engine):
    """Also by the compiled engine, which would read past the end of its table without a word."""
    for action in (3, -1):
        env = OffloadEnv(small, engine)
        env.reset(seed=0)
        with pytest.raises((AssertionError, IndexError, ValueError)):
            env.step(np.int64(action))


def test_a_step_before_a_reset_is_refused(small):
    with pytest.raises((AssertionError, gym.error.ResetNeeded)):
        OffloadEnv(small).step(np.int64(0))


# --- seeds -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "engine"), EVERY)
def test_two_equally_seeded_envs_step_alike(name, engine):
    """Exactly, through the ends of episodes, resets without seed included."""
    one, two = (OffloadEnv(name, engine) for _ in range(2))
    actions = np.random.default_rng(0).integers(one.action_space.n, size=3 * one.scenario.requests)
    for first, (a, b) in enumerate([(one, two)] * 3):
        here = actions[first * one.scenario.requests :]
        seed = 42 if first == 0 else None
        (seen_a, rewards_a, infos_a), (seen_b, rewards_b, infos_b) = episode(a, here, seed), episode(b, here, seed)
        assert np.array_equal(seen_a, seen_b)
        assert rewards_a == rewards_b
        assert infos_a == infos_b


@pytest.mark.parametrize("name", scenarios.names())
def test_both_engines_step_alike(name):
    one, two = (OffloadEnv(name, engine) for engine in ENGINES)
    # Gymnasium compares floats exactly, and the engines agree to 1e-9: rewards are rounded to the precision of observations.
    rounded = [gym.wrappers.TransformReward(env, np.float32) for env in (one, two)]
    check_environments_match(*rounded, num_steps=450, seed=3, info_comparison="keys-equivalence")
    actions = np.random.default_rng(1).integers(one.action_space.n, size=one.scenario.requests)
    (seen_a, rewards_a, infos_a), (seen_b, rewards_b, infos_b) = (episode(env, actions, 9) for env in (one, two))
    np.testing.assert_allclose(seen_a, seen_b, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(rewards_a, rewards_b, rtol=1e-9, atol=1e-12)
    assert [i["late"] for i in infos_a[1:]] == [i["late"] for i in infos_b[1:]]
    assert [i["record"]["status"] for i in infos_a[1:]] == [i["record"]["status"] for i in infos_b[1:]]


def test_a_reset_without_seed_goes_on_in_the_stream(small):
    one, two = OffloadEnv(small), OffloadEnv(small)
    episodes = [[env.reset(seed=5)[1]["episode"], *(env.reset()[1]["episode"] for _ in range(3))] for env in (one, two)]
    assert episodes[0] == episodes[1]
    assert len(set(episodes[0])) == 4
    assert one.reset(seed=5)[1]["episode"] == episodes[0][0]
    assert one.reset(seed=6)[1]["episode"] not in episodes[0]


def test_an_unseeded_env_is_not_always_the_same(small):
    assert len({OffloadEnv(small).reset()[1]["episode"] for _ in range(3)}) == 3


def test_an_episode_can_be_named(small):
    """As evaluation does: the named episode is the one that `draw` makes of the same number."""
    env = OffloadEnv(small)
    _, info = env.reset(options={"episode": 77})
    assert info["episode"] == 77
    actions = [0, 2, 1, 0, 2, 0, 2, 2, 1, 0]
    records = [env.step(a)[4]["record"] for a in actions]
    engine = Kernel(small, draw(small, 77))
    for action, record in zip(actions, records, strict=True):
        expected = engine.submit(action)._asdict()
        assert record == {name: pytest.approx(value, rel=1e-9, abs=1e-12) for name, value in expected.items()}


# --- episodes --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
def test_an_episode_is_truncated_after_its_requests_and_never_terminates(small, engine):
    env = OffloadEnv(small, engine)
    for _ in range(3):
        env.reset(seed=1)
        ends = [env.step(np.int64(k % 3))[2:4] for k in range(10)]
        assert ends == [(False, False)] * 9 + [(False, True)]


@pytest.mark.parametrize("engine", ENGINES)
def test_info_holds_the_whole_record_as_plain_values(small, engine):
    env = OffloadEnv(small, engine)
    _, _, infos = episode(env, [0, 2, 1, 0, 2, 0, 2, 2, 1, 0], seed=2)
    for k, info in enumerate(infos[1:]):
        assert set(info) >= {"record", "late"}
        record = info["record"]
        assert tuple(record) == Record._fields
        assert record["plan"] == [0, 2, 1, 0, 2, 0, 2, 2, 1, 0][k]
        assert record["status"] in set(Status)
        assert all(isinstance(record[name], float) and np.isfinite(record[name]) for name in Record._fields[2:])
        assert type(record["status"]) is int
        assert Record(**record).latency_s == record["finish_s"] - record["arrival_s"]
        assert info["late"] == (record["finish_s"] - record["arrival_s"] > 0.1)


def test_the_observation_is_a_new_array_each_time(small):
    env = OffloadEnv(small)
    first, _ = env.reset(seed=0)
    kept = first.copy()
    env.step(np.int64(2))
    assert np.array_equal(first, kept)


@pytest.mark.parametrize("name", scenarios.names())
def test_thousands_of_random_steps_give_no_nan_and_keep_the_bounds(name):
    env = OffloadEnv(name, "kernel")
    rng = np.random.default_rng(0)
    actions = rng.integers(env.action_space.n, size=20_000 if name == "camera" else 4_000)
    seen, rewards = [env.reset(seed=0)[0]], []
    for action in actions:
        observation, reward, _, truncated, _ = env.step(action)
        seen.append(observation)
        rewards.append(reward)
        if truncated:
            env.reset()
    seen = np.array(seen)
    assert seen.dtype == np.float32
    assert np.isfinite(seen).all()
    assert np.isfinite(rewards).all()
    assert seen.min() >= features.LOW
    assert seen.max() <= features.HIGH
    if name == "camera":  # a scenario without background jobs or a co-tenant need not use every feature
        still = np.flatnonzero(seen.std(axis=0) == 0)
        assert still.size == 0, f"features that never change: {[features.FEATURES[i].name for i in still]}"


def test_decisions_matter_in_the_camera_scenario():
    """Random decisions meet every way a request can end, and are not worth the same."""
    env = OffloadEnv("camera", "kernel")
    actions = np.random.default_rng(0).integers(env.action_space.n, size=env.scenario.requests)
    statuses, rewards = set(), []
    for seed in range(10):
        _, got, infos = episode(env, actions, seed)
        statuses |= {info["record"]["status"] for info in infos[1:]}
        rewards += got
    assert statuses == set(Status) - {Status.EMPTY}
    assert np.std(rewards) > 0.01


# --- rewards ---------------------------------------------------------------------------------------------------------------------

#            latency, accuracy, joules                  linear, deadline and energy objective with a deadline of 100 ms
WORTHS = [
    ((0.05, 0.8, 0.5), (0.7, 0.8, 0.7)),  #             0.8 - 0.2 * 1/2;  in time;  0.8 - 0.2 * 0.5
    ((0.1, 0.8, 0.0), (0.6, 0.8, 0.8)),  #              just in time
    ((0.2, 0.8, 1.0), (0.4, -1.0, -0.2)),  #            late: minus the penalty;  no value, and the joules are spent
    ((0.5, 0.9, 0.0), (-0.1, -1.0, 0.0)),  #            at the timeout of five deadlines
    ((99.0, 0.9, 2.0), (-0.1, -1.0, -0.4)),  #          an outage costs no more than the timeout
]


@pytest.mark.parametrize(("figures", "worths"), WORTHS)
def test_the_presets_are_worth_what_they_say(figures, worths):
    for preset, worth in zip((linear, deadline, energy), worths, strict=True):
        columns = (np.array([x]) for x in figures)
        assert preset(0.1).reward(*columns) == pytest.approx([worth]), preset.__name__


def test_the_weights_of_the_presets_count():
    ones = [np.array([x]) for x in (0.2, 0.8, 3.0)]
    assert linear(0.1, latency_weight=0.1).reward(*ones) == pytest.approx(0.8 - 0.1 * 2)
    assert deadline(0.1, late_penalty=3.0).reward(*ones) == pytest.approx(-3.0)
    assert energy(0.3, energy_weight=0.1).reward(*ones) == pytest.approx(0.8 - 0.3)


def test_a_hand_computed_episode_earns_its_hand_computed_rewards(lab):
    """1000 B/s. Three answers: of the device after 1 s; of the edge after 0.5 + 0.25 = 0.75 s; given up at 2 s, answered at 2.25 s."""
    plans = (
        lab.plan(device_s=1.0, accuracy=0.6, device_j=2.0),
        lab.plan(wire_bytes=500, edge_s=0.25, accuracy=0.9, device_j=0.25),
        lab.plan(wire_bytes=5000, edge_s=0.25, accuracy=0.95, device_j=0.5, fallback_s=0.25, fallback_accuracy=0.3, fallback_j=0.5),
    )
    expected = {  #  linear: accuracy - 0.2 * latency / 1 s;  deadline of 1 s;  energy: 0.2 a joule
        linear: [0.6 - 0.2, 0.9 - 0.15, 0.3 - 0.45],
        deadline: [0.6, 0.9, -1.0],
        energy: [0.6 - 0.4, 0.9 - 0.05, 0.0 - 0.2],
    }
    for preset, rewards in expected.items():
        scenario = lab.scenario(
            *plans, objective=preset(1.0), cancel_margin_s=1.0, requests=3,
            channel=Constant(8e3), arrivals=Periodic(10.0),
        )  # fmt: skip
        for engine in ENGINES:
            _, got, infos = episode(OffloadEnv(scenario, engine), [0, 1, 2], seed=0)
            assert got == pytest.approx(rewards), (preset.__name__, engine)
            assert all(isinstance(reward, float) for reward in got)
            assert [info["late"] for info in infos[1:]] == [False, False, True]


@pytest.mark.parametrize("preset", [linear, deadline, energy])
def test_the_reward_of_a_step_is_the_objective_of_its_record(small, lab, preset):
    scenario = dataclasses.replace(small, objective=preset(0.1))
    actions = np.random.default_rng(3).integers(3, size=10)
    _, rewards, infos = episode(OffloadEnv(scenario, "kernel"), actions, seed=4)
    records = [info["record"] for info in infos[1:]]
    latency, accuracy, joules = (
        np.array([r[name] for r in records]) - (np.array([r["arrival_s"] for r in records]) if name == "finish_s" else 0.0)
        for name in ("finish_s", "accuracy", "energy_j")
    )
    assert rewards == pytest.approx(scenario.objective.reward(latency, accuracy, joules), rel=1e-12)


# --- registration and workers ----------------------------------------------------------------------------------------------------


def test_importing_again_registers_nothing_twice():
    """Gymnasium warns of an id that is overwritten, and warnings are errors here."""
    before = gym.registry[ID]
    importlib.reload(cutlayer.envs)
    assert gym.registry[ID] is before


def test_a_spec_survives_pickling_and_json():
    env = gym.make(ID, scenario="camera", engine="kernel")
    spec = pickle.loads(pickle.dumps(env.spec))  # noqa: S301 - our own
    assert spec == env.spec
    assert gym.envs.registration.EnvSpec.from_json(env.spec.to_json()) == env.spec
    check_environments_match(env, gym.make(spec), num_steps=30)


@pytest.mark.parametrize("id_", [ID, *IDS])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_made_env_survives_pickling(id_, engine):
    """As Gymnasium's own tests ask of its environments: before the first reset."""
    env = gym.make(id_, scenario="compound", engine=engine)
    check_environments_match(env, pickle.loads(pickle.dumps(env)), num_steps=20)  # noqa: S301 - our own


def test_an_env_survives_pickling(small):
    """Vector environments and Ray send environments and scenarios to their workers."""
    env = OffloadEnv(small, "kernel")
    env.reset(seed=1)
    copy = OffloadEnv(pickle.loads(pickle.dumps(small)), "kernel")  # noqa: S301 - our own
    check_environments_match(env, copy, num_steps=30)


FRESH = """
import sys
import gymnasium as gym
env = gym.make("cutlayer.envs:cutlayer/Offload-v0")
env.reset(seed=0)
_, reward, terminated, truncated, info = env.step(env.action_space.sample())
import cutlayer.envs
print(sorted(info), terminated, truncated, "torch" in sys.modules)
"""


def test_a_fresh_interpreter_makes_the_env_by_its_module_and_id(tmp_path):
    """Outside the checkout, with every warning an error; and the simulator needs no torch."""
    done = subprocess.run([sys.executable, "-W", "error", "-c", FRESH], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[0] == "['late', 'record'] False False False"


def test_spawned_workers_step_as_the_env_here_does():
    """Two episodes each, so that resets by the vector environment are among them."""
    make = functools.partial(gym.make, "cutlayer.envs:cutlayer/Offload-v0", engine="kernel")
    here = gym.vector.SyncVectorEnv([make, make])
    there = gym.vector.AsyncVectorEnv([make, make], context="spawn")
    try:
        one, two = (envs.reset(seed=[3, 4])[0] for envs in (here, there))
        assert np.array_equal(one, two)
        last = np.zeros(0)
        for actions in np.random.default_rng(0).integers(here.single_action_space.n, size=(230, 2)):
            one, two = here.step(actions), there.step(actions)
            for a, b in zip(one[:4], two[:4], strict=True):
                assert np.array_equal(a, b)
            last = one[0]
        assert not np.array_equal(last[0], last[1])  # the workers have seeds of their own
    finally:
        there.close()
        here.close()


# --- what a person sees ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
def test_render_tells_the_last_decision_in_one_line(small, engine):
    env = gym.make(ID, scenario=small, engine=engine, render_mode="ansi")
    env.reset(seed=0)
    assert env.render() == "no request decided yet"
    for action in (0, 1, 2):
        _, _, _, _, info = env.step(np.int64(action))
        line, record = env.render(), info["record"]
        assert "\n" not in line
        assert small.plans.name(action) in line
        assert Status(record["status"]).name in line
        latency_ms = float(re.search(r"latency +([\d.]+) ms", line).group(1))
        assert latency_ms == pytest.approx(1e3 * (record["finish_s"] - record["arrival_s"]), abs=0.06)
        assert float(re.search(r"sent +([\d.]+) B", line).group(1)) == pytest.approx(record["sent_bytes"], abs=0.6)
    assert OffloadEnv(small).render() is None


@pytest.mark.parametrize(("name", "hint"), [("camra", "did you mean 'camera'?"), ("Camera", "did you mean 'camera'?"), ("xyz", "known: ")])
@pytest.mark.parametrize("make", [scenarios.make, OffloadEnv, lambda name: gym.make(ID, scenario=name)], ids=["scenario", "env", "id"])
def test_an_unknown_scenario_is_refused_with_its_name_and_the_nearest_known_one(make, name, hint):
    with pytest.raises(ConfigError) as caught:
        make(name)
    message = str(caught.value)
    assert repr(name) in message
    assert hint in message
    assert "camera" in message
    assert "\n" not in message


def test_an_unknown_engine_is_refused(small):
    """By a name in the message, not by a traceback that ends in the middle of an episode."""
    with pytest.raises((ConfigError, ValueError, KeyError), match="turbo"):
        OffloadEnv(small, engine="turbo").reset(seed=0)

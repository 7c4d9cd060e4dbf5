"""Requests may have deadlines of their own: drawn apart, kept by every part that asks for one, and shown to the policy."""

from __future__ import annotations

import dataclasses

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cutlayer.envs import kernel, scenarios
from cutlayer.envs.deadlines import ChosenDeadlines, UniformDeadlines
from cutlayer.envs.kernel import Kernel
from cutlayer.envs.offload_env import OffloadEnv
from cutlayer.envs.record import Status
from cutlayer.envs.reference import Reference
from cutlayer.envs.simulation import Simulation
from cutlayer.envs.streams import deadlines, draw
from cutlayer.errors import ConfigError
from cutlayer.profiles.cost import Objective, deadline, linear, of_deadline
from cutlayer.runtime import features
from cutlayer.runtime import telemetry as tm

STREAMS = ("arrival_s", "rate_bps", "slow_down", "job_arrival_s", "job_service_s", "harvest_w")


def test_kinds_come_in_proportion_to_their_weights_and_know_nothing_of_each_other():
    drawn = ChosenDeadlines((0.05, 0.2), (3.0, 1.0)).draw(np.random.default_rng(0), 40_000)
    short = drawn == 0.05
    assert set(np.unique(drawn)) == {0.05, 0.2}
    # Five standard errors of a share and of a correlation over 40,000 draws.
    assert short.mean() == pytest.approx(0.75, abs=5 * np.sqrt(0.75 * 0.25 / 40_000))
    assert abs(np.corrcoef(short[:-1], short[1:])[0, 1]) < 5 / np.sqrt(40_000)
    assert (ChosenDeadlines((0.05, 0.2)).draw(np.random.default_rng(0), 1000) == 0.05).mean() == pytest.approx(0.5, abs=0.08)


def test_uniform_deadlines_fill_their_range():
    drawn = UniformDeadlines(0.1, 0.3).draw(np.random.default_rng(0), 10_000)
    assert drawn.min() >= 0.1
    assert drawn.max() <= 0.3
    assert np.histogram(drawn, 4, (0.1, 0.3))[0] == pytest.approx([2500] * 4, abs=5 * np.sqrt(10_000 * 3 / 16))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ChosenDeadlines(()), "0 choices_s"),
        (lambda: ChosenDeadlines((0.1,), (1.0, 2.0)), "1 choices_s and 2 weights"),
        (lambda: ChosenDeadlines((0.1, 0.0)), r"choices_s\[1\] is 0.0"),
        (lambda: ChosenDeadlines((0.1,), (0.0,)), "every entry of weights is 0"),
        (lambda: UniformDeadlines(0.0, 1.0), "shortest_s is 0.0"),
        (lambda: UniformDeadlines(0.2, 0.1), "longest_s is 0.1"),
    ],
)
def test_a_value_that_makes_no_sense_is_named(make, words):
    with pytest.raises(ConfigError, match=words):
        make()


def test_deadlines_are_a_stream_of_their_own():
    """Where none is longer than the objective's, the rest of the episode is the same bit by bit; and so are deadlines in another world."""
    camera = scenarios.make("camera")
    mixed = dataclasses.replace(camera, deadlines=ChosenDeadlines((0.05, 0.1)))
    plain, drawn = draw(camera, 7), draw(mixed, 7)
    for name in STREAMS:
        np.testing.assert_array_equal(getattr(plain, name), getattr(drawn, name))
    assert plain.deadline_s is None
    assert set(deadlines(camera, plain)) == {0.1}
    assert len(drawn.deadline_s) == camera.requests
    other = dataclasses.replace(scenarios.make("urllc-ge"), deadlines=mixed.deadlines)
    np.testing.assert_array_equal(draw(other, 7).deadline_s, drawn.deadline_s)


def test_streams_reach_as_far_as_the_longest_deadline():
    camera = scenarios.make("camera")
    patient = dataclasses.replace(camera, deadlines=ChosenDeadlines((0.1, 5.0), (1.0, 0.0)))
    streams = draw(patient, 0)
    assert len(streams.rate_bps) * patient.slot_s >= streams.arrival_s[-1] + 5.0


@pytest.mark.parametrize("engine", [Reference, Kernel])
def test_each_request_is_given_up_after_its_own_deadline_and_the_margin(lab, engine):
    """1500 B at 1000 B/s. A deadline of 0.5 s and 0.5 s of margin cut the first off at 1 s; the second has 2.5 s from 0.5 s on."""
    scenario = lab.scenario(lab.plan(wire_bytes=1500), deadlines=ChosenDeadlines((0.5, 2.0)), cancel_margin_s=0.5)
    streams = dataclasses.replace(lab.streams([0.0, 0.5, 9.0], 8e3), deadline_s=np.array([0.5, 2.0]))
    first, second = lab.run(engine, lab.World(scenario, streams, [0, 0]))
    assert (first.status, first.send_end_s) == (Status.GIVEN_UP, 1.0)
    assert (second.status, second.send_end_s) == (Status.EDGE, 2.5)


@given(st.data())
@settings(max_examples=60)
def test_deadlines_that_are_all_the_objectives_change_nothing(lab, data):
    """Records and the base observation, bit by bit."""
    world = lab.drawn(data)
    deadline_s = world.scenario.objective.deadline_s
    same = world.replace(deadlines=ChosenDeadlines((deadline_s,)), deadline_s=np.full(len(world.plans), deadline_s))
    one, two = (Simulation(w.scenario, w.streams) for w in (world, same))
    for plan in world.plans:
        np.testing.assert_array_equal(one.observation(), two.observation()[: features.SIZE])
        assert two.observation()[features.SIZE] == 1.0
        assert one.decide(plan) == two.decide(plan)


def test_a_deadline_is_known_from_its_request_on(lab):
    """And the last one stays when the episode ends."""
    scenario = lab.scenario(lab.plan(device_s=0.1), lab.plan(wire_bytes=1), deadlines=ChosenDeadlines((0.5, 2.0)), objective=deadline(2.0))
    streams = dataclasses.replace(lab.streams([0.0, 1.0, 2.0, 3.0]), deadline_s=np.array([0.5, 2.0, 1.0]))
    simulation = Simulation(scenario, streams)
    seen = []
    for _ in range(4):
        seen.append((simulation.deadline_s, simulation.readings[tm.DEADLINE_S], simulation.observation()[-1]))
        if not simulation.done:
            simulation.decide(0)
    assert seen == [(0.5, 0.5, 0.25), (2.0, 2.0, 1.0), (1.0, 1.0, 0.5), (1.0, 1.0, 0.5)]


# --- what a request is worth


@pytest.mark.parametrize("objective", [linear(0.2), deadline(0.2, 2.0), Objective(0.2, latency_weight=0.3, energy_weight=0.1)])
@pytest.mark.parametrize("own_s", [0.05, 0.2, 0.7])
def test_a_deadline_of_its_own_is_the_objective_with_that_deadline(objective, own_s):
    """Weight of latency and timeout are told in deadlines."""
    columns = [np.array([0.04, 0.06, 0.3, 9.0]), np.full(4, 0.8), np.full(4, 0.5)]
    own = dataclasses.replace(objective, deadline_s=own_s)
    assert of_deadline(objective.numbers(), own_s) == pytest.approx(own.numbers())
    assert objective.reward(*columns, deadline_s=np.full(4, own_s)) == pytest.approx(own.reward(*columns))


def test_rewards_and_lateness_go_by_the_own_deadline(lab):
    """1 s on the device: in time for 2 s, late for half a second; by either engine."""
    plans = lab.plan(device_s=1.0, accuracy=0.6), lab.plan(wire_bytes=1)
    scenario = lab.scenario(*plans, deadlines=ChosenDeadlines((0.5, 2.0)), objective=deadline(1.5, 3.0), requests=20)
    for engine in ("simpy", "kernel"):
        env = OffloadEnv(scenario, engine, render_mode="rgb_array")
        env.reset(options={"episode": 3})
        own = draw(scenario, 3).deadline_s
        assert len(set(own)) == 2
        for deadline_s in own:
            _, reward, _, _, info = env.step(np.int64(0))
            latency_s = info["record"]["finish_s"] - info["record"]["arrival_s"]
            assert info["late"] == (latency_s > deadline_s)
            assert reward == (-3.0 if latency_s > deadline_s else 0.6)
        assert env.render().size


@pytest.mark.parametrize("mode", [gym.vector.AutoresetMode.NEXT_STEP, gym.vector.AutoresetMode.SAME_STEP])
def test_native_and_synchronous_vectors_agree_on_deadlines(mode):
    scenario = dataclasses.replace(scenarios.make("camera"), requests=7, deadlines=UniformDeadlines(0.02, 0.2))
    made = {"num_envs": 3, "scenario": scenario}
    native = gym.make_vec("cutlayer/Offload-v0", **made, autoreset_mode=mode)
    sync = gym.make_vec("cutlayer/Offload-v0", **made, vectorization_mode="sync", engine="kernel", vector_kwargs={"autoreset_mode": mode})
    np.testing.assert_array_equal(native.reset(seed=1)[0], sync.reset(seed=1)[0])
    late = 0
    for actions in np.random.default_rng(0).integers(len(scenario.plans), size=(25, 3)):
        ours, theirs = native.step(actions), sync.step(actions)
        for a, b in zip(ours[:4], theirs[:4], strict=True):
            np.testing.assert_array_equal(a, b)
        if "late" in theirs[4]:
            np.testing.assert_array_equal(ours[4]["late"], theirs[4]["late"])
            late += int(ours[4]["late"].sum())
    assert late > 0


def test_a_copy_of_a_world_keeps_its_place_among_the_deadlines(lab):
    """The compiled state counts requests, so a copy goes on with the deadlines that come next."""
    world = lab.world(3, differ=True, link="outages")
    arrays, records = kernel.arrays(world.scenario, world.streams), []
    state, row = kernel.fresh_state(arrays[-1]), np.zeros(kernel.ROW)
    for k, plan in enumerate(world.plans):
        copy = state.copy()
        kernel.step(plan, world.streams.arrival_s[k], *arrays, copy, row)
        records.append(kernel.record(plan, row))
        kernel.step(plan, world.streams.arrival_s[k], *arrays, state, row)
    assert records == lab.run(Kernel, world)

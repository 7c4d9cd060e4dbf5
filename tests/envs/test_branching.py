"""A branch is the step of a world that was copied: whatever is switched on, of every plan, and nothing of the world is moved by looking."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cutlayer.envs import scenarios
from cutlayer.envs.batch import Bank
from cutlayer.envs.branching import BranchingLanes
from cutlayer.envs.simulation import Simulation
from cutlayer.errors import ConfigError
from cutlayer.profiles.cost import of_deadline, reward


def played(world, plans):
    """The slow twin: the world from its beginning with these plans; its last record and what is seen after it."""
    simulation = Simulation(world.scenario, world.streams)
    record = None
    for plan in plans:
        record = simulation.decide(plan)
    return record, simulation.observation()


def worth_of(world, record, request):
    numbers = world.scenario.objective.numbers()
    if world.streams.deadline_s is not None:
        numbers = of_deadline(numbers, world.streams.deadline_s[request])
    return reward(record.latency_s, record.accuracy, record.energy_j, *numbers)


def everything_in(lanes):
    arrays = {**lanes.snapshot(), "last": lanes.last, "rewards": lanes.rewards, "dones": lanes.dones}
    return {name: array.copy() for name, array in arrays.items()}


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


@given(st.data())
@settings(max_examples=30)
def test_every_branch_is_the_world_played_again_with_that_plan(lab, data):
    """Two lanes that came different ways into one episode; looked at in a few requests and in the last one."""
    world = lab.switched(data)
    plans = len(world.scenario.plans)
    lanes = BranchingLanes(world.scenario, Bank.stack(world.scenario, [world.streams]), 2)
    lanes.reset(np.zeros(2, np.int64))
    ways = [world.plans, world.plans[::-1]]
    requests = world.scenario.requests
    looked_at = {*data.draw(st.sets(st.integers(0, requests - 1), min_size=3, max_size=3)), requests - 1}
    for k in range(requests):
        if k in looked_at:
            before = everything_in(lanes)
            lanes.branch()
            assert_equal(everything_in(lanes), before)
            for lane, way in enumerate(ways):
                for plan in range(plans):
                    record, seen = played(world, [*way[:k], plan])
                    assert lanes.branch_rewards[lane, plan] == pytest.approx(worth_of(world, record, k), rel=1e-12)
                    np.testing.assert_array_equal(lanes.branch_observations[lane, plan], seen)
        lanes.step(np.array([way[k] for way in ways]), np.zeros(2, np.int64))


@pytest.mark.parametrize("name", ["camera", "compound"])
def test_looking_changes_nothing_and_tells_the_step_to_come(name):
    """Bit by bit the same lanes, one of which looks ahead all the time; through several episodes and their ends."""
    scenario = dataclasses.replace(scenarios.make(name), requests=25)
    bank = Bank.draw(scenario, range(9))
    looking, blind = BranchingLanes(scenario, bank, 5), BranchingLanes(scenario, bank, 5)
    rng = np.random.default_rng(0)
    for lanes in (looking, blind):
        lanes.reset(np.arange(5))
    for _ in range(60):
        looking.branch()
        plans, following = rng.integers(len(scenario.plans), size=5), rng.integers(9, size=5)
        foreseen = looking.branch_rewards[np.arange(5), plans], looking.branch_observations[np.arange(5), plans]
        looking.step(plans, following)
        blind.step(plans, following)
        np.testing.assert_array_equal(foreseen[0], blind.rewards)
        np.testing.assert_array_equal(foreseen[1], np.where(blind.dones[:, None], blind.last, blind.observations))
        assert_equal(everything_in(looking), everything_in(blind))


def test_some_plans_are_those_of_all():
    scenario = dataclasses.replace(scenarios.make("camera"), requests=25)
    bank = Bank.draw(scenario, range(4))
    every, some = BranchingLanes(scenario, bank, 4), BranchingLanes(scenario, bank, 4, choices=3)
    choices = np.random.default_rng(0).integers(len(scenario.plans), size=(4, 3))
    for lanes in (every, some):
        lanes.reset(np.arange(4))
        for plan in range(8):
            lanes.step(np.full(4, plan), np.arange(4))
    every.branch()
    some.branch(choices)
    np.testing.assert_array_equal(some.branch_rewards, np.take_along_axis(every.branch_rewards, choices, 1))
    np.testing.assert_array_equal(some.branch_observations, np.take_along_axis(every.branch_observations, choices[..., None], 1))


def test_lanes_go_on_from_a_snapshot():
    scenario = dataclasses.replace(scenarios.make("compound"), requests=25)
    bank = Bank.draw(scenario, range(4))
    lanes, again = BranchingLanes(scenario, bank, 3), BranchingLanes(scenario, bank, 3)
    plans = np.random.default_rng(0).integers(len(scenario.plans), size=(40, 3))
    lanes.reset(np.arange(3))
    for way in plans[:20]:
        lanes.step(way, np.arange(3))
    kept = lanes.snapshot()
    again.restore(kept)
    for way in plans[20:]:
        lanes.step(way, np.arange(3))
        again.step(way, np.arange(3))
        assert_equal(everything_in(lanes), everything_in(again))
    assert (kept["_places"] != lanes.snapshot()["_places"]).any(), "a snapshot is a copy"


def test_a_device_that_never_catches_up_is_told_of():
    """As in `Lanes`: the copies have rings of the same length."""
    camera = scenarios.make("camera")
    stuck = dataclasses.replace(camera, requests=3_000, slow_down=dataclasses.replace(camera.slow_down, factor=400.0, busy_share=0.9))
    lanes = BranchingLanes(stuck, Bank.draw(stuck, [0]), 1, choices=1)
    plan = np.array([stuck.plans.device_only()])

    def go_on():
        for _ in range(2_999):
            lanes.branch(plan[None])
            lanes.step(plan, np.array([0]))

    lanes.reset(np.array([0]))
    with pytest.raises(ConfigError, match="over 1024 requests on their way"):
        go_on()

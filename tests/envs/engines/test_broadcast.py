"""What an edge that broadcasts tells is what a newcomer would wait, known when it can be, the same by both engines and in lanes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cutlayer.envs import scenarios
from cutlayer.envs.batch import Bank, Lanes
from cutlayer.envs.simulation import Simulation
from cutlayer.envs.spec import Batching, Edge
from cutlayer.profiles.cost import deadline
from cutlayer.runtime import telemetry as tm

HEARD = slice(tm.EDGE_QUEUE_S, tm.EDGE_QUEUE_AT + 1)


def heard(world, engine="kernel"):
    """(queue, sent at) as each request comes in, the end of the episode included."""
    simulation = Simulation(world.scenario, world.streams, engine)
    found = [tuple(simulation.readings[HEARD])]
    for plan in world.plans:
        simulation.decide(plan)
        found.append(tuple(simulation.readings[HEARD]))
    return found


@given(st.data())
@settings(max_examples=150)
def test_a_broadcast_tells_what_somebody_waits_who_comes_then(lab, one_clock, data):
    """In a plain world of one clock somebody does come, at the instant of each broadcast, and wants nothing when his turn comes."""
    world = lab.switched(data, broadcast=True)
    period_s, late_s = world.scenario.edge.broadcast_s, world.scenario.path.rtt_s / 2
    clock = one_clock(world.scenario, world.streams)
    clock.run(world.plans)
    for engine in ("kernel", "simpy"):
        for now_s, (queue_s, sent_s) in zip(world.streams.arrival_s, heard(world, engine), strict=True):
            if now_s < late_s:
                assert sent_s == tm.NEVER
                continue
            assert sent_s in clock.waits
            assert now_s - late_s - period_s < sent_s <= now_s - late_s
            assert queue_s == pytest.approx(clock.waits[sent_s], rel=1e-9, abs=1e-9)


# A job of 2 s comes at 0.5 s; requests of 1 s of work reach the edge at 0.75 s and at 4.25 s. Round trip of 1/4 s.
ARRIVALS = [0.625, 1.0, 1.125, 2.5, 3.125, 4.125, 5.0, 5.125, 6.0]
TOLD = [
    (0.0, 0.0),  #  0.625 s: nothing had come at 0
    (0.0, 0.0),  #  1 s: what is sent now is still on its way
    (2.5, 1.0),  #  1.125 s: the job leaves at 2.5, the request behind it at 3.5
    (1.5, 2.0),  #  2.5 s
    (0.5, 3.0),  #  3.125 s
    (0.0, 4.0),  #  4.125 s: the second request is sent now
    (0.0, 4.0),  #  5 s
    (0.25, 5.0),  # 5.125 s: it has been there since 4.25
    (0.25, 5.0),
]


@pytest.mark.parametrize("engine", ["kernel", "simpy"])
def test_a_queue_worked_out_by_hand(lab, engine):
    sends, stays = lab.plan(wire_bytes=1, edge_s=1.0), lab.plan()
    scenario = lab.scenario(sends, stays, edge=Edge(broadcast_s=1.0), path=lab.path(rtt_s=0.25), objective=deadline(9.0))
    world = lab.World(scenario, lab.streams(ARRIVALS, 8e12, jobs=[(0.5, 2.0)]), [0, 1, 1, 1, 1, 0, 1, 1])
    assert heard(world, engine) == [pytest.approx(told, abs=1e-9) for told in TOLD]


def test_a_batch_counts_once_its_window_has_ended(lab):
    """Windows of 1 s: a request of 1 s that is collected from 0.25 s on begins at 1 s; broadcasts at 0.6, 1.2 and 1.8 s."""
    edge = Edge(batching=Batching(1.0), broadcast_s=0.6)
    scenario = lab.scenario(lab.plan(wire_bytes=1, edge_s=1.0), lab.plan(), edge=edge, objective=deadline(9.0))
    world = lab.World(scenario, lab.streams([0.25, 0.7, 1.1, 1.3, 2.0], 8e12), [0, 1, 1, 1])
    assert heard(world) == [pytest.approx(told) for told in [(0.0, 0.0), (0.0, 0.6), (0.0, 0.6), (0.8, 1.2), (0.2, 1.8)]]


def test_several_servers_tell_when_the_first_of_them_is_free(lab):
    """Jobs of 4, 2 and 1 s: two run until 4.5 and 2.5 s, the third from then on until 3.5 s."""
    scenario = lab.scenario(lab.plan(), edge=Edge(servers=2, broadcast_s=1.0), objective=deadline(9.0))
    world = lab.World(scenario, lab.streams([1.5, 2.5, 3.5], jobs=[(0.5, 4.0), (0.5, 2.0), (0.75, 1.0)]), [0, 0])
    assert heard(world) == [pytest.approx(told) for told in [(2.5, 1.0), (1.5, 2.0), (0.5, 3.0)]]


def test_lanes_hear_what_simulations_hear(lab):
    """Through the ends of episodes, with jobs in plenty and in batches: bit by bit."""
    queues = set()
    for seed, knobs in enumerate(({"servers": 3}, {"batching": True}, {"servers": 1})):
        world = lab.world(seed, jobs="overload", link="steady", broadcast=True, **knobs)
        bank = [lab.world(seed + n, jobs="overload", link="steady").streams for n in (0, 10, 20)]
        bank = [dataclasses.replace(one, slot_s=world.streams.slot_s) for one in bank]
        batch, rng = Lanes(world.scenario, Bank.stack(world.scenario, bank), 2), np.random.default_rng(seed)
        batch.reset(np.array([0, 1]))
        ours = [Simulation(world.scenario, bank[k]) for k in (0, 1)]
        for _ in range(75):
            plans, following = rng.integers(len(world.scenario.plans), size=2), rng.integers(3, size=2)
            batch.step(plans, following)
            for lane, one in enumerate(ours):
                one.decide(int(plans[lane]))
                if one.done:
                    ours[lane] = Simulation(world.scenario, bank[following[lane]])
                assert batch._readings[lane, HEARD].tolist() == ours[lane].readings[HEARD]
                np.testing.assert_array_equal(batch.observations[lane], ours[lane].observation())
                queues.add(ours[lane].readings[tm.EDGE_QUEUE_S])
    assert len(queues) > 60


def test_requests_between_two_broadcasts_need_not_fit_in_a_ring():
    """An hour between broadcasts: more requests than a lane keeps records of."""
    camera = scenarios.make("camera")
    rare = dataclasses.replace(camera, requests=1_100, edge=Edge(broadcast_s=3600.0))
    batch = Lanes(rare, Bank.draw(rare, [0]), 1)
    batch.reset(np.array([0]))
    light = np.array([camera.plans.device_only(0)])
    for _ in range(1_099):
        batch.step(light, np.array([0]))
    assert batch._readings[0, HEARD].tolist() == [0.0, 0.0]

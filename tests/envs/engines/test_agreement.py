"""Three models of one world, written in three ways, make the same records: on random worlds, on every scenario, and by hand."""

from __future__ import annotations

import os
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cutlayer.envs import scenarios
from cutlayer.envs.kernel import Kernel
from cutlayer.envs.record import Record, Status
from cutlayer.envs.reference import Reference
from cutlayer.envs.streams import draw
from cutlayer.profiles.cost import deadline
from cutlayer.profiles.energy import Radio

WORLDS = int(os.environ.get("CUTLAYER_WORLDS", "500"))  # `make bench` asks for 20,000


@given(st.data())
@settings(max_examples=WORLDS)
def test_reference_kernel_and_a_one_clock_world_make_the_same_records(lab, one_clock, data):
    """Whatever is switched on or off, in any combination."""
    world = lab.switched(data)
    reference = lab.run(Reference, world)
    assert lab.differences(reference, lab.run(Kernel, world)) == []
    assert lab.differences(reference, one_clock(world.scenario, world.streams).run(world.plans)) == []


def test_the_random_worlds_reach_every_status_and_every_queue(lab):
    """Without this the tests on random worlds could hold of nothing."""
    seen, queued = Counter(), Counter()
    for seed in range(60):
        world = lab.world(seed, link=["steady", "slots", "outages", "dies"][seed % 4], jobs=["light", "overload"][seed % 2])
        records = lab.run(Kernel, world)
        seen.update(r.status for r in records)
        queued.update(device=sum(r.device_start_s > r.arrival_s for r in records))
        queued.update(link=sum(r.send_start_s > r.device_end_s for r in records), edge=sum(r.edge_wait_s > 0 for r in records))
    assert all(seen[status] >= 60 for status in (Status.DEVICE, Status.EDGE, Status.GIVEN_UP, Status.UNSENT)), seen
    assert all(queued[station] >= 100 for station in ("device", "link", "edge")), queued


@pytest.mark.parametrize("name", scenarios.names())
def test_engines_agree_on_drawn_episodes_of_each_scenario(lab, one_clock, name):
    scenario = scenarios.make(name)
    rng = np.random.default_rng(5)
    for seed in range(5):
        streams = draw(scenario, seed)
        plans = rng.integers(len(scenario.plans), size=scenario.requests).tolist()
        world = lab.World(scenario, streams, plans)
        records = lab.run(Reference, world)
        assert lab.differences(records, lab.run(Kernel, world)) == []
        assert lab.differences(records, one_clock(scenario, streams).run(plans)) == []


def test_engines_agree_to_the_end_of_a_long_episode(lab):
    """Sums over a whole episode must not eat up the precision of its end."""
    world = lab.world(1, requests=5000, link="slots", jobs="light")
    assert lab.differences(lab.run(Reference, world), lab.run(Kernel, world)) == []


@pytest.mark.parametrize("engine", ["simpy", "kernel", "one clock"])
def test_an_episode_worked_out_by_hand(lab, one_clock, engine):
    """1000 B/s; the device is slowed to half in the second second; one background job; give up at the age of 1.5 s.

    The reply takes 0.1 s half round trip + 0.1 s (100 B at 8 kb/s) + 0.05 s = 0.25 s. Sending costs 2 W and 0.1 mJ a bit.
    """
    small = lab.plan(
        device_s=0.2, encode_s=0.1, wire_bytes=400, decode_s=0.05, edge_s=0.25, accuracy=0.8, device_j=0.6,
        fallback_s=0.1, fallback_accuracy=0.5, fallback_j=0.2,
    )  # fmt: skip
    big = lab.plan(
        device_s=0.1, wire_bytes=1600, edge_s=0.3, accuracy=0.9, device_j=0.2,
        fallback_s=0.4, fallback_accuracy=0.4, fallback_j=0.7,
    )  # fmt: skip
    local = lab.plan(device_s=0.9, accuracy=0.7, device_j=1.8)
    scenario = lab.scenario(
        small, big, local, objective=deadline(1.0), cancel_margin_s=0.5,
        path=lab.path(rtt_s=0.2, downlink_bps=8e3, reply_bytes=100, fixed_s=0.05, radio=Radio(2.0, 1e-4)),
    )  # fmt: skip
    streams = lab.streams([0.0, 0.5, 1.1, 1.2, 1.9, 5.0], 8e3, [1.0, 2.0, 1.0, 1.0], jobs=[(0.5, 0.6)])
    plans = [0, 1, 0, 2, 0]
    expected = [
        # Device 0 to 0.3; 400 B take 0.4 s; at the edge at 0.8, where the job that came at 0.5 leaves at 1.1; 0.3 s of work
        # there, 0.25 s back. Energy 0.6 + 2 * 0.4 + 1e-4 * 3200.
        Record(0, Status.EDGE, 0.0, 0.0, 0.3, 0.3, 0.7, 400.0, 0.3, 1.65, 0.8, 1.72),
        # Device 0.5 to 0.6, waits for the link until 0.7; 1600 B would take until 2.3, cut off at 0.5 + 1.5 = 2.0 after 1300 B;
        # the device was not slowed when it began, so its own exit takes 0.4 s. Energy 0.2 + 2 * 1.3 + 1e-4 * 10400 + 0.7.
        Record(1, Status.GIVEN_UP, 0.5, 0.5, 0.6, 0.7, 2.0, 1300.0, 0.0, 2.4, 0.4, 4.54),
        # Begins at 1.1, in the slow second: 0.6 s to 1.7; the link is free at 2.0; at the edge at 2.5, idle since 1.4.
        Record(0, Status.EDGE, 1.1, 1.1, 1.7, 2.0, 2.4, 400.0, 0.0, 3.05, 0.8, 1.72),
        # The device is free at 1.7, still in the slow second: 1.8 s. The link has no part in it.
        Record(2, Status.DEVICE, 1.2, 1.7, 3.5, 3.5, 3.5, 0.0, 0.0, 3.5, 0.7, 1.8),
        # The device is free at 3.5, in a fast second, and done at 3.8; by 1.9 + 1.5 = 3.4 the transfer should have ended, so it
        # never begins; 0.1 s for its own exit. Energy 0.6 + 0.2.
        Record(0, Status.UNSENT, 1.9, 3.5, 3.8, 3.8, 3.8, 0.0, 0.0, 3.9, 0.5, 0.8),
    ]
    world = lab.World(scenario, streams, plans)
    made = {"simpy": Reference, "kernel": Kernel}.get(engine)
    records = one_clock(scenario, streams).run(plans) if made is None else lab.run(made, world)
    assert lab.differences(records, expected, relative=1e-12) == []
    assert [r.latency_s for r in records] == pytest.approx([1.65, 1.9, 1.95, 2.3, 2.0])

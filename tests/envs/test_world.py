"""What a world may have beyond the plain one, by worlds small enough to work out by hand, in both engines."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cutlayer.envs import kernel
from cutlayer.envs.batch import Bank, Lanes
from cutlayer.envs.channels import Constant
from cutlayer.envs.kernel import Kernel
from cutlayer.envs.record import Status
from cutlayer.envs.reference import Reference
from cutlayer.envs.simulation import Simulation
from cutlayer.envs.spec import (
    BARE_METAL,
    CONTAINER,
    VIRTUAL_MACHINE,
    Batching,
    Battery,
    Edge,
    Link,
    Memory,
    Platform,
    Segments,
    Thermal,
)  # fmt: skip
from cutlayer.envs.streams import draw
from cutlayer.errors import ConfigError
from cutlayer.profiles.cost import deadline, reward
from cutlayer.profiles.energy import Radio

ENGINES = pytest.mark.parametrize("engine", [Reference, Kernel])
SWITCHED = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**32),
        "link": st.sampled_from(["steady", "slots", "outages"]),
        "jobs": st.sampled_from(["none", "light", "overload"]),
        "servers": st.sampled_from([1, 3]),
        "restart": st.booleans(),
        "heat": st.booleans(),
        "battery": st.booleans(),
        "loads": st.sampled_from(["nothing", "swaps", "memory"]),
    }
)

# --- by hand -------------------------------------------------------------------------------------------------------------------


@ENGINES
def test_two_servers_take_two_at_once_and_the_third_waits_for_the_first_to_be_done(lab, engine):
    """Jobs of 4 s and 2 s at 0.5 s; ours of 1 s reach the edge at 1 and 2 s: the first waits till 2.5, the second till 3.5."""
    scenario = lab.scenario(lab.plan(wire_bytes=1, edge_s=1.0), edge=Edge(servers=2), objective=deadline(9.0))
    world = lab.World(scenario, lab.streams([1.0, 2.0, 9.0], 8e12, jobs=[(0.5, 4.0), (0.5, 2.0)]), [0, 0])
    assert [r.edge_wait_s for r in lab.run(engine, world)] == pytest.approx([1.5, 1.5])


@ENGINES
def test_a_batch_begins_at_the_end_of_its_window_and_its_members_share_the_work(lab, engine):
    """Windows of 1 s; three at 0.25, 0.5, 0.75 begin at 1: 1 s, then 0.5 s, then 0.5 s more. One at 1.5 finds the server busy till 3."""
    edge = Edge(batching=Batching(1.0, (1.0, 1.5)))
    scenario = lab.scenario(lab.plan(wire_bytes=1, edge_s=1.0), edge=edge, objective=deadline(9.0))
    records = lab.run(engine, lab.World(scenario, lab.streams([0.25, 0.5, 0.75, 1.5, 9.0], 8e12), [0] * 4))
    assert [r.finish_s for r in records] == pytest.approx([2.0, 2.5, 3.0, 4.0])
    assert [r.edge_wait_s for r in records] == pytest.approx([0.75, 1.5, 1.75, 1.5])


@ENGINES
def test_a_platform_makes_the_edge_slower_and_nothing_else(lab, engine):
    for platform, took in ((BARE_METAL, 1.0), (Platform(1.5, 0.25), 1.75), (CONTAINER, 1.000040), (VIRTUAL_MACHINE, 1.2 + 30e-6)):
        scenario = lab.scenario(lab.plan(wire_bytes=1, edge_s=0.75, decode_s=0.25), edge=Edge(platform=platform), objective=deadline(9.0))
        (record,) = lab.run(engine, lab.World(scenario, lab.streams([1.0, 9.0], 8e12), [0]))
        assert record.latency_s == pytest.approx(took)


@ENGINES
def test_heat_slows_what_begins_above_the_threshold(lab, engine):
    """From 40 C towards 80 C with 1 s: after 1 s of work 80 - 40/e = 65.28 C, a second of rest later 40 + 25.28/e = 49.30 C."""
    heat = Thermal(idle_c=40.0, busy_c=80.0, time_constant_s=1.0, throttle_c=45.0, limit_c=65.0, slowest=3.0)
    scenario = lab.scenario(lab.plan(device_s=1.0), thermal=heat)
    records = lab.run(engine, lab.World(scenario, lab.streams([0.0, 2.0, 2.0, 9.0]), [0, 0, 0]))
    warm = 80 - 40 / math.e
    mild = 40 + (warm - 40) / math.e
    assert [r.temperature_c for r in records[:2]] == pytest.approx([40.0, mild])
    took = 1 + 2 * (mild - 45) / 20
    assert [r.device_end_s - r.device_start_s for r in records] == pytest.approx([1.0, took, 3.0])  # the last one begins above 65 C
    assert records[2].temperature_c == pytest.approx(80 - (80 - mild) * math.exp(-took))


@ENGINES
def test_an_empty_battery_leaves_requests_unanswered_until_harvest_pays_for_them(lab, engine):
    """10 J, 1 W drawn always, plans of 4 J, 4.5 W of harvest from 5 s on: 10 at 0 s, 6 - 1 at 1 s, 1 - 1 at 2 s, 9 - 5 at 7 s."""
    scenario = lab.scenario(lab.plan(device_s=0.5, device_j=4.0), battery=Battery(10.0, idle_w=1.0), cancel_margin_s=0.5)
    streams = lab.streams([0.0, 1.0, 2.0, 7.0, 9.0])
    object.__setattr__(streams, "harvest_w", np.array([0.0] * 5 + [4.5]))
    records = lab.run(engine, lab.World(scenario, streams, [0] * 4))
    assert [r.charge_j for r in records] == pytest.approx([10.0, 5.0, 0.0, 4.0])
    assert [r.status for r in records] == [Status.DEVICE, Status.DEVICE, Status.EMPTY, Status.DEVICE]
    empty = records[2]
    assert (empty.device_end_s, empty.finish_s, empty.accuracy, empty.energy_j) == (2.0, 3.5, 0.0, 0.0)


@ENGINES
def test_sending_is_paid_for_once_the_link_is_idle(lab, engine):
    """2 J of radio for a transfer from 0 to 2 s: still unpaid at 1 s, paid at 3 s."""
    rows = lab.plan(wire_bytes=2000), lab.plan(device_s=0.125)
    path = lab.path(radio=Radio(1.0, 0.0))
    scenario = lab.scenario(*rows, battery=Battery(10.0), path=path, objective=deadline(9.0))
    records = lab.run(engine, lab.World(scenario, lab.streams([0.0, 1.0, 3.0, 9.0], 8e3), [0, 1, 1]))
    assert [r.charge_j for r in records] == pytest.approx([10.0, 10.0, 8.0])


@ENGINES
def test_a_swap_is_paid_once_a_change(lab, engine):
    """Units a a b b -, a: the first of each run pays; a plan without a unit changes nothing."""
    loads = Segments(unit=(0, 1, -1), swap_s=(0.25, 0.5, 9.0), unit_bytes=(0.0, 0.0, 0.0))
    scenario = lab.scenario(*(lab.plan(device_s=0.125, partition=p) for p in (1, 2, 3)), segments=loads)
    streams = lab.streams(np.arange(8.0), slow_down=2.0)
    records = lab.run(engine, lab.World(scenario, streams, [0, 0, 1, 1, 2, 1, 0]))
    assert [r.load_s for r in records] == [0.25, 0.0, 0.5, 0.0, 0.0, 0.0, 0.25]
    assert [r.device_end_s - r.device_start_s for r in records] == pytest.approx([0.25 + load for load in [0.25, 0, 0.5, 0, 0, 0, 0.25]])


@ENGINES
def test_the_least_recently_used_segment_makes_room(lab, engine):
    """Room for two of three units of 1 MB, read at 10 MB/s and 0.025 s of initialising; and one that fits nowhere is read each time."""
    loads = Segments(unit=(0, 1, 2, 3), swap_s=(0.0,) * 4, unit_bytes=(1e6, 1e6, 1e6, 9e6))
    scenario = lab.scenario(*(lab.plan(partition=p) for p in range(4)), segments=loads, memory=Memory(2e6, 1e7, 0.025))
    chosen = [0, 1, 0, 2, 0, 1, 3, 3, 1]
    records = lab.run(engine, lab.World(scenario, lab.streams(np.arange(len(chosen) + 1.0) * 2), chosen))
    assert [r.load_s for r in records] == pytest.approx([0.125, 0.125, 0, 0.125, 0, 0.125, 0.925, 0.925, 0])


# Measured over an emulated link (50 and 10 Mb/s, 20 ms round trip, idle for 1 s, cubic, slow start after idle on): bytes, and the
# message's time over that without slow start. The testbed's notes; message time = round trip + bytes / rate.
SLOW_STARTS = [
    (50e6, 10e3, 1.01),
    (50e6, 30e3, 1.88),
    (50e6, 100e3, 1.94),
    (50e6, 300e3, 1.72),
    (10e6, 30e3, 1.24),
    (10e6, 100e3, 1.11),
    (10e6, 300e3, 1.04),
]


@pytest.mark.parametrize(("rate_bps", "size", "measured"), SLOW_STARTS)
@ENGINES
def test_slow_start_after_idle_costs_what_it_was_measured_to(lab, engine, rate_bps, size, measured):
    """The second transfer waits for the first and finds the link warm; the third finds it idle for more than a second."""
    wire = int(size * 1514 / 1448)
    scenario = lab.scenario(
        lab.plan(wire_bytes=wire), path=lab.path(rtt_s=0.02), link=Link(restart_after_s=0.2), objective=deadline(9.0)
    )  # fmt: skip
    first, warm, cold = lab.run(engine, lab.World(scenario, lab.streams([0.0, 0.0, 2.0, 9.0], rate_bps), [0, 0, 0]))
    assert warm.send_end_s - first.send_end_s == pytest.approx(8 * wire / rate_bps)
    assert first.latency_s == pytest.approx(cold.latency_s)  # a new connection begins as slowly
    assert cold.latency_s / (0.02 + 8 * wire / rate_bps) == pytest.approx(measured, abs=0.2)
    assert cold.sent_bytes == wire


@ENGINES
def test_slow_start_stands_still_for_the_rest_of_each_round_trip(lab, engine):
    """8 Mb/s, 0.1 s round trip: 100,000 B a round. Of 60,000 B go 15,140 in the first, 30,280 in the second, the rest in the third."""
    scenario = lab.scenario(lab.plan(wire_bytes=60_000), path=lab.path(rtt_s=0.1), link=Link(restart_after_s=1.0), objective=deadline(9.0))
    cold, warm = lab.run(engine, lab.World(scenario, lab.streams([0.0, 0.1, 9.0], 8e6), [0, 0]))
    stands = (0.1 - 0.01514) + (0.1 - 0.03028)
    assert (cold.send_start_s, cold.send_end_s) == (pytest.approx(stands), pytest.approx(stands + 0.06))
    assert warm.send_end_s == pytest.approx(stands + 0.12)


@ENGINES
def test_a_transfer_that_would_still_stand_at_its_end_is_never_sent(lab, engine):
    link = Link(restart_after_s=1.0)
    scenario = lab.scenario(lab.plan(wire_bytes=60_000), path=lab.path(rtt_s=0.1), link=link, objective=deadline(0.1), cancel_margin_s=0.0)
    (record,) = lab.run(engine, lab.World(scenario, lab.streams([0.0, 9.0], 8e6), [0]))
    assert (record.status, record.send_end_s, record.sent_bytes) == (Status.UNSENT, pytest.approx(0.1), 0.0)


def test_losses_lower_the_rate_by_what_is_sent_again_and_by_what_the_window_reaches():
    """1 % at 20 ms: sqrt(1.5 / 0.01) x 1448 B / 20 ms = 7.09 Mb/s at most; at 5 Mb/s only a hundredth is sent again."""
    rates = np.array([5e6, 50e6, 0.0])
    assert Link(loss=0.01).goodput_bps(rates, 0.02) == pytest.approx([4.95e6, 7.0937e6, 0.0], rel=1e-4)
    assert Link(loss=0.01).goodput_bps(rates, 0.0) == pytest.approx([4.95e6, 49.5e6, 0.0])
    assert Link().goodput_bps(rates, 0.02) is rates


def test_a_lossy_link_is_drawn_as_its_goodput(lab):
    lossy = lab.scenario(lab.plan(), channel=Constant(50e6), link=Link(loss=0.01), path=lab.path(rtt_s=0.02))
    assert draw(lossy, 1).rate_bps == pytest.approx(7.0937e6, rel=1e-4)


def test_harvest_is_a_stream_of_its_own(lab):
    """The other streams of an episode are the same with and without."""
    without = lab.scenario(lab.plan())
    harvesting = lab.scenario(lab.plan(), battery=Battery(5.0, harvest=Constant(2.0)))
    a, b = draw(without, 3), draw(harvesting, 3)
    np.testing.assert_array_equal(a.arrival_s, b.arrival_s)
    assert set(b.harvest_w) == {2.0}
    assert len(b.harvest_w) == len(b.rate_bps)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Edge(servers=0), "servers of the edge is 0"),
        (lambda: Edge(broadcast_s=0.0), "broadcast_s of the edge is 0.0"),
        (lambda: Edge(servers=2, batching=Batching(0.1)), "a batch runs on one server"),
        (lambda: Batching(0.0), "window_s of the batching is 0.0"),
        (lambda: Batching(0.1, (1.0, 0.5)), "latency of the batching"),
        (lambda: Link(loss=1.0), "loss of the link is 1.0"),
        (lambda: Link(restart_after_s=-1.0), "restart_after_s"),
        (lambda: Platform(work_factor=0.5), "work_factor"),
        (lambda: Battery(0.0), "capacity_j of the battery is 0.0"),
        (lambda: Battery(1.0, start=2.0), "start of the battery is 2.0"),
        (lambda: Thermal(40.0, 30.0, 1.0, 45.0, 65.0, 2.0), "busy_c of the thermal model is 30.0"),
        (lambda: Thermal(40.0, 80.0, 1.0, 65.0, 65.0, 2.0), "limit_c"),
        (lambda: Memory(1e6, 0.0), "read_bytes_per_s"),
        (lambda: Segments((0, 0), (0.0, 0.0), (1.0, 2.0)), "one size for each unit"),
        (lambda: Segments((-2,), (0.0,), (1.0,)), "unit of the segments"),
    ],
)
def test_a_world_that_cannot_be_is_refused(make, match):
    with pytest.raises(ConfigError, match=match):
        make()


def test_segments_are_as_many_as_plans(lab):
    with pytest.raises(ConfigError, match=r"one a plan, 1"):
        lab.scenario(lab.plan(), segments=Segments((0, 1), (0.0, 0.0), (0.0, 0.0)))


def test_what_is_off_leaves_the_plain_world(lab):
    """Losses and platforms are but other numbers; the compiled engine gets no extras."""
    scenario = lab.scenario(lab.plan(), link=Link(loss=0.1), edge=Edge(platform=CONTAINER))
    assert scenario.plain
    assert kernel.arrays(scenario, lab.streams([0.0, 1.0]))[-1] is None


# --- properties ----------------------------------------------------------------------------------------------------------------


@given(SWITCHED)
@settings(max_examples=120)
def test_no_station_is_passed_out_of_order_or_works_for_two_at_once(lab, knobs):
    """First come, first served; and work conservation: who waits, waits for the one before."""
    world = lab.world(**knobs)
    records = lab.run(Kernel, world)
    for before, after in itertools.pairwise(records):
        assert after.device_start_s == max(after.arrival_s, before.device_end_s)
        assert after.device_end_s >= after.device_start_s
    sent = [r for r in records if r.status in (Status.EDGE, Status.GIVEN_UP)]
    for before, after in itertools.pairwise(sent):
        assert after.send_start_s >= before.send_end_s - 1e-12
        if not knobs["restart"]:
            assert after.send_start_s == pytest.approx(max(after.device_end_s, before.send_end_s), rel=1e-12)
    starts = [
        r.finish_s - world.scenario.plans.rows[r.plan].edge_s - world.scenario.plans.rows[r.plan].decode_s
        for r in records
        if r.status is Status.EDGE
    ]
    assert all(b >= a - 1e-9 for a, b in itertools.pairwise(starts))


@given(SWITCHED)
@settings(max_examples=100)
def test_latency_is_at_least_the_sum_of_the_services_and_bytes_are_the_integral_of_the_rate(lab, knobs):
    world = lab.world(**knobs)
    for r in lab.run(Kernel, world):
        row = world.scenario.plans.rows[r.plan]
        carried = world.streams.carried_bytes(r.send_start_s, r.send_end_s)
        assert r.sent_bytes == pytest.approx(carried, rel=1e-9, abs=1e-6)
        if r.status in (Status.EMPTY, Status.UNSENT):
            assert r.sent_bytes == 0.0
        if r.status is Status.EDGE:
            path = world.scenario.path
            services = r.load_s + row.device_s + row.encode_s + r.send_end_s - r.send_start_s + path.rtt_s / 2 + row.decode_s + row.edge_s
            assert r.latency_s >= (services + path.return_s) * (1 - 1e-9)
        assert r.latency_s >= 0.0


@given(SWITCHED, st.integers(0, 29))
@settings(max_examples=60)
def test_a_clone_steps_as_the_original_and_leaves_it_alone(lab, knobs, at):
    world = lab.world(**knobs)
    arrays = kernel.arrays(world.scenario, world.streams)
    state, row, other = kernel.fresh_state(arrays[-1]), np.zeros(kernel.ROW), np.zeros(kernel.ROW)
    for k in range(at):
        kernel.step(world.plans[k], world.streams.arrival_s[k], *arrays, state, row)
    clone, kept = state.copy(), state.copy()
    for k in range(at, len(world.plans)):
        kernel.step((world.plans[k] + 1) % len(world.scenario.plans), world.streams.arrival_s[k], *arrays, clone, other)
    assert np.array_equal(state, kept)
    clone = state.copy()
    for k in range(at, len(world.plans)):
        kernel.step(world.plans[k], world.streams.arrival_s[k], *arrays, state, row)
        kernel.step(world.plans[k], world.streams.arrival_s[k], *arrays, clone, other)
        assert np.array_equal(row, other)


@pytest.mark.parametrize("lanes", [1, 5])
def test_lanes_of_a_world_with_everything_are_simulations_of_their_own(lab, lanes):
    """Records, rewards, observations and readings of the sensors; through several episodes a lane."""
    switched = {"servers": 2, "restart": True, "heat": True, "battery": True, "loads": "memory", "platform": True, "told": True}
    world = lab.world(4, **switched, broadcast=True, differ=True)
    scenario, table = world.scenario, len(world.scenario.plans)
    bank = [lab.world(4, link=link, differ=True).streams for link in ("slots", "outages", "dies")]
    batch = Lanes(scenario, Bank.stack(scenario, bank), lanes)
    rng = np.random.default_rng(5)
    episodes = rng.integers(3, size=lanes)
    batch.reset(episodes)
    ours = [Simulation(scenario, bank[episode]) for episode in episodes]
    seen = set()
    for _ in range(100):
        for one, observed in zip(ours, batch.observations, strict=True):
            np.testing.assert_array_equal(one.observation(), observed)
        plans, following, requests = rng.integers(table, size=lanes), rng.integers(3, size=lanes), batch.requests
        batch.step(plans, following)
        for lane, one in enumerate(ours):
            own = dataclasses.replace(scenario.objective, deadline_s=one.deadline_s)
            expected = one.decide(int(plans[lane]))
            seen.add(expected.status)
            worth = reward(expected.latency_s, expected.accuracy, expected.energy_j, *own.numbers())
            assert batch.rewards[lane] == pytest.approx(worth, rel=1e-12)
            assert batch.dones[lane] == one.done
            if one.done:
                np.testing.assert_array_equal(batch.last[lane], one.observation())
                ours[lane] = Simulation(scenario, bank[following[lane]])
            else:
                assert kernel.record(int(plans[lane]), batch.row(lane, int(requests[lane]))) == expected
    assert Status.EMPTY in seen
    assert Status.EDGE in seen

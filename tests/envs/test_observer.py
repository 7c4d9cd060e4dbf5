"""The device knows nothing before it can know it: by hand-made records, and by worlds whose future is replaced.

The engines tell what becomes of a request the moment it is decided. So only these tests stand between a policy and the future.
"""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cutlayer.envs import scenarios
from cutlayer.envs.kernel import Kernel
from cutlayer.envs.record import Record, Status
from cutlayer.envs.simulation import Observer, Simulation
from cutlayer.envs.spec import Battery, Link
from cutlayer.envs.streams import draw
from cutlayer.runtime import telemetry as tm

# --- what is known when, by hand -----------------------------------------------------------------------------------------------

# A round trip of 1/8 s: the sender learns of its link 1/16 s late. All times are sums of powers of two, so nothing is rounded.
LATE = 0.0625
ROWS = {
    "small": {"device_s": 0.25, "encode_s": 0.25, "wire_bytes": 1000},
    "big": {"device_s": 0.5, "wire_bytes": 3000},
    "local": {"device_s": 1.0},
}
SMALL, BIG, LOCAL = range(3)
#                plan, status, arrival, device start, end, send start, end, bytes, edge wait, finish, accuracy, energy
SENT = Record(SMALL, Status.EDGE, 0.0, 0.0, 1.0, 1.0, 2.0, 1000.0, 0.375, 3.0, 0.8, 0.0)  # twice as slow as the table says
CUT = Record(BIG, Status.GIVEN_UP, 0.125, 1.0, 1.5, 2.0, 2.25, 500.0, 0.0, 2.75, 0.5, 0.0)
LATE_ONE = Record(SMALL, Status.UNSENT, 0.25, 1.5, 2.5, 2.5, 2.5, 0.0, 0.0, 2.75, 0.5, 0.0)
OWN = Record(LOCAL, Status.DEVICE, 0.5, 2.5, 4.5, 4.5, 4.5, 0.0, 0.0, 4.5, 0.7, 0.0)


class Watch:
    """An observer of given records, asked at rising times."""

    def __init__(self, lab, *records, rate_bps=8e3):
        scenario = lab.scenario(*(lab.plan(**row) for row in ROWS.values()), path=lab.path(rtt_s=2 * LATE))
        self.observer = Observer(scenario, lab.streams([0.0, 1.0], rate_bps))
        for record in records:
            self.observer.decided(record)

    def at(self, now_s, *indices):
        self.observer.arrived(now_s)
        readings = self.observer.readings
        return readings[indices[0]] if len(indices) == 1 else tuple(readings[i] for i in indices)


BEFORE = 2.0**-20  # just before: far above the rounding of the clock, far below any time here


def changes(lab, records, indices, *times):
    """Readings just before and at each of these times, each from a fresh observer: none depends on when it was asked before."""
    return [(Watch(lab, *records).at(t - BEFORE, *indices), Watch(lab, *records).at(t, *indices)) for t in times]


def test_nothing_is_known_of_a_device_that_has_seen_nothing(lab):
    watch = Watch(lab)
    watch.at(0.0, 0)
    assert watch.observer.readings[1:] == tm.fresh()[1:]
    assert watch.observer.acked_bytes(0.0) == 0.0


def test_a_decision_is_known_at_once_and_what_becomes_of_it_is_not(lab):
    watch = Watch(lab, SENT, CUT)
    assert watch.at(0.5, tm.IN_FLIGHT, tm.BACKLOG_S, tm.TO_SEND_BYTES) == (2.0, 1.0, 4000.0)
    assert watch.at(0.5, tm.SAMPLES, tm.SLOW_DOWN_AT, tm.EDGE_WAIT_AT, tm.SENDING_SINCE) == (0.0, tm.NEVER, tm.NEVER, tm.NEVER)


def test_the_device_work_that_runs_is_known_from_its_start_to_its_end(lab):
    records = [SENT, CUT, LATE_ONE, OWN]
    running = changes(lab, records, (tm.RUNNING_SINCE, tm.RUNNING_S), 1.0, 1.5, 2.5, 4.5)
    assert running == [
        ((0.0, 0.5), (1.0, 0.5)),
        ((1.0, 0.5), (1.5, 0.5)),
        ((1.5, 0.5), (2.5, 1.0)),
        ((2.5, 1.0), (tm.NEVER, 0.0)),
    ]
    backlog = changes(lab, records, (tm.BACKLOG_S,), 1.0, 1.5, 2.5, 4.5)
    assert backlog == [(2.5, 2.0), (2.0, 1.5), (1.5, 1.0), (1.0, 0.0)]


def test_slow_down_is_known_when_the_work_has_ended(lab):
    slow = changes(lab, [SENT, CUT, LATE_ONE, OWN], (tm.SLOW_DOWN, tm.SLOW_DOWN_AT), 1.0, 1.5, 2.5)
    assert slow == [((tm.NEVER, tm.NEVER), (2.0, 1.0)), ((2.0, 1.0), (1.0, 1.5)), ((1.0, 1.5), (2.0, 2.5))]


def test_running_work_counts_as_done_by_its_nominal_length_at_most(lab):
    """The backlog that a policy sees falls with the clock, and stops at the end that the table promises: no hint of the real end."""
    watch = Watch(lab, SENT)
    seen = []
    for now in (0.0, 0.25, 0.5, 0.75, 1.0 - BEFORE, 1.0):
        watch.at(now, 0)
        seen.append(tm.backlog_s(watch.observer.readings, now))
    assert seen == [0.5, 0.25, 0.0, 0.0, 0.0, 0.0]


def test_the_link_is_known_half_a_round_trip_late(lab):
    records = [SENT, CUT, LATE_ONE]
    link = changes(lab, records, (tm.SENDING_SINCE, tm.TO_SEND_BYTES), 1.0 + LATE, 2.0 + LATE, 2.25 + LATE, 2.5 + LATE)
    assert link == [
        ((tm.NEVER, 5000.0), (1.0 + LATE, 5000.0)),
        ((1.0 + LATE, 5000.0), (2.0 + LATE, 4000.0)),
        ((2.0 + LATE, 4000.0), (tm.NEVER, 1000.0)),
        ((tm.NEVER, 1000.0), (tm.NEVER, 0.0)),
    ]


def test_the_rate_and_the_wait_at_the_edge_are_known_with_the_reply(lab):
    indices = (tm.SAMPLES, tm.RATE_BPS, tm.RATE_AT, tm.RING, tm.RING + 1, tm.RING + 2, tm.EDGE_WAIT_S, tm.EDGE_WAIT_AT)
    ((before, after),) = changes(lab, [SENT], indices, 3.0)
    assert before == (0.0, *[tm.NEVER] * 7)
    assert after == (1.0, 8000.0, 2.0, math.log10(8000.0), 2.0, 1.0, 0.375, 3.0)


def test_a_given_up_transfer_is_a_sample_of_what_it_carried_and_is_known_half_a_round_trip_late(lab):
    """500 B in 1/4 s. It says nothing of the edge."""
    ((before, after),) = changes(lab, [CUT], (tm.SAMPLES, tm.IN_FLIGHT), 2.25 + LATE)
    assert (before, after) == ((0.0, 1.0), (1.0, 0.0))
    watch = Watch(lab, CUT)
    assert watch.at(9.0, tm.RING, tm.RING + 1, tm.RING + 2, tm.EDGE_WAIT_AT) == (math.log10(16_000.0), 2.25, 0.25, tm.NEVER)


def test_a_request_that_was_never_sent_is_no_sample(lab):
    watch = Watch(lab, LATE_ONE)
    assert watch.at(9.0, tm.SAMPLES, tm.IN_FLIGHT, tm.TO_SEND_BYTES, tm.SENDING_SINCE) == (0.0, 0.0, 0.0, tm.NEVER)


def test_reports_are_taken_in_the_order_of_requests(lab):
    """The transfer given up at 2.25 would be known by 2.3125, but the reply before it comes at 3."""
    watch = Watch(lab, SENT, CUT, LATE_ONE)
    assert watch.at(3.0 - BEFORE, tm.SAMPLES, tm.IN_FLIGHT) == (0.0, 3.0)
    assert watch.at(3.0, tm.SAMPLES, tm.IN_FLIGHT) == (2.0, 0.0)
    assert watch.at(3.0, tm.RING, tm.RING + 1, tm.RING + 3, tm.RING + 4) == (math.log10(16_000.0), 2.25, math.log10(8000.0), 2.0)
    assert watch.at(3.0, tm.RATE_BPS) == pytest.approx(8000 + tm.RATE_WEIGHT * 8000)


def test_an_answer_of_the_device_itself_waits_for_no_report(lab):
    never = SENT._replace(finish_s=100.0)
    assert changes(lab, [never, OWN], (tm.IN_FLIGHT,), 4.5, 100.0) == [(2.0, 1.0), (1.0, 0.0)]


def test_acknowledged_bytes_are_those_that_arrived_half_a_round_trip_ago(lab):
    """8 kb/s in the first two seconds, then 16 kb/s; the transfer begins at 1."""
    record = SENT._replace(send_end_s=2.5, finish_s=3.5)
    watch = Watch(lab, record, rate_bps=[8e3, 8e3, 16e3])
    for now, acked in ((1.0, 0.0), (1.0 + LATE, 0.0), (1.5 + LATE, 500.0), (2.25 + LATE, 1500.0), (2.5 + LATE, 0.0)):
        watch.at(now, 0)
        assert watch.observer.acked_bytes(now) == pytest.approx(acked), now


def test_a_link_that_tells_its_rate_tells_that_of_half_a_round_trip_ago(lab):
    """In the place of the mean over transfers, and from the first request on."""
    scenario = lab.scenario(lab.plan(), path=lab.path(rtt_s=2 * LATE), link=Link(rate_told=True))
    observer = Observer(scenario, lab.streams([0.0, 1.0], [8e3, 16e3]))
    seen = []
    for now in (0.03125, 1.0, 1.0 + LATE):
        observer.arrived(now)
        seen.append((observer.readings[tm.RATE_BPS], observer.readings[tm.RATE_AT], observer.readings[tm.SAMPLES]))
    assert seen == [(8e3, 0.0, 1.0), (8e3, 1.0 - LATE, 1.0), (16e3, 1.0, 1.0)]


@pytest.mark.parametrize(("wait_s", "took_s"), [(0.0, 1.0), (0.5, 1.5)])
def test_loading_is_known_as_it_begins_and_is_no_slow_down(lab, wait_s, took_s):
    """Work of 1/2 s at twice its time, after loading: the slow-down is 2 either way; the backlog counts the loading with the rest."""
    watch = Watch(lab, SENT._replace(load_s=wait_s, device_end_s=took_s, send_start_s=took_s, send_end_s=2.0))
    watch.at(0.25, 0)
    assert tm.backlog_s(watch.observer.readings, 0.25) == 0.25 + wait_s
    assert watch.at(took_s, tm.SLOW_DOWN, tm.BACKLOG_S, tm.LOADING_S) == (2.0, 0.0, 0.0)


def test_sensors_are_read_as_work_begins_and_an_empty_device_drops_its_work(lab):
    """The second finds the battery empty: its work is no longer ahead, says nothing of slow-down, and it ends as unsent ones do."""
    empty = Record(SMALL, Status.EMPTY, 0.25, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 1.375, 0.0, 0.0, 0.0, 50.0, 0.25)
    scenario = lab.scenario(*(lab.plan(**row) for row in ROWS.values()), path=lab.path(rtt_s=2 * LATE), battery=Battery(1.0))
    observer = Observer(scenario, lab.streams([0.0, 1.0], 8e3))
    observer.decided(SENT._replace(temperature_c=40.0, charge_j=0.75))
    observer.decided(empty)
    observer.arrived(0.5)
    assert observer.readings[tm.TEMPERATURE_C : tm.SENSED_AT + 1] == [40.0, 0.75, 0.0]
    observer.arrived(1.0)
    assert observer.readings[tm.TEMPERATURE_C : tm.SENSED_AT + 1] == [50.0, 0.25, 1.0]
    assert (observer.readings[tm.BACKLOG_S], observer.readings[tm.SLOW_DOWN_AT], observer.readings[tm.IN_FLIGHT]) == (0.0, 1.0, 2.0)
    observer.arrived(9.0)
    assert (observer.readings[tm.IN_FLIGHT], observer.readings[tm.TO_SEND_BYTES], observer.readings[tm.SAMPLES]) == (0.0, 0.0, 1.0)


def test_gaps_are_those_between_requests(lab):
    watch = Watch(lab)
    assert [watch.at(t, tm.GAP, tm.GAP_BEFORE) for t in (1.0, 1.25, 2.0, 2.125)] == [
        (tm.NEVER, tm.NEVER), (0.25, tm.NEVER), (0.75, 0.25), (0.125, 0.75),
    ]  # fmt: skip


def test_the_ring_keeps_the_last_six_transfers_newest_first(lab):
    records = [SENT._replace(send_start_s=k + 0.5, send_end_s=k + 1.0, finish_s=k + 1.5, sent_bytes=1000.0 * (k + 1)) for k in range(9)]
    watch = Watch(lab, *records)
    watch.at(100.0, 0)
    ring = watch.observer.readings[tm.RING : tm.RING + 3 * tm.RING_LENGTH]
    assert ring[0::3] == [math.log10(8 * 1000.0 * (k + 1) / 0.5) for k in (8, 7, 6, 5, 4, 3)]
    assert ring[1::3] == [k + 1.0 for k in (8, 7, 6, 5, 4, 3)]
    assert ring[2::3] == [0.5] * 6


def test_a_skipped_look_misses_nothing(lab):
    """Asked often or once: the readings are the same, but for the times of requests."""
    records = [SENT, CUT, LATE_ONE, OWN]
    often, once = Watch(lab, *records), Watch(lab, *records)
    for now in np.arange(0.0, 6.0, 0.0625):
        often.at(float(now), 0)
    once.at(5.9375, 0)
    same = [i for i in range(tm.SIZE) if i not in (tm.LAST_ARRIVAL, tm.GAP, tm.GAP_BEFORE)]
    assert often.at(5.9375, *same) == once.at(5.9375, *same)


# --- no leak: another future, the same observation -----------------------------------------------------------------------------


def knowledge(scenario, streams, plans, engine="kernel"):
    """All that a policy can look at when it decides the request after `plans`."""
    simulation = Simulation(scenario, streams, engine)
    for plan in plans:
        simulation.decide(plan)
    return simulation.now_s, list(simulation.readings), simulation.acked_bytes(), simulation.observation().tobytes()


def leaks(lab, world, futures, engine="kernel", every=1):
    """Requests whose decision could tell one future from another: (request, future, what differs)."""
    scenario, streams = world.scenario, world.streams
    found = []
    for k in range(0, len(world.plans) + 1, every):
        now = float(streams.arrival_s[k])
        seen = knowledge(scenario, streams, world.plans[:k], engine)
        # The edge and the far end of the link are half a round trip away: what they do later than that is unknown as well.
        for (name, future), light in itertools.product(futures.items(), (0.0, scenario.path.rtt_s / 2)):
            changed = knowledge(scenario, lab.splice(streams, future, now, now - light), world.plans[:k], engine)
            differing = [i for i in range(tm.SIZE) if seen[1][i] != changed[1][i]]
            if seen != changed:
                found.append((k, name, light, differing, seen[2], changed[2]))
    return found


def futures(lab, scenario, seed):
    """Other futures, from likely ones to extreme ones: an idle and fast world, and one in which nothing moves."""
    drawn = draw(scenario, seed)
    end = float(drawn.arrival_s[-1]) + 10.0
    every = np.arange(0.0, end, 0.001)
    return {
        "drawn": drawn,
        "fast": lab.streams(drawn.arrival_s / 10, 1e9, 1.0, (), scenario.slot_s),
        "stuck": lab.streams(drawn.arrival_s * 10, 0.0, 50.0, zip(every, np.full(len(every), 1.0), strict=True), scenario.slot_s),
    }


def habits(plans, count, rng):
    """Ways to choose: anything; the device's own work; big transfers, which queue up; small ones, which finish; and by turns."""
    offload = np.flatnonzero(plans.offloads)
    big, small = (offload[np.argsort(plans.wire_bytes[offload])[at]] for at in (slice(-3, None), slice(None, 5)))
    return {
        "random": rng.integers(len(plans), size=count),
        "cautious": rng.choice(np.flatnonzero(~plans.offloads), count),
        "big": rng.choice(big, count),
        "small": rng.choice(small, count),
        "turns": np.where(np.arange(count) // 8 % 2 == 0, rng.choice(big, count), rng.choice(small, count)),
    }


@pytest.mark.parametrize("name", scenarios.names())
def test_no_scenario_shows_its_future(lab, name):
    # The cost grows with the square of the requests.
    scenario = dataclasses.replace(scenarios.make(name), requests=80 if name == "camera" else 32)
    rng = np.random.default_rng(11)
    for seed in range(4 if name == "camera" else 2):
        streams = draw(scenario, seed)
        for habit, plans in habits(scenario.plans, scenario.requests, rng).items():
            world = lab.World(scenario, streams, plans.tolist())
            assert leaks(lab, world, futures(lab, scenario, 1000 + seed), every=2) == [], (seed, habit)


@given(
    st.fixed_dictionaries(
        {
            "seed": st.integers(0, 2**32),
            "link": st.sampled_from(["steady", "slots", "outages", "dies"]),
            "jobs": st.sampled_from(["none", "light", "overload"]),
            "arrivals": st.sampled_from(["periodic", "poisson", "bursts"]),
            "rtt": st.booleans(),
            "servers": st.sampled_from([1, 3]),
            "restart": st.booleans(),
            "heat": st.booleans(),
            "battery": st.booleans(),
            "loads": st.sampled_from(["nothing", "swaps", "memory"]),
            "told": st.booleans(),
            "broadcast": st.booleans(),
            "differ": st.booleans(),
        }
    ),
    st.integers(0, 2**32),
)
@settings(max_examples=100)
@example(
    {
        "seed": 122577,
        "link": "steady",
        "jobs": "none",
        "arrivals": "periodic",
        "rtt": True,
        "servers": 1,
        "restart": False,
        "heat": False,
        "battery": True,
        "loads": "nothing",
        "told": False,
    },
    0,
)  # the charge told when a transfer had ended, half a round trip before the link did
def test_no_random_world_shows_its_future(lab, knobs, seed):
    world = lab.world(**knobs, requests=16)
    other = lab.world(seed, requests=40, link="slots", jobs="overload").streams
    assert leaks(lab, world, {"other": dataclasses.replace(other, slot_s=world.streams.slot_s)}) == []


def test_the_simpy_engine_shows_no_future_either(lab):
    for seed in range(4):
        world = lab.world(seed, requests=16, link="outages", jobs="overload")
        assert leaks(lab, world, {"other": lab.world(seed + 50, requests=40).streams}, engine="simpy") == []


def test_running_work_does_not_show_how_slow_the_device_is(lab):
    """Work that runs when a request comes in will take longer than it would have, in another world: nothing may tell."""
    tried = 0
    for seed in range(60):
        world = lab.world(seed, requests=25)
        records = lab.run(Kernel, world)
        for k in range(1, 25):
            now = world.streams.arrival_s[k]
            running = [r for r in records[:k] if r.device_start_s <= now < r.device_end_s]
            if not running:
                continue
            slot = world.streams.slot(running[0].device_start_s)
            if any(world.streams.slot(r.device_start_s) == slot for r in records[:k] if r.device_end_s <= now):
                continue  # a work that began in the same slot has told
            slow_down = world.streams.slow_down.copy()
            slow_down[slot] *= 3
            slower = dataclasses.replace(world.streams, slow_down=slow_down)
            assert knowledge(world.scenario, world.streams, world.plans[:k]) == knowledge(world.scenario, slower, world.plans[:k])
            tried += 1
    assert tried > 200


def test_a_queue_at_the_edge_does_not_show_before_the_reply(lab):
    """Jobs that reached the edge after the last request whose reply is back may be longer: nothing may tell."""
    tried = 0
    for seed in range(60):
        world = lab.world(seed, requests=25, link="steady", jobs="overload")
        records = lab.run(Kernel, world)
        half_rtt = world.scenario.path.rtt_s / 2
        for k in range(1, 25):
            now = world.streams.arrival_s[k]
            back = [r.send_end_s + half_rtt for r in records[:k] if r.status is Status.EDGE and r.finish_s <= now]
            unknown = (world.streams.job_arrival_s > max(back, default=0.0)) & (world.streams.job_arrival_s <= now)
            if not unknown.any():
                continue
            service = np.where(unknown, 5 * world.streams.job_service_s, world.streams.job_service_s)
            longer = dataclasses.replace(world.streams, job_service_s=service)
            assert knowledge(world.scenario, world.streams, world.plans[:k]) == knowledge(world.scenario, longer, world.plans[:k])
            tried += 1
    assert tried > 200


def test_what_is_past_does_show(lab):
    """The counterpart: a test of leaks that compares nothing would pass as well."""
    shown = 0
    for seed in range(20):
        world = lab.world(seed, requests=30, link="steady")
        faster = dataclasses.replace(world.streams, rate_bps=1.5 * world.streams.rate_bps)
        one, two = (knowledge(world.scenario, s, world.plans) for s in (world.streams, faster))
        shown += one[3] != two[3]
    assert shown >= 12


def test_both_engines_show_the_same(lab):
    for seed in range(20):
        world = lab.world(seed, link="outages")
        for k in range(0, 31, 5):
            one, two = (knowledge(world.scenario, world.streams, world.plans[:k], engine) for engine in ("kernel", "simpy"))
            assert one[1:3] == (pytest.approx(two[1], rel=1e-9, abs=1e-9), pytest.approx(two[2], rel=1e-9, abs=1e-6))
            seen = (np.frombuffer(x[3], np.float32) for x in (one, two))
            np.testing.assert_allclose(*seen, rtol=1e-5, atol=1e-6)

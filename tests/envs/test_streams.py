"""The randomness of an episode: drawn once, from one child of the seed a stream, with the distribution that is claimed."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.envs.channels import Cellular, Constant
from cutlayer.envs.streams import draw
from cutlayer.envs.workload import EdgeJobs, Periodic, Poisson, SlowDown
from cutlayer.profiles.cost import deadline

STREAMS = ("arrival_s", "rate_bps", "slow_down", "job_arrival_s", "job_service_s")


@pytest.fixture
def busy(lab):
    """A scenario in which every stream is random."""
    return lab.scenario(
        lab.plan(device_s=0.1),
        lab.plan(wire_bytes=1000),
        channel=Cellular(2e6, 0.7, 1.0, outage_share=0.1, outage_s=0.3),
        arrivals=Periodic(0.05, jitter=0.2),
        slow_down=SlowDown(3.0, 0.4, 1.0),
        edge_jobs=EdgeJobs(50.0, 0.01),
        objective=deadline(0.2),
        path=lab.path(rtt_s=0.04),
        requests=100,
        slot_s=0.02,
    )


def other(scenario, **changes):
    """The scenario with some fields replaced."""
    return dataclasses.replace(scenario, **changes)


def test_the_same_seed_draws_the_same_episode_and_another_seed_another(busy):
    one, again, two = draw(busy, 7), draw(busy, 7), draw(busy, 8)
    for name in STREAMS:
        assert np.array_equal(getattr(one, name), getattr(again, name)), name
        assert not np.array_equal(getattr(one, name), getattr(two, name)), name


def test_no_stream_disturbs_another(busy):
    """Another channel, other jobs or another co-tenant leave all other streams as they were, bit for bit."""
    before = draw(busy, 7)
    changes = {
        "channel": (Constant(1e6), {"rate_bps"}),
        "slow_down": (SlowDown(2.0, 0.1, 3.0), {"slow_down"}),
        "edge_jobs": (EdgeJobs(5.0, 0.1), {"job_arrival_s", "job_service_s"}),
    }
    for field, (value, own) in changes.items():
        after = draw(other(busy, **{field: value}), 7)
        for name in STREAMS:
            assert np.array_equal(getattr(before, name), getattr(after, name)) == (name not in own), (field, name)


def test_the_streams_are_independent_of_each_other(busy):
    """A generator that is shared or seeded twice alike would show as correlation: of 5000 pairs it stays under 0.1 by chance."""
    streams = draw(other(busy, requests=5000), 3)
    gaps, services = np.diff(streams.arrival_s), streams.job_service_s
    rate, slow = np.log(streams.rate_bps + 1e3), streams.slow_down
    for a, b in ((gaps, services), (gaps, rate), (services, rate), (rate, slow), (gaps, slow), (np.diff(streams.job_arrival_s), services)):
        n = min(len(a), len(b), 5000)
        assert abs(np.corrcoef(a[:n], b[:n])[0, 1]) < 0.1


# First, second, last and mean value of each stream of `busy` with seed 2024, drawn with numpy 2.4.
DRAWN_2024 = {
    "arrival_s": (0.03782417986, 0.08419938951, 5.037501479, 2.537272373),
    "rate_bps": (1118768.809, 1310684.209, 2106022.499, 1276128.868),
    "slow_down": (3, 3, 3, 1.863636364),
    "job_arrival_s": (0.00372666919, 0.006084758782, 5.263665416, 2.781023143),
    "job_service_s": (0.00420638582, 0.0100756364, 0.02820170221, 0.01056275861),
}


def test_the_same_seed_draws_the_same_numbers_for_ever(busy):
    """Saved results name episodes by seed: an order of drawing that changes makes them all another world."""
    streams = draw(busy, 2024)
    for name, drawn in DRAWN_2024.items():
        values = getattr(streams, name)
        assert (values[0], values[1], values[-1], values.mean()) == pytest.approx(drawn, rel=1e-8), name


def test_streams_reach_as_far_as_anything_is_asked_of_them(busy):
    """One arrival more than requests, slots up to the last give-up time, jobs up to the last moment a request can reach the edge."""
    for seed in range(20):
        streams = draw(busy, seed)
        last = streams.arrival_s[-1] + busy.give_up_s
        assert len(streams.arrival_s) == busy.requests + 1
        assert (np.diff(streams.arrival_s) > 0).all()
        assert streams.arrival_s[0] >= 0
        assert len(streams.rate_bps) == len(streams.slow_down)
        assert last <= len(streams.rate_bps) * busy.slot_s <= last + 2 * busy.slot_s
        assert (streams.rate_bps >= 0).all()
        assert (streams.slow_down >= 1).all()
        assert (np.diff(streams.job_arrival_s) >= 0).all()
        assert streams.job_arrival_s[-1] <= last + busy.path.rtt_s
        assert streams.job_arrival_s[-1] > last - 1.0  # 50 jobs a second: none for a whole second is as good as impossible
        assert (streams.job_service_s >= 0).all()


@given(st.integers(0, 2**32), st.floats(0.0, 30.0), st.floats(0.0, 30.0))
def test_carried_bytes_are_the_integral_of_the_rate(lab, seed, a, b):
    start, end = min(a, b), max(a, b)
    rng = np.random.default_rng(seed)
    rate = rng.uniform(0.0, 1e6, 20) * (rng.uniform(size=20) < 0.7)
    streams = lab.streams([0.0, 1.0], rate, slot_s=0.7)
    edges = np.append(np.arange(20) * 0.7, math.inf)  # the last slot holds for ever
    inside = np.maximum(np.minimum(edges[1:], end) - np.maximum(edges[:-1], start), 0.0)
    assert streams.carried_bytes(start, end) == pytest.approx(float(inside @ rate) / 8, rel=1e-9, abs=1e-6)
    assert streams.carried_bytes(end, start) == 0.0


def test_slots_begin_at_their_left_end_and_the_last_one_has_none(lab):
    streams = lab.streams([0.0, 1.0], [1.0, 2.0, 3.0], slot_s=0.5)
    assert [streams.slot(t) for t in (0.0, 0.49, 0.5, 0.99, 1.0, 1.5, 1e9)] == [0, 0, 1, 1, 2, 2, 2]


def test_periodic_requests_keep_their_period_and_their_jitter():
    rng = np.random.default_rng(1)
    plain = Periodic(0.1).draw(rng, 1000)
    assert np.diff(plain) == pytest.approx(0.1)
    assert 0.0 <= plain[0] < 0.1
    jittered = Periodic(0.1, jitter=0.3).draw(rng, 20_000)
    offsets = jittered - 0.1 * np.arange(20_000)
    assert offsets.max() - offsets.min() <= 0.03
    assert np.std(offsets) == pytest.approx(0.03 / math.sqrt(12), rel=0.03)
    assert (np.diff(jittered) > 0).all()
    phases = [Periodic(0.1).draw(np.random.default_rng(seed), 1)[0] for seed in range(400)]
    assert np.mean(phases) == pytest.approx(0.05, abs=0.006)


def test_poisson_requests_know_nothing_of_each_other():
    gaps = np.diff(Poisson(20.0).draw(np.random.default_rng(1), 50_001))
    assert gaps.mean() == pytest.approx(0.05, rel=0.02)
    assert gaps.std() == pytest.approx(0.05, rel=0.03)
    assert abs(np.corrcoef(gaps[:-1], gaps[1:])[0, 1]) < 0.02
    assert np.mean(gaps > 0.15) == pytest.approx(math.exp(-3), rel=0.1)


def test_background_jobs_have_the_load_that_was_asked_for():
    arrival_s, service_s = EdgeJobs(60.0, 0.005).draw(np.random.default_rng(2), 500.0)
    assert len(arrival_s) == len(service_s) == pytest.approx(30_000, rel=0.03)
    assert arrival_s[-1] <= 500.0
    assert service_s.sum() / 500.0 == pytest.approx(0.3, rel=0.03)
    assert service_s.std() == pytest.approx(0.005, rel=0.05)
    assert np.diff(arrival_s).std() == pytest.approx(1 / 60, rel=0.03)


def test_no_background_jobs_is_possible():
    arrival_s, service_s = EdgeJobs().draw(np.random.default_rng(2), 500.0)
    assert len(arrival_s) == len(service_s) == 0


def test_the_co_tenant_is_busy_for_its_share_of_the_time():
    factor = SlowDown(3.0, busy_share=0.4, busy_s=2.0).draw(np.random.default_rng(3), 500_000, 0.02)
    assert set(np.unique(factor)) == {1.0, 3.0}
    assert np.mean(factor == 3.0) == pytest.approx(0.4, abs=0.03)
    assert (SlowDown(3.0).draw(np.random.default_rng(3), 100, 0.02) == 1.0).all()

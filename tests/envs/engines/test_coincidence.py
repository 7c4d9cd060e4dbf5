"""Engines agree where times coincide: requests that come at once, transfers that end as they would be given up, borders of slots."""

from __future__ import annotations

import numpy as np
import pytest

from cutlayer.envs.kernel import Kernel
from cutlayer.envs.record import Status
from cutlayer.envs.reference import Reference
from cutlayer.profiles.cost import deadline


def coincident(lab, seed, job_offset_s):
    """A world in which all times are multiples of 1/64 s and all rates powers of two: arithmetic is exact, and times coincide."""
    grain, rng = 2.0**-6, np.random.default_rng(seed)
    rows = [
        lab.plan(
            device_s=grain * rng.integers(0, 4), edge_s=grain * rng.integers(0, 4), wire_bytes=2 ** int(rng.integers(4, 8)),
            fallback_s=grain * rng.integers(0, 3),
        )
        for _ in range(4)
    ]  # fmt: skip
    scenario = lab.scenario(
        *rows, lab.plan(device_s=2 * grain), requests=15, slot_s=2 * grain, objective=deadline(4 * grain),
        cancel_margin_s=float(grain * rng.integers(0, 6)), path=lab.path(rtt_s=float(2 * grain * rng.integers(0, 2))),
    )  # fmt: skip
    jobs = zip(np.sort(rng.integers(0, 80, 30)) * grain + job_offset_s, rng.integers(1, 3, 30) * grain, strict=True)
    streams = lab.streams(
        np.cumsum(rng.integers(0, 5, 16)) * grain,
        8 * np.array([0, 2.0**8, 2.0**9, 2.0**10, 2.0**12])[rng.integers(0, 5, 200)],
        np.array([1.0, 2.0])[rng.integers(0, 2, 200)],
        jobs,
        2 * grain,
    )
    return lab.World(scenario, streams, rng.integers(0, 5, 15).tolist())


@pytest.mark.parametrize("model", ["simpy", "one clock"])
@pytest.mark.parametrize("job_offset_s", [2.0**-20, 0.0], ids=["requests and slots", "also at the edge"])
def test_engines_agree_where_times_coincide(lab, one_clock, model, job_offset_s):
    """Requests that come at once, transfers that end in the instant they would be given up, starts on the border of a slot; and
    with jobs on the same grid, jobs that reach the edge together with a request, and go first.
    """
    wrong = []
    for seed in range(300):
        world = coincident(lab, seed, job_offset_s)
        records = lab.run(Reference, world) if model == "simpy" else one_clock(world.scenario, world.streams).run(world.plans)
        different = lab.differences(records, lab.run(Kernel, world))
        wrong += [(seed, *different[0])] if different else []
    assert not wrong, f"{len(wrong)} of 300 worlds, the first (seed, request, field, {model}, Kernel): {wrong[0]}"


@pytest.mark.parametrize("engine", [Reference, Kernel])
def test_requests_that_arrive_in_the_same_instant_are_served_in_order(lab, engine):
    """The first transfer is given up at the very time at which the second one would be: the second is never sent."""
    scenario = lab.scenario(lab.plan(wire_bytes=10_000, fallback_s=0.25), path=lab.path(rtt_s=0.1), cancel_margin_s=0.5)
    first, second = lab.run(engine, lab.World(scenario, lab.streams([0.3, 0.3, 9.0], 8e3), [0, 0]))
    assert (first.status, second.status) == (Status.GIVEN_UP, Status.UNSENT)
    assert first.send_end_s == pytest.approx(0.3 + 1.5)
    assert (second.send_start_s, second.send_end_s, second.sent_bytes) == (pytest.approx(1.8), pytest.approx(1.8), 0.0)


@pytest.mark.parametrize("engine", [Reference, Kernel])
@pytest.mark.parametrize(("bytes_", "status"), [(1500, Status.EDGE), (1501, Status.GIVEN_UP)])
def test_a_transfer_that_ends_just_at_its_give_up_time_counts(lab, engine, bytes_, status):
    scenario = lab.scenario(lab.plan(wire_bytes=bytes_), cancel_margin_s=0.5)  # 1500 B at 1000 B/s take deadline and margin
    (record,) = lab.run(engine, lab.World(scenario, lab.streams([0.0, 9.0], 8e3), [0]))
    assert record.status is status
    assert (record.send_end_s, record.sent_bytes) == (1.5, 1500.0)


@pytest.mark.parametrize("engine", [Reference, Kernel])
@pytest.mark.parametrize(("device_s", "status"), [(1.5, Status.UNSENT), (1.4375, Status.EDGE)])
def test_a_transfer_that_would_begin_at_its_give_up_time_does_not(lab, engine, device_s, status):
    scenario = lab.scenario(lab.plan(device_s=device_s, wire_bytes=1, fallback_s=0.5), cancel_margin_s=0.5)
    (record,) = lab.run(engine, lab.World(scenario, lab.streams([0.0, 9.0], 8e3), [0]))
    assert record.status is status
    if status is Status.UNSENT:
        assert (record.send_start_s, record.send_end_s, record.finish_s, record.sent_bytes) == (1.5, 1.5, 2.0, 0.0)

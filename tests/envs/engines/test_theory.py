"""Mean waits at the edge are those of queueing theory."""

from __future__ import annotations

import numpy as np
import pytest

from cutlayer.envs import kernel
from cutlayer.envs.channels import Constant
from cutlayer.envs.record import Status
from cutlayer.envs.workload import EdgeJobs, Poisson


def probe(lab, arrival_s, edge_s, jobs=()):
    """Mean wait at the edge of requests that reach it as soon as they arrive."""
    scenario = lab.scenario(lab.plan(wire_bytes=1, edge_s=edge_s), channel=Constant(8e12), requests=len(arrival_s) - 1)
    streams = lab.streams(arrival_s, 8e12, jobs=jobs)
    rows = kernel.run(scenario, streams, np.zeros(scenario.requests, np.int64))
    assert (rows[:, kernel.R_STATUS] == Status.EDGE).all()
    return rows[:, kernel.R_EDGE_WAIT].mean()


def test_mean_wait_of_a_queue_with_fixed_service_is_that_of_theory(lab):
    """M/D/1: wait = load * service / (2 (1 - load)); 200,000 requests at load 0.6 tell it to about 1 %."""
    arrival_s = Poisson(60.0).draw(np.random.default_rng(3), 200_001)
    assert probe(lab, arrival_s, 0.01) == pytest.approx(0.6 * 0.01 / (2 * 0.4), rel=0.03)


def test_mean_wait_behind_background_jobs_is_that_of_theory(lab):
    """M/M/1: a request without work of its own that comes at random waits for load / (1 - load) * service; 5000 s tell it to about 1 %."""
    rng = np.random.default_rng(4)
    jobs = EdgeJobs(rate_per_s=50.0, mean_s=0.01).draw(rng, 5000.0)
    arrival_s = Poisson(20.0).draw(rng, 100_001)
    assert arrival_s[-1] > 4900
    arrival_s = arrival_s[arrival_s < 4990]
    assert probe(lab, arrival_s, 0.0, jobs=zip(*jobs, strict=True)) == pytest.approx(0.01, rel=0.04)

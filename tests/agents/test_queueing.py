"""Waits at the simulated edge are those of theory, and those of another simulator (Ciw)."""

from __future__ import annotations

import math

import ciw
import numpy as np
import pytest

from cutlayer.agents import queueing
from cutlayer.envs import kernel


def test_the_formulas_agree_where_both_hold():
    """M/M/1: load / (1 - load) services; and two known values of Erlang's C, 1/3 at c = 2 and 1 erlang, 0.4444 at c = 3 and 2 erlang."""
    assert queueing.erlang(80.0, 0.01, 1) == pytest.approx(0.04)
    assert queueing.pollaczek_khinchine(80.0, 0.01, 2e-4) == pytest.approx(0.04)
    assert queueing.erlang(100.0, 0.01, 2) == pytest.approx(1 / 3 * 0.01)
    assert queueing.erlang(200.0, 0.01, 3) == pytest.approx(4 / 9 * 0.01)


def test_mean_waits_are_those_of_theory():
    """Within 3 %: at load 0.8 the mean of half a million waits of M/M/1 is known to about 1.6 %; `cutlayer bench engines` takes more."""
    found = queueing.errors(500_000)
    assert len(found) == 10
    assert {case: error for case, error in found.items() if abs(error) > 0.03} == {}


ARRIVALS = {"ours": 40.0, "jobs": 100.0}  # a second; on two servers with 10 ms and 12 ms: load 0.8
OURS_S, JOBS_S, SERVERS, END_S, RUNS = 0.010, 0.012, 2, 40.0, 12


def ciw_wait(seed):
    network = ciw.create_network(
        arrival_distributions={name: [ciw.dists.Exponential(rate)] for name, rate in ARRIVALS.items()},
        service_distributions={"ours": [ciw.dists.Deterministic(OURS_S)], "jobs": [ciw.dists.Exponential(1 / JOBS_S)]},
        number_of_servers=[SERVERS],
    )
    ciw.seed(seed)
    simulation = ciw.Simulation(network)
    simulation.simulate_until_max_time(END_S)
    return np.mean([one.waiting_time for one in simulation.get_all_records() if one.customer_class == "ours"])


def our_wait(seed):
    rng = np.random.default_rng(seed)
    jobs = queueing.poisson(rng, ARRIVALS["jobs"], 2 * int(ARRIVALS["jobs"] * END_S))
    asks = queueing.poisson(rng, ARRIVALS["ours"], 2 * int(ARRIVALS["ours"] * END_S))
    asks = asks[asks <= END_S]
    scenario, streams = queueing.world([OURS_S], np.append(asks, END_S), (jobs, rng.exponential(JOBS_S, len(jobs))), SERVERS)
    return kernel.run(scenario, streams, np.zeros(len(asks), np.int64))[:, kernel.R_EDGE_WAIT].mean()


def test_two_servers_and_two_kinds_of_work_wait_as_they_do_in_ciw():
    """Fixed work among exponential jobs, for which there is no formula: means of equal runs, within their joint 99 % interval."""
    ours, theirs = ([wait(seed) for seed in range(count)] for wait, count in ((our_wait, 20 * RUNS), (ciw_wait, RUNS)))
    error = math.hypot(*(np.std(runs, ddof=1) / math.sqrt(len(runs)) for runs in (ours, theirs)))
    assert abs(np.mean(ours) - np.mean(theirs)) < 2.58 * error
    assert error < 0.15 * np.mean(theirs)  # the interval is narrow enough to mean something

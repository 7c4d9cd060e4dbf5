"""The simulated device agent tells a daemon over its socket the same as a controller in this process: both decide alike."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from cutlayer.agents import bench_daemon, demo, device_agent
from cutlayer.agents.bench_decision import random_bundle
from cutlayer.envs import scenarios
from cutlayer.envs.streams import draw
from cutlayer.runtime import telemetry as tm
from cutlayer.runtime.client import Client
from cutlayer.runtime.controller import Controller
from cutlayer.runtime.guard import Ranges


@pytest.fixture(scope="module")
def scenario():
    return dataclasses.replace(scenarios.make("camera"), requests=300)


@pytest.fixture(scope="module")
def bundle(scenario):
    """Ranges of another episode: some observations lie outside, so the guard's part shows too."""
    made = random_bundle(scenario)
    controller = Controller(made)
    seen = [controller._candidate.observation.copy() for _ in device_agent.drive(scenario, draw(scenario, 7), controller)]
    return dataclasses.replace(made, ranges=Ranges.seen(np.array(seen), 0.0))


def test_a_daemon_on_simulated_time_decides_as_the_controller_in_process(scenario, bundle, tmp_path):
    bundle.save(tmp_path / "policy.cutlayer", "0")
    streams, controller = draw(scenario, 3), Controller(bundle)
    here = [(one.plan, one.reason, one.expected_latency_s) for one, _ in device_agent.drive(scenario, streams, controller)]
    with demo.daemon(tmp_path, "--clock", "clients") as socket, Client(socket) as client:
        served = demo.Served(client)
        there = [(one.plan, one.reason, one.expected_latency_s) for one, _ in device_agent.drive(scenario, streams, served)]
        status = client.status()
    assert there == here
    assert len({plan for plan, *_ in here}) > 5
    assert {"", "observation-outside-training"} <= {reason for _, reason, _ in here}
    counts = controller.counts
    assert (status["decisions"], status["reports"], status["fallbacks"]) == (counts.decisions, counts.reports, counts.fallbacks)
    assert status["reports"] == 300


def test_everything_that_was_begun_is_told_as_ended(scenario, bundle):
    controller = Controller(bundle)
    for _ in device_agent.drive(scenario, draw(scenario, 4), controller):
        pass
    assert [controller.readings[i] for i in (tm.IN_FLIGHT, tm.BACKLOG_S, tm.TO_SEND_BYTES)] == pytest.approx([0.0, 0.0, 0.0], abs=1e-6)


def test_serving_tells_what_it_really_was(scenario, bundle, tmp_path):
    bundle.save(tmp_path / "policy.cutlayer", "0")
    with demo.daemon(tmp_path, "--clock", "clients") as socket:
        found = demo.serve(scenario, socket, seed=0, decisions=100)
    assert found["decisions"] == 100
    assert found["fallbacks"] <= sum(found["reasons"].values())
    assert 0.0 < found["p50_s"] <= found["p99_s"]
    assert 0.0 <= found["miss_rate"] <= 1.0


def test_the_bench_has_its_figures(monkeypatch):
    for name, value in (("DECISIONS", 200), ("SHARED", 50), ("WARM_UP", 10), ("ROUNDS", 5)):
        monkeypatch.setattr(bench_daemon, name, value)
    found = bench_daemon.run()
    assert list(found)[:5] == ["p50_s", "p99_s", "decisions_per_s", "clients", "errors"]
    assert (found["clients"], found["errors"]) == (8, 0)
    assert found["decisions_per_s"] > 0
    assert found["http_p50_s"] > 0
    assert found["by_policy"] == 1.0

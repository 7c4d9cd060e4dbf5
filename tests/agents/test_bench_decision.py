"""The measurement of decisions: it has its keys, it measures the very forms it names, and the world that it plays is a usable one."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from cutlayer.agents import bench_decision
from cutlayer.envs import scenarios
from cutlayer.runtime.controller import Controller

# What other programs read.
KEYS = {"numpy_p50_s", "numpy_p99_s", "onnxruntime_p50_s", "c_p50_s", "sb3_predict_p50_s", "import_s", "rss_bytes"}


@pytest.fixture
def short(monkeypatch):
    """As few of everything as shows that it runs."""
    for name, value in {"DECISIONS": 300, "WARM_UP": 10, "STARTS": 1, "C_CALLS": 500}.items():
        monkeypatch.setattr(bench_decision, name, value)


@pytest.mark.usefixtures("short")
def test_the_command_prints_every_key(run):
    code, out, err = run("bench", "decision", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert set(found) >= KEYS
    for key in found.keys() - {"run"}:
        assert key.endswith(("_s", "_bytes", "_by_policy"))
        assert found[key] is None or found[key] > 0
    assert {"version", "commit", "machine", "plans_sha256"} <= set(found["run"])
    if sys.platform == "linux":
        assert found["rss_bytes"] > 1 << 20


@pytest.mark.usefixtures("short")
def test_without_a_compiler_c_is_left_open(monkeypatch):
    monkeypatch.setattr(bench_decision.shutil, "which", lambda _: None)
    assert bench_decision._in_c(None, None) == {"c_p50_s": None, "c_p99_s": None}


@pytest.mark.usefixtures("short")
def test_the_world_is_one_that_a_policy_decides_in():
    camera = scenarios.make("camera")
    bundle = bench_decision.random_bundle(camera)
    controller = Controller(bundle)
    took = bench_decision._decide(controller, camera)
    counts = controller.counts
    assert len(took) >= 300
    assert counts.reports == counts.decisions == len(took) + 10
    assert counts.steps["policy"] > 0.5 * counts.decisions
    assert len(counts.plans) > 1


def test_the_tree_is_a_whole_one():
    camera = scenarios.make("camera")
    bundle = bench_decision.random_bundle(camera)
    bundle.tree.check(bundle.policy.inputs, bundle.policy.outputs, "it")
    assert bundle.tree.feature.count(-1) == bench_decision.LEAVES == 256
    observations = np.random.default_rng(0).uniform(-1, 4, (200, bundle.policy.inputs)).astype(np.float32)
    assert len({bundle.tree.choose(one)[0] for one in observations}) > 5

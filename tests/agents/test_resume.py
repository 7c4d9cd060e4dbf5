"""A training that was killed ends as if it had not been: same state bit for bit, same curve, same kept model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from cutlayer.agents import resumable, train
from cutlayer.envs.vector_env import BatchedVecEnv
from cutlayer.errors import ConfigError

SEED = 5  # as in tiny.py
KILLED = [("ppo", "kernel"), ("sac-d", "kernel"), ("dqn", "kernel"), ("ppo", "simpy")]


@pytest.fixture(scope="module")
def cut_off(tiny, tmp_path_factory):
    """Folders of runs that were killed half way, one for each of `KILLED`."""
    assert tiny.CUT_OFF == KILLED
    folder = tmp_path_factory.mktemp("cut-off")
    done = subprocess.run([sys.executable, Path(__file__).with_name("tiny.py"), folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def curve(folder):
    """Steps and rewards of a run; the seconds between them differ."""
    lines = (folder / "validation.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "steps,learning_cpu_s,reward_mean"
    return [(steps, reward) for steps, _, reward in (line.split(",") for line in lines[1:])]


@pytest.mark.parametrize(("algorithm", "engine"), KILLED)
def test_a_killed_run_ends_in_the_state_of_one_that_was_not(algorithm, engine, cut_off, tiny, tiny_learners, tmp_path):
    camera, folder = tiny.short_camera(), cut_off / f"{algorithm}-{engine}"
    began = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    assert (began["finished"], began["sittings"]) == (False, 1)
    done_before = len(curve(folder))
    assert 0 < done_before < train.CHECKS

    whole = train.train(camera, algorithm, SEED, tmp_path / "whole", engine=engine)
    resumed = train.train(camera, algorithm, SEED, folder, engine=engine)
    assert (whole["sittings"], resumed["sittings"]) == (1, 2)
    assert whole["state_sha256"] == resumed["state_sha256"]
    assert curve(folder) == curve(tmp_path / "whole")
    assert whole["best"] == resumed["best"]
    kept = [tiny.LEARNERS[algorithm].load(one / "model.zip").state_dict() for one in (folder, tmp_path / "whole")]
    assert all(torch.equal(kept[0][name], kept[1][name]) for name in kept[1])
    assert not (folder / "checkpoint.pt").exists()


def test_what_is_restored_matters_in_every_part(tiny):
    """Each part of a state, left as a new model has it, makes the rest of the training another one."""

    def made():
        return tiny.LEARNERS["sac-d"].make(tiny.TINY["sac-d"], tiny.short_camera(), 1, "kernel")

    def stop_at(goal, trainee):
        trainee._goal = goal
        trainee.learn(lambda: None, train.Logger(None, []))

    first = made()
    stop_at(320, first)
    state, generators = first.state(), resumable.generators()
    state = resumable.tensors(resumable.arrays(state))  # as it was now: what goes on writes into its own
    stop_at(640, first)
    wanted = resumable.digest(first.state())

    def ended(skipped):
        again = made()
        fresh = again.state()
        resumable.restore_generators(generators)
        again.restore({**state, **({skipped: fresh[skipped]} if skipped else {})})
        stop_at(640, again)
        return resumable.digest(again.state())

    assert ended(None) == wanted
    for part in ("parameters", "counters", "world", "replay"):
        assert ended(part) != wanted, part


def test_a_batched_world_goes_on_from_its_state(small):
    first, second = (BatchedVecEnv(small, 3, seed=2, episodes=8) for _ in range(2))
    rng = np.random.default_rng(0)
    first.reset()
    for _ in range(70):
        first.step(rng.integers(len(small.plans), size=3))
    kept = first.state()
    plans = rng.integers(len(small.plans), size=(70, 3))
    seen = [first.step(one) for one in plans]
    second.restore(kept)
    for one, wanted in zip(plans, seen, strict=True):
        for got, expected in zip(second.step(one), wanted, strict=True):
            np.testing.assert_equal(got, expected)


def test_a_damaged_checkpoint_is_refused_in_one_line(tiny, tiny_learners, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    # `maskable-ppo` was not begun by tiny.py: a run of our own, cut off by its progress bar.
    with pytest.raises(KeyboardInterrupt):
        train.train(tiny.short_camera(), "maskable-ppo", 0, folder, report=interrupt)
    checkpoint = folder / "checkpoint.pt"
    for damage in (checkpoint.read_bytes()[:4_000], b"", b"no checkpoint"):
        checkpoint.write_bytes(damage)
        with pytest.raises(ConfigError, match=r"checkpoint.pt cannot be read .*; remove .* and train anew") as caught:
            train.train(tiny.short_camera(), "maskable-ppo", 0, folder)
        assert "\n" not in str(caught.value)


def interrupt(share):
    if share > 0.3:
        raise KeyboardInterrupt


def test_a_run_cut_off_before_its_first_checkpoint_begins_anew(tiny, tiny_learners, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train.train(tiny.short_camera(), "ppo", 0, tmp_path / "run", report=lambda _share: interrupt(1.0))
    assert not (tmp_path / "run/checkpoint.pt").exists()
    assert train.train(tiny.short_camera(), "ppo", 0, tmp_path / "run")["finished"]

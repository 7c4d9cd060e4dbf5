"""How the speeds of learning are reckoned; the speeds themselves are a machine's."""

from __future__ import annotations

import dataclasses
import json

import pytest

from cutlayer.agents import bench_training
from cutlayer.agents.train import Look

LOOKS = [Look(100, 1.0, 0.2), Look(200, 2.0, 0.94), Look(300, 3.0, 0.96), Look(400, 4.0, 0.90), Look(500, 5.0, 1.0)]


@pytest.mark.parametrize(
    ("zero", "seconds"),
    [
        (0.0, 3.0),  # 95 % of a gain of 1.0
        (-4.0, 2.0),  # 4.75 of a gain of 5.0 is reached at 0.75
        (0.9, 5.0),  # 0.995
        (1.0, None),  # nothing was gained
        (1.1, None),
    ],
)
def test_the_time_to_95_percent_is_that_of_the_gain_over_the_best_simple_rule(zero, seconds):
    assert bench_training.seconds_to(LOOKS, zero) == seconds


def test_the_speed_is_between_the_first_and_the_last_look():
    assert bench_training.speed([Look(100, 9.0, 0.0), Look(200, 9.5, 0.0), Look(500, 11.0, 0.0)]) == 200.0


def test_later_and_worse_looks_change_nothing():
    assert bench_training.seconds_to([*LOOKS, Look(600, 6.0, 0.1)], 0.0) == 3.0


@pytest.mark.parametrize("gains", [True, False])
def test_the_command_prints_the_keys_of_the_contract(run, tiny_learners, small, monkeypatch, gains):
    """All of it on a small world with tiny learners; a seed that gains nothing leaves the time unsaid."""
    monkeypatch.setattr(bench_training.scenarios, "make", lambda _name: dataclasses.replace(small, name="bursty-deadline"))
    monkeypatch.setattr(bench_training, "SEEDS", (0,))
    monkeypatch.setattr(bench_training, "PPO_STEPS", 640)
    monkeypatch.setattr(bench_training, "PPO", tiny_default)
    monkeypatch.setattr(bench_training, "_mean_reward", lambda *_: -9.0 if gains else 9.0)
    code, out, err = run("bench", "training", "--json")
    assert code == 0, err
    result = json.loads(out)
    assert result["ratio"] == pytest.approx(result["ppo_steps_per_cpu_s"] / result["ppo_sb3_default_steps_per_cpu_s"])
    assert result["sac_d_steps_per_cpu_s"] > 0
    if gains:
        assert 0 < result["sac_d_cpu_s_to_95"] == result["sac_d_cpu_s_to_95_by_seed"][0]
    else:
        assert result["sac_d_cpu_s_to_95"] is None
    assert result["sb3_default_engine"] == "kernel"


def tiny_default(*given, **named):
    """PPO with short rounds."""
    from stable_baselines3 import PPO

    return PPO(*given, **named, n_steps=16)

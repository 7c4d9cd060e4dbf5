"""Learners small enough for tests: every part of a training in a second or two."""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
from pathlib import Path

from torch import nn

from cutlayer.agents import learners, recipes, train
from cutlayer.agents.all_action import AllActionRecipe
from cutlayer.agents.validation import Trial
from cutlayer.envs import scenarios

PPO = recipes.Ppo(steps=1_280, lanes=4, episodes=16, rollout=16, batch=32, epochs=2)
TINY = {
    "ppo": PPO,
    "myopic-ppo": dataclasses.replace(PPO, gamma=0.0),
    "maskable-ppo": PPO,
    "dqn": recipes.Dqn(steps=640, lanes=4, episodes=16, batch=32, updates=1, warm_up=80, replay=400, target_interval=64),  # replay wraps
    "sac-d": recipes.SacD(steps=640, lanes=4, episodes=16, batch=32, warm_up=80),
    "all-action": AllActionRecipe(steps=640, lanes=4, updates=2, batch=32, replay=256, forced=0.3, last_forced=0.1, bank=16),
}
LEARNERS = {name: dataclasses.replace(learners.LEARNERS[name], recipe=lambda _scenario, own=own: own) for name, own in TINY.items()}
CUT_OFF = [("ppo", "kernel"), ("sac-d", "kernel"), ("dqn", "kernel"), ("ppo", "simpy")]


def short_camera():
    """Episodes end and begin several times within a tiny training."""
    return dataclasses.replace(scenarios.make("camera"), requests=30)


def die_half_way(share):
    """Progress that ends the process as `kill -9` does."""
    if share >= 0.5:
        os.kill(os.getpid(), signal.SIGKILL)


def main(folder):
    """Begin each of `CUT_OFF` in a process of its own, which is killed."""
    train.LEARNERS = LEARNERS
    # Compiled once for all; the parent must not learn, for torch forbids it in a fork of a process that has.
    Trial(short_camera(), range(2)).score(nn.Sequential(nn.Linear(learners.world(PPO, short_camera(), 0, "kernel").reset().shape[1], 1)))
    for algorithm, engine in CUT_OFF:
        child = os.fork()
        if child == 0:
            train.train(short_camera(), algorithm, 5, folder / f"{algorithm}-{engine}", engine=engine, report=die_half_way)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status), "it ended before it was killed"
        assert os.WTERMSIG(status) == signal.SIGKILL


if __name__ == "__main__":
    main(Path(sys.argv[1]))

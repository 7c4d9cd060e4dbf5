"""The command `cutlayer train`: learn a policy on a scenario, leave a run folder, go on where it was cut off."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutlayer.options import SCENARIO_HELP, command, natural, positive, progress_bar, show

if TYPE_CHECKING:
    import argparse


def train(options: argparse.Namespace) -> None:
    """`cutlayer train`."""
    from cutlayer.agents import inputs
    from cutlayer.agents import train as learn
    from cutlayer.envs import scenarios

    scenario = inputs.on_drives(scenarios.make(options.scenario), "train")
    folder = options.out or Path("runs") / f"{scenario.name}-{options.algo}-{options.seed}"
    if not learn.tensorboard_installed():
        print("note: no log for TensorBoard, which is not installed (pip install tensorboard)", file=sys.stderr)
    tell = progress_bar(f"train {options.algo}")
    result = learn.train(scenario, options.algo, options.seed, folder, engine=options.engine, steps=options.steps, report=tell)
    best = result["best"]
    text = (
        f"{folder}: {result['steps']} requests in {result['cpu_s']:.0f} CPU-s; kept the state at {best['steps']}, "
        f"mean reward {best['reward_mean']:.4f} on validation episodes\n"
        f"next: cutlayer evaluate --scenario {options.scenario} --policy {folder}"
    )
    show(options, {"run": str(folder), **result}, text)


def add(commands: Any) -> None:
    """Add the command to the parser's."""
    text = "learn a policy on a scenario; the same command again goes on with a run that was cut off"
    one = command(commands, "train", train, text, "cutlayer train --scenario camera --algo ppo -o runs/mine")
    one.add_argument("--scenario", default="camera", metavar="S", help=SCENARIO_HELP)
    one.add_argument("--algo", default="ppo", help="ppo, sac-d, all-action, maskable-ppo, dqn or myopic-ppo (ppo without it)")
    one.add_argument("--seed", type=natural, default=0)
    one.add_argument("--steps", type=positive, help="requests to learn from (the recipe's number without it)")
    one.add_argument("--engine", choices=["simpy", "kernel"], default="kernel")
    one.add_argument("-o", "--out", type=Path, metavar="DIR", help="run folder (runs/SCENARIO-ALGO-SEED without it)")

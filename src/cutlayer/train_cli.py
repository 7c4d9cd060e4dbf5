"""The command `cutlayer train`: learn a policy on a scenario, leave a run folder."""

from __future__ import annotations

import json
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
    tell = progress_bar(f"train {options.algo}")
    learn.train(scenario, options.algo, options.seed, folder, engine=options.engine, steps=options.steps, report=tell)
    result = json.loads((folder / learn.RUN).read_text(encoding="utf-8"))
    text = f"wrote {folder} in {result['wall_s']:.0f} s; next: cutlayer evaluate --scenario {options.scenario} --policy {folder}"
    show(options, {"run": str(folder), **result}, text)


def add(commands: Any) -> None:
    """Add the command to the parser's."""
    one = command(commands, "train", train, "learn a policy on a scenario", "cutlayer train --scenario camera --algo ppo -o runs/mine")
    one.add_argument("--scenario", default="camera", metavar="S", help=SCENARIO_HELP)
    one.add_argument("--algo", default="ppo", help="ppo or sac-d")
    one.add_argument("--seed", type=natural, default=0)
    one.add_argument("--steps", type=positive, help="requests to learn from (the recipe's number without it)")
    one.add_argument("--engine", choices=["simpy", "kernel"], default="kernel")
    one.add_argument("-o", "--out", type=Path, metavar="DIR")

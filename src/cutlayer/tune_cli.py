"""The command `cutlayer tune`: search for a learner's recipe, or a priced rule's numbers, on validation episodes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutlayer.errors import ConfigError
from cutlayer.options import SCENARIO_HELP, command, positive, show
from cutlayer.sweep_cli import rich_bar

if TYPE_CHECKING:
    import argparse

TRIALS = 20  # our choice: four for each number of the smallest space


def tune(options: argparse.Namespace) -> None:
    """`cutlayer tune`."""
    from cutlayer.agents import inputs, tune_job
    from cutlayer.agents.tune import RULES
    from cutlayer.envs import scenarios

    if options.trials is not None and options.decisions is not None:
        raise ConfigError("give --trials or --decisions, not both: decisions are trials times what one takes")
    scenario = inputs.on_drives(scenarios.make(options.scenario), "train")
    with rich_bar(f"tune {options.learner}") as report:
        found = tune_job.search(
            scenario, options.scenario, options.learner, options.out, steps=options.steps, trials=options.trials,
            decisions=options.decisions, jobs=options.jobs, report=report, otherwise=TRIALS,
        )  # fmt: skip
    best, first = found["best"], found["first_reward_mean"]
    beside = "" if first is None else f" (as it was: {first:.4f})"
    text = (
        f"{options.out}: {found['trials']} trials, {found['given_up']} given up, {found['decisions']:,} decisions at most\n"
        f"best is trial {best['trial']}: mean reward {best['reward_mean']:.4f} on validation episodes{beside}"
    )
    sweepable = options.learner not in RULES
    text += f"\nnext: cutlayer sweep {options.out}/best.toml -o {options.out}/judged" if sweepable else ""
    show(options, {"out": str(options.out), **found}, text)


def add(commands: Any) -> None:
    """Add the command to the parser's."""
    text = "search for a recipe on validation episodes with Optuna; the same command again goes on with a search that was cut off"
    one = command(commands, "tune", tune, text, "cutlayer tune --scenario urllc-ge --learner sac-d --trials 20 -o runs/tuned")
    one.add_argument("--scenario", default="camera", metavar="S", help=SCENARIO_HELP)
    one.add_argument(
        "--learner", required=True, metavar="L", help="ppo, sac-d, all-action, maskable-ppo, dqn, myopic-ppo, belief-greedy, bayes-greedy"
    )
    one.add_argument(
        "--trials", type=positive, metavar="N", help=f"in all, those of a search before this one included ({TRIALS} without it)"
    )
    one.add_argument(
        "--decisions", type=positive, metavar="N", help="the same as a budget: learners and rules are alike that may take as many"
    )
    one.add_argument("--steps", type=positive, metavar="N", help="decisions that a learner's trial learns from (the recipe's without it)")
    one.add_argument("--jobs", type=positive, default=1, metavar="N", help="processes that work on the search at once")
    one.add_argument("-o", "--out", type=Path, required=True, metavar="DIR")

"""The command `cutlayer evaluate`: judge a policy on held-out episodes of a scenario."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutlayer.options import SCENARIO_HELP, command, natural, positive, show

if TYPE_CHECKING:
    import argparse


def evaluate_policy(options: argparse.Namespace) -> None:
    """`cutlayer evaluate`."""
    from cutlayer.agents import evaluate, inputs, policies, runs
    from cutlayer.agents.episodes import HELD_OUT
    from cutlayer.envs import scenarios
    from cutlayer.envs.channels import replay

    given = scenarios.make(options.scenario)
    scenario, tuning = inputs.on_drives(given, "test"), inputs.on_drives(given, "train")
    if options.trace:
        names = ", ".join(path.stem for path in options.trace)
        scenario = dataclasses.replace(scenario, channel=replay(options.trace), inputs=f"traces: {names}")
    first = HELD_OUT + options.seed * options.episodes
    episodes = range(first, first + options.episodes)
    if options.policy == "clairvoyant":
        outcome = evaluate.evaluate_clairvoyant(scenario, episodes)
    else:
        outcome = evaluate.evaluate(scenario, policies.make(tuning, options.policy, options.seed), episodes, options.engine)
    result = {**outcome.summary(), "run": runs.manifest(scenario, {"first_episode": first, "episodes": options.episodes})}
    low, high = result["miss_ci95"]
    text = (
        f"{options.policy} on {scenario.name}, {options.episodes} episodes of {scenario.requests} requests\n"
        f"reward {result['reward_mean']:.4f}  accuracy {result['accuracy']:.4f}  energy {result['energy_j']:.4f} J\n"
        f"missed {result['miss_rate']:.4%} [{low:.4%}, {high:.4%}]  latency p50 {1e3 * result['latency_p50_s']:.1f} ms  "
        f"p95 {1e3 * result['latency_p95_s']:.1f} ms  p99 {1e3 * result['latency_p99_s']:.1f} ms"
    )
    show(options, result, text)


def add(commands: Any) -> None:
    """Add the command to the parser's."""
    text, example = "judge a policy on held-out episodes", "cutlayer evaluate --scenario camera --policy greedy-ewma"
    one = command(commands, "evaluate", evaluate_policy, text, example)
    one.add_argument("--scenario", default="camera", metavar="S", help=SCENARIO_HELP)
    one.add_argument("--policy", required=True, metavar="P", help="bundle, run folder or baseline's name")
    one.add_argument("--episodes", type=positive, default=40, metavar="N")
    one.add_argument("--seed", type=natural, default=0, metavar="K")
    one.add_argument("--trace", type=Path, action="append", metavar="FILE", help="replay this uplink trace; may be repeated")
    one.add_argument("--engine", choices=["simpy", "kernel"], default="kernel")

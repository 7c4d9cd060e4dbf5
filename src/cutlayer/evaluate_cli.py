"""The command `cutlayer evaluate`: judge a policy on held-out episodes of a scenario."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutlayer.options import SCENARIO_HELP, command, natural, positive, progress_bar, show

if TYPE_CHECKING:
    import argparse


def evaluate_policy(options: argparse.Namespace) -> None:
    """`cutlayer evaluate`."""
    from cutlayer.agents import inputs, judge, runs
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
    judged = judge.judge if options.score else judge.alone
    report = progress_bar(f"evaluate {options.policy}")
    found = judged(scenario, tuning, options.policy, options.seed, episodes, options.engine, report)
    seeds = {"first_episode": first, "episodes": options.episodes, "policy": options.seed}
    result = {**found, "run": runs.manifest(scenario, seeds, policy=options.policy, engine=options.engine)}
    heading = f"{options.policy} on {scenario.name}, {options.episodes} episodes of {scenario.requests} requests"
    show(options, result, f"{heading}\n{_text(result)}")


def _text(result: dict[str, Any]) -> str:
    """The figures as lines for a terminal."""
    low, high = result["miss_ci95"]
    missed = result["miss_note"] if result["miss_rate"] is None else f"missed {result['miss_rate']:.4%} [{low:.4%}, {high:.4%}]"
    p50, p95, p99 = (1e3 * result[f"latency_{p}_s"] for p in ("p50", "p95", "p99"))
    lines = [
        f"reward {result['reward_mean']:.4f}  accuracy {result['accuracy']:.4f}  energy {result['energy_j']:.4f} J",
        missed,
        f"latency p50 {p50:.1f} ms  p95 {p95:.1f} ms  p99 {p99:.1f} ms",
    ]
    if "references" in result:
        lines.append(_score_line(result))
    return "\n".join(lines)


def _score_line(result: dict[str, Any]) -> str:
    references, headroom = result["references"], result["headroom"]
    rewards = references["reward_mean"]
    ends = f"0 is {references['simple']} ({rewards[references['simple']]:.4f}), 1 the clairvoyant ({rewards['clairvoyant']:.4f})"
    if result["score"] is None:
        return f"no score: {result['score_note']}"
    over = result["score_over"]
    units = f"{over['count']} {over['unit']}s" + (
        f" of {over['drives']} drives only" if over["unit"] == "episode" and over["drives"] else ""
    )
    gap = "" if headroom is None else f", headroom {headroom:.1%}"
    if result["score_ci95"] is None:
        return f"score {result['score']:.3f}, {result['score_note']}; {ends}{gap}"
    low, high = result["score_ci95"]
    return f"score {result['score']:.3f} [{low:.3f}, {high:.3f}] over {units}; {ends}{gap}"


def add(commands: Any) -> None:
    """Add the command to the parser's."""
    text, example = "judge a policy on held-out episodes", "cutlayer evaluate --scenario camera --policy greedy-ewma"
    one = command(commands, "evaluate", evaluate_policy, text, example)
    one.add_argument("--scenario", default="camera", metavar="S", help=SCENARIO_HELP)
    one.add_argument("--policy", required=True, metavar="P", help="bundle, run folder, baseline's name, or best-learned: what ships")
    one.add_argument("--episodes", type=positive, default=40, metavar="N")
    one.add_argument("--seed", type=natural, default=0, metavar="K", help="which episodes, and of rules that draw or are tuned")
    one.add_argument("--trace", type=Path, action="append", metavar="FILE", help="replay this uplink trace; may be repeated")
    one.add_argument("--engine", choices=["simpy", "kernel"], default="kernel")
    one.add_argument("--no-score", dest="score", action="store_false", help="leave out score and references, which take most of the time")

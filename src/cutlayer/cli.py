"""The command `cutlayer`: parses, calls, prints. Heavy libraries are imported by the command that needs them.

With `--json` a command prints one JSON object on stdout; everything else goes to stderr. What the user can mend ends in one
line and exit code 2.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cutlayer import __version__, channel_cli, profile_cli
from cutlayer.errors import ConfigError, CutlayerError
from cutlayer.options import Parser, command, natural, positive, progress_bar, show

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from cutlayer.agents.evaluate import Policy
    from cutlayer.envs.spec import Scenario


SCENARIO_HELP = "a name that `cutlayer scenarios` lists, or a .toml file"


def demo(options: argparse.Namespace) -> None:
    """`cutlayer demo`."""
    from cutlayer.agents import demo as job

    summary = job.demo(options.out, options.seed)
    text = f"{job.table(summary)}\n\nwritten: {options.out}/summary.json, policy_map.png, policy.cutlayer and the tables"
    show(options, summary, text)


def list_scenarios(options: argparse.Namespace) -> None:
    """`cutlayer scenarios`."""
    from cutlayer.envs import scenarios

    listed = []
    for name in scenarios.names():
        made = scenarios.make(name)
        listed.append(
            {
                "name": name,
                "claim": scenarios.claim(name),
                "plans": len(made.plans),
                "requests": made.requests,
                "deadline_s": made.objective.deadline_s,
                "inputs": made.inputs,
            }
        )
    show(options, {"scenarios": listed}, "\n".join(f"{one['name']:<17}{one['claim']}" for one in listed))


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


def policy(scenario: Scenario, name: str, seed: int) -> Policy:
    """A policy by a baseline's name, the path of a bundle, or a run folder; `scenario` is what rules are tuned on."""
    import numpy as np

    from cutlayer.agents import baselines, evaluate
    from cutlayer.runtime import bundle

    match name:
        case "device-only":
            return baselines.Fixed(scenario.plans.device_only())
        case "edge-only":
            try:
                return baselines.Fixed(scenario.plans.edge_only())
            except KeyError as error:
                reason = "none of its plans sends the input; take another policy, as best-static"
                raise ConfigError(f"edge-only cannot run on {scenario.name}: {reason}") from error
        case "random":
            return baselines.Random(len(scenario.plans), np.random.default_rng(seed))
        case "best-static":
            return baselines.best_static(scenario, evaluate.TUNING)
        case "greedy-ewma":
            return baselines.greedy_ewma(scenario)
    path = Path(name)
    if path.is_dir():
        from cutlayer.agents import export

        model, manifest = export.load_run(path)
        if manifest["plans_sha256"] != scenario.plans.digest():
            raise ConfigError(f"{path} was trained on another plan table than {scenario.name} has; train it anew")
        return evaluate.Learned(export.network(model))
    if path.exists():
        loaded = bundle.load(path)
        if loaded.plans.digest() != scenario.plans.digest():
            raise ConfigError(f"{path} was exported for another plan table than {scenario.name} has; export it anew")
        return evaluate.Learned(loaded.policy)
    known = "device-only, edge-only, random, best-static, greedy-ewma, clairvoyant"
    raise ConfigError(f"unknown policy {name!r}; give a bundle, a run folder or one of: {known}")


def evaluate_policy(options: argparse.Namespace) -> None:
    """`cutlayer evaluate`."""
    from cutlayer.agents import evaluate, inputs, runs
    from cutlayer.envs import scenarios
    from cutlayer.envs.channels import replay

    given = scenarios.make(options.scenario)
    scenario, tuning = inputs.on_drives(given, "test"), inputs.on_drives(given, "train")
    if options.trace:
        names = ", ".join(path.stem for path in options.trace)
        scenario = dataclasses.replace(scenario, channel=replay(options.trace), inputs=f"traces: {names}")
    first = evaluate.HELD_OUT + options.seed * options.episodes
    episodes = range(first, first + options.episodes)
    if options.policy == "clairvoyant":
        outcome = evaluate.evaluate_clairvoyant(scenario, episodes)
    else:
        outcome = evaluate.evaluate(scenario, policy(tuning, options.policy, options.seed), episodes, options.engine)
    result = {**outcome.summary(), "run": runs.manifest(scenario, {"first_episode": first, "episodes": options.episodes})}
    low, high = result["miss_ci95"]
    text = (
        f"{options.policy} on {scenario.name}, {options.episodes} episodes of {scenario.requests} requests\n"
        f"reward {result['reward_mean']:.4f}  accuracy {result['accuracy']:.4f}  energy {result['energy_j']:.4f} J\n"
        f"missed {result['miss_rate']:.4%} [{low:.4%}, {high:.4%}]  latency p50 {1e3 * result['latency_p50_s']:.1f} ms  "
        f"p95 {1e3 * result['latency_p95_s']:.1f} ms  p99 {1e3 * result['latency_p99_s']:.1f} ms"
    )
    show(options, result, text)


def export_run(options: argparse.Namespace) -> None:
    """`cutlayer export`."""
    from cutlayer.agents import export
    from cutlayer.envs import scenarios

    made = export.export(options.run, options.out, options.scenario and scenarios.make(options.scenario))
    size = options.out.stat().st_size
    text = f"wrote {options.out}, {size} bytes; next: cutlayerd --bundle {options.out}"
    show(options, {"bundle": str(options.out), "bytes": size, "scenario": made.scenario, "algorithm": made.algorithm}, text)


def bench_engines(options: argparse.Namespace) -> None:
    """`cutlayer bench engines`."""
    from cutlayer.agents import bench

    result = bench.engines(options.requests, options.scenario)
    text = "\n".join(
        f"{key:<30}{value:>16,.6g}" if isinstance(value, float) else f"{key:<30}{value!s:>16}" for key, value in result.items()
    )
    show(options, result, text)


def parser() -> Parser:
    """All commands and their options."""
    top = Parser(prog="cutlayer", description="Joint choice of exit, partition point and bit width for device-edge inference.")
    top.add_argument("--version", action="version", version=f"cutlayer {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)

    one = command(
        commands, "demo", demo, "run the main job end to end, on real inputs where they are at hand", "cutlayer demo --out runs/demo"
    )
    one.add_argument("--out", type=Path, default=Path("runs/demo"), metavar="DIR")
    one.add_argument("--seed", type=natural, default=0)

    profile_cli.add(commands)
    channel_cli.add(commands)

    command(commands, "scenarios", list_scenarios, "list the scenarios that ship and what each models", "cutlayer scenarios")

    one = command(commands, "train", train, "learn a policy on a scenario", "cutlayer train --scenario camera --algo ppo -o runs/mine")
    one.add_argument("--scenario", default="camera", metavar="S", help=SCENARIO_HELP)
    one.add_argument("--algo", default="ppo", help="ppo or sac-d")
    one.add_argument("--seed", type=natural, default=0)
    one.add_argument("--steps", type=positive, help="requests to learn from (the recipe's number without it)")
    one.add_argument("--engine", choices=["simpy", "kernel"], default="kernel")
    one.add_argument("-o", "--out", type=Path, metavar="DIR")

    one = command(
        commands,
        "evaluate",
        evaluate_policy,
        "judge a policy on held-out episodes",
        "cutlayer evaluate --scenario camera --policy greedy-ewma",
    )
    one.add_argument("--scenario", default="camera", metavar="S", help=SCENARIO_HELP)
    one.add_argument("--policy", required=True, metavar="P", help="bundle, run folder or baseline's name")
    one.add_argument("--episodes", type=positive, default=40, metavar="N")
    one.add_argument("--seed", type=natural, default=0, metavar="K")
    one.add_argument("--trace", type=Path, action="append", metavar="FILE", help="replay this uplink trace; may be repeated")
    one.add_argument("--engine", choices=["simpy", "kernel"], default="kernel")

    one = command(commands, "export", export_run, "write the bundle of a trained policy", "cutlayer export runs/mine -o policy.cutlayer")
    one.add_argument("run", type=Path, metavar="RUN")
    one.add_argument("--scenario", metavar="S", help="the scenario that it was trained on; needed where that was a file")
    one.add_argument("-o", "--out", type=Path, required=True, metavar="FILE")

    bench = commands.add_parser("bench", help="measure this machine")
    benches = bench.add_subparsers(dest="bench_command", required=True, metavar="COMMAND", parser_class=Parser)
    one = command(
        benches, "engines", bench_engines, "speed of both simulation engines, and how equal they are", "cutlayer bench engines --json"
    )
    one.add_argument("--requests", type=positive, default=20_000, help="requests that both engines run and compare")
    one.add_argument("--scenario", default="camera", metavar="S", help=SCENARIO_HELP)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Command `cutlayer`."""
    # The networks are small: a second thread on shared cores only waits. Read by BLAS and OpenMP when they are loaded.
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    options = parser().parse_args(arguments)
    try:
        options.function(options)
    except CutlayerError as error:
        print(f"cutlayer: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        print(f"cutlayer: {error.name} is not installed; install it with: pip install 'cutlayer[daemon,profile,train]'", file=sys.stderr)
        return 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        place = error.filename2 or error.filename
        print(f"cutlayer: {error.strerror}: {place}; check the path, its permissions and the space left", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("cutlayer: interrupted", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

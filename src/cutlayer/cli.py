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
from typing import TYPE_CHECKING, Any

from cutlayer import __version__
from cutlayer.errors import ConfigError, CutlayerError
from cutlayer.options import Parser, natural, positive

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    from cutlayer.agents.evaluate import Policy
    from cutlayer.envs.spec import Scenario
    from cutlayer.profiles.zoo import MultiExit


def bar(name: str) -> Callable[[float], None]:
    """A progress bar on a terminal, nothing in a pipe."""
    if not sys.stderr.isatty():
        return lambda _share: None
    shown = -1

    def tell(share: float) -> None:
        nonlocal shown
        percent = int(100 * share)
        if percent != shown:
            shown = percent
            end = "\n" if percent >= 100 else ""
            print(f"\r{name:<28} [{'#' * (percent // 5):<20}] {percent:3d} %", end=end, file=sys.stderr, flush=True)

    return tell


def show(options: argparse.Namespace, result: dict[str, Any], text: str) -> None:
    """One JSON object with `--json`, else the text."""
    print(json.dumps(result) if options.json else text)


def network(name: str) -> MultiExit:
    """The zoo's network of that name, on one thread."""
    import torch

    from cutlayer.profiles import zoo

    torch.set_num_threads(1)
    return zoo.build(name)


def demo(options: argparse.Namespace) -> None:
    """`cutlayer demo`."""
    from cutlayer.agents import demo as job

    summary = job.demo(options.out, options.seed)
    text = f"{job.table(summary)}\n\nwritten: {options.out}/summary.json, policy_map.png, policy.cutlayer and the tables"
    show(options, summary, text)


def profile_measure(options: argparse.Namespace) -> None:
    """`cutlayer profile measure`."""
    from cutlayer.profiles import load, measure

    table = measure.measure(network(options.model), runs=options.runs, device_name=options.device_name, progress=bar("measure"))
    if options.out:
        load.save(table, options.out)
    if measure.noisy(table):
        print("note: wall over CPU time is above 1.15: this machine was busy; measure again on a quiet one", file=sys.stderr)
    result = profile_summary(table)
    show(options, result, profile_text(result))


def profile_show(options: argparse.Namespace) -> None:
    """`cutlayer profile show`."""
    from cutlayer.profiles import load

    result = profile_summary(load.profile(options.table))
    show(options, result, profile_text(result))


def profile_summary(table: Any) -> dict[str, Any]:
    """A profile in short: layers and heads with their times, and where the table comes from."""
    import msgspec

    costs = [
        {
            "name": cost.name,
            "output_shape": list(cost.output_shape),
            "cpu_mean_s": cost.time.cpu.mean_s,
            "wall_p50_s": cost.time.wall.p50_s,
            "wall_p99_s": cost.time.wall.p99_s,
        }
        for cost in (*table.layers, *table.heads)
    ]
    ratio = table.whole.wall.p50_s / table.whole.cpu.p50_s
    return {
        "model": table.model,
        "weights_sha256": table.weights_sha256,
        "layers": costs,
        "whole_cpu_mean_s": table.whole.cpu.mean_s,
        "sum_cpu_mean_s": sum(cost["cpu_mean_s"] for cost in costs),
        "wall_over_cpu": ratio,
        "runs": table.whole.cpu.n,
        "provenance": msgspec.structs.asdict(table.provenance),
    }


def profile_text(result: dict[str, Any]) -> str:
    """The summary for a terminal."""
    lines = [f"{'layer':<8}{'output':>16}{'CPU mean ms':>13}{'wall p50 ms':>13}{'wall p99 ms':>13}"]
    for cost in result["layers"]:
        shape = "x".join(map(str, cost["output_shape"]))
        times = (cost["cpu_mean_s"], cost["wall_p50_s"], cost["wall_p99_s"])
        lines.append(f"{cost['name']:<8}{shape:>16}" + "".join(f"{1e3 * seconds:>13.3f}" for seconds in times))
    whole, parts = result["whole_cpu_mean_s"], result["sum_cpu_mean_s"]
    where = result["provenance"]
    lines.append(f"whole network {1e3 * whole:.3f} ms, sum of parts {100 * (parts / whole - 1):+.1f} %, {result['runs']} runs")
    lines.append(f"{where['kind']} on {where['machine']}: {where['cpu']}, {where['backend']} {where['backend_version']}, {where['date']}")
    if where["derived_from"]:
        lines.append(f"derived from {where['derived_from']}, {where['time_ratio']} times slower: {where['ratio_source']}")
    return "\n".join(lines)


def profile_accuracy(options: argparse.Namespace) -> None:
    """`cutlayer profile accuracy`."""
    from cutlayer.profiles import accuracy, images, load

    table = accuracy.measure(network(options.model), images.load(options.images, options.limit), bar("accuracy"))
    if options.out:
        load.save(table, options.out)
    result = accuracy.summary(table)
    lines = [f"{table.images} images of {table.source}"]
    lines += [f"exit {e['exit']}  {e['accuracy']:.4f}  [{e['low']:.4f}, {e['high']:.4f}]" for e in result["exits"]]
    lines.append("last exit by bits and partition point:")
    for bits, cells in result["bits"].items():
        lines.append(f"  {bits:>2} bits  " + "  ".join(f"p{p} {share:.4f}" for p, share in cells.items()))
    show(options, result, "\n".join(lines))


def profile_train(options: argparse.Namespace) -> None:
    """`cutlayer profile train`."""
    import torch

    from cutlayer.profiles import images
    from cutlayer.profiles.zoo import train

    torch.set_num_threads(options.threads)
    recipe = train.Recipe(seed=options.seed) if options.epochs is None else train.Recipe(seed=options.seed, epochs=options.epochs)
    held_out = images.load(options.held_out) if options.held_out else None
    checkpoint = options.out / f"{options.model}.pt"
    tell = bar(f"train {options.model}")

    def report(line: str, share: float) -> None:
        if sys.stderr.isatty():
            tell(share)
        elif "took" in line:
            print(line, file=sys.stderr, flush=True)

    exits = train.train(options.model, images.load(options.images), held_out, checkpoint, recipe, report)
    weights = train.save_weights(checkpoint, options.model, options.out)
    result = {"weights": str(weights), "recipe": dataclasses.asdict(recipe), "held_out": exits}
    shown = "  ".join(f"exit {i} {share:.4f}" for i, share in enumerate(exits)) or "no held-out images given"
    show(options, result, f"wrote {weights}\n{shown}")


def profile_graphs(options: argparse.Namespace) -> None:
    """`cutlayer profile graphs`."""
    from cutlayer.profiles import graphs

    graphs.export(network(options.model), options.out)
    text = f"wrote {options.out}; next: cutlayer-edge --graphs {options.out}"
    show(options, {"graphs": str(options.out), "files": len(list(options.out.glob("*.onnx")))}, text)


def train(options: argparse.Namespace) -> None:
    """`cutlayer train`."""
    from cutlayer.agents import train as learn
    from cutlayer.envs import scenarios

    scenario = scenarios.make(options.scenario)
    folder = options.out or Path("runs") / f"{options.scenario}-{options.algo}-{options.seed}"
    tell = bar(f"train {options.algo}")
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
            return baselines.Fixed(scenario.plans.edge_only())
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
    from cutlayer.agents import evaluate, runs
    from cutlayer.envs import scenarios
    from cutlayer.envs.channels import replay

    scenario = tuning = scenarios.make(options.scenario)
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

    made = export.export(options.run, options.out)
    size = options.out.stat().st_size
    text = f"wrote {options.out}, {size} bytes; next: cutlayerd --bundle {options.out}"
    show(options, {"bundle": str(options.out), "bytes": size, "scenario": made.scenario, "algorithm": made.algorithm}, text)


def bench_engines(options: argparse.Namespace) -> None:
    """`cutlayer bench engines`."""
    from cutlayer.agents import bench

    result = bench.engines(options.requests)
    text = "\n".join(
        f"{key:<30}{value:>16,.6g}" if isinstance(value, float) else f"{key:<30}{value!s:>16}" for key, value in result.items()
    )
    show(options, result, text)


def parser() -> Parser:
    """All commands and their options."""
    top = Parser(prog="cutlayer", description="Joint choice of exit, partition point and bit width for device-edge inference.")
    top.add_argument("--version", action="version", version=f"cutlayer {__version__}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)

    def command(where: Any, name: str, run: Callable[[argparse.Namespace], None], text: str, example: str) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = where.add_parser(name, help=text, description=text, epilog=f"example: {example}")
        made.add_argument("--json", action="store_true", help="print one JSON object on stdout")
        made.set_defaults(function=run)
        return made

    one = command(
        commands, "demo", demo, "run the main job end to end, on real inputs where they are at hand", "cutlayer demo --out runs/demo"
    )
    one.add_argument("--out", type=Path, default=Path("runs/demo"), metavar="DIR")
    one.add_argument("--seed", type=natural, default=0)

    profile = commands.add_parser("profile", help="measure a network, show a table, train the zoo")
    tables = profile.add_subparsers(dest="table_command", required=True, metavar="COMMAND", parser_class=Parser)
    one = command(
        tables, "measure", profile_measure, "time every layer of a network on this machine", "cutlayer profile measure alexnet -o mine.json"
    )
    one.add_argument("model", help="name of a zoo network")
    one.add_argument("-o", "--out", type=Path, metavar="FILE", help="write the table here")
    one.add_argument("--runs", type=positive, default=100)
    one.add_argument("--device-name", default="this-machine", metavar="NAME")
    one = command(tables, "show", profile_show, "print a table", "cutlayer profile show alexnet")
    one.add_argument("table", help="path of a JSON table, or a built-in name")
    one = command(
        tables, "accuracy", profile_accuracy, "measure the accuracy of every exit, partition and bit width",
        "cutlayer profile accuracy alexnet --images photos/",
    )  # fmt: skip
    one.add_argument("model", help="name of a zoo network")
    one.add_argument("--images", type=Path, required=True, metavar="PATH", help="folder of class folders, or .npz of JPEGs")
    one.add_argument("--limit", type=positive, metavar="N", help="use at most this many images")
    one.add_argument("-o", "--out", type=Path, metavar="FILE", help="write the table here")
    one = command(
        tables, "train", profile_train, "train a zoo network; goes on where an interrupted run stopped",
        "cutlayer profile train alexnet --images train.npz --held-out test.npz -o runs/alexnet",
    )  # fmt: skip
    one.add_argument("model", help="name of a zoo network")
    one.add_argument("--images", type=Path, required=True, metavar="PATH", help="folder of class folders, or .npz of JPEGs")
    one.add_argument("--held-out", type=Path, metavar="PATH", help="images to report accuracy on")
    one.add_argument("-o", "--out", type=Path, required=True, metavar="DIR", help="checkpoint and weights go here")
    one.add_argument("--epochs", type=positive)
    one.add_argument("--seed", type=natural, default=1)
    one.add_argument("--threads", type=positive, default=1, help="more than one only on cores of your own")

    one = command(
        tables, "graphs", profile_graphs, "write the graphs that device and edge run, two for every cut",
        "cutlayer profile graphs alexnet -o graphs",
    )  # fmt: skip
    one.add_argument("model", help="name of a zoo network")
    one.add_argument("-o", "--out", type=Path, required=True, metavar="DIR")

    one = command(commands, "train", train, "learn a policy on a scenario", "cutlayer train --scenario camera --algo ppo -o runs/mine")
    one.add_argument("--scenario", default="camera")
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
    one.add_argument("--scenario", default="camera")
    one.add_argument("--policy", required=True, metavar="P", help="bundle, run folder or baseline's name")
    one.add_argument("--episodes", type=positive, default=40, metavar="N")
    one.add_argument("--seed", type=natural, default=0, metavar="K")
    one.add_argument("--trace", type=Path, action="append", metavar="FILE", help="replay this uplink trace; may be repeated")
    one.add_argument("--engine", choices=["simpy", "kernel"], default="kernel")

    one = command(commands, "export", export_run, "write the bundle of a trained policy", "cutlayer export runs/mine -o policy.cutlayer")
    one.add_argument("run", type=Path, metavar="RUN")
    one.add_argument("-o", "--out", type=Path, required=True, metavar="FILE")

    bench = commands.add_parser("bench", help="measure this machine")
    benches = bench.add_subparsers(dest="bench_command", required=True, metavar="COMMAND", parser_class=Parser)
    one = command(
        benches, "engines", bench_engines, "speed of both simulation engines, and how equal they are", "cutlayer bench engines --json"
    )
    one.add_argument("--requests", type=positive, default=20_000, help="requests that both engines run and compare")
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

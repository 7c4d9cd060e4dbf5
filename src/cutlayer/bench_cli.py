"""The commands `cutlayer bench ...`: measure this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cutlayer.errors import CutlayerError
from cutlayer.options import SCENARIO_HELP, Parser, command, natural, positive, progress_bar, show

if TYPE_CHECKING:
    import argparse


def _lines(result: dict[str, Any]) -> str:
    return "\n".join(
        f"{key:<30}{value:>16,.6g}" if isinstance(value, float) else f"{key:<30}{value!s:>16}" for key, value in result.items()
    )


def bench_engines(options: argparse.Namespace) -> None:
    """`cutlayer bench engines`."""
    from cutlayer.agents import bench

    result = bench.engines(options.requests, options.scenario)
    show(options, result, _lines(result))


def bench_training(options: argparse.Namespace) -> None:
    """`cutlayer bench training`."""
    from cutlayer.agents import bench_training as measure

    result = measure.training_speed(progress_bar("bench training"))
    show(options, result, _lines({key: value for key, value in result.items() if not isinstance(value, (dict, list))}))


def bench_decision(options: argparse.Namespace) -> None:
    """`cutlayer bench decision`."""
    from cutlayer.agents import bench_decision as measure

    result = measure.run()
    show(options, result, _lines({key: value for key, value in result.items() if key != "run"}))


def bench_daemon(options: argparse.Namespace) -> None:
    """`cutlayer bench daemon`."""
    from cutlayer.agents import bench_daemon as measure

    result = measure.run()
    show(options, result, _lines({key: value for key, value in result.items() if key != "run"}))


def bench_soak(options: argparse.Namespace) -> None:
    """`cutlayer bench soak`.

    Raises:
        CutlayerError: something did not hold; the figures are shown first.
    """
    from cutlayer.agents import soak

    result = soak.run(options.decisions, options.reloads, options.edge_losses, options.seed, progress_bar("bench soak"))
    show(options, result, _lines({key: value for key, value in result.items() if not isinstance(value, (dict, list))}))
    if result["failures"]:
        raise CutlayerError(f"the soak failed: {'; '.join(result['failures'])}")


def bench_split(options: argparse.Namespace) -> None:
    """`cutlayer bench split`."""
    from cutlayer.agents import bench_split as measure

    result = measure.run(options.rounds, progress_bar("bench split"))
    show(options, result, measure.table(result))


def bench_sweep(options: argparse.Namespace) -> None:
    """`cutlayer bench sweep`."""
    from cutlayer.agents import bench_sweep as measure

    result = measure.run(options.runs, progress_bar("bench sweep"))
    show(options, result, _lines({key: value for key, value in result.items() if key != "run"}))


def add(commands: Any) -> None:
    """Add the commands to the parser's."""
    bench = commands.add_parser("bench", help="measure this machine")
    benches = bench.add_subparsers(dest="bench_command", required=True, metavar="COMMAND", parser_class=Parser)
    text, example = "speed of both simulation engines, and how equal they are", "cutlayer bench engines --json"
    one = command(benches, "engines", bench_engines, text, example)
    one.add_argument("--requests", type=positive, default=20_000, help="requests that both engines run and compare")
    one.add_argument("--scenario", default="camera", metavar="S", help=SCENARIO_HELP)

    text = "steps per CPU-second of PPO and SAC-d as they are trained here, and of PPO by its defaults"
    command(benches, "training", bench_training, text, "cutlayer bench training --json")

    text = "time of a decision by every form of a policy, and what the daemon weighs"
    command(benches, "decision", bench_decision, text, "cutlayer bench decision --json")

    text = "round trip of a decision through the daemon, and how many several clients get"
    command(benches, "daemon", bench_daemon, text, "cutlayer bench daemon --json")

    text = "run the daemon through millions of decisions, reloads, lost edges and malformed lines, and compare every reply"
    one = command(benches, "soak", bench_soak, text, "cutlayer bench soak --json")
    one.add_argument("--decisions", type=positive, default=2_000_000)
    one.add_argument("--reloads", type=natural, default=200)
    one.add_argument("--edge-losses", type=natural, default=50)
    one.add_argument("--seed", type=natural, default=0)

    text = "what a message costs between device and edge, beside ZeroMQ and gRPC"
    one = command(benches, "split", bench_split, text, "cutlayer bench split --json")
    one.add_argument("--rounds", type=positive, default=40, metavar="N", help="of 25 messages of each size over each transport")

    text = "evaluation runs of a sweep on one process and on two: how many a second, and what the second one brings"
    one = command(benches, "sweep", bench_sweep, text, "cutlayer bench sweep --json")
    one.add_argument("--runs", type=positive, default=100, metavar="N", help="of 10,000 decisions each; half a minute on a quiet machine")

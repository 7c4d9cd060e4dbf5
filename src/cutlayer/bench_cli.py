"""The commands `cutlayer bench ...`: measure this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cutlayer.options import SCENARIO_HELP, Parser, command, positive, progress_bar, show

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

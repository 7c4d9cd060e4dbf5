"""The commands `cutlayer bench ...`: measure this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cutlayer.options import SCENARIO_HELP, Parser, command, positive, show

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


def add(commands: Any) -> None:
    """Add the commands to the parser's."""
    bench = commands.add_parser("bench", help="measure this machine")
    benches = bench.add_subparsers(dest="bench_command", required=True, metavar="COMMAND", parser_class=Parser)
    text, example = "speed of both simulation engines, and how equal they are", "cutlayer bench engines --json"
    one = command(benches, "engines", bench_engines, text, example)
    one.add_argument("--requests", type=positive, default=20_000, help="requests that both engines run and compare")
    one.add_argument("--scenario", default="camera", metavar="S", help=SCENARIO_HELP)

"""The command `cutlayer`: parses, calls, prints. Heavy libraries are imported by the command that needs them.

With `--json` a command prints one JSON object on stdout; everything else goes to stderr. What the user can mend ends in one
line and exit code 2.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cutlayer import (
    __version__,
    bench_cli,
    benchmark_cli,
    channel_cli,
    evaluate_cli,
    export_cli,
    profile_cli,
    replay_cli,
    report_cli,
    sweep_cli,
    testbed_cli,
    train_cli,
    tune_cli,
)
from cutlayer.errors import CutlayerError
from cutlayer.options import Parser, command, natural, show

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence


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

    for part in (train_cli, tune_cli, evaluate_cli, sweep_cli, benchmark_cli, export_cli, report_cli, replay_cli, testbed_cli, bench_cli):
        part.add(commands)
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

"""The command `cutlayer benchmark`: make what is missing of the benchmark's runs, then draw its page."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutlayer.options import command, positive, show
from cutlayer.sweep_cli import rich_bar

if TYPE_CHECKING:
    import argparse


def benchmark(options: argparse.Namespace) -> None:
    """`cutlayer benchmark`."""
    from cutlayer.agents import benchmark as job
    from cutlayer.agents import benchmark_page, standings, worlds
    from cutlayer.errors import ConfigError
    from cutlayer.files import write_atomic

    size = job.Size(options.episodes, options.steps)
    runs = []
    names = options.scenario or worlds.WORLDS
    with rich_bar("benchmark") as report:
        for done, name in enumerate(names):
            report(done / len(names))
            try:
                world = worlds.make(name)
            except ConfigError as error:
                if options.scenario:
                    raise
                _tell(f"left out: {error}")  # drives that are not at hand
                continue
            chosen = options.policy or job.default_policies(world)
            runs += job.run(world, chosen, range(options.seeds), options.out, size, _tell)
        report(1.0)
    page = options.page or options.out / "benchmark.md"
    write_atomic(page, benchmark_page.page(options.out).encode())
    if options.pack:
        standings.pack(options.out, options.pack)
    show(options, {"page": str(page), "runs": [str(path) for path in runs]}, f"wrote {page} from {len(runs)} runs")


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def add(commands: Any) -> None:
    """Add the command to the parser's."""
    text = "run every policy on every world and draw the page; the same command again goes on where it was cut off"
    one = command(commands, "benchmark", benchmark, text, "cutlayer benchmark --scenario urllc-ge --seeds 3 -o runs/benchmark")
    one.add_argument(
        "--scenario", action="append", metavar="S", help="a world; may be repeated (all without it); NAME+slow-device is one too"
    )
    one.add_argument("--policy", action="append", metavar="P", help="a baseline, an oracle, an algorithm, best-learned; may be repeated")
    one.add_argument("--seeds", type=positive, default=5, metavar="N", help="of learners and of rules that are tuned with one")
    one.add_argument("--episodes", type=positive, default=200, metavar="N", help="held-out episodes for each run")
    one.add_argument("--steps", type=positive, metavar="N", help="requests that learners learn from (their recipes' numbers without it)")
    one.add_argument("-o", "--out", type=Path, default=Path("runs/benchmark"), metavar="DIR")
    one.add_argument("--page", type=Path, metavar="FILE", help="where the page goes (DIR/benchmark.md without it)")
    one.add_argument("--pack", type=Path, metavar="DIR", help="write the runs here too, a file for each world")

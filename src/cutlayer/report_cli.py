"""The command `cutlayer report`: a page, figures and tables about runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutlayer.options import command, positive, progress_bar, show

if TYPE_CHECKING:
    import argparse


def report(options: argparse.Namespace) -> None:
    """`cutlayer report`."""
    from cutlayer.agents.report import page
    from cutlayer.agents.report.maps import Grid
    from cutlayer.envs import scenarios

    order = page.Order(
        tuple(options.folders),
        options.out,
        options.figures,
        tuple(scenarios.make(name) for name in options.scenario or ()),
        tuple(options.world or ()),
        tuple(options.trace or ()),
        options.episodes,
        Grid() if options.maps else None,
    )
    result = page.report(order, progress_bar("report"))
    lines = [f"{one['world']}: {one['headline']}" for one in result["worlds"]]
    lines += [f"{one['testbed']}: {one['headline']}" for one in result["testbeds"]]
    lines += [f"not in this report: {line}" for kind in ("worlds", "testbeds") for one in result[kind] for line in one["absent"]]
    show(options, result, "\n".join([*lines, f"wrote {result['report']}"]))


def add(commands: Any) -> None:
    """Add the command to the parser's."""
    text = "one page about runs: what won and by how much, learning, latencies, knobs and the policy map; measured beside simulated"
    one = command(commands, "report", report, text, "cutlayer report runs/mine -o report.html --figures figures")
    one.add_argument(
        "folders",
        nargs="+",
        type=Path,
        metavar="RUNS",
        help="what cutlayer train, benchmark, sweep or testbed run wrote; several are put together",
    )
    one.add_argument("-o", "--out", type=Path, default=Path("report.html"), metavar="FILE", help="the page (report.html without it)")
    one.add_argument("--figures", type=Path, metavar="DIR", help="figures as SVG and PDF, tables as LaTeX and CSV, for a paper")
    one.add_argument("--scenario", action="append", metavar="FILE", help="the .toml file of a scenario that the runs name; may be repeated")
    one.add_argument("--world", action="append", metavar="W", help="report these worlds only; may be repeated")
    one.add_argument("--trace", type=Path, action="append", metavar="FILE", help="judge trainings on this uplink trace; may be repeated")
    one.add_argument("--episodes", type=positive, default=40, metavar="N", help="held-out episodes for trainings that were not judged yet")
    one.add_argument("--no-maps", dest="maps", action="store_false", help="leave out the policy map, which takes most of the time")

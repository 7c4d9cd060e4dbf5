"""The command `cutlayer export`: write what a device needs of a trained policy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutlayer.options import command, show

if TYPE_CHECKING:
    import argparse


def export_run(options: argparse.Namespace) -> None:
    """`cutlayer export`."""
    from cutlayer.agents import export
    from cutlayer.envs import scenarios

    made = export.export(options.run, options.out, options.scenario and scenarios.make(options.scenario))
    size = options.out.stat().st_size
    text = f"wrote {options.out}, {size} bytes; next: cutlayerd --bundle {options.out}"
    show(options, {"bundle": str(options.out), "bytes": size, "scenario": made.scenario, "algorithm": made.algorithm}, text)


def add(commands: Any) -> None:
    """Add the command to the parser's."""
    one = command(commands, "export", export_run, "write the bundle of a trained policy", "cutlayer export runs/mine -o policy.cutlayer")
    one.add_argument("run", type=Path, metavar="RUN")
    one.add_argument("--scenario", metavar="S", help="the scenario that it was trained on; needed where that was a file")
    one.add_argument("-o", "--out", type=Path, required=True, metavar="FILE")

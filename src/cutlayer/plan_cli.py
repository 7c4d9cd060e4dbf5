"""The commands that make a plan table of measured tables: `cutlayer profile derive` and `cutlayer profile plans`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutlayer.options import command, show

if TYPE_CHECKING:
    import argparse

    from cutlayer.profiles.plans import PlanTable


def profile_derive(options: argparse.Namespace) -> None:
    """`cutlayer profile derive`."""
    from cutlayer.profiles import derived, load

    table = derived.by_name(options.device, load.profile(options.table))
    load.save(table, options.out)
    where = table.provenance
    result = {
        "out": str(options.out), "machine": where.machine, "derived_from": where.derived_from,
        "time_ratio": where.time_ratio, "ratio_source": where.ratio_source,
    }  # fmt: skip
    show(options, result, f"wrote {options.out}: {where.machine}, {where.time_ratio} times {where.derived_from}; {where.ratio_source}")


def profile_plans(options: argparse.Namespace) -> None:
    """`cutlayer profile plans`."""
    from cutlayer.files import write_atomic

    table = _table(options)
    write_atomic(options.out, table.encode())
    result = {
        "out": str(options.out), "model": table.model, "device": table.device, "edge": table.edge,
        "plans": len(table), "sha256": table.digest(),
    }  # fmt: skip
    text = f"wrote {options.out}: {len(table)} plans of {table.model} on {table.device} with {table.edge} as edge"
    show(options, result, f"{text}\nnext: cutlayer profile check {options.out}")


def _table(options: argparse.Namespace) -> PlanTable:
    from cutlayer.profiles import builtin, load
    from cutlayer.profiles.plans import PlanTable

    device = load.profile(options.device)
    jpeg = builtin.jpeg_table(options.jpeg).on(device) if options.jpeg else None
    table = PlanTable.build(
        device, load.profile(options.edge), load.accuracy(options.accuracy), tuple(options.codecs.split(",")),
        allow_raw=not options.private, jpeg=jpeg,
    )  # fmt: skip
    return table.pruned() if options.pruned else table


def add(tables: Any) -> None:
    """Add them to the commands of `cutlayer profile`."""
    from cutlayer.profiles.derived import DEVICES

    one = command(
        tables, "derive", profile_derive, "a slower device's table from a measured one, by a cited ratio",
        "cutlayer profile derive alexnet --device raspberry-pi-4 -o pi.json",
    )  # fmt: skip
    one.add_argument("table", help="path of a measured table, or a built-in name")
    one.add_argument("--device", choices=DEVICES, required=True)
    one.add_argument("-o", "--out", type=Path, required=True, metavar="FILE")
    one = command(
        tables, "plans", profile_plans, "make a plan table of a device's, an edge server's and an accuracy table",
        "cutlayer profile plans device.json edge.json accuracy.json -o plans.json",
    )  # fmt: skip
    one.add_argument("device", help="path of the device's table, or a built-in name")
    one.add_argument("edge", help="the same of the edge server")
    one.add_argument("accuracy", help="the same of the accuracy")
    one.add_argument("-o", "--out", type=Path, required=True, metavar="FILE")
    one.add_argument("--codecs", default="affine", metavar="LIST", help="which to offer, such as affine,zstd,bottle6 (default affine)")
    one.add_argument("--jpeg", type=Path, metavar="FILE", help="also offer the input as JPEG, from a table of `profile jpeg`")
    one.add_argument("--private", action="store_true", help="leave out every plan that sends the input")
    one.add_argument("--pruned", action="store_true", help="leave out plans that another is at least as good as in everything")

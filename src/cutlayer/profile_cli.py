"""The commands `cutlayer profile ...`: measure, show, check and import tables, train the zoo's networks."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutlayer.options import Parser, command, natural, positive, progress_bar, show

if TYPE_CHECKING:
    import argparse

    from cutlayer.profiles.zoo import MultiExit


def network(spec: str) -> MultiExit:
    """The zoo's network of that name, or `module:function` of the user's own, on one thread."""
    import torch

    from cutlayer.profiles import cuts

    torch.set_num_threads(1)
    return cuts.resolve(spec)


def profile_measure(options: argparse.Namespace) -> None:
    """`cutlayer profile measure`."""
    from cutlayer.profiles import load, measure, measure_onnx

    chain = network(options.model)
    kept: dict[str, Any] = {"runs": options.runs, "device_name": options.device_name, "progress": progress_bar("measure")}
    if options.backend == "torch":
        table = measure.measure(chain, ground_truth=options.segments, **kept)
    else:
        table = measure_onnx.measure(chain, **kept)
    if options.quiet_only:
        measure.refuse_noisy(table)
    if options.out:
        load.save(table, options.out)
    if measure.noisy(table):
        print("note: wall over CPU time is above 1.15: this machine was busy; measure again on a quiet one", file=sys.stderr)
    result = profile_summary(table)
    show(options, result, profile_text(result))


def profile_show(options: argparse.Namespace) -> None:
    """`cutlayer profile show`."""
    from cutlayer.profiles import foreign, load

    if foreign.recognised(Path(options.table)):
        table = foreign.summary(foreign.load(Path(options.table)))
        show(options, table, json.dumps(table, indent=1))
        return
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

    table = accuracy.measure(network(options.model), images.load(options.images, options.limit), progress_bar("accuracy"))
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
    tell = progress_bar(f"train {options.model}")

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


def profile_check(options: argparse.Namespace) -> None:
    """`cutlayer profile check`."""
    from cutlayer.profiles import check

    result = check.check(options.table)
    if options.figure:
        from cutlayer.agents import figures
        from cutlayer.profiles import knobs

        name, plans = check.load(options.table)
        figures.knob_figure(knobs.report(plans, name=name), options.figure)
    show(options, result, check.text(result))


def profile_jpeg(options: argparse.Namespace) -> None:
    """`cutlayer profile jpeg`."""
    from cutlayer.profiles import accuracy, builtin, images

    found = images.load(options.images, options.limit)
    table = accuracy.measure_jpeg(network(options.model), found, options.device_name, progress=progress_bar("jpeg"))
    builtin.save_jpeg(table, options.out)
    sizes = table.sizes
    text = f"wrote {options.out}: {sizes.n} images of {found.source}, mean {sizes.mean_bytes:.0f} bytes, p95 {sizes.p95_bytes:.0f}"
    show(options, {"table": str(options.out), "images": sizes.n, "mean_bytes": sizes.mean_bytes, "p95_bytes": sizes.p95_bytes}, text)


def profile_import(options: argparse.Namespace) -> None:
    """`cutlayer profile import`."""
    from cutlayer.profiles import foreign, importers

    stated = {name: getattr(options, name) for name in importers.OPTIONS if getattr(options, name) is not None}
    table = importers.read(options.kind, options.path, **stated)
    foreign.save(table, options.out)
    models = sum(len(machine.models) for machine in table.machines)
    text = f"wrote {options.out}: {models} networks on {len(table.machines)} machines; see: cutlayer profile show {options.out}"
    show(options, foreign.summary(table), text)


def add(commands: Any) -> None:
    """Add them to the parser."""
    from cutlayer.profiles.importers import OPTIONS

    profile = commands.add_parser("profile", help="measure a network; show, check and import tables; train the zoo")
    tables = profile.add_subparsers(dest="table_command", required=True, metavar="COMMAND", parser_class=Parser)
    one = command(
        tables, "measure", profile_measure, "time every layer of a network on this machine", "cutlayer profile measure alexnet -o mine.json"
    )
    one.add_argument("model", help="name of a zoo network, or module:function of your own")
    one.add_argument("-o", "--out", type=Path, metavar="FILE", help="write the table here")
    one.add_argument("--runs", type=positive, default=100)
    one.add_argument("--device-name", default="this-machine", metavar="NAME")
    one.add_argument("--backend", choices=["torch", "onnxruntime"], default="torch")
    one.add_argument("--quiet-only", action="store_true", help="refuse a table measured on a busy machine")
    one.add_argument("--segments", action="store_true", help="torch: also every prefix and suffix in one piece, with cold starts")
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

    one = command(
        tables, "check", profile_check, "report which knob values are ever optimal", "cutlayer profile check jpeg --figure knobs.png"
    )
    one.add_argument("table", nargs="?", help="built-in plan table (default, jpeg, privacy), or path of a JSON plan table")
    one.add_argument("--figure", type=Path, metavar="FILE", help="also draw it, as PNG")
    one = command(
        tables, "jpeg", profile_jpeg, "measure the network's input as JPEG: bytes, times, accuracy",
        "cutlayer profile jpeg alexnet --images photos/ -o jpeg.json",
    )  # fmt: skip
    one.add_argument("model", help="name of a zoo network")
    one.add_argument("--images", type=Path, required=True, metavar="PATH", help="folder of class folders, or .npz of JPEGs")
    one.add_argument("--limit", type=positive, metavar="N", help="use at most this many images")
    one.add_argument("--device-name", default="this-machine", metavar="NAME")
    one.add_argument("-o", "--out", type=Path, required=True, metavar="FILE")
    one = command(
        tables, "import", profile_import, "read a published table, with its source and licence",
        "cutlayer profile import ncnn ncnn_model_latency.csv --machine 'Raspberry Pi 4' --threads 1 -o pi4.json",
    )  # fmt: skip
    one.add_argument("kind", help="scission, mahppo, ncnn or csv")
    one.add_argument("path", type=Path)
    one.add_argument("-o", "--out", type=Path, required=True, metavar="FILE")
    for name, text in OPTIONS.items():
        one.add_argument(f"--{name.replace('_', '-')}", type=positive if name == "threads" else str, help=text)

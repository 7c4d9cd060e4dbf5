"""The commands `cutlayer profile ...`: accuracy, traces, check and import of tables, graphs, training; others are in `measure_cli`."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutlayer import measure_cli
from cutlayer.measure_cli import add_model, network
from cutlayer.options import Parser, command, natural, positive, progress_bar, show

if TYPE_CHECKING:
    import argparse


def profile_accuracy(options: argparse.Namespace) -> None:
    """`cutlayer profile accuracy`."""
    from cutlayer.profiles import accuracy, codecs, images, load

    found, chain = images.load(options.images, options.limit), network(options)
    sending = codecs.serving(chain, options.codecs.split(",") if options.codecs else ())
    table = accuracy.measure(chain, found, sending, progress_bar("accuracy"))
    if options.out:
        load.save(table, options.out)
    show(options, accuracy.summary(table), accuracy.text(table))


def profile_traces(options: argparse.Namespace) -> None:
    """`cutlayer profile traces`."""
    from cutlayer.profiles import accuracy, images, traces

    found, chain = images.load(options.images, options.limit), network(options)
    recorded = accuracy.record(chain, found, progress_bar("traces"))
    traces.save(recorded, options.out)
    result = traces.summary(recorded)
    show(options, {"out": str(options.out), **result}, f"wrote {options.out}\n{traces.text(recorded)}")


def profile_train(options: argparse.Namespace) -> None:
    """`cutlayer profile train`."""
    import torch

    from cutlayer.profiles import images
    from cutlayer.profiles.zoo import train

    torch.set_num_threads(options.threads)
    recipe = dataclasses.replace(train.recipe_for(options.model), seed=options.seed)
    if options.epochs is not None:
        recipe = dataclasses.replace(recipe, epochs=options.epochs)
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


def profile_bottlenecks(options: argparse.Namespace) -> None:
    """`cutlayer profile bottlenecks`."""
    import torch

    from cutlayer.profiles import images
    from cutlayer.profiles.zoo import bottleneck_training as training

    chain = network(options)
    torch.set_num_threads(options.threads)
    recipe = dataclasses.replace(training.Recipe(), seed=options.seed)
    if options.limit is not None:
        recipe = dataclasses.replace(recipe, images=options.limit)
    cuts, names = training.asked(chain, options.cuts, options.units)
    held_out = images.load(options.held_out) if options.held_out else None
    tell = progress_bar("bottlenecks")

    def report(line: str, share: float) -> None:
        if sys.stderr.isatty():
            tell(share)
        elif line.endswith("done"):
            print(line, file=sys.stderr, flush=True)

    made = training.train(chain, images.load(options.images, recipe.images), options.out, cuts, names, recipe, report)
    rows = training.accuracy(chain, made, held_out, progress_bar("held out")) if held_out else []
    lines = [f"wrote {len(made)} bottlenecks, {sum(unit.file.stat().st_size for unit in made)} bytes, under {options.out}"]
    for row in rows:
        shares = "  ".join(f"exit {e['exit']} {e['accuracy']:.4f} ({e['without']:.4f})" for e in row["exits"])
        lines.append(f"cut {row['cut']}  {row['unit']:<9}{row['payload_bytes']:>6} bytes  {shares}")
    files = [{"unit": unit.name, "cut": unit.cut, "file": str(unit.file), "sha256": unit.sha256} for unit in made]
    show(options, {"units": files, "recipe": dataclasses.asdict(recipe), "held_out": rows}, "\n".join(lines))


def profile_graphs(options: argparse.Namespace) -> None:
    """`cutlayer profile graphs`."""
    from cutlayer.profiles import graphs

    graphs.export(network(options), options.out)
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
    table = accuracy.measure_jpeg(network(options), found, options.device_name, progress=progress_bar("jpeg"))
    builtin.save_jpeg(table, options.out)
    sizes = table.sizes
    text = f"wrote {options.out}: {sizes.n} images of {found.source}, mean {sizes.mean_bytes:.0f} bytes, p95 {sizes.p95_bytes:.0f}"
    show(options, {"table": str(options.out), "images": sizes.n, "mean_bytes": sizes.mean_bytes, "p95_bytes": sizes.p95_bytes}, text)


def profile_import(options: argparse.Namespace) -> None:
    """`cutlayer profile import`."""
    from cutlayer.profiles import foreign, importers, load

    stated = {name: getattr(options, name) for name in importers.OPTIONS if getattr(options, name) is not None}
    table = importers.read(options.kind, options.path, **stated)
    load.save(table, options.out)
    models = sum(len(machine.models) for machine in table.machines)
    text = f"wrote {options.out}: {models} networks on {len(table.machines)} machines; see: cutlayer profile show {options.out}"
    show(options, foreign.summary(table), text)


def add(commands: Any) -> None:
    """Add them to the parser."""
    from cutlayer import plan_cli
    from cutlayer.profiles.importers import OPTIONS

    profile = commands.add_parser("profile", help="measure a network; show, check and import tables; train the zoo")
    tables = profile.add_subparsers(dest="table_command", required=True, metavar="COMMAND", parser_class=Parser)
    measure_cli.add(tables)
    plan_cli.add(tables)
    one = command(
        tables, "accuracy", profile_accuracy, "measure the accuracy of every exit, partition, bit width and codec",
        "cutlayer profile accuracy alexnet --images photos/",
    )  # fmt: skip
    add_model(one)
    one.add_argument("--images", type=Path, required=True, metavar="PATH", help="folder of class folders, or .npz of JPEGs")
    one.add_argument("--limit", type=positive, metavar="N", help="use at most this many images")
    one.add_argument("-o", "--out", type=Path, metavar="FILE", help="write the table here")
    one.add_argument("--codecs", metavar="LIST", help="count these alone, such as affine,zstd (default: all that serve the network)")
    one = command(
        tables, "traces", profile_traces, "record what every exit answers to each image, and how sure it is",
        "cutlayer profile traces alexnet --images photos/ -o traces.npz",
    )  # fmt: skip
    add_model(one)
    one.add_argument("--images", type=Path, required=True, metavar="PATH", help="folder of class folders, or .npz of JPEGs")
    one.add_argument("--limit", type=positive, metavar="N", help="use at most this many images")
    one.add_argument("-o", "--out", type=Path, required=True, metavar="FILE")
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
        tables, "bottlenecks", profile_bottlenecks, "train bottlenecks for a network that stays as it is; skips those that are there",
        "cutlayer profile bottlenecks alexnet --images train.npz --held-out test.npz -o runs/alexnet-bottlenecks",
    )  # fmt: skip
    add_model(one)
    one.add_argument("--images", type=Path, required=True, metavar="PATH", help="folder of class folders, or .npz of JPEGs")
    one.add_argument("--held-out", type=Path, metavar="PATH", help="images to report accuracy on")
    one.add_argument("-o", "--out", type=Path, required=True, metavar="DIR", help="one file for each bottleneck goes here")
    one.add_argument("--cuts", metavar="LIST", help="numbers of layers before the bottleneck, such as 1,2,3 (default: those of the zoo)")
    one.add_argument("--units", metavar="LIST", help="kinds and channels, such as ae12,bottle6 (default: those of the zoo)")
    one.add_argument("--limit", type=positive, metavar="N", help="use at most this many images (default 16000)")
    one.add_argument("--seed", type=natural, default=1)
    one.add_argument("--threads", type=positive, default=1, help="more than one only on cores of your own")

    one = command(
        tables, "graphs", profile_graphs, "write the graphs that device and edge run, two for every cut",
        "cutlayer profile graphs alexnet -o graphs",
    )  # fmt: skip
    add_model(one)
    one.add_argument("-o", "--out", type=Path, required=True, metavar="DIR")

    one = command(
        tables, "check", profile_check, "report which knob values are ever optimal", "cutlayer profile check jpeg --figure knobs.png"
    )
    one.add_argument("table", nargs="?", help="built-in plan table (default, jpeg, privacy, bottleneck), or path of a JSON plan table")
    one.add_argument("--figure", type=Path, metavar="FILE", help="also draw it, as PNG")
    one = command(
        tables, "jpeg", profile_jpeg, "measure the network's input as JPEG: bytes, times, accuracy",
        "cutlayer profile jpeg alexnet --images photos/ -o jpeg.json",
    )  # fmt: skip
    add_model(one)
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

"""The commands around a measured table: `cutlayer profile measure`, `show`, `schema` and `acceptance`."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutlayer.options import command, positive, progress_bar, show

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from cutlayer.profiles.codecs import TensorCodec
    from cutlayer.profiles.zoo import MultiExit


def add_model(one: argparse.ArgumentParser) -> None:
    """The options by which a command names a network."""
    one.add_argument("model", help="name of a zoo network, or module:function of your own")
    one.add_argument("--weights", type=Path, metavar="FILE", help="safetensors file (default: those that ship, or the function's own)")


def network(options: argparse.Namespace) -> MultiExit:
    """The network that the options of `add_model` name, on one thread."""
    import torch

    from cutlayer.profiles import cuts

    torch.set_num_threads(1)
    return cuts.resolve(options.model, options.weights)


def profile_measure(options: argparse.Namespace) -> None:
    """`cutlayer profile measure`."""
    from cutlayer.profiles import acceptance, bottlenecks, images, load, measure, measure_onnx, meters, pixels, power, shown

    draw, energy_note = power.choose(options.energy, options.sys_root or meters.SYS)
    chain = network(options)
    sending = _codecs(chain, options.codecs)
    kept: dict[str, Any] = {
        "runs": options.runs,
        "device_name": options.device_name,
        "codecs": sending,
        "units": [unit for unit in bottlenecks.units(chain) if unit.name in {codec.name for codec in sending}],
        "images": pixels.of(images.load(options.images, pixels.COUNT), chain.input_shape) if options.images else (),
        "draw": draw,
        "progress": progress_bar("measure"),
    }
    if options.backend == "torch":
        table = measure.measure(chain, ground_truth=options.segments, **kept)
    else:
        table = measure_onnx.measure(chain, **kept)
    if options.quiet_only:
        acceptance.refuse_noisy(table)
    if options.out:
        load.save(table, options.out)
    print(f"note: {energy_note}", file=sys.stderr)
    if acceptance.noisy(table):
        limit = acceptance.NOISY_RATIO
        print(f"note: wall over CPU time is above {limit}: this machine was busy; measure again on a quiet one", file=sys.stderr)
    show(options, shown.summary(table), shown.text(table))


def _codecs(chain: MultiExit, named: str | None) -> Sequence[TensorCodec]:
    """Those of the list, or all that serve the network, without zstd where its library is missing."""
    from cutlayer.profiles import bottlenecks, codecs

    if named:
        return codecs.serving(chain, named.split(","))
    if importlib.util.find_spec("zstandard") is None:
        print("note: codec zstd is left out; to measure it too: pip install 'cutlayer[zstd]'", file=sys.stderr)
        return [codecs.Affine(), *bottlenecks.codecs_of(chain)]
    return codecs.serving(chain)


def profile_show(options: argparse.Namespace) -> None:
    """`cutlayer profile show`."""
    from cutlayer.profiles import shown

    show(options, *shown.show(options.table))


def profile_schema(options: argparse.Namespace) -> None:
    """`cutlayer profile schema`."""
    from cutlayer.profiles import json_schema

    made = json_schema.schemas()
    if options.out is None:
        show(options, made, json.dumps(made, indent=1))
        return
    files = [str(path) for path in json_schema.write(options.out)]
    show(options, {"files": files}, "\n".join(f"wrote {file}" for file in files))


def profile_acceptance(options: argparse.Namespace) -> None:
    """`cutlayer profile acceptance`."""
    import torch

    from cutlayer.profiles import acceptance, machine

    torch.set_num_threads(1)
    backends = [options.backend] if options.backend else acceptance.BACKENDS
    results = acceptance.check(
        options.models or acceptance.MODELS, backends, runs=options.runs, attempts=options.attempts, progress=progress_bar("acceptance")
    )
    found = {
        "results": [{**dataclasses.asdict(one), "within": one.within} for one in results],
        "cpu": machine.cpu_name(),
        "load_average": machine.load_average(),
    }
    show(options, found, acceptance.text(results))


def add(tables: Any) -> None:
    """Add them to the commands of `cutlayer profile`."""
    from cutlayer.profiles.power import CHOICES

    one = command(
        tables, "measure", profile_measure, "time every layer and codec of a network on this machine",
        "cutlayer profile measure alexnet -o mine.json",
    )  # fmt: skip
    add_model(one)
    one.add_argument("-o", "--out", type=Path, metavar="FILE", help="write the table here")
    one.add_argument("--runs", type=positive, default=100)
    one.add_argument("--device-name", default="this-machine", metavar="NAME")
    one.add_argument("--backend", choices=["torch", "onnxruntime"], default="torch")
    one.add_argument("--quiet-only", action="store_true", help="refuse a table measured on a busy machine")
    one.add_argument("--segments", action="store_true", help="torch: also every prefix and suffix in one piece, with cold starts")
    one.add_argument("--codecs", metavar="LIST", help="time these alone, such as affine,zstd (default: all that serve the network)")
    one.add_argument("--images", type=Path, metavar="PATH", help="time on these (default: random ones with the spectrum of photos)")
    one.add_argument("--energy", choices=CHOICES, default="auto", help="how power is metered (default: the first meter that reads)")
    one.add_argument("--sys-root", type=Path, metavar="DIR", help="where sysfs is mounted (default /sys)")
    one = command(tables, "show", profile_show, "print a table of any kind", "cutlayer profile show alexnet")
    one.add_argument("table", help="path of a JSON table, or a built-in name")
    one = command(
        tables, "schema", profile_schema, "print or write the JSON Schema of every kind of table", "cutlayer profile schema -o schema"
    )
    one.add_argument("-o", "--out", type=Path, metavar="DIR", help="write one file a kind here")
    one = command(
        tables, "acceptance", profile_acceptance, "whether what is measured here adds up: layers, and prefixes with their suffixes",
        "cutlayer profile acceptance alexnet resnet18 --backend onnxruntime",
    )  # fmt: skip
    one.add_argument("models", nargs="*", help="zoo networks (default: all)")
    one.add_argument("--backend", choices=["torch", "onnxruntime"], help="(default: both)")
    one.add_argument("--runs", type=positive, default=40)
    one.add_argument("--attempts", type=positive, default=3, help="measure again, so often, where the machine is busy or a bar is missed")

"""The commands `cutlayer testbed ...` and `cutlayer doctor`: real split inference over an emulated link, and what it needs."""

from __future__ import annotations

import dataclasses
import datetime as dt
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutlayer.options import SCENARIO_HELP, Parser, command, natural, positive, progress_bar, show

if TYPE_CHECKING:
    import argparse

BACKENDS, DEVICES = ("tun", "proxy", "tbf"), ("pad", "quota", "none")  # as `runtime.testbed` has them, which is not loaded for --help


def testbed_calibrate(options: argparse.Namespace) -> None:
    """`cutlayer testbed calibrate`."""
    from cutlayer.agents import runs
    from cutlayer.runtime.testbed import calibrate, link

    backend = options.backend or link.best()
    result = calibrate.calibrate(backend, options.models or calibrate.MODELS, options.seed, progress_bar(f"calibrate over {backend}"))
    if options.out is not None:
        runs.write(options.out, "calibrate.json", {**result, "run": runs.origin()})
    text = (
        f"{result['configurations']} configurations over {backend}, {result['held_out_configurations']} of them held out\n"
        f"held-out error {result['mape']:.1%} (bias {result['bias']:+.1%}, p95 {result['p95_error']:.1%})"
        f" with c0 = {1e3 * result['c0_s']:.2f} ms\n"
        f"naive formula  {result['naive_mape']:.1%} (bias {result['naive_bias']:+.1%})"
    )
    show(options, result, text)
    if not result["quiet"]:
        share, noise = result["others"], result["wall_over_cpu"]
        print(
            f"this machine was too busy to judge by: others took {share:.0%} of the processor, wall over CPU time was {noise:.2f}; "
            "run it again when it is quiet",
            file=sys.stderr,
        )
        raise SystemExit(1)


def testbed_run(options: argparse.Namespace) -> None:
    """`cutlayer testbed run`."""
    from cutlayer.agents.testbed import run
    from cutlayer.runtime.testbed import link
    from cutlayer.runtime.testbed.others import MOST

    backend = options.backend or link.best()
    settings = run.Settings(options.scenario, tuple(options.trace), options.requests, backend, options.seed, options.device)
    names = [name for given in options.policy for name in given.split(",") if name]
    result = run.run(settings, names, options.out, progress_bar(f"testbed run over {backend}"))
    show(options, result, f"{options.requests} requests over {backend}; images: {result['images']}\n{run.table(result)}")
    if not result["quiet"]:
        busy = [label for label, row in result["policies"].items() if row["others"] > MOST]
        print(f"this machine was busy with other work during {', '.join(busy)}: judge nothing by these figures", file=sys.stderr)


def testbed_certificates(options: argparse.Namespace) -> None:
    """`cutlayer testbed certificates`."""
    from cutlayer.runtime.split import authority

    made = authority.make(options.out, options.host or ["127.0.0.1", "localhost"], dt.datetime.now(dt.UTC))
    files = {who: {name: str(path) for name, path in dataclasses.asdict(one).items()} for who, one in made.items()}
    edge = " ".join(f"--tls-{name} {path}" for name, path in files["edge"].items())
    show(options, files, f"wrote certificates into {options.out}; next: cutlayer-edge {edge}")


def doctor(options: argparse.Namespace) -> None:
    """`cutlayer doctor`."""
    from cutlayer.runtime.testbed import doctor as job

    findings = job.examine()
    show(options, {"findings": [one._asdict() for one in findings]}, job.text(findings))


def add(commands: Any) -> None:
    """Add the commands to the parser's."""
    text = "what this machine offers, and what that means for which command"
    command(commands, "doctor", doctor, text, "cutlayer doctor")
    testbed = commands.add_parser("testbed", help="real split inference over an emulated link")
    beds = testbed.add_subparsers(dest="testbed_command", required=True, metavar="COMMAND", parser_class=Parser)
    text, example = (
        "make certificates for an edge and a device of a test bed",
        "cutlayer testbed certificates -o certificates --host 10.0.0.2",
    )
    one = command(beds, "certificates", testbed_certificates, text, example)
    one.add_argument("-o", "--out", type=Path, required=True, metavar="DIR")
    one.add_argument("--host", action="append", metavar="NAME", help="how devices find the edge; may be repeated (default: this machine)")
    text, example = "hold the cost model to account: predicted against measured latency", "cutlayer testbed calibrate --backend proxy"
    one = command(beds, "calibrate", testbed_calibrate, text, example)
    one.add_argument("models", nargs="*", metavar="MODEL", help="zoo networks with weights (default: alexnet and resnet20)")
    one.add_argument("--backend", choices=BACKENDS, help="what emulates the link (default: the most faithful that works here)")
    one.add_argument("--seed", type=natural, default=0, help="which configurations are held out")
    one.add_argument("-o", "--out", type=Path, metavar="DIR", help="write calibrate.json there, which docs/figures/wire.py draws")
    text = "run policies for real over an emulated link, and beside it in the simulator"
    example = "cutlayer testbed run --scenario lte-uplink --policy bayes-greedy --trace drive.csv -o runs/wire"
    one = command(beds, "run", testbed_run, text, example)
    one.add_argument("--scenario", default="lte-uplink", metavar="S", help=SCENARIO_HELP)
    one.add_argument(
        "--policy", "--policies", action="append", required=True, metavar="P[,P...]",
        help="bundle, run folder, baseline's name, or best-learned; one that the folder holds already is not run again",
    )  # fmt: skip
    one.add_argument("--trace", type=Path, action="append", default=[], metavar="FILE", help="uplink trace; may be repeated")
    one.add_argument("--requests", type=positive, default=600, metavar="N")
    one.add_argument("--backend", choices=BACKENDS, help="what emulates the link (default: the most faithful that works here)")
    one.add_argument(
        "--device", choices=DEVICES, default="pad",
        help="how the device is slowed: padded to the profiled time, by a processor quota (root; jittery), or not at all",
    )  # fmt: skip
    one.add_argument("--seed", type=natural, default=0, metavar="K", help="which requests, which part of the trace")
    one.add_argument("-o", "--out", type=Path, required=True, metavar="DIR", help="results; given again, it goes on there")

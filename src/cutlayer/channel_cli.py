"""The commands `cutlayer channel ...`: fit generators of uplink rates to measured traces, and tell how well they match."""

from __future__ import annotations

import argparse
import json
import math
import re
import shlex
from pathlib import Path
from typing import Any

from cutlayer import __version__
from cutlayer.errors import ConfigError
from cutlayer.options import Parser, command, natural, positive, progress_bar, show


def above_zero(text: str) -> float:
    """A finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from None
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def channel_fit(options: argparse.Namespace) -> None:
    """`cutlayer channel fit`."""
    from cutlayer.envs.channels import fitting, report, statistics

    twice = {path.resolve() for path in options.traces} & {path.resolve() for path in options.held_out}
    if twice:
        name = min(path.name for path in twice)
        raise ConfigError(f"{name} is fitted and held out at once, so it would judge itself; name it on one side only")
    columns = (options.column, options.time_column)
    drives = statistics.load(options.traces, *columns, options.bin_s)
    held_out = statistics.load(options.held_out, *columns, drives.bin_s) if options.held_out else None
    kinds = list(fitting.FITS) if options.generator == "all" else [options.generator]
    result = report.report(
        drives,
        kinds,
        held_out,
        lags_s=tuple(options.lag_s or statistics.LAGS_S),
        outage_bps=1e6 * options.outage_mbps,
        replicas=options.replicas,
        seed=options.seed,
        progress=progress_bar("channel fit"),
    )
    result = {**result, "command": typed(options), "version": __version__}
    if options.figure:
        from cutlayer.envs.channels import figure

        figure.draw(drives, result, options.figure)
    if options.out:
        from cutlayer.files import write_atomic

        # What holds no other list or object goes on one line: a number with its range, a row of a matrix.
        flat = re.sub(r"[\[{][^\[\]{}]*[\]}]", lambda found: " ".join(found[0].split()), json.dumps(result, indent=1))
        write_atomic(options.out, f"{flat}\n".encode())
    show(options, result, report.text(result))


def typed(options: argparse.Namespace) -> str:
    """The command line that gives the same numbers; where they were written is no part of it."""
    words = ["cutlayer", "channel", "fit", *map(str, options.traces), "--generator", options.generator]
    for path in options.held_out:
        words += ["--held-out", str(path)]
    for name, value in DEFAULTS.items():
        given = getattr(options, name)
        for one in given if isinstance(given, list) else [given]:
            if given != value:
                words += [f"--{name.replace('_', '-')}", f"{one:g}" if isinstance(one, float) else str(one)]
    return shlex.join(words)


DEFAULTS: dict[str, Any] = {
    "column": "ul_mbps", "time_column": "t_s", "bin_s": None, "lag_s": None, "outage_mbps": 0.1, "replicas": 100, "seed": 0,
}  # fmt: skip


def add(commands: Any) -> None:
    """Add them to the parser."""
    channel = commands.add_parser("channel", help="fit generators of uplink rates to measured traces")
    jobs = channel.add_subparsers(dest="channel_command", required=True, metavar="COMMAND", parser_class=Parser)
    one = command(
        jobs, "fit", channel_fit, "fit a generator to traces, and tell in which numbers it matches them",
        "cutlayer channel fit drive1.csv drive2.csv --held-out drive3.csv --generator all --figure fit.png",
    )  # fmt: skip
    one.add_argument("traces", type=Path, nargs="+", metavar="TRACE", help="CSV with named columns, or a mahimahi packet trace")
    one.add_argument("--held-out", type=Path, action="append", default=[], metavar="TRACE", help="compare with it too; may be repeated")
    one.add_argument("--generator", default="ar1-log-normal", metavar="NAME", help="ar1-log-normal, markov, regimes, ..., or all")
    one.add_argument("--column", metavar="NAME", help="rate; its name ends in _bps, _kbps, _mbps or _gbps (ul_mbps)")
    one.add_argument("--time-column", metavar="NAME", help="time; its name ends in _s or _ms (t_s)")
    one.add_argument("--bin-s", type=above_zero, metavar="S", help="bins to compare in (those of the traces)")
    one.add_argument("--lag-s", type=above_zero, action="append", metavar="S", help="lag of an autocorrelation; may be repeated")
    one.add_argument("--outage-mbps", type=above_zero, metavar="R", help="a rate under this is an outage (0.1)")
    one.add_argument("--replicas", type=positive, metavar="N", help="draws that a number's range comes from (100)")
    one.add_argument("--seed", type=natural, metavar="K")
    one.add_argument("--figure", type=Path, metavar="FILE", help="also draw it, as PNG")
    one.add_argument("-o", "--out", type=Path, metavar="FILE", help="write the fit here, as JSON")
    one.set_defaults(**DEFAULTS)

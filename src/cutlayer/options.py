"""What the commands share: options whose faults are told in one line with exit code 2, a progress bar, one JSON object on stdout."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable


SCENARIO_HELP = "a name that `cutlayer scenarios` lists, or a .toml file"


class Parser(argparse.ArgumentParser):
    """Says what is wrong with an option in one line that points at the help."""

    def error(self, message: str) -> NoReturn:
        """See the class."""
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def positive(text: str) -> int:
    """A whole number from 1 on."""
    return _at_least(1, text)


def natural(text: str) -> int:
    """A whole number from 0 on."""
    return _at_least(0, text)


def _at_least(least: int, text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from None
    if value < least:
        raise argparse.ArgumentTypeError(f"{value} is less than {least}")
    return value


def progress_bar(name: str) -> Callable[[float], None]:
    """A progress bar on a terminal, nothing in a pipe."""
    if not sys.stderr.isatty():
        return lambda _share: None
    shown = -1

    def tell(share: float) -> None:
        nonlocal shown
        percent = int(100 * share)
        if percent != shown:
            shown = percent
            end = "\n" if percent >= 100 else ""
            print(f"\r{name:<28} [{'#' * (percent // 5):<20}] {percent:3d} %", end=end, file=sys.stderr, flush=True)

    return tell


def show(options: argparse.Namespace, result: dict[str, Any], text: str) -> None:
    """One JSON object with `--json`, else the text."""
    print(json.dumps(result) if options.json else text)


def command(where: Any, name: str, run: Callable[[argparse.Namespace], None], text: str, example: str) -> argparse.ArgumentParser:
    """Add a command that calls `run` with its options; every one has an example and --json."""
    made: argparse.ArgumentParser = where.add_parser(name, help=text, description=text, epilog=f"example: {example}")
    made.add_argument("--json", action="store_true", help="print one JSON object on stdout")
    made.set_defaults(function=run)
    return made

# noqa: INP001 - found through sys.path by conf.py
"""Draws a page for each command from the parser that reads its options: what it does, usage, options, exit codes, an example.

Examples that need nothing but what ships are run while the page is drawn; the others would need a machine, images or hours.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import drawn

from cutlayer import cli

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sphinx.application import Sphinx

# Examples that end within two seconds and write nothing.
RUN = ("cutlayer scenarios", "cutlayer profile show alexnet")
SHOWN_LINES = 24  # our choice: of a longer output the beginning
CODES = (
    ("0", "it is done"),
    ("2", "an option, a file or a value is wrong; one line on stderr names the value, the place and the mend, and nothing is half-written"),
    ("130", "interrupted (Ctrl-C)"),
)
MORE_CODES = {
    "testbed calibrate": ("1", "this machine was too busy to judge by; the figures are printed all the same"),
    "sweep": ("1", "some runs failed; the others are done, and the table names both"),
}


@dataclass(frozen=True, slots=True)
class Command:
    """One command of the parser: its words, such as ("profile", "show"), and its own parser."""

    words: tuple[str, ...]
    parser: argparse.ArgumentParser

    @property
    def name(self) -> str:
        """As it is typed."""
        return " ".join(self.words)

    @property
    def file(self) -> str:
        """Name of its page."""
        return f"{'-'.join(self.words)}.md"

    @property
    def example(self) -> str:
        """The command line that its help ends with."""
        return (self.parser.epilog or "").removeprefix("example: ")


def commands(parser: argparse.ArgumentParser, words: tuple[str, ...] = ()) -> Iterator[Command]:
    """Every command under `parser` that does something itself, in the order of the help."""
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]  # noqa: SLF001 - argparse tells nobody
    if not below:
        yield Command(words, parser)
    for action in below:
        for name, one in action.choices.items():
            yield from commands(one, (*words, name))


# Programs beside `cutlayer`: module, and where its ways are told. Their parsers are their own; their help is asked for.
PROGRAMS = {
    "cutlayerd": ("cutlayer.runtime.daemon", "Its messages, settings and exit codes: [the daemon](../../daemon.md)."),
    "cutlayer-edge": (
        "cutlayer.runtime.split.edge",
        "What it speaks: [between device and edge](../../protocol.md). Exit code 2: an option is wrong.",
    ),
}


def program(name: str) -> str:
    """The page of a program: its help as it prints it."""
    module, more = PROGRAMS[name]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit), _columns(100):
        importlib.import_module(module).main(["--help"])
    return "\n".join([f"(command-{name})=", f"# {name}", "", more, "", "```text", printed.getvalue().rstrip(), "```", ""])


def page(one: Command) -> str:
    """Its page."""
    whole = f"cutlayer {one.name}"
    lines = [f"({anchor(one)})=", f"# {whole}", "", _capital(_sentence(one.parser.description)), ""]
    lines += ["```text", _usage(one, whole), "```", ""]
    lines += _options(one)
    lines += ["## Example", "", "```sh", one.example, "```", ""]
    if one.example in RUN:
        lines += ["It prints:", "", "```text", _output(one.example), "```", ""]
    codes = sorted([*CODES, *([MORE_CODES[one.name]] if one.name in MORE_CODES else [])], key=lambda code: int(code[0]))
    return "\n".join([*lines, "## Exit codes", "", "| code | means |", "|---|---|", *(drawn.row(*code) for code in codes), ""])


def anchor(one: Command) -> str:
    """What a page links to it by."""
    return f"command-{'-'.join(one.words)}"


def index(found: list[Command]) -> str:
    """The table of all of them."""
    lines = ["(commands)=", "# Commands", "", "Drawn from the parser that reads the options; `--help` says the same.", ""]
    lines += ["Every command takes `--json`: one JSON object on stdout, everything else on stderr.", ""]
    lines += ["| command | does |", "|---|---|"]
    for one in found:
        lines.append(drawn.row(f"[`cutlayer {one.name}`](#{anchor(one)})", one.parser.description or ""))
    lines += [drawn.row(f"[`{name}`](#command-{name})", "a program of its own") for name in PROGRAMS]
    return "\n".join([*lines, "", "```{toctree}", ":hidden:", "", *(one.file.removesuffix(".md") for one in found), *PROGRAMS, "```", ""])


def _sentence(text: str | None) -> str:
    text = " ".join((text or "").split())
    return text if text.endswith((".", ")")) else f"{text}."


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _usage(one: Command, whole: str) -> str:
    one.parser.prog = whole
    with _columns(100):
        return one.parser.format_usage().removeprefix("usage: ").strip()


def _options(one: Command) -> list[str]:
    lines = []
    given = [action for action in one.parser._actions if not isinstance(action, argparse._HelpAction)]  # noqa: SLF001 - as above
    for title, chosen in (("Arguments", lambda a: not a.option_strings), ("Options", lambda a: bool(a.option_strings))):
        rows = [drawn.row(_names(action), _meaning(action)) for action in given if chosen(action)]
        if rows:
            lines += [f"## {title}", "", "| | |", "|---|---|", *rows, ""]
    return lines


def _names(action: argparse.Action) -> str:
    if not action.option_strings:
        name = action.metavar or action.dest
        return f"`{name}`{'…' if action.nargs in ('+', '*') else ''}"
    choices = "{" + ",".join(map(str, action.choices)) + "}" if action.choices else action.dest.upper()
    words = "" if action.nargs == 0 else f" {action.metavar or choices}"
    return ", ".join(f"`{name}{words}`" for name in action.option_strings)


def _meaning(action: argparse.Action) -> str:
    parts = [_sentence(str(action.help) % {"default": action.default, "prog": "cutlayer"}) if action.help else ""]
    if action.required and action.option_strings:
        parts.append("Has to be given.")
    elif _worth_telling(action):
        parts.append(f"Default: `{action.default}`.")
    return _code(" ".join(part for part in parts if part))


def _worth_telling(action: argparse.Action) -> bool:
    told = "default" in (action.help or "") or "without it" in (action.help or "")
    without: tuple[Any, ...] = (None, [], argparse.SUPPRESS)
    return bool(action.option_strings) and not told and not isinstance(action.default, bool) and action.default not in without


def _code(text: str) -> str:
    """Angle brackets and stars mean something in Markdown; in a help they are themselves."""
    return re.sub(r"([<>*])", r"\\\1", text)


def _output(example: str) -> str:
    """What an example prints, its beginning where it is long."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), _columns(100):
        code = cli.main(shlex.split(example)[1:])
    assert code == 0, f"{example} ended with {code}"
    lines = printed.getvalue().rstrip().splitlines()
    return "\n".join(lines if len(lines) <= SHOWN_LINES else [*lines[:SHOWN_LINES], f"... {len(lines) - SHOWN_LINES} more lines"])


@contextlib.contextmanager
def _columns(width: int) -> Iterator[None]:
    """The same page however wide the terminal is."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(width)
    try:
        yield
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before


def pages() -> dict[str, str]:
    """Every page by its file."""
    found = list(commands(cli.parser()))
    apart = {f"{name}.md": program(name) for name in PROGRAMS}
    return {**{one.file: page(one) for one in found}, **apart, "index.md": index(found)}


def _draw(app: Sphinx) -> None:
    drawn.write(Path(app.srcdir) / drawn.REFERENCE / "commands", pages())


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx calls it."""
    app.connect("builder-inited", _draw)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

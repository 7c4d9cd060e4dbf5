"""The daemon's log of its own life: a line an event, never one a decision. structlog writes it, an extra of the daemon alone.

Lines are JSON objects, or key=value. Where standard output is the journal, each begins with its priority as sd-daemon(3) has it.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, Literal, TextIO

import msgspec

from cutlayer.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Style = Literal["json", "keys"]
Level = Literal["info", "warning", "error"]

INSTALL = "cutlayerd's log needs structlog; install it with: pip install 'cutlayer[daemon]'"
PRIORITY: dict[str, int] = {"info": 6, "warning": 4, "error": 3}  # syslog(3)

# Every event there is: how much it matters, and what it means. docs/daemon.md is drawn from this table.
EVENTS: dict[str, tuple[Level, str]] = {
    "start": ("info", "the process began; its version, number and configuration"),
    "ready": ("info", "it listens, and the bundle has passed its golden decisions; or the `problem` why the rule decides"),
    "reload": ("info", "configuration and bundle were read anew, and by whom this was asked"),
    "reload-refused": ("error", "they were not: all stays as it is"),
    "rollback": ("info", "what decided before the last reload decides again"),
    "rollback-refused": ("error", "there was nothing to go back to"),
    "trial": ("info", "a look at a canary found it to be `running` or `undecided`, with its numbers"),
    "promotion": ("info", "a canary is active from now on"),
    "demotion": ("warning", "a canary is off from now on: it was surely worse"),
    "edge-lost": ("warning", "nothing is sent to the edge from now on but probes"),
    "edge-found": ("info", "the edge answers again"),
    "trace-failing": ("error", "the trace cannot be written: lines are lost, decisions are not"),
    "trace-written": ("info", "it can again"),
    "drain": ("info", "it was told to stop: no new clients, and those there are still get their answers"),
    "stop": ("info", "it ends; how many clients were cut off"),
}


def opened(style: Style, stream: TextIO | None = None, environment: Mapping[str, str] = os.environ) -> Callable[..., None]:
    """Writes an event: its name, then what belongs to it by keyword.

    Raises:
        ConfigError: structlog is not installed.
    """
    try:
        import structlog
    except ModuleNotFoundError as error:
        raise ConfigError(INSTALL) from error
    stream = sys.stdout if stream is None else stream
    last: list[Any] = [
        _json if style == "json" else structlog.processors.LogfmtRenderer(key_order=("timestamp", "level", "event"), bool_as_flag=False)
    ]
    if _journal(stream, environment):
        last = [_prefixed(last[0])]
    logger = structlog.wrap_logger(
        structlog.WriteLogger(stream),
        processors=[structlog.processors.add_log_level, structlog.processors.TimeStamper(fmt="iso", utc=True), *last],
        wrapper_class=structlog.make_filtering_bound_logger(0),
    )

    def tell(event: str, **more: object) -> None:
        level, _ = EVENTS[event]
        getattr(logger, level)(event, **msgspec.to_builtins(more))

    return tell


def _json(_logger: object, _method: str, event: dict[str, Any]) -> str:
    first = {name: event.pop(name) for name in ("timestamp", "level", "event")}
    return msgspec.json.encode({**first, **event}).decode()


def _prefixed(render: Callable[..., str]) -> Callable[..., str]:
    """The same line with its priority before it."""

    def call(logger: object, method: str, event: dict[str, Any]) -> str:
        return f"<{PRIORITY[event['level']]}>{render(logger, method, event)}"

    return call


def _journal(stream: TextIO, environment: Mapping[str, str]) -> bool:
    """Whether the stream is the one that JOURNAL_STREAM names (systemd.exec(5)): device and inode."""
    device, _, inode = environment.get("JOURNAL_STREAM", "").partition(":")
    try:
        found = os.fstat(stream.fileno())
    except (AttributeError, OSError):
        return False
    return (device, inode) == (str(found.st_dev), str(found.st_ino))


def table() -> str:
    """Events as Markdown."""
    rows = [f"| `{event}` | {level} | {words} |" for event, (level, words) in EVENTS.items()]
    return "\n".join(["| event | level | means |", "|---|---|---|", *rows, ""])

# noqa: INP001 - a script, no module
"""Draws the tables of docs/daemon.md (settings, events) and docs/daemon.schema.json from the code: `python docs/figures/daemon.py`."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import msgspec

from cutlayer.runtime import config, lifelog, service
from cutlayer.runtime.messages import Decision

PAGE = Path(__file__).parents[1] / "daemon.md"
SCHEMA = Path(__file__).parents[1] / "daemon.schema.json"
BEGIN, END = "<!-- settings -->\n", "<!-- end -->"
EVENTS_BEGIN, EVENTS_END = "<!-- events -->\n", "<!-- end events -->"


def drawn(page: str) -> str:
    """The page with its tables as the code has it now."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    rows = "".join(f"| `{name}` | `{default}` | {words} |\n" for name, default, words in config.rows())
    settings = before + begin + "| key | default | |\n|---|---|---|\n" + rows + end + after
    before, begin, rest = settings.partition(EVENTS_BEGIN)
    _, end, after = rest.partition(EVENTS_END)
    return before + begin + lifelog.table() + end + after


def schema() -> bytes:
    """A JSON Schema of each message and of a decision."""
    kinds = (*get_args(service.Message), Decision)
    _, components = msgspec.json.schema_components(kinds, ref_template="#/$defs/{name}")
    whole = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Messages of cutlayerd",
        "oneOf": [{"$ref": f"#/$defs/{kind.__name__}"} for kind in get_args(service.Message)],
        "$defs": components,
    }
    return msgspec.json.format(msgspec.json.encode(whole), indent=1) + b"\n"


if __name__ == "__main__":
    PAGE.write_text(drawn(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    SCHEMA.write_bytes(schema())

# noqa: INP001 - a script, no module
"""Draws the tables of docs/fallbacks.md from the code: `python docs/figures/fallbacks.py` writes them into the page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cutlayer.runtime import ladder
from cutlayer.runtime.modes import Terms
from cutlayer.runtime.settings import Settings

if TYPE_CHECKING:
    import msgspec

PAGE = Path(__file__).parents[1] / "fallbacks.md"


def numbers(values: msgspec.Struct) -> str:
    """Names and defaults of a struct of numbers."""
    found = {name: getattr(values, name) for name in values.__struct_fields__}
    rows = [f"| `{name}` | {value:g} |" for name, value in found.items() if not isinstance(value, Terms)]
    return "\n".join(["| setting | default |", "|---|---|", *rows, ""])


TABLES = {"ladder": ladder.table(), "settings": numbers(Settings()), "trial": numbers(Terms())}


def drawn(page: str) -> str:
    """The page with its tables as the code has them now."""
    for name, table in TABLES.items():
        before, begin, rest = page.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition("<!-- end -->")
        assert begin, f"the page has no place for the table {name}"
        page = before + begin + table + end + after
    return page


if __name__ == "__main__":
    PAGE.write_text(drawn(PAGE.read_text(encoding="utf-8")), encoding="utf-8")

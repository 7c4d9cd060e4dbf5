# noqa: INP001 - found through sys.path by conf.py
"""Where pages that are drawn from the code go, and how they are written: only where they changed, and none that nothing draws any more."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

REFERENCE = "reference"


def write(folder: Path, pages: Mapping[str, str]) -> None:
    """Make `folder` hold these pages by name, and no other; what is there already keeps its time, so that Sphinx leaves it alone."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.is_file() and path.name not in pages:
            path.unlink()
    for name, text in pages.items():
        path = folder / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def row(*cells: str) -> str:
    """A row of a Markdown table; a bar inside a cell does not end it."""
    return f"| {' | '.join(' '.join(cell.split()).replace('|', chr(92) + '|') for cell in cells)} |"

# noqa: INP001 - found through sys.path by conf.py
"""Brings the notebooks among the pages: Sphinx reads what lies under its own folder only. They are shown without being run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import drawn

if TYPE_CHECKING:
    from sphinx.application import Sphinx


def _draw(app: Sphinx) -> None:
    found = sorted((Path(app.srcdir).parent / "notebooks").glob("*.ipynb"))
    drawn.write(Path(app.srcdir) / drawn.REFERENCE / "notebooks", {path.name: path.read_text(encoding="utf-8") for path in found})


def _lead_there(_app: Sphinx, page: str, source: list[str]) -> None:
    """Links to a notebook's file, which lead there in a checkout, lead to its page here."""
    if page == "notebooks":
        source[0] = source[0].replace("../notebooks/", f"{drawn.REFERENCE}/notebooks/")


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx calls it."""
    app.connect("builder-inited", _draw)
    app.connect("source-read", _lead_there)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

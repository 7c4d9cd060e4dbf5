"""A part of the report, ready to be written: what a world's runs say, or what a test bed's folder says."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cutlayer.agents.report.gather import Judged
    from cutlayer.agents.report.panels import Panel
    from cutlayer.agents.report.tables import Table


@dataclass(frozen=True, slots=True)
class Part:
    """Words, a table and panels under one name; reading says how to read the table, sources what made it.

    made_here: runs that were judged for this report.
    """

    name: str
    headline: str
    about: str
    reading: str
    table: Table
    panels: list[Panel]
    absent: list[str]
    sources: list[dict[str, Any]]
    made_here: list[Judged] = field(default_factory=list)

    @property
    def slug(self) -> str:
        """Its name for files and anchors: letters, digits and hyphens."""
        return "".join(sign if sign.isascii() and sign.isalnum() else "-" for sign in self.name.lower())

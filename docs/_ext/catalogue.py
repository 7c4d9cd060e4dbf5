# noqa: INP001 - found through sys.path by conf.py
"""Draws the catalogue of scenarios from their registry: one table, and for each what it models and which parts it is made of."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

import drawn

from cutlayer.envs import channels, scenarios
from cutlayer.errors import ConfigError

if TYPE_CHECKING:
    from sphinx.application import Sphinx

    from cutlayer.envs.spec import Scenario

HEAD = """(scenario-catalogue)=
# The scenarios that ship

Drawn from the registry (`cutlayer.envs.scenarios`), where each number has its source beside it; what the simplest policies get in each
stands on [the page on the simulator](../simulator.md), and [how to add one](../add-a-scenario.md) on its own.
*Inputs* is what a run without measured drives uses.

| scenario | models | plans | requests | deadline | link |
|---|---|---|---|---|---|"""
# Parts of a scenario that are shown, in this order; what is switched off is left out.
PARTS = ("objective", "path", "arrivals", "channel", "link", "slow_down", "edge_jobs", "edge", "thermal", "battery", "memory", "deadlines")


def page() -> str:
    """The whole page."""
    made = {name: scenarios.make(name) for name in scenarios.names()}
    lines = [HEAD, *(line(name, one) for name, one in made.items())]
    for name, one in made.items():
        text = inspect.getdoc(scenarios.SCENARIOS[name]) or ""
        lines += ["", f"## {name}", "", text, "", "| part | |", "|---|---|", *(drawn.row(*pair) for pair in parts(one))]
    return "\n".join([*lines, ""])


def line(name: str, one: Scenario) -> str:
    """Its row of the table."""
    deadline = f"{1e3 * one.objective.deadline_s:.0f} ms"
    return drawn.row(f"[`{name}`](#{name})", scenarios.claim(name), str(len(one.plans)), str(one.requests), deadline, kind(one.channel))


def kind(channel: Any) -> str:
    """The link model by its name in scenario files."""
    try:
        told = channels.describe(channel)
    except ConfigError:
        return type(channel).__name__
    return told["kind"] if "channels" not in told else f"{told['kind']} of {', '.join(part['kind'] for part in told['channels'])}"


def parts(one: Scenario) -> list[tuple[str, str]]:
    """Name and values of each part that differs from what a scenario is without it."""
    usual = {field.name: field.default for field in dataclasses.fields(one)}
    shown = [("inputs", one.inputs), ("plans", f"{one.plans.model}, {one.plans.device} to {one.plans.edge}")]
    for name in PARTS:
        part = getattr(one, name)
        if part is not None and part != usual[name]:
            shown.append((f"`{name}`", values(part)))
    return shown


def values(part: Any) -> str:
    """A record as `Kind: field value, ...`, its parts in brackets; rates in Mb/s."""
    if isinstance(part, tuple):
        return f"({'; '.join(values(one) for one in part)})"
    if not dataclasses.is_dataclass(part):
        return f"{part:.4g}" if isinstance(part, float) else str(part)
    fields = [(field.name, getattr(part, field.name)) for field in dataclasses.fields(part)]
    told = [f"{name} {1e-6 * value:.4g} Mb/s" if name.endswith("_bps") else f"{name} {values(value)}" for name, value in fields]
    return f"{type(part).__name__}: {', '.join(told)}"


def _draw(app: Sphinx) -> None:
    drawn.write(Path(app.srcdir) / drawn.REFERENCE, {"scenarios.md": page()})


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx calls it."""
    app.connect("builder-inited", _draw)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

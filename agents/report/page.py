"""The report: one HTML file that asks for nothing from elsewhere, beside it a `run.json`, and files for a paper.

Equal inputs give equal bytes: what differs between two runs of the same command (day, load of the machine) stands in that
`run.json` alone.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from cutlayer import __version__
from cutlayer.agents import runs
from cutlayer.agents.judge import CLAIRVOYANT
from cutlayer.agents.report import gather, ink, numbers, panels, played, tables, wire
from cutlayer.agents.report.maps import Grid
from cutlayer.agents.report.part import Part
from cutlayer.agents.train import RUN
from cutlayer.errors import ConfigError
from cutlayer.files import write_atomic
from cutlayer.profiles import machine

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from cutlayer.agents.report.beds import Bed
    from cutlayer.agents.report.gather import Found
    from cutlayer.agents.report.played import Section
    from cutlayer.envs.spec import Scenario

TEMPLATE = "page.html.j2"
READING = "Every policy, best first; of several seeds the median one. Learned policies are bold."


@dataclass(frozen=True, slots=True)
class Order:
    """What was asked for: folders, where the page goes, where files for a paper go, scenarios that do not ship, worlds (all without any).

    traces: measured links that trainings are judged on, in place of their scenario's. grid: the points of the policy map, None for no map.
    """

    folders: tuple[Path, ...]
    page: Path
    figures: Path | None = None
    scenarios: tuple[Scenario, ...] = ()
    worlds: tuple[str, ...] = ()
    traces: tuple[Path, ...] = ()
    episodes: int = played.EPISODES
    grid: Grid | None = Grid()  # noqa: RUF009 - frozen itself


def report(order: Order, tell: Callable[[float], None] = lambda _share: None) -> dict[str, Any]:
    """Make the report and return what a program reads of it.

    Raises:
        ConfigError: what lies in the folders cannot be reported; the message says why and how to mend it.
    """
    found = gather.gather(order.folders)
    given = {scenario.name: scenario for scenario in order.scenarios}
    names, tested = _chosen(found, order.worlds)
    play = bool(order.worlds) or len(names) <= played.MOST_PLAYED

    def making(i: int, name: str) -> Part:
        return _of_world(name, found, given, order, play=play, tell=lambda share: tell((i + share) / len(names)))

    of_worlds = [making(i, name) for i, name in enumerate(names)]
    of_beds = wire.parts(tested)
    parts = [*of_worlds, *of_beds]
    files = {order.page: html(parts, found, order).encode(), order.page.with_suffix(".run.json"): _signed(parts, found, order)}
    if order.figures is not None:
        for part in parts:
            files |= for_paper(part, order.figures)
    for path, content in files.items():
        write_atomic(path, content)
    tell(1.0)
    return {
        "report": str(order.page),
        "files": sorted(str(path) for path in files),
        "worlds": [{"world": part.name, **_said(part)} for part in of_worlds],
        "testbeds": [{"testbed": part.name, **_said(part)} for part in of_beds],
        "notes": found.notes,
    }


def _said(part: Part) -> dict[str, Any]:
    rows = [msgspec.to_builtins(row) for row in part.table.rows]
    return {"headline": part.headline, "panels": [panel.name for panel in part.panels], "absent": part.absent, "rows": rows}


def _chosen(found: Found, asked: Sequence[str]) -> tuple[list[str], list[Bed]]:
    """Worlds, and folders of test beds, that were asked for."""
    names = found.worlds()
    known = sorted({*names, *(bed.told.scenario for bed in found.beds)})
    if unknown := [name for name in asked if name not in known]:
        raise ConfigError(f"no run is of {unknown[0]!r}; these folders hold runs of: {', '.join(known)}")
    return [name for name in names if name in asked or not asked], [bed for bed in found.beds if bed.told.scenario in asked or not asked]


def _of_world(name: str, found: Found, given: Mapping[str, Scenario], order: Order, *, play: bool, tell: Callable[[float], None]) -> Part:
    section = played.section(
        name, found, given, traces=order.traces, episodes=order.episodes, play=play, report=lambda share: tell(0.6 * share)
    )
    maps = None if order.grid is None else panels.survey(section, order.grid, lambda share: tell(0.6 + 0.4 * share))
    made, absent = panels.of(section, maps)
    table, headline = tables.of_policies(numbers.rows(section.stood)), numbers.headline(section.stood)
    return Part(section.name, headline, _about(section), READING, table, made, absent, _sources(section), section.made_here)


def html(parts: Sequence[Part], found: Found, order: Order) -> str:
    """The page."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    shown = [
        {
            **{name: getattr(part, name) for name in ("name", "slug", "headline", "about", "reading", "table", "absent", "sources")},
            "rows": list(zip(part.table.looks, part.table.cells, strict=True)),
            "panels": [(panel, panels.inline(panel, part.slug)) for panel in part.panels],
        }
        for part in parts
    ]
    run_file = order.page.with_suffix(".run.json").name if any(part.made_here for part in parts) else None
    return environment.get_template(TEMPLATE).render(
        parts=shown,
        notes=found.notes,
        light=ink.css("light"),
        dark=ink.css("dark"),
        version=__version__,
        run_file=run_file,
        css_colour=lambda colour: ink.variable(colour) if colour else "none",
    )


def _about(section: Section) -> str:
    """The world in one line: episodes, plans, deadline, inputs, and the ends of the score's scale."""
    run = section.stood.any_run
    said = f"{len(run.rewards)} held-out episodes of {run.figures['requests'] // len(run.rewards)} requests"
    if section.world is not None:
        scenario = section.world.judged
        said += f", {len(scenario.plans)} plans, deadline {1e3 * scenario.objective.deadline_s:g} ms"
    said += f", link {run.inputs or 'generated'}"
    scale = section.stood.policies.get(CLAIRVOYANT)
    if scale is not None and scale.score.simple:
        zero, one = (f"{value:.4f}".replace("-", "−") for value in (scale.score.simple_value, scale.score.top_value))
        said += f"; score 0 is {scale.score.simple} at {zero} of mean reward, 1 the clairvoyant at {one}"
    return f"{said}."


def _sources(section: Section) -> list[dict[str, Any]]:
    """Where the numbers come from: runs of one kind, commit and machine together, with their commands."""
    lines = []
    if section.made_here:
        lines += [("judged for this report", run.commit, run.version, run.machine, "") for run in section.made_here]
    else:
        lines += [("judged", run.commit, getattr(run, "version", gather.UNKNOWN), run.machine, run.command) for run in _shown_runs(section)]
    lines += [("trained", one.manifest.commit, one.manifest.version, one.manifest.machine, one.manifest.command) for one in section.trained]
    groups: dict[tuple[str, ...], list[str]] = {}
    for what, commit, version, where, command in lines:
        groups.setdefault((what, commit, version, str(where.get("cpu", gather.UNKNOWN))), []).append(command)
    keys = ("what", "commit", "version", "machine")
    return [
        {**dict(zip(keys, key, strict=True)), "runs": len(commands), "commands": [one for one in dict.fromkeys(commands) if one]}
        for key, commands in groups.items()
    ]


def _shown_runs(section: Section) -> list[Any]:
    return [one.run for one in section.stood.policies.values()]


def _signed(parts: Sequence[Part], found: Found, order: Order) -> bytes:
    """What makes the report repeatable: its inputs by their hashes, and the runs that were judged for it."""
    paths = sorted({path for folder in order.folders for path in folder.rglob(RUN)})
    content = {
        "version": __version__,
        "commit": runs.commit(),
        "command": machine.command_line(),
        "date": machine.today(),
        "machine": {"cpu": machine.cpu_name(), "load_average": machine.load_average()},
        "inputs": {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths},
        "notes": found.notes,
        "judged": [msgspec.to_builtins(run) for part in parts for run in part.made_here],
    }
    return msgspec.json.format(msgspec.json.encode(content), indent=1) + b"\n"


def for_paper(part: Part, folder: Path) -> dict[Path, bytes]:
    """Every panel as SVG and PDF, the table as LaTeX and CSV: WORLD-PANEL.svg, WORLD-PANEL.pdf, WORLD-table.tex, WORLD-table.csv."""
    import matplotlib as mpl

    name = part.slug
    files = {
        folder / f"{name}-table.tex": tables.latex(part.table, f"{part.name}: {part.about}").encode(),
        folder / f"{name}-table.csv": tables.comma_separated(part.table).encode(),
    }
    for panel in part.panels:
        with mpl.rc_context(ink.settings(f"{name}-{panel.name}", "path")):
            whole = panels.figure(panel)
            files[folder / f"{name}-{panel.name}.svg"] = ink.paper_svg(whole)
            files[folder / f"{name}-{panel.name}.pdf"] = ink.paper_pdf(whole)
    return files

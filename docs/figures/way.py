# noqa: INP001 - a script, no module
"""Draws `way-light.svg` and `way-dark.svg`, the way from measured tables to a decision on the device: `python docs/figures/way.py`.

Written as plain SVG, so that equal code gives equal files, and a test can hold the files to this script.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
WIDTH, HEIGHT = 940, 348
HIGH = 62  # of a box
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"


@dataclass(frozen=True, slots=True)
class Palette:
    """Colours of one theme: words, lines, and the fill and edge of each folder's boxes."""

    words: str
    quiet: str
    lines: str
    folders: dict[str, tuple[str, str]]


# Okabe and Ito's hues, which the colour-blind tell apart; light fills under dark words, dark fills under light words.
LIGHT = Palette(
    "#1b1f24", "#57606a", "#57606a",
    {
        "profiles": ("#dcebf7", "#0072b2"), "runtime": ("#fbe9c9", "#b87400"),
        "envs": ("#d3efe5", "#007a59"), "agents": ("#f5e0ec", "#a8508a"),
    },
)  # fmt: skip
DARK = Palette(
    "#e6edf3", "#9aa4ae", "#9aa4ae",
    {
        "profiles": ("#12344b", "#56b4e9"), "runtime": ("#46320b", "#e69f00"),
        "envs": ("#0b3a2d", "#2fc39a"), "agents": ("#43203a", "#d98cbc"),
    },
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Box:
    """A rounded box of a folder with a title and a line under it."""

    x: int
    y: int
    width: int
    folder: str
    title: str
    text: str

    @property
    def left(self) -> tuple[int, int]:
        """Middle of its left edge."""
        return self.x, self.y + HIGH // 2

    @property
    def right(self) -> tuple[int, int]:
        """Middle of its right edge."""
        return self.x + self.width, self.y + HIGH // 2


TABLES = Box(20, 66, 148, "profiles", "measured tables", "device, edge, accuracy")
PLANS = Box(200, 66, 124, "profiles", "plan table", "every plan, its cost")
ENGINES = Box(360, 66, 156, "envs", "engines", "SimPy = compiled kernel")
ENV = Box(552, 66, 140, "envs", "environment", "Gymnasium, vector")
AGENTS = Box(728, 66, 192, "agents", "learners and rivals", "PPO, SAC-d, ..., clairvoyant")
ENCODER = Box(360, 214, 332, "runtime", "telemetry and features", "what a device knows at this moment, encoded once")
CONTROLLER = Box(20, 268, 304, "runtime", "controller, cutlayerd", "request in, exit · partition · bits out")
BUNDLE = Box(728, 268, 192, "runtime", "bundle", "weights, plans, golden decisions")
BOXES = (TABLES, PLANS, ENGINES, ENV, AGENTS, ENCODER, CONTROLLER, BUNDLE)

HEADINGS = ((20, "MEASURE"), (360, "SIMULATE"), (728, "LEARN"))
# Straight arrows as points, with words near the middle of their first stretch.
ARROWS: tuple[tuple[tuple[tuple[int, int], ...], str, tuple[int, int]], ...] = (
    ((TABLES.right, PLANS.left), "", (0, 0)),
    ((PLANS.right, ENGINES.left), "", (0, 0)),
    ((ENGINES.right, ENV.left), "", (0, 0)),
    ((ENV.right, AGENTS.left), "", (0, 0)),
    (((824, 128), (824, 268)), "export", (834, 204)),
    (((728, 314), (324, 314)), "loaded on the device, checked first", (420, 334)),
    (((438, 128), (438, 214)), "readings as they come", (448, 176)),
    (((360, 245), (172, 245), (172, 268)), "the same code on the device", (180, 234)),
    (((622, 214), (622, 128)), "observations", (632, 176)),
)


def drawn(palette: Palette) -> str:
    """The whole figure."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="{FONT}" role="img">',
        "<title>From measured tables through the simulator to a policy, and from its bundle to decisions on the device</title>",
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">',
        f'<path d="M0 0 L8 4 L0 8 z" fill="{palette.lines}"/></marker></defs>',
    ]
    parts += [_text(x, 34, word, palette.quiet, 12, 'letter-spacing="1.5"') for x, word in HEADINGS]
    parts.append(_text(20, 256, "DECIDE", palette.quiet, 12, 'letter-spacing="1.5"'))
    for points, word, (x, y) in ARROWS:
        way = " ".join(f"{px},{py}" for px, py in points)
        parts.append(f'<polyline points="{way}" fill="none" stroke="{palette.lines}" stroke-width="1.6" marker-end="url(#head)"/>')
        parts += [_text(x, y, word, palette.quiet, 12)] if word else []
    parts += [_box(box, palette) for box in BOXES]
    return "\n".join([*parts, "</svg>", ""])


def _box(box: Box, palette: Palette) -> str:
    fill, edge = palette.folders[box.folder]
    middle = box.x + box.width // 2
    rect = f'<rect x="{box.x}" y="{box.y}" width="{box.width}" height="{HIGH}" rx="8" fill="{fill}" stroke="{edge}" stroke-width="1.5"/>'
    half = box.y + HIGH // 2
    title = _text(middle, half - 4, box.title, palette.words, 14, 'text-anchor="middle" font-weight="600"')
    return "\n".join([rect, title, _text(middle, half + 15, box.text, palette.words, 11, 'text-anchor="middle"')])


def _text(x: int, y: int, words: str, colour: str, size: int, more: str = "") -> str:
    return f'<text x="{x}" y="{y}" fill="{colour}" font-size="{size}"{f" {more}" if more else ""}>{words}</text>'


FILES = {"way-light.svg": LIGHT, "way-dark.svg": DARK}

if __name__ == "__main__":
    for name, palette in FILES.items():
        (HERE / name).write_text(drawn(palette), encoding="utf-8")

"""How figures look, and how one becomes SVG inside a page: equal figures give equal bytes, and their ink follows the page's colours.

Every colour that is to change between light and dark is drawn as a stand-in, which becomes a CSS variable in a page and that
variable's light value in a file for a paper. Hues are those of Okabe and Ito ("Color Universal Design", 2008), which are told apart
with any colour vision; in the dark they are lighter, with the same hue.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Stand-in, CSS variable, value in the light (and on paper), value in the dark. Stand-ins are near their values so that a figure
# looks as it should wherever they are not replaced.
_TABLE = (
    ("#1b1e22", "--ink", "#1b1e22", "#e8eaed"),
    ("#5b6169", "--muted", "#5b6169", "#a5abb3"),
    ("#d9dce1", "--rule", "#d9dce1", "#3a3f47"),
    ("#fefefe", "--paper", "#ffffff", "#15181c"),
    ("#0072b2", "--blue", "#0072b2", "#4ba6e0"),
    ("#56b4e9", "--sky", "#3a9bd4", "#8fd0f7"),
    ("#d55e00", "--vermillion", "#d55e00", "#f08a3c"),
    ("#e69f00", "--orange", "#d18f00", "#f2b632"),
    ("#009e73", "--green", "#00875f", "#35c79a"),
    ("#cc79a7", "--purple", "#b9618f", "#e49ac3"),
    ("#8c9199", "--grey", "#82878f", "#8f959e"),
)
INK, MUTED, RULE, PAPER, BLUE, SKY, VERMILLION, ORANGE, GREEN, PURPLE, GREY = (row[0] for row in _TABLE)
# Text is laid out with this font and shown with the page's, which is no wider: nothing that fits here is cut off there.
FONT = "DejaVu Sans"


@dataclass(frozen=True, slots=True)
class Drawing:
    """A figure as it stands in a page: SVG without a name of its own, and what it says for those who do not see it."""

    svg: str
    alt: str


def css(side: str) -> str:
    """The variables of the `light` or the `dark`."""
    column = {"light": 2, "dark": 3}[side]
    return "; ".join(f"{row[1]}: {row[column]}" for row in _TABLE)


def variable(colour: str) -> str:
    """The CSS variable that a stand-in becomes; any other colour as it is."""
    return next((f"var({row[1]})" for row in _TABLE if row[0] == colour), colour)


def settings(salt: str, fonttype: str) -> dict[Any, Any]:
    """Matplotlib's settings for figures of this look; `salt` names the figure, `fonttype` says whether text stays text."""
    return {
        "svg.hashsalt": salt, "svg.fonttype": fonttype, "pdf.fonttype": 42, "font.family": FONT, "font.size": 8,
        "text.color": INK, "axes.edgecolor": MUTED, "axes.labelcolor": MUTED, "axes.titlecolor": INK,
        "xtick.color": MUTED, "ytick.color": MUTED,
        "figure.facecolor": "none", "axes.facecolor": "none", "savefig.facecolor": "none",
        "axes.spines.top": False, "axes.spines.right": False,
        "axes.grid": True, "grid.color": RULE, "grid.linewidth": 0.6, "axes.axisbelow": True, "axes.linewidth": 0.7, "lines.linewidth": 1.6,
        "xtick.major.width": 0.7, "ytick.major.width": 0.7, "xtick.major.size": 3, "ytick.major.size": 3, "axes.titlesize": 8.5,
        "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.labelsize": 8, "xtick.labelsize": 7.5, "ytick.labelsize": 7.5,
        "legend.frameon": False, "legend.fontsize": 7.5, "figure.constrained_layout.use": True,
    }  # fmt: skip


def inline(figure: Figure, name: str, alt: str) -> Drawing:
    """The figure as SVG for a page; `name` keeps its ids apart from those of the others."""
    text = _svg(figure)
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text).replace("xlink:href", "href")  # known to HTML without being named
    text = re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', rf'<svg viewBox="\1" role="img" aria-label="{_escaped(alt)}">', text, count=1)
    text = re.sub(r'id="([^"]*)"', rf'id="{name}-\1"', text)
    text = re.sub(r'href="#([^"]*)"', rf'href="#{name}-\1"', text)
    text = re.sub(r"url\(#([^)]*)\)", rf"url(#{name}-\1)", text)
    text = re.sub(rf"'{FONT}'[^;\"]*", "var(--figure-font)", text)
    for stand_in, variable_name, *_ in _TABLE:
        text = text.replace(stand_in, f"var({variable_name})")
    return Drawing(text.strip(), alt)


def paper_svg(figure: Figure) -> bytes:
    """The figure as an SVG file of its own, in the light."""
    text = _svg(figure)
    for stand_in, _, light, _ in _TABLE:
        text = text.replace(stand_in, light)
    return text.encode()


def paper_pdf(figure: Figure) -> bytes:
    """The figure as a PDF file without a date."""
    held = io.BytesIO()
    figure.savefig(held, format="pdf", metadata={"CreationDate": None, "Creator": None, "Producer": None})
    return held.getvalue()


def _svg(figure: Figure) -> str:
    held = io.StringIO()
    figure.savefig(held, format="svg", metadata={"Date": None, "Creator": None})
    return held.getvalue()


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;").replace(">", "&gt;")

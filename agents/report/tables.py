"""A part's table as text for the page, as LaTeX for a paper, and as CSV with SI units in the names of its columns."""

from __future__ import annotations

import csv
import dataclasses
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cutlayer.agents.report.numbers import Row

HEAD = (
    ("policy", ""), ("seeds", ""), ("score", "95 %"), ("reward", "mean"), ("missed", "%, 95 %"),
    ("p50", "ms"), ("p95", "ms"), ("p99", "ms"), ("accuracy", "%"), ("energy", "mJ"),
)  # fmt: skip
_TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "−": "$-$", "–": "--",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Table:
    """head: name and unit of each column; rows: dataclasses of one type, unrounded; cells: the same as text; looks: a word for each row."""

    head: Sequence[tuple[str, str]]
    rows: Sequence[Any]
    cells: list[list[str]]
    looks: list[str]


def of_policies(rows: Sequence[Row]) -> Table:
    """The table of a world."""
    return Table(HEAD, rows, [cells(row) for row in rows], [row.kind for row in rows])


def cells(row: Row) -> list[str]:
    """A row as the page shows it, in the order of `HEAD`."""
    return [
        row.policy,
        str(row.seeds),
        _scored(row),
        f"{row.reward_mean:.4f}".replace("-", "−"),
        missed(row.miss_rate, row.miss_low, row.miss_high),
        *(f"{1e3 * value:.1f}" for value in (row.latency_p50_s, row.latency_p95_s, row.latency_p99_s)),
        f"{100 * row.accuracy:.2f}",
        f"{1e3 * row.energy_j:.2f}",
    ]


def _scored(row: Row) -> str:
    if row.score is None:
        return "–"
    if row.score_low is None or row.score_high is None:
        return f"{row.score:.3f}".replace("-", "−")
    return f"{row.score:.3f} [{row.score_low:.3f}, {row.score_high:.3f}]".replace("-", "−")


def missed(rate: float | None, low: float, high: float) -> str:
    """A rate with its interval; only a bound where there are too few misses to tell a rate from (None)."""
    return f"< {100 * high:.2g}" if rate is None else f"{100 * rate:.2f} [{100 * low:.2f}, {100 * high:.2f}]"


def latex(table: Table, caption: str) -> str:
    """A table environment for the booktabs package."""
    names = " & ".join(escaped(name) for name, _ in table.head)
    units = " & ".join(f"({escaped(unit)})" if unit else "" for _, unit in table.head)
    body = "\n".join(" & ".join(escaped(cell) for cell in row) + r" \\" for row in table.cells)
    return (
        "% needs \\usepackage{booktabs}\n\\begin{table}\n\\centering\n\\caption{" + escaped(caption) + "}\n"
        f"\\begin{{tabular}}{{lr{'r' * (len(table.head) - 2)}}}\n\\toprule\n{names} \\\\\n{units} \\\\\n\\midrule\n{body}\n\\bottomrule\n"
        "\\end{tabular}\n\\end{table}\n"
    )


def escaped(text: str) -> str:
    """Text with LaTeX's special signs made harmless."""
    return "".join(_TEX.get(sign, sign) for sign in text)


def comma_separated(table: Table) -> str:
    """Every field of every row, unrounded; nothing where there is no number."""
    held = io.StringIO()
    writer = csv.writer(held, lineterminator="\n")
    names = [field.name for field in dataclasses.fields(table.rows[0])]
    writer.writerow(names)
    for row in table.rows:
        writer.writerow(["" if getattr(row, name) is None else getattr(row, name) for name in names])
    return held.getvalue()

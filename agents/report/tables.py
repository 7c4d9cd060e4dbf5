"""The table of a world as text for the page, as LaTeX for a paper, and as CSV with SI units in the names of its columns."""

from __future__ import annotations

import csv
import dataclasses
import io
from typing import TYPE_CHECKING

from cutlayer.agents.report.numbers import Row

if TYPE_CHECKING:
    from collections.abc import Sequence

HEAD = (
    ("policy", ""), ("seeds", ""), ("score", "95 %"), ("reward", "mean"), ("missed", "%, 95 %"),
    ("p50", "ms"), ("p95", "ms"), ("p99", "ms"), ("accuracy", "%"), ("energy", "mJ"),
)  # fmt: skip
_TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}", "−": "$-$", "–": "--",
}  # fmt: skip


def cells(row: Row) -> list[str]:
    """A row as the page shows it, in the order of `HEAD`."""
    return [
        row.policy,
        str(row.seeds),
        _scored(row),
        f"{row.reward_mean:.4f}".replace("-", "−"),
        _missed(row),
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


def _missed(row: Row) -> str:
    """A rate with its interval; only a bound where there are too few misses to tell a rate from."""
    if row.miss_rate is None:
        return f"< {100 * row.miss_high:.2g}"
    return f"{100 * row.miss_rate:.2f} [{100 * row.miss_low:.2f}, {100 * row.miss_high:.2f}]"


def latex(rows: Sequence[Row], caption: str) -> str:
    """A table environment for the booktabs package."""
    names = " & ".join(escaped(name) for name, _ in HEAD)
    units = " & ".join(f"({escaped(unit)})" if unit else "" for _, unit in HEAD)
    body = "\n".join(" & ".join(escaped(cell) for cell in cells(row)) + r" \\" for row in rows)
    return (
        "% needs \\usepackage{booktabs}\n\\begin{table}\n\\centering\n\\caption{" + escaped(caption) + "}\n"
        f"\\begin{{tabular}}{{lr{'r' * (len(HEAD) - 2)}}}\n\\toprule\n{names} \\\\\n{units} \\\\\n\\midrule\n{body}\n\\bottomrule\n"
        "\\end{tabular}\n\\end{table}\n"
    )


def escaped(text: str) -> str:
    """Text with LaTeX's special signs made harmless."""
    return "".join(_TEX.get(sign, sign) for sign in text)


def comma_separated(rows: Sequence[Row]) -> str:
    """Every field of every row, unrounded; nothing where there is no number."""
    held = io.StringIO()
    writer = csv.writer(held, lineterminator="\n")
    names = [field.name for field in dataclasses.fields(Row)]
    writer.writerow(names)
    for row in rows:
        writer.writerow(["" if getattr(row, name) is None else getattr(row, name) for name in names])
    return held.getvalue()

"""The benchmark's page is what its runs say, and its runs are kept beside it."""

from __future__ import annotations

from cutlayer.agents import benchmark_page


def test_the_page_is_drawn_from_the_runs_that_are_kept(root):
    drawn = benchmark_page.page(root / "docs" / "results" / "benchmark")
    assert drawn == (root / "docs" / "benchmark.md").read_text(encoding="utf-8"), (
        "run: cutlayer benchmark -o runs/benchmark --pack docs/results/benchmark --page docs/benchmark.md"
    )

"""What was tried: the page's figures are those of the file that it names."""

from __future__ import annotations

import csv
import re

import pytest


@pytest.fixture(scope="module")
def rows(root):
    with (root / "docs/results/tried.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_every_figure_of_the_page_is_one_of_the_file(root, rows):
    page = (root / "docs/tried.md").read_text(encoding="utf-8")
    kept = {round(float(row[name]), 4) for row in rows for name in ("best_reward", "last_reward", "bayes_greedy_reward") if row[name]}
    told = re.findall(r"\b0\.\d{2,4}\b", page.split("## What led out")[1])
    settings = {"0.95", "0.0003", "0.002", "0.03"}  # discounts and weights
    assert len(told) > 30
    for figure in set(told) - settings:
        digits = len(figure) - 2
        assert float(figure) in {round(one, digits) for one in kept}, figure


def test_every_world_of_the_file_is_on_the_page(root, rows):
    page = (root / "docs/tried.md").read_text(encoding="utf-8")
    for world in {row["world"] for row in rows} - {"lte-uplink"}:
        assert f"`{world}`" in page

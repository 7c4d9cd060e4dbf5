"""The notebooks are kept as their readers need them: pairs that agree, without outputs, each with its words; `make notebooks` runs them."""

from __future__ import annotations

import json
import re

import jupytext
import nbformat
import pytest

NAMES = ["01_profile_and_knobs", "02_train_and_look", "03_your_own_network_and_trace", "04_sweep_and_report", "05_serve_and_watch"]


@pytest.fixture(params=NAMES)
def pair(request, root):
    """(the Python file as cells, the notebook)."""
    stem = root / "notebooks" / request.param
    return jupytext.read(stem.with_suffix(".py")), nbformat.read(stem.with_suffix(".ipynb"), as_version=4)


def test_these_are_all(root):
    assert sorted(path.stem for path in (root / "notebooks").glob("*.py")) == NAMES
    assert sorted(path.stem for path in (root / "notebooks").glob("*.ipynb")) == NAMES
    page = (root / "docs/notebooks.md").read_text(encoding="utf-8")
    assert re.findall(r"\(\.\./notebooks/(\w+)\.ipynb\)", page) == NAMES


def test_both_files_of_a_pair_hold_the_same_cells(pair):
    script, notebook = pair
    cells = [[(cell.cell_type, cell.source) for cell in one.cells] for one in pair]
    assert cells[0] == cells[1], "run: jupytext --sync notebooks/*.py"
    assert script.metadata.kernelspec.name == notebook.metadata.kernelspec.name == "python3"


def test_a_notebook_holds_no_outputs(pair):
    nbformat.validate(pair[1])
    for cell in pair[1].cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None
    assert len(json.dumps(pair[1])) < 50_000


def test_a_notebook_opens_with_its_title_explains_and_ends_with_what_to_try_next(pair):
    cells = pair[1].cells
    assert re.match(r"# \d\. \w", cells[0].source)
    assert cells[-1].cell_type == "markdown"
    assert "## What to try next\n" in cells[-1].source
    assert sum(cell.cell_type == "markdown" for cell in cells) >= 5


def test_every_figure_names_its_axes_with_units(pair):
    """Each cell that draws sets the label of both axes, or shares one that is set."""
    drawn = [cell.source for cell in pair[1].cells if "plt.show()" in cell.source]
    assert drawn
    for source in drawn:
        assert re.search(r"xlabel", source)
        assert re.search(r"ylabel|set_yticks|barh", source)


def test_what_a_notebook_refers_to_is_there(pair, root):
    text = "\n".join(cell.source for cell in pair[1].cells)
    for path in re.findall(r"`(docs/[\w-]+\.md)`", text):
        assert (root / path).exists(), path
    for number in re.findall(r"notebook (\d)", text):
        assert 1 <= int(number) <= len(NAMES)

"""The ladder is one table: the page is drawn from it, and what the code names is in it."""

from __future__ import annotations

import importlib.util
import re
from typing import TYPE_CHECKING, get_args

import pytest

from cutlayer.runtime import guard
from cutlayer.runtime import ladder as ladder_module
from cutlayer.runtime.controller import Controller
from cutlayer.runtime.estimators import Estimators
from cutlayer.runtime.ladder import FAULTS, LADDER, ROWS, RUNGS, AgedGreedy, Task, rule_of
from cutlayer.runtime.messages import Step

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def script(root: Path):
    spec = importlib.util.spec_from_file_location("fallbacks", root / "docs/figures/fallbacks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_drawn_from_the_table(script) -> None:
    page = script.PAGE.read_text(encoding="utf-8")
    assert script.drawn(page) == page, "run python docs/figures/fallbacks.py"
    for row in ROWS[1:]:
        assert f"| `{row.reason}` | {row.condition} | `{row.rung}` |" in page


def test_the_settings_that_the_page_names_exist(script) -> None:
    prose = re.sub(r"<!-- (\w+) -->.*?<!-- end -->", "", script.PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
    named = set(re.findall(r"`(\w+_s|\w+_margin|\w+_share|edge_failures|slow_answers|looks|first_look|sure_blocks|share|block)`", prose))
    known = {*script.Settings.__struct_fields__, *script.Terms.__struct_fields__, "give_up_s"}
    assert len(named) > 12
    assert named <= known


def test_reasons_are_unique_and_every_rung_is_explained() -> None:
    assert len(LADDER) == len(ROWS)
    assert set(RUNGS) == set(get_args(Step)) == set(LADDER.values())
    assert set(LADDER) - {"", "not-active"} == FAULTS
    assert len({row.counter for row in ROWS if row.fault}) == len(FAULTS)


def test_every_reason_in_the_code_is_a_row(root: Path) -> None:
    """A word with hyphens in quotes is a reason, a rung or a verdict."""
    text = "".join((root / "runtime" / name).read_text(encoding="utf-8") for name in ("controller.py", "ladder.py"))
    words = set(re.findall(r'"([a-z]+(?:-[a-z]+)+)"', text))
    assert words - {"roll-back"} == set(LADDER) - {""} | {"last-good", "static-safe"}


def test_a_bundle_without_a_rule_of_its_own_has_the_greedy_one(make_bundle) -> None:
    bundle = make_bundle()
    assert isinstance(rule_of(bundle, Estimators()), AgedGreedy)
    assert isinstance(rule_of(Task.of(bundle), Estimators()), AgedGreedy)


def test_the_parts_are_used(make_bundle) -> None:
    """What watches is of this module: a second breaker or range elsewhere would be another truth."""
    controller = Controller(make_bundle())
    assert isinstance(controller.edge, guard.Breaker)
    assert isinstance(controller._candidate, ladder_module.Learned)

"""A camera with few plans, for what would take long with all of them."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path

import pytest

from cutlayer.envs import scenarios
from cutlayer.profiles.plans import PlanTable


@pytest.fixture(scope="session")
def few_plans():
    """Six plans: both ends of the built-in table, and some between."""
    table = scenarios.plan_table()
    ends = {table.device_only(0), table.device_only(), table.edge_only()}
    between = [plan for plan in range(len(table)) if plan not in ends]
    chosen = sorted({*ends, *(between[len(between) * i // 4] for i in (1, 2, 3))})
    return PlanTable(table.model, table.device, table.edge, table.depths, tuple(table.rows[i] for i in chosen))


@pytest.fixture(scope="session")
def small(few_plans):
    """The camera scenario with few plans and 50 requests an episode."""
    return dataclasses.replace(scenarios.camera(few_plans), name="small", requests=50)


@pytest.fixture(scope="session")
def tiny():
    """The module `tiny.py` beside this file, which is a script as well."""
    spec = importlib.util.spec_from_file_location("tiny", Path(__file__).with_name("tiny.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tiny_learners(tiny, monkeypatch):
    """`train` makes learners small enough for tests."""
    from cutlayer.agents import train

    monkeypatch.setattr(train, "LEARNERS", tiny.LEARNERS)

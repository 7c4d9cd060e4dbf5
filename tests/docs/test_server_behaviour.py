"""The page "Server behaviour" names a test for each promise, and each of them exists."""

from __future__ import annotations

import ast
import re

import pytest


@pytest.fixture(scope="module")
def page(root):
    return (root / "docs/server-behaviour.md").read_text(encoding="utf-8")


def rows(page):
    found = [
        line.strip("|").split(" | ") for line in page.splitlines() if line.startswith("|") and not line.startswith(("| promise", "|---"))
    ]
    assert all(len(row) == 2 for row in found), "a promise, and what holds it"
    return found


def named_in(file):
    """Names of the test functions of a file."""
    return {node.name for node in ast.parse(file.read_text(encoding="utf-8")).body if isinstance(node, ast.FunctionDef)}


def test_every_promise_names_tests_that_exist(page, root):
    found = rows(page)
    assert len(found) >= 35
    for promise, held in found:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", held)
        assert named, f"{promise.strip()!r} names no test"
        for file, name in named:
            assert name.startswith("test_")
            assert name in named_in(root / file), f"{file} has no {name}, which is to hold: {promise.strip()}"


def test_no_promise_is_made_twice(page):
    promises = [promise for promise, _ in rows(page)]
    assert len(set(promises)) == len(promises)

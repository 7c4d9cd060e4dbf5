"""What the tests of pages share: the code blocks of a page, and running them as a reader would, in their order."""

from __future__ import annotations

import re
import sys
import types
from pathlib import Path

import pytest

SAVED = re.compile(r"[Ss]ave this as `([\w.-]+)`[^\n]*:\n\n```\w+\n(.*?)^```", re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="session")
def blocks():
    """The contents of every block of a language in a page's text."""
    return lambda text, language: re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


@pytest.fixture
def follow(root, blocks, tmp_path, monkeypatch):
    """Follow a page in an empty folder: write the files it saves, then run its other Python blocks as one program; what that left."""
    monkeypatch.chdir(tmp_path)

    def through(name):
        text = (root / "docs" / name).read_text(encoding="utf-8")
        saved = dict(SAVED.findall(text))
        for file, content in saved.items():
            Path(file).write_text(content, encoding="utf-8")
        left = types.ModuleType("page")
        monkeypatch.setitem(sys.modules, "page", left)
        for code in blocks(text, "python"):
            if code not in saved.values():
                exec(compile(code, f"docs/{name}", "exec"), vars(left))  # noqa: S102 - the page's own code
        return left

    return through

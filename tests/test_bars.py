"""Progress is shown on a terminal, a real one by the kernel's account, and never in a pipe."""

from __future__ import annotations

import os
import pty
import sys

import pytest

from cutlayer.options import progress_bar
from cutlayer.sweep_cli import rich_bar


def plain():
    report = progress_bar("train camera")
    for share in (0.0, 0.5, 1.0):
        report(share)


def rich():
    with rich_bar("sweep grid.toml") as report:
        for share in (0.0, 0.5, 1.0):
            report(share)


@pytest.mark.parametrize(("bar", "name"), [(plain, "train camera"), (rich, "sweep grid.toml")])
def test_on_a_terminal_it_goes_to_the_end(bar, name, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    master, slave = pty.openpty()
    with os.fdopen(slave, "w", encoding="utf-8") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        bar()
        terminal.flush()
        monkeypatch.undo()
        shown = os.read(master, 65_536).decode()
    os.close(master)
    assert name in shown
    assert "100" in shown
    assert "\r" in shown


@pytest.mark.parametrize("bar", [plain, rich])
def test_in_a_pipe_it_is_silent(bar, capsys):
    bar()
    assert capsys.readouterr() == ("", "")

"""The quickstart is true: its commands run in its order in an empty folder, with a channel trace of one's own, in shorter runs."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from cutlayer import cli
from cutlayer.agents.sweep import grid, plan
from cutlayer.runtime import daemon

# What makes each command short; a reader's runs are longer, and of the same kind. `make` and the shell's own commands are tested elsewhere.
SHORTER = {
    "channel": ["--replicas", "3"],
    "evaluate": ["--episodes", "1", "--no-score"],
    "train": ["--steps", "4096"],
    "report": ["--episodes", "1", "--no-maps"],
}


@pytest.fixture
def reader(follow, root, blocks, monkeypatch):
    """What every command of the page printed, by the command; the folder is the current one."""
    monkeypatch.setenv("CUTLAYER_DATA", "nowhere")
    follow("quickstart.md")
    text = (root / "docs/quickstart.md").read_text(encoding="utf-8")
    return [line.partition("#")[0].strip() for block in blocks(text, "sh") for line in block.splitlines() if line.startswith("cutlayer")]


def test_its_commands_run_in_its_order(reader, capsys):
    printed = {}
    for command in reader:
        program, *words = shlex.split(command)
        if words[0] == "sweep":  # its pilot trains for as long as the rest of the page together
            assert len(plan.runs(grid.load(Path(words[1])))) == 9
            continue
        if program == "cutlayerd":
            assert daemon.main([*words, "--check-config"]) == 0
            continue
        capsys.readouterr()
        code = cli.main([*words, *SHORTER.get(words[0], [])])
        printed[command] = capsys.readouterr().out
        assert code == 0, f"{command}\n{printed[command]}"
    assert len(printed) >= 7
    assert all(printed.values())
    run = json.loads(Path("runs/mine/run.json").read_text(encoding="utf-8"))
    assert run["finished"]
    assert "policy" in Path("report.html").read_text(encoding="utf-8")
    assert Path("fit.png").read_bytes().startswith(b"\x89PNG")
    judged = [text for command, text in printed.items() if " evaluate " in command]
    assert len(judged) == 3, "two rules and the learned policy"
    assert all(re.search(r"reward -?\d\.\d{4}.*\n.*miss.*\nlatency p50", text) for text in judged)


def test_its_trace_is_one_worth_trying(reader):
    """Rates span what a policy must tell apart, the link goes away and comes back, and the two drives differ."""
    from cutlayer.envs.channels.traces import read

    drives = [read(Path(f"{name}.csv")) for name in ("drive-a", "drive-b")]
    for times, rates in drives:
        assert times[-1] > 590
        assert 0.01 < (rates < 1e5).mean() < 0.2
        assert rates.max() > 10 * sorted(rates)[len(rates) // 4]
    assert list(drives[0][1]) != list(drives[1][1])
    assert reader

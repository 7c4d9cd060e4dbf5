"""The README is true: its example runs, its commands exist, its figures are those of the run beside them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from cutlayer import cli
from cutlayer.agents.demo import table

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def readme(root: Path) -> str:
    return (root / "README.md").read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_the_python_example_is_short_and_runs(readme: str, tmp_path: Path) -> None:
    (example,) = blocks(readme, "python")
    assert len(example.strip().splitlines()) <= 20
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", example], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.strip().splitlines()
    assert len(lines) == 10
    assert all(re.match(r"e\d .* ms  reward -?\d\.\d\d$", line) for line in lines), done.stdout


def test_every_command_named_is_one(readme: str) -> None:
    named = re.findall(r"`cutlayer ([^`]+)`", readme)
    assert len(named) >= 6
    for command in named:
        cli.parser().parse_args(command.split())  # exits with 2 on an unknown command or option


def test_the_results_are_those_of_the_run(readme: str, root: Path) -> None:
    summary = json.loads((root / "docs/results/demo/summary.json").read_text(encoding="utf-8"))
    run = json.loads((root / "docs/results/demo/run.json").read_text(encoding="utf-8"))
    assert summary["run"] == run
    (shown,) = blocks(readme, "text results")
    assert shown.strip() == table(summary).strip()


def test_the_folders_of_the_map_exist(readme: str, root: Path) -> None:
    folders = re.findall(r"^\| `(\w+)/` \|", readme, re.MULTILINE)
    assert len(folders) == 7
    assert all((root / folder).is_dir() for folder in folders)

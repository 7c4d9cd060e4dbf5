"""`run.json`: what makes a result repeatable, beside every result."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from cutlayer import __version__
from cutlayer.files import write_atomic
from cutlayer.profiles import machine

if TYPE_CHECKING:
    from cutlayer.envs.spec import Scenario


def commit() -> str:
    """Commit of the source, with `+` where it was changed since; `unknown` outside a checkout."""
    here = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(here), *arguments], capture_output=True, text=True, check=True)  # noqa: S603, S607 - fixed arguments; git is looked up on PATH like any tool
        return done.stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def origin() -> dict[str, object]:
    """Version, commit, command line, date and machine: what made a result, whatever it is of."""
    return {
        "version": __version__,
        "commit": commit(),
        "command": machine.command_line(),
        "date": machine.today(),
        "machine": {"cpu": machine.cpu_name(), "load_average": machine.load_average()},
    }


def manifest(scenario: Scenario, seeds: dict[str, object], **more: object) -> dict[str, object]:
    """Version, commit, seeds, scenario, table hashes, command line and machine of a run."""
    return {
        **origin(),
        "seeds": seeds,
        "scenario": scenario.name,
        "inputs": scenario.inputs,
        "plans": len(scenario.plans),
        "plans_sha256": scenario.plans.digest(),
        "device": scenario.plans.device,
        "edge": scenario.plans.edge,
        **more,
    }


def write(folder: Path, name: str, content: dict[str, object]) -> Path:
    """Write `content` as indented JSON into `folder`, whole or not at all."""
    path = folder / name
    write_atomic(path, msgspec.json.format(msgspec.json.encode(content), indent=1) + b"\n")
    return path

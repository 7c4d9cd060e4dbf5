"""`run.json` says what makes a result repeatable."""

from __future__ import annotations

import json
import re
import sys

import pytest

from cutlayer import __version__
from cutlayer.agents import runs


def test_a_manifest_says_all_that_makes_a_run_repeatable(small):
    made = runs.manifest(small, {"training": 3}, algorithm="ppo", recipe={"steps": 5})
    assert made["version"] == __version__
    assert re.fullmatch(r"[0-9a-f]{12}\+?|unknown", made["commit"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", made["date"])
    assert made["command"]
    assert made["seeds"] == {"training": 3}
    assert (made["scenario"], made["inputs"]) == ("small", small.inputs)
    assert (made["plans"], made["plans_sha256"]) == (len(small.plans), small.plans.digest())
    assert (made["device"], made["edge"]) == (small.plans.device, small.plans.edge)
    assert made["machine"]["cpu"]
    assert made["machine"]["load_average"] >= 0
    assert (made["algorithm"], made["recipe"]) == ("ppo", {"steps": 5})
    assert json.loads(json.dumps(made)) == made


def test_it_names_no_folder_that_the_user_did_not_type(small, root, monkeypatch):
    monkeypatch.setattr(sys, "argv", [str(root / "bin" / "cutlayer"), "train", "-o", "runs/mine"])
    made = runs.manifest(small, {})
    assert made["command"] == "cutlayer train -o runs/mine"
    assert str(root) not in json.dumps(made)


@pytest.mark.parametrize("path", ["", "/nowhere"])
def test_without_git_the_commit_is_unknown(monkeypatch, path):
    monkeypatch.setenv("PATH", path)
    assert runs.commit() == "unknown"


def test_outside_a_checkout_the_commit_is_unknown(monkeypatch, tmp_path):
    monkeypatch.setattr(runs, "__file__", str(tmp_path / "runs.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert runs.commit() == "unknown"


def test_what_is_written_is_whole_json_for_people(tmp_path):
    path = runs.write(tmp_path / "new", "run.json", {"a": [1, 2], "b": {"c": 0.5}})
    assert path == tmp_path / "new" / "run.json"
    text = path.read_text(encoding="utf-8")
    assert json.loads(text) == {"a": [1, 2], "b": {"c": 0.5}}
    assert text.endswith("}\n")
    assert '\n "a"' in text
    assert [file.name for file in path.parent.iterdir()] == ["run.json"]

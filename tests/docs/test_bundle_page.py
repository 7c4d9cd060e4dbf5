"""The page "What is in a bundle" is true: its commands and its program run, and its table names every part."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
import sys
import zipfile

import pytest

from cutlayer.agents import distil, train
from cutlayer.envs import scenarios
from cutlayer.runtime import bundle, bundle_archive, features


@pytest.fixture(scope="module")
def page(root):
    return (root / "docs" / "bundle.md").read_text(encoding="utf-8")


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


@pytest.mark.skipif(not all(map(shutil.which, ("cc", "openssl", "unzip"))), reason="the page needs cc, openssl and unzip on PATH")
def test_its_commands_and_its_program_run_in_its_order(page, run, tmp_path, monkeypatch):
    """`cutlayer` in this process, with a smaller tree than one would make; everything else as it stands."""
    monkeypatch.setattr(distil, "Recipe", functools.partial(distil.Recipe, rounds=1, episodes=2))
    train.train(scenarios.make("camera"), "ppo", 0, tmp_path / "runs" / "mine", steps=64)
    ran = 0
    for line in "".join(blocks(page, "sh")).splitlines():
        if line.startswith("cutlayer "):
            code, _, err = run(*line.split()[1:])
            assert code == 0, f"{line}\n{err}"
        else:
            done = subprocess.run(["bash", "-c", line], cwd=tmp_path, check=False, capture_output=True, text=True)
            assert done.returncode == 0, f"{line}\n{done.stderr}"
        ran += 1
    assert ran >= 8
    (program,) = blocks(page, "python")
    (tmp_path / "decide.py").write_text(program, encoding="utf-8")
    for name in ("policy.cutlayer", "signed.cutlayer"):
        done = subprocess.run([sys.executable, "decide.py", name], cwd=tmp_path, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert "'partition'" in done.stdout
    with zipfile.ZipFile(tmp_path / "policy.cutlayer") as archive:
        assert {*bundle.PARTS, bundle.RANGES, bundle.TREE} <= set(archive.namelist())


def test_its_table_names_every_part_and_every_field_of_the_manifest(page):
    named = re.findall(r"^\| `([\w.]+)` \| (.*) \| .* \|$", page, re.MULTILINE)
    assert [name for name, _ in named] == [bundle.MANIFEST, *bundle.PARTS, *bundle.OPTIONAL, bundle.SIGNATURE]
    told = dict(named)[bundle.MANIFEST]
    for field in bundle.Manifest.__struct_fields__:
        assert f"`{field}`" in told
    assert f"`bundle_version` {bundle.VERSION}" in told


def test_its_numbers_are_those_of_the_code(page):
    files, parts = bundle_archive.MOST_FILE_BYTES >> 20, bundle_archive.MOST_BYTES >> 20
    assert f"A file has at most {files} MiB and a part at most {parts} MiB unpacked" in page
    assert f"{bundle.GOLDEN} `observations`" in page
    assert b'"low":' in bundle.feature_table(features.BASE).replace(b" ", b"")

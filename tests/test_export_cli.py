"""`cutlayer export`: a bundle, signed if asked for, with a tree if asked for, and as C if asked for."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from cutlayer.agents import distil, train
from cutlayer.agents.bayes import tuning
from cutlayer.envs import scenarios
from cutlayer.runtime import bundle, bundle_signing
from cutlayer.runtime.filters import Link
from cutlayer.runtime.priced import Parameters


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A short run on the camera; not to be written to."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    train.train(scenarios.make("camera"), "ppo", 0, folder, steps=64)
    return folder


@pytest.fixture
def key(tmp_path):
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", "key.pem"], cwd=tmp_path, check=True)
    subprocess.run(["openssl", "pkey", "-in", "key.pem", "-pubout", "-out", "key.pub.pem"], cwd=tmp_path, check=True)
    return tmp_path / "key.pem"


def test_everything_at_once(run, trained, key, tmp_path, monkeypatch):
    monkeypatch.setattr(distil, "Recipe", functools.partial(distil.Recipe, rounds=1, episodes=2))
    arguments = ["--sign", key, "--tree", "--leaves", "8", "--seed", "3", "--c", "c", "--json"]
    code, out, err = run("export", trained, "-o", "policy.cutlayer", *arguments)
    assert (code, err) == (0, "")
    said = json.loads(out)
    assert (said["scenario"], said["algorithm"], said["signed"]) == ("camera", "ppo", True)
    assert said["bytes"] == (tmp_path / "policy.cutlayer").stat().st_size < 1_000_000
    loaded = bundle.load(tmp_path / "policy.cutlayer", bundle_signing.public_key(tmp_path / "key.pub.pem"))
    assert said["tree"] == loaded.distilled
    assert loaded.distilled["leaves"] <= 8
    assert loaded.distilled["seed"] == 3
    assert loaded.tree is not None
    assert loaded.ranges is not None
    assert [Path(file).name for file in said["c"]] == ["cutlayer_policy.h", "cutlayer_policy.c"]
    assert all((tmp_path / file).exists() for file in said["c"])


def test_the_rule_of_the_fallback_is_tuned_for_the_scenario_and_travels_along(run, trained, tmp_path, monkeypatch):
    parameters, asked = Parameters(Link(5e6, (0.5, 0.2, 0.0), (10.0, 0.5, 1.0)), cancel_margin_s=0.02), []

    def tuned(scenario, seed, kind):
        asked.append((scenario.name, seed, kind))
        return SimpleNamespace(parameters=parameters)

    monkeypatch.setattr(tuning, "tuned", tuned)
    code, _, err = run("export", trained, "-o", "policy.cutlayer", "--bayes", "--seed", "4")
    assert code == 0, err
    assert asked == [("camera", 4, "bayes-greedy")]
    assert bundle.load(tmp_path / "policy.cutlayer").bayes == parameters


def test_in_words(run, trained, tmp_path, monkeypatch):
    monkeypatch.setattr(distil, "Recipe", functools.partial(distil.Recipe, rounds=1, episodes=2))
    code, out, _ = run("export", trained, "-o", "policy.cutlayer", "--tree")
    assert code == 0
    wrote, tree = out.splitlines()
    assert wrote.startswith("wrote policy.cutlayer, ")
    assert wrote.endswith("; next: cutlayerd --bundle policy.cutlayer")
    assert "as the network and loses" in tree


def test_a_key_that_cannot_sign_costs_no_time_and_writes_nothing(refused, trained):
    assert "cannot read the private key none.pem" in refused("export", trained, "-o", "policy.cutlayer", "--sign", "none.pem")


def test_a_tree_that_asks_nothing_is_refused(refused, trained):
    assert "a tree of 1 leaves asks nothing" in refused("export", trained, "-o", "policy.cutlayer", "--tree", "--leaves", "1")


def test_without_scikit_learn_the_tree_is_refused_in_one_line(refused, trained, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.tree", None)
    line = "a tree is fitted by scikit-learn, which is not installed; install it with: pip install 'cutlayer[tree]'"
    assert line in refused("export", trained, "-o", "policy.cutlayer", "--tree")

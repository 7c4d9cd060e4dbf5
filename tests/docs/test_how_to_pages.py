"""The pages on adding a model, a codec, a scenario and a learner are true: their code runs in its order and does what they say."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from cutlayer.errors import PeerError


@pytest.fixture(autouse=True)
def _registries_as_they_were():
    """What a page adds to a registry is gone afterwards: other tests count what is in them."""
    from cutlayer.agents.baselines import RULES
    from cutlayer.agents.learners import LEARNERS
    from cutlayer.envs.channels import KINDS
    from cutlayer.envs.scenarios import SCENARIOS

    registries = (RULES, LEARNERS, KINDS, SCENARIOS)
    before = [dict(one) for one in registries]
    yield
    for one, held in zip(registries, before, strict=True):
        one.clear()
        one.update(held)


def test_a_model_is_added_as_the_page_says(follow, capsys):
    left = follow("add-a-model.md")
    assert left.net.depths == (1, 2)
    assert (left.plans.model, left.plans.device, left.plans.edge) == (left.net.name, "my-device", "my-server")
    assert left.device.provenance.kind == "derived"
    assert left.env.unwrapped.scenario.plans.digest() == left.plans.digest()
    printed = capsys.readouterr().out
    assert f"{len(left.plans)} plans, such as e1 p1 4b" in printed
    assert re.search(r"^\d+\.\d ms, reward -?\d\.\d\d$", printed, re.MULTILINE)


def test_a_codec_is_added_as_the_page_says(follow, capsys):
    left = follow("add-a-codec.md")
    assert {row.codec for row in left.plans.rows} == {"affine", "deflate"}
    packed, plain = (left.plans.rows[left.plans.index(0, 1, 4, codec)] for codec in ("deflate", "affine"))
    assert packed.accuracy == plain.accuracy, "it keeps the values as they are"
    assert packed.payload_bytes < plain.payload_bytes
    assert packed.encode_s > plain.encode_s
    assert capsys.readouterr().out.count(" bytes") == 4


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: data + b"x", lambda data: b"no" + data, lambda data: data * 2])
def test_the_codec_of_the_page_refuses_damage(root, blocks, damage):
    page = (root / "docs/add-a-codec.md").read_text(encoding="utf-8")
    names = {}
    exec(blocks(page, "python")[0], names)  # noqa: S102 - the page's own code
    codec, x = names["Deflate"](), np.maximum(np.random.default_rng(1).normal(size=(8, 4, 4)), 0).astype(np.float32)
    sent = codec.encode(x, 1, 4)
    with pytest.raises(PeerError, match=r"payload of \d+ bytes"):
        codec.decode(names["replace"](sent, data=damage(sent.data)), 1, x.shape)


def test_a_scenario_is_added_as_the_page_says(follow, capsys, root, blocks):
    from cutlayer import cli
    from cutlayer.envs import scenarios

    left = follow("add-a-scenario.md")
    assert "A camera on a train: 80 ms" in capsys.readouterr().out
    assert left.env.unwrapped.scenario.name == "tunnel"
    file = scenarios.make("tunnel.toml")
    assert (file.requests, file.objective.deadline_s, file.channel) == (400, 0.08, left.tunnel().channel)
    assert isinstance(left.channel, left.Handover)
    assert 0.02 < np.mean(left.rates == 0) < 0.06
    (command,) = blocks((root / "docs/add-a-scenario.md").read_text(encoding="utf-8"), "sh")
    assert cli.main([*shlex.split(command)[1:], "--episodes", "2"]) == 0
    assert "headroom" in capsys.readouterr().out


def test_a_learner_is_added_as_the_page_says(follow, capsys):
    left = follow("add-a-learner.md")
    manifest = json.loads(Path("runs/cem/run.json").read_text(encoding="utf-8"))
    assert (manifest["algorithm"], manifest["finished"]) == ("cem", True)
    rewards = dict(re.findall(r"^(\S+) +(-?\d\.\d{3})$", capsys.readouterr().out, re.MULTILINE))
    assert list(rewards) == ["cem", "greedy-ewma", "careful"]
    looks = [float(line.split(",")[2]) for line in Path("runs/cem/validation.csv").read_text(encoding="utf-8").splitlines()[1:]]
    assert max(looks) > looks[0], "it learns"
    assert left.Cem.__name__ == "Cem"


def test_the_learner_of_the_page_goes_on_as_if_it_had_never_stopped(follow, tmp_path):
    from stable_baselines3.common.logger import Logger

    from cutlayer.agents import resumable

    left = follow("add-a-learner.md")
    recipe = left.CemRecipe(steps=4 * 20 * 200, episodes=1)
    whole = left.Cem(recipe, left.scenario, 3, "kernel")
    states = []
    whole.learn(lambda: states.append({**whole.state()}), Logger(str(tmp_path), []))
    again = left.Cem(recipe, left.scenario, 3, "kernel")
    again.restore(states[2])
    again.learn(lambda: None, Logger(str(tmp_path), []))
    assert resumable.digest(again.state()) == resumable.digest(whole.state())

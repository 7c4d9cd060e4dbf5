"""`cutlayer replay`: what it tells of a trace, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cutlayer import replay_cli
from cutlayer.agents.evaluate import Learned
from cutlayer.envs import scenarios
from cutlayer.envs.simulation import Simulation
from cutlayer.envs.streams import draw
from cutlayer.errors import ConfigError
from cutlayer.options import Parser
from cutlayer.runtime import bundle, features, trace
from cutlayer.runtime.bundle import GOLDEN, Bundle, Golden
from cutlayer.runtime.controller import Controller, Outcome, Request
from cutlayer.runtime.policy import Mlp
from cutlayer.runtime.trace import Recorder

REQUESTS = 80


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A bundle on the built-in table, and the trace of an episode that its policy decided."""
    import dataclasses

    import numpy as np

    folder = tmp_path_factory.mktemp("replay")
    scenario = dataclasses.replace(scenarios.make("urllc-ge"), requests=REQUESTS)
    rng, plans = np.random.default_rng(1), len(scenario.plans)
    sizes = ((16, features.SIZE), (plans, 16))
    policy = Mlp([(rng.normal(0, 0.3, size), rng.normal(0, 0.1, size[0])) for size in sizes], "tanh")
    seen = rng.uniform(0, 1, (GOLDEN, features.SIZE)).astype(np.float32)
    golden = Golden(seen.tolist(), [policy.choose(one)[0] for one in seen])
    made = Bundle(scenario.name, "none", scenario.plans, scenario.path, scenario.objective, policy, golden, {})
    made.save(folder / "policy.cutlayer", "0")

    controller = Controller(made, recorder=Recorder())
    world = Simulation(scenario, draw(scenario, 4))
    while not world.done:
        now_s, number = world.now_s, world.request + 1
        record = world.decide(controller.decide(now_s, Request(number)).plan)
        done = Outcome(
            record.plan, record.device_start_s, record.device_end_s - record.device_start_s, record.send_start_s,
            record.send_end_s - record.send_start_s, record.sent_bytes, edge_wait_s=record.edge_wait_s if record.status == 1 else -1.0,
            id=number, latency_s=record.latency_s,
        )  # fmt: skip
        controller.report(max(now_s, record.finish_s), done)
    data = trace.header("0", scenario.name, scenario.plans.digest(), 1) + controller.recorder.take()
    (folder / "one.trace").write_bytes(data)
    return folder


def call(capsys, *arguments):
    top = Parser(prog="cutlayer")
    replay_cli.add(top.add_subparsers(parser_class=Parser))
    options = top.parse_args(["replay", *map(str, arguments)])
    options.function(options)
    return capsys.readouterr().out


def test_it_tells_of_the_trace_the_policy_the_controller_and_the_world(files, capsys):
    good = files / "policy.cutlayer"
    arguments = (files / "one.trace", "--bundle", good, "--simulate", "greedy-ewma", "--simulate", good)
    found = json.loads(call(capsys, *arguments, "--json"))
    recorded = found["recorded"]
    assert (recorded["decisions"], recorded["reports"], recorded["every"], recorded["cut_short"]) == (REQUESTS, REQUESTS, 1, False)
    assert sum(recorded["steps"].values()) == REQUESTS
    assert sum(recorded["share"]["bits"].values()) == pytest.approx(1.0)
    assert found["policy"]["agreement"] == recorded["steps"]["policy"] / found["policy"]["asked"]
    assert found["controller"]["agreement"] == 1.0
    simulated = found["simulated"]["greedy-ewma"]
    assert set(found["simulated"]) == {"greedy-ewma", str(good)}
    assert simulated["miss_ci95"][0] <= simulated["miss_rate"] <= simulated["miss_ci95"][1]
    text = call(capsys, *arguments)
    assert f"{REQUESTS} decisions and {REQUESTS} outcomes" in text
    assert "a controller told the same agrees in 100.0%" in text


def test_the_simulated_policy_is_the_one_of_evaluate(files, capsys):
    """The same loop as any evaluation, on the streams of the trace."""
    from cutlayer.envs import recorded

    given = bundle.load(files / "policy.cutlayer")
    with (files / "one.trace").open("rb") as lines:
        found = trace.read(lines, "one.trace")
    scenario, streams = recorded.world(found, given.plans, given.path, given.objective)
    world, policy, late = Simulation(scenario, streams), Learned(given.policy), 0
    while not world.done:
        late += world.decide(policy.act(world)).latency_s > scenario.objective.deadline_s
    name = str(files / "policy.cutlayer")
    told = json.loads(call(capsys, files / "one.trace", "--bundle", name, "--simulate", name, "--json"))["simulated"][name]
    assert told["miss_rate"] == late / REQUESTS


def test_rotated_files_are_one_trace(files, tmp_path, capsys):
    lines = (files / "one.trace").read_bytes().splitlines(keepends=True)
    (tmp_path / "old").write_bytes(b"".join(lines[:41]))
    (tmp_path / "new").write_bytes(lines[0] + b"".join(lines[41:]))
    found = json.loads(call(capsys, tmp_path / "old", tmp_path / "new", "--bundle", files / "policy.cutlayer", "--json"))
    assert (found["recorded"]["decisions"], found["controller"]["agreement"]) == (REQUESTS, 1.0)
    (tmp_path / "new").write_bytes(lines[0].replace(b'"every":1', b'"every":2') + lines[1])
    with pytest.raises(ConfigError, match=r"new is the trace of another bundle, version or rate than .*old"):
        call(capsys, tmp_path / "old", tmp_path / "new", "--bundle", files / "policy.cutlayer")


def test_what_it_refuses(files, tmp_path, capsys):
    good = files / "policy.cutlayer"
    with pytest.raises(ConfigError, match="no trace at"):
        call(capsys, tmp_path / "none", "--bundle", good)
    with pytest.raises(ConfigError, match="cannot simulate 'best-static'; give a bundle or one of: device-only"):
        call(capsys, files / "one.trace", "--bundle", good, "--simulate", "best-static")
    with pytest.raises(ConfigError, match="is damaged"):
        call(capsys, good, "--bundle", good)
    other = (files / "one.trace").read_bytes().replace(b'"plans_sha256":"', b'"plans_sha256":"0', 1)
    Path(tmp_path / "other").write_bytes(other)
    with pytest.raises(ConfigError, match="another plan table"):
        call(capsys, tmp_path / "other", "--bundle", good)

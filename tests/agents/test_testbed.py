"""Testbed runs: what is emulated and what is refused, the words of both worlds, and a whole run over real processes in small."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from cutlayer import testbed_cli
from cutlayer.agents import baselines, device_agent
from cutlayer.agents.testbed import deciding, real, run, world
from cutlayer.agents.testbed.heard import Heard
from cutlayer.envs.record import Status
from cutlayer.envs.simulation import Simulation
from cutlayer.envs.streams import Streams, draw
from cutlayer.errors import ConfigError
from cutlayer.profiles import derived, load
from cutlayer.profiles.plans import PlanTable
from cutlayer.runtime.messages import Outcome, Request
from cutlayer.runtime.testbed import emulation, link
from cutlayer.runtime.testbed.device import Done


@pytest.fixture(scope="module")
def lte():
    return world.scenario("lte-uplink", (), 60)


@pytest.mark.parametrize(
    ("name", "part"),
    [("camera", "other people's jobs"), ("battery-harvest", "a battery"), ("cold-start", "segments"), ("paper-linear", "tells its rate")],
)
def test_what_cannot_be_emulated_is_refused_by_name(name, part):
    with pytest.raises(ConfigError, match=part):
        world.scenario(name, (), 10)


def test_both_links_change_in_the_same_slots(lte):
    assert (lte.requests, lte.slot_s) == (60, 0.1)


@pytest.mark.parametrize("name", ["device-only", "edge-only", "greedy-ewma"])
def test_a_rule_in_the_controller_decides_as_by_itself(lte, name):
    """The same world, told by events through the controller or by the simulator's own observer: the same plans."""
    streams = draw(lte, 7)
    told = deciding.Here(deciding.ruled(lte, lte, name, 0))
    decided = [decision.plan for decision, _ in device_agent.drive(lte, streams, told)]
    policy, simulation = baselines.RULES[name](lte, 0), Simulation(lte, streams)
    policy.begin()
    alone = []
    while not simulation.done:
        alone.append(simulation.decide(policy.act(simulation)).plan)
    assert decided == alone
    assert told.controller.counts.steps == {"greedy": 60}


def test_a_survey_asks_for_every_cut_and_only_those(lte):
    survey = deciding.Survey.of(lte.plans)
    rows = [lte.plans.rows[survey.act(None)] for _ in survey.plans]
    assert {(row.exit, row.partition) for row in rows} == {(row.exit, row.partition) for row in lte.plans.rows}
    assert len(rows) == len({(row.exit, row.partition) for row in rows})
    assert lte.plans.rows[survey.act(None)] == rows[0]


def surveyed(scenario, fixed_s, factor):
    """What a machine would answer whose edge takes `factor` times the table's time, and each request `fixed_s` more than known."""
    done = []
    for plan in deciding.Survey.of(scenario.plans).plans:
        row, path = scenario.plans.rows[plan], scenario.path
        edge_s = factor * (row.decode_s + row.edge_s)
        way_s = 8 * row.wire_bytes / world.SURVEY_BPS + path.rtt_s + 8 * path.reply_bytes / path.downlink_bps
        end_s = 1.0 + row.device_s + row.encode_s + 0.0002
        finish_s = end_s + way_s + edge_s + fixed_s
        status = "edge" if row.bits else "device"
        done.append(
            Done(plan=plan, arrival_s=0.9994, device_start_s=1.0, device_end_s=end_s, edge_s=edge_s, status=status, finish_s=finish_s)
        )
    return done


def test_a_survey_finds_the_edge_and_the_constant(lte):
    done = surveyed(lte, 0.0021, 0.5)
    found = world.found(lte, [done[0], *done], warm=1)
    there = world.simulated(lte, found)
    assert (there.path.fixed_s, found.asked_s, found.overrun_s) == pytest.approx((0.0021, 0.0006, 0.0002))
    for row, own in zip(there.plans.rows, lte.plans.rows, strict=True):
        if row.bits == 8:
            assert row.edge_s + row.decode_s == pytest.approx(0.5 * (own.edge_s + own.decode_s))
        works = own.device_s + own.encode_s > 0.0
        assert row.device_s == pytest.approx(own.device_s + 0.0002 * works)
        assert (row.encode_s, row.wire_bytes, row.accuracy) == (own.encode_s, own.wire_bytes, own.accuracy)


def test_a_device_that_nothing_slows_has_this_machines_times_in_the_simulator(lte):
    """A machine eight times as fast as the profiled device: whatever is known of one width holds for the others and for the own answer."""
    done = surveyed(lte, 0.0, 1.0)
    for one in done:
        row = lte.plans.rows[one.plan]
        one.device_end_s = 1.0 + (row.device_s + row.encode_s) / 8.0
    found = world.found(lte, done, warm=0)
    assert found.overrun_s == 0.0
    for row, own in zip(world.as_fast_as_here(world.simulated(lte, found), found).plans.rows, lte.plans.rows, strict=True):
        assert (row.device_s, row.encode_s, row.fallback_s) == pytest.approx((own.device_s / 8, own.encode_s / 8, own.fallback_s / 8))
        assert (row.bits, row.wire_bytes, row.accuracy) == (own.bits, own.wire_bytes, own.accuracy)


def test_asking_for_a_decision_delays_a_request_but_not_its_deadline(lte):
    found = world.found(lte, surveyed(lte, 0.0, 1.0), warm=0)
    streams = draw(dataclasses.replace(lte, requests=20), 1)
    later = world.asked(streams, found)
    assert later.arrival_s == pytest.approx(streams.arrival_s + 0.0006)
    told = deciding.Here(deciding.ruled(lte, lte, "device-only", 0))
    records = [record for _, record in device_agent.drive(dataclasses.replace(lte, requests=20), later, told)]
    for record, arrived in zip(records, world.as_arrived(records, found), strict=True):
        assert arrived.latency_s == pytest.approx(record.latency_s + 0.0006)


@pytest.mark.parametrize("carries", [True, False])
def test_a_slow_link_is_no_lost_edge_in_either_world(lte, carries):
    """Transfers that carried nothing: while the link carries greetings the rule goes on sending; on a dead link the ladder ends that."""
    plan = baselines.RULES["edge-only"](lte, 0).act(None)
    arrival_s = np.linspace(0.0, 12.0, 61)
    rates = np.full(200, 1e5 if carries else 0.0)
    streams = Streams(0.1, arrival_s, rates, np.ones(200), np.empty(0), np.empty(0))
    told = Heard(deciding.ruled(lte, lte, "edge-only", 0), streams)
    chosen = []
    for i, at_s in enumerate(arrival_s[:-1].tolist()):
        decision = told.decide(at_s, Request(i + 1))
        chosen.append(decision.plan)
        told.report(at_s + 0.15, Outcome(decision.plan, at_s, 0.0, at_s, 0.15 * (decision.bits > 0), 0.0, id=i + 1))
    sent = sum(one == plan for one in chosen)
    assert sent == 60 if carries else sent < 30


def test_a_cut_that_was_never_answered_is_no_survey(lte):
    with pytest.raises(ConfigError, match="answered no request of exit and partition"):
        world.found(lte, surveyed(lte, 0.0, 1.0)[1:], warm=0)


def test_records_speak_of_energy_and_accuracy_as_the_simulator_does(lte):
    """Requests of a simulated episode, told as a device tells them, are the simulator's records again."""
    streams = draw(lte, 3)
    simulation, rng = Simulation(lte, streams), np.random.default_rng(0)
    records = [simulation.decide(int(rng.integers(len(lte.plans)))) for _ in range(60)]
    words = {status: word for word, status in real.STATUS.items()}
    shared = set(Done.__struct_fields__) & set(records[0]._fields) - {"status"}
    done = [Done(status=words[one.status], **{name: getattr(one, name) for name in shared}) for one in records]
    again = list(real.records(lte, done))
    assert {one.status for one in records} >= {Status.DEVICE, Status.EDGE, Status.GIVEN_UP}
    for one, other in zip(records, again, strict=True):
        assert one[:10] == other[:10]
        assert one[10:12] == pytest.approx(other[10:12])


def side(label, measured, simulated):
    def figures(mean, reward):
        return {"latency_mean_s": mean, "reward_mean": reward}

    return run.Side(label, label, "", 1, figures(*measured), figures(*simulated), [], [], None, 0, 0.0, 0, 0.0, 0.0, {})


def test_errors_and_rankings_are_those_of_the_figures():
    sides = [side("a", (0.1, 0.5), (0.11, 0.4)), side("b", (0.2, 0.6), (0.19, 0.3)), side("c", (0.1, 0.1), (0.1, 0.1))]
    told = run.compared(sides)
    assert told["policies"]["a"]["latency_error"] == pytest.approx(0.1)
    assert told["worst_latency_error"] == pytest.approx(0.1)
    assert (told["ranking_measured"], told["ranking_simulated"], told["same_ranking"]) == (["b", "a", "c"], ["a", "b", "c"], False)


def test_answers_are_held_against_the_labels_in_turn():
    done = [Done(plan=0, arrival_s=0.0, predicted=predicted) for predicted in (3, 1, 3)]
    assert real.right(done, np.array([3, 2])) == [True, False, True]
    assert real.right(done, None) is None


def test_a_whole_run_is_measured_beside_the_simulator_and_not_made_twice_and_can_be_reported(run_command_small, run):
    told, again = run_command_small
    row = told["policies"]["edge-only"]
    assert (told["backend"], told["requests"]) == ("proxy", 8)
    assert "not measured" in told["images"]
    assert row["measured"]["accuracy_of_images"] is None
    assert row["measured"]["requests"] == row["simulated"]["requests"] == 8
    assert 0.2 < row["measured"]["latency_mean_s"] / row["simulated"]["latency_mean_s"] < 5.0  # a wrong unit would be a factor off
    assert again["policies"]["edge-only"] == row
    assert set(again["policies"]) == {"edge-only", "device-only"}
    assert told["emulation"] == "pad"
    assert sum(row["steps"].values()) == 8
    code, out, err = run("report", "wire", "-o", "page.html", "--json")
    assert code == 0, err
    (reported,) = json.loads(out)["testbeds"]
    mean = {(one["policy"], one["world"]): one["latency_mean_s"] for one in reported["rows"]}
    assert mean["edge-only", "measured"] == row["measured"]["latency_mean_s"]
    assert len(mean) == 4


@pytest.fixture
def run_command_small(run, tmp_path, monkeypatch):
    """Two calls over real processes: the second one adds a policy to the folder of the first."""
    monkeypatch.setenv("CUTLAYER_DATA", str(tmp_path / "none"))
    monkeypatch.setattr("cutlayer.agents.testbed.run.ROUNDS", 1)
    monkeypatch.setattr("cutlayer.agents.testbed.run.WARM_ROUNDS", 0)
    monkeypatch.setattr(world, "SURVEY_GAP_S", 0.06)
    edge = load.profile("resnet8")  # small: its graphs are loaded and warmed six times
    plans = PlanTable.build(derived.raspberry_pi_4(edge), edge, load.accuracy("resnet8-accuracy"))
    (tmp_path / "plans.json").write_bytes(plans.encode())
    (tmp_path / "small.toml").write_text('base = "lte-uplink"\nplans = "plans.json"\n')
    told = []
    for names in ("edge-only", "edge-only,device-only"):
        code, out, err = run(
            "testbed", "run", "--scenario", "small.toml", "--policy", names, "--requests", 8, "--backend", "proxy", "-o", "wire", "--json"
        )  # fmt: skip
        assert code == 0, err
        told.append(json.loads(out))
    kept = json.loads((tmp_path / "wire" / "run.json").read_text())
    assert (kept["kind"], kept["plans_sha256"]) == ("testbed", plans.digest())
    return told


def test_the_command_knows_the_links_and_devices_that_there_are():
    assert set(testbed_cli.BACKENDS) == set(link.BACKENDS)
    assert testbed_cli.DEVICES == emulation.KINDS


def test_a_device_that_cannot_be_emulated_is_refused_with_the_reason(refused, monkeypatch, tmp_path):
    monkeypatch.setattr(emulation.unavailable, "__defaults__", (tmp_path / "none",))
    said = refused("testbed", "run", "--policy", "edge-only", "--device", "quota", "--backend", "proxy", "-o", "wire")
    assert "device quota" in said
    assert "use --device pad" in said


def test_what_is_wrong_is_told_before_anything_runs(refused):
    assert "no policy 'nonsense'" in refused("testbed", "run", "--policy", "nonsense", "-o", "wire", "--backend", "proxy")
    assert "cannot emulate" in refused("testbed", "run", "--scenario", "camera", "--policy", "random", "-o", "wire", "--backend", "proxy")

"""The answers without their socket: whose time counts, what decides after a reload, a rollback, a trial or without a bundle."""

from __future__ import annotations

import dataclasses
import math

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cutlayer.errors import BundleError, ConfigError
from cutlayer.profiles.cost import Path, deadline
from cutlayer.runtime import bundle, live, trace
from cutlayer.runtime import telemetry as tm
from cutlayer.runtime.config import DaemonConfig, TaskConfig
from cutlayer.runtime.guard import Ranges
from cutlayer.runtime.messages import Outcome
from cutlayer.runtime.modes import Bounds, Verdict
from cutlayer.runtime.replaying import rerun
from cutlayer.runtime.service import AHEAD_S, Service, Session


class World:
    """A service whose configuration and clock a test turns; one client, unless another session is given."""

    def __init__(self, **settings):
        self.settings, self.now_s = DaemonConfig(**settings), 5.0
        self.service = Service(lambda: self.settings, clock=lambda: self.now_s)
        self.session = Session(operator=True)

    def ask(self, operation, session=None, **fields):
        line = msgspec.json.encode({"op": operation, **fields})
        return msgspec.json.decode(self.service.answer(line, session or self.session))

    def refused(self, operation, session=None, **fields):
        reply = self.ask(operation, session, **fields)
        assert list(reply) == ["error"], reply
        return reply["error"]

    def change(self, **settings):
        self.settings = msgspec.structs.replace(self.settings, **settings)

    @property
    def arrived_s(self):
        return self.service.controller.readings[tm.LAST_ARRIVAL]


@pytest.fixture
def good(folder):
    return str(folder / "policy.cutlayer")


@pytest.fixture
def world(good):
    return World(bundle=good)


# --- whose time counts


def test_without_a_time_the_devices_own_clock_counts(world):
    world.ask("decide", id=1)
    assert world.arrived_s == 5.0


def test_a_camera_stamps_its_frames(world):
    """They came in before they were asked for."""
    world.ask("decide", id=1, at_s=4.5)
    assert world.arrived_s == 4.5
    world.ask("decide", id=2, at_s=4.5)
    assert world.service.controller.counts.decisions == 2


def test_a_clients_time_never_runs_backwards(world):
    world.ask("decide", id=1, at_s=4.5)
    assert "at_s 4.4 lies before the 4.5" in world.refused("decide", id=2, at_s=4.4)
    world.ask("report", plan=2, device_start_s=4.0, device_s=0.1, at_s=4.8)
    assert "at_s 4.7 lies before the 4.8" in world.refused("report", plan=2, device_start_s=4.0, device_s=0.1, at_s=4.7)
    assert "at_s 4.7 lies before the 4.8" in world.refused("progress", id=1, plan=2, at_s=4.7)
    # An answer may well be known after the next frame has come in.
    assert "plan" in world.ask("decide", id=2, at_s=4.6)
    assert (world.service.controller.counts.decisions, world.service.controller.counts.reports) == (2, 1)


def test_clients_that_race_each_other_are_both_answered(world):
    world.ask("decide", id=1, at_s=4.9)
    assert "plan" in world.ask("decide", Session(), id=2, at_s=4.8)
    assert world.arrived_s == 4.9, "for the controller time goes on"


def test_a_time_on_another_clock_is_refused(world):
    """One client that stamps with the time of day would else stop the clock for all others."""
    assert "lies ahead of the device's monotonic clock" in world.refused("decide", id=1, at_s=1.7e9)
    assert "lies ahead" in world.refused("report", plan=2, device_start_s=0.0, device_s=0.1, at_s=5.001 + AHEAD_S)
    world.ask("decide", id=1, at_s=5.0 + AHEAD_S)
    world.ask("decide", id=2)
    assert world.arrived_s == 5.0 + AHEAD_S
    world.now_s = 6.0
    world.ask("decide", id=3)
    assert world.arrived_s == 6.0


@pytest.mark.parametrize("text", [b"NaN", b"Infinity", b"-Infinity", b"1e999", b'"soon"', b"true"])
@pytest.mark.parametrize("clock", ["device", "clients"])
def test_a_time_that_is_no_number_is_refused(good, text, clock):
    service = World(bundle=good, clock=clock).service
    reply = msgspec.json.decode(service.answer(b'{"op":"decide","at_s":%b}' % text, Session()))
    assert list(reply) == ["error"]
    assert service.controller.counts.decisions == 0


def test_simulated_time_is_the_clients_alone(good):
    world = World(bundle=good, clock="clients")
    for operation, fields in (
        ("decide", {}),
        ("report", {"plan": 1, "device_start_s": 0, "device_s": 0}),
        ("progress", {"id": 1, "plan": 1}),
    ):
        assert "at_s is missing" in world.refused(operation, **fields)
    world.now_s = math.nan  # nobody looks
    for at_s in (0.0, 1e6, 1e6):
        assert "plan" in world.ask("decide", at_s=at_s)
    assert world.arrived_s == 1e6


# --- what decides


def test_a_rollback_undoes_one_reload(world, good, make_bundle, folder):
    assert "nothing decided before" in world.refused("rollback")
    make_bundle(algorithm="newer").save(folder / "policy.cutlayer", "0")
    world.ask("decide", id=1)
    assert world.ask("reload") == {"ok": True}
    assert (world.ask("status")["algorithm"], world.ask("status")["rollback"]) == ("newer", True)
    world.ask("decide", id=2)
    assert world.ask("rollback") == {"ok": True}
    status = world.ask("status")
    assert (status["algorithm"], status["decisions"], status["rollback"]) == ("none", 2, False)
    assert "nothing decided before" in world.refused("rollback")
    world.ask("reload")
    assert world.ask("status")["algorithm"] == "newer", "the file is read anew"


def test_open_decisions_outlive_reload_and_rollback(world, good, make_bundle, folder):
    one = world.ask("decide", id=1)
    make_bundle(algorithm="newer").save(folder / "policy.cutlayer", "0")
    world.ask("reload")
    two = world.ask("decide", id=2)
    world.ask("rollback")
    for decision in (one, two):
        assert world.ask("report", id=decision["id"], plan=decision["plan"], device_start_s=5.0, device_s=0.01) == {"ok": True}
    readings = world.service.controller.readings
    assert [readings[i] for i in (tm.IN_FLIGHT, tm.BACKLOG_S, tm.TO_SEND_BYTES)] == pytest.approx([0.0, 0.0, 0.0])


def test_a_reload_of_the_same_changes_nothing_that_decides(good):
    world = World(bundle=good, mode="canary")
    before = world.service.controller
    world.change(request_bytes=1000)
    world.ask("reload")
    assert world.service.controller is before, "its trial goes on"
    assert world.service.settings.request_bytes == 1000
    world.change(mode="shadow")
    world.ask("reload")
    assert world.ask("status")["mode"] == "shadow"


@pytest.mark.parametrize("change", [{"socket": "other.sock"}, {"clock": "clients"}, {"trace_path": "t"}])
def test_what_only_a_restart_can_change_is_refused(world, good, make_bundle, change, folder):
    """All or nothing: the new bundle does not decide either."""
    make_bundle(algorithm="newer").save(folder / "policy.cutlayer", "0")
    world.change(**change)
    assert "restart cutlayerd" in world.refused("reload")
    assert world.ask("status")["algorithm"] == "none"


def test_a_new_bundle_proves_itself_against_the_one_before(world, good, make_bundle, folder):
    world.change(mode="shadow")
    make_bundle(algorithm="newer").save(folder / "policy.cutlayer", "0")
    world.ask("reload")
    decision = world.ask("decide", id=1)
    assert (decision["arm"], decision["step"], decision["mode"]) == ("incumbent", "policy", "shadow")
    assert decision["shadow"] >= 0
    # The third one is held against what decides, not against the second, which never did.
    make_bundle(algorithm="third").save(folder / "policy.cutlayer", "0")
    world.ask("reload")
    assert world.service.loaded.incumbent.algorithm == "none"
    # Once it is promoted it is what decides.
    world.service.controller.enter("active")
    make_bundle(algorithm="fourth").save(folder / "policy.cutlayer", "0")
    world.ask("reload")
    assert world.service.loaded.incumbent.algorithm == "third"


def test_an_incumbent_of_the_configuration(folder, good, make_bundle, make_policy):
    make_bundle(policy=make_policy(8, seed=5), algorithm="old").save(folder / "old.cutlayer", "0")
    world = World(bundle=good, incumbent=str(folder / "old.cutlayer"), mode="off")
    assert world.ask("decide", id=1)["step"] == "policy"
    assert world.service.loaded.incumbent.algorithm == "old"
    world.change(incumbent=str(folder / "none.cutlayer"))
    assert "no bundle at" in world.refused("reload")


def test_without_an_incumbent_the_rule_decides(good):
    decision = World(bundle=good, mode="off").ask("decide", id=1)
    assert (decision["step"], decision["reason"]) == ("greedy", "not-active")


def test_a_verdict_is_told(good):
    world = World(bundle=good, mode="canary")
    assert world.ask("status")["verdict"] is None
    unsure = Bounds(-math.inf, 0.0, math.inf)
    world.service.controller.verdict = Verdict("running", 100, 900, 0.1, 0.1, 0.05, 0.05, Bounds(-0.1, 0.0, 0.1), unsure)
    assert world.ask("status")["verdict"]["finding"] == "running"


def test_the_guard_of_a_bundle_is_used(folder, make_bundle):
    made = make_bundle()
    size = len(made.golden.observations[0])
    narrow = dataclasses.replace(made, ranges=Ranges((0.5,) * size, (0.5,) * size))
    narrow.save(folder / "narrow.cutlayer", "0")
    world = World(bundle=str(folder / "narrow.cutlayer"))
    assert world.ask("decide", id=1)["reason"] == "observation-outside-training"
    assert world.ask("status")["fallbacks"] == 1


def test_who_is_no_operator_changes_nothing(world, make_bundle, folder):
    make_bundle(algorithm="newer").save(folder / "policy.cutlayer", "0")
    for operation in ("reload", "rollback"):
        assert f"user 7 may not {operation}; ask as the daemon's own user" in world.refused(operation, Session("user 7"))
    assert world.ask("status")["algorithm"] == "none"
    assert not world.service.changes


def test_every_change_is_counted_and_told(world, good, make_bundle, folder):
    heard = []
    world.service.told = lambda event, **more: heard.append((event, more))
    make_bundle(algorithm="newer").save(folder / "policy.cutlayer", "0")
    world.refused("rollback")
    world.ask("reload")
    (folder / "policy.cutlayer").write_bytes(b"PK")
    world.refused("reload")
    world.ask("rollback")
    assert world.service.changes == {(operation, result): 1 for operation in ("reload", "rollback") for result in ("done", "refused")}
    assert [event for event, _ in heard] == ["rollback-refused", "reload", "reload-refused", "rollback"]
    assert [more.get("algorithm") for _, more in heard] == [None, "newer", None, "none"]
    assert all(more["by"] == "this client" for _, more in heard)


def test_a_rollback_to_the_rule_says_that_no_policy_decides(good, task, folder, make_bundle):
    """So it was before the reload, and so it is again."""
    (folder / "policy.cutlayer").unlink()
    world = World(bundle=good, task=task)
    assert world.ask("status")["problem"]
    make_bundle().save(folder / "policy.cutlayer", "0")
    world.ask("reload")
    assert world.ask("status")["problem"] == ""
    world.ask("rollback")
    assert world.ask("decide", id=1)["reason"] == "no-bundle"
    assert "no bundle at" in world.ask("status")["problem"]


def test_what_is_refused_is_counted(world):
    for line in (b"hello", b'{"op":"decide","id":"one"}', b"{}"):
        world.service.answer(line, Session())
    assert (world.ask("status")["refused"], world.ask("status")["decisions"]) == (3, 0)


# --- what is shown of the present


def test_nothing_is_known_before_the_first_decision(world):
    now = world.ask("status")["now"]
    assert {name: value for name, value in now.items() if value is not None} == {"answers": 0, "in_flight": 0.0}


def test_the_present_is_what_was_decided_and_told(world, plans):
    for number, latency_s in enumerate((0.01, 0.02, 0.03, 0.2), 1):
        decision = world.ask("decide", id=number)
        row = plans.rows[decision["plan"]]
        sent = {"send_start_s": 5.0, "send_s": 0.5, "sent_bytes": 25_000.0, "edge_wait_s": 0.004, "rtt_s": 0.03} if row.bits else {}
        world.ask("report", id=number, plan=decision["plan"], device_start_s=5.0, device_s=0.02, latency_s=latency_s, **sent)
    world.now_s += 2.0
    now = world.ask("status")["now"]
    assert now["decision"] == decision
    assert now["decision_age_s"] == pytest.approx(2.0)
    assert (now["answers"], now["latency_last_s"], now["latency_p50_s"], now["latency_p95_s"]) == (4, 0.2, 0.02, 0.2)
    assert (now["deadline_s"], now["missed"]) == (0.1, 0.25)
    assert world.ask("status")["misses"] == 1
    assert row.bits, "this policy sends, else the rest tells nothing"
    assert now["rate_bps"] == pytest.approx(400_000.0)
    assert (now["rate_age_s"], now["edge_wait_s"], now["edge_wait_age_s"], now["rtt_s"]) == pytest.approx((1.5, 0.004, 2.0, 0.03))


def test_of_many_answers_the_last_are_shown(world):
    for number in range(1, 2 * live.RECENT + 1):
        decision = world.ask("decide", id=number)
        world.ask(
            "report", id=number, plan=decision["plan"], device_start_s=5.0, device_s=0.02, latency_s=0.5 if number <= live.RECENT else 0.01
        )
    now = world.ask("status")["now"]
    assert (now["answers"], now["missed"], now["latency_p95_s"]) == (live.RECENT, 0.0, 0.01)
    assert world.ask("status")["misses"] == live.RECENT
    assert world.service.took.buckets()[-1] == ("+Inf", 2.0 * live.RECENT)


@given(values=st.lists(st.floats(0.0, 20.0)))
def test_a_histogram_counts_what_lies_under_each_bound(values):
    made = live.Histogram(live.LATENCY_S)
    for value in values:
        made.add(value)
    assert [count for _, count in made.buckets()] == [sum(value <= bound for value in values) for bound in (*live.LATENCY_S, math.inf)]
    assert made.total == pytest.approx(sum(values))


# --- without a bundle


@pytest.fixture
def task(plans, tmp_path):
    (tmp_path / "plans.json").write_bytes(plans.encode())
    return TaskConfig(plans=str(tmp_path / "plans.json"), path=Path(rtt_s=0.02), objective=deadline(0.1))


@pytest.mark.parametrize("damage", ["", "missing", "damaged"])
def test_a_task_lets_it_decide_without_a_bundle(folder, good, task, make_bundle, damage):
    if damage == "damaged":
        (folder / "policy.cutlayer").write_bytes(b"PK")
    else:
        (folder / "policy.cutlayer").unlink()
    world = World(bundle=good if damage else "", task=task)
    decision = world.ask("decide", id=1)
    assert (decision["step"], decision["reason"]) == ("greedy", "bundle-rejected" if damage == "damaged" else "no-bundle")
    status = world.ask("status")
    assert (status["algorithm"], status["fallbacks"]) == ("", 1)
    assert status["problem"]
    # The next good bundle is taken, and knows what was learned of the world.
    make_bundle().save(folder / "policy.cutlayer", "0")
    world.change(bundle=good)
    assert world.ask("reload") == {"ok": True}
    assert world.ask("decide", id=2)["step"] == "policy"
    status = world.ask("status")
    assert (status["problem"], status["algorithm"], status["decisions"]) == ("", "none", 2)


def test_without_a_task_a_bundle_that_is_refused_is_the_end(folder):
    with pytest.raises(BundleError, match="no bundle at"):
        World(bundle=str(folder / "none.cutlayer"))


def test_a_task_without_its_table_is_refused(task):
    with pytest.raises(ConfigError, match=r"cannot read the plan table .*cutlayer profile plans"):
        World(task=msgspec.structs.replace(task, plans="none.json"))


# --- hostile lines


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(line=st.one_of(st.binary(), st.from_regex(rb'\{"op":"(decide|report|progress)"[ -~]{0,40}\}', fullmatch=True)))
def test_whatever_line_comes_there_is_one_line_of_answer(world, line):
    reply = world.service.answer(line, Session())
    assert b"\n" not in reply
    assert msgspec.json.decode(reply)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    outcome=st.builds(
        Outcome,
        plan=st.integers(0, 7),
        **{
            name: st.floats(allow_nan=False, allow_infinity=False)
            for name in ("device_start_s", "device_s", "send_s", "sent_bytes", "edge_wait_s")
        },
    )
)
def test_whatever_is_reported_there_is_a_decision(world, outcome):
    world.ask("report", **msgspec.structs.asdict(outcome))
    assert world.ask("decide")["plan"] in range(8)


# --- the trace


def test_a_trace_is_written_and_can_be_rerun(good, folder):
    world = World(bundle=good, trace_path=str(folder / "d.trace"), trace_every=1)
    for number in range(1, 30):
        world.now_s += 0.1
        decision = world.ask("decide", id=number)
        world.ask("progress", id=number, plan=decision["plan"], device_start_s=world.now_s)
        world.ask("report", id=number, plan=decision["plan"], device_start_s=world.now_s, device_s=0.02)
    world.service.flush()
    found = trace.read((folder / "d.trace").read_bytes().splitlines(keepends=True), "d.trace")
    again = type(world.service.controller)(bundle.load(folder / "policy.cutlayer"))
    pairs = list(rerun(found, again))
    assert len(pairs) == 29
    assert all(event.decision == decision for event, decision in pairs)


def test_another_bundle_begins_another_file(good, folder, make_bundle, make_policy, plans):
    world = World(bundle=good, trace_path=str(folder / "d.trace"), trace_every=1)
    world.ask("decide", id=1)
    other = dataclasses.replace(make_bundle(), scenario="other")
    other.save(folder / "policy.cutlayer", "0")
    world.ask("reload")
    world.ask("decide", id=2)
    world.service.flush()
    for name, scenario, number in (("d.trace.1", "tiny-scenario", 1), ("d.trace", "other", 2)):
        found = trace.read((folder / name).read_bytes().splitlines(keepends=True), name)
        assert (found.head.scenario, [event.request.id for event in found.events]) == (scenario, [number])


def test_a_disk_that_is_gone_is_told_and_stops_nothing(good, folder):
    (folder / "traces").mkdir()
    world = World(bundle=good, trace_path=str(folder / "traces/d.trace"), trace_every=1)
    (folder / "traces/d.trace").unlink()
    (folder / "traces").rmdir()
    world.ask("decide", id=1)
    world.service.flush()
    assert "cannot write" in world.ask("status")["trace_problem"]
    (folder / "traces").mkdir()
    world.ask("decide", id=2)
    world.service.flush()
    assert world.ask("status")["trace_problem"] == ""

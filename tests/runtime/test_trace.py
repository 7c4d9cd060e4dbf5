"""The decision trace: what is written is read back, damage is told by line, and a replay gives the same decisions."""

from __future__ import annotations

import dataclasses

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.envs import recorded
from cutlayer.envs.channels import Constant
from cutlayer.envs.simulation import Simulation
from cutlayer.errors import ConfigError
from cutlayer.runtime import features, trace
from cutlayer.runtime.controller import Controller, Decision, Outcome, Progress, Request
from cutlayer.runtime.replaying import replay, rerun
from cutlayer.runtime.service import Decide, Report
from cutlayer.runtime.trace import Decided, Progressed, Recorder, Reported

RATE_BPS = 4e6


def reported(decision, at_s, plans, path):
    """What the simplest world makes of a decision: an idle device, edge and link of one rate."""
    row = plans.rows[decision.plan]
    work_s = row.device_s + row.encode_s
    if row.bits == 0:
        return Outcome(decision.plan, at_s, work_s, id=decision.id, latency_s=work_s)
    send_s = 8 * row.wire_bytes / RATE_BPS
    latency_s = work_s + send_s + path.rtt_s / 2 + row.decode_s + row.edge_s + path.return_s
    return Outcome(
        decision.plan, at_s, work_s, at_s + work_s, send_s, float(row.wire_bytes), edge_wait_s=0.0, id=decision.id, latency_s=latency_s
    )  # fmt: skip


def served(bundle, every=1, count=60):
    """A controller that served so many requests, one at a time, and its trace as a file."""
    controller = Controller(bundle, recorder=Recorder(every))
    made = []
    for number in range(1, count + 1):
        now_s = 5.0 + 0.3 * number
        made.append(controller.decide(now_s, Request(number, edge_reachable=number % 7 > 0)))
        controller.progress(now_s, Progress(number, made[-1].plan, device_start_s=now_s))
        done = reported(made[-1], now_s, bundle.plans, bundle.path)
        controller.report(now_s + done.latency_s, done)
    return made, trace.header("0", bundle.scenario, bundle.plans.digest(), every) + controller.recorder.take()


def read(data):
    return trace.read(data.splitlines(keepends=True), "x.trace")


# --- written and read


def test_a_trace_holds_all_that_happened(make_bundle):
    made, data = served(make_bundle())
    found = read(data)
    assert (found.head.version, found.head.scenario, found.head.every, found.cut_short) == (1, "tiny-scenario", 1, False)
    assert [event.decision for event in found.events if isinstance(event, Decided)] == made
    assert [type(event) for event in found.events] == [Decided, Progressed, Reported] * 60


def test_the_observation_is_the_policys_to_the_bit(make_bundle):
    bundle = make_bundle()
    controller = Controller(bundle, recorder=Recorder())
    controller.decide(1.0, Request(1))
    (event,) = read(trace.header("0", "s", "p", 1) + controller.recorder.take()).events
    np.testing.assert_array_equal(event.values(), controller._candidate.observation)
    controller.decide(2.0, Request(2, edge_reachable=False))
    (event,) = read(trace.header("0", "s", "p", 1) + controller.recorder.take()).events
    assert event.observation == b"", "no policy was asked"


def test_one_in_so_many_decisions_with_its_outcome(make_bundle):
    _, data = served(make_bundle(), every=10)
    events = read(data).events
    assert [event.decision.id for event in events if isinstance(event, Decided)] == [1, 11, 21, 31, 41, 51]
    assert [event.outcome.id for event in events if isinstance(event, Reported)] == [1, 11, 21, 31, 41, 51]
    assert len(events) == 12
    assert len(data) < len(served(make_bundle())[1]) / 8


def test_what_a_daemon_hands_over_is_read_back_without_its_tag(make_bundle):
    controller = Controller(make_bundle(), recorder=Recorder())
    decision = controller.decide(1.0, Decide(id=3, acked_bytes=7.0))
    controller.report(1.1, Report(decision.plan, 1.0, 0.05, id=3))
    one, two = read(trace.header("0", "s", "p", 1) + controller.recorder.take()).events
    assert (one.request, two.outcome) == (Request(3, 7.0), Outcome(decision.plan, 1.0, 0.05, id=3))


NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
IDS, PLANS = st.integers(0, 2**53), st.integers(0, 99)
REQUESTS = st.builds(Request, IDS, NUMBERS, st.booleans(), NUMBERS)
DECISIONS = st.builds(Decision, IDS, PLANS, *[st.integers(0, 32)] * 3, st.just("policy"), st.text(), NUMBERS)
PROGRESS = st.builds(Progress, IDS, PLANS, NUMBERS, NUMBERS, sent=st.booleans())
OUTCOMES = st.builds(Outcome, PLANS, *[NUMBERS] * 8, id=IDS, charge_j=st.none() | NUMBERS)
EVENTS = st.one_of(
    st.builds(Decided, NUMBERS, REQUESTS, DECISIONS, st.binary(max_size=64)),
    st.builds(Progressed, NUMBERS, PROGRESS),
    st.builds(Reported, NUMBERS, OUTCOMES),
)


@given(st.lists(EVENTS, max_size=8))
def test_every_line_survives_the_file(events):
    data = trace.header("0.1", "s", "p", 3) + b"".join(msgspec.json.encode(event) + b"\n" for event in events)
    assert read(data).events == events


def test_a_disk_that_stands_still_does_not_fill_the_memory(make_bundle, monkeypatch):
    monkeypatch.setattr(trace, "MOST_PENDING", 20_000)
    _, data = served(make_bundle(), count=400)
    assert 20_000 < len(data) < 22_000
    read(data)
    controller = Controller(make_bundle(), recorder=Recorder())
    for number in range(200):
        controller.decide(0.1 * number, Request(number))
    assert controller.recorder.dropped > 0
    controller.recorder.take()
    controller.decide(30.0, Request(1))
    assert controller.recorder.take()


# --- damage


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda lines: [*lines[:5], b'{"line":"decide","at_s":1.0\n', *lines[5:]], "line 6 of x.trace is damaged"),
        (lambda lines: [*lines[:5], b"\xff\xfe\n", *lines[5:]], "line 6 of x.trace is damaged"),
        (lambda lines: [*lines[:5], b"\n", *lines[5:]], "line 6 of x.trace is damaged"),
        (lambda lines: [*lines[:5], lines[5].replace(b'"progress"', b'"sold"'), *lines[6:]], "line 6 of x.trace is damaged"),
        (lambda lines: [*lines[:5], lines[5][:-9], *lines[6:]], "line 6 of x.trace breaks off and others follow"),
        (lambda lines: lines[1:], "line 1 of x.trace stands before any head"),
        (lambda lines: [], "x.trace holds no line"),
        (lambda lines: [lines[0].replace(b'"version":1', b'"version":2')], "version 2"),
        (lambda lines: [*lines, lines[0].replace(b'"every":1', b'"every":2')], "another bundle or rate"),
    ],
)
def test_damage_is_told_by_its_line(make_bundle, damage, words):
    lines = served(make_bundle(), count=3)[1].splitlines(keepends=True)
    with pytest.raises(ConfigError, match=words):
        trace.read(damage(lines), "x.trace")


def test_a_last_line_that_was_never_finished_is_left_out(make_bundle):
    _, data = served(make_bundle(), count=3)
    whole = read(data)
    for cut in (1, 2, 30):
        found = read(data[:-cut])
        assert found.cut_short
        assert found.events == whole.events[:-1]


def test_a_daemon_that_was_started_again_goes_on_in_the_file(make_bundle):
    one, two = served(make_bundle(), count=3)[1], served(make_bundle(), count=2)[1]
    assert len(read(one + two).events) == 15


# --- replayed


def test_a_controller_that_is_told_the_same_decides_the_same(make_bundle):
    bundle = make_bundle()
    made, data = served(bundle)
    pairs = list(rerun(read(data), Controller(bundle)))
    assert [again for _, again in pairs] == [event.decision for event, _ in pairs] == made


def test_another_policy_is_asked_what_it_would_have_done(make_bundle, make_policy, plans):
    bundle, other = make_bundle(), make_policy(len(plans), seed=9)
    made, data = served(bundle)
    found = read(data)
    own = list(replay(found, bundle.policy, features.SIZE))
    assert [plan for _, plan in own] == [one.plan for one in made if one.step == "policy"]
    assert len(own) == 60 - 60 // 7
    others = [plan for _, plan in replay(found, other, features.SIZE)]
    assert others == [int(other.logits(event.values()).argmax()) for event, _ in own]
    assert others != [plan for _, plan in own]
    with pytest.raises(ConfigError, match="saw 32 features, the policy sees 31"):
        list(replay(found, bundle.policy, 31))


def test_a_sampled_trace_replays_to_a_policy_but_not_to_a_controller(make_bundle):
    bundle = make_bundle()
    found = read(served(bundle, every=10)[1])
    assert len(list(replay(found, bundle.policy, features.SIZE))) == 6 - 1  # the 21st request was without an edge
    with pytest.raises(ConfigError, match="one decision in 10"):
        list(rerun(found, Controller(bundle)))
    with pytest.raises(ConfigError, match="one decision in 10"):
        recorded.world(found, bundle.plans, bundle.path, bundle.objective)


def test_the_simulator_gives_back_what_was_recorded(make_bundle):
    """An idle world of one rate, recorded and simulated with the same plans: the latencies are those that were reported."""
    bundle = make_bundle()
    made, data = served(bundle)
    found = read(data)
    scenario, streams = recorded.world(found, bundle.plans, bundle.path, bundle.objective)
    world = Simulation(scenario, streams)
    records = [world.decide(one.plan) for one in made]
    told = [event.outcome.latency_s for event in found.events if isinstance(event, Reported)]
    assert len(set(streams.rate_bps.tolist())) == 1
    assert [record.latency_s for record in records] == pytest.approx(told, rel=1e-6)
    assert isinstance(scenario.channel, Constant)


def test_the_world_of_a_trace_has_its_slow_downs_waits_and_deadlines(make_bundle, plans):
    bundle = make_bundle()
    head = trace.header("0", "s", plans.digest(), 1)
    row, lines = plans.rows[5], []
    for number, (slow, rate_bps, wait_s, deadline_s) in enumerate([(1.0, 1e6, 0.0, 0.1), (3.0, 8e6, 0.02, 0.3)], 1):
        at_s, work_s, send_s = 99.0 + number, slow * (row.device_s + row.encode_s), 8 * row.wire_bytes / rate_bps
        lines.append(Decided(at_s, Request(number, deadline_s=deadline_s), Decision(number, 5, 1, 1, 8, "policy", "", 0.05)))
        done = Outcome(5, at_s, work_s, at_s + work_s, send_s, float(row.wire_bytes), edge_wait_s=wait_s, id=number)
        lines.append(Reported(at_s + 0.1, done))
    found = read(head + b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
    scenario, streams = recorded.world(found, plans, bundle.path, bundle.objective)
    assert streams.arrival_s.tolist() == [0.0, 1.0, 2.0]
    assert streams.deadline_s.tolist() == [0.1, 0.3]
    assert scenario.requests == 2
    slots = [streams.slot(at_s) for at_s in (0.0, 0.5, 1.01)]
    assert streams.slow_down[slots] == pytest.approx([1.0, 1.0, 3.0])
    assert streams.rate_bps[[streams.slot(at_s) for at_s in (0.0, 0.5, 1.04, 1.9)]] == pytest.approx([1e6, 1e6, 8e6, 8e6])
    assert streams.job_service_s == pytest.approx([0.0201])
    world = Simulation(scenario, streams)
    assert [world.decide(5).edge_wait_s for _ in range(2)] == pytest.approx([0.0, 0.02], abs=1e-9)


def test_a_trace_of_another_table_or_of_one_request_makes_no_world(make_bundle, plans):
    bundle = make_bundle()
    other = dataclasses.replace(plans, rows=plans.rows[:-1])
    found = read(served(bundle, count=3)[1])
    with pytest.raises(ConfigError, match="another plan table"):
        recorded.world(found, other, bundle.path, bundle.objective)
    wrong = msgspec.structs.replace(found.events[0], decision=msgspec.structs.replace(found.events[0].decision, plan=8))
    with pytest.raises(ConfigError, match=r"plan 8 at 5\.3\d* s, the table has 8"):
        dataclasses.replace(found, events=[wrong]).check(plans)
    with pytest.raises(ConfigError, match="1 decisions"):
        recorded.world(dataclasses.replace(found, events=found.events[:3]), plans, bundle.path, bundle.objective)

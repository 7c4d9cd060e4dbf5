"""A controller over time: an edge that is lost, policies that are slow, silence, decisions without a report, what outcomes teach it."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from cutlayer.profiles.cost import latency_of_s
from cutlayer.runtime import telemetry as tm
from cutlayer.runtime.controller import Controller, Outcome, Progress, Request, Settings, Task
from cutlayer.runtime.rules import aged_estimate

AT_HOME = Outcome(plan=7, device_start_s=1.0, device_s=0.06)
BY_EDGE = Outcome(
    plan=5, device_start_s=1.0, device_s=0.02, send_start_s=1.02, send_s=0.01, sent_bytes=626.0, edge_wait_s=0.003, id=4
)  # fmt: skip
LOCAL, SENDS = 7, 5  # plans of the small table


@pytest.fixture
def controller(make_bundle):
    return Controller(make_bundle())


class Says:
    """A policy that always gives the same answer."""

    def __init__(self, plan):
        self.plan = plan

    def choose(self, observation):
        return self.plan, True


class Rule:
    """A rule that always gives the same answer."""

    def __init__(self, plan):
        self.plan = plan

    def choose(self, readings, now_s, acked_bytes):
        return self.plan, 0.05, 0.0


class Clock:
    """Every look at it is so many seconds after the last."""

    def __init__(self, step_s=0.0):
        self.now_s, self.step_s = 0.0, step_s

    def __call__(self):
        self.now_s += self.step_s
        return self.now_s


# --- an edge that nothing is heard of


def at_home(controller, times_s):
    """Decide and report at these times; when the rule decided."""
    decisions = {now_s: ask(controller, now_s, replies=True) for now_s in times_s}
    assert {decision.plan for decision in decisions.values() if decision.reason == ""} <= {controller._candidate._policy.plan}
    assert {(decision.plan, decision.step) for decision in decisions.values() if decision.reason == "edge-unheard"} <= {(SENDS, "greedy")}
    return [now_s for now_s, decision in decisions.items() if decision.reason == "edge-unheard"]


def test_a_policy_that_keeps_to_the_device_has_the_edge_asked_ever_more_seldom(make_bundle):
    controller = Controller(make_bundle(), policy=Says(LOCAL), rule=Rule(SENDS))
    asked_s = at_home(controller, [0.1 * tick for tick in range(4000)])
    assert asked_s[0] == pytest.approx(1.6, abs=0.11)  # twelve requests in 1.1 s, and half a second
    gaps = np.diff(asked_s)
    assert gaps[:6] == pytest.approx([1.0, 2.0, 4.0, 8.0, 16.0, 32.0], abs=0.11)
    assert gaps[6:] == pytest.approx([60.0] * (len(gaps) - 6), abs=0.11)
    assert controller.counts.reasons == {"edge-unheard": len(asked_s)}


def test_where_the_rule_keeps_to_the_device_too_the_policys_plan_stands(make_bundle):
    controller = Controller(make_bundle(), policy=Says(LOCAL), rule=Rule(2))
    assert at_home(controller, [0.1 * tick for tick in range(100)]) == []
    assert controller.counts.steps == {"policy": 100}


def test_a_rule_that_fails_leaves_the_policy_alone(make_bundle):
    assert at_home(Controller(make_bundle(), policy=Says(LOCAL), rule=Rule(-1)), [0.1 * tick for tick in range(100)]) == []


def test_the_rule_is_asked_between_two_requests(make_bundle):
    """It takes longer than a policy: no request waits for it."""
    controller, asked_s = Controller(make_bundle(), policy=Says(LOCAL), rule=Rule(SENDS)), []
    choose = controller._ruled.choose
    controller._ruled.choose = lambda readings, now_s, acked_bytes: asked_s.append(now_s) or choose(readings, now_s, acked_bytes)
    made = [ask(controller, 0.1 * tick, replies=True).reason for tick in range(40)]
    assert len(asked_s) == made.count("edge-unheard") == 2
    assert asked_s == pytest.approx(
        [0.1 * tick for tick, reason in enumerate(made) if reason == "edge-unheard"]
    )  # reports come 0.1 s later


def test_a_policy_that_sends_now_and_then_is_left_alone(make_bundle):
    controller = Controller(make_bundle(), policy=Says(LOCAL), rule=Rule(SENDS))
    for tick in range(300):
        controller._candidate._policy.plan = LOCAL if tick % 12 else SENDS
        assert ask(controller, 0.1 * tick, replies=True).reason == ""


def test_few_requests_far_apart_and_many_at_once_are_no_long_time(make_bundle):
    def controller():
        return Controller(make_bundle(), policy=Says(LOCAL), rule=Rule(SENDS))

    assert at_home(controller(), [10.0 * number for number in range(12)]) == []
    assert at_home(controller(), [0.01 * number for number in range(50)]) == []


# --- an edge that is lost


def unanswered(decision, now_s, sent_bytes=0.0):
    return Outcome(decision.plan, now_s, 0.01, now_s, 0.1, sent_bytes, id=decision.id)


def answered(decision, now_s):
    return msgspec.structs.replace(BY_EDGE, plan=decision.plan, id=decision.id, device_start_s=now_s, send_start_s=now_s)


@pytest.fixture
def sender(make_bundle):
    """A policy that always sends."""
    return Controller(make_bundle(), policy=Says(SENDS))


def ask(controller, now_s, *, replies):
    """Decide; where something was sent it is answered or not."""
    decision = controller.decide(now_s, Request(round(1000 * now_s)))
    if decision.bits:
        controller.report(now_s + 0.1, answered(decision, now_s) if replies else unanswered(decision, now_s))
    else:
        controller.report(now_s + 0.1, Outcome(decision.plan, now_s, 0.05, id=decision.id))
    return decision


def test_silence_of_the_edge_makes_it_local_and_probes_come_ever_later(sender):
    made = {}
    for tick in range(400):
        now_s = 0.1 * tick
        made[now_s] = ask(sender, now_s, replies=False)
    local = [now_s for now_s, decision in made.items() if decision.reason == "edge-unreachable"]
    probes = [now_s for now_s, decision in made.items() if decision.probe]
    first = local[0]
    assert first == pytest.approx(2.1)  # more than five failures, and two seconds of them
    assert all(made[now_s].plan == LOCAL for now_s in local)
    assert len(local) + len(probes) == sum(now_s >= first for now_s in made)
    gaps = np.diff(probes)
    # 0.25 s, doubled up to 8 s, each measured from when the probe before had failed, on a grid of 0.1 s.
    assert gaps[:5] == pytest.approx([0.6, 1.1, 2.1, 4.1, 8.1], abs=0.11)
    assert gaps[5:] == pytest.approx([8.1] * (len(gaps) - 5), abs=0.11)


def test_one_probe_that_is_answered_brings_the_edge_back(sender):
    for tick in range(30):
        ask(sender, 0.1 * tick, replies=False)
    assert sender.edge.open
    while not (probe := ask(sender, 0.1 * (tick := tick + 1), replies=True)).probe:
        assert probe.reason == "edge-unreachable"
    assert (probe.plan, probe.step) == (SENDS, "policy")
    after = ask(sender, 0.1 * tick + 0.1, replies=True)
    assert (after.plan, after.probe, sender.edge.open) == (SENDS, False, False)


def test_only_one_probe_is_on_its_way(sender):
    for tick in range(30):
        ask(sender, 0.1 * tick, replies=False)
    first, second = sender.decide(9.0, Request(1)), sender.decide(9.01, Request(2))
    assert (first.probe, first.bits > 0) == (True, True)
    assert (second.probe, second.reason) == (False, "edge-unreachable")


def test_a_probe_that_is_never_reported_on_has_failed(sender):
    for tick in range(30):
        ask(sender, 0.1 * tick, replies=False)
    assert sender.decide(9.0, Request(1)).probe
    probes = [0.1 * tick for tick in range(91, 230) if ask(sender, 0.1 * tick, replies=False).probe]
    assert sender.counts.lost == 1
    assert probes[0] == pytest.approx(19.1 + 1.0, abs=0.11)  # written off after ten seconds; the wait is doubled once more


def test_a_slow_link_is_not_a_lost_edge(sender):
    """Some of the bytes went through: the policy knows what to make of it."""
    for tick in range(60):
        now_s = 0.1 * tick
        decision = sender.decide(now_s, Request(tick + 1))
        assert decision.reason == ""
        sender.report(now_s + 0.1, unanswered(decision, now_s, sent_bytes=300.0))


def test_an_outage_of_a_second_is_not_a_lost_edge(sender):
    for burst in range(4):
        for tick in range(10):
            assert ask(sender, 5.0 * burst + 0.1 * tick, replies=False).reason == ""
        ask(sender, 5.0 * burst + 1.0, replies=True)


def test_an_edge_that_takes_everything_and_never_replies_is_lost(sender):
    for tick in range(40):
        now_s = 0.1 * tick
        decision = sender.decide(now_s, Request(tick + 1))
        if decision.bits:
            sender.report(now_s + 0.1, unanswered(decision, now_s, sent_bytes=626.0))
    assert sender.counts.reasons["edge-unreachable"] > 0


def test_an_agent_without_a_connection_is_told_when_to_try(make_bundle):
    """It is not reachable for ten seconds; back-off as ever; the first request with a connection is the policy's."""
    controller = Controller(make_bundle(), policy=Says(SENDS))
    made = {}
    for tick in range(100):
        made[0.1 * tick] = decision = controller.decide(0.1 * tick, Request(tick + 1, edge_reachable=False))
        assert (decision.plan, decision.reason) == (LOCAL, "edge-unreachable")
        controller.report(0.1 * tick + 0.05, Outcome(decision.plan, 0.1 * tick, 0.05, id=decision.id))
    probes = [now_s for now_s, decision in made.items() if decision.probe]
    assert np.diff([0.0, *probes]) == pytest.approx([0.25, 0.5, 1.0, 2.0, 4.0], abs=0.11)
    assert controller.decide(10.0, Request(200)).plan == SENDS


# --- a policy that is slow, and silence


def test_a_slow_policy_pauses_and_comes_back_by_one_answer(make_bundle):
    clock = Clock(0.02)
    controller = Controller(make_bundle(), policy=Says(LOCAL), clock=clock)

    def reasons(begin_s, count):
        found = []
        for tick in range(count):
            now_s = begin_s + 0.1 * tick
            decision = controller.decide(now_s, Request())
            controller.report(now_s + 0.05, Outcome(decision.plan, now_s, 0.05))
            found.append(decision.reason == "over-time-budget")
        return found

    controller._ruled._pace._clock = None  # here the policy alone is watched
    assert reasons(0.05, 3) == [False] * 3
    assert reasons(0.35, 9) == [True] * 9
    assert reasons(1.35, 1) == [False]  # one answer is tried after a second; still slow
    assert reasons(1.45, 19) == [True] * 19
    clock.step_s = 0.001
    assert reasons(3.5, 30) == [False] * 30


def test_a_slow_answer_now_and_then_is_no_reason(make_bundle):
    clock = Clock()
    controller = Controller(make_bundle(), policy=Says(LOCAL), clock=clock)
    for tick in range(60):
        clock.step_s = 0.0 if tick % 3 == 2 else 1.0
        decision = controller.decide(0.1 * tick, Request())
        controller.report(0.1 * tick, Outcome(decision.plan, 0.1 * tick, 0.05))
    assert controller.counts.fallbacks == 0


def test_a_rule_that_is_slow_pauses_too(make_bundle):
    controller = Controller(Task.of(make_bundle()), clock=Clock(0.02))
    for tick in range(10):
        decision = controller.decide(0.1 * tick, Request())
        controller.report(0.1 * tick + 0.05, Outcome(decision.plan, 0.1 * tick, 0.05))
    assert controller.counts.steps == {"greedy": 3, "last-good": 7}


def test_one_report_ends_the_silence_and_idleness_is_none(controller):
    for tick in range(70):
        decision = controller.decide(0.1 * tick, Request())
        assert (decision.reason == "nothing-good") == (tick > 50)
    assert controller.counts.reasons["telemetry-stale"] == 19
    controller.report(7.0, Outcome(plan=decision.plan, device_start_s=6.9, device_s=0.05))
    after = controller.decide(7.05, Request())
    controller.report(7.1, Outcome(plan=after.plan, device_start_s=7.05, device_s=0.05))
    assert controller.decide(9999.0, Request()).reason == ""
    assert controller.counts.reasons["telemetry-stale"] == 19


def test_the_last_good_plan_is_the_last_that_was_in_time_and_not_too_old(make_bundle):
    def good(*outcomes):
        controller = Controller(make_bundle())
        for now_s, outcome in outcomes:
            controller._candidate._policy = Says(outcome.plan)
            controller.decide(now_s, Request(outcome.id))
            controller.report(now_s + 0.05, outcome)
        controller._candidate._policy = Says(-1)
        controller._ruled._rule = Rule(-1)
        return controller

    home, late = msgspec.structs.replace(AT_HOME, latency_s=0.09, id=4), msgspec.structs.replace(AT_HOME, latency_s=0.11, id=4)
    lost = msgspec.structs.replace(BY_EDGE, edge_wait_s=-1.0, latency_s=0.05)
    assert good((1.0, BY_EDGE)).decide(2.0, Request()).plan == SENDS
    assert good((1.0, BY_EDGE), (1.5, home)).decide(2.0, Request()).plan == LOCAL
    assert good((1.0, BY_EDGE), (1.5, late)).decide(2.0, Request()).plan == SENDS
    assert good((1.0, home), (1.5, lost)).decide(2.0, Request()).plan == LOCAL  # the device answered, but not as planned
    assert good((1.0, BY_EDGE)).decide(61.0, Request()).step == "last-good"
    assert good((1.0, BY_EDGE)).decide(61.2, Request()).step == "static-safe"


# --- decisions without a report, and those told in parts


def ahead(controller):
    return [controller.readings[i] for i in (tm.IN_FLIGHT, tm.BACKLOG_S, tm.TO_SEND_BYTES)]


def test_decisions_that_are_never_reported_on_are_written_off(make_bundle):
    sender = Controller(make_bundle(), policy=Says(SENDS), settings=Settings(stale_s=1e9))
    for number in range(1, 4):
        sender.decide(float(number), Request(number))
    assert ahead(sender) == [3.0, pytest.approx(0.0306), 3 * 626.0]
    sender.decide(11.5, Request(4))
    assert ahead(sender) == [3.0, pytest.approx(0.0306), 3 * 626.0]
    assert sender.counts.lost == 1
    for number in range(5, 3000):  # however many
        sender.decide(11.5, Request(number))
    assert sender.readings[tm.IN_FLIGHT] == len(sender._books) <= 1025


def test_a_report_finds_its_decision_by_number_and_plan_and_without_one_by_plan(sender):
    for number in (1, 2, 3):
        sender.decide(1.0 + number, Request(number))
    sender.report(4.5, Outcome(SENDS, 4.0, 0.01, id=2))
    assert [one.id for one in sender._books._open] == [1, 3]
    sender.report(4.6, Outcome(SENDS, 4.0, 0.01))
    assert [one.id for one in sender._books._open] == [3]
    sender.report(4.7, Outcome(SENDS, 4.0, 0.01, id=7))
    sender.report(4.7, Outcome(LOCAL, 4.0, 0.01, id=3))
    assert [one.id for one in sender._books._open] == [3]


def test_what_was_told_on_the_way_is_not_told_again_by_the_outcome(sender):
    sender.decide(1.0, Request(1))
    sender.progress(1.0, Progress(1, SENDS, device_start_s=1.0))
    assert tm.backlog_s(sender.readings, 1.004) == pytest.approx(0.0062)
    sender.progress(1.02, Progress(1, SENDS, device_start_s=1.0, device_s=0.0204))
    assert sender.readings[tm.SLOW_DOWN] == pytest.approx(2.0)
    sender.progress(1.02, Progress(1, SENDS, send_start_s=1.02))
    assert sender.readings[tm.SENDING_SINCE] == 1.02
    sender.progress(1.03, Progress(1, SENDS, sent=True))
    assert ahead(sender) == [1.0, 0.0, 0.0]
    sender.decide(1.04, Request(2))
    sender.progress(1.05, Progress(2, SENDS, device_start_s=1.05))
    sender.report(1.06, msgspec.structs.replace(BY_EDGE, id=1))
    assert ahead(sender) == [1.0, pytest.approx(0.0102), 626.0]
    assert sender.readings[tm.RUNNING_SINCE] == 1.05, "the next request's work still runs"
    sender.progress(1.07, Progress(9, SENDS, device_start_s=1.06))
    assert sender.readings[tm.RUNNING_SINCE] == 1.05, "of a request that nobody knows"


def test_sensors_are_read_as_the_device_work_begins(sender):
    sender.decide(1.0, Request(1))
    sender.report(1.1, msgspec.structs.replace(BY_EDGE, id=1, temperature_c=61.0, charge_j=40.0))
    assert [sender.readings[i] for i in (tm.TEMPERATURE_C, tm.CHARGE_J, tm.SENSED_AT)] == [61.0, 40.0, 1.0]


def test_work_that_was_not_run_says_nothing_of_the_device(sender):
    sender.decide(1.0, Request(1))
    sender.report(1.1, Outcome(SENDS, 1.0, -1.0, id=1))
    assert ahead(sender) == [0.0, 0.0, 0.0]
    assert sender.readings[tm.SLOW_DOWN_AT] == tm.NEVER


def test_a_new_controller_goes_on_where_the_old_one_stands(make_bundle):
    old, new = Controller(make_bundle(), policy=Says(SENDS)), Controller(make_bundle())
    for tick in range(30):
        ask(old, 0.1 * tick, replies=False)
    old.decide(3.0, Request(77))
    new.go_on_from(old)
    assert (new.readings, new.counts, new.edge.open) == (old.readings, old.counts, True)
    in_flight = new.readings[tm.IN_FLIGHT]
    new.report(3.1, Outcome(new._books._open[-1].plan, 3.0, 0.05, id=77))
    assert new.readings[tm.IN_FLIGHT] == in_flight - 1


# --- estimators


def test_what_replies_tell_corrects_the_expected_latency(sender, plans):
    path = sender.bundle.path
    row = plans.rows[SENDS]
    work_s = row.decode_s + row.edge_s
    for number in range(1, 40):
        found = answered(sender.decide(0.1 * number, Request(number)), 0.1 * number)
        sender.report(0.1 * number + 0.05, msgspec.structs.replace(found, edge_wait_s=0.0, edge_s=3 * work_s, rtt_s=0.05))
    expected_s = latency_of_s(row, path, aged_estimate(sender.readings, 4.0, 0.0)) + 0.03 + 2 * work_s
    assert sender.decide(4.0, Request(50)).expected_latency_s == pytest.approx(expected_s, rel=1e-3)
    assert sender.estimators.edge_slow_down.mean == pytest.approx(3.0)
    assert sender.estimators.rtt_s.at_s == pytest.approx(3.95)


def test_processor_time_tells_a_busy_processor_from_a_slow_one(sender):
    for number in range(1, 30):
        sender.decide(0.1 * number, Request(number))
        sender.report(0.1 * number, Outcome(SENDS, 0.1 * number, 0.0306, id=number, device_cpu_s=0.0102))
    assert sender.estimators.slow_down.mean == pytest.approx(3.0)
    assert sender.estimators.processor.mean == pytest.approx(1.0)


def test_short_transfers_weigh_little_in_the_rate(make_bundle):
    controller = Controller(make_bundle())
    controller.report(1.0, msgspec.structs.replace(BY_EDGE, rate_bytes=20_000.0, rate_s=0.02))
    controller.report(2.0, msgspec.structs.replace(BY_EDGE, rate_bytes=1000.0, rate_s=0.01))
    found = controller.estimators.rate_bps
    assert found.mean == pytest.approx(8e6 - 0.03 * 7.2e6)
    assert found.variance == pytest.approx(0.97 * 0.03 * 7.2e6**2)

"""The controller: each row of its ladder, its counters, what a decision tells, and that nothing stops it."""

from __future__ import annotations

import ast
import dataclasses

import msgspec
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from cutlayer.errors import BundleError
from cutlayer.profiles.cost import Estimate, expected_latency_s, latency_of_s, linear
from cutlayer.runtime import features
from cutlayer.runtime import telemetry as tm
from cutlayer.runtime.controller import LADDER, Controller, Counts, Decision, Outcome, Request, Settings, Task
from cutlayer.runtime.guard import Ranges
from cutlayer.runtime.ladder import Hope, Safe
from cutlayer.runtime.policy import Mlp
from cutlayer.runtime.rules import Greedy, aged_estimate

AT_HOME = Outcome(plan=7, device_start_s=1.0, device_s=0.06)
BY_EDGE = Outcome(
    plan=5, device_start_s=1.0, device_s=0.02, send_start_s=1.02, send_s=0.01, sent_bytes=626.0, edge_wait_s=0.003, id=4
)  # fmt: skip
LOCAL, SENDS = 7, 5  # plans of the small table


@pytest.fixture
def controller(make_bundle):
    return Controller(make_bundle())


class Says:
    """A policy that always gives the same answer, or an error."""

    def __init__(self, plan, finite=True, error=None):
        self.answer, self.error = (plan, finite), error

    def choose(self, observation):
        if self.error is not None:
            raise self.error
        return self.answer


class Rule:
    """A rule that always gives the same answer, or an error."""

    def __init__(self, plan, expected_s=0.05, error=None):
        self.answer, self.error = (plan, expected_s, 0.0), error

    def choose(self, readings, now_s, acked_bytes):
        if self.error is not None:
            raise self.error
        return self.answer


class Clock:
    """Every look at it is so many seconds after the last."""

    def __init__(self, step_s=0.0):
        self.now_s, self.step_s = 0.0, step_s

    def __call__(self):
        self.now_s += self.step_s
        return self.now_s


# --- the rows: how each comes about


def nothing_wrong(bundle):
    return Controller(bundle), Request()


def not_active(bundle):
    return Controller(bundle, mode="off"), Request()


def no_bundle(bundle):
    return Controller(Task.of(bundle)), Request()


def bundle_rejected(bundle):
    return Controller(Task.of(bundle), missing="bundle-rejected"), Request()


def no_edge(bundle):
    return Controller(bundle), Request(edge_reachable=False)


def silence(bundle):
    controller = Controller(bundle)
    controller.decide(-2.0, Request())
    controller.report(-1.9, msgspec.structs.replace(AT_HOME, plan=controller.decide(-1.95, Request()).plan))
    controller._good = (LOCAL, 0.0)
    controller.decide(-1.0, Request())
    return controller, Request()


def slow_policy(bundle):
    controller = Controller(bundle, clock=Clock(0.006))
    for now_s in (4.7, 4.8, 4.9):
        plan = controller.decide(now_s, Request()).plan
        controller.report(now_s, Outcome(plan=plan, device_start_s=now_s, device_s=0.0))
    return controller, Request()


def broken_reading(bundle):
    controller = Controller(bundle)
    controller.readings[tm.SAMPLES] = 1.0
    controller.readings[tm.RATE_BPS] = float("nan")
    return controller, Request()


def another_world(bundle):
    # The first request ever has no gap before it, which the encoder says with 1.
    high = tuple(0.9 if feature.name == "gap" else features.HIGH for feature in features.FEATURES)
    return Controller(dataclasses.replace(bundle, ranges=Ranges((features.LOW,) * len(high), high))), Request()


def raising_policy(bundle):
    return Controller(bundle, policy=Says(0, error=RuntimeError("the library's own"))), Request()


def broken_weights(bundle):
    layers = [(w.copy(), b.copy()) for w, b in bundle.policy.layers]
    layers[-1][1][:] = np.nan
    return Controller(dataclasses.replace(bundle, policy=Mlp(layers, "tanh"))), Request()


def no_such_plan(bundle):
    return Controller(bundle, policy=Says(8)), Request()


def kept_to_the_device(bundle):
    controller = Controller(bundle, policy=Says(LOCAL), rule=Rule(SENDS))
    for number in range(22):
        controller.decide(3.8 + 0.05 * number, Request())
        controller.report(3.84 + 0.05 * number, AT_HOME)
    return controller, Request()


def broken_rule(bundle):
    controller = Controller(Task.of(bundle), rule=Rule(0, error=ZeroDivisionError()))
    controller._good = (SENDS, 4.0)
    return controller, Request()


def nothing_ever_worked(bundle):
    return Controller(Task.of(bundle), rule=Rule(-1)), Request()


def hopeless(bundle):
    controller = Controller(bundle)
    tm.decided(controller.readings, 0.2, 0.0)
    return controller, Request()


# A new row fails below until it has a line here.
ROWS = {
    "": nothing_wrong,
    "not-active": not_active,
    "no-bundle": no_bundle,
    "bundle-rejected": bundle_rejected,
    "edge-unreachable": no_edge,
    "telemetry-stale": silence,
    "over-time-budget": slow_policy,
    "observation-not-finite": broken_reading,
    "observation-outside-training": another_world,
    "policy-raised": raising_policy,
    "logits-not-finite": broken_weights,
    "plan-invalid": no_such_plan,
    "edge-unheard": kept_to_the_device,
    "rule-failed": broken_rule,
    "nothing-good": nothing_ever_worked,
    "deadline-infeasible": hopeless,
}
# Rows that begin with another one: its reason is counted too.
ON_THE_WAY = {"rule-failed": ["no-bundle"], "nothing-good": ["no-bundle", "rule-failed"]}


def test_every_row_of_the_ladder_is_tested():
    assert set(ROWS) == set(LADDER)


@pytest.mark.parametrize("reason", LADDER)
def test_each_row_of_the_ladder_answers_and_is_counted(make_bundle, plans, reason):
    bundle = make_bundle()
    controller, request = ROWS[reason](bundle)
    controller.counts = Counts()
    decision = controller.decide(5.0, request)
    assert (decision.step, decision.reason) == (LADDER[reason], reason)
    now = aged_estimate(controller.readings, 5.0, 0.0)
    expected = {
        "policy": lambda: int(bundle.policy.logits(controller._candidate.observation).argmax()),
        "greedy": lambda: None,  # any plan will do; which one is the rule's business
        "last-good": lambda: controller._good[0],
        "static-safe": lambda: 2 if reason == "deadline-infeasible" else LOCAL,  # 2 is the fastest, LOCAL the most accurate in time
    }[decision.step]()
    assert expected is None or decision.plan == expected
    row = plans.rows[decision.plan]
    assert (decision.exit, decision.partition, decision.bits, decision.codec) == (row.exit, row.partition, row.bits, row.codec)
    counts = controller.counts
    assert (counts.decisions, counts.steps, counts.plans) == (1, {LADDER[reason]: 1}, {decision.plan: 1})
    assert counts.reasons == dict.fromkeys([*ON_THE_WAY.get(reason, []), reason], 1) if reason else not counts.reasons
    assert counts.fallbacks == (reason not in {"", "not-active"})
    assert now.rate_bps > 0


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_one_broken_weight_anywhere_is_seen(controller, layer, activation):
    layers = [(w.copy(), b.copy()) for w, b in controller.bundle.policy.layers]
    layers[layer][1][2] = np.nan
    found = Controller(dataclasses.replace(controller.bundle, policy=Mlp(layers, activation))).decide(5.0, Request())
    assert (found.step, found.reason) == ("greedy", "logits-not-finite")


def test_the_greedy_row_is_the_rule_on_the_readings(controller):
    controller.report(1.1, BY_EDGE)
    broken, request = broken_weights(controller.bundle)
    broken.readings = controller.readings
    bundle = broken.bundle
    now = aged_estimate(controller.readings, 5.0, 0.0)
    assert broken.decide(5.0, request).plan == Greedy(bundle.plans, bundle.path, bundle.objective).choose(now)[0]


def test_a_rule_of_its_own_takes_the_greedy_rung(make_bundle):
    controller = Controller(Task.of(make_bundle()), rule=Rule(SENDS, 0.031))
    decision = controller.decide(1.0, Request())
    assert (decision.plan, decision.step, decision.expected_latency_s) == (SENDS, "greedy", 0.031)


@pytest.mark.parametrize("answer", [Rule(8), Rule(-1), Rule(3, float("nan")), Rule(3, error=IndexError()), Rule(3, error=ValueError())])
def test_a_rule_without_a_sound_answer_is_no_answer(make_bundle, answer):
    assert Controller(Task.of(make_bundle()), rule=answer).decide(1.0, Request()).reason == "nothing-good"


def test_a_fault_of_ours_in_a_rule_is_not_hidden(make_bundle):
    with pytest.raises(TypeError):
        Controller(Task.of(make_bundle()), rule=Rule(3, error=TypeError())).decide(1.0, Request())


def test_without_the_edge_the_plan_stays_local_whatever_the_policy_says(make_bundle, plans):
    for plan in range(len(plans)):
        decision = Controller(make_bundle(), policy=Says(plan)).decide(0.0, Request(edge_reachable=False))
        assert decision.bits == 0


def test_without_a_bundle_there_is_none_to_show(make_bundle):
    with pytest.raises(BundleError, match="bundle-rejected"):
        _ = Controller(Task.of(make_bundle()), missing="bundle-rejected").bundle


# --- the last rungs


@given(st.floats(1e3, 1e9), st.floats(0.1, 1.0), st.floats(0.0, 0.2), st.floats(0.0, 1e4), st.floats(1e-3, 1.0))
def test_hope_is_lost_where_every_plan_of_the_table_is_late(plans, path, rate_bps, slow_down, backlog_s, queued_bytes, late_s):
    """It asks a few plans only; the whole table is its twin."""
    hope, now = Hope(plans, path), Estimate(rate_bps, slow_down, backlog_s, queued_bytes)
    assert len(hope._rows) < len(plans)
    assert hope.lost(now, late_s) == (expected_latency_s(plans, path, now).min() > late_s)


def test_the_safe_plan_goes_by_slow_down_and_backlog(plans):
    safe = Safe(plans)
    assert safe.choose(Estimate(1.0), 0.1) == plans.static_safe(0.1) == LOCAL
    assert safe.choose(Estimate(1.0, slow_down=3.0), 0.1) == plans.static_safe(0.1, 3.0) == 2  # 33 ms for 156
    assert safe.choose(Estimate(1.0, backlog_s=0.06), 0.1) == 2
    assert safe.choose(Estimate(1.0, backlog_s=9.0), 0.1) == safe.fastest == 2


@given(st.floats(0.5, 50.0), st.floats(1e-3, 1.0))
def test_the_safe_plan_is_the_tables(plans, slow_down, deadline_s):
    assert Safe(plans).choose(Estimate(1.0, slow_down), deadline_s) == plans.static_safe(deadline_s, slow_down)


# --- what a decision tells


def test_it_tells_the_latency_that_it_expects(controller):
    controller.report(1.1, BY_EDGE)
    now = aged_estimate(controller.readings, 5.0, 0.0)
    decision = controller.decide(5.0, Request(id=9))
    bundle = controller.bundle
    assert decision.id == 9
    assert decision.expected_latency_s == pytest.approx(expected_latency_s(bundle.plans, bundle.path, now)[decision.plan])


ESTIMATES = st.builds(
    Estimate,
    st.floats(1e3, 1e10),
    st.floats(0.1, 100.0),
    st.floats(0.0, 1.0),
    st.floats(0.0, 1e6),
    st.floats(0.0, 1.0),
    st.floats(0.1, 9.0),
)


@given(ESTIMATES)
def test_the_latency_of_one_plan_is_that_of_the_table(plans, path, now):
    every = expected_latency_s(plans, path, now)
    assert [latency_of_s(row, path, now) for row in plans.rows] == pytest.approx(every.tolist(), rel=1e-12)


@pytest.fixture(scope="session")
def path(make_bundle):
    return make_bundle().path


def test_a_transfer_is_given_up_a_margin_past_the_deadline(make_bundle):
    assert Controller(make_bundle()).decide(1.0, Request()).give_up_s == pytest.approx(0.12)
    assert Controller(make_bundle()).decide(1.0, Request(deadline_s=0.05)).give_up_s == pytest.approx(0.07)
    assert Controller(make_bundle(), settings=Settings(cancel_margin_s=0.0)).decide(1.0, Request()).give_up_s == pytest.approx(0.1)


def test_a_request_has_its_own_deadline_and_the_next_one_the_usual(controller):
    controller.decide(1.0, Request(deadline_s=0.05))
    assert controller.readings[tm.DEADLINE_S] == 0.05
    controller.decide(2.0, Request())
    assert controller.readings[tm.DEADLINE_S] == 0.1


@pytest.mark.parametrize("deadline_s", [0.0, -1.0, float("nan")])
def test_a_deadline_that_makes_no_sense_is_the_usual(controller, deadline_s):
    assert controller.decide(1.0, Request(deadline_s=deadline_s)).give_up_s == pytest.approx(0.12)


def test_the_deadline_of_a_request_decides_in_the_rungs_below(make_bundle):
    def plan(deadline_s, **options):
        return Controller(Task.of(make_bundle()), **options).decide(1.0, Request(deadline_s=deadline_s)).plan

    assert plan(0.1) == LOCAL  # 52 ms
    assert plan(0.04) == 3  # the image, over a link of 5 Mb/s: 33 ms
    assert plan(0.012) == 2  # 11 ms
    assert plan(0.012, rule=Rule(-1)) == 2


def test_where_late_answers_count_only_a_time_out_is_hopeless(make_bundle):
    controller = Controller(make_bundle(objective=linear(0.1)))
    tm.decided(controller.readings, 0.2, 0.0)
    assert controller.decide(1.0, Request()).reason == ""
    tm.decided(controller.readings, 0.3, 0.0)
    assert (controller.decide(1.0, Request()).plan, controller.counts.reasons) == (2, {"deadline-infeasible": 1})


def test_a_good_link_a_moment_ago_is_hope(controller, plans):
    """The device has 60 ms ahead; only the image itself is in time, if the link is what it was before the last transfer."""
    tm.decided(controller.readings, 0.06, 0.0)
    tm.sampled(controller.readings, 0.5, 0.1, 0.0)
    controller.readings[tm.RATE_BPS] = 8e3
    assert controller.decide(1.0, Request(deadline_s=0.06)).reason == "deadline-infeasible"


def test_what_comes_with_a_request_enters_the_readings(controller):
    controller.decide(3.0, Request(link_bps=7e6, link_at_s=2.99, edge_queue_s=0.02, edge_queue_at_s=2.9))
    found = [controller.readings[i] for i in (tm.RATE_BPS, tm.RATE_AT, tm.EDGE_QUEUE_S, tm.EDGE_QUEUE_AT)]
    assert found == [7e6, 2.99, 0.02, 2.9]


# --- whatever is reported, a plan comes out


def assert_sound(controller, decision):
    assert 0 <= decision.plan < len(controller.bundle.plans)
    assert decision.step in {"policy", "greedy", "last-good", "static-safe"}
    # It can be told to the device: JSON has no number that is not finite.
    assert msgspec.json.decode(msgspec.json.encode(decision), type=Decision) == decision


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 1e308])
def test_a_decision_comes_out_whatever_a_reading_holds(make_bundle, value):
    failed = {}
    for reading in range(tm.SIZE):
        controller = Controller(make_bundle())
        for report in (BY_EDGE, AT_HOME):
            controller.decide(1.0, Request())
            controller.report(1.1, report)
        controller.readings[reading] = value
        try:
            assert_sound(controller, controller.decide(2.0, Request()))
            assert_sound(controller, controller.decide(3.0, Request()))
        except Exception as error:  # noqa: BLE001 - all of them are told at once
            failed[reading] = f"{type(error).__name__}: {error}"
    assert not failed


def test_a_rate_beyond_all_numbers_does_not_stop_it(controller):
    """Two such reports leave a rate that is no number: the weighted mean of infinity and itself."""
    for _ in range(3):
        controller.report(1.1, msgspec.structs.replace(BY_EDGE, sent_bytes=1e308))
        assert_sound(controller, controller.decide(2.0, Request()))


NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
OUTCOMES = st.builds(
    Outcome, st.integers(0, 7), *[NUMBERS] * 8, id=st.just(0), device_cpu_s=NUMBERS, edge_s=NUMBERS, rtt_s=NUMBERS, latency_s=NUMBERS
)


def test_a_decision_comes_out_whatever_is_reported(make_bundle):
    bundle = make_bundle()

    @settings(max_examples=60, phases=[Phase.explicit, Phase.reuse, Phase.generate])  # to make a failure smaller takes a minute
    @given(st.lists(st.tuples(NUMBERS, OUTCOMES), max_size=4), NUMBERS, NUMBERS)
    def check(reports, now_s, acked_bytes):
        controller = Controller(bundle)
        for at_s, outcome in reports:
            controller.report(at_s, outcome)
        assert_sound(controller, controller.decide(now_s, Request(acked_bytes=acked_bytes)))

    check()


# --- counters and determinism


def test_counts_add_up(controller):
    for number in range(20):
        decision = controller.decide(float(number), Request(number, edge_reachable=number % 4 > 0))
        assert decision.id == number
        if number % 2:
            controller.report(number + 0.1, msgspec.structs.replace(AT_HOME, plan=decision.plan))
    counts = controller.counts
    assert (counts.decisions, counts.reports, counts.fallbacks) == (20, 10, 5)
    assert sum(counts.steps.values()) == sum(counts.plans.values()) == 20
    assert counts.steps["static-safe"] == counts.reasons["edge-unreachable"] == 5


def events(seed):
    """Requests and reports as they may come: (time, request or outcome)."""
    rng = np.random.default_rng(seed)
    now = 0.0
    for number in range(60):
        now += rng.exponential(0.05)
        yield now, Request(number, float(rng.integers(500)), edge_reachable=bool(rng.random() > 0.1))
        start, work, sent = now + 0.001, rng.uniform(0.01, 0.1), rng.uniform(0.005, 0.05)
        now += rng.exponential(0.05)
        yield (
            now,
            Outcome(int(rng.integers(8)), start, work, start + work, sent, float(rng.integers(3000)), 0.0, 0.0, rng.uniform(-0.01, 0.02)),
        )


def play(controller, happenings):
    made = []
    for now_s, happening in happenings:
        if isinstance(happening, Request):
            made.append(controller.decide(now_s, happening))
        else:
            controller.report(now_s, happening)
    return made


CORE = (
    "messages", "settings", "controller", "ladder", "guard", "modes", "books", "estimators", "rules", "priced", "filters", "telemetry",
    "features", "trace", "replaying",
)  # fmt: skip


@pytest.mark.parametrize("name", CORE)
def test_the_core_imports_no_clock_no_socket_and_no_randomness(root, name):
    tree = ast.parse((root / "runtime" / f"{name}.py").read_text(encoding="utf-8"))
    plain = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    modules = plain | {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    outside = {module.partition(".")[0] for module in modules if not module.startswith("cutlayer")}
    allowed = {"__future__", "typing", "collections", "dataclasses", "math", "operator", "statistics", "struct", "numpy", "msgspec"}
    assert outside <= allowed
    assert not any(isinstance(node, ast.Attribute) and node.attr == "random" for node in ast.walk(tree)), "numpy's generators"


def test_the_same_events_give_the_same_decisions(make_bundle):
    one, two = Controller(make_bundle()), Controller(make_bundle())
    first = play(one, events(1))
    assert first == play(two, events(1))
    assert one.readings == two.readings
    assert first != play(Controller(make_bundle()), events(2))
    assert len({decision.plan for decision in first}) > 2


def test_the_receivers_dispersion_is_the_rate_where_it_was_measured(controller):
    controller.report(1.1, msgspec.structs.replace(BY_EDGE, rate_bytes=500.0, rate_s=0.001))
    assert controller.readings[tm.RATE_BPS] == pytest.approx(4e6)
    controller.report(1.2, BY_EDGE)
    assert 10 ** controller.readings[tm.RING] == pytest.approx(8 * 626 / 0.01)


def test_a_request_that_sent_nothing_tells_nothing_of_the_link(controller):
    controller.report(1.1, AT_HOME)
    assert controller.readings[tm.SAMPLES] == 0.0
    assert controller.readings[tm.SLOW_DOWN] == pytest.approx(0.06 / 0.052)
    assert controller.readings[tm.EDGE_WAIT_AT] == tm.NEVER

"""The controller: each row of its ladder, its counters, and that it sees on the device what the simulator showed in training."""

from __future__ import annotations

import dataclasses

import msgspec
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from cutlayer.agents.evaluate import Learned
from cutlayer.envs import scenarios
from cutlayer.envs.channels import Cellular, Constant, Mixture
from cutlayer.envs.record import Status
from cutlayer.envs.simulation import Simulation
from cutlayer.envs.streams import draw
from cutlayer.envs.workload import Periodic
from cutlayer.profiles.cost import expected_latency_s
from cutlayer.runtime import telemetry as tm
from cutlayer.runtime.controller import LADDER, Controller, Decision, Outcome, Request
from cutlayer.runtime.policy import Mlp
from cutlayer.runtime.rules import Greedy, estimate

AT_HOME = Outcome(plan=7, device_start_s=1.0, device_s=0.06)
BY_EDGE = Outcome(
    plan=5, device_start_s=1.0, device_s=0.02, send_start_s=1.02, send_s=0.01, sent_bytes=626.0, edge_wait_s=0.003, id=4
)  # fmt: skip


@pytest.fixture
def controller(make_bundle):
    return Controller(make_bundle())


def nothing_wrong(controller):
    return controller, Request()


def broken_reading(controller):
    controller.readings[tm.SAMPLES] = 1.0
    controller.readings[tm.RATE_BPS] = float("nan")
    return controller, Request()


def broken_weights(controller):
    layers = [(w.copy(), b.copy()) for w, b in controller.bundle.policy.layers]
    layers[-1][1][:] = np.nan
    broken = Controller(dataclasses.replace(controller.bundle, policy=Mlp(layers, "tanh")))
    return broken, Request()


def no_edge(controller):
    return controller, Request(edge_reachable=False)


# How each row of the ladder comes about. A new row fails below until it has a line here.
ROWS = {
    "": nothing_wrong,
    "observation-not-finite": broken_reading,
    "logits-not-finite": broken_weights,
    "edge-unreachable": no_edge,
}


def test_every_row_of_the_ladder_is_tested():
    assert set(ROWS) == set(LADDER)


@pytest.mark.parametrize("reason", LADDER)
def test_each_row_of_the_ladder_answers_and_is_counted(controller, plans, reason):
    controller, request = ROWS[reason](controller)
    expected = {
        "policy": lambda: int(controller.bundle.policy.logits(controller._observation).argmax()),
        "greedy": lambda: None,  # any plan will do; which one is the rule's business
        "static-safe": lambda: plans.device_only(1),
    }
    decision = controller.decide(5.0, request)
    assert (decision.step, decision.reason) == (LADDER[reason], reason)
    wanted = expected[decision.step]()
    assert wanted is None or decision.plan == wanted
    row = plans.rows[decision.plan]
    assert (decision.exit, decision.partition, decision.bits) == (row.exit, row.partition, row.bits)
    counts = controller.counts
    assert (counts.decisions, counts.steps, counts.plans) == (1, {LADDER[reason]: 1}, {decision.plan: 1})
    assert counts.reasons == ({reason: 1} if reason else {})
    assert counts.fallbacks == (1 if reason else 0)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_one_broken_weight_anywhere_is_seen(controller, layer, activation):
    layers = [(w.copy(), b.copy()) for w, b in controller.bundle.policy.layers]
    layers[layer][1][2] = np.nan
    found = Controller(dataclasses.replace(controller.bundle, policy=Mlp(layers, activation))).decide(5.0, Request())
    assert (found.step, found.reason) == ("greedy", "logits-not-finite")


def test_the_greedy_row_is_the_rule_on_the_readings(controller):
    controller.report(1.1, BY_EDGE)
    broken, request = broken_weights(controller)
    broken.readings = controller.readings
    bundle = broken.bundle
    now = estimate(controller.readings, 5.0, 0.0)
    assert broken.decide(5.0, request).plan == Greedy(bundle.plans, bundle.path, bundle.objective).choose(now)[0]


def test_without_the_edge_the_plan_stays_local_whatever_the_policy_says(make_bundle, plans):
    for seed in range(5):
        rng = np.random.default_rng(seed)
        policy = Mlp([(rng.normal(size=(8, 32)), rng.normal(size=8))], "tanh")
        decision = Controller(make_bundle(policy=policy)).decide(0.0, Request(edge_reachable=False))
        assert decision.bits == 0


def test_it_tells_the_latency_that_it_expects(controller):
    controller.report(1.1, BY_EDGE)
    now = estimate(controller.readings, 5.0, 0.0)
    decision = controller.decide(5.0, Request(id=9))
    bundle = controller.bundle
    assert decision.id == 9
    assert decision.expected_latency_s == pytest.approx(expected_latency_s(bundle.plans, bundle.path, now)[decision.plan])


# --- whatever is reported, a plan comes out


def assert_sound(controller, decision):
    assert 0 <= decision.plan < len(controller.bundle.plans)
    assert decision.step in {"policy", "greedy", "static-safe"}
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
OUTCOMES = st.builds(Outcome, st.integers(0, 7), *[NUMBERS] * 8, id=st.just(0))


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


# --- the same on the device as in the simulator


def outcome(record):
    """What a device agent would report of that record."""
    return Outcome(
        plan=record.plan,
        device_start_s=record.device_start_s,
        device_s=record.device_end_s - record.device_start_s,
        send_start_s=record.send_start_s,
        send_s=record.send_end_s - record.send_start_s,
        sent_bytes=record.sent_bytes,
        edge_wait_s=record.edge_wait_s if record.status is Status.EDGE else -1.0,
    )


def replay(scenario, make_bundle, make_policy, episode):
    """One episode decided in the simulator by the learned policy, and the same by a controller that is told what happened."""
    policy = make_policy(len(scenario.plans), seed=episode, hidden=32)
    world, learned = Simulation(scenario, draw(scenario, episode)), Learned(policy)
    controller = Controller(make_bundle(scenario.plans, policy, scenario.path, scenario.objective))
    records = []
    while not world.done:
        seen, plan, now_s = world.observation(), learned.act(world), world.now_s
        decision = controller.decide(now_s, Request(world.request))
        np.testing.assert_allclose(controller._observation, seen, rtol=0, atol=1e-6, err_msg=f"request {world.request}")
        assert (decision.plan, decision.step) == (plan, "policy")
        record = world.decide(plan)
        assert max(record.finish_s, record.send_end_s + scenario.path.rtt_s) < world.now_s, "no request overlaps the next"
        controller.report(record.finish_s, outcome(record))
        records.append(record)
    return records


def lonely(plans, channel):
    """The camera's world with one request every two seconds: each is over before the next one comes."""
    scenario = scenarios.camera(plans, channel)
    return dataclasses.replace(scenario, arrivals=Periodic(2.0, 0.1), requests=60)


def test_a_controller_sees_and_decides_as_the_simulator(plans, make_bundle, make_policy):
    scenario = lonely(plans, Mixture((Constant(3e5), Cellular(1e6, 1.0, 1.0))))
    records = [record for episode in range(8) for record in replay(scenario, make_bundle, make_policy, episode)]
    # The comparison covers every way in which a request can end on a device without a modelled battery.
    assert {record.status for record in records} == set(Status) - {Status.EMPTY}
    assert len({record.plan for record in records}) >= 6


def test_a_transfer_given_up_in_an_outage_tells_both_the_same(plans, make_bundle, make_policy):
    """Nothing was carried for as long as it was tried: the simulator counts that as a rate of zero."""
    scenario = lonely(plans, Cellular(3e6, 0.5, 1.0, outage_share=0.4, outage_s=0.5))
    records = [record for episode in range(4) for record in replay(scenario, make_bundle, make_policy, episode)]
    assert any(record.status is Status.GIVEN_UP and record.sent_bytes == 0.0 for record in records)


def test_the_built_in_table_is_decided_on_alike(make_bundle, make_policy):
    replay(dataclasses.replace(lonely(scenarios.plan_table(), Constant(4e6)), requests=30), make_bundle, make_policy, 1)

"""The controller and the simulator's observer: told the same events they see the same and decide alike; and no transient locks it in."""

from __future__ import annotations

import dataclasses
import heapq
import itertools

import numpy as np
import pytest

from cutlayer.agents.evaluate import Learned
from cutlayer.envs import scenarios
from cutlayer.envs.channels import Cellular, Constant, Mixture
from cutlayer.envs.deadlines import ChosenDeadlines
from cutlayer.envs.record import Status
from cutlayer.envs.simulation import Simulation
from cutlayer.envs.spec import Battery, Edge, Link, Thermal
from cutlayer.envs.streams import draw
from cutlayer.envs.workload import EdgeJobs, Periodic, SlowDown
from cutlayer.profiles.cost import linear
from cutlayer.runtime import features, filters, priced
from cutlayer.runtime import telemetry as tm
from cutlayer.runtime.controller import Controller, Outcome, Progress, Request, Task
from cutlayer.runtime.policy import Mlp
from cutlayer.runtime.priced import Device, Parameters
from cutlayer.runtime.rules import Greedy, estimate

DEVICE, EDGE, GIVEN_UP, UNSENT, EMPTY = Status


class Agent:
    """A device agent in a simulated world: tells a controller each part of a record when the device would know it, in order of time."""

    def __init__(self, scenario, controller):
        self.scenario, self.controller = scenario, controller
        self.late_s = scenario.path.rtt_s / 2
        self.senses = not scenario.plain
        self.replied_s = 0.0
        self.coming, self.order = [], itertools.count()

    def ran(self, number, record):
        """The record of a request: what will be told of it, and when."""
        told = {"id": number, "plan": record.plan}
        sensors = {"temperature_c": record.temperature_c, "charge_j": record.charge_j} if self.senses else {}
        start_s, took_s = record.device_start_s, record.device_end_s - record.device_start_s
        assert record.status is not EMPTY, "a device without charge tells nothing"
        self.at(start_s, Progress(device_start_s=start_s, load_s=record.load_s, **told, **sensors))
        ended = {"device_start_s": start_s, "device_s": took_s, "load_s": record.load_s, **told}
        if record.status is DEVICE:
            self.at(record.device_end_s, Outcome(**ended))
            return
        self.at(record.device_end_s, Progress(**ended))
        self.at(record.send_start_s + self.late_s, Progress(send_start_s=record.send_start_s + self.late_s, **told))
        self.at(record.send_end_s + self.late_s, Progress(sent=True, **told))
        known_s = record.finish_s if record.status is EDGE else record.send_end_s + self.late_s
        # Reports are made in order: one that is ready early waits for those before it.
        self.replied_s = max(self.replied_s, known_s)
        self.at(
            self.replied_s,
            Outcome(
                send_start_s=record.send_start_s,
                send_s=record.send_end_s - record.send_start_s,
                sent_bytes=record.sent_bytes,
                edge_wait_s=record.edge_wait_s if record.status is EDGE else -1.0,
                latency_s=record.latency_s,
                **ended,
            ),
        )

    def at(self, when_s, event):
        heapq.heappush(self.coming, (when_s, next(self.order), event))

    def tell(self, now_s):
        """Everything that is known by now."""
        while self.coming and self.coming[0][0] <= now_s:
            when_s, _, event = heapq.heappop(self.coming)
            if isinstance(event, Progress):
                self.controller.progress(when_s, event)
            else:
                self.controller.report(when_s, event)


def request(world, scenario):
    """What comes with the present request."""
    readings = world.readings
    extra = {}
    if scenario.deadlines is not None:
        extra["deadline_s"] = world.deadline_s
    if scenario.link.rate_told:
        extra |= {"link_bps": readings[tm.RATE_BPS], "link_at_s": readings[tm.RATE_AT]}
    if scenario.edge.broadcast_s is not None and readings[tm.EDGE_QUEUE_AT] != tm.NEVER:
        extra |= {"edge_queue_s": readings[tm.EDGE_QUEUE_S], "edge_queue_at_s": readings[tm.EDGE_QUEUE_AT]}
    # Number 0 means that the agent gives none.
    return Request(world.request + 1, world.acked_bytes(), **extra)


# --- the same observations and plans


def policy_for(scenario, seed):
    """A random network for the scenario's features and plans; it finds each observation worth another one."""
    rng = np.random.default_rng(seed)
    sizes = (features.size(scenario.blocks), 32, len(scenario.plans))
    layers = [(rng.normal(0, 1.0 / np.sqrt(a), (b, a)), rng.normal(0, 0.1, b)) for a, b in itertools.pairwise(sizes)]
    return Mlp([(w.astype(np.float32), b.astype(np.float32)) for w, b in layers], "tanh")


def replay(scenario, make_bundle, episode):
    """One episode decided in the simulator by a policy, and the same by a controller that is told what happens when it happens."""
    policy = policy_for(scenario, episode)
    world, learned = Simulation(scenario, draw(scenario, episode)), Learned(policy)
    bundle = dataclasses.replace(make_bundle(scenario.plans, path=scenario.path, objective=scenario.objective), policy=policy)
    controller = Controller(dataclasses.replace(bundle, blocks=scenario.blocks))
    agent, records = Agent(scenario, controller), []
    while not world.done:
        agent.tell(world.now_s)
        seen, plan = world.observation(), learned.act(world)
        number = world.request
        decision = controller.decide(world.now_s, request(world, scenario))
        np.testing.assert_allclose(controller._candidate.observation, seen, rtol=0, atol=1e-6, err_msg=f"request {number}")
        # A hopeless request is answered by another rung; what was seen is the same.
        assert decision.reason == "deadline-infeasible" or (decision.plan, decision.reason) == (plan, "")
        record = world.decide(decision.plan)
        agent.ran(number + 1, record)
        records.append(record)
    agent.tell(np.inf)
    assert controller.counts.reports == controller.counts.decisions == scenario.requests
    assert [controller.readings[i] for i in (tm.IN_FLIGHT, tm.BACKLOG_S, tm.TO_SEND_BYTES)] == pytest.approx([0.0, 0.0, 0.0], abs=1e-6)
    return records


def test_a_busy_camera(plans, make_bundle):
    """Thirty requests a second: up to a dozen are on their way at once, in every stage."""
    scenario = dataclasses.replace(scenarios.camera(plans, Mixture((Constant(3e6), Cellular(3e6, 1.0, 1.0)))), requests=120)
    records = [record for episode in range(6) for record in replay(scenario, make_bundle, episode)]
    assert {record.status for record in records} == set(Status) - {EMPTY}
    assert len({record.plan for record in records}) >= 6


def test_a_lonely_camera_through_outages(plans, make_bundle):
    """Nothing was carried for as long as it was tried: both count that as a rate of zero."""
    channel = Cellular(3e6, 0.5, 1.0, outage_share=0.4, outage_s=0.5)
    scenario = dataclasses.replace(scenarios.camera(plans, channel), arrivals=Periodic(2.0, 0.1), requests=60)
    records = [record for episode in range(4) for record in replay(scenario, make_bundle, episode)]
    assert any(record.status is GIVEN_UP and record.sent_bytes == 0.0 for record in records)


def test_the_built_in_table(make_bundle):
    replay(dataclasses.replace(scenarios.camera(), requests=60), make_bundle, 1)


def test_all_that_a_device_can_sense_and_be_told(make_bundle):
    """A rate that is told, a queue that is broadcast, deadlines that differ, heat, charge."""
    scenario = dataclasses.replace(
        scenarios.camera(),
        requests=80,
        link=Link(rate_told=True),
        edge=Edge(broadcast_s=0.05),
        thermal=Thermal(idle_c=40.0, busy_c=90.0, time_constant_s=1.0, throttle_c=60.0, limit_c=80.0, slowest=2.0),
        battery=Battery(capacity_j=1000.0),
        deadlines=ChosenDeadlines((0.05, 0.1, 0.3)),
    )
    assert features.size(scenario.blocks) == features.SIZE + 6
    replay(scenario, make_bundle, 2)


# --- lock-in: a transient of contention must not leave it on a worse plan

POISONED = range(60, 72)  # twelve requests
BEFORE, AFTER = slice(30, 60), slice(122, 172)  # after at most fifty more


def poisoned(scenario, what, factor):
    """Streams of an episode in which device, link or edge are contended for while those requests come."""
    streams = draw(scenario, 3)
    begin_s, end_s = (float(streams.arrival_s[i]) for i in (POISONED.start, POISONED.stop))
    slots = slice(streams.slot(begin_s), streams.slot(end_s))
    if what == "edge":
        times = np.arange(begin_s, end_s, 0.01)
        return dataclasses.replace(streams, job_arrival_s=times, job_service_s=np.full(len(times), 0.01 * factor))
    column = {"device": "slow_down", "link": "rate_bps"}[what]
    values = getattr(streams, column).copy()
    values[slots] *= factor
    return dataclasses.replace(streams, **{column: values})


class FaceValue:
    """The greedy rule as it was: a reading holds until there is a newer one."""

    def __init__(self, task):
        self.greedy = Greedy(task.plans, task.path, task.objective)

    def choose(self, readings, now_s, acked_bytes):
        return self.greedy.best(estimate(readings, now_s, acked_bytes))


def drive(scenario, streams, controller):
    """Latencies and plans of an episode that the controller decides."""
    world, agent, records = Simulation(scenario, streams), Agent(scenario, controller), []
    while not world.done:
        agent.tell(world.now_s)
        number = world.request + 1
        record = world.decide(controller.decide(world.now_s, request(world, scenario)).plan)
        agent.ran(number, record)
        records.append(record)
    return np.array([record.latency_s for record in records]), [record.plan for record in records]


def alone(rate_bps, slow_down=1.0, period_s=0.2):
    """One request at a time and nobody else: the best plan is known."""
    return dataclasses.replace(
        scenarios.camera(channel=Constant(rate_bps)),
        arrivals=Periodic(period_s),
        objective=linear(0.1),
        slow_down=SlowDown(factor=slow_down, busy_share=1.0),
        edge_jobs=EdgeJobs(rate_per_s=0.0),
        requests=180,
    )


CASES = {
    "device": (alone(10e6), "device", 10.0),
    "link": (alone(40e6, slow_down=4.0), "link", 1e-4),
    "edge": (alone(40e6, slow_down=4.0), "edge", 1.5),
}


# A filter that knows nothing but the usual: a link of 20 Mb/s that may drift, a device that may be slow, an edge that may be busy.
FILTER = Parameters(
    filters.Link(20e6, (0.0, 0.5, 0.5), (1.0, 1.0, 10.0)),
    cancel_margin_s=0.02,
    device=Device(1.0, 4.0, 0.05, 1.0),
    edge=priced.Edge((0.0, 0.0, 0.02), 1.0),
)


def priced_rule(task):
    return priced.Priced(task.plans, task.path, task.objective, FILTER)


@pytest.mark.parametrize("rule", [None, priced_rule], ids=["greedy", "priced"])
@pytest.mark.parametrize("case", CASES)
def test_twelve_poisoned_requests_are_forgotten_after_fifty(case, rule):
    scenario, what, factor = CASES[case]
    task = Task(scenario.plans, scenario.path, scenario.objective)
    controller = Controller(task, rule=rule and rule(task))
    latency_s, _ = drive(scenario, poisoned(scenario, what, factor), controller)
    before_s = latency_s[BEFORE].mean()
    assert latency_s[POISONED].mean() > 1.2 * before_s, "it was poisoned"
    assert latency_s[AFTER].mean() <= 1.05 * before_s
    assert set(controller.counts.steps) == {"greedy"}


@pytest.mark.parametrize("case", CASES)
def test_taken_at_face_value_a_reading_locks_it_in(case):
    """The trap is real: the same world, the same rule, readings that never age, and it stays on a worse plan for good."""
    scenario, what, factor = CASES[case]
    task = Task(scenario.plans, scenario.path, scenario.objective)
    latency_s, plans = drive(scenario, poisoned(scenario, what, factor), Controller(task, rule=FaceValue(task)))
    assert latency_s[AFTER].mean() > 1.1 * latency_s[BEFORE].mean()
    assert not set(plans[-50:]) & set(plans[BEFORE])

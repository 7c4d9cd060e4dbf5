"""Speeds as ratios within one run, per CPU-second of one core; published figures carry their run."""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING

import numpy as np
import simpy

from cutlayer.agents import queueing, runs
from cutlayer.envs import scenarios
from cutlayer.envs.batch import Bank, Lanes
from cutlayer.envs.kernel import Kernel
from cutlayer.envs.reference import Reference
from cutlayer.envs.simulation import ENGINES, EngineName, Simulation
from cutlayer.envs.streams import draw
from cutlayer.envs.workload import EdgeJobs

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from numpy.typing import NDArray

    from cutlayer.envs.record import Record
    from cutlayer.envs.spec import Scenario

REPEATS = 3  # of each speed; the median is reported
EVENTS = 300_000
LONG = 20_000  # requests of a long episode
QUEUED = 1_500_000  # requests of each queueing case: the mean wait of M/M/1 at load 0.8 is then known to 1 %


def engines(requests: int, name: str = "camera") -> dict[str, object]:
    """Decisions per CPU-second with observations, of both engines one by one and of the compiled one in lanes side by side with
    new episodes where one ends; bare SimPy events in the same run; how equal the records are; how much dearer a decision is in long
    and in busy worlds; and how far mean waits are from those of theory. `ratio` is 4,096 lanes to SimPy.
    """
    scenario = scenarios.make(name)
    simpy_raw = _median(_bare_events)
    speeds: dict[EngineName, float] = {name: _median(lambda name=name: _decisions(scenario, name)) for name in ENGINES}  # type: ignore[misc]  # mypy cannot infer a lambda with a default
    lanes = {n: _median(lambda n=n: _lanes(scenario, n)) for n in (256, 4096)}  # type: ignore[misc]  # as above
    # Half of them in the scenario that is timed, the rest shared out among the others.
    others = [scenarios.make(other) for other in scenarios.names() if other != name]
    compared = [compare(other, requests // (2 * len(others))) for other in others]
    compared.append(compare(scenario, requests - sum(count for _, count in compared)))
    return {
        "simpy_raw_events_per_s": simpy_raw,
        "simpy_decisions_per_s": speeds["simpy"],
        "kernel_decisions_per_s_n1": speeds["kernel"],
        "kernel_decisions_per_s_n256": lanes[256],
        "kernel_decisions_per_s_n4096": lanes[4096],
        "ratio": lanes[4096] / speeds["simpy"],
        "max_rel_error": max(error for error, _ in compared),
        "requests": sum(count for _, count in compared),
        "scenarios": [scenario.name, *(other.name for other in others)],
        "cost_growth": cost_growth(),
        "queue_errors": queueing.errors(QUEUED),
        "run": runs.manifest(scenario, {"first_episode": 0}),
    }


def _median(measure: Callable[[], float]) -> float:
    measure()  # compile and warm up
    return float(np.median([measure() for _ in range(REPEATS)]))


def _bare_events() -> float:
    world = simpy.Environment()

    def ping() -> Generator[simpy.Event, None, None]:
        while True:
            yield world.timeout(1.0)

    world.process(ping())
    start = time.process_time()
    world.run(until=EVENTS)
    return EVENTS / (time.process_time() - start)


def _decisions(scenario: Scenario, engine: EngineName, episodes: int = 10) -> float:
    rng = np.random.default_rng(0)
    streams = [draw(scenario, episode) for episode in range(episodes)]
    plans = rng.integers(len(scenario.plans), size=scenario.requests).tolist()
    start = time.process_time()
    for future in streams:
        world = Simulation(scenario, future, engine)
        for plan in plans:
            world.observation()
            world.decide(plan)
    return episodes * scenario.requests / (time.process_time() - start)


def _lanes(scenario: Scenario, lanes: int, decisions: int = 400_000, episodes: int = 256, among: NDArray[np.int64] | None = None) -> float:
    batch = Lanes(scenario, Bank.draw(scenario, range(episodes)), lanes)
    batch.reset(np.arange(lanes) % episodes)
    steps = max(60, decisions // lanes)
    rng = np.random.default_rng(0)
    plans = rng.choice(len(scenario.plans) if among is None else among, (steps, lanes))
    following = rng.integers(episodes, size=(steps, lanes))
    start = time.process_time()
    for now, then in zip(plans, following, strict=True):
        batch.step(now, then)
    return steps * lanes / (time.process_time() - start)


def cost_growth() -> dict[str, float]:
    """CPU time of a decision relative to one in an episode of 200 requests: in one of `LONG` requests, which has as many times the
    background jobs; and in one with ten times as many jobs a second on top, each a tenth as long.
    """
    camera = scenarios.make("camera")
    # Only plans that a device keeps up with: what queues up for ever fits in no ring.
    light = np.flatnonzero((camera.plans.device_s + camera.plans.encode_s) < 0.1 * camera.objective.deadline_s)
    short, long = (dataclasses.replace(camera, requests=requests) for requests in (200, LONG))
    assert isinstance(camera.edge_jobs, EdgeJobs)
    jobs = EdgeJobs(10 * camera.edge_jobs.rate_per_s, camera.edge_jobs.mean_s / 10)
    busy = dataclasses.replace(long, edge_jobs=jobs)
    speeds = [_median(lambda world=world: _lanes(world, 64, 64 * LONG, 4, light)) for world in (short, long, busy)]  # type: ignore[misc]  # as above
    return {"requests": speeds[0] / speeds[1], "jobs": speeds[0] / speeds[2]}


def compare(scenario: Scenario, requests: int, seed: int = 0) -> tuple[float, int]:
    """Largest relative difference between the engines' records over random plans, and how many records were compared."""
    rng = np.random.default_rng(seed)
    worst, compared, episode = 0.0, 0, seed
    while compared < requests:
        streams = draw(scenario, episode)
        reference, kernel = Reference(scenario, streams), Kernel(scenario, streams)
        for _ in range(min(scenario.requests, requests - compared)):
            plan = int(rng.integers(len(scenario.plans)))
            worst = max(worst, difference(reference.submit(plan), kernel.submit(plan)))
            compared += 1
        episode += 1
    return worst, compared


def difference(a: Record, b: Record) -> float:
    """Largest relative difference between two records of one request; infinite where another side answered."""
    if a.status != b.status:
        return float("inf")
    x, y = np.array(a[2:], np.float64), np.array(b[2:], np.float64)
    # Near zero the difference is taken against a millisecond (or millijoule): clocks of seconds hold no more digits.
    return float((np.abs(x - y) / np.maximum(np.abs(x), 1e-3)).max())

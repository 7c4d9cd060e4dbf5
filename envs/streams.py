"""All randomness of one episode, drawn beforehand: one child of the seed for each stream, so that none disturbs another."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cutlayer.envs.spec import Scenario


@dataclass(frozen=True, slots=True, eq=False)
class Streams:
    """The future of one episode.

    arrival_s (requests + 1,): the last one only ends the episode. rate_bps and slow_down (slots,), the last slot holds
    for ever. job_arrival_s and job_service_s (jobs,): background work at the edge, in order of arrival. harvest_w (slots,) as the rate.
    deadline_s (requests,): where requests differ; `deadlines` tells of any world.
    """

    slot_s: float
    arrival_s: NDArray[np.float64]
    rate_bps: NDArray[np.float64]
    slow_down: NDArray[np.float64]
    job_arrival_s: NDArray[np.float64]
    job_service_s: NDArray[np.float64]
    harvest_w: NDArray[np.float64] = field(default_factory=lambda: np.zeros(1))
    deadline_s: NDArray[np.float64] | None = None
    # Bytes a second in each slot and bytes carried before it, as Python floats: read one by one, numpy's scalars are slow.
    _rate: list[float] = field(init=False, repr=False)
    _carried: list[float] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        rate = self.rate_bps / 8.0
        object.__setattr__(self, "_rate", rate.tolist())
        object.__setattr__(self, "_carried", [0.0, *np.cumsum(rate[:-1] * self.slot_s).tolist()])

    def slot(self, now_s: float) -> int:
        """Index of the slot that `now_s` lies in."""
        return min(int(now_s / self.slot_s), len(self._rate) - 1)

    def carried_bytes(self, start_s: float, end_s: float) -> float:
        """Bytes that the uplink carries between two times: the integral of its rate; 0 where the end comes first."""
        return max(0.0, self._carried_by(end_s) - self._carried_by(start_s))

    def _carried_by(self, now_s: float) -> float:
        slot = self.slot(now_s)
        return self._carried[slot] + (now_s - slot * self.slot_s) * self._rate[slot]


def draw(scenario: Scenario, seed: int) -> Streams:
    """The streams of one episode of `scenario`; the same seed gives the same streams on any machine."""
    # A child that is asked for later leaves those before it as they were, and with them every episode that a seed ever named.
    arrivals, rate, slow, jobs, harvest, due = (np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(6))
    arrival_s = scenario.arrivals.draw(arrivals, scenario.requests + 1)
    # No transfer outlives its request's give-up time, so nothing is asked of the link after the last one.
    horizon_s = float(arrival_s[-1]) + scenario.give_up_s
    slots = math.ceil(horizon_s / scenario.slot_s) + 1
    batching = scenario.edge.batching
    last_s = horizon_s + scenario.path.rtt_s + (0.0 if batching is None else batching.window_s)
    job_arrival_s, job_service_s = scenario.edge_jobs.draw(jobs, last_s)
    power = scenario.battery.harvest if scenario.battery is not None else None
    return Streams(
        scenario.slot_s,
        arrival_s,
        scenario.link.goodput_bps(scenario.channel.draw(rate, slots, scenario.slot_s), scenario.path.rtt_s),
        scenario.slow_down.draw(slow, slots, scenario.slot_s),
        job_arrival_s,
        job_service_s,
        np.zeros(1) if power is None else power.draw(harvest, slots, scenario.slot_s),
        None if scenario.deadlines is None else scenario.deadlines.draw(due, scenario.requests),
    )


def deadlines(scenario: Scenario, streams: Streams) -> NDArray[np.float64]:
    """By when each request has to be answered, seconds from its arrival, shape (requests,): its own deadline or the objective's."""
    if streams.deadline_s is not None:
        return streams.deadline_s
    return np.full(len(streams.arrival_s) - 1, scenario.objective.deadline_s)

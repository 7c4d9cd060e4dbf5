"""Policies that know what no device knows: the whole future, the future of one request, or what the link was a moment ago.

The clairvoyant is a beam search over plans on the true future, by exact copies of the simulator's state. It is a feasible plan, hence
a lower bound of the optimum. Three things decide how near it comes (mean reward, 4 to 6 held-out episodes):

- **Dominance.** A world with no more reward than another, none of whose stations is free sooner, is worth no more. Without this rule a
  beam fills with near-copies of one world: 32 beams reached 0.783 in place of 0.854 on bursty-deadline, and 0.694 in place of 0.812 on
  lte-uplink.
- **Shadow prices.** A beam that ranks worlds by reward alone walks into every jam and every empty battery. What a world has used up is
  charged for, at several prices in turn, and the best search counts: 0.596 in place of 0.299 on battery-harvest.
- **Width.** With these two, 16, 32 and 64 beams reach 0.8548, 0.8561, 0.8575 on bursty-deadline, 0.8186, 0.8197, 0.8199 on lte-uplink and
  0.8135, 0.8152, 0.8156 on compound, for 0.1, 0.2 and 0.45 CPU-seconds an episode on a plain world.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from cutlayer.envs import batch, kernel
from cutlayer.profiles import cost
from cutlayer.runtime import rules
from cutlayer.runtime import telemetry as tm

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from cutlayer.envs.simulation import View
    from cutlayer.envs.spec import Scenario
    from cutlayer.envs.streams import Streams

# Names that compiled code can read: numba follows no module at run time.
_reward, _step, _numbers_of = cost.reward, kernel.step, batch.numbers_of
R_FINISH, R_ACCURACY, R_ENERGY, ROW, STATE = kernel.R_FINISH, kernel.R_ACCURACY, kernel.R_ENERGY, kernel.ROW, kernel.STATE
DEVICE_FREE, UPLINK_FREE, EDGE_DEPARTURE = kernel.DEVICE_FREE, kernel.UPLINK_FREE, kernel.EDGE_DEPARTURE
CHARGE_J, UNPAID_J, RUNNING, SERVERS, SERVER_COUNT = kernel.CHARGE_J, kernel.UNPAID_J, kernel.RUNNING, kernel.SERVERS, kernel.SERVER_COUNT

WIDTH = 32  # twice as many change the reward by 0.0002 to 0.0014, see above
TIE_PER_S = 1e-3  # of reward for each second that stations stay busy: decides ties only
GRAIN_S = 1e-3  # worlds whose stations are free within a millisecond of each other are near-copies: our choice, far below any deadline
# Prices that are tried, as reward for as much as one request at the last exit takes of the device. Of busy stations: our choice, from
# next to nothing to about what an answer is worth. Of charge: our choice, a factor of two apart with a fourth of the beams, then around
# the best.
BUSY = (0.02, 0.08, 0.3)
CHARGE, AROUND = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6), (0.7, 1.0, 1.4)
# What is compared of two worlds: when device, link and edge are free; charge drawn; what must be equal, unit in place and units resident.
FREE, DRAWN, UNIT, RESIDENT, MARKS = 0, 3, 4, 5, 6


@kernel.composed
def _mark(now: float, state: NDArray[np.float64], extra: kernel.Extra | None, mark: NDArray[np.float64]) -> float:
    """Write what is compared of a world at the next arrival; return for how long device and link are then busy."""
    mark[:] = 0.0
    mark[FREE], mark[FREE + 1] = max(state[DEVICE_FREE], now), max(state[UPLINK_FREE], now)
    mark[FREE + 2] = max(state[EDGE_DEPARTURE], now)
    if extra is not None:
        mark[DRAWN] = state[UNPAID_J] - state[CHARGE_J]
        mark[UNIT] = state[RUNNING]
        first = SERVERS + int(extra.settings[SERVER_COUNT])
        for server in range(SERVERS, first):  # the only one keeps its place as EDGE_DEPARTURE
            mark[FREE + 2] = max(mark[FREE + 2], state[server])
        for unit in range(len(extra.unit_bytes)):
            mark[RESIDENT] = 2.0 * mark[RESIDENT] + (1.0 if state[first + unit] > 0.0 else 0.0)
    busy_s: float = mark[FREE] + mark[FREE + 1] - 2.0 * now
    return busy_s


@kernel.composed
def _keep(
    order: NDArray[np.int64], scores: NDArray[np.float64], marks: NDArray[np.float64], kept: NDArray[np.int64], left: NDArray[np.int64]
) -> int:
    """Choose worlds in order: first those that none before them dominates, then, where there is room, the others; how many."""
    count, others = 0, 0
    for i in order:
        dominated = False
        for j in kept[:count]:
            dominated = scores[j] >= scores[i] and marks[j, DRAWN] <= marks[i, DRAWN]
            dominated = dominated and marks[j, UNIT] == marks[i, UNIT] and marks[j, RESIDENT] == marks[i, RESIDENT]
            for station in range(FREE, DRAWN):
                dominated = dominated and marks[j, station] <= marks[i, station] + GRAIN_S
            if dominated:
                break
        if dominated:
            left[others] = i
            others += 1
            continue
        kept[count] = i
        count += 1
        if count == len(kept):
            return count
    for i in left[: min(others, len(kept) - count)]:
        kept[count] = i
        count += 1
    return count


@kernel.composed
def _search(
    width: int,
    busy_price: float,
    charge_price: float,
    objective: tuple[float, float, float, float, float, float],
    arrivals: NDArray[np.float64],
    table: NDArray[np.float64],
    parameters: NDArray[np.float64],
    episode: int,
    rate: NDArray[np.float64],
    carried: NDArray[np.float64],
    slow_down: NDArray[np.float64],
    job_arrival: NDArray[np.float64],
    job_work: NDArray[np.float64],
    job_bound: NDArray[np.float64],
    extra: kernel.Extra | None,
) -> tuple[float, NDArray[np.int64]]:
    """Sum of rewards and plans of the best path found."""
    requests, plans = len(arrivals) - 1, len(table)
    size = STATE if extra is None else len(extra.start)
    states, scores, beams = np.zeros((width, size)), np.zeros(width), 1
    if extra is not None:
        states[0] = extra.start
    parent, chosen = np.zeros((requests, width), np.int64), np.zeros((requests, width), np.int64)
    row, state = np.empty(ROW), np.empty(size)
    grown, score, rank, marks = (
        np.empty((width * plans, size)),
        np.empty(width * plans),
        np.empty(width * plans),
        np.empty((width * plans, MARKS)),
    )
    kept, left = np.empty(width, np.int64), np.empty(width * plans, np.int64)
    for k in range(requests):
        own = _numbers_of(objective, episode, k, extra)
        for beam in range(beams):
            for plan in range(plans):
                state[:] = states[beam]
                _step(
                    plan, arrivals[k], table, parameters, episode, rate, carried, slow_down, job_arrival, job_work, job_bound, extra,
                    state, row,
                )  # fmt: skip
                i = beam * plans + plan
                grown[i] = state
                score[i] = scores[beam] + _reward(
                    row[R_FINISH] - arrivals[k], row[R_ACCURACY], row[R_ENERGY], own[0], own[1], own[2], own[3], own[4], own[5]
                )
                busy_s = _mark(arrivals[k + 1], state, extra, marks[i])
                rank[i] = busy_price * busy_s + charge_price * marks[i, DRAWN] - score[i]
        count = beams * plans
        beams = _keep(np.argsort(rank[:count], kind="mergesort"), score, marks, kept, left)
        for beam in range(beams):
            i = kept[beam]
            states[beam], scores[beam] = grown[i], score[i]
            parent[k, beam], chosen[k, beam] = i // plans, i % plans
    path = np.empty(requests, np.int64)
    beam = int(np.argmax(scores[:beams]))
    best = scores[beam]
    for k in range(requests - 1, -1, -1):
        path[k] = chosen[k, beam]
        beam = parent[k, beam]
    return best, path


def clairvoyant(scenario: Scenario, streams: Streams, width: int = WIDTH) -> NDArray[np.int64]:
    """A plan for every request of the episode, found on its true future; shape (requests,)."""
    plans, world = scenario.plans, kernel.arrays(scenario, streams)
    last = plans.device_only()
    per_s = 1.0 / max(float(plans.device_s[last] + plans.encode_s[last]), GRAIN_S)
    per_j = 1.0 / float(plans.device_j[last])

    def search(beams: int, busy: float, charge: float) -> tuple[float, NDArray[np.int64]]:
        found: tuple[float, NDArray[np.int64]] = _search(
            beams, busy * per_s, charge * per_j, scenario.objective.numbers(), streams.arrival_s, *world
        )
        return found

    def worth(found: tuple[float, NDArray[np.int64]]) -> float:
        return found[0]

    if scenario.battery is None:
        return max((search(width, busy, 0.0) for busy in BUSY), key=worth)[1]
    rough = {charge: search(max(1, width // 4), BUSY[1], charge) for charge in CHARGE}
    best = max(rough, key=lambda charge: worth(rough[charge]))
    return max([rough[best], *(search(width, BUSY[1], best * times) for times in AROUND)], key=worth)[1]


def one_step(scenario: Scenario, streams: Streams) -> NDArray[np.int64]:
    """For every request the plan that is best for it alone, known its true future but nothing of the requests after it."""
    world = kernel.arrays(scenario, streams)
    path: NDArray[np.int64] = _search(1, TIE_PER_S, 0.0, scenario.objective.numbers(), streams.arrival_s, *world)[1]
    return path


@dataclass(slots=True)
class Planned:
    """Plans for the whole episode, made on its true future by `search`."""

    scenario: Scenario
    search: Callable[[Scenario, Streams], NDArray[np.int64]]
    _plans: list[int] = field(default_factory=list)
    _request: int = 0

    def foresee(self, streams: Streams) -> None:
        """Be told the future of the episode that begins."""
        self._plans = self.search(self.scenario, streams).tolist()

    def begin(self) -> None:
        """Go back to the first request."""
        self._request = 0

    def act(self, view: View) -> int:  # noqa: ARG002 - decided beforehand
        """The plan."""
        self._request += 1
        return self._plans[self._request - 1]


@dataclass(slots=True)
class Lagged:
    """The greedy rule, told the link's true rate when the request before this one came, at least one round trip ago.

    The most that reports of the link could bring that rule; what it knows of device and edge are its own readings.
    """

    scenario: Scenario
    greedy: rules.Greedy
    _streams: Streams | None = None
    _before_s: float = 0.0

    def foresee(self, streams: Streams) -> None:
        """Be told the link of the episode that begins."""
        self._streams = streams

    def begin(self) -> None:
        """No request came yet."""
        self._before_s = 0.0

    def act(self, view: View) -> int:
        """The plan."""
        assert self._streams is not None, "foresee comes first"
        known_s = max(0.0, min(self._before_s, view.now_s - self.scenario.path.rtt_s))
        self._before_s = view.now_s
        told_bps = max(float(self._streams.rate_bps[self._streams.slot(known_s)]), tm.SLOWEST_BPS)
        now = rules.estimate(view.readings, view.now_s, view.acked_bytes())
        return self.greedy.best(dataclasses.replace(now, rate_bps=told_bps), view.deadline_s)[0]


# By name: what each is made of a scenario. None of them is a rival: they say what knowledge is worth.
ORACLES: Mapping[str, Callable[[Scenario], Planned | Lagged]] = {
    "clairvoyant": lambda scenario: Planned(scenario, clairvoyant),
    "clairvoyant-one-step": lambda scenario: Planned(scenario, one_step),
    "oracle-lagged": lambda scenario: Lagged(scenario, rules.Greedy(scenario.plans, scenario.path, scenario.objective)),
}

"""The clairvoyant: a beam search over plans on the true future, by exact copies of the simulator's state.

It knows every stream, so no causal policy can be expected to reach it; it is a feasible plan, hence a lower bound of the
optimum. With the beams' width it grows better slowly: 16 to 48 changes the reward in the third digit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cutlayer.envs import compiling, kernel
from cutlayer.profiles import cost

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cutlayer.envs.spec import Scenario
    from cutlayer.envs.streams import Streams

assert compiling.encode is not None, "imported so that cost.reward is known to numba"
_reward = cost.reward
_step = kernel.step
R_FINISH, R_ACCURACY, R_ENERGY, ROW, STATE = kernel.R_FINISH, kernel.R_ACCURACY, kernel.R_ENERGY, kernel.ROW, kernel.STATE
DEVICE_FREE, UPLINK_FREE = kernel.DEVICE_FREE, kernel.UPLINK_FREE

# Between beams of equal reward the one whose stations are free earlier is better; this price per second decides ties only.
BUSY_PRICE = 1e-3


@kernel.composed
def _search(
    width: int,
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
) -> NDArray[np.int64]:
    requests, plans = len(arrivals) - 1, len(table)
    size = STATE if extra is None else len(extra.start)
    states = np.zeros((width, size))
    if extra is not None:
        states[0] = extra.start
    scores = np.zeros(width)
    beams = 1
    parent = np.zeros((requests, width), np.int64)
    chosen = np.zeros((requests, width), np.int64)
    row, state = np.empty(ROW), np.empty(size)
    grown_state, grown_score, grown_rank = np.empty((width * plans, size)), np.empty(width * plans), np.empty(width * plans)
    for k in range(requests):
        for beam in range(beams):
            for plan in range(plans):
                state[:] = states[beam]
                _step(
                    plan, arrivals[k], table, parameters, episode, rate, carried, slow_down, job_arrival, job_work, job_bound, extra,
                    state, row,
                )  # fmt: skip
                i = beam * plans + plan
                grown_state[i] = state
                worth = _reward(
                    row[R_FINISH] - arrivals[k], row[R_ACCURACY], row[R_ENERGY],
                    objective[0], objective[1], objective[2], objective[3], objective[4], objective[5],
                )  # fmt: skip
                grown_score[i] = scores[beam] + worth
                busy = max(0.0, state[DEVICE_FREE] - arrivals[k]) + max(0.0, state[UPLINK_FREE] - arrivals[k])
                grown_rank[i] = -(grown_score[i] - BUSY_PRICE * busy)
        order = np.argsort(grown_rank[: beams * plans], kind="mergesort")
        kept = 0
        last = np.inf
        for i in order:
            # Copies of one world (plans with the same effect) would crowd out different ones.
            if grown_rank[i] == last:
                continue
            last = grown_rank[i]
            states[kept] = grown_state[i]
            scores[kept] = grown_score[i]
            parent[k, kept], chosen[k, kept] = i // plans, i % plans
            kept += 1
            if kept == width:
                break
        beams = kept
    path = np.empty(requests, np.int64)
    beam = int(np.argmax(scores[:beams]))
    for k in range(requests - 1, -1, -1):
        path[k] = chosen[k, beam]
        beam = parent[k, beam]
    return path


def clairvoyant(scenario: Scenario, streams: Streams, width: int = 32) -> NDArray[np.int64]:
    """A plan for every request of the episode, found on its true future; shape (requests,)."""
    found: NDArray[np.int64] = _search(width, scenario.objective.numbers(), streams.arrival_s, *kernel.arrays(scenario, streams))
    return found

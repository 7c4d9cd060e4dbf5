"""What each plan would lead to, in the future that will come: every lane is copied once a plan, and the copies take one step.

Because a lane is a few numbers, its copies cost little more than their step, which is the step of `Lanes` itself. So a learner
can compare all plans of one moment by the same future instead of guessing from the one it took.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cutlayer.envs import batch, broadcast, kernel
from cutlayer.envs.batch import Lanes
from cutlayer.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cutlayer.envs.batch import Bank
    from cutlayer.envs.spec import Scenario

_step_all = batch._step_all  # noqa: SLF001 - the step of a lane exists once; its copies take the same one
REQUEST, AT_DEVICE, AT_LINK, AT_REPLY = batch.REQUEST, batch.AT_DEVICE, batch.AT_LINK, batch.AT_REPLY
AT_EDGE, BROADCAST_S = broadcast.AT_EDGE, kernel.BROADCAST_S
_CHANGING = ("_places", "_states", "_readings", "_plans", "_rows", "observations")  # of a lane, from step to step


@batch.composed
def _spread(
    lane: int,
    places: NDArray[np.int64],
    states: NDArray[np.float64],
    readings: Any,
    plans: NDArray[np.int64],
    rows: NDArray[np.float64],
    extra: kernel.Extra | None,
    to_places: NDArray[np.int64],
    to_states: NDArray[np.float64],
    to_readings: Any,
    to_plans: NDArray[np.int64],
    to_rows: NDArray[np.float64],
) -> None:
    """Make every copy what the lane is; of its ring they need only the requests that are still on their way."""
    mask = rows.shape[1] - 1
    first = min(places[lane, AT_DEVICE], places[lane, AT_LINK], places[lane, AT_REPLY])
    if extra is not None and extra.settings[BROADCAST_S] > 0.0:
        first = min(first, places[lane, AT_EDGE])
    for copy in range(len(to_places)):
        for n in range(places.shape[1]):
            to_places[copy, n] = places[lane, n]
        for n in range(states.shape[1]):
            to_states[copy, n] = states[lane, n]
        for n in range(readings.shape[1]):
            to_readings[copy, n] = readings[lane, n]
        for k in range(first, places[lane, REQUEST]):
            i = k & mask
            to_plans[copy, i] = plans[lane, i]
            for n in range(rows.shape[2]):
                to_rows[copy, i, n] = rows[lane, i, n]


@batch.composed
def _branch_all(
    choices: NDArray[np.int64],
    following: NDArray[np.int64],
    objective: tuple[float, float, float, float, float, float],
    arrivals: NDArray[np.float64],
    table: NDArray[np.float64],
    parameters: NDArray[np.float64],
    rate: NDArray[np.float64],
    carried: NDArray[np.float64],
    slow_down: NDArray[np.float64],
    job_arrival: NDArray[np.float64],
    job_work: NDArray[np.float64],
    job_bound: NDArray[np.float64],
    extra: kernel.Extra | None,
    scale: Any,
    places: NDArray[np.int64],
    states: NDArray[np.float64],
    readings: Any,
    plans: NDArray[np.int64],
    rows: NDArray[np.float64],
    copy_places: NDArray[np.int64],
    copy_states: NDArray[np.float64],
    copy_readings: Any,
    copy_plans: NDArray[np.int64],
    copy_rows: NDArray[np.float64],
    last: NDArray[np.float32],
    dones: NDArray[np.bool_],
    rewards: NDArray[np.float64],
    out: Any,
) -> bool:
    """Reward and next observation of every choice in every lane; False where a ring is full."""
    for lane in range(len(choices)):
        _spread(
            lane, places, states, readings, plans, rows, extra, copy_places, copy_states, copy_readings, copy_plans, copy_rows
        )  # fmt: skip
        fits = _step_all(
            choices[lane], following, objective, arrivals, table, parameters, rate, carried, slow_down, job_arrival, job_work, job_bound,
            extra, scale, copy_places, copy_states, copy_readings, copy_plans, copy_rows, out[lane], last, rewards[lane], dones,
        )  # fmt: skip
        if not fits:
            return False
        if dones[0]:  # the copies of a lane end their episode together
            out[lane] = last
    return True


class BranchingLanes(Lanes):
    """Lanes that can be asked, before they step, what each plan would bring.

    After `branch`, `branch_rewards` (lanes, choices) and `branch_observations` (lanes, choices, features) belong to it: the reward
    of the lane's present request and what the device would see at the next one; at the end of an episode what it would see then. No
    lane has changed. The arrays are written again by the next call.
    """

    def __init__(self, scenario: Scenario, bank: Bank, lanes: int, choices: int | None = None) -> None:
        super().__init__(scenario, bank, lanes)
        copies = len(scenario.plans) if choices is None else choices
        self._every_plan = np.tile(np.arange(len(scenario.plans)), (lanes, 1))
        self._copies: Any = tuple(
            np.zeros((copies, *own.shape[1:]), own.dtype) for own in (self._places, self._states, self._readings, self._plans, self._rows)
        )
        self._copy_last = np.zeros((copies, self.observations.shape[1]), np.float32)
        self._copy_dones = np.zeros(copies, np.bool_)
        self._copy_following = np.zeros(copies, np.int64)
        self.branch_rewards = np.zeros((lanes, copies))
        self.branch_observations = np.zeros((lanes, *self._copy_last.shape), np.float32)

    def branch(self, choices: NDArray[np.int64] | None = None) -> None:
        """Look at every plan, or in each lane at its own choices, (lanes, choices).

        Raises:
            ConfigError: as `step`.
        """
        bank = self.bank
        fits = _branch_all(  # type: ignore[call-arg]  # five copies
            self._every_plan if choices is None else choices, self._copy_following, self._objective, bank.arrivals, bank.table,
            bank.parameters, bank.rate, bank.carried, bank.slow_down, bank.job_arrival, bank.job_work, bank.job_bound, bank.extra,
            self._scale, self._places, self._states, self._readings, self._plans, self._rows, *self._copies, self._copy_last,
            self._copy_dones, self.branch_rewards, self.branch_observations,
        )  # fmt: skip
        if not fits:
            raise ConfigError(f"over {self._rows.shape[1]} requests on their way in one lane; shorten the episodes or lower the load")

    def snapshot(self) -> dict[str, NDArray[Any]]:
        """Copies of all that changes as the lanes step."""
        return {name: getattr(self, name).copy() for name in _CHANGING}

    def restore(self, snapshot: dict[str, NDArray[Any]]) -> None:
        """Go on from `snapshot` of as many lanes over the same bank."""
        for name in _CHANGING:
            getattr(self, name)[:] = snapshot[name]

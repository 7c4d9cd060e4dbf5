"""Two other faces of the action space, for learners that cannot do with a flat list of plans.

The flat list stays the recommended one: independent heads cannot say "device-only at exit 1 *or* raw at exit 4".
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, SupportsFloat

import gymnasium as gym
import numpy as np

from cutlayer.envs.offload_env import OffloadEnv
from cutlayer.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cutlayer.profiles.plans import PlanTable


class Triples:
    """What every (exit, partition, bits) means in a plan table.

    widths lists the bit widths of the table's interior cuts, rising. plan and valid have shape (exits, partitions, widths). A triple
    is valid where `PlanTable.index` knows it: the width counts for nothing where the input is sent or nothing is, and of raw
    and JPEG input it means the one of fewer bytes. Any other triple means the nearest plan: of those with the nearest exit the one
    with the nearest partition, and of these the nearest width by its logarithm; of two that are equally near the larger.
    So a partition behind the exit means that exit on the device, and a forbidden upload of the input the first cut.
    """

    def __init__(self, plans: PlanTable) -> None:
        interior = plans.offloads & (plans.partition > 0)
        self.widths: tuple[int, ...] = tuple(int(width) for width in np.unique(plans.bits[interior])) or (0,)
        shape = (len(plans.depths), max(plans.depths) + 2, len(self.widths))
        self.plan = np.zeros(shape, np.int64)
        self.valid = np.zeros(shape, np.bool_)
        for triple in np.ndindex(shape):
            exit_, partition, width = triple
            try:
                self.plan[triple], self.valid[triple] = plans.index(exit_, partition, self.widths[width]), True
            except KeyError:
                self.plan[triple] = nearest_plan(plans, exit_, partition, self.widths[width])


def nearest_plan(plans: PlanTable, exit_: int, partition: int, bits: int) -> int:
    """The plan that `Triples` names as the nearest; the order of importance is exit, partition, width."""

    def distance(plan: int) -> tuple[float, ...]:
        row = plans.rows[plan]
        width = abs(np.log2(max(row.bits, 1)) - np.log2(max(bits, 1)))
        return abs(row.exit - exit_), -row.exit, abs(row.partition - partition), -row.partition, width, -row.bits, row.wire_bytes

    return min(range(len(plans)), key=distance)


class MultiDiscretePlans(
    gym.Wrapper["NDArray[np.float32]", "NDArray[np.int64]", "NDArray[np.float32]", np.int64], gym.utils.RecordConstructorArgs
):
    """`MultiDiscrete` (exit, partition, index into the bit widths) in the place of the flat list.

    A triple that is no plan is run as the plan that `Triples` states, never silently: `info["valid_triple"]` is False then,
    `info["invalid_triples"]` counts them since the reset, and `info["record"]["plan"]` is the plan that ran.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        gym.utils.RecordConstructorArgs.__init__(self)
        super().__init__(env)
        self.triples = Triples(_plans(env))
        self.action_space = gym.spaces.MultiDiscrete(list(self.triples.plan.shape))
        self._invalid = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """See `OffloadEnv.reset`."""
        self._invalid = 0
        return self.env.reset(seed=seed, options=options)

    def step(self, action: NDArray[np.int64]) -> tuple[NDArray[np.float32], SupportsFloat, bool, bool, dict[str, Any]]:
        """Decide the present request by a triple."""
        assert self.action_space.contains(action), f"action {action!r} is none of the triples {self.action_space}"
        exit_, partition, width = (int(index) for index in action)
        valid = bool(self.triples.valid[exit_, partition, width])
        self._invalid += not valid
        observation, reward, terminated, truncated, info = self.env.step(self.triples.plan[exit_, partition, width])
        return observation, reward, terminated, truncated, {**info, "valid_triple": valid, "invalid_triples": self._invalid}

    @cached_property
    def _masks(self) -> NDArray[np.bool_]:
        valid = self.triples.valid
        return np.concatenate([valid.any((1, 2)), valid.any((0, 2)), valid.any((0, 1))])

    def action_masks(self) -> NDArray[np.bool_]:
        """MaskablePPO's mask, the three heads one after another: an entry is False where no plan has that value.

        A mask of independent heads cannot forbid a combination; what it lets through is mapped, as `step` says.
        """
        return self._masks.copy()


class BoxPlans(gym.Wrapper[Any, Any, Any, Any], gym.utils.RecordConstructorArgs):
    """`Box(-1, 1, (3,))`: every point is a plan.

    Each coordinate's range is cut into equal parts: the first into one for each exit, the second into one for each partition
    point of that exit, the third into one for each way to code what crosses there, from the fewest bytes to the most. A
    boundary belongs to the part above it, and 1 to the last one.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        gym.utils.RecordConstructorArgs.__init__(self)
        super().__init__(env)
        plans = _plans(env)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (3,), np.float32)
        tree: dict[int, dict[int, list[int]]] = {}
        for plan in sorted(range(len(plans)), key=lambda k: (plans.exit[k], plans.partition[k], plans.wire_bytes[k])):
            tree.setdefault(int(plans.exit[plan]), {}).setdefault(int(plans.partition[plan]), []).append(plan)
        self._tree = [list(partitions.values()) for partitions in tree.values()]

    def plan(self, action: NDArray[np.float32]) -> int:
        """The plan that a point means."""
        partitions = self._tree[_part(action[0], len(self._tree))]
        coded = partitions[_part(action[1], len(partitions))]
        return coded[_part(action[2], len(coded))]

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float32], SupportsFloat, bool, bool, dict[str, Any]]:
        """Decide the present request by a point."""
        assert self.action_space.contains(action), f"action {action!r} lies outside {self.action_space}"
        return self.env.step(np.int64(self.plan(action)))


def _part(value: np.float32, parts: int) -> int:
    return min(int((float(value) + 1.0) / 2.0 * parts), parts - 1)


def _plans(env: gym.Env[Any, Any]) -> PlanTable:
    inner = env.unwrapped
    if not isinstance(inner, OffloadEnv):
        raise ConfigError(f"{type(inner).__name__} is no OffloadEnv; these wrappers need one, for its plan table")
    return inner.scenario.plans

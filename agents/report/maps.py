"""The policy map: which plan each policy settles on over the uplink's rate and the device's slow-down.

A map is played, not read off: at each point the scenario goes on with the link at that rate and the device at that slow-down, the edge
idle, and the plan that a policy chooses most often, once it has settled, is its plan there. So every policy has a map, one that knows the
future too, and what a queue of its own making does to it is in it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cutlayer.agents import oracle
from cutlayer.agents.episodes import HELD_OUT
from cutlayer.agents.evaluate import Foreseeing
from cutlayer.envs.simulation import Simulation
from cutlayer.envs.streams import draw

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from cutlayer.agents.evaluate import Policy
    from cutlayer.envs.spec import Scenario
    from cutlayer.envs.streams import Streams
    from cutlayer.profiles.plans import PlanTable

# Of an episode at each point those requests count that come after the readings have filled (rings hold at most eight samples) and before
# the end, where nothing comes any more that a device would have to be kept free for: our choice.
REQUESTS, SETTLED = 32, slice(10, 26)
WIDTH = 16  # beams of the clairvoyant here; twice as many change the reward by 0.001 (`agents.oracle`)
LABELLED = 5  # our choice: a region that is narrower, in points of the default grid, has no room for its plan's name


@dataclass(frozen=True, slots=True)
class Grid:
    """The points of a map; the defaults go from a bad LTE uplink to Wi-Fi, and from an idle device to one that is shared by four."""

    rates_bps: tuple[float, ...] = tuple(np.logspace(5, 8, 25).tolist())
    slow_downs: tuple[float, ...] = tuple(np.linspace(1.0, 4.0, 13).tolist())


@dataclass(frozen=True, slots=True)
class Maps:
    """Plans by policy, each of shape (slow-downs, rates)."""

    plans: PlanTable
    grid: Grid
    chosen: dict[str, NDArray[np.int64]]


def survey(
    scenario: Scenario, policies: Mapping[str, Policy], grid: Grid = Grid(), report: Callable[[float], None] = lambda _share: None
) -> Maps:
    """Play every policy at every point of the grid."""
    shape = (len(grid.slow_downs), len(grid.rates_bps))
    short = dataclasses.replace(scenario, requests=REQUESTS)
    drawn = draw(short, HELD_OUT)
    chosen = {name: np.empty(shape, np.int64) for name in policies}
    for i, slow_down in enumerate(grid.slow_downs):
        for j, rate_bps in enumerate(grid.rates_bps):
            streams = steady(short, drawn, rate_bps, slow_down)
            for name, policy in policies.items():
                chosen[name][i, j] = _settled(short, streams, policy)
        report((i + 1) / len(grid.slow_downs))
    return Maps(scenario.plans, grid, chosen)


def clairvoyant(scenario: Scenario) -> Policy:
    """Who knows the future, at a price that a map of hundreds of points can pay."""
    return oracle.Planned(scenario, lambda world, streams: oracle.clairvoyant(world, streams, WIDTH))


def steady(scenario: Scenario, drawn: Streams, rate_bps: float, slow_down: float) -> Streams:
    """The episode with the link at one rate, the device at one slow-down, and nobody else at the edge."""
    slots = len(drawn.rate_bps)
    return dataclasses.replace(
        drawn,
        rate_bps=scenario.link.goodput_bps(np.full(slots, rate_bps), scenario.path.rtt_s),
        slow_down=np.full(slots, slow_down),
        job_arrival_s=np.empty(0),
        job_service_s=np.empty(0),
    )


def _settled(scenario: Scenario, streams: Streams, policy: Policy) -> int:
    """The plan chosen most often once the policy has settled; of equals the first in the table."""
    world = Simulation(scenario, streams, "kernel")
    if isinstance(policy, Foreseeing):
        policy.foresee(streams)
    policy.begin()
    taken = []
    while not world.done:
        plan = policy.act(world)
        world.decide(plan)
        taken.append(plan)
    return int(np.bincount(taken[SETTLED]).argmax())


@dataclass(frozen=True, slots=True)
class Region:
    """A connected region of one plan: the point deepest inside it (row, column) and how many points it is wide there."""

    plan: int
    row: int
    column: int
    width: int


def regions(chosen: NDArray[np.int64]) -> list[Region]:
    """Regions wide enough to bear their plan's name, the widest of each plan."""
    best: dict[int, Region] = {}
    for plan in np.unique(chosen).tolist():
        for cells in _components(chosen == plan):
            region = Region(plan, *_deepest(cells))
            if region.width >= LABELLED and (plan not in best or region.width > best[plan].width):
                best[plan] = region
    return list(best.values())


def _components(mask: NDArray[np.bool_]) -> list[NDArray[np.bool_]]:
    """The parts of a mask that hang together, each as a mask."""
    left, found = mask.copy(), []
    while left.any():
        part = np.zeros_like(mask)
        part[tuple(np.argwhere(left)[0])] = True
        while True:
            grown = (part | _beside(part)) & mask
            if (grown == part).all():
                break
            part = grown
        found.append(part)
        left &= ~part
    return found


def _beside(part: NDArray[np.bool_]) -> NDArray[np.bool_]:
    around = np.pad(part, 1)
    near: NDArray[np.bool_] = around[:-2, 1:-1] | around[2:, 1:-1] | around[1:-1, :-2] | around[1:-1, 2:]
    return near


def _deepest(cells: NDArray[np.bool_]) -> tuple[int, int, int]:
    """The cell with the most of its region to its left and right, for names are wide; then above and below. And how wide it is there."""
    around = np.pad(cells, 1)
    run = np.zeros((4, *around.shape))
    for k in range(1, around.shape[1] - 1):
        run[0, :, k] = (run[0, :, k - 1] + 1) * around[:, k]
        run[1, :, -1 - k] = (run[1, :, -k] + 1) * around[:, -1 - k]
    for k in range(1, around.shape[0] - 1):
        run[2, k] = (run[2, k - 1] + 1) * around[k]
        run[3, -1 - k] = (run[3, -k] + 1) * around[-1 - k]
    depth = np.minimum(run[0], run[1]) + np.minimum(2.0, np.minimum(run[2], run[3])) * 1.5
    row, column = np.unravel_index(int(depth[1:-1, 1:-1].argmax()), cells.shape)
    width = run[0] + run[1] - 1
    return int(row), int(column), int(width[row + 1, column + 1])

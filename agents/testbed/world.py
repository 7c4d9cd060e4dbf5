"""The world of a testbed run: what of a scenario can be emulated on one machine, and what its real edge is like."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from cutlayer.agents import inputs
from cutlayer.envs import scenarios
from cutlayer.envs.channels import replay
from cutlayer.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cutlayer.envs.spec import Scenario
    from cutlayer.runtime.testbed.device import Done

SLOT_S = 0.1  # how often the emulated link changes; the simulated one changes as seldom
SURVEY_BPS = 100e6  # our choice: fast, so that what is surveyed is not the link
SURVEY_GAP_S = 0.1  # our choice: longer than any request takes there, so that none meets another


class Found(msgspec.Struct, frozen=True):
    """What a survey of this machine found: edge_s by "exit,partition", decoding included, and the constant of a request."""

    edge_s: dict[str, float]
    fixed_s: float
    requests: int


def scenario(name: str, traces: Sequence[Path], requests: int) -> Scenario:
    """The named scenario over these traces, in slots of the emulated link; over its own test drives where none is given.

    Raises:
        ConfigError: the testbed cannot emulate a part of it.
    """
    given = scenarios.make(name)
    if traces:
        given = dataclasses.replace(given, channel=replay(traces), inputs=f"traces: {', '.join(path.stem for path in traces)}")
    else:
        given = inputs.on_drives(given, "test")
    parts = {
        "a thermal model": given.thermal is not None,
        "a battery": given.battery is not None,
        "segments to load": given.loading,
        "slow start after idle": math.isfinite(given.link.restart_after_s),
        "a link that tells its rate": given.link.rate_told,
        "an edge that broadcasts its queue": given.edge.broadcast_s is not None,
        "an edge that batches": given.edge.batching is not None,
        "several servers at the edge": given.edge.servers > 1,
        "other people's jobs at the edge": len(given.edge_jobs.draw(np.random.default_rng(0), 600.0)[0]) > 0,
    }
    if missing := [part for part, there in parts.items() if there]:
        raise ConfigError(f"the testbed cannot emulate {' and '.join(missing)} of {given.name}; take lte-uplink or nsa-uplink")
    return dataclasses.replace(given, requests=requests, slot_s=SLOT_S)


def found(world: Scenario, done: Sequence[Done], warm: int) -> Found:
    """What surveyed requests over a link of `SURVEY_BPS` tell of the edge and of the constant; the first `warm` are not counted.

    Raises:
        ConfigError: some cut was never answered by the edge.
    """
    plans, path = world.plans, world.path
    took: dict[str, list[float]] = defaultdict(list)
    rest = []
    for one in done[warm:]:
        if one.status != "edge":
            continue
        row = plans.rows[one.plan]
        took[f"{row.exit},{row.partition}"].append(one.edge_s)
        known_s = 8 * row.wire_bytes / SURVEY_BPS + path.rtt_s / 2 + one.edge_wait_s + one.edge_s + path.return_s - path.fixed_s
        rest.append(one.finish_s - one.device_end_s - known_s)
    cuts = {f"{row.exit},{row.partition}" for row in plans.rows if row.bits}
    if missing := sorted(cuts - took.keys()):
        raise ConfigError(f"the edge answered no request of exit and partition {missing[0]} in the survey; is this machine too busy?")
    return Found({cut: float(np.mean(times)) for cut, times in took.items()}, max(0.0, float(np.median(rest))), len(rest))


def simulated(world: Scenario, survey: Found) -> Scenario:
    """The world with the edge and the constant of this machine, for the simulator."""
    rows = []
    for row in world.plans.rows:
        whole_s = survey.edge_s.get(f"{row.exit},{row.partition}", 0.0) if row.bits else 0.0
        decode_s = min(row.decode_s, whole_s)
        rows.append(msgspec.structs.replace(row, edge_s=whole_s - decode_s, decode_s=decode_s))
    path = dataclasses.replace(world.path, fixed_s=survey.fixed_s)
    return dataclasses.replace(world, plans=dataclasses.replace(world.plans, edge="this machine", rows=tuple(rows)), path=path)

"""The world of a testbed run: what of a scenario can be emulated on one machine, and what its real edge is like."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from cutlayer.agents import inputs
from cutlayer.agents.testbed.deciding import Survey
from cutlayer.envs import scenarios
from cutlayer.envs.channels import replay
from cutlayer.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from cutlayer.envs.record import Record
    from cutlayer.envs.spec import Scenario
    from cutlayer.envs.streams import Streams
    from cutlayer.runtime.testbed.device import Done

SLOT_S = 0.1  # how often the emulated link changes; the simulated one changes as seldom
SURVEY_BPS = 100e6  # our choice: fast, so that what is surveyed is not the link
SURVEY_GAP_S = 0.1  # our choice: longer than any request takes there, so that none meets another


class Found(msgspec.Struct, frozen=True):
    """What a survey of this machine found: edge_s by "exit,partition", decoding included, and the constant of a request that is sent.

    asked_s: from a request's arrival to the begin of its work on an idle device, which is the way to the daemon and back; overrun_s: by
    how much padded work outlasts its padding. device_s by "exit,partition": of the device's work, encoding included, as it was slowed.
    """

    edge_s: dict[str, float]
    device_s: dict[str, float]
    fixed_s: float
    asked_s: float
    overrun_s: float
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
    worked: dict[str, list[float]] = defaultdict(list)
    rest, asked, overrun = [], [], []
    for one in done[warm:]:
        row = plans.rows[one.plan]
        worked[f"{row.exit},{row.partition}"].append(one.device_end_s - one.device_start_s)
        if one.status != "edge":
            continue
        asked.append(one.device_start_s - one.arrival_s)
        overrun.append(one.device_end_s - one.device_start_s - row.device_s - row.encode_s)
        took[f"{row.exit},{row.partition}"].append(one.edge_s)
        known_s = 8 * row.wire_bytes / SURVEY_BPS + path.rtt_s / 2 + one.edge_wait_s + one.edge_s + path.return_s - path.fixed_s
        rest.append(one.finish_s - one.device_end_s - known_s)
    cuts = {f"{row.exit},{row.partition}" for row in plans.rows if row.bits}
    if missing := sorted(cuts - took.keys()):
        raise ConfigError(f"the edge answered no request of exit and partition {missing[0]} in the survey; is this machine too busy?")
    fixed_s, asked_s, overrun_s = (max(0.0, float(np.median(times))) for times in (rest, asked, overrun))
    edge_s, device_s = ({cut: float(np.mean(times)) for cut, times in found.items()} for found in (took, worked))
    return Found(edge_s, device_s, fixed_s, asked_s, overrun_s, len(rest))


def simulated(world: Scenario, survey: Found) -> Scenario:
    """The world with the edge and the constants of this machine, for the simulator."""
    rows = []
    for row in world.plans.rows:
        if row.device_s + row.encode_s > 0.0:
            row = msgspec.structs.replace(row, device_s=row.device_s + survey.overrun_s)
        whole_s = survey.edge_s.get(f"{row.exit},{row.partition}", 0.0) if row.bits else 0.0
        decode_s = min(row.decode_s, whole_s)
        rows.append(msgspec.structs.replace(row, edge_s=whole_s - decode_s, decode_s=decode_s))
    path = dataclasses.replace(world.path, fixed_s=survey.fixed_s)
    return dataclasses.replace(world, plans=dataclasses.replace(world.plans, edge="this machine", rows=tuple(rows)), path=path)


def as_fast_as_here(world: Scenario, survey: Found) -> Scenario:
    """The world with this machine's own times in the place of the device's, where nothing slows it."""
    plans = world.plans
    surveyed = {f"{plans.rows[plan].exit},{plans.rows[plan].partition}": plan for plan in Survey.of(plans).plans}
    rows = []
    for row in plans.rows:
        cut = f"{row.exit},{row.partition}"
        known = plans.rows[surveyed[cut]]
        work_s = known.device_s + known.encode_s
        ratio = survey.device_s[cut] / work_s if work_s > 0.0 else 1.0
        rows.append(
            msgspec.structs.replace(row, device_s=row.device_s * ratio, encode_s=row.encode_s * ratio, fallback_s=row.fallback_s * ratio)
        )
    return dataclasses.replace(world, plans=dataclasses.replace(plans, device="this machine", rows=tuple(rows)))


def asked(streams: Streams, survey: Found) -> Streams:
    """The streams of an episode in which every request comes in later by the time that it takes to ask for a decision."""
    return dataclasses.replace(streams, arrival_s=streams.arrival_s + survey.asked_s)


def as_arrived(records: Iterable[Record], survey: Found) -> Iterator[Record]:
    """Records of such an episode with the times at which the requests came in."""
    for record in records:
        yield record._replace(arrival_s=record.arrival_s - survey.asked_s)

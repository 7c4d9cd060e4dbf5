"""The observation: readings of the device as a float32 vector with fixed scales. The only encoder there is.

Scales come from the plan table and the deadline, never from running statistics, so that the vector means the same in
training and on the device. `FEATURES` is the table of what each index holds in every world. Behind them come the features that
only some worlds have, as `Blocks` says; `table` and `size` tell of all. What is encoded follows from the scales alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cutlayer.runtime import telemetry as tm

if TYPE_CHECKING:
    from collections.abc import MutableSequence, Sequence

    from cutlayer.profiles.plans import PlanTable

TOP_BPS = 1e9  # fastest link that a scale is needed for
HALF_AGE_S = 0.5  # a reading of this age is half way to saying nothing: uplink rates decorrelate within about 1 s on LTE
MANY_REQUESTS = 8.0
LOW, HIGH = -1.0, 4.0  # every feature is clipped to this range

# Scales handed to `encode`, by index; the later ones only where there are blocks.
DEADLINE_S, DEVICE_S, BYTES, OWN_DEADLINE, THROTTLE_C, LIMIT_C, CAPACITY_J, UNITS, BROADCAST = range(9)


@dataclass(frozen=True, slots=True)
class Feature:
    """One entry of the observation: its name, its unit before scaling, and the scale in words."""

    name: str
    unit: str
    scale: str


_RATE = "log10, 8 kb/s to 1 Gb/s on -1 to 1"
_AGE = "age / (age + 0.5 s); 1 where never taken"
FEATURES: tuple[Feature, ...] = (
    Feature("backlog", "s of nominal device work", "device-only time of the last exit"),
    Feature("running", "s since the running device work began", "deadline"),
    Feature("in_flight", "requests", "8"),
    Feature("to_send", "bytes not acknowledged", "the largest payload"),
    Feature("sending", "1 while a transfer runs", "1"),
    Feature("sending_rate", "b/s of the running transfer so far", _RATE),
    Feature("sending_age", "s since it began", "deadline"),
    Feature("gap", "s between the last two requests", "deadline"),
    Feature("gap_before", "s between the two before", "deadline"),
    Feature("slow_down", "measured over nominal time of the last device work", "natural logarithm"),
    Feature("slow_down_age", "s", _AGE),
    Feature("edge_wait", "s, from the last reply", "deadline"),
    Feature("edge_wait_age", "s", _AGE),
    Feature("rate", "b/s, exponentially weighted", _RATE),
    *(
        Feature(f"transfer{i}_{name}", unit, scale)
        for i in range(tm.RING_LENGTH)
        for name, unit, scale in (("rate", "b/s", _RATE), ("age", "s since its end", _AGE), ("duration", "s", "deadline"))
    ),
)
SIZE = len(FEATURES)
FIXED = 14  # features before the ring of transfers
assert SIZE == FIXED + 3 * tm.RING_LENGTH, "encode writes one value a feature"


@dataclass(frozen=True, slots=True)
class Blocks:
    """Which features follow the base ones, in the order of these fields, and their scales. Plain values: a bundle carries them.

    deadline: of the present request, where requests differ. throttle_c, limit_c: the temperatures that are shown as 0 and 1; alike,
    there is no thermometer. capacity_j: a full battery; 0, there is no gauge. units: how many segments can be loaded. broadcast: the
    edge tells its queue.
    """

    deadline: bool = False
    throttle_c: float = 0.0
    limit_c: float = 0.0
    capacity_j: float = 0.0
    units: int = 0
    broadcast: bool = False


BASE = Blocks()


def table(blocks: Blocks = BASE) -> tuple[Feature, ...]:
    """What each index of the observation holds: the base features, then those of the blocks."""
    found = list(FEATURES)
    if blocks.deadline:
        found.append(Feature("deadline", "s that the present request has", "deadline of the objective"))
    hot, charged = blocks.limit_c > blocks.throttle_c, blocks.capacity_j > 0.0
    if hot:
        heat = "0 where it begins to slow the device, 1 where it slows it most"
        found.append(Feature("temperature", "degrees C as the last device work began", heat))
    if charged:
        found.append(Feature("charge", "J as the last device work began", "a full battery"))
    if hot or charged:
        found.append(Feature("sensed_age", "s since that work began", _AGE))
    found += [Feature(f"unit{unit}", "1 while this segment is the one that will lie ready", "1") for unit in range(blocks.units)]
    if blocks.broadcast:
        found.append(Feature("edge_queue", "s of waiting at the edge, from its last broadcast", "deadline"))
        found.append(Feature("edge_queue_age", "s since it was sent", _AGE))
    return tuple(found)


def size(blocks: Blocks = BASE) -> int:
    """Length of the observation."""
    return len(table(blocks))


_MID = 0.5 * (math.log10(tm.SLOWEST_BPS) + math.log10(TOP_BPS))
_HALF = 0.5 * (math.log10(TOP_BPS) - math.log10(tm.SLOWEST_BPS))


def scales(plans: PlanTable, deadline_s: float, blocks: Blocks = BASE) -> list[float]:
    """The scales that `encode` needs: three for the base features, and what the blocks need."""
    base = [deadline_s, float(plans.device_s.max()), float(plans.wire_bytes.max())]
    if blocks == BASE:
        return base
    return [
        *base, float(blocks.deadline), blocks.throttle_c, blocks.limit_c, blocks.capacity_j, float(blocks.units), float(blocks.broadcast),
    ]  # fmt: skip


def scaled_rate(rate_bps: float) -> float:
    """Logarithm of a rate, 8 kb/s to 1 Gb/s on -1 to 1."""
    return (math.log10(max(rate_bps, tm.SLOWEST_BPS)) - _MID) / _HALF


def scaled_age(age_s: float) -> float:
    """Age on 0 to 1, fine where it is young."""
    return age_s / (age_s + HALF_AGE_S) if age_s > 0.0 else 0.0


def encode(readings: Sequence[float], scale: Sequence[float], now_s: float, acked_bytes: float, out: MutableSequence[float]) -> None:
    """Write the observation at `now_s` into `out`: `SIZE` values, and those of the blocks that `scale` was made for.

    `acked_bytes` of the running transfer are acknowledged by now. Plain arithmetic on sequences, without a library:
    a compiled simulator compiles these very functions.
    """
    encode_base(readings, scale, now_s, acked_bytes, out)
    if len(scale) > OWN_DEADLINE:
        encode_blocks(readings, scale, now_s, out)


def encode_base(readings: Sequence[float], scale: Sequence[float], now_s: float, acked_bytes: float, out: MutableSequence[float]) -> None:
    """The part of `encode` that is the same in every world."""
    deadline_s = scale[DEADLINE_S]
    out[0] = tm.backlog_s(readings, now_s) / scale[DEVICE_S]
    out[1] = 0.0 if readings[tm.RUNNING_SINCE] == tm.NEVER else (now_s - readings[tm.RUNNING_SINCE]) / deadline_s
    out[2] = readings[tm.IN_FLIGHT] / MANY_REQUESTS
    out[3] = max(0.0, readings[tm.TO_SEND_BYTES] - acked_bytes) / scale[BYTES]
    out[4], out[5], out[6] = 0.0, 0.0, 0.0
    if readings[tm.SENDING_SINCE] != tm.NEVER:
        age_s = now_s - readings[tm.SENDING_SINCE]
        out[4] = 1.0
        out[5] = scaled_rate(8.0 * acked_bytes / age_s) if age_s > 0.0 else 0.0
        out[6] = age_s / deadline_s
    out[7] = 1.0 if readings[tm.GAP] == tm.NEVER else readings[tm.GAP] / deadline_s
    out[8] = 1.0 if readings[tm.GAP_BEFORE] == tm.NEVER else readings[tm.GAP_BEFORE] / deadline_s
    out[9], out[10] = 0.0, 1.0
    if readings[tm.SLOW_DOWN_AT] != tm.NEVER:
        out[9] = math.log(max(readings[tm.SLOW_DOWN], 0.1))
        out[10] = scaled_age(now_s - readings[tm.SLOW_DOWN_AT])
    out[11], out[12] = 0.0, 1.0
    if readings[tm.EDGE_WAIT_AT] != tm.NEVER:
        out[11] = readings[tm.EDGE_WAIT_S] / deadline_s
        out[12] = scaled_age(now_s - readings[tm.EDGE_WAIT_AT])
    out[13] = scaled_rate(readings[tm.RATE_BPS]) if readings[tm.SAMPLES] > 0.0 else 0.0
    for i in range(tm.RING_LENGTH):
        at = tm.RING + 3 * i
        to = FIXED + 3 * i
        out[to], out[to + 1], out[to + 2] = 0.0, 1.0, 0.0
        if readings[at + 1] != tm.NEVER:
            out[to] = (readings[at] - _MID) / _HALF
            out[to + 1] = scaled_age(now_s - readings[at + 1])
            out[to + 2] = readings[at + 2] / deadline_s
    clip(out, 0, SIZE)


def encode_blocks(readings: Sequence[float], scale: Sequence[float], now_s: float, out: MutableSequence[float]) -> None:
    """The part of `encode` behind the base features, in the order of `table`."""
    at = SIZE
    if scale[OWN_DEADLINE] > 0.0:
        out[at] = 1.0 if readings[tm.DEADLINE_S] == tm.NEVER else readings[tm.DEADLINE_S] / scale[DEADLINE_S]
        at += 1
    hot, charged, sensed = scale[LIMIT_C] > scale[THROTTLE_C], scale[CAPACITY_J] > 0.0, readings[tm.SENSED_AT] != tm.NEVER
    if hot:
        out[at] = (readings[tm.TEMPERATURE_C] - scale[THROTTLE_C]) / (scale[LIMIT_C] - scale[THROTTLE_C]) if sensed else 0.0
        at += 1
    if charged:
        out[at] = readings[tm.CHARGE_J] / scale[CAPACITY_J] if sensed else 0.0
        at += 1
    if hot or charged:
        out[at] = scaled_age(now_s - readings[tm.SENSED_AT]) if sensed else 1.0
        at += 1
    for unit in range(int(scale[UNITS])):
        out[at] = 1.0 if readings[tm.UNIT] == unit else 0.0
        at += 1
    if scale[BROADCAST] > 0.0:
        out[at], out[at + 1] = 0.0, 1.0
        if readings[tm.EDGE_QUEUE_AT] != tm.NEVER:
            out[at] = readings[tm.EDGE_QUEUE_S] / scale[DEADLINE_S]
            out[at + 1] = scaled_age(now_s - readings[tm.EDGE_QUEUE_AT])
        at += 2
    clip(out, SIZE, at)


def clip(out: MutableSequence[float], start: int, end: int) -> None:
    """Bring values into the bounds."""
    for i in range(start, end):  # comparisons: in plain Python min and max would take half of all the time
        if out[i] < LOW:
            out[i] = LOW
        elif out[i] > HIGH:
            out[i] = HIGH

"""The observation: readings of the device as a float32 vector with fixed scales. The only encoder there is.

Scales come from the plan table and the deadline, never from running statistics, so that the vector means the same in
training and on the device. `FEATURES` is the table of what each index holds.
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

# Scales handed to `encode`, by index.
DEADLINE_S, DEVICE_S, BYTES = range(3)


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

_MID = 0.5 * (math.log10(tm.SLOWEST_BPS) + math.log10(TOP_BPS))
_HALF = 0.5 * (math.log10(TOP_BPS) - math.log10(tm.SLOWEST_BPS))


def scales(plans: PlanTable, deadline_s: float) -> list[float]:
    """The three scales that `encode` needs."""
    return [deadline_s, float(plans.device_s.max()), float(plans.wire_bytes.max())]


def scaled_rate(rate_bps: float) -> float:
    """Logarithm of a rate, 8 kb/s to 1 Gb/s on -1 to 1."""
    return (math.log10(max(rate_bps, tm.SLOWEST_BPS)) - _MID) / _HALF


def scaled_age(age_s: float) -> float:
    """Age on 0 to 1, fine where it is young."""
    age_s = max(0.0, age_s)
    return age_s / (age_s + HALF_AGE_S)


def encode(readings: Sequence[float], scale: Sequence[float], now_s: float, acked_bytes: float, out: MutableSequence[float]) -> None:
    """Write the observation at `now_s` into `out`, `SIZE` values.

    `acked_bytes` of the running transfer are acknowledged by now. Plain arithmetic on sequences, without a library:
    a compiled simulator compiles this very function.
    """
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
    for i in range(SIZE):
        out[i] = min(max(out[i], LOW), HIGH)

"""What the device knows: readings updated by its own events, in one flat sequence of floats.

The daemon keeps them in a list, the compiled simulator in an array; both call the functions here, so that what an agent
saw in training is what it sees on the device. A function may be called only once its event is known to the device: the
end of a transfer when the acknowledgement is back, a rate sample when the reply is. Functions of different stages
change different readings, so their order among each other does not matter; within a stage it is the order of requests.

A reading that was never taken is `NEVER`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import MutableSequence, Sequence

NEVER = -1.0

# Readings, by index. Times are seconds on the device's monotonic clock.
(
    LAST_ARRIVAL,  # time of the latest request
    GAP,  # between the last two requests
    GAP_BEFORE,  # between the two before
    IN_FLIGHT,  # requests decided and not finished
    BACKLOG_S,  # nominal device seconds decided and not finished
    RUNNING_SINCE,  # start of the device work that runs
    RUNNING_S,  # its nominal length
    SLOW_DOWN,  # measured over nominal time of the last finished device work
    SLOW_DOWN_AT,  # when that work ended
    TO_SEND_BYTES,  # decided and not acknowledged
    SENDING_SINCE,  # start of the transfer that runs
    EDGE_WAIT_S,  # wait at the edge, from the last reply
    EDGE_WAIT_AT,  # when that reply came
    RATE_BPS,  # exponentially weighted mean of the rate samples, or the rate that the link tells
    RATE_AT,  # when the last sampled transfer ended, or the link told
    SAMPLES,  # number of rate samples so far
) = range(16)
RING = 16  # the last transfers, newest first: (log10 of the rate in b/s, end, duration_s) each
RING_LENGTH = 6
# Of worlds that have such things.
(
    LOADING_S,  # part of the running device work that loads a segment
    TEMPERATURE_C,  # of the processor
    CHARGE_J,  # in the battery
    SENSED_AT,  # when these two were read: as the last device work began
    UNIT,  # the segment that will be loaded when the present request's turn comes
    DEADLINE_S,  # of the present request, from its arrival on
    EDGE_QUEUE_S,  # how long a job that came then would have waited at the edge, by its last broadcast
    EDGE_QUEUE_AT,  # when the edge sent that
) = range(RING + 3 * RING_LENGTH, RING + 3 * RING_LENGTH + 8)
SIZE = RING + 3 * RING_LENGTH + 8

# Weight of a new rate sample. Neurosurgeon-style estimators keep a short memory; 0.3 weighs the last six transfers with 88 %.
RATE_WEIGHT = 0.3
SLOWEST_BPS = 8e3  # 1 kB/s: slower is an outage, and its logarithm must stay finite
MIN_WORK_S = 1e-4  # shorter device work says nothing about slow-down: the clock's and scheduler's grain


def fresh() -> list[float]:
    """Readings of a device that has seen nothing."""
    readings = [NEVER] * SIZE
    reset(readings)
    return readings


def reset(readings: MutableSequence[float]) -> None:
    """Forget everything."""
    for i in range(SIZE):
        readings[i] = NEVER
    readings[IN_FLIGHT] = 0.0
    readings[BACKLOG_S] = 0.0
    readings[RUNNING_S] = 0.0
    readings[LOADING_S] = 0.0
    readings[TO_SEND_BYTES] = 0.0
    readings[SAMPLES] = 0.0


def arrived(readings: MutableSequence[float], now_s: float) -> None:
    """A request came in."""
    if readings[LAST_ARRIVAL] != NEVER:
        readings[GAP_BEFORE] = readings[GAP]
        readings[GAP] = now_s - readings[LAST_ARRIVAL]
    readings[LAST_ARRIVAL] = now_s


def due(readings: MutableSequence[float], deadline_s: float) -> None:
    """The request that came in has to be answered within that time: where requests differ in it."""
    readings[DEADLINE_S] = deadline_s


def decided(readings: MutableSequence[float], device_s: float, wire_bytes: float) -> None:
    """A plan was chosen: so much nominal device work and so many bytes lie ahead."""
    readings[IN_FLIGHT] += 1.0
    readings[BACKLOG_S] += device_s
    readings[TO_SEND_BYTES] += wire_bytes


def loads(readings: MutableSequence[float], unit: int) -> None:
    """The plan that was chosen runs that segment, so it is what lies ready once the device has come to it; -1: none, and what was stays.

    Known from the choices alone: the device takes them in order.
    """
    if unit >= 0:
        readings[UNIT] = float(unit)


def device_started(readings: MutableSequence[float], start_s: float, device_s: float, load_s: float = 0.0) -> None:
    """The device began work of that nominal length, after `load_s` of loading what it runs."""
    readings[RUNNING_SINCE] = start_s
    readings[RUNNING_S] = load_s + device_s
    readings[LOADING_S] = load_s


def device_ended(readings: MutableSequence[float], end_s: float, device_s: float, took_s: float, load_s: float = 0.0) -> None:
    """The device ended work of that nominal length; it took `took_s`, loading included."""
    device_skipped(readings, device_s)
    readings[RUNNING_SINCE] = NEVER
    readings[RUNNING_S] = 0.0
    readings[LOADING_S] = 0.0
    if device_s >= MIN_WORK_S:
        readings[SLOW_DOWN] = (took_s - load_s) / device_s
        readings[SLOW_DOWN_AT] = end_s


def device_skipped(readings: MutableSequence[float], device_s: float) -> None:
    """Decided work of that nominal length is no longer ahead."""
    readings[BACKLOG_S] = max(0.0, readings[BACKLOG_S] - device_s)


def sensed(readings: MutableSequence[float], now_s: float, temperature_c: float, charge_j: float) -> None:
    """The device read its sensors."""
    readings[TEMPERATURE_C] = temperature_c
    readings[CHARGE_J] = charge_j
    readings[SENSED_AT] = now_s


def send_started(readings: MutableSequence[float], start_s: float) -> None:
    """A transfer began."""
    readings[SENDING_SINCE] = start_s


def send_ended(readings: MutableSequence[float], wire_bytes: float) -> None:
    """A transfer of that many bytes was acknowledged or given up."""
    readings[TO_SEND_BYTES] = max(0.0, readings[TO_SEND_BYTES] - wire_bytes)
    readings[SENDING_SINCE] = NEVER


def sampled(readings: MutableSequence[float], end_s: float, took_s: float, sent_bytes: float) -> None:
    """The rate of a transfer is known: `sent_bytes` in `took_s`, ended (or given up) at `end_s`."""
    rate_bps = 8.0 * sent_bytes / max(took_s, 1e-9)
    for i in range(RING + 3 * RING_LENGTH - 1, RING + 2, -1):
        readings[i] = readings[i - 3]
    # The logarithm is taken once here, not in every observation that shows this transfer.
    readings[RING] = math.log10(max(rate_bps, SLOWEST_BPS))
    readings[RING + 1] = end_s
    readings[RING + 2] = took_s
    if readings[SAMPLES] == 0.0:
        readings[RATE_BPS] = rate_bps
    else:
        readings[RATE_BPS] += RATE_WEIGHT * (rate_bps - readings[RATE_BPS])
    readings[RATE_AT] = end_s
    readings[SAMPLES] += 1.0


def rate_told(readings: MutableSequence[float], at_s: float, rate_bps: float) -> None:
    """The link itself says what it carried at `at_s`; it takes the place of the mean over samples."""
    readings[RATE_BPS] = rate_bps
    readings[RATE_AT] = at_s
    readings[SAMPLES] = max(1.0, readings[SAMPLES])


def edge_waited(readings: MutableSequence[float], reply_s: float, wait_s: float) -> None:
    """A reply came and told how long its request had waited at the edge."""
    readings[EDGE_WAIT_S] = wait_s
    readings[EDGE_WAIT_AT] = reply_s


def edge_told(readings: MutableSequence[float], sent_s: float, queue_s: float) -> None:
    """A broadcast came in which the edge told, at `sent_s`, how long a job would have waited there."""
    readings[EDGE_QUEUE_S] = queue_s
    readings[EDGE_QUEUE_AT] = sent_s


def finished(readings: MutableSequence[float]) -> None:
    """A request was answered."""
    readings[IN_FLIGHT] = max(0.0, readings[IN_FLIGHT] - 1.0)


def backlog_s(readings: Sequence[float], now_s: float) -> float:
    """Nominal device work still ahead; the running work counts as done by the time it has run, at most in full.

    How long the running work will really take is hidden until it ends: no reading may tell.
    """
    if readings[RUNNING_SINCE] == NEVER:
        return readings[BACKLOG_S]
    return readings[BACKLOG_S] + readings[LOADING_S] - min(readings[RUNNING_S], now_s - readings[RUNNING_SINCE])

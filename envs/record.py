"""What became of one request."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple


class Status(IntEnum):
    """Who answered."""

    DEVICE = 0  # the plan was device-only
    EDGE = 1  # as planned, by the edge
    GIVEN_UP = 2  # the transfer was cut off; the device's own exit answered
    UNSENT = 3  # too late before the transfer could begin; the device's own exit answered
    EMPTY = 4  # the battery could not pay for the device work: not run, answered by nobody


class Record(NamedTuple):
    """Times in seconds since the start of the episode.

    sent_bytes were carried between send_start_s and send_end_s (both the time of giving up where nothing was sent, the
    device's end where nothing was to be sent); accuracy is that of the exit that answered; energy_j is the device's. load_s of the
    device's time went into loading; temperature_c and charge_j are those at device_start_s, 0 without such a model.
    """

    plan: int
    status: Status
    arrival_s: float
    device_start_s: float
    device_end_s: float
    send_start_s: float
    send_end_s: float
    sent_bytes: float
    edge_wait_s: float
    finish_s: float
    accuracy: float
    energy_j: float
    load_s: float = 0.0
    temperature_c: float = 0.0
    charge_j: float = 0.0

    @property
    def latency_s(self) -> float:
        """From arrival to answer."""
        return self.finish_s - self.arrival_s

"""What the controller is told and what it answers: the words of the daemon's socket and of the decision trace.

Times are seconds on the device's monotonic clock. What a device agent cannot tell is left at its default.
"""

from __future__ import annotations

from typing import Literal

import msgspec

UNKNOWN = -1.0  # a duration, time or rate that nobody measured

Step = Literal["policy", "greedy", "last-good", "static-safe"]
Mode = Literal["off", "shadow", "canary", "active"]
Arm = Literal["candidate", "incumbent"]


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What comes with a request: its number, and what the device agent knows of the link right now.

    acked_bytes of the running transfer have arrived. edge_reachable: false once the agent has no connection and cannot make one.
    deadline_s after arrival, where it is not the scenario's. link_bps: what a link that tells its rate says, as of link_at_s.
    edge_queue_s: how long a job would have waited at the edge, as it broadcast at edge_queue_at_s.
    """

    id: int = 0
    acked_bytes: float = 0.0
    edge_reachable: bool = True
    deadline_s: float = UNKNOWN
    link_bps: float = UNKNOWN
    link_at_s: float = UNKNOWN
    edge_queue_s: float = UNKNOWN
    edge_queue_at_s: float = UNKNOWN


class Decision(msgspec.Struct, frozen=True):
    """The plan for a request, and why.

    step: who decided; reason: empty when it was a policy, else the row of the ladder. give_up_s after its arrival a transfer that
    is not done is cut off and the device answers. probe: the edge was lost, and this request is to find out whether it is back.
    arm: whose turn it was, the candidate's or the incumbent's; shadow: the plan that the candidate would have chosen, -1 unless
    it was asked without deciding.
    """

    id: int
    plan: int
    exit: int
    partition: int
    bits: int
    step: Step
    reason: str
    expected_latency_s: float
    codec: str = ""
    give_up_s: float = 0.0
    mode: Mode = "active"
    probe: bool = False
    arm: Arm = "candidate"
    shadow: int = -1


class Progress(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far a request has come, told before its outcome. Optional: the outcome alone tells the same, later.

    Each message holds what is new: the device work begun (device_start_s, of which load_s is loading), or ended after device_s,
    the transfer begun (send_start_s), or over (`sent`: acknowledged or given up). temperature_c and charge_j as that work began.
    """

    id: int
    plan: int
    device_start_s: float = UNKNOWN
    device_s: float = UNKNOWN
    load_s: float = 0.0
    send_start_s: float = UNKNOWN
    sent: bool = False
    temperature_c: float | None = None
    charge_j: float | None = None


class Outcome(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What became of a request. Durations in seconds; times on the device's monotonic clock, the one `now_s` is on.

    device_s is negative where the device work was not run at all. sent_bytes counts bytes on the wire, 0 where nothing was sent;
    `rate_bytes` in `rate_s` is the receiver's dispersion, where it measured one; edge_wait_s is negative where no reply came.
    latency_s from arrival to answer; where it is unknown the time of the report counts. device_cpu_s: processor time of the device
    work; edge_s: decoding and layers at the edge, as it measured them; rtt_s as the connection measured it; load_s of device_s
    went into loading; temperature_c and charge_j as the device work began.
    """

    plan: int
    device_start_s: float
    device_s: float
    send_start_s: float = 0.0
    send_s: float = 0.0
    sent_bytes: float = 0.0
    rate_bytes: float = 0.0
    rate_s: float = 0.0
    edge_wait_s: float = UNKNOWN
    id: int = 0
    latency_s: float = UNKNOWN
    device_cpu_s: float = UNKNOWN
    edge_s: float = UNKNOWN
    rtt_s: float = UNKNOWN
    load_s: float = 0.0
    temperature_c: float | None = None
    charge_j: float | None = None

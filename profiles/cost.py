"""What one request costs: the constants of the link and the edge path, and what a request is worth.

These formulas exist once. The engines call them on the true future of the link, the rules on an estimate of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from cutlayer.profiles.codecs import HEADER_BYTES
from cutlayer.profiles.energy import LTE_UPLINK, Radio

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cutlayer.profiles.plans import PlanTable
    from cutlayer.profiles.rows import PlanRow

MSS_BYTES = 1448  # TCP payload of a 1500-byte packet with time stamps: 1500 - 20 IP - 32 TCP (RFC 6691, RFC 7323)
OVERHEAD_BYTES = 66  # of each packet on the wire: 14 Ethernet + 20 IP + 32 TCP; 1514/1448 is the 4.6 % of the testbed

Number = TypeVar("Number", float, "NDArray[np.float64]")  # one formula for a single request and for a column of them


def wire_bytes(payload_bytes: int) -> int:
    """Bytes on the wire for a payload behind one frame header: every started packet carries its overhead."""
    body = payload_bytes + HEADER_BYTES
    return body + math.ceil(body / MSS_BYTES) * OVERHEAD_BYTES


@dataclass(frozen=True, slots=True)
class Path:
    """The way to the edge and back, but for the rate of the uplink.

    rtt_s round trip; downlink_bps carries the reply of reply_bytes; fixed_s is the calibrated constant of a deployment
    (0.5-1.5 ms over a real TCP connection on one machine); radio is the sending power.
    """

    rtt_s: float
    downlink_bps: float = 40e6
    reply_bytes: int = 154  # reply header of 48 bytes, ten float32 logits, one packet's overhead of 66
    fixed_s: float = 0.0014  # median residual of 156 measured configurations of split inference over an emulated link
    radio: Radio = LTE_UPLINK

    @property
    def return_s(self) -> float:
        """From the end of the edge's service to the answer on the device."""
        return self.rtt_s / 2 + 8 * self.reply_bytes / self.downlink_bps + self.fixed_s


@dataclass(frozen=True, slots=True)
class Objective:
    """What a finished request is worth.

        reward = value - latency_weight * min(latency, timeout) / deadline - energy_weight * energy_j
        value  = accuracy, or -late_penalty where a deadline is enforced and missed

    Latency enters clipped at `timeout_deadlines` deadlines, so that one outage does not swallow a whole run.
    """

    deadline_s: float
    enforce_deadline: bool = True
    late_penalty: float = 1.0
    latency_weight: float = 0.0
    energy_weight: float = 0.0  # per joule
    timeout_deadlines: float = 5.0

    def reward(
        self,
        latency_s: NDArray[np.float64],
        accuracy: NDArray[np.float64],
        energy_j: NDArray[np.float64],
        deadline_s: NDArray[np.float64] | None = None,
    ) -> NDArray[np.float64]:
        """Reward of requests; arrays of one shape in and out. deadline_s: where requests have deadlines of their own."""
        if deadline_s is None:
            return reward(latency_s, accuracy, energy_j, *self.numbers())
        return reward(latency_s, accuracy, energy_j, *of_deadline(self.numbers(), deadline_s))  # type: ignore[arg-type]  # arrays too

    def numbers(self) -> tuple[float, float, float, float, float, float]:
        """The trailing arguments of `reward`."""
        enforced = 1.0 if self.enforce_deadline else 0.0
        timeout_s = self.timeout_deadlines * self.deadline_s
        return self.deadline_s, enforced, self.late_penalty, self.latency_weight / self.deadline_s, self.energy_weight, timeout_s


def reward(
    latency_s: Number,
    accuracy: Number,
    energy_j: Number,
    deadline_s: float,
    enforced: float,
    late_penalty: float,
    price_per_s: float,
    price_per_j: float,
    timeout_s: float,
) -> Number:
    """The formula of `Objective`, on floats or arrays; a compiled simulator compiles this very function."""
    late = (latency_s > deadline_s) * enforced
    worth: Number = accuracy * (1.0 - late) - late_penalty * late - price_per_s * np.minimum(latency_s, timeout_s) - price_per_j * energy_j
    return worth


def of_deadline(
    numbers: tuple[float, float, float, float, float, float], deadline_s: Number
) -> tuple[Number, float, float, Number, float, Number]:
    """`Objective.numbers` of a request with a deadline of its own: weight and timeout are told in deadlines, so they go with it."""
    ratio = deadline_s / numbers[0]
    return deadline_s, numbers[1], numbers[2], numbers[3] / ratio, numbers[4], numbers[5] * ratio


def linear(deadline_s: float, latency_weight: float = 0.2) -> Objective:
    """Accuracy minus weighted latency, nothing for the deadline itself."""
    return Objective(deadline_s, enforce_deadline=False, latency_weight=latency_weight)


def deadline(deadline_s: float, late_penalty: float = 1.0) -> Objective:
    """Accuracy if in time, else minus the penalty."""
    return Objective(deadline_s, late_penalty=late_penalty)


def energy(deadline_s: float, energy_weight: float = 0.2) -> Objective:
    """Accuracy if in time, minus a price for every joule of the device."""
    return Objective(deadline_s, late_penalty=0.0, energy_weight=energy_weight)


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a rule believes of the moment: the arguments of the cost formulas that no table holds.

    rate_bps of the uplink; slow_down of the device; backlog_s of device work and queued_bytes ahead of this request;
    edge_wait_s before the edge starts; edge_slow_down of its work.
    """

    rate_bps: float
    slow_down: float = 1.0
    backlog_s: float = 0.0
    queued_bytes: float = 0.0
    edge_wait_s: float = 0.0
    edge_slow_down: float = 1.0


def expected_latency_s(plans: PlanTable, path: Path, now: Estimate) -> NDArray[np.float64]:
    """Latency of every plan if the estimate were true until it is done; shape (plans,)."""
    device_end = _computed(plans.device_s, plans.encode_s, now)
    sending = np.maximum(device_end, 8 * now.queued_bytes / now.rate_bps)
    return np.where(plans.offloads, _answered(sending, plans.wire_bytes, plans.decode_s, plans.edge_s, path, now), device_end)


def latency_of_s(row: PlanRow, path: Path, now: Estimate) -> float:
    """The entry of `expected_latency_s` for one plan, without the others."""
    device_end = _computed(row.device_s, row.encode_s, now)
    if row.bits == 0:
        return device_end
    sending = max(device_end, 8 * now.queued_bytes / now.rate_bps)
    return _answered(sending, row.wire_bytes, row.decode_s, row.edge_s, path, now)


def _computed(device_s: Number, encode_s: Number, now: Estimate) -> Number:
    return (now.backlog_s + device_s + encode_s) * now.slow_down


def _answered(sending_s: Number, wire_bytes: Number, decode_s: Number, edge_s: Number, path: Path, now: Estimate) -> Number:
    sent = sending_s + 8 * wire_bytes / now.rate_bps
    return sent + path.rtt_s / 2 + now.edge_wait_s + (decode_s + edge_s) * now.edge_slow_down + path.return_s


def expected_energy_j(plans: PlanTable, path: Path, rate_bps: float) -> NDArray[np.float64]:
    """Device energy of every plan at that rate: computing, plus sending; shape (plans,)."""
    bits = 8.0 * plans.wire_bytes
    return plans.device_j + path.radio.base_w * bits / rate_bps + path.radio.joules_per_bit * bits

"""The plan table: every valid (exit, partition, bits) with its constants, as numpy columns in a stable order.

Everything that decides or simulates reads this one structure. For exit `e` behind `d` trunk layers the chain has
`d + 1` layers, the last of them the exit head:

    partition 0           the input image is sent as it is (8 bits a channel); the edge runs all
    partition 1 .. d      the tensor after that many trunk layers is sent at 2, 4, 8, 16 or 32 bits
    partition d + 1       nothing is sent; bits is 0

So every plan is written once, and a knob that means nothing in a plan has one stated value there.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from cutlayer.errors import ProfileError
from cutlayer.profiles.codecs import BITS, RAW_BITS, payload_bytes
from cutlayer.profiles.cost import wire_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from cutlayer.profiles.schema import AccuracyTable, ModelProfile

FORMAT = 1


class PlanRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Constants of one plan; seconds, bytes, joules.

    fallback_* is the device's own answer when the transfer is given up: the deepest exit whose trunk was computed on
    the way (its head still has to run), or exit 0 computed whole where the input itself was being sent.
    """

    exit: int
    partition: int
    bits: int
    device_s: float
    encode_s: float
    decode_s: float
    edge_s: float
    payload_bytes: int
    wire_bytes: int
    accuracy: float
    device_j: float
    fallback_exit: int
    fallback_s: float
    fallback_accuracy: float
    fallback_j: float


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: int
    model: str
    device: str
    edge: str
    depths: tuple[int, ...]
    plans: tuple[PlanRow, ...]


@dataclass(frozen=True, eq=False)
class PlanTable:
    """All plans of one network on one device with one edge server.

    rows in stable order (exit, partition, bits); each numeric column of `PlanRow` is an array of shape (plans,).
    """

    model: str
    device: str
    edge: str
    depths: tuple[int, ...]
    rows: tuple[PlanRow, ...]
    exit: NDArray[np.int64] = field(init=False)
    partition: NDArray[np.int64] = field(init=False)
    bits: NDArray[np.int64] = field(init=False)
    device_s: NDArray[np.float64] = field(init=False)
    encode_s: NDArray[np.float64] = field(init=False)
    decode_s: NDArray[np.float64] = field(init=False)
    edge_s: NDArray[np.float64] = field(init=False)
    wire_bytes: NDArray[np.float64] = field(init=False)
    accuracy: NDArray[np.float64] = field(init=False)
    device_j: NDArray[np.float64] = field(init=False)
    fallback_s: NDArray[np.float64] = field(init=False)
    fallback_accuracy: NDArray[np.float64] = field(init=False)
    fallback_j: NDArray[np.float64] = field(init=False)
    offloads: NDArray[np.bool_] = field(init=False)

    def __post_init__(self) -> None:
        for name in ("exit", "partition", "bits"):
            self._set(name, np.array([getattr(row, name) for row in self.rows], np.int64))
        for name in (
            "device_s", "encode_s", "decode_s", "edge_s", "wire_bytes", "accuracy",
            "device_j", "fallback_s", "fallback_accuracy", "fallback_j",
        ):  # fmt: skip
            self._set(name, np.array([getattr(row, name) for row in self.rows], np.float64))
        self._set("offloads", self.bits > 0)

    def _set(self, name: str, column: NDArray[np.generic]) -> None:
        column.setflags(write=False)
        object.__setattr__(self, name, column)

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, plan: int) -> str:
        """Short name of a plan, as `e2 p1 8b`; `local` and `raw` say that nothing or the input is sent."""
        row = self.rows[plan]
        how = "local" if row.bits == 0 else "raw" if row.partition == 0 else f"p{row.partition} {row.bits}b"
        return f"e{row.exit} {how}"

    def index(self, exit_: int, partition: int, bits: int) -> int:
        """The plan that a triple means: bits are ignored where only one value is possible.

        Raises:
            KeyError: no such exit, partition or bit width.
        """
        if not 0 <= exit_ < len(self.depths) or not 0 <= partition <= self.depths[exit_] + 1:
            raise KeyError((exit_, partition, bits))
        if partition == 0:
            bits = RAW_BITS
        elif partition > self.depths[exit_]:
            bits = 0
        found = np.flatnonzero((self.exit == exit_) & (self.partition == partition) & (self.bits == bits))
        if len(found) == 0:
            raise KeyError((exit_, partition, bits))
        return int(found[0])

    def device_only(self, exit_: int | None = None) -> int:
        """Plan that never leaves the device, by default at the last exit."""
        last = len(self.depths) - 1 if exit_ is None else exit_
        return self.index(last, self.depths[last] + 1, 0)

    def edge_only(self) -> int:
        """Plan that sends the input and runs the whole network on the edge."""
        return self.index(len(self.depths) - 1, 0, RAW_BITS)

    def static_safe(self, deadline_s: float, slow_down: float = 1.0) -> int:
        """The most accurate device-only plan that meets the deadline, or the fastest one if none does."""
        local = np.flatnonzero(~self.offloads)
        in_time = local[(self.device_s + self.encode_s)[local] * slow_down <= deadline_s]
        if len(in_time) == 0:
            return int(local[np.argmin(self.device_s[local])])
        return int(in_time[np.argmax(self.accuracy[in_time])])

    def encode(self) -> bytes:
        """The table as JSON; equal tables give equal bytes."""
        return msgspec.json.encode(_File(FORMAT, self.model, self.device, self.edge, self.depths, self.rows))

    @staticmethod
    def decode(data: bytes, where: str) -> PlanTable:
        """Read what `encode` wrote; raises ProfileError that names `where`."""
        try:
            file = msgspec.json.decode(data, type=_File)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ProfileError(f"{where} is not a plan table: {error}; build it anew from its profiles") from error
        if file.format != FORMAT or not file.plans:
            raise ProfileError(
                f"{where} has format {file.format} and {len(file.plans)} plans; this cutlayer reads format {FORMAT}; build it anew"
            )
        for row in file.plans:
            _check(row, file.depths, where)
        if len({(row.exit, row.partition, row.bits) for row in file.plans}) < len(file.plans) or all(row.bits for row in file.plans):
            raise ProfileError(f"{where} names a plan twice or none that stays on the device; build it anew from its profiles")
        return PlanTable(file.model, file.device, file.edge, file.depths, file.plans)

    def digest(self) -> str:
        """sha256 of the table; a policy is bound to it."""
        return hashlib.sha256(self.encode()).hexdigest()

    @staticmethod
    def build(
        device: ModelProfile, edge: ModelProfile, accuracy: AccuracyTable, *, bits: Sequence[int] = BITS, allow_raw: bool = True
    ) -> PlanTable:
        """Every valid plan of a network, from its measured tables.

        `allow_raw=False` leaves out every plan that sends the input image (privacy).

        Raises:
            ProfileError: the tables are of different networks or weights, or a plan's accuracy was not measured.
        """
        for other in (edge, accuracy):
            if (other.model, other.weights_sha256) != (device.model, device.weights_sha256):
                raise ProfileError(
                    f"tables of different networks: {device.model} {device.weights_sha256[:12]} and "
                    f"{other.model} {other.weights_sha256[:12]}; measure both with the same weights"
                )
        rows = tuple(_rows(device, edge, accuracy, tuple(bits), allow_raw=allow_raw))
        return PlanTable(device.model, device.provenance.machine, edge.provenance.machine, device.depths, rows)


def _check(row: PlanRow, depths: tuple[int, ...], where: str) -> None:
    place = f"exit {row.exit}, partition {row.partition}, {row.bits} bits"
    known = 0 <= row.exit < len(depths) and 0 <= row.fallback_exit < len(depths) and 0 <= row.partition <= depths[row.exit] + 1
    if not known or (row.bits == 0) != (row.partition == depths[row.exit] + 1):
        raise ProfileError(f"{place} of {where} is no plan of a network with exits after {depths} layers; build it anew from its profiles")
    numbers = msgspec.structs.astuple(row)[3:]
    if not all(math.isfinite(number) and number >= 0 for number in numbers) or max(row.accuracy, row.fallback_accuracy) > 1:
        raise ProfileError(f"{place} of {where} has a cost that is no number from 0 on; build it anew from its profiles")


def _rows(
    device: ModelProfile, edge: ModelProfile, accuracy: AccuracyTable, bits: tuple[int, ...], *, allow_raw: bool
) -> Iterator[PlanRow]:
    right = {(plan.exit, plan.partition, plan.bits): plan.correct / accuracy.images for plan in accuracy.plans}
    sides = {"encode": device, "decode": edge}
    coding = {(side, cost.cut, cost.bits): getattr(cost, side) for side, table in sides.items() for cost in table.codecs}
    # Means add up over a chain, medians do not: sums of medians were up to 54 % too low under load.
    on_device, on_edge = ([layer.time.cpu.mean_s for layer in table.layers] for table in (device, edge))
    device_head, edge_head = ([head.time.cpu.mean_s for head in table.heads] for table in (device, edge))

    def share_right(exit_: int, partition: int, width: int) -> float:
        try:
            return right[exit_, partition, width]
        except KeyError:
            raise ProfileError(
                f"no measured accuracy for exit {exit_}, partition {partition}, {width} bits of {accuracy.model}; "
                "measure it with: cutlayer profile accuracy"
            ) from None

    def codec_s(side: str, partition: int, width: int) -> float:
        try:
            return float(coding[side, partition, width].cpu.mean_s)
        except KeyError:
            raise ProfileError(
                f"no measured time to {side} the tensor at partition {partition} at {width} bits on {sides[side].provenance.machine}; "
                "measure the machine again with: cutlayer profile measure"
            ) from None

    for exit_, depth in enumerate(device.depths):
        for partition in range(0 if allow_raw else 1, depth + 2):
            local = partition == depth + 1
            own_s = sum(on_device[: min(partition, depth)]) + (device_head[exit_] if local else 0.0)
            rest_s = 0.0 if local else sum(on_edge[partition:depth]) + edge_head[exit_]
            fallback = max((e for e, d in enumerate(device.depths) if d <= partition), default=0)
            missing = sum(on_device[partition : device.depths[fallback]])  # nothing where the exit lies on the way
            fallback, fallback_s = (exit_, 0.0) if local else (fallback, missing + device_head[fallback])
            shape = device.input_shape if partition == 0 else device.layers[min(partition, depth) - 1].output_shape
            for width in (0,) if local else (RAW_BITS,) if partition == 0 else bits:
                encode_s = 0.0 if local else codec_s("encode", partition, width)
                size = payload_bytes(int(np.prod(shape)), width) if not local else 0
                yield PlanRow(
                    exit=exit_,
                    partition=partition,
                    bits=width,
                    device_s=own_s,
                    encode_s=encode_s,
                    decode_s=0.0 if local else codec_s("decode", partition, width),
                    edge_s=rest_s,
                    payload_bytes=size,
                    wire_bytes=wire_bytes(size) if not local else 0,
                    accuracy=share_right(exit_, partition, width),
                    device_j=device.busy_w * (own_s + encode_s),
                    fallback_exit=fallback,
                    fallback_s=fallback_s,
                    fallback_accuracy=share_right(fallback, device.depths[fallback] + 1, 0),
                    fallback_j=device.busy_w * fallback_s,
                )

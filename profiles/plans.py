"""The plan table: every valid (exit, partition, bits) with its constants, as numpy columns in a stable order.

Everything that decides or simulates reads this one structure. For exit `e` behind `d` trunk layers the chain has
`d + 1` layers, the last of them the exit head:

    partition 0           the input image is sent as it is (8 bits a channel); the edge runs all
    partition 1 .. d      the tensor after that many trunk layers is sent at 2, 4, 8, 16 or 32 bits
    partition d + 1       nothing is sent; bits is 0

So every plan is written once, and a knob that means nothing in a plan has one stated value there. A table may hold the
input a second time, as a JPEG file (`codec` is then "jpeg", bits still 8): the same exit and partition, fewer bytes.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

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

Codec = Literal["affine", "jpeg"]  # affine: `cutlayer.profiles.codecs`, of which the raw input is the case of scale 1


@dataclass(frozen=True, slots=True)
class JpegInput:
    """The input as JPEG, as one device sends it and one edge reads it: mean bytes, seconds, and the accuracy of each exit on it."""

    model: str
    weights_sha256: str
    payload_bytes: int
    encode_s: float
    decode_s: float
    accuracy: tuple[float, ...]


class PlanRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Constants of one plan; seconds, bytes, joules.

    fallback_* is the device's own answer when the transfer is given up: the deepest exit whose trunk was computed on
    the way (its head still has to run), or exit 0 computed whole where the input itself was being sent. payload_bytes of
    a JPEG is the mean over the images it was measured on.
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
    codec: Codec = "affine"


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

    rows in stable order (exit, partition, bits, codec); each numeric column of `PlanRow` is an array of shape (plans,).
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
        """Short name of a plan, as `e2 p1 8b`; `local` says that nothing is sent, `raw` and `jpeg` that the input is."""
        row = self.rows[plan]
        if row.bits == 0:
            return f"e{row.exit} local"
        if row.partition == 0:
            return f"e{row.exit} {'raw' if row.codec == 'affine' else row.codec}"
        return f"e{row.exit} p{row.partition} {row.bits}b"

    def index(self, exit_: int, partition: int, bits: int, codec: Codec | None = None) -> int:
        """The plan that a triple means: bits are ignored where only one value is possible.

        Where the input may be sent raw or as JPEG and `codec` does not say which, it is the one of fewer bytes.

        Raises:
            KeyError: no such exit, partition, bit width or codec; or the table leaves it out.
        """
        if not 0 <= exit_ < len(self.depths) or not 0 <= partition <= self.depths[exit_] + 1:
            raise KeyError((exit_, partition, bits))
        if partition == 0:
            bits = RAW_BITS
        elif partition > self.depths[exit_]:
            bits = 0
        found = np.flatnonzero((self.exit == exit_) & (self.partition == partition) & (self.bits == bits))
        coded = [int(plan) for plan in found if codec in (None, self.rows[plan].codec)]
        if not coded:
            raise KeyError((exit_, partition, bits) if codec is None else (exit_, partition, bits, codec))
        return min(coded, key=lambda plan: self.rows[plan].wire_bytes)

    def device_only(self, exit_: int | None = None) -> int:
        """Plan that never leaves the device, by default at the last exit; of a pruned table, the last one left."""
        last = int(self.exit[~self.offloads].max()) if exit_ is None else exit_
        return self.index(last, self.depths[last] + 1, 0)

    def edge_only(self) -> int:
        """Plan that sends the input and runs the whole network on the edge; the JPEG where the table has one."""
        return self.index(len(self.depths) - 1, 0, RAW_BITS)

    def static_safe(self, deadline_s: float, slow_down: float = 1.0) -> int:
        """The most accurate device-only plan that meets the deadline, or the fastest one if none does."""
        local = np.flatnonzero(~self.offloads)
        in_time = local[(self.device_s + self.encode_s)[local] * slow_down <= deadline_s]
        if len(in_time) == 0:
            return int(local[np.argmin(self.device_s[local])])
        return int(in_time[np.argmax(self.accuracy[in_time])])

    def pruned(self) -> PlanTable:
        """The table without plans that another one beats or equals in everything: lossless for every monotone objective.

        A plan goes if another needs no more device work, encoding, bytes, edge work (decoding included) and energy, is at
        least as accurate, and falls back to an answer that is as fast, as cheap and as accurate. Of equals the first
        stays; the order stays. At least one device-only plan is left: only such a plan sends as little.
        """
        # Less is better in every column; the last sum is what the edge is busy for.
        costs = np.stack(
            [
                self.device_s, self.encode_s, self.wire_bytes, self.decode_s + self.edge_s, self.device_j, -self.accuracy,
                self.fallback_s, self.fallback_j, -self.fallback_accuracy,
            ]
        )  # fmt: skip
        as_good = (costs[:, :, None] <= costs[:, None, :]).all(axis=0)  # [i, j]: i is nowhere worse than j
        earlier = np.arange(len(self))[:, None] < np.arange(len(self))
        kept = ~(as_good & (~as_good.T | earlier)).any(axis=0)
        return replace(self, rows=tuple(self.rows[plan] for plan in np.flatnonzero(kept)))

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
        if len({(row.exit, row.partition, row.bits, row.codec) for row in file.plans}) < len(file.plans) or all(
            row.bits for row in file.plans
        ):
            raise ProfileError(f"{where} names a plan twice or none that stays on the device; build it anew from its profiles")
        return PlanTable(file.model, file.device, file.edge, file.depths, file.plans)

    def digest(self) -> str:
        """sha256 of the table; a policy is bound to it."""
        return hashlib.sha256(self.encode()).hexdigest()

    @staticmethod
    def build(
        device: ModelProfile,
        edge: ModelProfile,
        accuracy: AccuracyTable,
        *,
        bits: Sequence[int] = BITS,
        allow_raw: bool = True,
        jpeg: JpegInput | None = None,
    ) -> PlanTable:
        """Every valid plan of a network, from its measured tables.

        `jpeg` adds the plans that send the input as a JPEG; `allow_raw=False` leaves out every plan that sends the input
        image, as JPEG too (privacy).

        Raises:
            ProfileError: the tables are of different networks or weights, or a plan's accuracy was not measured.
        """
        for other in (edge, accuracy, *(() if jpeg is None else (jpeg,))):
            if (other.model, other.weights_sha256) != (device.model, device.weights_sha256):
                raise ProfileError(
                    f"tables of different networks: {device.model} {device.weights_sha256[:12]} and "
                    f"{other.model} {other.weights_sha256[:12]}; measure both with the same weights"
                )
        rows = tuple(_rows(device, edge, accuracy, tuple(bits), jpeg, allow_raw=allow_raw))
        return PlanTable(device.model, device.provenance.machine, edge.provenance.machine, device.depths, rows)


def _check(row: PlanRow, depths: tuple[int, ...], where: str) -> None:
    place = f"exit {row.exit}, partition {row.partition}, {row.bits} bits"
    known = 0 <= row.exit < len(depths) and 0 <= row.fallback_exit < len(depths) and 0 <= row.partition <= depths[row.exit] + 1
    if not known or (row.bits == 0) != (row.partition == depths[row.exit] + 1):
        raise ProfileError(f"{place} of {where} is no plan of a network with exits after {depths} layers; build it anew from its profiles")
    numbers = [value for value in msgspec.structs.astuple(row)[3:] if not isinstance(value, str)]
    if not all(math.isfinite(number) and number >= 0 for number in numbers) or max(row.accuracy, row.fallback_accuracy) > 1:
        raise ProfileError(f"{place} of {where} has a cost that is no number from 0 on; build it anew from its profiles")


def _rows(
    device: ModelProfile, edge: ModelProfile, accuracy: AccuracyTable, bits: tuple[int, ...], jpeg: JpegInput | None, *, allow_raw: bool
) -> Iterator[PlanRow]:
    right = {(plan.exit, plan.partition, plan.bits): plan.correct / accuracy.images for plan in accuracy.plans}
    sides = {"encode": device, "decode": edge}
    coding = {(side, cost.cut, cost.bits): getattr(cost, side) for side, table in sides.items() for cost in table.codecs}
    on_device, on_edge = _Seconds(device), _Seconds(edge)

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
            own_s = on_device.suffix(0, exit_) if local else on_device.prefix(partition)
            rest_s = 0.0 if local else on_edge.suffix(partition, exit_)
            fallback = max((e for e, d in enumerate(device.depths) if d <= partition), default=0)
            missing_from = min(partition, device.depths[fallback])  # its head alone where the exit lies on the way
            fallback, fallback_s = (exit_, 0.0) if local else (fallback, on_device.suffix(missing_from, fallback))
            shape = device.input_shape if partition == 0 else device.layers[min(partition, depth) - 1].output_shape
            for width in (0,) if local else (RAW_BITS,) if partition == 0 else bits:
                encode_s = 0.0 if local else codec_s("encode", partition, width)
                size = payload_bytes(int(np.prod(shape)), width) if not local else 0
                row = PlanRow(
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
                yield row
                if partition == 0 and jpeg is not None:
                    yield _as_jpeg(row, jpeg, device.busy_w)


class _Seconds:
    """CPU seconds of a network's prefixes and suffixes: measured in one piece where the profile has them, else sums of layers.

    Raises:
        ProfileError: it has some of them but not all, or they are of another machine than its layers.
    """

    def __init__(self, profile: ModelProfile) -> None:
        # Means add up over a chain, medians do not: sums of medians were up to 54 % too low under load.
        self._depths = profile.depths
        self._layers = [layer.time.cpu.mean_s for layer in profile.layers]
        self._heads = [head.time.cpu.mean_s for head in profile.heads]
        self._prefixes = {cost.cut: cost.time.cpu.mean_s for cost in profile.prefixes}
        self._suffixes = {(cost.cut, cost.exit): cost.time.cpu.mean_s for cost in profile.suffixes}
        if not self._prefixes and not self._suffixes:
            return
        cuts = set(range(1, len(self._layers) + 1))
        if self._prefixes.keys() != cuts or self._suffixes.keys() != {(p, e) for e, d in enumerate(self._depths) for p in range(d + 1)}:
            raise ProfileError(
                f"the profile of {profile.model} on {profile.provenance.machine} has {len(self._prefixes)} prefixes and "
                f"{len(self._suffixes)} suffixes, not one for every cut and exit; measure it anew"
            )
        pieces, whole = self._prefixes[len(self._layers)], sum(self._layers)
        if not whole / 2 <= pieces <= whole * 2:  # in one piece or in layers, the trunk is the same work
            raise ProfileError(
                f"in the profile of {profile.model} on {profile.provenance.machine} the trunk takes {pieces:.3g} s in one piece and "
                f"{whole:.3g} s layer by layer; they are of two machines: derive or measure it anew"
            )

    def prefix(self, cut: int) -> float:
        """From the pixels to the tensor after `cut` layers."""
        if not cut:
            return 0.0
        return self._prefixes[cut] if self._prefixes else sum(self._layers[:cut])

    def suffix(self, cut: int, exit_: int) -> float:
        """From that tensor to the logits of `exit_`."""
        if self._suffixes:
            return self._suffixes[cut, exit_]
        return sum(self._layers[cut : self._depths[exit_]]) + self._heads[exit_]


def _as_jpeg(raw: PlanRow, jpeg: JpegInput, busy_w: float) -> PlanRow:
    return msgspec.structs.replace(
        raw,
        codec="jpeg",
        encode_s=jpeg.encode_s,
        decode_s=jpeg.decode_s,
        payload_bytes=jpeg.payload_bytes,
        wire_bytes=wire_bytes(jpeg.payload_bytes),
        accuracy=jpeg.accuracy[raw.exit],
        device_j=busy_w * jpeg.encode_s,
    )

"""The plan table: every valid (exit, partition, bits, codec) with its constants, as numpy columns in a stable order.

Everything that decides or simulates reads this one structure. For exit `e` behind `d` trunk layers the chain has
`d + 1` layers, the last of them the exit head:

    partition 0           the input image is sent as it is (8 bits a channel); the edge runs all
    partition 1 .. d      the tensor after that many trunk layers is sent at 2, 4, 8, 16 or 32 bits
    partition d + 1       nothing is sent; bits is 0

So every plan is written once, and a knob that means nothing in a plan has one stated value there. A table may hold more
ways to send the same thing, told apart by `codec`:

    affine                the bytes of the image, or a tensor quantised and packed (`cutlayer.profiles.codecs`)
    jpeg                  partition 0: the image as a JPEG file, bits 8
    zstd                  a quantised tensor behind a lossless stage: as accurate, its length varies from image to image
    bottle6, ae12, ...    a trained bottleneck (a unit) in place of the tensor, at 8 bits; a device holds one at a time

Accuracies are shares of right answers as counted, lucky images included: who compares plans that differ by a few images
says so (the knob report settles them, `cutlayer.profiles.knobs.settled`).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from cutlayer.errors import ProfileError
from cutlayer.profiles.build import plan_rows
from cutlayer.profiles.codecs import BITS, RAW_BITS
from cutlayer.profiles.rows import AFFINE, PlanRow, check, coding, written_as

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from cutlayer.profiles.build import JpegInput
    from cutlayer.profiles.schema import AccuracyTable, ModelProfile

FORMATS = (1, 2)  # `rows.written_as` says what 2 adds; a file of 1 is read with the defaults of `PlanRow`


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

    rows in stable order (exit, partition, bits, codec); numeric columns of `PlanRow` are arrays of shape (plans,).
    payload_p95_bytes is the payload itself where its length is fixed. unit is a number for each bottleneck, 1 for the first
    of `units`, 0 where a plan needs none: a plan whose unit is neither 0 nor the one in place costs the device swap_s more.
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
    payload_p95_bytes: NDArray[np.float64] = field(init=False)
    swap_s: NDArray[np.float64] = field(init=False)
    unit_bytes: NDArray[np.float64] = field(init=False)
    unit: NDArray[np.int64] = field(init=False)
    units: tuple[str, ...] = field(init=False)
    offloads: NDArray[np.bool_] = field(init=False)

    def __post_init__(self) -> None:
        for name in ("exit", "partition", "bits"):
            self._set(name, np.array([getattr(row, name) for row in self.rows], np.int64))
        for name in (
            "device_s", "encode_s", "decode_s", "edge_s", "wire_bytes", "accuracy",
            "device_j", "fallback_s", "fallback_accuracy", "fallback_j", "swap_s", "unit_bytes",
        ):  # fmt: skip
            self._set(name, np.array([getattr(row, name) for row in self.rows], np.float64))
        longest = [row.payload_bytes if row.payload_p95_bytes is None else row.payload_p95_bytes for row in self.rows]
        self._set("payload_p95_bytes", np.array(longest, np.float64))
        units = tuple(dict.fromkeys(row.unit for row in self.rows if row.unit))
        object.__setattr__(self, "units", units)
        self._set("unit", np.array([units.index(row.unit) + 1 if row.unit else 0 for row in self.rows], np.int64))
        self._set("offloads", self.bits > 0)

    def _set(self, name: str, column: NDArray[np.generic]) -> None:
        column.setflags(write=False)
        object.__setattr__(self, name, column)

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, plan: int) -> str:
        """Short name of a plan, as `e2 p1 8b`, `e2 p1 4b zstd` or `e2 p1 bottle6`; `local` says that nothing is sent, `raw` and
        `jpeg` that the input is.
        """
        row = self.rows[plan]
        if row.bits == 0:
            return f"e{row.exit} local"
        if row.partition == 0:
            return f"e{row.exit} {'raw' if row.codec == AFFINE else row.codec}"
        return f"e{row.exit} p{row.partition} {coding(row)}"

    def index(self, exit_: int, partition: int, bits: int, codec: str | None = None) -> int:
        """The plan that a triple means: bits are ignored where only one value is possible.

        Where `codec` does not say how, the input goes as the fewest bytes, raw or JPEG; a tensor is quantised and packed
        (affine), so that a triple means the same plan in a table with more codecs, and is coded by the first codec in the
        table's order where the table has no affine plan of that triple.

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
        if partition == 0:
            return min(coded, key=lambda plan: self.rows[plan].wire_bytes)
        return next((plan for plan in coded if self.rows[plan].codec == AFFINE), coded[0])

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

        A plan goes if another needs no more device work, encoding, bytes (also in its longest payloads), edge work (decoding
        included) and energy, is at least as accurate, falls back to an answer that is as fast, as cheap and as accurate,
        and needs the same bottleneck or, like it, none: plans that leave another one in place are never compared, because
        what the next request pays to swap depends on it. Of equals the first stays; the order stays. At least one
        device-only plan is left: only such a plan sends as little.
        """
        # Less is better in every column; decoding and layers are what the edge is busy for.
        costs = np.stack(
            [
                self.device_s, self.encode_s, self.wire_bytes, self.payload_p95_bytes, self.decode_s + self.edge_s, self.device_j,
                -self.accuracy, self.fallback_s, self.fallback_j, -self.fallback_accuracy, self.swap_s, self.unit_bytes,
            ]
        )  # fmt: skip
        same_unit = self.unit[:, None] == self.unit
        as_good = same_unit & (costs[:, :, None] <= costs[:, None, :]).all(axis=0)  # [i, j]: i is nowhere worse than j
        earlier = np.arange(len(self))[:, None] < np.arange(len(self))
        kept = ~(as_good & (~as_good.T | earlier)).any(axis=0)
        return replace(self, rows=tuple(self.rows[plan] for plan in np.flatnonzero(kept)))

    def encode(self) -> bytes:
        """The table as JSON; equal tables give equal bytes."""
        return msgspec.json.encode(_File(written_as(self.rows), self.model, self.device, self.edge, self.depths, self.rows))

    @staticmethod
    def decode(data: bytes, where: str) -> PlanTable:
        """Read what `encode` wrote; raises ProfileError that names `where`."""
        try:
            file = msgspec.json.decode(data, type=_File)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ProfileError(f"{where} is not a plan table: {error}; build it anew from its profiles") from error
        if file.format not in FORMATS or not file.plans:
            raise ProfileError(
                f"{where} has format {file.format} and {len(file.plans)} plans; this cutlayer reads formats "
                f"{', '.join(map(str, FORMATS))}; build it anew"
            )
        check(file.plans, file.depths, where)
        return PlanTable(file.model, file.device, file.edge, file.depths, file.plans)

    def digest(self) -> str:
        """sha256 of the table; a policy is bound to it."""
        return hashlib.sha256(self.encode()).hexdigest()

    @staticmethod
    def build(
        device: ModelProfile,
        edge: ModelProfile,
        accuracy: AccuracyTable,
        codecs: Sequence[str] = (AFFINE,),
        *,
        bits: Sequence[int] = BITS,
        allow_raw: bool = True,
        jpeg: JpegInput | None = None,
    ) -> PlanTable:
        """Every valid plan of a network, from its measured tables.

        `codecs` are those of the tensor at an interior cut, at each (cut, bits) where the tables know them; `bits` the widths
        they are asked for, but for a bottleneck, which has its own. `jpeg` adds the plans that send the input as a JPEG;
        `allow_raw=False` leaves out every plan that sends the input image, as JPEG too (privacy).

        Raises:
            ProfileError: the tables are of different networks, weights or bottlenecks, no table knows a codec, or a cell that
                a plan needs was not measured.
        """
        for other in (edge, accuracy, *(() if jpeg is None else (jpeg,))):
            if (other.model, other.weights_sha256) != (device.model, device.weights_sha256):
                raise ProfileError(
                    f"tables of different networks: {device.model} {device.weights_sha256[:12]} and "
                    f"{other.model} {other.weights_sha256[:12]}; measure both with the same weights"
                )
        rows = tuple(plan_rows(device, edge, accuracy, codecs, bits, jpeg, allow_raw=allow_raw))
        return PlanTable(device.model, device.provenance.machine, edge.provenance.machine, device.depths, rows)

"""From measured tables to the rows of a plan table.

What a plan costs falls apart into what its layers cost (`Seconds`), how the tensor at its cut is coded (`Coding`), and how
often its exit is right. A cell that a plan needs and no table holds is refused, never guessed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cutlayer.errors import ProfileError, nearest
from cutlayer.profiles.codecs import RAW_BITS, payload_bytes
from cutlayer.profiles.cost import wire_bytes
from cutlayer.profiles.rows import AFFINE, JPEG, UNIT_BITS, PlanRow, codec_order

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from cutlayer.profiles.schema import AccuracyTable, ModelProfile, UnitCost

MEASURE = "measure the machine again with: cutlayer profile measure"
COUNT = "measure it with: cutlayer profile accuracy"


@dataclass(frozen=True, slots=True)
class JpegInput:
    """The input as JPEG, as one device sends it and one edge reads it: bytes (mean, p95), seconds, and each exit's accuracy on it."""

    model: str
    weights_sha256: str
    payload_bytes: int
    payload_p95_bytes: int
    encode_s: float
    decode_s: float
    accuracy: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Coding:
    """How one codec sends what crosses at one cut: width, seconds on either side, bytes, and the bottleneck it needs, if any."""

    codec: str
    bits: int
    encode_s: float
    decode_s: float
    payload_bytes: int
    payload_p95_bytes: int | None = None
    unit: UnitCost | None = None


def plan_rows(
    device: ModelProfile,
    edge: ModelProfile,
    accuracy: AccuracyTable,
    codecs: Sequence[str],
    bits: Sequence[int],
    jpeg: JpegInput | None,
    *,
    allow_raw: bool,
) -> Iterator[PlanRow]:
    """Every plan, in the order (exit, partition, bits, codec); see `PlanTable.build`."""
    coded = _Codings(device, edge, accuracy, codecs, bits)
    right = _Accuracy(accuracy, coded.trained, jpeg)
    on_device, on_edge = Seconds(device), Seconds(edge)
    at_cut = {cut: coded.at(cut) for cut in range(1, device.depths[-1] + 1)}
    if allow_raw:
        at_cut[0] = [coded.raw(), *([] if jpeg is None else [_as_jpeg(jpeg)])]
    for exit_, depth in enumerate(device.depths):
        for partition in range(0 if allow_raw else 1, depth + 1):
            fallback = max((e for e, d in enumerate(device.depths) if d <= partition), default=0)
            missing_from = min(partition, device.depths[fallback])  # its head alone where the exit lies on the way
            fallback_s = on_device.suffix(missing_from, fallback)
            for coding in at_cut[partition]:
                own_s = on_device.prefix(partition)
                yield PlanRow(
                    exit=exit_,
                    partition=partition,
                    bits=coding.bits,
                    device_s=own_s,
                    encode_s=coding.encode_s,
                    decode_s=coding.decode_s,
                    edge_s=on_edge.suffix(partition, exit_),
                    payload_bytes=coding.payload_bytes,
                    wire_bytes=wire_bytes(coding.payload_bytes),
                    accuracy=right.share(exit_, partition, coding.bits, coding.codec),
                    device_j=device.busy_w * (own_s + coding.encode_s),
                    fallback_exit=fallback,
                    fallback_s=fallback_s,
                    fallback_accuracy=right.local(fallback, device.depths[fallback]),
                    fallback_j=device.busy_w * fallback_s,
                    codec=coding.codec,
                    payload_p95_bytes=coding.payload_p95_bytes,
                    **_unit_columns(coding.unit),
                )
        yield _local(exit_, depth, on_device.suffix(0, exit_), device.busy_w, right.local(exit_, depth))


def _local(exit_: int, depth: int, own_s: float, busy_w: float, accuracy: float) -> PlanRow:
    """The plan that sends nothing; its own answer is its fallback."""
    return PlanRow(
        exit=exit_, partition=depth + 1, bits=0, device_s=own_s, encode_s=0.0, decode_s=0.0, edge_s=0.0, payload_bytes=0, wire_bytes=0,
        accuracy=accuracy, device_j=busy_w * own_s, fallback_exit=exit_, fallback_s=0.0, fallback_accuracy=accuracy, fallback_j=0.0,
    )  # fmt: skip


def _unit_columns(unit: UnitCost | None) -> dict[str, Any]:
    """What a change to this bottleneck costs the device: time as measured, both halves read and initialised, and the encoder's bytes.

    The edge keeps every decoder ready.
    """
    if unit is None:
        return {}
    return {
        "unit": f"{unit.name}@{unit.cut}",
        "channels": unit.channels,
        "unit_bytes": unit.encoder_bytes,
        "swap_s": unit.swap.cpu.mean_s,
    }


def _as_jpeg(jpeg: JpegInput) -> Coding:
    return Coding(JPEG, RAW_BITS, jpeg.encode_s, jpeg.decode_s, jpeg.payload_bytes, jpeg.payload_p95_bytes)


class _Accuracy:
    """Share of right answers of a plan: of the very codec, or, where it only adds a lossless stage, of its lossy part."""

    def __init__(self, table: AccuracyTable, trained: frozenset[str], jpeg: JpegInput | None) -> None:
        self._model = table.model
        self._trained = trained
        self._right = {(plan.exit, plan.partition, plan.bits, plan.codec): plan.correct / table.images for plan in table.plans}
        if jpeg is not None:
            self._right |= {(exit_, 0, RAW_BITS, JPEG): share for exit_, share in enumerate(jpeg.accuracy)}

    def share(self, exit_: int, partition: int, bits: int, codec: str) -> float:
        own, lossy = (exit_, partition, bits, codec), (exit_, partition, bits, AFFINE)
        if own in self._right:
            return self._right[own]
        if codec not in {*self._trained, JPEG} and lossy in self._right:
            return self._right[lossy]
        by = "" if codec == AFFINE else f" by {codec}"
        raise ProfileError(f"no measured accuracy for exit {exit_}, partition {partition}, {bits} bits{by} of {self._model}; {COUNT}")

    def local(self, exit_: int, depth: int) -> float:
        """Of the device alone."""
        return self.share(exit_, depth + 1, 0, AFFINE)


class _Codings:
    """The ways to send the tensor at each cut: affine at every width asked for, the others where a table knows them.

    Raises:
        ProfileError: no table knows a codec; or one of them lacks a cell, or has a bottleneck of other weights.
    """

    def __init__(
        self, device: ModelProfile, edge: ModelProfile, accuracy: AccuracyTable, codecs: Sequence[str], bits: Sequence[int]
    ) -> None:
        self._accuracy = accuracy
        self._sides = {"encode": device, "decode": edge}
        self._cost = {
            (side, cost.codec, cost.cut, cost.bits): getattr(cost, side).cpu.mean_s
            for side, table in self._sides.items()
            for cost in table.codecs
        }
        self._sizes = {(size.codec, size.cut, size.bits): size.sizes for size in accuracy.payloads}
        self._units = {side: {f"{unit.name}@{unit.cut}": unit for unit in table.units} for side, table in self._sides.items()}
        named = (*self._units["encode"], *self._units["decode"], *accuracy.units)
        self.trained = frozenset(name.rpartition("@")[0] for name in named)
        # A cell that only one of the tables has is asked for, so that the lack of it in another is told.
        cells = {key[1:] for key in self._cost} | self._sizes.keys() | {(plan.codec, plan.partition, plan.bits) for plan in accuracy.plans}
        at_cuts = {cell[:2] for cell in cells}
        measured = [unit for units in self._units.values() for unit in units.values()]
        cells |= {(unit.name, unit.cut, UNIT_BITS) for unit in measured if (unit.name, unit.cut) not in at_cuts}
        known = {AFFINE} | {codec for codec, cut, _ in cells if cut}
        for codec in codecs:
            if codec == JPEG:
                raise ProfileError(f"codec {codec!r} is of the input and has a table of its own; give that as jpeg=")
            if codec not in known:
                there = ", ".join(sorted(known, key=self._order))
                raise ProfileError(f"no codec {codec!r} in the tables of {device.model}; {nearest(codec, known)}there are: {there}")
        asked = sorted(set(codecs), key=self._order)
        self._wanted = {
            (cut, width, codec)
            for codec, cut, width in cells | {(AFFINE, cut, width) for cut in range(1, device.depths[-1] + 1) for width in bits}
            if codec in asked and cut and (width in bits or codec in self.trained)
        }
        self._shapes = {0: device.input_shape} | {cut: layer.output_shape for cut, layer in enumerate(device.layers, 1)}

    def _order(self, codec: str) -> tuple[int, str, int]:
        return codec_order(codec, trained=codec in self.trained)

    def raw(self) -> Coding:
        """The input as its own bytes."""
        return self._coding(0, RAW_BITS, AFFINE)

    def at(self, cut: int) -> list[Coding]:
        """In the order (bits, codec)."""
        here = sorted(((width, codec) for at, width, codec in self._wanted if at == cut), key=lambda way: (way[0], self._order(way[1])))
        return [self._coding(cut, width, codec) for width, codec in here]

    def _coding(self, cut: int, width: int, codec: str) -> Coding:
        unit = self._unit(codec, cut) if codec in self.trained else None
        seconds = {side: self._seconds(side, cut, width, codec) for side in self._sides}
        return Coding(codec, width, seconds["encode"], seconds["decode"], *self._payload(cut, width, codec, unit), unit)

    def _payload(self, cut: int, width: int, codec: str, unit: UnitCost | None) -> tuple[int, int | None]:
        """Bytes, and their 95th percentile where they vary."""
        if (codec, cut, width) in self._sizes:
            sizes = self._sizes[codec, cut, width]
            return math.ceil(sizes.mean_bytes), math.ceil(sizes.p95_bytes)
        if unit is None and codec != AFFINE:
            raise ProfileError(f"no measured payload of {codec} at partition {cut} at {width} bits of {self._accuracy.model}; {COUNT}")
        return payload_bytes(math.prod(self._shapes[cut] if unit is None else unit.code_shape), width), None

    def _seconds(self, side: str, cut: int, width: int, codec: str) -> float:
        if (side, codec, cut, width) not in self._cost:
            by = "" if codec == AFFINE else f" by {codec}"
            raise ProfileError(
                f"no measured time to {side} the tensor at partition {cut} at {width} bits{by} on "
                f"{self._sides[side].provenance.machine}; {MEASURE}"
            )
        return float(self._cost[side, codec, cut, width])

    def _unit(self, codec: str, cut: int) -> UnitCost:
        """The bottleneck as the device has it, once both machines and the accuracy table are known to have the same."""
        name = f"{codec}@{cut}"
        for side, table in self._sides.items():
            if name not in self._units[side]:
                raise ProfileError(f"no bottleneck {name} in the profile of {table.model} on {table.provenance.machine}; {MEASURE}")
        if name not in self._accuracy.units:
            raise ProfileError(f"no bottleneck {name} in the accuracy table of {self._accuracy.model}; {COUNT}")
        own = self._units["encode"][name]
        others = {
            f"on {self._sides['decode'].provenance.machine}": self._units["decode"][name].sha256,
            "in the accuracy table": self._accuracy.units[name],
        }
        for where, sha256 in others.items():
            if sha256 != own.sha256:
                raise ProfileError(
                    f"bottleneck {name} has weights {own.sha256[:12]} on {self._sides['encode'].provenance.machine} and {sha256[:12]} "
                    f"{where}; measure both with the same weights"
                )
        return own


class Seconds:
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

"""One plan with its constants: the row of the plan table, and what a row that is read must be."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec

from cutlayer.errors import ProfileError
from cutlayer.profiles.load import LONGEST_S

if TYPE_CHECKING:
    from collections.abc import Iterable

AFFINE, JPEG = "affine", "jpeg"  # affine: `cutlayer.profiles.codecs`, of which the raw input is the case of scale 1
UNIT_BITS = 8  # of a bottleneck's code; a plan's name leaves it out


class PlanRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Constants of one plan; seconds, bytes, joules.

    fallback_* is the device's own answer when the transfer is given up: the deepest exit whose trunk was computed on
    the way (its head still has to run), or exit 0 computed whole where the input itself was being sent. accuracy is the
    measured share, at face value: two plans may differ by a few images that tell nothing (`cutlayer.profiles.knobs.settled`).

    payload_bytes is the mean where `codec` makes payloads of different lengths, rounded up, and payload_p95_bytes their
    95th percentile; null where all have the same length. A plan that codes with a trained bottleneck names it: `unit` is
    "name@cut", the same for every exit behind it; a device that has another one in place first reads and initialises it,
    which takes swap_s, and holds unit_bytes. channels are those of its code, 0 where the whole tensor is sent.
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
    codec: str = AFFINE
    payload_p95_bytes: int | None = None
    unit: str = ""
    channels: int = 0
    unit_bytes: int = 0
    swap_s: float = 0.0


def written_as(rows: Iterable[PlanRow]) -> int:
    """The lowest format of a file that can say these rows: 2 has codecs other than affine and JPEG, spreads and bottlenecks.

    A table that needs none of it is written as ever, so its digest, to which policies are bound, stays.
    """
    return 2 if any(row.codec not in (AFFINE, JPEG) or row.payload_p95_bytes is not None or row.unit for row in rows) else 1


def codec_order(codec: str, *, trained: bool) -> tuple[int, str, int]:
    """Where a codec stands among those of one (exit, partition, bits): affine, other lossless stages, bottlenecks by size."""
    stem = codec.rstrip("0123456789")
    kind = 0 if codec == AFFINE else 2 if trained else 1
    return kind, stem, int(codec[len(stem) :] or 0)


def coding(row: PlanRow) -> str:
    """How a plan codes a tensor, in short: `4b` (affine), `4b zstd`, `bottle6`; empty where no tensor is sent."""
    if row.bits == 0 or row.partition == 0:
        return ""
    if row.unit and row.bits == UNIT_BITS:
        return row.codec
    return f"{row.bits}b" if row.codec == AFFINE else f"{row.bits}b {row.codec}"


def check(rows: tuple[PlanRow, ...], depths: tuple[int, ...], where: str) -> None:
    """Refuse what no network with exits after `depths` layers can mean.

    Raises:
        ProfileError: a row is no plan, has an impossible cost, is there twice, disagrees with another of the same
            bottleneck; or no row stays on the device.
    """
    for row in rows:
        _check_row(row, depths, where)
    if len({(row.exit, row.partition, row.bits, row.codec) for row in rows}) < len(rows) or all(row.bits for row in rows):
        raise ProfileError(f"{where} names a plan twice or none that stays on the device; build it anew from its profiles")
    known: dict[str, tuple[float, int]] = {}
    for row in rows:
        cost = row.swap_s, row.unit_bytes
        if row.unit and known.setdefault(row.unit, cost) != cost:
            raise ProfileError(f"{row.unit} of {where} has two swap times or sizes; build it anew from its profiles")


def _check_row(row: PlanRow, depths: tuple[int, ...], where: str) -> None:
    place = f"exit {row.exit}, partition {row.partition}, {row.bits} bits"
    known = 0 <= row.exit < len(depths) and 0 <= row.fallback_exit < len(depths) and 0 <= row.partition <= depths[row.exit] + 1
    if not known or (row.bits == 0) != (row.partition == depths[row.exit] + 1):
        raise ProfileError(f"{place} of {where} is no plan of a network with exits after {depths} layers; build it anew from its profiles")
    numbers = [value for value in msgspec.structs.astuple(row)[3:] if isinstance(value, (int, float))]
    if not all(math.isfinite(number) and number >= 0 for number in numbers) or max(row.accuracy, row.fallback_accuracy) > 1:
        raise ProfileError(f"{place} of {where} has a cost that is no number from 0 on; build it anew from its profiles")
    for name in ("device_s", "encode_s", "decode_s", "edge_s", "fallback_s", "swap_s"):
        if getattr(row, name) > LONGEST_S:
            raise ProfileError(
                f"{name} {getattr(row, name)} at {place} of {where} is over an hour; are these milliseconds? The unit is seconds"
            )
    if row.unit and not 0 < row.partition <= depths[row.exit]:
        raise ProfileError(f"{place} of {where} sends no tensor, yet codes it with {row.unit}; build it anew from its profiles")
    if not row.unit and (row.swap_s or row.unit_bytes or row.channels):
        raise ProfileError(f"{place} of {where} swaps a bottleneck in that it does not name; build it anew from its profiles")

"""The plan tables that ship, by name: AlexNet on a Raspberry-Pi-4-class device, with the measured machine as edge.

    default      the input may be sent as its raw bytes
    jpeg         ... or as a JPEG of quality 75
    privacy      no plan sends the input, in any form
    bottleneck   as default, and a tensor may be sent through zstd or a trained bottleneck

Each says which of its knob values are never optimal (`cutlayer.profiles.knobs`): a table that offers a choice which is
none, without a word, makes a learner look clever for not taking it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import msgspec

from cutlayer.errors import ConfigError, ProfileError, nearest
from cutlayer.files import write_atomic
from cutlayer.profiles import derived, load
from cutlayer.profiles.build import JpegInput
from cutlayer.profiles.plans import PlanTable
from cutlayer.profiles.schema import Provenance, Sizes, Table, Timing

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from cutlayer.profiles.schema import ModelProfile

DEFAULT = "default"
JPEG_FILE = load.BUILT_IN / "alexnet-jpeg.json"


class JpegExit(Table, frozen=True):
    """Right answers of one exit on the same images, as they are and as they come out of the JPEG."""

    exit: int
    correct_raw: int
    correct_jpeg: int


class JpegTable(Table, frozen=True):
    """The input of a network as JPEG: bytes of the whole file, time of one image, and what the loss costs in accuracy.

    decode ends with the float32 tensor that the network reads; both times are of the machine in `provenance`.
    """

    schema_version: int
    model: str
    weights_sha256: str
    source: str
    images: int
    input_shape: tuple[int, int, int]
    quality: int
    sizes: Sizes
    encode: Timing
    decode: Timing
    exits: tuple[JpegExit, ...]
    provenance: Provenance

    def on(self, device: ModelProfile) -> JpegInput:
        """What the plan table needs: encoded on `device`, decoded where this table was measured.

        Encoding scales by the ratio by which the device is derived from that machine; 1 for the machine itself. Mean
        times, as for layers, because they add up; bytes rounded up.
        """
        return JpegInput(
            model=self.model,
            weights_sha256=self.weights_sha256,
            payload_bytes=math.ceil(self.sizes.mean_bytes),
            payload_p95_bytes=math.ceil(self.sizes.p95_bytes),
            encode_s=self.encode.cpu.mean_s * device.provenance.time_ratio,
            decode_s=self.decode.cpu.mean_s,
            accuracy=tuple(exit_.correct_jpeg / self.images for exit_ in self.exits),
        )


def jpeg_table(path: Path = JPEG_FILE) -> JpegTable:
    """Read a JPEG table; raises ProfileError where it is missing, malformed, of another version or implausible."""
    table = load.read(path, JpegTable, "measure it with: cutlayer profile jpeg")
    for cost in table.exits:
        if not (0 <= cost.correct_raw <= table.images and 0 <= cost.correct_jpeg <= table.images):
            raise ProfileError(f"exit {cost.exit} in {path} is right more often than there are images, {table.images}; measure it anew")
    times = [(name, getattr(cell, name)) for side in (table.encode, table.decode) for cell in (side.wall, side.cpu) for name in _SECONDS]
    for name, seconds in times:
        if not 0 <= seconds <= load.LONGEST_S:  # false for NaN too
            raise ProfileError(f"{name} {seconds} in {path} is no duration in seconds; measure it anew")
    if not table.sizes.mean_bytes >= 1:
        raise ProfileError(f"mean_bytes {table.sizes.mean_bytes} in {path} is no size of a file; measure it anew")
    return table


_SECONDS = ("mean_s", "std_s", "p50_s", "p95_s", "p99_s")


def save_jpeg(table: JpegTable, path: Path = JPEG_FILE) -> None:
    """Write the table as indented JSON, whole or not at all."""
    write_atomic(path, msgspec.json.format(msgspec.json.encode(table), indent=1) + b"\n")


@dataclass(frozen=True, slots=True)
class BuiltIn:
    """A plan table that ships: what it is, how it is built, and the knob values it offers that are never optimal, with why."""

    summary: str
    build: Callable[[], PlanTable]
    never_optimal: Mapping[str, Mapping[str, str]]


def _default() -> PlanTable:
    edge = load.profile("alexnet")
    return PlanTable.build(derived.raspberry_pi_4(edge), edge, load.accuracy("alexnet-accuracy"))


def _jpeg() -> PlanTable:
    edge, accuracy, jpeg = load.profile("alexnet"), load.accuracy("alexnet-accuracy"), jpeg_table()
    if (jpeg.source, jpeg.images) != (accuracy.source, accuracy.images):
        raise ProfileError(
            f"accuracy of JPEG inputs is of {jpeg.images} images of {jpeg.source}, that of the other plans of {accuracy.images} of "
            f"{accuracy.source}; measure both on the same images"
        )
    device = derived.raspberry_pi_4(edge)
    return PlanTable.build(device, edge, accuracy, jpeg=jpeg.on(device))


def _privacy() -> PlanTable:
    edge = load.profile("alexnet")
    return PlanTable.build(derived.raspberry_pi_4(edge), edge, load.accuracy("alexnet-accuracy"), allow_raw=False)


def _bottleneck() -> PlanTable:
    edge, accuracy = load.profile("alexnet"), load.accuracy("alexnet-accuracy")
    units = {name.rpartition("@")[0] for name in accuracy.units}
    if not units:
        raise ProfileError("alexnet-accuracy holds no bottleneck; measure it with the zoo's units: cutlayer profile accuracy")
    return PlanTable.build(derived.raspberry_pi_4(edge), edge, accuracy, ("affine", "zstd", *units))


_THIRD = "as many bytes as after layer 4, where 4 bits lose no answers that can be told from chance"
_LATE = "what is left costs the device less than the round trip"
_WIDE = "8 bits cost no accuracy that can be told from chance, and fewer bytes"
_COARSE = "where 2 bits are in time the JPEG is too, and right more often"
_LAST = dict.fromkeys(("5", "6", "7"), _LATE)
_FINE = dict.fromkeys(("16", "32"), _WIDE)

TABLES: dict[str, BuiltIn] = {
    DEFAULT: BuiltIn(
        "AlexNet, Raspberry-Pi-4-class device, the measured machine as edge; the input may be sent raw",
        _default,
        {"partition": {"3": _THIRD} | _LAST, "bits": _FINE},
    ),
    "jpeg": BuiltIn(
        "as default, and the input may be sent as a JPEG", _jpeg, {"partition": {"3": _THIRD} | _LAST, "bits": {"2": _COARSE} | _FINE}
    ),
    "privacy": BuiltIn("as default, but no plan sends the input", _privacy, {"partition": {"3": _THIRD} | _LAST, "bits": _FINE}),
    "bottleneck": BuiltIn(
        "as default, and a tensor may be sent through zstd or a trained bottleneck", _bottleneck, {"partition": _LAST, "bits": _FINE}
    ),
}


def names() -> list[str]:
    """Names that `table` knows."""
    return list(TABLES)


def find(name: str) -> BuiltIn:
    """A built-in plan table by name.

    Raises:
        ConfigError: the name is unknown.
    """
    if name not in TABLES:
        raise ConfigError(
            f"no plan table {name!r}; {nearest(name, names())}give the path of a JSON plan table or a built-in name: {', '.join(names())}"
        )
    return TABLES[name]


@cache
def table(name: str = DEFAULT) -> PlanTable:
    """A built-in plan table by name; built once.

    Raises:
        ConfigError: the name is unknown.
        ProfileError: its tables are missing, or not of the same weights.
    """
    return find(name).build()

"""Uniform affine quantisation of a tensor to 2, 4, 8 or 16 bits with packing; 32 bits sends the floats.

A value `x` is sent as `q = round((x - lo) / scale)` in `bits` bits and read as `q * scale + lo`, with `lo` and `scale`
taken from the tensor itself: the error is at most half a step. The input image is sent as the bytes it is made of,
which is the same rule with `lo` 0 and `scale` 1. `Zstd` packs the same bytes once more, without loss.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from cutlayer.errors import ConfigError, PeerError, nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from cutlayer.profiles.zoo import MultiExit

BITS = (2, 4, 8, 16, 32)
RAW_BITS = 8  # an RGB pixel has eight bits a channel
SMALLEST_STEP = float(np.finfo(np.float32).tiny)  # below this a float32 is subnormal
# By alexnet's tensors (200 images): wider ones shrink as well, but 8 bits with zstd are always shorter, and as accurate.
ZSTD_BITS = (2, 4, 8)
# At 4 bits after its layers 1 to 5: 28-57 % of the bytes in 9-30 us. 3 is no smaller; 12 is 3-4 points smaller in 8-20 times as long.
ZSTD_LEVEL = 1
HEADER_BYTES = 48  # fixed frame header of runtime.split.protocol; a test holds the two equal


@dataclass(frozen=True, slots=True)
class Encoded:
    """A tensor as it travels: the packed bytes and the two numbers that undo the quantisation."""

    data: bytes
    bits: int
    lo: float
    scale: float


class TensorCodec(Protocol):
    """One way to send the tensor after `cut` layers: this module's own, one with a lossless stage, or a trained bottleneck.

    name is the codec of a plan. Times are taken, answers counted and payloads weighed through this alone.
    """

    name: str

    def widths(self, cut: int) -> tuple[int, ...]:
        """Bit widths it offers at that cut, ascending; none where it does not serve the cut."""
        ...

    def encode(self, x: NDArray[np.float32], cut: int, bits: int) -> Encoded:
        """The tensor of one image, of any shape, as it travels."""
        ...

    def decode(self, sent: Encoded, cut: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """What the edge computes with: float32 of `shape`."""
        ...


class Affine:
    """Uniform affine quantisation and packing at every cut; follows `TensorCodec`."""

    name = "affine"

    def widths(self, cut: int) -> tuple[int, ...]:
        return BITS if cut else ()

    def encode(self, x: NDArray[np.float32], cut: int, bits: int) -> Encoded:  # noqa: ARG002 - the same at every cut
        return encode(x, bits)

    def decode(self, sent: Encoded, cut: int, shape: tuple[int, ...]) -> NDArray[np.float32]:  # noqa: ARG002 - the same at every cut
        return decode(sent.data, sent.bits, sent.lo, sent.scale, shape)


class Zstd:
    """What `Affine` sends, as one Zstandard frame (RFC 8878): the same values in fewer bytes; follows `TensorCodec`.

    The length differs from image to image. The frame ends in a checksum of its own, so that damage is seen here too.
    """

    name = "zstd"

    def __init__(self) -> None:
        """Make one thread's coders, the others' come when they are needed.

        Raises:
            ConfigError: zstandard is not installed.
        """
        try:
            self._own = _Coders()
        except ModuleNotFoundError as error:
            raise ConfigError('codec zstd needs zstandard, which is not installed; pip install "cutlayer[zstd]"') from error

    def widths(self, cut: int) -> tuple[int, ...]:
        return ZSTD_BITS if cut else ()

    def encode(self, x: NDArray[np.float32], cut: int, bits: int) -> Encoded:
        assert bits in self.widths(cut)
        packed = encode(x, bits)
        return replace(packed, data=self._own.packer.compress(packed.data))

    def decode(self, sent: Encoded, cut: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """The tensor that `sent` stands for, float32 of `shape`.

        Raises:
            PeerError: it is damaged, or not one whole frame of just the bytes that `shape` and its width need.
        """
        import zstandard

        length = payload_bytes(int(np.prod(shape)), sent.bits)
        try:
            if sent.bits not in self.widths(cut):
                raise zstandard.ZstdError(f"not a width of it at cut {cut}")
            header = zstandard.get_frame_parameters(sent.data)
            # Judged before anything is allocated: a frame of a few bytes may announce gigabytes, and be believed.
            if header.content_size != length or header.window_size > length:
                raise zstandard.ZstdError(f"it announces {header.content_size} bytes, and a window of {header.window_size}")
            data = self._own.unpacker.decompress(sent.data, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise PeerError(
                f"payload of {len(sent.data)} bytes is no zstd frame of the {length} bytes that a tensor of shape {shape} takes at "
                f"{sent.bits} bits: {error}"
            ) from error
        return decode(data, sent.bits, sent.lo, sent.scale, shape)


class _Coders(threading.local):
    """One pair a thread: each serves one at a time, and takes 8 us to make, half of what it takes to use."""

    def __init__(self) -> None:
        import zstandard

        self.packer = zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_checksum=True)
        self.unpacker = zstandard.ZstdDecompressor()


def serving(network: MultiExit, names: Sequence[str] = ()) -> list[TensorCodec]:
    """Every codec that can send a tensor of this network, or those of that name: affine, zstd, and the bottlenecks that ship.

    Needs torch.

    Raises:
        ConfigError: there is no codec of that name, or zstandard is not installed.
    """
    from cutlayer.profiles import bottlenecks

    plain: dict[str, Callable[[], TensorCodec]] = {Affine.name: Affine, Zstd.name: Zstd}
    trained = bottlenecks.codecs_of(network)
    known = [*plain, *(codec.name for codec in trained)]
    for name in names:
        if name not in known:
            raise ConfigError(f"no codec {name!r} for {network.name}; {nearest(name, known)}there are: {', '.join(known)}")
    wanted = names or known
    return [*(make() for name, make in plain.items() if name in wanted), *(codec for codec in trained if codec.name in wanted)]


def payload_bytes(elements: int, bits: int) -> int:
    """Length of `Encoded.data` for a tensor of so many elements."""
    return (elements * bits + 7) // 8


def encode(x: NDArray[np.float32], bits: int) -> Encoded:
    """Quantise and pack a float32 tensor of any shape; `bits` is one of `BITS`."""
    flat = np.ascontiguousarray(x, dtype=np.float32).reshape(-1)
    if bits == 32:
        return Encoded(flat.tobytes(), 32, 0.0, 1.0)
    lo, hi = float(flat.min()), float(flat.max())
    # The step is rounded to float32 because that is what the frame carries.
    step = float(np.float32((hi - lo) / ((1 << bits) - 1)))
    # A range whose step has no reciprocal in float32 is as good as none.
    scale = step if step >= SMALLEST_STEP else 1.0
    # Half a level is added so that the cast, which truncates, rounds.
    levels = np.minimum((flat - np.float32(lo)) * np.float32(1.0 / scale) + np.float32(0.5), np.float32((1 << bits) - 1))
    return Encoded(_pack(levels.astype(np.uint16 if bits == 16 else np.uint8), bits), bits, lo, scale)


def encode_raw(pixels: NDArray[np.uint8]) -> Encoded:
    """The input image as its own bytes."""
    return Encoded(np.ascontiguousarray(pixels).tobytes(), RAW_BITS, 0.0, 1.0)


def decode(data: bytes | memoryview, bits: int, lo: float, scale: float, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """The tensor that `data` stands for, float32 of `shape`.

    Raises:
        PeerError: the length of `data` does not fit `shape` and `bits`, or it holds what is no finite number.
    """
    elements = int(np.prod(shape))
    if bits not in BITS or len(data) != payload_bytes(elements, bits):
        raise PeerError(f"payload of {len(data)} bytes at {bits} bits does not hold a tensor of shape {shape}")
    if bits == 32:
        kept = np.frombuffer(data, np.float32).reshape(shape).copy()
        if not np.isfinite(kept).all():
            raise PeerError(f"payload of {len(data)} bytes holds values that are no finite numbers; the tensor on the device is broken")
        return kept
    levels = _unpack(np.frombuffer(data, np.uint8), bits, elements)
    out = levels.astype(np.float32)
    out *= np.float32(scale)
    out += np.float32(lo)
    return out.reshape(shape)


def _pack(levels: NDArray[np.uint8] | NDArray[np.uint16], bits: int) -> bytes:
    if bits in (8, 16):
        return levels.tobytes()
    per_byte = 8 // bits
    padded = np.zeros(-(-len(levels) // per_byte) * per_byte, np.uint8)
    padded[: len(levels)] = levels
    packed = padded[0::per_byte].copy()
    for slot in range(1, per_byte):
        packed |= padded[slot::per_byte] << (slot * bits)
    return packed.tobytes()


def _unpack(data: NDArray[np.uint8], bits: int, elements: int) -> NDArray[np.uint8] | NDArray[np.uint16]:
    if bits == 8:
        return data
    if bits == 16:
        return data.view(np.uint16)
    per_byte = 8 // bits
    levels = np.empty(len(data) * per_byte, np.uint8)
    for slot in range(per_byte):
        levels[slot::per_byte] = (data >> (slot * bits)) & ((1 << bits) - 1)
    return levels[:elements]

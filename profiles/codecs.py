"""Uniform affine quantisation of a tensor to 2, 4, 8 or 16 bits with packing; 32 bits sends the floats.

A value `x` is sent as `q = round((x - lo) / scale)` in `bits` bits and read as `q * scale + lo`, with `lo` and `scale`
taken from the tensor itself: the error is at most half a step. The input image is sent as the bytes it is made of,
which is the same rule with `lo` 0 and `scale` 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cutlayer.errors import PeerError

if TYPE_CHECKING:
    from numpy.typing import NDArray

BITS = (2, 4, 8, 16, 32)
RAW_BITS = 8  # an RGB pixel has eight bits a channel
SMALLEST_STEP = float(np.finfo(np.float32).tiny)  # below this a float32 is subnormal
HEADER_BYTES = 48  # fixed frame header of runtime.split.protocol; a test holds the two equal


@dataclass(frozen=True, slots=True)
class Encoded:
    """A tensor as it travels: the packed bytes and the two numbers that undo the quantisation."""

    data: bytes
    bits: int
    lo: float
    scale: float


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
        PeerError: the length of `data` does not fit `shape` and `bits`.
    """
    elements = int(np.prod(shape))
    if bits not in BITS or len(data) != payload_bytes(elements, bits):
        raise PeerError(f"payload of {len(data)} bytes at {bits} bits does not hold a tensor of shape {shape}")
    if bits == 32:
        return np.frombuffer(data, np.float32).reshape(shape).copy()
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

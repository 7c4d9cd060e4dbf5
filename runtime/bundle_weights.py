"""A policy's weights in the safetensors layout: length of the header (8 bytes, little endian), a JSON header, raw tensors.

Written here because a device has numpy only; a test reads it with the safetensors library.
"""

from __future__ import annotations

import itertools
import json
import struct
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from cutlayer.errors import BundleError
from cutlayer.runtime.policy import Activation, Mlp

if TYPE_CHECKING:
    from numpy.typing import NDArray


class _Tensor(msgspec.Struct, frozen=True):
    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


def pack(policy: Mlp) -> bytes:
    """The weights as `layer0.weight`, `layer0.bias`, ..."""
    header: dict[str, dict[str, object]] = {}
    body = b""
    for i, pair in enumerate(policy.layers):
        for name, array in zip(("weight", "bias"), pair, strict=True):
            data = array.astype("<f4").tobytes()
            header[f"layer{i}.{name}"] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [len(body), len(body) + len(data)]}
            body += data
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + body


def unpack(data: bytes, activation: Activation, where: str) -> Mlp:
    """The policy of packed weights.

    Raises:
        BundleError: they cannot be read, do not fit each other, or are not finite.
    """
    try:
        (length,) = struct.unpack_from("<Q", data)
        header = msgspec.json.decode(data[8 : 8 + length], type=dict[str, _Tensor])
        body = memoryview(data)[8 + length :]
        arrays: dict[str, NDArray[np.float32]] = {}
        for name, tensor in header.items():
            start, end = tensor.data_offsets
            if tensor.dtype != "F32" or not 0 <= start <= end <= len(body):
                raise BundleError(f"tensor {name} of {where} is no float32 inside the file; export it anew")
            arrays[name] = np.frombuffer(body[start:end], "<f4").reshape(tensor.shape)
        layers = [(arrays[f"layer{i}.weight"], arrays[f"layer{i}.bias"]) for i in range(len(arrays) // 2)]
        if any((w.ndim, b.ndim) != (2, 1) for w, b in layers):
            raise BundleError(f"weights of {where} are no matrices with a bias each; export it anew")
        chained = all(a[0].shape[0] == b[0].shape[1] for a, b in itertools.pairwise(layers))
        if not layers or not chained or any(w.shape[0] != b.shape[0] for w, b in layers):
            raise BundleError(f"weights of {where} do not fit each other; export it anew")
    except (struct.error, msgspec.DecodeError, KeyError, ValueError, IndexError) as error:
        raise BundleError(f"weights of {where} cannot be read ({error}); export it anew") from error
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise BundleError(f"weights of {where} hold values that are not finite; train it anew")
    return Mlp(layers, activation)

"""A policy as an ONNX graph: one Gemm a layer and the activation between, float32, `observation` (n, features) to `logits` (n, plans).

Written here, byte by byte, because a device has numpy only and must be able to tell a bundle's graph from any other: a graph is a
program, and only the one that follows from the weights is run. Tests hold it to what the onnx library writes and checks.

Protocol buffers: a field is its number and kind in one varint, then a varint or a length and so many bytes. The numbers are those of
onnx.proto; fields stand in their order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from cutlayer.runtime.policy import Mlp

# Old enough for every ONNX Runtime that cutlayer takes (1.20 reads opsets up to 22): Gemm, Tanh and Relu have not changed since.
OPSET, IR_VERSION = 13, 8
FLOAT, INT = 1, 2  # TensorProto.FLOAT, AttributeProto.INT


def graph(policy: Mlp) -> bytes:
    """The model file."""
    nodes, weights, source = [], [], "observation"
    last = len(policy.layers) - 1
    for i, (weight, bias) in enumerate(policy.layers):
        names = f"layer{i}.weight", f"layer{i}.bias"
        weights += [_tensor(name, array) for name, array in zip(names, (weight, bias), strict=True)]
        sums = "logits" if i == last else f"sums{i}"
        transposed = _text(1, "transB") + _number(3, 1) + _number(20, INT)
        nodes.append(_node("Gemm", (source, *names), sums, transposed))
        if i < last:
            source = f"hidden{i}"
            nodes.append(_node("Tanh" if policy.activation == "tanh" else "Relu", (sums,), source))
    body = b"".join(_bytes(1, node) for node in nodes) + _text(2, "policy") + b"".join(_bytes(5, weight) for weight in weights)
    body += _bytes(11, _value("observation", policy.inputs)) + _bytes(12, _value("logits", policy.outputs))
    opset = _text(1, "") + _number(2, OPSET)
    return _number(1, IR_VERSION) + _text(2, "cutlayer") + _bytes(7, body) + _bytes(8, opset)


def _node(kind: str, sources: tuple[str, ...], target: str, attribute: bytes = b"") -> bytes:
    told = b"".join(_text(1, source) for source in sources) + _text(2, target) + _text(4, kind)
    return told + (_bytes(5, attribute) if attribute else b"")


def _tensor(name: str, array: NDArray[np.float32]) -> bytes:
    return (
        b"".join(_number(1, size) for size in array.shape) + _number(2, FLOAT) + _text(8, name) + _bytes(9, array.astype("<f4").tobytes())
    )


def _value(name: str, size: int) -> bytes:
    shape = _bytes(1, _text(2, "n")) + _bytes(1, _number(1, size))
    return _text(1, name) + _bytes(2, _bytes(1, _number(1, FLOAT) + _bytes(2, shape)))


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _text(field: int, value: str) -> bytes:
    return _bytes(field, value.encode())


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; the top bit tells that more follow."""
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)

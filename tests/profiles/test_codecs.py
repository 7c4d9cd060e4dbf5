"""Quantisation: at most half a step off, packed into exactly the bytes that the cost model counts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cutlayer.errors import PeerError
from cutlayer.profiles import codecs
from cutlayer.runtime.split import protocol

LOSSY = (2, 4, 8, 16)
LARGEST = 1e30  # of a value that a frame may carry (runtime.split.protocol)

shapes = hnp.array_shapes(min_dims=1, max_dims=3, max_side=7)


def tensors(least, most, smallest=1e-30):
    """Values from least to most; those nearer to zero than `smallest` are zero."""
    values = st.floats(np.float32(least).item(), np.float32(most).item(), width=32)
    return hnp.arrays(np.float32, shapes, elements=values.map(lambda value: value if abs(value) >= smallest else 0.0))


def round_trip(x, bits):
    sent = codecs.encode(x, bits)
    assert len(sent.data) == codecs.payload_bytes(x.size, bits)
    assert sent.bits == bits
    got = codecs.decode(sent.data, sent.bits, sent.lo, sent.scale, x.shape)
    assert (got.dtype, got.shape) == (np.float32, x.shape)
    return got, sent


def assert_within_half_a_step(x, bits):
    got, sent = round_trip(x, bits)
    size = np.abs(x).max()
    # The numbers are float32: the levels' arithmetic rounds to half a part in 2**24 of the range, the sum of lo to one of the value.
    rounding = 2**-22 * float(size) + 2**-22 * sent.scale * (1 << bits)
    assert np.abs(got.astype(np.float64) - x).max() <= 0.5 * sent.scale + rounding
    # And the step is the range over the number of levels: half of it is no excuse.
    span = float(x.max()) - float(x.min())
    assert sent.scale <= span / ((1 << bits) - 1) * (1 + 1e-6) or span == 0.0 or sent.scale == 1.0


@pytest.mark.parametrize("bits", LOSSY)
@given(x=tensors(-100, 100))
@example(x=np.array([-1.0], np.float32))
@example(x=np.array([-1.0, 1.0, 0.25], np.float32))
def test_the_error_is_at_most_half_a_step(bits, x):
    assert_within_half_a_step(x, bits)


@pytest.mark.parametrize("bits", LOSSY)
@given(x=tensors(-LARGEST, LARGEST))
def test_huge_values_are_quantised_as_well(bits, x):
    assert_within_half_a_step(x, bits)


@pytest.mark.parametrize("bits", LOSSY)
@given(x=tensors(-1e-20, 1e-20))
def test_small_values_are_quantised_as_well(bits, x):
    assert_within_half_a_step(x, bits)


@pytest.mark.parametrize("bits", LOSSY)
@pytest.mark.parametrize("top", [1e-36, 1e-38, 1e-39, 3e-45])
def test_a_range_too_small_for_float32_is_a_constant(bits, top):
    """A step under 2.9e-39 has an inverse that float32 cannot hold."""
    x = np.array([0.0, top, top / 2], np.float32)
    got, sent = round_trip(x, bits)
    assert np.abs(got.astype(np.float64) - x).max() <= 0.5 * sent.scale * (1 + 1e-3)
    assert np.abs(got).max() <= top * (1 + 1e-6)


@pytest.mark.parametrize("bits", codecs.BITS)
@pytest.mark.parametrize("value", [0.0, -3.75, 1e30, -1e-30])
@pytest.mark.parametrize("elements", [1, 3, 8, 13])
def test_a_constant_tensor_comes_back_exactly(bits, value, elements):
    x = np.full(elements, value, np.float32)
    got, _ = round_trip(x, bits)
    np.testing.assert_array_equal(got, x)


@pytest.mark.parametrize("bits", LOSSY)
def test_every_level_survives_at_every_place_of_a_byte(bits):
    levels = np.arange(1 << bits, dtype=np.float32)
    for rotated in range(9):
        x = np.roll(levels, rotated)[: len(levels) - 1 + rotated % 2]
        x = np.concatenate([x, [0, len(levels) - 1]]).astype(np.float32)
        got, sent = round_trip(x, bits)
        assert (sent.lo, sent.scale) == (0.0, 1.0)
        np.testing.assert_array_equal(got, x)


@given(x=hnp.arrays(np.float32, shapes, elements=st.floats(width=32, allow_nan=False)))
def test_32_bits_are_exact(x):
    got, sent = round_trip(x, 32)
    assert sent.data == x.tobytes()
    np.testing.assert_array_equal(got, x)


@given(pixels=hnp.arrays(np.uint8, shapes))
def test_the_raw_input_is_exact(pixels):
    sent = codecs.encode_raw(pixels)
    assert sent.data == pixels.tobytes()
    assert len(sent.data) == codecs.payload_bytes(pixels.size, codecs.RAW_BITS)
    np.testing.assert_array_equal(codecs.decode(sent.data, sent.bits, sent.lo, sent.scale, pixels.shape), pixels)


def test_a_view_is_coded_as_its_copy(rng):
    image = rng.normal(size=(6, 5, 3)).astype(np.float32)
    view = image.transpose(2, 0, 1)[:, ::2]
    for bits in codecs.BITS:
        assert codecs.encode(view, bits) == codecs.encode(view.copy(), bits)
    pixels = rng.integers(0, 256, (6, 5, 3), dtype=np.uint8).transpose(2, 0, 1)
    assert codecs.encode_raw(pixels) == codecs.encode_raw(pixels.copy())


def test_what_is_decoded_may_be_written_to_and_leaves_the_frame_alone():
    for bits in codecs.BITS:
        sent = codecs.encode(np.array([1.0, 2.0, 3.0], np.float32), bits)
        frame = bytearray(sent.data)
        codecs.decode(memoryview(frame), bits, sent.lo, sent.scale, (3,))[:] = 9.0
        assert bytes(frame) == sent.data


@pytest.mark.parametrize(
    ("elements", "bits", "size"),
    [(1, 2, 1), (4, 2, 1), (5, 2, 2), (1, 4, 1), (3, 4, 2), (3, 8, 3), (3, 16, 6), (3, 32, 12), (0, 8, 0), (65_536, 2, 16_384)],
)
def test_payload_known_answers(elements, bits, size):
    assert codecs.payload_bytes(elements, bits) == size


@pytest.mark.parametrize("bits", codecs.BITS)
@pytest.mark.parametrize("change", [-1, 1, 100])
def test_a_payload_of_another_length_is_refused(bits, change):
    sent = codecs.encode(np.arange(9, dtype=np.float32), bits)
    data = sent.data[:change] if change < 0 else sent.data + bytes(change)
    with pytest.raises(PeerError, match=rf"{len(data)} bytes at {bits} bits .*\(9,\)"):
        codecs.decode(data, bits, sent.lo, sent.scale, (9,))


@pytest.mark.parametrize("bits", [-8, 0, 1, 3, 5, 12, 64])
def test_a_bit_width_that_does_not_exist_is_refused(bits):
    with pytest.raises(PeerError, match=f"{bits} bits"):
        codecs.decode(bytes(max(0, codecs.payload_bytes(8, bits))), bits, 0.0, 1.0, (8,))


def test_the_header_of_the_cost_model_is_the_header_on_the_wire():
    request = protocol.Request(1, bytes(protocol.MODEL_BYTES), 0, 0)
    reply = protocol.Reply(1, protocol.Status.OK, 0, 0)
    assert len(protocol.pack_request(request)) == len(protocol.pack_reply(reply)) == codecs.HEADER_BYTES

"""Quantisation: at most half a step off, packed into exactly the bytes that the cost model counts; zstd changes no value."""

from __future__ import annotations

import sys
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import zstandard
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cutlayer.errors import ConfigError, PeerError
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


@given(x=hnp.arrays(np.float32, shapes, elements=st.floats(width=32, allow_nan=False, allow_infinity=False)))
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


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_floats_that_are_no_finite_numbers_are_refused(value):
    """At 32 bits a payload is the floats themselves: only there can a peer send what no device computes."""
    x = np.zeros((2, 3), np.float32)
    assert (codecs.decode(x.tobytes(), 32, 0.0, 1.0, x.shape) == x).all()
    x[1, 2] = value
    with pytest.raises(PeerError, match="24 bytes holds values that are no finite numbers"):
        codecs.decode(x.tobytes(), 32, 0.0, 1.0, x.shape)


def test_the_header_of_the_cost_model_is_the_header_on_the_wire():
    request = protocol.Request(1, bytes(protocol.MODEL_BYTES), 0, 0)
    reply = protocol.Reply(1, protocol.Status.OK, 0, 0)
    assert len(protocol.pack_request(request)) == len(protocol.pack_reply(reply)) == codecs.HEADER_BYTES


# --- the codecs as plans name them


@pytest.fixture(scope="module")
def zstd():
    return codecs.Zstd()


def test_every_codec_serves_the_cuts_and_leaves_the_input_alone(zstd):
    for codec in (codecs.Affine(), zstd):
        assert codec.widths(0) == ()
        for cut in (1, 7):
            assert list(codec.widths(cut)) == sorted(set(codec.widths(cut)) & set(codecs.BITS))
    assert set(zstd.widths(1)) >= {2, 4, 8}


@given(x=tensors(-100, 100))
def test_affine_sends_what_the_functions_make_in_the_bytes_that_the_shape_says(x):
    codec = codecs.Affine()
    for bits in codec.widths(1):
        sent = codec.encode(x, 1, bits)
        assert sent == codecs.encode(x, bits)
        assert len(sent.data) == codecs.payload_bytes(x.size, bits)
        np.testing.assert_array_equal(codec.decode(sent, 1, x.shape), codecs.decode(sent.data, bits, sent.lo, sent.scale, x.shape))


@given(x=tensors(-100, 100))
@example(x=np.zeros((64, 32, 33), np.float32))
@example(x=np.random.default_rng(1).normal(size=(64, 32, 33)).astype(np.float32))
@example(x=np.random.default_rng(1).normal(size=1_100_000).astype(np.float32))  # longer than the level's window of 2**19 bytes
def test_zstd_decodes_to_what_affine_decodes_to_bit_for_bit(zstd, x):
    for bits in zstd.widths(1):
        sent, plain = zstd.encode(x, 1, bits), codecs.encode(x, bits)
        assert (sent.bits, sent.lo, sent.scale) == (plain.bits, plain.lo, plain.scale)
        for data in (sent.data, memoryview(sent.data)):
            got = zstd.decode(codecs.Encoded(data, sent.bits, sent.lo, sent.scale), 1, x.shape)
            assert got.tobytes() == codecs.decode(plain.data, bits, plain.lo, plain.scale, x.shape).tobytes()
            assert (got.dtype, got.shape) == (np.float32, x.shape)


def test_zstd_sends_a_standard_frame_of_the_packed_bytes(zstd, rng):
    x = np.maximum(rng.normal(size=(16, 8, 8)), 0).astype(np.float32)
    for bits in codecs.ZSTD_BITS:
        sent = zstd.encode(x, 1, bits)
        plain = zstandard.ZstdDecompressor().decompressobj().decompress(sent.data)
        assert plain == codecs.encode(x, bits).data


def test_zstd_needs_fewer_bytes_where_half_of_the_values_are_zero(zstd, rng):
    x = np.maximum(rng.normal(size=(64, 16, 16)), 0).astype(np.float32)
    for bits in codecs.ZSTD_BITS:
        assert len(zstd.encode(x, 1, bits).data) < 0.8 * codecs.payload_bytes(x.size, bits)


def frame(size: bytes, blocks: bytes, descriptor: int = 0x20, window: bytes = b"") -> bytes:
    """A Zstandard frame by the letter of RFC 8878, section 3.1.1: magic, descriptor, window, content size, blocks.

    The descriptor 0x20 says: one segment, content size in one byte, no checksum, no dictionary.
    """
    return bytes.fromhex("28b52ffd") + bytes([descriptor]) + window + size + blocks


def block(kind: int, size: int, body: bytes) -> bytes:
    """The last block of a frame: 0 raw, 1 one byte repeated."""
    return (1 | kind << 1 | size << 3).to_bytes(3, "little") + body


def test_zstd_reads_frames_of_any_writer(zstd):
    """Known answers, written by hand from the RFC: a raw block, and one byte repeated."""
    for body, values in ((block(0, 4, bytes([0, 1, 2, 255])), [0, 1, 2, 255]), (block(1, 4, b"\7"), [7, 7, 7, 7])):
        got = zstd.decode(codecs.Encoded(frame(b"\4", body), 8, 1.0, 0.5), 1, (2, 2))
        np.testing.assert_array_equal(got, 1.0 + 0.5 * np.reshape(values, (2, 2)))


@pytest.fixture(scope="module")
def payload(zstd):
    """A payload of 200 values, and how to read bytes in its place."""
    x = np.maximum(np.random.default_rng(5).normal(size=200), 0).astype(np.float32)
    sent = zstd.encode(x, 1, 4)
    return sent.data, lambda data, shape=(200,): zstd.decode(codecs.Encoded(data, 4, sent.lo, sent.scale), 1, shape)


def assert_refused(read, data, *more):
    with pytest.raises(PeerError, match=r"^payload of \d+ bytes is no zstd frame of the \d+ bytes that a tensor of shape ") as caught:
        read(data, *more)
    assert "\n" not in str(caught.value)


def test_a_zstd_payload_that_is_cut_short_is_refused(payload):
    data, read = payload
    for length in range(len(data)):
        assert_refused(read, data[:length])


def test_a_zstd_payload_with_more_behind_it_is_refused(payload):
    data, read = payload
    for more in (b"\0", data, bytes(100)):
        assert_refused(read, data + more)


def test_a_damaged_zstd_payload_is_refused_or_harmless(payload):
    """A few bits mean nothing to a reader, as one of the frame's header; every other one is noticed."""
    data, read = payload
    exact, harmless = read(data).tobytes(), 0
    for bit in range(8 * len(data)):
        broken = bytearray(data)
        broken[bit // 8] ^= 1 << bit % 8
        try:
            assert read(bytes(broken)).tobytes() == exact
            harmless += 1
        except PeerError as error:
            assert "\n" not in str(error)  # noqa: PT017 - either outcome is right
    assert harmless < 0.01 * 8 * len(data)


@given(data=st.binary(max_size=60))
def test_any_bytes_are_refused_as_zstd(payload, data):
    _, read = payload
    assert_refused(read, data)
    assert_refused(read, bytes.fromhex("28b52ffd") + data)


def test_a_zstd_payload_of_another_shape_or_width_is_refused(zstd, payload):
    data, read = payload
    for shape in ((198,), (201,), (2, 200), (0,)):
        assert_refused(read, data, shape)
    for bits in (0, 1, 8, 16, 32):
        with pytest.raises(PeerError, match=rf"at {bits} bits"):
            zstd.decode(codecs.Encoded(data, bits, 0.0, 1.0), 1, (200,))
    with pytest.raises(PeerError, match="at cut 0"):
        zstd.decode(codecs.Encoded(data, 4, 0.0, 1.0), 0, (200,))


HUGE = (1 << 40).to_bytes(8, "little")  # a terabyte
BOMBS = {
    "announces a terabyte": frame(HUGE, block(1, 1 << 17, b"\0"), 0xE0),
    "does not say how much": frame(b"", block(1, 1 << 17, b"\0"), 0x00, window=b"\x38"),
    "wants a window of a gigabyte": frame((100).to_bytes(4, "little"), block(1, 100, b"\0"), 0x80, window=b"\xa0"),
    "makes more than it announces": frame(b"\x64", block(1, 1 << 17, b"\0")),
    "makes less than it announces": frame(b"\x64", block(1, 99, b"\0")),
    "is to be skipped": bytes.fromhex("502a4d18") + (100).to_bytes(4, "little") + bytes(100),
    "wants a dictionary": frame(b"\x07\x64", block(1, 100, b"\0"), 0x21),
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
def test_a_zstd_payload_never_makes_more_than_the_tensor_needs(payload, bomb):
    _, read = payload
    np.testing.assert_array_equal(read(frame(b"\x64", block(1, 100, b"\0"))), read(frame(b"\x64", block(0, 100, bytes(100)))))
    tracemalloc.start()
    try:
        assert_refused(read, bomb)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_zstd_serves_threads_side_by_side(zstd, rng):
    given_ = [np.maximum(rng.normal(size=(16, 16, 16)), 0).astype(np.float32) for _ in range(40)]
    alone = [zstd.encode(x, 1, 4) for x in given_]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda x: zstd.encode(x, 1, 4), given_)) == alone
        for x, got in zip(given_, pool.map(lambda sent: zstd.decode(sent, 1, (16, 16, 16)), alone), strict=True):
            assert got.tobytes() == codecs.Affine().decode(codecs.encode(x, 4), 1, x.shape).tobytes()


def test_without_the_library_zstd_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(ConfigError, match=r'zstandard, which is not installed; pip install "cutlayer\[zstd\]"'):
        codecs.Zstd()


def test_the_codecs_of_a_network_by_name(network):
    everything = [codec.name for codec in codecs.serving(network)]
    assert everything[:2] == ["affine", "zstd"]
    assert [codec.name for codec in codecs.serving(network, ["zstd"])] == ["zstd"]
    assert [codec.name for codec in codecs.serving(network, ["zstd", "affine"])] == ["affine", "zstd"]
    with pytest.raises(ConfigError, match=r"no codec 'ztsd' for alexnet; did you mean 'zstd'\? there are: affine, zstd"):
        codecs.serving(network, ["affine", "ztsd"])

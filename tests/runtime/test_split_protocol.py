"""Frames: golden bytes, what is refused, and that no bytes whatever raise anything but PeerError."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import struct
import subprocess
import sys
import zlib

import msgspec
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cutlayer.errors import PeerError
from cutlayer.profiles import codecs
from cutlayer.runtime.split import protocol
from cutlayer.runtime.split.protocol import Inbox, Kind, RefusedError, Reply, Request, Shapes, Status

FRAMES = int(os.environ.get("CUTLAYER_FRAMES", "100"))  # cases of each fuzz test; `make bench` asks for 40,000
SHAPES = Shapes(b"8 bytes!", (1, 3), ((3, 8, 8), (4, 4, 4), (5, 3), (7,)), 10)
SINGLE = st.floats(0, 1e6, width=32)
U32 = st.integers(0, 2**32 - 1)
U8 = st.integers(0, 255)

REQUEST = Request(7, bytes(range(8)), 1000, 0xDEADBEEF, Kind.INFER, exit=2, partition=1, bits=4, lo=-0.5, scale=0.25, deadline_s=0.125)
REQUEST_BYTES = bytes.fromhex(
    "4355544c 01 01 02 01 04 00 0000 07000000 0001020304050607 000000bf 0000803e 0000003e e8030000 efbeadde 4f4879a4"
)
REPLY = Reply(7, Status.OK, 40, 0xCAFEF00D, 2, 3, 0.5, 0.0625, 0.25, 952, 0.75)
REPLY_BYTES = bytes.fromhex(
    "4355544c 01 02 02 00 0300 0000 07000000 0000003f 0000803d 0000803e b8030000 0000403f 28000000 0df0feca d6795350"
)

requests = st.builds(
    Request, U32, st.binary(min_size=8, max_size=8), U32, U32, st.sampled_from([Kind.INFER, Kind.PROBE]),
    U8, U8, U8, st.floats(-1e6, 1e6, width=32), st.floats(2**-20, 1e6, width=32), SINGLE,
)  # fmt: skip
replies = st.builds(Reply, U32, st.sampled_from(Status), U32, U32, U8, st.integers(0, 65535), SINGLE, SINGLE, SINGLE, U32, SINGLE)


def seal(body):
    return bytes(body) + struct.pack("<I", zlib.crc32(bytes(body)))


def test_a_header_is_as_long_as_the_cost_model_says():
    assert len(protocol.pack_request(REQUEST)) == len(protocol.pack_reply(REPLY)) == codecs.HEADER_BYTES == 48


def test_golden_bytes():
    """If these change, VERSION must."""
    assert protocol.pack_request(REQUEST).hex() == REQUEST_BYTES.hex()
    assert protocol.pack_reply(REPLY).hex() == REPLY_BYTES.hex()
    assert protocol.parse_request(REQUEST_BYTES) == REQUEST
    assert protocol.parse_reply(REPLY_BYTES) == REPLY


@given(requests)
def test_requests_survive_the_way(request_):
    assert protocol.parse_request(protocol.pack_request(request_)) == request_


@given(replies)
def test_replies_survive_the_way(reply):
    assert protocol.parse_reply(memoryview(protocol.pack_reply(reply))) == reply


@given(
    st.one_of(
        st.binary(max_size=100), st.binary(min_size=48, max_size=48), st.binary(min_size=43, max_size=43).map(lambda b: b"CUTL\x01" + b)
    )
)
@settings(max_examples=FRAMES)
def test_any_bytes_raise_the_documented_error_or_nothing(data):
    for parse in (protocol.parse_request, protocol.parse_reply):
        try:
            parse(data)
        except PeerError:
            pass
        else:
            pytest.fail("random bytes with a checksum that fits: as good as impossible")


@given(st.binary(min_size=39, max_size=39))
@example(bytes(39))
@example(b"\xff" * 39)
@settings(max_examples=FRAMES)
def test_any_fields_under_a_fitting_checksum_raise_the_documented_error_or_give_sane_numbers(fields):
    header = seal(b"CUTL\x01" + fields)
    try:
        got = protocol.parse_request(header)
    except PeerError:
        pass
    else:
        assert math.isfinite(got.lo + got.scale * 65535)
        assert got.deadline_s >= 0
        assert isinstance(protocol.judge(got, SHAPES), Status)
    try:
        reply = protocol.parse_reply(header)
    except PeerError:
        pass
    else:
        assert reply.queue_s >= 0
        with contextlib.suppress(PeerError):
            protocol.expect(reply, REQUEST, SHAPES)


def taken(data):
    """What an edge makes of bytes, up to the tensor: a status, or None where more bytes are waited for."""
    inbox = Inbox(SHAPES.largest_frame)
    inbox.space()[: len(data)] = data
    inbox.took(len(data), 0.0)
    if not inbox.has(48):
        return None
    request = protocol.parse_request(inbox.front(48))
    status = protocol.judge(request, SHAPES)
    if status in protocol.FATAL or not inbox.has(48 + request.length):
        return None if status == Status.OK else status
    payload = inbox.front(48 + request.length)[48:]
    if protocol.checksum(payload) != request.crc:
        return Status.BAD_CHECKSUM
    if request.kind == Kind.INFER:
        x = codecs.decode(payload, request.bits, request.lo, request.scale, SHAPES.cuts[request.partition])
        assert x.shape == SHAPES.cuts[request.partition]
        assert np.isfinite(x).all()
    return Status.OK


@st.composite
def spoilt_frames(draw):
    """A frame that is right or nearly so: some field another one, sealed anew or not, some byte flipped, cut off or longer."""
    partition = draw(st.integers(0, 3))
    exit_, bits = draw(st.integers(0, 1)), 8 if partition == 0 else draw(st.sampled_from(codecs.BITS))
    payload = draw(st.binary(min_size=1, max_size=1)) * SHAPES.payload_bytes(partition, bits)
    right = Request(1, SHAPES.model, len(payload), zlib.crc32(payload), exit=exit_, partition=partition, bits=bits)
    header = bytearray(protocol.pack_request(right)[:44])
    for at, value in draw(st.lists(st.tuples(st.integers(0, 43), U8), max_size=2)):
        header[at] = value
    frame = bytearray(seal(header) + payload)
    for at, bit in draw(st.lists(st.tuples(st.integers(0, len(frame) - 1), st.integers(0, 7)), max_size=1)):
        frame[at] ^= 1 << bit
    return bytes(frame[: draw(st.one_of(st.just(len(frame)), st.integers(0, len(frame))))] + draw(st.binary(max_size=8)))


@given(spoilt_frames())
@settings(max_examples=FRAMES)
def test_a_spoilt_frame_raises_the_documented_error_or_is_judged(frame):
    with contextlib.suppress(PeerError):
        assert taken(frame) in (None, *Status)


def test_the_spoilt_frames_reach_every_judgement():
    """Without this the fuzz test could hold of nothing: what an edge finds in frames that are right but for one thing."""
    payload = bytes(SHAPES.payload_bytes(1, 8))
    right = Request(1, SHAPES.model, len(payload), zlib.crc32(payload), partition=1)
    for changes, status in (
        ({}, Status.OK), ({"crc": 1}, Status.BAD_CHECKSUM), ({"model": b"another!"}, Status.WRONG_MODEL), ({"exit": 9}, Status.BAD_PLAN),
        ({"length": 3}, Status.BAD_LENGTH),
    ):  # fmt: skip
        assert taken(protocol.pack_request(msgspec.structs.replace(right, **changes)) + payload) == status
    assert taken(protocol.pack_request(right) + payload[:-1]) is None


@given(st.integers(0, 48 * 8 - 1))
def test_one_flipped_bit_is_found(bit):
    for parse, golden in ((protocol.parse_request, REQUEST_BYTES), (protocol.parse_reply, REPLY_BYTES)):
        damaged = bytearray(golden)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(PeerError):
            parse(damaged)


@pytest.mark.parametrize(
    ("at", "byte", "message"),
    [
        (0, 0x63, "does not speak this protocol"),
        (4, 2, "version 2, this side speaks version 1"),
        (5, 9, "kind 9"),
        (5, 2, "kind 2"),
        (9, 1, "update"),
    ],
)
def test_what_a_request_is_refused_for(at, byte, message):
    body = bytearray(REQUEST_BYTES[:44])
    body[at] = byte
    with pytest.raises(PeerError, match=message):
        protocol.parse_request(seal(body))


@pytest.mark.parametrize(
    ("field", "value"),
    [("lo", math.nan), ("lo", math.inf), ("scale", 0.0), ("scale", 1e35), ("deadline_s", -1.0), ("deadline_s", math.nan)],
)
def test_numbers_that_no_device_sends_are_refused(field, value):
    fields = {name: getattr(REQUEST, name) for name in Request.__struct_fields__} | {field: value}
    with pytest.raises(PeerError):
        protocol.parse_request(protocol.pack_request(Request(**fields)))


def asked(**changes):
    fields = {"sequence": 1, "model": SHAPES.model, "length": 64, "crc": 0, "exit": 1, "partition": 1, "bits": 8} | changes
    return Request(**fields)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (asked(), Status.OK),
        (asked(model=b"other..."), Status.WRONG_MODEL),
        (asked(exit=2), Status.BAD_PLAN),
        (asked(exit=0, partition=2), Status.BAD_PLAN),
        (asked(partition=4), Status.BAD_PLAN),
        (asked(bits=3), Status.BAD_PLAN),
        (asked(bits=0, length=0), Status.BAD_PLAN),
        (asked(partition=0, bits=8, length=192), Status.OK),
        (asked(partition=0, bits=32, length=768), Status.BAD_PLAN),
        (asked(length=65), Status.BAD_LENGTH),
        (asked(length=2**32 - 1), Status.BAD_LENGTH),
        (asked(partition=2, bits=2, length=4), Status.OK),  # 15 values of 2 bits
        (asked(kind=Kind.PROBE, length=65536), Status.OK),
        (asked(kind=Kind.PROBE, length=65537), Status.BAD_LENGTH),
    ],
)
def test_a_request_is_judged_by_its_header(request_, status):
    assert protocol.judge(request_, SHAPES) == status


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (Reply(2, Status.OK, 40, exit=1), "out of step"),
        (Reply(1, Status.OK, 44, exit=1), "reply of 44 bytes, 40 were expected"),
        (Reply(1, Status.OK, 40, exit=0), "asked was exit 1"),
        (Reply(1, Status.BUSY, 40), "reply of 40 bytes, 0"),
        (Reply(1, Status.BUSY), "refused: busy"),
        (Reply(0, Status.BAD_FRAME), "refused: bad frame"),
    ],
)
def test_a_reply_that_does_not_answer_is_refused(reply, error):
    with pytest.raises(PeerError, match=error):
        protocol.expect(reply, asked(), SHAPES)


def test_a_refusal_can_be_made_again_from_its_arguments():
    refused = RefusedError(Status.LATE)
    assert str(type(refused)(*refused.args)) == "refused: late"


def test_lengths_and_numbers_agree_with_the_codec():
    rng = np.random.default_rng(0)
    for partition, bits in itertools.product(range(1, 4), codecs.BITS):
        shape = SHAPES.cuts[partition]
        x = rng.normal(size=shape).astype(np.float32)
        coded = codecs.encode(x, bits)
        assert len(coded.data) == SHAPES.payload_bytes(partition, bits)
        assert codecs.HEADER_BYTES + len(coded.data) <= SHAPES.largest_frame
        # What undoes the quantisation travels in single precision, without loss.
        there = protocol.parse_request(protocol.pack_request(asked(bits=bits, lo=coded.lo, scale=coded.scale)))
        here = codecs.decode(coded.data, bits, coded.lo, coded.scale, shape)
        np.testing.assert_array_equal(codecs.decode(coded.data, bits, there.lo, there.scale, shape), here)


def test_an_inbox_fed_byte_by_byte_gives_the_frames_and_their_spread():
    stream = REPLY_BYTES + b"payload" + REQUEST_BYTES
    inbox = Inbox(60)
    for instant, byte in enumerate(stream[:55]):
        inbox.space()[0] = byte
        inbox.took(1, float(instant))
    assert not inbox.has(56)
    assert bytes(inbox.front(55)) == stream[:55]
    assert (inbox.first_bytes, inbox.first_s, inbox.last_s) == (1, 0.0, 54.0)
    inbox.drop(55)
    assert len(inbox) == 0
    inbox.space()[:48] = stream[55:]
    inbox.took(48, 60.0)
    assert (inbox.first_bytes, inbox.first_s, inbox.last_s) == (48, 60.0, 60.0)


def test_an_inbox_keeps_what_came_behind_a_frame_and_never_grows():
    inbox = Inbox(10)
    inbox.space()[:10] = b"0123456789"
    inbox.took(10, 1.0)
    assert len(inbox.space()) == 0
    inbox.drop(4)
    assert bytes(inbox.front(6)) == b"456789"
    assert (inbox.first_bytes, inbox.first_s) == (6, 1.0)
    assert len(inbox.space()) == 4


def test_the_checksum_is_zlibs_with_and_without_the_faster_one():
    rng = np.random.default_rng(1)
    for length in (0, 1, 44, 1000, 100_001):
        data = rng.bytes(length)
        assert protocol.checksum(data) == protocol.checksum(memoryview(data)) == zlib.crc32(data)
    code = "import sys; sys.modules['isal'] = None; from cutlayer.runtime.split import protocol; print(protocol.checksum(b'123456789'))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert int(done.stdout) == protocol.checksum(b"123456789") == 0xCBF43926  # CRC-32/ISO-HDLC's check value


def test_protocol_and_device_load_neither_torch_nor_the_runtime():
    code = "import sys, cutlayer.runtime.split.protocol; a = {'torch', 'onnxruntime', 'onnx'} & set(sys.modules); "
    code += (
        "import cutlayer.runtime.split.device, cutlayer.runtime.split.edge; print(a | {'torch', 'onnxruntime', 'onnx'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "set()\n"

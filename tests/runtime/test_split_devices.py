"""The edge server and devices that are wrong, mad, late or gone: each gets an error or is hung up on, and nobody else notices."""

from __future__ import annotations

import contextlib
import math
import socket
import threading
import zlib

import numpy as np
import pytest

from cutlayer.profiles import codecs
from cutlayer.runtime.split import protocol
from cutlayer.runtime.split.address import connect
from cutlayer.runtime.split.edge import EdgeServer
from cutlayer.runtime.split.protocol import Kind, Request, Shapes, Status

DEADLINE_S = 5.0  # far from what an inference takes, also on a busy machine


def chw(image):
    return np.ascontiguousarray(image.transpose(2, 0, 1)).astype(np.float32)


# --- a device that is wrong, mad or gone


def framed(shapes, payload, **changes):
    fields = {
        "sequence": 9,
        "model": shapes.model,
        "length": len(payload),
        "crc": zlib.crc32(payload),
        "exit": 0,
        "partition": 1,
        "bits": 8,
    }
    return protocol.pack_request(Request(**(fields | changes))) + payload


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"model": b"other..."}, Status.WRONG_MODEL),
        ({"exit": 5}, Status.BAD_PLAN),
        ({"partition": 2}, Status.BAD_PLAN),
        ({"bits": 7}, Status.BAD_PLAN),
        ({"length": 2**32 - 1}, Status.BAD_LENGTH),
        ({"length": 0}, Status.BAD_LENGTH),
        ({"lo": math.inf}, Status.BAD_FRAME),
    ],
)
def test_what_must_not_be_taken_in_is_refused_and_hung_up_on(opened, edge, changes, status):
    with connect(edge.address, DEADLINE_S) as peer:
        peer.sendall(framed(opened.shapes, bytes(16384), **changes))
        reply = protocol.parse_reply(peer.recv(48, socket.MSG_WAITALL))
        assert reply.status == status
        assert peer.recv(1) == b""


def test_bytes_of_another_protocol_are_refused(edge):
    with connect(edge.address, DEADLINE_S) as peer:
        peer.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n")
        assert protocol.parse_reply(peer.recv(48, socket.MSG_WAITALL)).status == Status.BAD_FRAME
        assert peer.recv(1) == b""


def test_a_damaged_payload_is_refused_and_the_connection_goes_on(opened, edge, image):
    payload = codecs.encode(opened.prefix(1, chw(image)), 32).data
    good = framed(opened.shapes, payload, bits=32)
    damaged = bytearray(framed(opened.shapes, payload, bits=32, sequence=8))
    damaged[1000] ^= 1
    with connect(edge.address, DEADLINE_S) as peer:
        peer.sendall(damaged)
        assert protocol.parse_reply(peer.recv(48, socket.MSG_WAITALL)).status == Status.BAD_CHECKSUM
        peer.sendall(good[:1000])
        peer.sendall(good[1000:])
        reply = protocol.parse_reply(peer.recv(48, socket.MSG_WAITALL))
        assert (reply.status, reply.sequence) == (Status.OK, 9)
        np.testing.assert_array_equal(np.frombuffer(peer.recv(40, socket.MSG_WAITALL), np.float32), opened.suffix(0, 0, chw(image)))


@pytest.mark.parametrize("sequence", [9, 8, 9 - 2**31 & 0xFFFFFFFF])
def test_a_frame_that_comes_again_or_out_of_order_is_refused_and_hung_up_on(opened, edge, sequence):
    with connect(edge.address, DEADLINE_S) as peer:
        peer.sendall(framed(opened.shapes, b"", kind=Kind.PROBE))
        assert protocol.parse_reply(peer.recv(48, socket.MSG_WAITALL)).status == Status.OK
        peer.sendall(framed(opened.shapes, b"", kind=Kind.PROBE, sequence=sequence))
        assert protocol.parse_reply(peer.recv(48, socket.MSG_WAITALL)).status == Status.BAD_FRAME
        assert peer.recv(1) == b""


def test_sequence_numbers_go_round(opened, edge):
    with connect(edge.address, DEADLINE_S) as peer:
        for sequence in (2**32 - 1, 0, 1):
            peer.sendall(framed(opened.shapes, b"", kind=Kind.PROBE, sequence=sequence))
            assert protocol.parse_reply(peer.recv(48, socket.MSG_WAITALL)).status == Status.OK


def test_two_frames_at_once_are_answered_in_order(opened, edge):
    frames = framed(opened.shapes, bytes(16384), sequence=1) + framed(opened.shapes, bytes(500), sequence=2, kind=Kind.PROBE)
    with connect(edge.address, DEADLINE_S) as peer:
        peer.sendall(frames)
        first = protocol.parse_reply(peer.recv(88, socket.MSG_WAITALL)[:48])
        second = protocol.parse_reply(peer.recv(48, socket.MSG_WAITALL))
    assert [(reply.sequence, reply.status) for reply in (first, second)] == [(1, Status.OK), (2, Status.OK)]


class Slow:
    """Graphs whose computing waits to be let go."""

    def __init__(self):
        self.shapes = Shapes(b"8 bytes!", (1,), ((3, 2, 2), (4,)), 2)
        self.entered, self.release = threading.Event(), threading.Event()

    def suffix(self, *_):
        self.entered.set()
        assert self.release.wait(DEADLINE_S)
        return np.zeros(2, np.float32)


@contextlib.contextmanager
def serving(graphs, **options):
    with EdgeServer(graphs, **options) as server:
        thread = threading.Thread(target=server.serve)
        thread.start()
        try:
            yield server
        finally:
            server.stop()
            thread.join()


def test_a_full_queue_is_refused_at_once():
    slow = Slow()
    frame = framed(slow.shapes, bytes(4))
    with serving(slow, queue=0) as server:
        address = server.address
        with (
            connect(address, DEADLINE_S) as first,
            connect(address, DEADLINE_S) as second,
        ):
            first.sendall(frame)
            assert slow.entered.wait(DEADLINE_S)
            second.sendall(frame)
            busy = protocol.parse_reply(second.recv(48, socket.MSG_WAITALL))
            slow.release.set()
            assert protocol.parse_reply(first.recv(48, socket.MSG_WAITALL)).status == Status.OK
    assert (busy.status, busy.waiting) == (Status.BUSY, 1)


def test_work_that_is_late_already_is_dropped():
    slow = Slow()
    slow.release.set()
    ticks = iter(range(1000))
    with (
        serving(slow, clock=lambda: float(next(ticks))) as server,
        connect(server.address, DEADLINE_S) as peer,
    ):
        peer.sendall(framed(slow.shapes, bytes(4), deadline_s=0.5))
        assert protocol.parse_reply(peer.recv(48, socket.MSG_WAITALL)).status == Status.LATE
        peer.sendall(framed(slow.shapes, bytes(4), deadline_s=100.0, sequence=10))
        reply = protocol.parse_reply(peer.recv(48, socket.MSG_WAITALL))
    assert (reply.status, reply.queue_s, reply.decode_s, reply.compute_s) == (Status.OK, 1.0, 1.0, 1.0)


def test_a_fault_in_computing_is_told_and_survived(caplog):
    slow = Slow()
    slow.suffix = lambda *_: 1 / 0
    with serving(slow) as server, connect(server.address, DEADLINE_S) as peer:
        for sequence in (1, 2):
            peer.sendall(framed(slow.shapes, bytes(4), sequence=sequence))
            assert protocol.parse_reply(peer.recv(48, socket.MSG_WAITALL)).status == Status.FAILED
    assert "ZeroDivisionError" in caplog.text


def test_a_device_that_falls_silent_in_a_frame_is_hung_up_on():
    slow = Slow()
    with serving(slow, idle_s=0.05) as server, connect(server.address, DEADLINE_S) as peer:
        peer.sendall(framed(slow.shapes, bytes(4))[:50])
        assert peer.recv(1) == b""


def test_a_device_too_many_is_turned_away():
    slow = Slow()
    with serving(slow, connections=1) as server:
        address = server.address
        with connect(address, DEADLINE_S), connect(address, DEADLINE_S) as second:
            assert second.recv(1) == b""


def test_the_spread_of_a_request_is_reported(opened, edge):
    with connect(edge.address, DEADLINE_S) as peer:
        payload = bytes(60000)
        peer.sendall(framed(opened.shapes, payload, kind=Kind.PROBE)[:1000])
        peer.sendall(payload[952:])
        reply = protocol.parse_reply(peer.recv(48, socket.MSG_WAITALL))
    assert 0 <= reply.bytes_after_first <= 59048
    assert (reply.bytes_after_first > 0) == (reply.dispersion_s > 0)

"""The device's socket: everything arrives whole, nothing outlasts its instant, and a reply is watched for only where it comes at once."""

from __future__ import annotations

import contextlib
import datetime as dt
import math
import socket
import threading
import time

import pytest

from cutlayer.errors import PeerError
from cutlayer.runtime.brisk import BRISK_S, Brisk
from cutlayer.runtime.split import authority, line
from cutlayer.runtime.split.line import Line
from cutlayer.runtime.split.protocol import Inbox

PATIENCE_S = 30.0  # for what happens at once, on a machine that has other things to do
LOOK_S = 1e-6  # what a look at the socket takes
WAKE_S = 5e-5  # what waking up costs


class Bench:
    """A peer that replies by one byte when its time has come, and the system's clock and poll to go with it."""

    def __init__(self, monkeypatch):
        self.now_s = self.reply_s = 0.0
        self.looks = self.sleeps = 0
        monkeypatch.setattr(line.select, "poll", lambda: self)

    def register(self, *_):
        pass

    def setblocking(self, _):
        pass

    def poll(self, limit_ms):
        if limit_ms == 0:
            self.looks += 1
            self.now_s += LOOK_S
        else:
            self.sleeps += 1
            self.now_s = max(self.now_s, self.reply_s) + WAKE_S
        return [0] if self.now_s >= self.reply_s else []

    def recv_into(self, space):
        if self.now_s < self.reply_s:
            raise BlockingIOError
        space[:1] = b"."
        return 1

    def replies(self, one, *delays_s):
        """(looks, sleeps) of each of so many replies."""
        found = []
        for delay_s in delays_s:
            self.looks = self.sleeps = 0
            self.reply_s = self.now_s + delay_s
            inbox = Inbox(1)
            one.receive(inbox, 1, self.now_s + 1.0)
            found.append((self.looks, self.sleeps))
        return found


@pytest.fixture
def bench(monkeypatch):
    return Bench(monkeypatch)


def line_to(bench, brisk_s=BRISK_S):
    made = Line(bench, lambda: bench.now_s)
    made._brisk = Brisk(lambda: bench.now_s, brisk_s)
    return made


def test_replies_of_an_edge_that_computes_are_slept_for(bench):
    assert bench.replies(line_to(bench), *[0.01] * 5, *[BRISK_S] * 5) == [(0, 1)] * 10


def test_replies_that_come_at_once_are_watched_for_from_the_second_on(bench):
    looks = [looks for looks, sleeps in bench.replies(line_to(bench), *[1e-4] * 5) if not sleeps]
    assert looks == [pytest.approx(100, abs=1)] * 4


def test_whoever_wants_no_busy_wait_gets_none(bench):
    assert bench.replies(line_to(bench, 0.0), *[1e-4] * 5) == [(0, 1)] * 5
    assert Line(bench, lambda: bench.now_s, 0.0)._brisk.wait(lambda: "looked", lambda: "slept") == "slept"


@contextlib.contextmanager
def pair(wrap=lambda near, far: (near, far)):
    """Two ends whose buffers hold a few kilobytes."""
    near, far = socket.socketpair()
    for end in (near, far):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        end.settimeout(PATIENCE_S)
    near, far = wrap(near, far)
    with near, far:
        yield near, far


@pytest.fixture(scope="module")
def secured(tmp_path_factory):
    own = authority.make(tmp_path_factory.mktemp("pems"), ["edge"], dt.datetime.now(dt.UTC))

    def wrap(near, far):
        ends = []
        thread = threading.Thread(target=lambda: ends.append(own["edge"].server().wrap_socket(far, server_side=True)))
        thread.start()
        near = own["device"].client().wrap_socket(near, server_hostname="edge")
        thread.join()
        return near, ends[0]

    return wrap


@pytest.mark.parametrize("tls", [False, True])
def test_more_than_the_system_holds_arrives_whole_and_in_order(tls, secured):
    header, payload = b"h" * 48, bytes(range(256)) * 4000
    with pair(*[secured] * tls) as (near, far):
        came = bytearray()

        def read():
            while len(came) < len(header) + len(payload):
                came.extend(far.recv(10_000))
            far.sendall(b"reply")

        thread = threading.Thread(target=read)
        thread.start()
        one, inbox = Line(near, time.monotonic), Inbox(5)
        one.send(header, payload, time.monotonic() + PATIENCE_S)
        one.receive(inbox, 5, time.monotonic() + PATIENCE_S)
        thread.join()
        assert bytes(came) == header + payload
        assert bytes(inbox.front(5)) == b"reply"


@pytest.mark.parametrize("tls", [False, True])
def test_nothing_outlasts_its_instant(tls, secured):
    with pair(*[secured] * tls) as (near, _far):
        one = Line(near, time.monotonic)
        with pytest.raises(TimeoutError):
            one.receive(Inbox(5), 5, time.monotonic() + 0.01)
        with pytest.raises(TimeoutError):
            one.send(b"h" * 48, bytes(10**6), time.monotonic() + 0.01)
        with pytest.raises(TimeoutError):
            one.receive(Inbox(5), 5, time.monotonic() - 1.0)


def test_an_instant_beyond_what_the_system_counts_is_waited_for_all_the_same():
    with pair() as (near, far):
        inbox = Inbox(5)
        thread = threading.Timer(0.0, far.sendall, [b"reply"])
        thread.start()
        Line(near, time.monotonic).receive(inbox, 5, math.inf)
        thread.join()
        assert inbox.has(5)


def test_an_end_is_seen_without_taking_anything():
    with pair() as (near, far):
        one = Line(near, time.monotonic)
        assert not one.ended
        far.shutdown(socket.SHUT_WR)
        assert one.ended
        with pytest.raises(PeerError, match="closed the connection"):
            one.receive(Inbox(5), 5, time.monotonic() + PATIENCE_S)

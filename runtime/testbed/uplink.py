"""The device's way to the edge when several requests are on it at once: frames go out one behind the other, replies come when they come.

`split.connection` sends one frame and waits for its answer. Requests that come in faster than answers do need more: the next
frame stands behind the one that is being sent, as in the simulator's queue of the uplink. A frame whose time is up is given up: if it
has not left the device yet its connection is reset, so that the system forgets it, and the frames behind it go out over a spare connection
that stands ready (a new one would cost round trips just then). Linux: how much has left is asked of the kernel (`SIOCOUTQ`).
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import select
import socket
import struct
import termios
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from cutlayer.errors import PeerError
from cutlayer.profiles.codecs import HEADER_BYTES
from cutlayer.profiles.cost import MSS_BYTES, OVERHEAD_BYTES
from cutlayer.runtime.split import protocol
from cutlayer.runtime.split.address import connect
from cutlayer.runtime.split.connection import BACK_OFF_S, LONGEST_BACK_OFF_S
from cutlayer.runtime.split.protocol import FATAL, Inbox, Kind, RefusedError, Reply, Request, Shapes

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from cutlayer.runtime.split.address import Address

LOOK_S = 0.002  # our choice: how often it is asked what has left; a slot of the emulated link is 50 times as long
ON_WIRE = 1.0 + OVERHEAD_BYTES / MSS_BYTES  # wire bytes of a payload byte: rates are those of the wire
GREET_S = 2.0  # our choice: a greeting of 48 bytes that takes longer finds no link
_PROBE = Request(1, b"", 0, 0, kind=Kind.PROBE)


@dataclass(slots=True, eq=False)
class Frame:
    """A request on its way. Instants by the clock; give_up_s is one.

    handed_s: when it was given to the system; start_s: when its first byte could leave, as far as is seen: those before it had left;
    sent_s: when its last byte was seen to have left, else inf.
    sent_bytes that have left; reply is None where the edge did not answer, for the reason that is given.
    """

    request: Request
    payload: bytes
    give_up_s: float
    handed_s: float = math.inf
    start_s: float = math.inf
    sent_s: float = math.inf
    end_s: float = math.inf
    sent_bytes: int = 0
    reply: Reply | None = None
    logits: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))
    reason: str = ""
    reaches: int = 0  # bytes of the connection up to its end

    @property
    def size(self) -> int:
        """Bytes, header and payload."""
        return HEADER_BYTES + len(self.payload)


def acknowledged(peer: socket.socket, written: int) -> int:
    """How many of the bytes written to a connection have been acknowledged, by the kernel."""
    held: tuple[int] = struct.unpack("i", fcntl.ioctl(peer, termios.TIOCOUTQ, b"\0" * 4))
    return written - held[0]


class Uplink:
    """Sends what is `put`, in order; a thread of its own hands each frame to `done` once: answered, refused or given up.

    started, sent: told when a frame's first byte could leave and when its last one has. left: how many of the bytes written to a
    connection, its greeting included, have left; from the connection and their number.
    """

    def __init__(
        self,
        address: Address,
        shapes: Shapes,
        done: Callable[[Frame], None],
        *,
        started: Callable[[Frame], None] = lambda _: None,
        sent: Callable[[Frame], None] = lambda _: None,
        left: Callable[[socket.socket, int], int] = acknowledged,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._address, self._shapes, self._clock = address, shapes, clock
        self._done, self._started, self._sent, self._ask = done, started, sent, left
        self._waiting: deque[Frame] = deque()  # not handed over yet
        self._flight: dict[int, Frame] = {}  # by sequence number, handed to `_line`; also frames that were given up once sent
        self._given: deque[Frame] = deque()  # put by others
        self._fresh: deque[socket.socket] = deque()  # greeted by the other thread
        self._line: socket.socket | None = None
        self._unwritten = b""
        self._handed = self._left = 0  # bytes of `_line`: handed to it, and known to have left
        self._inbox = Inbox(2 * (HEADER_BYTES + shapes.logits_bytes))
        self._sequence = 1
        self.lost = ""  # why no connection can be made; empty while there is one or one may come
        self.resets = 0
        self.heard_s = -math.inf  # when the edge answered anything last, a greeting too
        self._wake, self._woken = socket.socketpair()
        self._wanted, self._stop = threading.Semaphore(2), False  # connections to make: one to use, one to spare
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._run, self._connect)]
        for thread in self._threads:
            thread.start()

    def put(self, frame: Frame) -> None:
        """Send a frame when its turn comes; from any thread."""
        self._given.append(frame)
        self._poke()

    def acked_bytes(self) -> float:
        """Of the frame that is being sent, those that have left by now, as on the wire; 0 where none is. From any thread.

        Asked anew: a transfer lasts a few looks of the other thread, and one that seems to stand still reads as an outage. Packets are seen
        whole, so half of the one that is under way counts as well.
        """
        for frame in tuple(self._flight.values()):
            if frame.sent_s == math.inf and frame.end_s == math.inf:
                left = max(0, self._left_now() - (frame.reaches - frame.size))
                return ON_WIRE * min(frame.size, left + MSS_BYTES / 2)
        return 0.0

    def _left_now(self) -> int:
        """Bytes of the line that have left, its greeting not counted."""
        line, before = self._line, self._left
        if line is None:
            return before
        try:
            return max(before, self._ask(line, HEADER_BYTES + self._handed - len(self._unwritten)) - HEADER_BYTES)
        except OSError:  # closed by the other thread just now
            return before

    def close(self) -> None:
        """End the threads; what is on its way then is forgotten."""
        self._stop = True
        self._poke()
        self._wanted.release()
        for thread in self._threads:
            thread.join()
        for peer in (self._line, *self._fresh, self._wake, self._woken):
            if peer is not None:
                peer.close()

    def _poke(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._wake.send(b"x")

    # --- the thread that makes connections

    def _connect(self) -> None:
        failures = 0
        self._wanted.acquire()
        while not self._stop:
            try:
                self._fresh.append(self._greet())
            except (OSError, PeerError) as error:
                self.lost = self.lost or f"edge {self._address}: {getattr(error, 'strerror', None) or error}"
                self._poke()
                end_s = self._clock() + min(LONGEST_BACK_OFF_S, BACK_OFF_S * 2 ** min(failures, 16))
                failures += 1
                while not self._stop and self._clock() < end_s:
                    time.sleep(0.02)  # so that closing waits for no back-off
                continue
            failures, self.lost, self.heard_s = 0, "", self._clock()
            self._poke()
            self._wanted.acquire()

    def _greet(self) -> socket.socket:
        peer = connect(self._address, GREET_S)
        try:
            peer.sendall(protocol.pack_request(msgspec.structs.replace(_PROBE, model=self._shapes.model)))
            header = b""
            while len(header) < HEADER_BYTES:
                if not (got := peer.recv(HEADER_BYTES - len(header))):
                    raise PeerError("closed the connection")
                header += got
            protocol.expect(protocol.parse_reply(header), _PROBE, self._shapes)
            peer.setblocking(False)
        except BaseException:
            peer.close()
            raise
        return peer

    # --- the thread that sends and receives

    def _run(self) -> None:
        while not self._stop:
            reading = [self._woken] if self._line is None else [self._woken, self._line]
            writing = [self._line] if self._line is not None and self._unwritten else []
            readable, _, _ = select.select(reading, writing, [], self._timeout_s())
            if self._woken in readable:
                self._woken.recv(4096)
            self._waiting.extend(self._given.popleft() for _ in range(len(self._given)))
            try:
                if self._line is not None and self._line in readable:
                    self._receive(self._line)
                self._send()
                self._look()
            except (OSError, PeerError):
                self._drop()
                self._poke()
            self._expire()

    def _open(self) -> list[Frame]:
        return [frame for frame in self._flight.values() if frame.end_s == math.inf]

    def _timeout_s(self) -> float | None:
        frames = [*self._open(), *self._waiting]
        if not frames:
            return None
        wait_s = max(0.0, min(frame.give_up_s for frame in frames) - self._clock())
        return min(wait_s, LOOK_S) if any(frame.sent_s == math.inf for frame in frames) else wait_s

    def _send(self) -> None:
        if self._line is None and self._fresh:
            self._line = self._fresh.popleft()
            self._wanted.release()
        if self._line is None:
            while self.lost and self._waiting:
                self._end(self._waiting.popleft(), self.lost)
            return
        while self._waiting:
            self._hand(self._waiting.popleft())
        with contextlib.suppress(BlockingIOError):
            while self._unwritten:
                self._unwritten = self._unwritten[self._line.send(self._unwritten) :]

    def _hand(self, frame: Frame) -> None:
        self._sequence = (self._sequence + 1) & 0xFFFFFFFF
        left_s = max(1e-3, frame.give_up_s - self._clock())
        frame.request = msgspec.structs.replace(
            frame.request, sequence=self._sequence, model=self._shapes.model, length=len(frame.payload),
            crc=protocol.checksum(frame.payload), deadline_s=left_s,
        )  # fmt: skip
        behind = any(before.sent_s == math.inf for before in self._open())
        self._unwritten += protocol.pack_request(frame.request) + frame.payload
        self._handed += frame.size
        frame.reaches = self._handed
        self._flight[self._sequence] = frame
        frame.handed_s = self._clock()
        if not behind:
            self._start(frame)

    def _start(self, frame: Frame) -> None:
        if frame.start_s == math.inf:
            frame.start_s = self._clock()
            self._started(frame)

    def _look(self) -> None:
        """Which frames have left."""
        if self._line is None or self._left == self._handed:
            return
        self._left = self._left_now()
        for frame in self._open():
            if frame.reaches > self._left:
                self._start(frame)
                break
            if frame.sent_s == math.inf:
                self._start(frame)
                frame.sent_s = self._clock()
                self._sent(frame)

    def _receive(self, peer: socket.socket) -> None:
        try:
            got = peer.recv_into(self._inbox.space())
        except BlockingIOError:
            return
        if got == 0:
            raise PeerError("closed the connection")
        self.heard_s = self._clock()
        self._inbox.took(got, self.heard_s)
        while self._inbox.has(HEADER_BYTES):
            reply = protocol.parse_reply(self._inbox.front(HEADER_BYTES))
            frame = self._flight.get(reply.sequence)
            if frame is None:
                raise PeerError(f"reply to request {reply.sequence}, which nobody made; the connection is out of step")
            reason = ""
            try:
                protocol.expect(reply, frame.request, self._shapes)
            except RefusedError as error:
                if error.status in FATAL:
                    self._end(frame, f"edge {self._address}: {error}")
                    raise
                reason = f"edge {self._address}: {error}"
            if not self._inbox.has(HEADER_BYTES + reply.length):
                return
            body = bytes(self._inbox.front(HEADER_BYTES + reply.length)[HEADER_BYTES:])
            self._inbox.drop(HEADER_BYTES + reply.length)
            if protocol.checksum(body) != reply.crc:
                reason = "the logits were damaged on the way"
            del self._flight[reply.sequence]
            self._answered(frame, reply, body, reason)

    def _answered(self, frame: Frame, reply: Reply, body: bytes, reason: str) -> None:
        if frame.end_s < math.inf:  # it was given up before
            return
        self._start(frame)
        frame.sent_s = min(frame.sent_s, self._clock())
        frame.sent_bytes = frame.size
        if not reason:
            frame.reply, frame.logits = reply, np.frombuffer(body, np.float32)
        self._left = max(self._left, frame.reaches)
        self._end(frame, reason)

    def _expire(self) -> None:
        """Give up what is late; where such a frame has not left yet, reset the connection and send what stood behind it anew."""
        now_s = self._clock()
        for frame in [one for one in self._waiting if one.give_up_s <= now_s]:
            self._waiting.remove(frame)
            self._end(frame, "no reply in time")
        stuck = False
        for frame in [one for one in self._open() if one.give_up_s <= now_s]:
            stuck |= frame.sent_s == math.inf
            frame.sent_bytes = min(frame.size, max(0, self._left - (frame.reaches - frame.size)))
            self._end(frame, "no reply in time")
        if stuck:
            self._drop()
            self._poke()

    def _end(self, frame: Frame, reason: str) -> None:
        frame.end_s, frame.reason = self._clock(), reason
        self._done(frame)

    def _drop(self) -> None:
        """Reset the connection; what was handed to it and is not answered waits again."""
        if self._line is not None:
            with contextlib.suppress(OSError):
                self._line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._line.close()
            self._line = None
            self.resets += 1
        for frame in reversed(self._open()):
            frame.handed_s = frame.start_s = frame.sent_s = math.inf
            self._waiting.appendleft(frame)
        self._flight.clear()
        self._inbox.drop(len(self._inbox))
        self._unwritten, self._handed, self._left = b"", 0, 0

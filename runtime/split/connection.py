"""The device's end of the connection: frames to an edge and back within a time limit, made anew after a failure."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from cutlayer.errors import PeerError
from cutlayer.profiles.codecs import HEADER_BYTES
from cutlayer.profiles.cost import MSS_BYTES
from cutlayer.runtime.brisk import BRISK_S
from cutlayer.runtime.split import protocol
from cutlayer.runtime.split.address import connect
from cutlayer.runtime.split.line import Line
from cutlayer.runtime.split.protocol import FATAL, Inbox, Kind, RefusedError, Reply, Request, Shapes

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from numpy.typing import NDArray

    from cutlayer.runtime.split.address import Address
    from cutlayer.runtime.split.pace import Pace

BACK_OFF_S = 0.25  # after the first failure to connect; doubled with each further one
LONGEST_BACK_OFF_S = 8.0
_PROBE = Request(0, b"", 0, 0, kind=Kind.PROBE)


@dataclass(slots=True)
class Transfer:
    """How far a frame got: start_s and end_s of the sending, and the bytes handed to the system by end_s.

    Real time on air only where a pace was set; else the system took them to send later, and the edge's dispersion tells the rate.
    """

    start_s: float = 0.0
    end_s: float = 0.0
    sent_bytes: int = 0


class Connection:
    """One persistent connection to an edge, made when it is first needed and again after a failure.

    Not for use from two threads. `transfer` is the latest frame's, also where it failed; `clock` and `sleep` are in seconds.
    """

    def __init__(
        self,
        address: Address,
        shapes: Shapes,
        *,
        tls: ssl.SSLContext | None = None,
        pace: Pace | None = None,
        brisk_s: float = BRISK_S,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.address = address
        self.transfer = Transfer()
        self._shapes = shapes
        self._tls = tls
        self._pace = pace
        self._brisk_s = brisk_s
        self._clock = clock
        self._sleep = sleep
        self._line: Line | None = None
        self._inbox = Inbox(HEADER_BYTES + shapes.logits_bytes)
        self._sequence = 0
        self._failures = 0
        self._retry_s = -math.inf

    def exchange(self, request: Request, payload: bytes, give_up_s: float) -> tuple[Reply, NDArray[np.float32]]:
        """Send `request` with its payload; its reply and the logits, waited for until the instant `give_up_s`.

        Sequence, model, time left, length and checksum of the request are filled in here.

        Raises:
            PeerError: no reply came, or none that answers.
        """
        self.transfer = Transfer()
        try:
            return self._converse(self._connected(give_up_s), request, payload, give_up_s, self._pace)
        except (PeerError, OSError) as error:
            if not isinstance(error, RefusedError) or error.status in FATAL:
                self._abort()
            reason = "no reply in time" if isinstance(error, TimeoutError) else getattr(error, "strerror", None) or str(error)
            raise PeerError(f"edge {self.address}: {reason}") from error

    def probe(self, give_up_s: float, count: int = 0) -> Reply:
        """Ask for nothing, with `count` bytes of ballast: whether the edge is there with this model, and how fast the link is.

        Raises as `exchange` does.
        """
        return self.exchange(_PROBE, bytes(count), give_up_s)[0]

    @property
    def barred(self) -> bool:
        """Whether there is no connection, and none is tried because the last try failed a moment ago."""
        return self._line is None and self._clock() < self._retry_s

    def try_again(self) -> None:
        """Let the next `exchange` try to connect, however short ago the last try failed."""
        self._retry_s = -math.inf

    def close(self) -> None:
        """Hang up; the next `exchange` makes a new connection."""
        if self._line is not None:
            self._line.close()
            self._line = None

    def _abort(self) -> None:
        if self._line is not None:
            self._line.abort()
            self._line = None

    def _connected(self, give_up_s: float) -> Line:
        if self._line is not None and self._line.ended:
            self.close()  # the edge was stopped in between; it may be back
        if self._line is None:
            if self.barred:
                raise PeerError("could not be reached a moment ago")
            try:
                self._line = self._greet(give_up_s)
            except (PeerError, OSError):
                # Only here: a transfer that a slow link did not let through says nothing about the next one.
                self._retry_s = self._clock() + min(LONGEST_BACK_OFF_S, BACK_OFF_S * 2 ** min(self._failures, 16))
                self._failures += 1
                self.transfer = Transfer()  # a greeting is none
                raise
            self._failures = 0
        return self._line

    def _greet(self, give_up_s: float) -> Line:
        """A new connection, to an edge that has this model: found by 48 bytes, not by a tensor."""
        line = Line(connect(self.address, self._left_s(give_up_s), self._tls), self._clock, self._brisk_s)
        try:
            self._inbox.drop(len(self._inbox))
            self._converse(line, _PROBE, b"", give_up_s, None)
        except BaseException:  # also an interrupt must not leave the socket open; it goes on
            line.close()
            raise
        return line

    def _converse(
        self, line: Line, request: Request, payload: bytes, give_up_s: float, pace: Pace | None
    ) -> tuple[Reply, NDArray[np.float32]]:
        self._sequence = (self._sequence + 1) & 0xFFFFFFFF
        crc, left_s = protocol.checksum(payload), self._left_s(give_up_s)
        request = msgspec.structs.replace(
            request, sequence=self._sequence, model=self._shapes.model, length=len(payload), crc=crc, deadline_s=left_s
        )  # fmt: skip
        header = protocol.pack_request(request)
        if pace is None:
            start_s = self._clock()
            self.transfer = transfer = Transfer(start_s, start_s)
            line.send(header, payload, give_up_s)
            transfer.end_s, transfer.sent_bytes = self._clock(), HEADER_BYTES + len(payload)
        else:
            self._send_paced(line, memoryview(header + payload), give_up_s, pace)
        inbox = self._inbox
        line.receive(inbox, HEADER_BYTES, give_up_s)
        reply = protocol.parse_reply(inbox.front(HEADER_BYTES))
        try:
            protocol.expect(reply, request, self._shapes)
        except RefusedError:
            inbox.drop(HEADER_BYTES)
            raise
        frame = HEADER_BYTES + reply.length
        line.receive(inbox, frame, give_up_s)
        body = bytes(inbox.front(frame)[HEADER_BYTES:])
        inbox.drop(frame)
        if protocol.checksum(body) != reply.crc:
            raise PeerError("the logits were damaged on the way")
        return reply, np.frombuffer(body, np.float32)

    def _send_paced(self, line: Line, frame: memoryview, give_up_s: float, pace: Pace) -> None:
        at_s = self._clock()
        self.transfer = transfer = Transfer(at_s, at_s)
        for start in range(0, len(frame), MSS_BYTES):
            chunk = frame[start : start + MSS_BYTES]
            at_s = pace(len(chunk), at_s)  # from when the last one left, not from now: oversleeping must not add up
            self._sleep_until(min(at_s, give_up_s))
            transfer.end_s = self._clock()
            self._left_s(give_up_s)
            # Written once it has left the emulated link: the edge sees it arrive as it would over a real one.
            line.send_rest(chunk, give_up_s)
            transfer.sent_bytes += len(chunk)

    def _sleep_until(self, instant_s: float) -> None:
        if (wait_s := instant_s - self._clock()) > 0:
            self._sleep(wait_s)

    def _left_s(self, give_up_s: float) -> float:
        left_s = give_up_s - self._clock()
        if left_s <= 0:
            raise TimeoutError
        return left_s

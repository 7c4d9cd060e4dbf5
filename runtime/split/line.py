"""The device's socket: every call on it ends by an instant, and costs as few system calls as that allows.

The socket never blocks. What cannot go on is waited for by `poll`, whose time limit is exact to a millisecond; a time-out of Python's own
would poll before every call, also where nothing has to be waited for.

A reply is waited for awake where the one before came within `BRISK_S` (`runtime.brisk`): that of an edge that computes for a millisecond
never is.
"""

from __future__ import annotations

import contextlib
import math
import select
import socket
import ssl
import struct
from typing import TYPE_CHECKING

from cutlayer.errors import PeerError
from cutlayer.runtime.brisk import BRISK_S, Brisk

if TYPE_CHECKING:
    from collections.abc import Callable

    from cutlayer.runtime.split.protocol import Inbox


LONGEST_MS = 2**31 - 1  # that poll takes: 24 days


class Line:
    """A connected socket, plain or TLS, from now on used through this alone. Instants are by `clock`, in seconds; brisk_s as `BRISK_S`.

    Raises, from sending and receiving:
        TimeoutError: the instant `give_up_s` came first.
        OSError: the connection is broken.
    """

    def __init__(self, peer: socket.socket, clock: Callable[[], float], brisk_s: float = BRISK_S) -> None:
        peer.setblocking(False)
        self._peer = peer
        self._clock = clock
        self._brisk = Brisk(brisk_s=brisk_s)
        self._poll = select.poll()
        self._poll.register(peer, select.POLLIN)

    @property
    def ended(self) -> bool:
        """Whether the other side has closed, or sent what nobody asked for; looks without waiting or taking."""
        return bool(self._poll.poll(0))

    def send(self, header: bytes, payload: bytes, give_up_s: float) -> None:
        """Both, in one call where the system takes them at once: it may hold them back then, nothing says that they have left."""
        if isinstance(self._peer, ssl.SSLSocket):  # TLS gathers nothing
            sent = 0
        else:
            try:
                sent = self._peer.sendmsg((header, payload))
            except BlockingIOError:
                sent = 0
        if sent < len(header) + len(payload):
            self.send_rest(memoryview(header + payload)[sent:], give_up_s)

    def send_rest(self, data: memoryview, give_up_s: float) -> None:
        """All of `data`, as room for it comes."""
        while data:
            try:
                data = data[self._peer.send(data) :]
            except (BlockingIOError, ssl.SSLWantWriteError):
                self._wait_for_room(give_up_s)
            except ssl.SSLWantReadError:
                self._wait_for_input(give_up_s)

    def receive(self, inbox: Inbox, count: int, give_up_s: float) -> None:
        """Take in until `inbox` holds `count` bytes.

        Raises:
            PeerError: the other side has closed.
        """
        while not inbox.has(count):
            if not (isinstance(self._peer, ssl.SSLSocket) and self._peer.pending()):  # what TLS holds already is not polled for
                self._wait_for_input(give_up_s)
            try:
                got = self._peer.recv_into(inbox.space())
            except (BlockingIOError, ssl.SSLWantReadError):
                continue
            except ssl.SSLWantWriteError:
                self._wait_for_room(give_up_s)
                continue
            if got == 0:
                raise PeerError("closed the connection")
            inbox.took(got, self._clock())

    def _wait_for_input(self, give_up_s: float) -> None:
        left_ms = self._left_ms(give_up_s)
        if not self._brisk.wait(lambda: self._poll.poll(0) or None, lambda: self._poll.poll(left_ms)):
            raise TimeoutError

    def _wait_for_room(self, give_up_s: float) -> None:
        left_ms = self._left_ms(give_up_s)
        poll = select.poll()
        poll.register(self._peer, select.POLLOUT)
        if not poll.poll(left_ms):
            raise TimeoutError

    def _left_ms(self, give_up_s: float) -> int:
        left_s = give_up_s - self._clock()
        if left_s <= 0:
            raise TimeoutError
        return math.ceil(min(1e3 * left_s, LONGEST_MS))

    def close(self) -> None:
        """Hang up."""
        self._peer.close()

    def abort(self) -> None:
        """Hang up and have the system forget what it has not sent yet, else it would go on in front of the next tensor."""
        with contextlib.suppress(OSError):
            self._peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

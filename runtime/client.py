"""Talk to `cutlayerd` over its Unix socket: one JSON object a line, blocking."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Any, Self

import msgspec

from cutlayer.errors import PeerError
from cutlayer.runtime.brisk import Brisk
from cutlayer.runtime.messages import Decision, Outcome, Progress, Request

if TYPE_CHECKING:
    from pathlib import Path

MOST_BYTES = 65_536  # taken from the socket at once: our choice, far beyond any reply


class Client:
    """One connection to the daemon; a context manager. at_s, where it is given, is the time on the device's monotonic clock."""

    def __init__(self, path: Path, timeout_s: float = 5.0) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(timeout_s)
        try:
            self._socket.connect(str(path))
        except OSError as error:
            self._socket.close()
            raise PeerError(f"no daemon answers at {path} ({error.strerror}); start one with: cutlayerd --socket {path}") from error
        self._pending, self._brisk = b"", Brisk()
        self._decision = msgspec.json.Decoder(Decision)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def _look(self) -> bytes | None:
        try:
            return os.read(self._socket.fileno(), MOST_BYTES)  # a socket with a timeout does not block by itself
        except BlockingIOError:
            return None

    def _sleep(self) -> bytes:
        return self._socket.recv(MOST_BYTES)

    def call(self, line: bytes) -> bytes:
        """Send one line, wait for the reply to it.

        Raises:
            PeerError: the daemon went away or answered with an error.
        """
        try:
            self._socket.sendall(line + b"\n")
            while b"\n" not in self._pending:
                data = self._brisk.wait(self._look, self._sleep)
                if not data:
                    raise PeerError("the daemon closed the connection")
                self._pending += data
        except OSError as error:
            raise PeerError(f"the daemon does not answer: {error}") from error
        reply, self._pending = self._pending.split(b"\n", 1)
        if reply.startswith(b'{"error"'):
            raise PeerError(f"the daemon refused: {reply.decode()}")
        return reply

    def decide(self, number: int, *, edge_reachable: bool = True, at_s: float | None = None) -> Decision:
        """The plan for request `number`."""
        flag = b"" if edge_reachable else b',"edge_reachable":false'
        time = b"" if at_s is None else b',"at_s":%b' % msgspec.json.encode(at_s)
        return self._decision.decode(self.call(b'{"op":"decide","id":%d%b%b}' % (number, flag, time)))

    def ask(self, request: Request, at_s: float | None = None) -> Decision:
        """The plan for a request of which more is known than its number."""
        return self._decision.decode(self.call(_line("decide", request, at_s)))

    def progress(self, progress: Progress, at_s: float | None = None) -> None:
        """Tell how far a request has come."""
        self.call(_line("progress", progress, at_s))

    def report(self, outcome: Outcome, at_s: float | None = None) -> None:
        """Tell what became of a request."""
        self.call(_line("report", outcome, at_s))

    def reload(self) -> None:
        """Let the daemon read its configuration and bundle again."""
        self.call(b'{"op":"reload"}')

    def rollback(self) -> None:
        """Let what decided before the last reload decide again."""
        self.call(b'{"op":"rollback"}')

    def status(self) -> dict[str, Any]:
        """Counts and what decides."""
        found: dict[str, Any] = msgspec.json.decode(self.call(b'{"op":"status"}'))
        return found


def _line(operation: str, message: msgspec.Struct, at_s: float | None) -> bytes:
    time = {} if at_s is None else {"at_s": at_s}
    return msgspec.json.encode({"op": operation, **msgspec.structs.asdict(message), **time})

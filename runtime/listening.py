"""The Unix socket of `cutlayerd` and the clients on it: lines in, lines out, and no client holds up another one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import stat
import struct
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from cutlayer.errors import ConfigError
from cutlayer.runtime.service import Session

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from cutlayer.runtime.config import DaemonConfig
    from cutlayer.runtime.service import Service

TURN = 32  # lines of one client before others have their turn: our choice, under a millisecond of decisions
BACKLOG = 1024  # clients that may connect at the same moment: one more would be told to try again
CREDENTIALS = struct.Struct("iII")  # struct ucred of unix(7): process, user, group
PEER_GROUPS = 59  # SO_PEERGROUPS of asm-generic/socket.h (Linux 4.13), which Python does not name: supplementary groups of the peer
MOST_OPTION_BYTES = 1024  # as much as Python's getsockopt takes: 256 groups


def listen(path: Path, group: str = "") -> socket.socket:
    """A listening Unix socket at `path` for owner and group; a stale one left by a dead process is replaced.

    Raises:
        ConfigError: something lives there, it is no socket, or path or group cannot be used.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.exists():
            if not stat.S_ISSOCK(path.stat().st_mode):
                raise ConfigError(f"{path} exists and is no socket; choose another path for the daemon's socket")
            probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            with probe, contextlib.suppress(ConnectionRefusedError):
                probe.connect(str(path))
                raise ConfigError(f"socket {path} is in use by a running daemon; stop that one or choose another path")
            path.unlink()
        # Only owner and group may decide; mode and group are set before anyone can connect.
        before = os.umask(0o117)
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
        if group:
            _give(path, group)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigError(f"cannot listen on {path}: {error}; choose a writable path of at most 107 bytes") from error
    except ConfigError:
        listener.close()
        raise
    return listener


def _give(path: Path, group: str) -> None:
    try:
        shutil.chown(path, group=group)
    except (LookupError, PermissionError) as error:
        path.unlink()
        raise ConfigError(f"socket_group {group!r} cannot be given {path} ({error}); name a group that this user is in") from error


class Peer(NamedTuple):
    """Who connected, by the kernel's word: user, primary group, all groups."""

    user: int
    group: int
    groups: frozenset[int]

    @property
    def name(self) -> str:
        """For errors and the log."""
        return f"user {self.user} of group {self.group}"

    def among(self, users: Collection[int], groups: Collection[int]) -> bool:
        """Whether it is one of these users or in one of these groups."""
        return self.user in users or not self.groups.isdisjoint(groups)

    def operates(self, settings: DaemonConfig) -> bool:
        """Whether it may change what decides: root and the daemon's own user always may."""
        return self.user in (0, os.geteuid()) or self.among(settings.operator_uids, settings.operator_gids)


def _peer(connection: socket.socket) -> Peer:
    _, user, group = CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size))
    try:
        data = connection.getsockopt(socket.SOL_SOCKET, PEER_GROUPS, MOST_OPTION_BYTES)
    except OSError:  # a kernel before 4.13, or more groups than fit: then the primary one counts alone
        data = b""
    return Peer(user, group, frozenset({group, *(one for (one,) in struct.iter_unpack("I", data))}))


class Connection(asyncio.Protocol):
    """One client. Its lines are answered in order, some at a time; it is read on only when it takes its answers."""

    def __init__(self, service: Service, others: set[Connection]) -> None:
        self._service, self._others = service, others
        self._lines: deque[bytes] = deque()
        self._pending = b""
        self._full = self._waiting = self._leaving = False
        self._loop = asyncio.get_running_loop()
        self._stalled: asyncio.TimerHandle | None = None
        self.closed = self._loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._others.add(self)
        peer = _peer(transport.get_extra_info("socket"))
        self._session = Session(peer.name, operator=peer.operates(self._service.settings))
        if (refusal := self._refusal(peer)) is not None:
            self._hang_up(refusal)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._others.discard(self)
        self._lines.clear()
        self._calm()
        self.closed.set_result(None)

    def data_received(self, data: bytes) -> None:
        *lines, self._pending = (self._pending + data).split(b"\n")
        self._lines.extend(lines)
        if not self._waiting:
            self._go_on()

    def pause_writing(self) -> None:
        self._full = True
        self._stalled = self._loop.call_later(self._service.settings.stalled_s, self._transport.abort)

    def resume_writing(self) -> None:
        self._full = False
        self._calm()
        if not self._waiting:
            self._go_on()

    def leave(self) -> None:
        """Hang up once what came is answered and what was answered is written."""
        self._leaving = True
        self._go_on()

    def cut(self) -> None:
        """Hang up now."""
        self._transport.abort()

    def _go_on(self) -> None:
        self._waiting = False
        limit = self._service.settings.request_bytes
        replies: list[bytes] = []
        while self._lines and len(replies) < TURN and not self._full:
            line = self._lines.popleft()
            if len(line) > limit:
                self._write(replies)
                self._hang_up(f"line longer than {limit} bytes")
                return
            if line.strip():
                replies.append(self._service.answer(line, self._session))
        self._write(replies)
        if self._lines:
            self._transport.pause_reading()
            self._waiting = not self._full
            if self._waiting:
                self._loop.call_soon(self._go_on)
        elif len(self._pending) > limit:
            self._hang_up(f"line longer than {limit} bytes")
        elif self._leaving:
            self._transport.close()
        elif self._full:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def _write(self, replies: list[bytes]) -> None:
        if replies:
            self._transport.write(b"\n".join(replies) + b"\n")

    def _hang_up(self, error: str) -> None:
        self._lines.clear()
        self._pending = b""
        self._write([self._service.refuse(error)])
        self._transport.close()

    def _calm(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def _refusal(self, peer: Peer) -> str | None:
        """Why this client is not to be answered."""
        settings = self._service.settings
        if len(self._others) > settings.connections:
            return f"{settings.connections} connections are open, as many as may be; close one, or raise connections"
        if (settings.allow_uids or settings.allow_gids) and not peer.among(settings.allow_uids, settings.allow_gids):
            return f"{peer.name} is not answered; name one of them in allow_uids or allow_gids"
        return None

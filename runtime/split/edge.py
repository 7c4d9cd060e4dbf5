"""The edge server: takes coded tensors from devices, runs the rest of the network, sends the logits back.

One thread a connection; `computing` says whose turn it is, and the wait for it is measured and sent back. What may go wrong with a peer
and what becomes of it:

    damaged header, other version, other model, no such plan, wrong length    refused by status, then hung up on
    a frame that was there before, or out of order                            refused by status, then hung up on
    damaged payload, deadline passed, too many waiting, computing failed      refused by status, connection kept
    silent or slow in the middle of a frame                                   hung up on
    gone without a word                                                       found by TCP keep-alive
    more connections than allowed                                             hung up on at once
    no certificate of the authority, where there is TLS                       hung up on at once
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import select
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, Self

from cutlayer.errors import ConfigError, CutlayerError, PeerError
from cutlayer.profiles.codecs import HEADER_BYTES
from cutlayer.runtime.split.address import Address, Certificates, listen
from cutlayer.runtime.split.computing import Batches, OneByOne
from cutlayer.runtime.split.graphs import Graphs
from cutlayer.runtime.split.protocol import (
    FATAL,
    Inbox,
    Kind,
    Reply,
    Request,
    Status,
    checksum,
    expect_next,
    judge,
    pack_reply,
    parse_request,
)

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator, Sequence

LOOPBACK = Address("127.0.0.1")
logger = logging.getLogger("cutlayer.edge")

IDLE_S = 10.0  # silence in the middle of a frame: a mobile outage of seconds is survived, a dead peer is not waited for
FRAME_IDLES = 6  # a whole frame takes at most so many idle times: 64 KiB within a minute is 9 kbit/s
DRAIN_S = 2.0  # how long work in hand may take to end when the server stops, and a refused peer to stop sending
KEEP_ALIVE_S = 30  # silence between frames after which the system asks whether the peer is still there
LONGEST_WAIT = 65535  # of the reply's u16


class EdgeServer:
    """Serves the graphs of one network on one address, from `serve()` until `stop()`; a context manager that holds the port.

    idle_s bounds the silence within a frame; `connections` the devices served at once; `queue` the requests that wait for
    the one being computed: a request beyond it is refused as busy. compute: by default `OneByOne`.

    Raises:
        ConfigError: the address is in use, unknown, or another machine could reach it and `insecure` is not set.
    """

    def __init__(
        self,
        graphs: Graphs,
        address: Address = LOOPBACK,
        *,
        tls: ssl.SSLContext | None = None,
        insecure: bool = False,
        idle_s: float = IDLE_S,
        connections: int = 64,
        queue: int = 16,
        compute: OneByOne | Batches | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._graphs = graphs
        self._idle_s = idle_s
        self._connections = connections
        self._queue = queue
        self._clock = clock
        self._compute = compute or OneByOne(graphs, clock)
        self._waiting = 0
        self._guard = threading.Lock()  # of the counters and the set of sockets
        self._peers: dict[threading.Thread, socket.socket] = {}
        self._tls = tls
        self._listener = listen(address, tls=tls is not None, insecure=insecure)
        self.address = address if address.path is not None else Address(*self._listener.getsockname()[:2])
        self._wake, self._woken = socket.socketpair()

    def serve(self) -> None:
        """Accept devices until `stop`, then let work in hand end, at most for `DRAIN_S`."""
        waited_for = [self._listener, self._woken]
        try:
            while self._woken not in select.select(waited_for, [], [])[0]:
                with contextlib.suppress(OSError):  # the peer may go away before it is accepted
                    self._admit(*self._listener.accept())
        finally:
            self._drain()

    def stop(self) -> None:
        """End `serve`; may be called from any thread and from a signal handler, more than once."""
        with contextlib.suppress(OSError):
            self._wake.send(b"x")

    def _admit(self, peer: socket.socket, address: object) -> None:
        with self._guard:
            if len(self._peers) >= self._connections:
                logger.info("turned %s away: %d devices are connected", address, self._connections)
                peer.close()
                return
            thread = threading.Thread(target=self._converse, args=(peer, address), daemon=True)
            self._peers[thread] = peer
        thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for end in (self._listener, self._wake, self._woken):
            end.close()
        if self.address.path is not None:
            self.address.path.unlink(missing_ok=True)

    def _drain(self) -> None:
        self._listener.close()
        with self._guard:
            peers = dict(self._peers)
        for peer in peers.values():
            with contextlib.suppress(OSError):
                peer.shutdown(socket.SHUT_RD)  # an idle thread reads the end; a busy one still sends its reply
        end_s = time.monotonic() + DRAIN_S
        for thread in peers:
            thread.join(max(0.0, end_s - time.monotonic()))

    def _converse(self, peer: socket.socket, address: object) -> None:
        """The life of one connection."""
        try:
            with peer, self._secured(peer) as line:
                inbox, before = Inbox(self._graphs.shapes.largest_frame), -1
                while (before := self._answer(line, inbox, address, before)) >= 0:
                    pass
        except (PeerError, OSError) as error:
            logger.info("hung up on %s: %s", address, error)
        except Exception:  # one device's trouble must not end the server
            logger.exception("connection of %s ended by a fault of this server", address)
        finally:
            with self._guard:
                self._peers.pop(threading.current_thread(), None)

    def _secured(self, peer: socket.socket) -> socket.socket:
        """The connection, behind TLS where there is one; raises OSError where the device shows no certificate in time."""
        _tune(peer)
        peer.settimeout(self._idle_s)  # once: to change it is a system call
        if self._tls is None:
            return peer
        line = self._tls.wrap_socket(peer, server_side=True)
        with self._guard:
            self._peers[threading.current_thread()] = line
        return line

    def _answer(self, peer: socket.socket, inbox: Inbox, address: object, before: int) -> int:
        """Take one request and reply; its sequence number, or -1 where the connection ends. before: that of the last one, or -1."""
        if not self._receive(peer, inbox, HEADER_BYTES):
            return -1
        try:
            request = parse_request(inbox.front(HEADER_BYTES))
            expect_next(request.sequence, before)
        except PeerError as error:
            logger.info("refused %s: %s", address, error)
            peer.sendall(pack_reply(Reply(0, Status.BAD_FRAME)))
            return self._hang_up(peer, inbox)
        status = judge(request, self._graphs.shapes)
        if status in FATAL:
            logger.info("refused %s: %s", address, status.name)
            peer.sendall(pack_reply(Reply(request.sequence, status, exit=request.exit)))
            return self._hang_up(peer, inbox)
        frame = HEADER_BYTES + request.length
        if not self._receive(peer, inbox, frame):
            return -1
        seen = (max(0, frame - inbox.first_bytes), inbox.last_s - inbox.first_s, inbox.first_s)
        reply, logits = self._work(request, inbox.front(frame)[HEADER_BYTES:], *seen)
        peer.sendall(pack_reply(reply) + logits)
        inbox.drop(frame)
        if reply.status != Status.OK:
            logger.info("refused %s: %s", address, reply.status.name)
        return request.sequence

    def _receive(self, peer: socket.socket, inbox: Inbox, count: int) -> bool:
        """Until `count` bytes are in; False where the peer closes between two frames.

        Raises:
            PeerError: the peer closes, falls silent or is too slow within a frame.
        """
        while not inbox.has(count):
            try:
                got = peer.recv_into(inbox.space())
            except TimeoutError as error:
                if len(inbox) == 0:  # between two frames a device may be silent for as long as it likes
                    continue
                raise PeerError(f"silent for {self._idle_s} s after {len(inbox)} of {count} bytes") from error
            if got == 0:
                if len(inbox) == 0:
                    return False
                raise PeerError(f"closed after {len(inbox)} of {count} bytes")
            inbox.took(got, self._clock())
            if inbox.last_s - inbox.first_s > FRAME_IDLES * self._idle_s:
                raise PeerError(f"took over {FRAME_IDLES * self._idle_s} s for a frame of {count} bytes")
        return True

    def _work(self, request: Request, payload: memoryview, after_first: int, dispersion_s: float, first_s: float) -> tuple[Reply, bytes]:
        """Decode and run the suffix; the reply and its payload."""
        with self._guard:
            waiting, self._waiting = self._waiting, self._waiting + 1
        times = (0.0, 0.0, 0.0)
        logits = b""
        try:
            if checksum(payload) != request.crc:
                status = Status.BAD_CHECKSUM
            elif request.kind == Kind.PROBE:
                status = Status.OK
            elif waiting > self._queue:  # one of the others is being computed, it does not wait
                status = Status.BUSY
            else:
                status, logits, times = self._compute(request, payload, first_s)
        finally:
            with self._guard:
                self._waiting -= 1
        reply = Reply(
            request.sequence,
            status,
            len(logits),
            checksum(logits),
            request.exit,
            min(waiting, LONGEST_WAIT),
            *times,
            after_first,
            dispersion_s,
        )
        return reply, logits

    def _hang_up(self, peer: socket.socket, inbox: Inbox) -> int:
        """Close so that the refusal arrives: closing with unread bytes would make TCP throw it away. Always -1."""
        peer.shutdown(socket.SHUT_WR)
        inbox.drop(len(inbox))
        end_s = self._clock() + DRAIN_S
        while (left_s := end_s - self._clock()) > 0:
            peer.settimeout(left_s)
            if peer.recv_into(inbox.space()) == 0:
                break
        return -1


def _tune(peer: socket.socket) -> None:
    if peer.family == socket.AF_UNIX:
        return
    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option in ("TCP_KEEPIDLE", "TCP_KEEPINTVL"):  # not every system has them; the default is two hours
        if hasattr(socket, option):
            peer.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), KEEP_ALIVE_S)


TLS_OPTIONS = {
    "certificate": "certificate of this edge; with it every device has to show one of the authority",
    "key": "its private key",
    "authority": "certificate of the authority that signed the devices'",
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see {self.prog} --help")


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _Parser(
        prog="cutlayer-edge",
        description="Run the edge's part of a split network for devices that connect.",
        epilog="example:\n  cutlayer-edge --graphs runs/demo/graphs --port 7400\n\n"
        'prints {"ready": true, "address": ..., "host": ..., "port": ...} once it can serve, and ends on SIGTERM or SIGINT.',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--graphs", type=Path, required=True, metavar="DIR", help="folder of exported graphs")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=0, help="port to listen on; 0 takes any free one (default: %(default)s)")
    parser.add_argument("--unix", type=Path, metavar="PATH", help="listen on a Unix socket instead")
    for name, what in TLS_OPTIONS.items():
        parser.add_argument(f"--tls-{name}", type=Path, metavar="PEM", help=what)
    parser.add_argument(
        "--idle-s", type=float, default=IDLE_S, help="silence within a frame after which a device is given up (default: %(default)s)"
    )
    parser.add_argument("--queue", type=int, default=16, help="requests that may wait; more are refused as busy (default: %(default)s)")
    parser.add_argument(
        "--batch-window-ms",
        type=float,
        default=0.0,
        metavar="W",
        help="run requests of one exit and partition that come within W ms as one batch; 0 runs each by itself (default: %(default)s)",
    )
    parser.add_argument(
        "--batch", type=int, default=8, metavar="N", help="a batch of N does not wait for its window (default: %(default)s)"
    )
    parser.add_argument("--insecure", action="store_true", help="allow an address that other machines reach, without TLS")
    parser.add_argument("--verbose", action="store_true", help="say on stderr whom it refuses or hangs up on, and why")
    options = parser.parse_args(argv)
    for name, fits in (
        ("idle_s", 0 < options.idle_s < float("inf")),
        ("queue", options.queue >= 0),
        ("batch_window_ms", 0 <= options.batch_window_ms <= 1e3 * DRAIN_S),
        ("batch", options.batch > 1),
    ):
        if not fits:
            raise ConfigError(f"--{name.replace('_', '-')} {getattr(options, name)} is out of range; see {parser.prog} --help")
    if options.batch_window_ms and options.queue < options.batch - 1:
        raise ConfigError(f"--queue {options.queue} is too short for a batch of {options.batch}; give at least {options.batch - 1}")
    if not 0 <= options.port <= 65535:
        raise ConfigError(f"--port {options.port} is no port; give one from 1 to 65535, or 0 for any free one")
    return options


def _tls(options: argparse.Namespace) -> ssl.SSLContext | None:
    """What the three options ask for.

    Raises:
        ConfigError: some of them are given and others are not, or the files are no certificate.
    """
    paths = {name: getattr(options, f"tls_{name}") for name in TLS_OPTIONS}
    missing = [f"--tls-{name}" for name, path in paths.items() if path is None]
    if len(missing) == len(paths):
        return None
    if missing:
        raise ConfigError(f"{missing[0]} is missing; TLS needs {', '.join(f'--tls-{name}' for name in TLS_OPTIONS)}")
    return Certificates(**paths).server()


@contextlib.contextmanager
def _stopped_by_signals(server: EdgeServer) -> Iterator[None]:
    before = {number: signal.signal(number, lambda *_: server.stop()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `cutlayer-edge`; returns the exit code: 0 after a signal, 2 on bad input."""
    try:
        options = _arguments(argv)
        if options.verbose:
            logging.basicConfig(level=logging.INFO, format="cutlayer-edge: %(message)s")
        graphs = Graphs(options.graphs)
        # Before the warm-up: a port in use is told at once.
        address = Address(path=options.unix) if options.unix else Address(options.host, options.port)
        limits = {"tls": _tls(options), "insecure": options.insecure, "idle_s": options.idle_s, "queue": options.queue}
        batches = Batches(graphs, 1e-3 * options.batch_window_ms, options.batch) if options.batch_window_ms else None
        with EdgeServer(graphs, address, compute=batches, **limits) as server, _stopped_by_signals(server):
            graphs.warm_up("edge")
            if batches is not None:
                graphs.warm_up_batches(options.batch)
            where = server.address
            place = {"host": where.host, "port": where.port} if where.path is None else {"path": str(where.path)}
            print(json.dumps({"ready": True, "address": str(where), **place}), flush=True)
            server.serve()
    except CutlayerError as error:
        print(f"cutlayer-edge: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

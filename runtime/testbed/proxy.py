"""A link emulated by a TCP proxy: no root, no namespace, no loss. Run by `link.ProxyLink`.

What a device sends waits, crosses the link at its rate in packets of the size TCP would make, and is written on to the edge when it
arrives there. What differs from a real link: the handshake of a new connection costs nothing, nothing is lost, and a device
that resets its connection takes back what has not left yet. The kernel tells the device that bytes were acknowledged which wait here; what
has arrived stands in a gauge (`gauge`).
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import struct
import sys
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from cutlayer.profiles.cost import MSS_BYTES, OVERHEAD_BYTES
from cutlayer.runtime.testbed import gauge as gauges
from cutlayer.runtime.testbed.launch import favour
from cutlayer.runtime.testbed.ways import Ways

if TYPE_CHECKING:
    from cutlayer.runtime.testbed.gauge import Gauge
    from cutlayer.runtime.testbed.pipe import Pipe


class Parcel(NamedTuple):
    """Bytes for an end; none at all: the sender has closed."""

    target: End
    data: bytes


class End:
    """One side of a connection through the proxy: a socket, what waits to be written to it, and the other side."""

    def __init__(self, peer: socket.socket, pipe: Pipe[Parcel]) -> None:
        self.socket, self.pipe = peer, pipe
        self.other: End
        self.port = int(peer.getpeername()[1])
        self.reading = True
        self._unwritten = bytearray()
        self._closing = False
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer.setblocking(False)

    @property
    def writing(self) -> bool:
        """Whether bytes wait because the reader is slow."""
        return bool(self._unwritten)

    def read(self) -> None:
        """Take one packet's worth and hand it to the link; raises OSError where the peer is gone."""
        data = self.socket.recv(MSS_BYTES)
        self.reading = bool(data)
        self.pipe.push(time.monotonic(), Parcel(self.other, data), len(data) + OVERHEAD_BYTES)

    def deliver(self, data: bytes) -> None:
        """The link has brought this."""
        self._closing |= not data
        self._unwritten += data
        self.write()

    def write(self) -> None:
        """Write what the reader takes; raises OSError where it is gone."""
        with contextlib.suppress(BlockingIOError):
            while self._unwritten:
                del self._unwritten[: self.socket.send(self._unwritten)]
        if self._closing and not self._unwritten:
            self.socket.shutdown(socket.SHUT_WR)

    def abort(self) -> None:
        """Reset both sides and take back what has not left."""
        for end in (self, self.other):
            with contextlib.suppress(OSError):
                end.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            end.socket.close()
            end.pipe.forget(lambda parcel, end=end: parcel.target is end.other)  # type: ignore[misc]  # a default binds the loop's value


def carry(listener: socket.socket, edge: tuple[str, int], ways: Ways[Parcel], gauge: Gauge) -> None:
    """Serve connections until stdin ends."""
    ends: list[End] = []
    while True:
        ends = [end for end in ends if end.socket.fileno() >= 0]
        # A queue that is full is not read into: TCP's flow control holds the sender back.
        reading = {end.socket: end for end in ends if end.reading and end.pipe.has_room()}
        writing = {end.socket: end for end in ends if end.writing}
        sources: list[Any] = [0, listener, *reading]
        readable, writable, _ = select.select(sources, [*writing], [], ways.timeout_s())
        for ready, table, act in ((readable, reading, End.read), (writable, writing, End.write)):
            for one in ready:
                if one in table and one.fileno() >= 0:
                    _try(table[one], act)
        for pipe in (ways.up, ways.down):
            for target, data in pipe.pop(time.monotonic()):
                if pipe is ways.up:
                    gauge.tell(target.other.port, gauge.arrived(target.other.port) + len(data))
                if target.socket.fileno() >= 0:
                    _try(target, End.deliver, data)
        if listener in readable:
            ends += _admit(listener, edge, ways, gauge)
        if 0 in readable:
            got = os.read(0, 65536)
            if not got:
                return
            sys.stdout.write(ways.obey(got))
            sys.stdout.flush()


def _try(end: End, act: object, *arguments: object) -> None:
    try:
        act(end, *arguments)  # type: ignore[operator]  # one of End's methods
    except BlockingIOError:
        pass
    except OSError:
        end.abort()


def _admit(listener: socket.socket, edge: tuple[str, int], ways: Ways[Parcel], gauge: Gauge) -> list[End]:
    device, (_, port) = listener.accept()
    gauge.tell(port, 0)
    try:
        server = socket.create_connection(edge, timeout=1.0)  # on this machine: at once or never
    except OSError:
        device.close()
        return []
    ends = [End(device, ways.up), End(server, ways.down)]
    ends[0].other, ends[1].other = ends[1], ends[0]
    return ends


def main(arguments: list[str]) -> int:
    """Run as `python -m cutlayer.runtime.testbed.proxy SEED QUEUE_BYTES EDGE_PORT`; prints its port once it listens."""
    favour()
    seed, queue_bytes, port = map(int, arguments)
    with socket.create_server(("127.0.0.1", 0)) as listener, gauges.new() as (name, gauge):
        print(json.dumps({"port": listener.getsockname()[1], "gauge": name}), flush=True)
        carry(listener, ("127.0.0.1", port), Ways(seed, queue_bytes), gauge)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""A link between two network namespaces, emulated by one process that carries every packet. Root; run by `link.TunLink`.

    device's namespace, 10.77.0.1 --- TUN --- this process --- TUN --- edge's namespace, 10.77.0.2

What has arrived of each connection of the device stands in a gauge (`gauge`). A connection that its sender resets takes its packets out
of the queue: on a device whose own radio is the narrow place they would still lie in the socket (Linux: TCP small queues), where a reset
frees them, while a TUN takes them all at once.

Commands come on stdin (`ways`). At its end the process ends, and namespaces and interfaces with it.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

from cutlayer.errors import ConfigError
from cutlayer.runtime.testbed import gauge as gauges
from cutlayer.runtime.testbed import namespaces
from cutlayer.runtime.testbed.launch import favour
from cutlayer.runtime.testbed.ways import Ways

if TYPE_CHECKING:
    from collections.abc import Callable

    from cutlayer.runtime.testbed.gauge import Gauge
    from cutlayer.runtime.testbed.pipe import Pipe

DEVICE_ADDRESS, EDGE_ADDRESS = "10.77.0.1", "10.77.0.2"  # our choice, from the private block 10/8: seen by nobody but the two ends
NAME, NETWORK = "cutlayer", "10.77.0.0"
WINDOW = 64  # packets, our choice: more than any input has (the raw image: 35), so that a connection that is made anew costs no round trips
ETHERNET_BYTES = 14  # a TUN packet has no Ethernet header; the wire that `profiles.cost` models has one
TCP_SYN, TCP_RESET = 0x02, 0x04  # of the flags, byte 13 of the header (RFC 9293)
PACKET_BYTES = 2048  # more than the interfaces' 1500


class Watch:
    """Tells a gauge how far the device's connections have come, from their packets as they arrive."""

    def __init__(self, gauge: Gauge) -> None:
        self._gauge = gauge
        self._first: dict[int, int] = {}  # sequence number of a connection's first byte, by its port at the device

    def arrived(self, packet: bytes) -> None:
        """A packet has crossed the link."""
        if not _flow(packet):
            return
        at = 4 * (packet[0] & 15)
        port, sequence = int.from_bytes(packet[at : at + 2]), int.from_bytes(packet[at + 4 : at + 8])
        if packet[at + 13] & TCP_SYN:
            self._first[port] = sequence + 1
            self._gauge.tell(port, 0)
        elif port in self._first:
            count = int.from_bytes(packet[2:4]) - at - 4 * (packet[at + 12] >> 4)
            reached = (sequence + count - self._first[port]) & 0xFFFFFFFF
            if count > 0 and self._gauge.arrived(port) < reached < 1 << 31:  # neither sent again nor from before the connection
                self._gauge.tell(port, reached)


def carry(device: int, edge: int, ways: Ways[bytes], watch: Watch) -> None:
    """Move packets between the two descriptors until stdin ends."""
    routes = ((device, ways.up, edge), (edge, ways.down, device))
    while True:
        # select rounds to microseconds; epoll would round to milliseconds.
        readable, _, _ = select.select([0, device, edge], [], [], ways.timeout_s())
        for source, pipe, _ in routes:
            if source in readable:
                _take(source, pipe)
        for _, pipe, target in routes:
            for packet in pipe.pop(time.monotonic()):
                if pipe is ways.up:
                    watch.arrived(packet)
                # The other end may not be up yet, or its buffer full: a packet lost, as on any link.
                with contextlib.suppress(OSError):
                    os.write(target, packet)
        if 0 in readable:
            got = os.read(0, 65536)
            if not got:
                return
            sys.stdout.write(ways.obey(got))
            sys.stdout.flush()


def _take(source: int, pipe: Pipe[bytes]) -> None:
    with contextlib.suppress(BlockingIOError):
        while True:
            packet = os.read(source, PACKET_BYTES)
            if (flow := _reset(packet)) is not None:
                pipe.forget(lambda one, flow=flow: _flow(one) == flow)  # type: ignore[misc]  # a default binds the loop's value
            pipe.push(time.monotonic(), packet, len(packet) + ETHERNET_BYTES)


def _flow(packet: bytes) -> bytes:
    """Addresses and ports of a packet of TCP over IPv4; empty for any other."""
    at = 4 * (packet[0] & 15)
    return packet[12:20] + packet[at : at + 4] if packet[0] >> 4 == 4 and packet[9] == socket.IPPROTO_TCP else b""


def _reset(packet: bytes) -> bytes | None:
    """The flow that a packet resets, if it does."""
    flow = _flow(packet)
    return flow if flow and packet[4 * (packet[0] & 15) + 13] & TCP_RESET else None


class End(NamedTuple):
    """One end of the link: descriptors of its namespace and of the TUN in it."""

    space: int
    device: int


def end(address: str) -> End:
    """A namespace and the TUN in it; this process is in it then.

    Connections keep and begin with a wide window: the cost model knows of no slow start.
    """
    space = namespaces.new()
    namespaces.keep_window_when_idle()
    device = namespaces.tun(NAME, address)
    namespaces.begin_with_window(NAME, NETWORK, WINDOW)
    return End(space, device)


def emulate(make: Callable[[], tuple[End, End, Ways[bytes]]]) -> int:
    """Make the device's end, the edge's and the ways between, say where they are, and carry packets until stdin ends; the exit code."""
    try:
        device, edge, ways = make()
    except ConfigError as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return 2
    with gauges.new() as (name, gauge):
        print(json.dumps({"pid": os.getpid(), "device": device.space, "edge": edge.space, "gauge": name}), flush=True)
        carry(device.device, edge.device, ways, Watch(gauge))
    return 0


def main(arguments: list[str]) -> int:
    """Run as `python -m cutlayer.runtime.testbed.tun SEED QUEUE_BYTES`; prints where the namespaces are once packets are carried."""
    favour()
    seed, queue_bytes = map(int, arguments)
    return emulate(lambda: (end(DEVICE_ADDRESS), end(EDGE_ADDRESS), Ways(seed, queue_bytes)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""A link between two network namespaces, emulated by one process that carries every packet. Root; run by `link.TunLink`.

    device's namespace, 10.77.0.1 --- TUN --- this process --- TUN --- edge's namespace, 10.77.0.2

A connection that its sender resets takes its packets out of the queue: on a device whose own radio is the narrow place they would
still lie in the socket (Linux: TCP small queues), where a reset frees them, while a TUN takes them all at once.

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
from typing import TYPE_CHECKING

from cutlayer.errors import ConfigError
from cutlayer.runtime.testbed import namespaces
from cutlayer.runtime.testbed.launch import favour
from cutlayer.runtime.testbed.ways import Ways

if TYPE_CHECKING:
    from cutlayer.runtime.testbed.pipe import Pipe

DEVICE_ADDRESS, EDGE_ADDRESS = "10.77.0.1", "10.77.0.2"  # our choice, from the private block 10/8: seen by nobody but the two ends
NAME, NETWORK = "cutlayer", "10.77.0.0"
WINDOW = 64  # packets, our choice: more than any input has (the raw image: 35), so that a connection that is made anew costs no round trips
ETHERNET_BYTES = 14  # a TUN packet has no Ethernet header; the wire that `profiles.cost` models has one
TCP_RESET = 0x04  # of the flags, byte 13 of the header (RFC 9293)
PACKET_BYTES = 2048  # more than the interfaces' 1500


def carry(device: int, edge: int, ways: Ways[bytes]) -> None:
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


def _end(address: str) -> tuple[int, int]:
    """A namespace and the TUN in it. Connections keep and begin with a wide window: the cost model knows of no slow start."""
    space = namespaces.new()
    namespaces.keep_window_when_idle()
    device = namespaces.tun(NAME, address)
    namespaces.begin_with_window(NAME, NETWORK, WINDOW)
    return space, device


def main(arguments: list[str]) -> int:
    """Run as `python -m cutlayer.runtime.testbed.tun SEED QUEUE_BYTES`; prints where the namespaces are once packets are carried."""
    favour()
    seed, queue_bytes = map(int, arguments)
    try:
        (edge_space, edge), (device_space, device) = (_end(address) for address in (EDGE_ADDRESS, DEVICE_ADDRESS))
    except ConfigError as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return 2
    print(json.dumps({"pid": os.getpid(), "device": device_space, "edge": edge_space}), flush=True)
    carry(device, edge, Ways(seed, queue_bytes))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""A link between two network namespaces, emulated by one process that carries every packet. Root; run by `link.TunLink`.

    device's namespace, 10.77.0.1 --- TUN --- this process --- TUN --- edge's namespace, 10.77.0.2

Commands come on stdin (`ways`). At its end the process ends, and namespaces and interfaces with it.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
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
ETHERNET_BYTES = 14  # a TUN packet has no Ethernet header; the wire that `profiles.cost` models has one
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
            pipe.push(time.monotonic(), packet, len(packet) + ETHERNET_BYTES)


def main(arguments: list[str]) -> int:
    """Run as `python -m cutlayer.runtime.testbed.tun SEED QUEUE_BYTES`; prints where the namespaces are once packets are carried."""
    favour()
    seed, queue_bytes = map(int, arguments)
    try:
        edge_space = namespaces.new()
        namespaces.keep_window_when_idle()
        edge = namespaces.tun("cutlayer", EDGE_ADDRESS)
        device_space = namespaces.new()
        namespaces.keep_window_when_idle()
        device = namespaces.tun("cutlayer", DEVICE_ADDRESS)
    except ConfigError as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return 2
    print(json.dumps({"pid": os.getpid(), "device": device_space, "edge": edge_space}), flush=True)
    carry(device, edge, Ways(seed, queue_bytes))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

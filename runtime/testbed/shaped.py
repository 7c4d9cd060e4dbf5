"""The TUN link with the kernel's token bucket (`tbf`) in the place of our own queue and rate. Root, pyroute2; run by `link.TbfLink`.

    device's namespace --- tbf --- TUN --- this process: delay, jitter, loss --- TUN --- tbf --- edge's namespace

What waits for the link waits in the kernel, as on a device whose own radio is the narrow place; so TCP holds back what would wait, and a
reset frees it. What the kernel's way costs: a bucket that lay idle lets a burst through at once, and so does each change of the
rate, which fills it. The bucket is as small as it may be, one packet or what the rate carries in half a millisecond.
"""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import sys
from typing import TYPE_CHECKING, Any

from cutlayer.errors import ConfigError
from cutlayer.runtime.testbed import tun
from cutlayer.runtime.testbed.launch import favour
from cutlayer.runtime.testbed.pipe import QUEUE_BYTES, UNLIMITED_BPS
from cutlayer.runtime.testbed.ways import Ways

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cutlayer.runtime.testbed.pipe import Conditions, Pipe

HANDLE = 0x10000  # 1:0, of the only discipline there
PACKET_BYTES = 1500  # the interface's largest packet, which the bucket must hold
BURST_BYTES = 1600  # our choice: that packet and air; 3,200 let 10 kB at 10 Mb/s through a third too fast, 1,600 a seventh (measured)
BURST_S = 5e-4  # our choice: fast links need larger buckets, or the timer's grain slows them
TOP_BPS = 10e9  # our choice: what no limit means, far beyond what this process carries (1 Gb/s)
OUTAGE_BPS = 64.0  # 8 bytes a second: a rate of nothing is none for the kernel, and a bucket may take 275 s to fill (32 bits of 64 ns)
NOBODY = ("10.77.0.254", 9)  # in the network of the two ends, and neither: what is sent there crosses the link and is thrown away


def bucket(rate_bps: float, queue_bytes: int) -> dict[str, int]:
    """A rate of Ethernet's bytes as options of `tbf`: bytes a second, of the bucket and of the queue."""
    # The kernel counts packets without Ethernet's head here; whole packets at the scaled rate take the time that they should.
    wire_bps = min(max(rate_bps, OUTAGE_BPS), TOP_BPS)
    rate = max(1, round(wire_bps / 8 * PACKET_BYTES / (PACKET_BYTES + tun.ETHERNET_BYTES)))
    return {"rate": rate, "burst": max(BURST_BYTES, round(rate * BURST_S)), "limit": queue_bytes}


class Shaper:
    """The token bucket at one end; made in the namespace of that end."""

    def __init__(self, queue_bytes: int) -> None:
        try:
            from pyroute2 import IPRoute  # only who asks for this backend needs it
        except ImportError as error:
            raise ConfigError("backend tbf needs pyroute2; install it with: pip install 'cutlayer[testbed]'") from error
        self._queue_bytes = queue_bytes
        self._rate_bps = -1.0
        self._route: Any = IPRoute()
        self._index = socket.if_nametoindex(tun.NAME)
        self._nobody = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.set(UNLIMITED_BPS)

    def set(self, rate_bps: float) -> None:
        """Carry that much from now on.

        Raises:
            ConfigError: the kernel has no `tbf`.
        """
        if rate_bps == self._rate_bps:  # each change fills the bucket
            return
        from pyroute2.netlink.exceptions import NetlinkError

        try:
            self._route.tc("replace", "tbf", self._index, HANDLE, **bucket(rate_bps, self._queue_bytes))
        except NetlinkError as error:
            raise ConfigError(f"the kernel refused the discipline tbf ({error}); use --backend tun") from error
        self._rate_bps = rate_bps
        # Packets that wait do so until the time that was found at the old rate, or until another packet comes: so let one come.
        with contextlib.suppress(OSError):
            self._nobody.sendto(b"", NOBODY)


class ShapedWays(Ways[bytes]):
    """Ways whose rates are the kernel's business."""

    def __init__(self, seed: int, up: Shaper, down: Shaper, queue_bytes: int = QUEUE_BYTES) -> None:
        super().__init__(seed, queue_bytes)
        self._shapers = {id(self.up): up, id(self.down): down}

    def change(self, pipe: Pipe[bytes], conditions: Conditions) -> None:
        """See `Ways`."""
        self._shapers[id(pipe)].set(conditions.rate_bps)
        super().change(pipe, dataclasses.replace(conditions, rate_bps=UNLIMITED_BPS))


def main(arguments: Sequence[str]) -> int:
    """Run as `python -m cutlayer.runtime.testbed.shaped SEED QUEUE_BYTES`; as `tun` else."""
    favour()
    seed, queue_bytes = map(int, arguments)

    def make() -> tuple[tun.End, tun.End, Ways[bytes]]:
        device, up = tun.end(tun.DEVICE_ADDRESS), Shaper(queue_bytes)
        edge, down = tun.end(tun.EDGE_ADDRESS), Shaper(queue_bytes)
        return device, edge, ShapedWays(seed, up, down)

    return tun.emulate(make)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The TUN emulator without a TUN: what a reset connection takes out of the queue."""

from __future__ import annotations

import socket
import struct

import pytest

from cutlayer.runtime.testbed import tun
from cutlayer.runtime.testbed.pipe import Conditions, Pipe

SYN, ACK, RST = 0x02, 0x10, 0x04


def packet(port, flags=ACK, protocol=socket.IPPROTO_TCP, words=5, payload=b""):
    """IPv4 with a header of so many words, and TCP from that port."""
    total = 4 * words + 20 + len(payload)
    header = struct.pack("!BBHHHBBH4s4s", 0x40 | words, 0, total, 0, 0, 64, protocol, 0, bytes([10, 77, 0, 1]), bytes([10, 77, 0, 2]))
    transport = struct.pack("!HHIIBBHHH", port, 7400, 0, 0, 5 << 4, flags, 0, 0, 0)
    return header + bytes(4 * words - 20) + transport + payload


@pytest.mark.parametrize("words", [5, 7])
def test_a_reset_takes_its_own_connections_packets_and_no_others(words):
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pipe = Pipe(Conditions(rate_bps=0.0), lambda: 0.5)
    with ours, theirs:
        theirs.setblocking(False)
        for one in (packet(1, words=words), packet(2), packet(1, words=words, payload=b"x"), packet(1, protocol=socket.IPPROTO_UDP)):
            ours.send(one)
        tun._take(theirs.fileno(), pipe)
        ours.send(reset := packet(1, RST | ACK, words=words))
        tun._take(theirs.fileno(), pipe)
    pipe.set(0.0, Conditions())
    assert pipe.pop(1e12) == [packet(2), packet(1, protocol=socket.IPPROTO_UDP), reset]


def test_what_is_no_tcp_over_ipv4_belongs_to_no_connection():
    assert tun._reset(packet(1, SYN)) is None
    assert tun._reset(packet(1, RST, protocol=socket.IPPROTO_UDP)) is None
    assert tun._reset(b"\x60" + bytes(59)) is None

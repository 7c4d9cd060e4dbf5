"""The TUN emulator without a TUN: what a reset connection takes out of the queue."""

from __future__ import annotations

import socket
import struct

import pytest

from cutlayer.runtime.testbed import gauge as gauges
from cutlayer.runtime.testbed import tun
from cutlayer.runtime.testbed.pipe import Conditions, Pipe

SYN, ACK, RST = 0x02, 0x10, 0x04


def packet(port, flags=ACK, protocol=socket.IPPROTO_TCP, words=5, payload=b"", sequence=0):
    """IPv4 with a header of so many words, and TCP from that port."""
    total = 4 * words + 20 + len(payload)
    header = struct.pack("!BBHHHBBH4s4s", 0x40 | words, 0, total, 0, 0, 64, protocol, 0, bytes([10, 77, 0, 1]), bytes([10, 77, 0, 2]))
    transport = struct.pack("!HHIIBBHHH", port, 7400, sequence & 0xFFFFFFFF, 0, 5 << 4, flags, 0, 0, 0)
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


@pytest.mark.parametrize("first", [7, 2**32 - 50])
@pytest.mark.parametrize("words", [5, 7])
def test_what_has_crossed_is_counted_once_whatever_is_sent_again(first, words):
    """A sequence number that wraps round, packets sent again, two connections from one port one after the other."""
    with gauges.new() as (name, gauge):
        watch, radio = tun.Watch(gauge), gauges.read(name)
        watch.arrived(packet(5, SYN, sequence=first, words=words))
        for start, size, count in ((0, 100, 100), (0, 100, 100), (100, 1448, 1548), (1548, 0, 1548), (50, 10, 1548), (-1, 0, 1548)):
            watch.arrived(packet(5, payload=bytes(size), sequence=first + 1 + start, words=words))
            assert radio.arrived(5) == count
        watch.arrived(packet(5, payload=b"x", sequence=first + 1549, protocol=socket.IPPROTO_UDP))
        watch.arrived(b"\x60" + bytes(59))
        assert (radio.arrived(5), radio.arrived(6)) == (1548, 0)
        watch.arrived(packet(5, SYN, sequence=3))
        watch.arrived(packet(5, payload=b"xy", sequence=4))
        assert radio.arrived(5) == 2

"""Network namespaces without names: they live as long as a process holds them, so a crash leaves nothing behind. Linux, root.

A namespace is a file descriptor. Another process enters it through `/proc/PID/fd/N` of the process that holds it.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
from pathlib import Path

from cutlayer.errors import ConfigError

CLONE_NEWNET = 0x40000000  # linux/sched.h
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000  # linux/if_tun.h
_SIOCSIFADDR, _SIOCSIFNETMASK, _SIOCGIFFLAGS, _SIOCSIFFLAGS = 0x8916, 0x891C, 0x8913, 0x8914  # linux/sockios.h
_IFF_UP = 0x1  # linux/if.h
_NEWROUTE, _TABLE_MAIN, _PROTO_KERNEL, _SCOPE_LINK, _UNICAST = 24, 254, 2, 253, 1  # linux/rtnetlink.h
_RTA_DST, _RTA_OIF, _RTA_METRICS, _RTAX_INITCWND = 1, 4, 8, 11  # linux/rtnetlink.h
_REQUEST_ACK_REPLACE_CREATE = 0x1 | 0x4 | 0x100 | 0x400  # linux/netlink.h


def _call(name: str, *arguments: int) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    if getattr(library, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise ConfigError(f"{name} was refused ({os.strerror(number)}): network namespaces need root; use --backend proxy")


def new() -> int:
    """Put this process into a new network namespace, its loopback up; a descriptor that holds it."""
    _call("unshare", CLONE_NEWNET)
    _flags_up("lo")
    return os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def enter(descriptor: int) -> None:
    """Put this process into the namespace that the descriptor holds."""
    _call("setns", descriptor, CLONE_NEWNET)


def tun(name: str, address: str, netmask: str = "255.255.255.0") -> int:
    """A TUN interface in this process's namespace, up; packets of IP come and go through the descriptor, which does not block.

    Raises:
        ConfigError: `/dev/net/tun` is missing or closed to this user.
    """
    try:
        descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ConfigError(f"/dev/net/tun: {error.strerror}; load the module `tun`, be root, or use --backend proxy") from error
    fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for request, value in ((_SIOCSIFADDR, address), (_SIOCSIFNETMASK, netmask)):
            fcntl.ioctl(control, request, struct.pack("16sHH4s8x", name.encode(), socket.AF_INET, 0, socket.inet_aton(value)))
    _flags_up(name)
    return descriptor


def keep_window_when_idle() -> None:
    """In this namespace a connection keeps its window while it is idle; else transfers after a pause take up to twice as long."""
    Path("/proc/sys/net/ipv4/tcp_slow_start_after_idle").write_text("0", encoding="ascii")


def begin_with_window(name: str, network: str, packets: int) -> None:
    """New connections over this interface begin with a window of so many packets; else of ten, doubled each round trip (RFC 6928).

    network: the address of its /24. As `ip route replace NETWORK/24 dev NAME initcwnd PACKETS` does, by the kernel's own messages.
    """
    metrics = attribute(_RTAX_INITCWND, struct.pack("I", packets))
    attributes = [
        attribute(_RTA_DST, socket.inet_aton(network)),
        attribute(_RTA_OIF, struct.pack("I", socket.if_nametoindex(name))),
        attribute(_RTA_METRICS, metrics),
    ]
    route = struct.pack("BBBBBBBBI", socket.AF_INET, 24, 0, 0, _TABLE_MAIN, _PROTO_KERNEL, _SCOPE_LINK, _UNICAST, 0) + b"".join(attributes)
    if error := ask(_NEWROUTE, _REQUEST_ACK_REPLACE_CREATE, route):
        raise ConfigError(f"the route of {name} was not changed ({os.strerror(error)}); use --backend proxy")


def ask(kind: int, flags: int, body: bytes) -> int:
    """Send the kernel's routing a message; the number of the error it answers with, 0 for none (rtnetlink(7))."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as kernel:
        kernel.send(struct.pack("IHHII", 16 + len(body), kind, flags, 1, 0) + body)
        answer: tuple[int] = struct.unpack_from("i", kernel.recv(4096), 16)
    return -answer[0]


def attribute(kind: int, value: bytes) -> bytes:
    """A part of such a message."""
    return struct.pack("HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def _flags_up(name: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        asked = fcntl.ioctl(control, _SIOCGIFFLAGS, struct.pack("16sH22x", name.encode(), 0))
        flags = struct.unpack("16sH22x", asked)[1]
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH22x", name.encode(), flags | _IFF_UP))

"""Which queueing disciplines the kernel knows, found by asking it to use them: `python -m cutlayer.runtime.testbed.qdiscs`. Linux, root.

In a namespace of its own, on its loopback, without options: a discipline that is known is taken, or refused for want of options (EINVAL);
one that is not known is refused as such (ENOENT). Prints one JSON object, and leaves nothing behind.
"""

from __future__ import annotations

import errno
import json
import socket
import struct
import sys

from cutlayer.errors import ConfigError
from cutlayer.runtime.testbed import namespaces

KINDS = ("tbf", "netem")
_NEWQDISC, _REQUEST_ACK_CREATE = 36, 0x1 | 0x4 | 0x400  # linux/rtnetlink.h, linux/netlink.h
_KIND, _ROOT = 1, 0xFFFFFFFF  # linux/rtnetlink.h, linux/pkt_sched.h


def known(kind: str) -> bool:
    """Whether the kernel has that discipline; asked on the loopback of this process's namespace."""
    where = struct.pack("BxxxiIII", socket.AF_UNSPEC, socket.if_nametoindex("lo"), 0, _ROOT, 0)
    error = namespaces.ask(_NEWQDISC, _REQUEST_ACK_CREATE, where + namespaces.attribute(_KIND, kind.encode() + b"\0"))
    return error != errno.ENOENT


def main() -> int:
    """See the module."""
    try:
        namespaces.new()
    except ConfigError as error:
        print(json.dumps({"error": str(error)}))
        return 2
    print(json.dumps({kind: known(kind) for kind in KINDS}))
    return 0


if __name__ == "__main__":
    sys.exit(main())

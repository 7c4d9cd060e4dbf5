"""A file that tells, for each connection of a device, how many of its bytes have crossed the emulated link.

The radio of a device knows what it has delivered from the radio's own acknowledgements, half a round trip after it left; so does the
simulator. TCP's acknowledgements come half a round trip later, and a proxy's come at once. So both emulators keep this gauge.
"""

from __future__ import annotations

import contextlib
import mmap
import struct
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_COUNT = struct.Struct("<q")
_PORTS = 65536


class Gauge:
    """Bytes that have crossed, by the port of the connection at the device."""

    def __init__(self, kept: mmap.mmap) -> None:
        self._kept = kept

    def arrived(self, port: int) -> int:
        """How many have, on the newest connection from that port."""
        count: tuple[int] = _COUNT.unpack_from(self._kept, port * _COUNT.size)
        return count[0]

    def tell(self, port: int, count: int) -> None:
        """Say how many have."""
        _COUNT.pack_into(self._kept, port * _COUNT.size, count)


@contextlib.contextmanager
def new() -> Iterator[tuple[str, Gauge]]:
    """A gauge that stands at nought, and the name of its file, which is gone after the block."""
    with tempfile.NamedTemporaryFile(prefix="cutlayer-gauge-") as file:
        file.truncate(_PORTS * _COUNT.size)
        with mmap.mmap(file.fileno(), _PORTS * _COUNT.size) as kept:
            yield file.name, Gauge(kept)


def read(name: str) -> Gauge:
    """The gauge of another process, by the name of its file; only to be read."""
    with Path(name).open("rb") as file:
        return Gauge(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))

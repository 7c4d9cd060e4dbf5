"""Both directions of an emulated link, and the commands that change them while it runs.

Commands come as JSON lines, {"up": {...}} or {"down": {...}} with the fields of `pipe.Conditions`; each is answered by one line with
the packets dropped and lost so far, or by the reason why it was refused.
"""

from __future__ import annotations

import json
import math
import random
import time
from typing import Generic

import msgspec

from cutlayer.errors import ConfigError
from cutlayer.runtime.testbed.pipe import QUEUE_BYTES, Conditions, Packet, Pipe


class Command(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """New conditions of one or both directions; None keeps them."""

    up: Conditions | None = None
    down: Conditions | None = None


class Ways(Generic[Packet]):
    """`up` from device to edge and `down` back, with no limit and no delay until a command comes."""

    def __init__(self, seed: int, queue_bytes: int = QUEUE_BYTES) -> None:
        draw = random.Random(seed).random
        self.up: Pipe[Packet] = Pipe(Conditions(), draw, queue_bytes)
        self.down: Pipe[Packet] = Pipe(Conditions(), draw, queue_bytes)
        self._decoder = msgspec.json.Decoder(Command)
        self._pending = b""

    def timeout_s(self) -> float | None:
        """How long nothing will happen by itself; None: for ever."""
        wait_s = min(self.up.wake_s(), self.down.wake_s()) - time.monotonic()
        return None if wait_s == math.inf else max(0.0, wait_s)

    def obey(self, got: bytes) -> str:
        """Take in what came on stdin; the answers to the whole lines of it."""
        *lines, self._pending = (self._pending + got).split(b"\n")
        return "".join(self._obey(line) + "\n" for line in lines)

    def _obey(self, line: bytes) -> str:
        try:
            command = self._decoder.decode(line)
        except (msgspec.DecodeError, ConfigError) as error:
            return json.dumps({"error": str(error)})
        for pipe, conditions in ((self.up, command.up), (self.down, command.down)):
            if conditions is not None:
                self.change(pipe, conditions)
        return json.dumps({"dropped": self.up.dropped + self.down.dropped, "lost": self.up.lost + self.down.lost})

    def change(self, pipe: Pipe[Packet], conditions: Conditions) -> None:
        """A direction is like this from now on."""
        pipe.set(time.monotonic(), conditions)

"""One direction of an emulated link, without any input or output: a queue, a rate, a delay, loss.

    packets wait in order, at most `queue_bytes` of them; more are dropped (drop-tail)
    the link carries `rate_bps`, whatever it is at the moment: a change acts on the packet that is half way through
    a packet that left arrives `delay_s` later, plus or minus jitter, never before the one in front of it

Whoever moves packets (`tun.py`, `proxy.py`) pushes them in with the present time, sleeps until `wake_s()` and pops what has arrived.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from cutlayer.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

Packet = TypeVar("Packet")

UNLIMITED_BPS = 1e12  # a packet in 12 ns; JSON has no infinity
QUEUE_BYTES = 256 * 1024  # our choice: room for the input image of each network, and half a second at 4 Mb/s
PACKET_BYTES = 1514  # of Ethernet: the largest that anybody hands over
_TIMES_GRAIN_S = 1e-9  # bits left over by rounding are sent within a nanosecond, not scheduled again


@dataclass(frozen=True, slots=True)
class Conditions:
    """What a direction is like: rate (0: an outage), one-way delay, its jitter (uniform, plus or minus), share lost."""

    rate_bps: float = UNLIMITED_BPS
    delay_s: float = 0.0
    jitter_s: float = 0.0
    loss: float = 0.0

    def __post_init__(self) -> None:
        for name, value, holds, must in (
            ("rate", self.rate_bps, 0.0 <= self.rate_bps < math.inf, "bits a second from 0 on"),
            ("delay", self.delay_s, 0.0 <= self.delay_s < math.inf, "seconds from 0 on"),
            ("jitter", self.jitter_s, 0.0 <= self.jitter_s <= self.delay_s, f"seconds from 0 to the delay ({self.delay_s})"),
            ("loss", self.loss, 0.0 <= self.loss < 1.0, "a share from 0 to under 1"),
        ):
            if not holds:
                raise ConfigError(f"{name} of the link is {value!r}; it must be {must}")


class Pipe(Generic[Packet]):
    """A direction of a link; time only moves forward. `draw` gives numbers from 0 to under 1, for jitter and loss."""

    def __init__(self, conditions: Conditions, draw: Callable[[], float], queue_bytes: int = QUEUE_BYTES) -> None:
        self.conditions = conditions
        self.dropped = 0  # packets, for want of room
        self.lost = 0  # packets, by the link's loss
        self._draw = draw
        self._room = queue_bytes
        self._waiting: deque[tuple[int, Packet]] = deque()  # bytes on the wire, packet; the first one is being sent
        self._queued_bytes = 0
        self._left_bits = 0.0  # of the first one
        self._now_s = 0.0
        self._under_way: deque[tuple[float, Packet]] = deque()  # arrival, packet
        self._last_arrival_s = -math.inf

    @property
    def queued_bytes(self) -> int:
        """Bytes that wait or are being sent."""
        return self._queued_bytes

    def has_room(self) -> bool:
        """Whether a packet of any usual size would be taken."""
        return self._queued_bytes + PACKET_BYTES <= self._room

    def set(self, now_s: float, conditions: Conditions) -> None:
        """From now on the link is like this."""
        self._advance(now_s)
        self.conditions = conditions

    def push(self, now_s: float, packet: Packet, wire_bytes: int) -> bool:
        """Hand a packet to the link; False where it is dropped because the queue is full."""
        self._advance(now_s)
        if self._waiting and self._queued_bytes + wire_bytes > self._room:
            self.dropped += 1
            return False
        if not self._waiting:
            self._left_bits = 8.0 * wire_bytes
        self._waiting.append((wire_bytes, packet))
        self._queued_bytes += wire_bytes
        self._advance(now_s)
        return True

    def pop(self, now_s: float) -> list[Packet]:
        """What has arrived by now, in order."""
        self._advance(now_s)
        arrived = []
        while self._under_way and self._under_way[0][0] <= now_s:
            arrived.append(self._under_way.popleft()[1])
        return arrived

    def wake_s(self) -> float:
        """When something happens next: a packet leaves or arrives; inf where nothing will before the next push or set."""
        at_s = self._under_way[0][0] if self._under_way else math.inf
        if self._waiting and self.conditions.rate_bps > 0.0:
            at_s = min(at_s, self._now_s + self._left_bits / self.conditions.rate_bps)
        return at_s

    def forget(self, mine: Callable[[Packet], bool]) -> None:
        """Take out the packets that have not left yet and are `mine`: their sender has cancelled them."""
        first = self._waiting[0] if self._waiting else None
        self._waiting = deque(one for one in self._waiting if not mine(one[1]))
        self._queued_bytes = sum(size for size, _ in self._waiting)
        if self._waiting and self._waiting[0] is not first:
            self._left_bits = 8.0 * self._waiting[0][0]

    def _advance(self, now_s: float) -> None:
        """Send what the rate allows until now."""
        while self._waiting:
            rate_bps = self.conditions.rate_bps
            takes_s = self._left_bits / rate_bps if rate_bps > 0.0 else math.inf
            if self._now_s + takes_s > now_s + _TIMES_GRAIN_S:
                self._left_bits -= rate_bps * max(0.0, now_s - self._now_s)
                break
            self._now_s += takes_s
            self._leave()
        self._now_s = max(self._now_s, now_s)

    def _leave(self) -> None:
        size, packet = self._waiting.popleft()
        self._queued_bytes -= size
        self._left_bits = 8.0 * self._waiting[0][0] if self._waiting else 0.0
        now = self.conditions
        if now.loss > 0.0 and self._draw() < now.loss:
            self.lost += 1
            return
        delay_s = now.delay_s + (now.jitter_s * (2.0 * self._draw() - 1.0) if now.jitter_s > 0.0 else 0.0)
        self._last_arrival_s = max(self._last_arrival_s, self._now_s + delay_s)
        self._under_way.append((self._last_arrival_s, packet))

"""What the reference's device carries from one request to the next: its heat, its charge, and what is loaded.

Each is written as its specification in `spec` says it, step by step; the compiled engine computes the same in closed form.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cutlayer.envs.spec import Battery, Memory, Segments, Thermal
    from cutlayer.envs.streams import Streams


class Heat:
    """Temperature of the processor: it warms while work runs and cools in between."""

    def __init__(self, thermal: Thermal) -> None:
        self.thermal = thermal
        self.at_s, self.temperature_c = 0.0, thermal.idle_c

    def rest(self, until_s: float) -> None:
        """Nothing ran until then."""
        self._tend(self.thermal.idle_c, until_s)

    def work(self, until_s: float) -> None:
        """Something ran until then."""
        self._tend(self.thermal.busy_c, until_s)

    def throttle(self) -> float:
        """Factor by which work that begins now takes longer."""
        thermal = self.thermal
        over = (self.temperature_c - thermal.throttle_c) / (thermal.limit_c - thermal.throttle_c)
        return 1.0 + (thermal.slowest - 1.0) * min(max(over, 0.0), 1.0)

    def _tend(self, level_c: float, until_s: float) -> None:
        kept = math.exp(-(until_s - self.at_s) / self.thermal.time_constant_s)
        self.temperature_c = level_c + (self.temperature_c - level_c) * kept
        self.at_s = until_s


class Charge:
    """Joules in the battery, reckoned whenever a request would begin."""

    def __init__(self, battery: Battery, streams: Streams) -> None:
        self.battery, self.slot_s, self.harvest_w = battery, streams.slot_s, streams.harvest_w.tolist()
        self.at_s, self.charge_j = 0.0, battery.start * battery.capacity_j
        self.unpaid_j = 0.0  # sending and late answers of the time since the link was last known to be idle

    def reckon(self, now_s: float, link_known_free_s: float) -> None:
        """Take up all that came in and was drawn since the last time.

        `link_known_free_s` is when the device learnt that its last transfer had ended.
        """
        change = self._harvested(now_s) - self.battery.idle_w * (now_s - self.at_s)
        if link_known_free_s <= now_s:
            change -= self.unpaid_j
            self.unpaid_j = 0.0
        self.charge_j = min(max(self.charge_j + change, 0.0), self.battery.capacity_j)
        self.at_s = now_s

    def _harvested(self, until_s: float) -> float:
        slot = int(self.at_s / self.slot_s)
        total, at = 0.0, self.at_s
        while at < until_s:
            end = min(until_s, (slot + 1) * self.slot_s)
            total += self.harvest_w[min(slot, len(self.harvest_w) - 1)] * (end - at)
            slot, at = slot + 1, end
        return total


class Loaded:
    """Which segments the device holds, the least recently used first, and which one ran last."""

    def __init__(self, segments: Segments, memory: Memory | None) -> None:
        self.segments, self.memory = segments, memory
        self.running = -1
        self.resident: dict[int, float] = {}  # bytes of each unit, in order of last use

    def load_s(self, plan: int) -> float:
        """Make ready what `plan` runs; how long that takes."""
        unit, size = self.segments.unit[plan], self.segments.unit_bytes[plan]
        if unit < 0:
            return 0.0
        took = self.segments.swap_s[plan] if unit != self.running else 0.0
        self.running = unit
        if self.memory is None:
            return took
        if unit not in self.resident:
            took += size / self.memory.read_bytes_per_s + self.memory.init_s
            if size > self.memory.capacity_bytes:
                return took
            while sum(self.resident.values()) + size > self.memory.capacity_bytes:
                del self.resident[next(iter(self.resident))]
        self.resident.pop(unit, None)
        self.resident[unit] = size
        return took

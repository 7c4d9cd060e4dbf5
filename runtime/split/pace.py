"""A link emulated at the sender: when each segment would have left."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from cutlayer.errors import ConfigError
from cutlayer.profiles.cost import MSS_BYTES, OVERHEAD_BYTES

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

# (bytes, instant they are handed over) -> instant they have left; holds no state, so that a cancelled frame leaves none.
Pace = Callable[[int, float], float]


class TracePace:
    """A `Pace` of a link whose rate is constant within slots: rates_bps[i] from start_s + i * slot_s, in a circle.

    Every segment carries the overhead of its packet, as in `cutlayer.profiles.cost.wire_bytes`.

    Raises:
        ConfigError: no rate is above 0, or one is no rate: nothing would ever arrive.
    """

    def __init__(self, rates_bps: Sequence[float] | NDArray[np.float64], slot_s: float, start_s: float = 0.0) -> None:
        self._rates_bps = [float(rate) for rate in rates_bps]
        self._slot_s = slot_s
        self._start_s = start_s
        if not all(0 <= rate < math.inf for rate in self._rates_bps) or not any(self._rates_bps) or not 0 < slot_s < math.inf:
            raise ConfigError(f"rates {self._rates_bps[:5]} in slots of {slot_s} s carry nothing; give bits per second, some above 0")

    def __call__(self, count: int, now_s: float) -> float:
        left_bits = 8.0 * (count + math.ceil(count / MSS_BYTES) * OVERHEAD_BYTES)
        slot = math.floor((now_s - self._start_s) / self._slot_s)
        while True:
            rate_bps = self._rates_bps[slot % len(self._rates_bps)]
            end_s = self._start_s + (slot + 1) * self._slot_s
            carried_bits = rate_bps * max(0.0, end_s - now_s)
            if left_bits <= carried_bits:
                return now_s + left_bits / rate_bps
            left_bits -= carried_bits
            now_s, slot = end_s, slot + 1

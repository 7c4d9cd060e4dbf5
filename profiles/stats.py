"""Intervals of measured shares."""

from __future__ import annotations

import math


def wilson(count: float, n: float, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a share by Wilson's score (1927); (0, 1) where nothing was counted."""
    if n == 0:
        return 0.0, 1.0
    share = count / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)

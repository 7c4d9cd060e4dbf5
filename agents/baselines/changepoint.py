"""When a sequence changes its level: Bayesian online change-point detection (Adams and MacKay, arXiv 0710.3742, 2007).

Within a run the values are normal about an unknown level with known spread; the level of each run is drawn from the normal
prior; a run ends before any value with the same chance. Exact, but for runs longer than `LONGEST`, which count as that long.
"""

from __future__ import annotations

import numpy as np

LONGEST = 64  # our choice: by then a level is known to an eighth of the spread

# Our choice: steps of 0.2 % of the rate. Below it a constant link would have no spread at all, and every rounding would be a change.
LEAST_SPREAD = 1e-3


class ChangePoint:
    """How long the present run has lasted, and its level; nothing observed yet: run 0, the prior's mean."""

    def __init__(self, mean: float, spread: float, noise: float, hazard: float) -> None:
        """`mean` and `spread` of levels, `noise` within a run, `hazard` the chance that a run ends before the next value."""
        self._mean, self._precision = mean, max(spread, LEAST_SPREAD) ** -2
        self._weight = max(noise, LEAST_SPREAD) ** -2
        self._hazard = hazard
        # Of a run of 0, 1, ... values: precision of its level, variance of the next value, and how far that moves the level.
        known = self._precision + self._weight * np.arange(LONGEST + 1)
        self._variance = 1.0 / known + 1.0 / self._weight
        self._gain = self._weight / (known + self._weight)
        self.reset()

    def reset(self) -> None:
        """Forget every value."""
        self._levels = np.full(LONGEST + 1, self._mean)  # of a run of so many values
        self._chances = np.zeros(LONGEST + 1)
        self._chances[0] = 1.0
        self.run, self.level = 0, self._mean

    def observe(self, value: float) -> bool:
        """One more value; whether the most probable run is now a shorter one."""
        far = value - self._levels
        logs = -0.5 * (far * far / self._variance + np.log(self._variance))
        likely = np.exp(logs - logs.max())
        grown = self._chances * likely * (1.0 - self._hazard)
        moved = self._levels + self._gain * far
        chances, levels = np.empty_like(grown), np.empty_like(moved)
        chances[1:], levels[1:] = grown[:-1], moved[:-1]
        # A run that has reached the longest stays there, and moves on as one.
        if grown[-1] > chances[-1]:
            levels[-1] = moved[-1]
        chances[-1] += grown[-1]
        # A new run: this value is its first, and only the prior spoke before.
        chances[0], levels[0] = 0.0, self._mean
        chances[1] += self._hazard * likely[0]
        total = chances.sum()
        self._chances, self._levels = chances / total, levels
        before, self.run = self.run, int(chances.argmax())
        self.level = float(levels[self.run])
        return self.run < before

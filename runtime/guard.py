"""What tells that a source is not to be trusted now: an observation outside training, a failing or slow part, silence.

All of it is driven by the times and values handed in.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import msgspec

from cutlayer.errors import BundleError
from cutlayer.runtime import features

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

MARGIN = 0.1  # our choice: a fiftieth of the encoder's range; less is no other world


class Ranges(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The lowest and highest value of each feature that training has seen, margin included; one entry a feature.

    A bundle brings them. Without, they are the encoder's own bounds, and only what is no number lies outside.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]

    @staticmethod
    def seen(observations: NDArray[np.floating], margin: float = MARGIN) -> Ranges:
        """Of observations (n, features): the extremes, wider by the margin. A rare state has to be in them; some thousand requests do."""
        low, high = observations.min(axis=0) - margin, observations.max(axis=0) + margin
        return Ranges(tuple(low.astype(float).tolist()), tuple(high.astype(float).tolist()))

    @staticmethod
    def unbounded(size: int) -> Ranges:
        """Those of an encoder with so many features."""
        return Ranges((features.LOW,) * size, (features.HIGH,) * size)

    def check(self, size: int, where: str) -> None:
        """Refuse ranges that do not fit an observation of that size.

        Raises:
            BundleError: another number of features, a bound that is no number, or a low above its high.
        """
        fits = len(self.low) == len(self.high) == size
        if not fits or not all(low <= high for low, high in zip(self.low, self.high, strict=True)):
            raise BundleError(f"ranges of {where} are not {size} pairs of low and high; export it anew")

    def outside(self, values: Sequence[float]) -> bool:
        """Whether a value lies outside its range or is no number."""
        # In plain Python: 32 pairs of comparisons take a microsecond, as much as two calls into numpy.
        for value, low, high in zip(values, self.low, self.high, strict=True):
            if value >= low and value <= high:  # written as a chain it takes a third longer
                continue
            return True
        return False


class Breaker:
    """Keeps from what fails: open after so many failures in a row, over at least so long; then one probe now and again.

    The wait for a probe doubles with each one that fails, up to the longest; a success closes it. Times come in.
    """

    __slots__ = ("_failures", "_first_s", "_longest_s", "_over_s", "_probing", "_retry_s", "_row", "_wait_s", "due_s")

    def __init__(self, failures: int, over_s: float, retry_s: float, longest_s: float) -> None:
        self._failures, self._over_s = failures, over_s
        self._retry_s, self._longest_s = retry_s, longest_s
        self.succeeded()

    @property
    def open(self) -> bool:
        """Whether it keeps away, but for a probe from `due_s` on."""
        return self.due_s > -math.inf

    @property
    def troubled(self) -> bool:
        """Whether anything failed since the last success."""
        return self._row > 0 or self.open

    def allows(self, now_s: float) -> bool:
        """Whether it may be tried now: it is closed, or a probe is due and none is on its way."""
        return not now_s < self.due_s and not self._probing

    def probe(self) -> None:
        """What is tried now is a probe: no other until it succeeded, failed or was released."""
        self._probing = True

    def put_off(self, now_s: float) -> None:
        """It is not worth a try now: again after the first wait."""
        self.due_s = now_s + self._retry_s

    def release(self) -> None:
        """The probe on its way told nothing."""
        self._probing = False

    def succeeded(self) -> None:
        """It worked: closed."""
        self._row = 0
        self._first_s = self.due_s = -math.inf
        self._wait_s = self._retry_s
        self._probing = False

    def failed(self, now_s: float) -> None:
        """It did not work. What was tried before it opened counts for nothing afterwards."""
        if self.open:
            if self._probing:
                self.trip(now_s)
            return
        if self._row == 0:
            self._first_s = now_s
        self._row += 1
        if self._row >= self._failures and now_s - self._first_s >= self._over_s:
            self.trip(now_s)

    def trip(self, now_s: float) -> None:
        """Open, or open for longer: the next probe is due after the present wait."""
        self.due_s = now_s + self._wait_s
        self._wait_s = min(2.0 * self._wait_s, self._longest_s)
        self._probing = False


class Silence:
    """Tells that nobody reports: decisions were made since the last report, the first of them too long ago.

    Without decisions nothing is stale, however long ago the last report was: ages are part of the observation.
    """

    __slots__ = ("_patience_s", "_since_s")

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._since_s = math.inf

    def decided(self, now_s: float) -> bool:
        """A decision is made now; whether there has been silence for too long."""
        if self._since_s == math.inf:
            self._since_s = now_s
        return now_s - self._since_s > self._patience_s

    def heard(self) -> None:
        """A report came."""
        self._since_s = math.inf


class Pace:
    """Keeps from what is too slow: times each answer by the clock, if there is one, and lets it pause after several slow ones in a row."""

    __slots__ = ("_breaker", "_budget_s", "_clock")

    def __init__(self, breaker: Breaker, budget_s: float, clock: Callable[[], float] | None) -> None:
        self._breaker, self._budget_s, self._clock = breaker, budget_s, clock

    def pauses(self, now_s: float) -> bool:
        """Whether it is not to be asked now; after the pause one answer shows whether it is fast again."""
        return self._breaker.open and not self._breaker.allows(now_s)

    def begin(self) -> float:
        """It is asked: what `end` needs."""
        return 0.0 if self._clock is None else self._clock()

    def end(self, now_s: float, begun_s: float) -> None:
        """It has answered."""
        if self._clock is None:
            return
        if self._clock() - begun_s > self._budget_s:
            if self._breaker.open:
                self._breaker.probe()
            self._breaker.failed(now_s)
        elif self._breaker.troubled:
            self._breaker.succeeded()

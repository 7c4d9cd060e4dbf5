"""Waiting for the next message awake, while messages follow each other closely.

Who sleeps until something comes pays for being woken: some 50 us on a virtual machine whose processor had halted, twice the decision.
So a wait that follows a short one begins with looking, again and again, for at most `BRISK_S`. A wait that was longer ends this, so
who is asked now and then sleeps as ever: a burst costs the processor time between its messages, and its end `BRISK_S`. Between two looks
others may have the processor: where all are busy, who is waited for may need this one (without, a decision took 330 us there, not 57).
"""

from __future__ import annotations

import os
import selectors
import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

# Our choice: two wake-ups, a decision and its client's work on that machine. Where all is ten times as slow each wait is slept through.
BRISK_S = 200e-6
Found = TypeVar("Found")


class Brisk:
    """Waits; `short` tells whether the last wait was. brisk_s: as `BRISK_S`; with 0 every wait is slept through."""

    __slots__ = ("_brisk_s", "_clock", "short")

    def __init__(self, clock: Callable[[], float] = time.perf_counter, brisk_s: float = BRISK_S) -> None:
        self._clock = clock
        self._brisk_s = brisk_s
        self.short = False

    def wait(self, look: Callable[[], Found | None], sleep: Callable[[], Found]) -> Found:
        """What `look` finds while that is likely, else what `sleep` brings; look gives None where there is nothing yet."""
        begun_s = self._clock()
        while self.short:
            found = look()
            if found is not None:
                return found
            self.short = self._clock() - begun_s < self._brisk_s
            os.sched_yield()
        brought = sleep()
        self.short = self._clock() - begun_s < self._brisk_s
        return brought


class BriskSelector(selectors.DefaultSelector):
    """What an event loop waits with."""

    def __init__(self) -> None:
        super().__init__()
        self._brisk = Brisk()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """See `selectors`; a timer may be late by `BRISK_S`."""
        select = super().select
        if timeout is not None and timeout <= 0:
            return select(timeout)
        return self._brisk.wait(lambda: select(0) or None, lambda: select(timeout))

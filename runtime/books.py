"""Which decisions are still without an outcome: an outcome finds its decision here, and one that never gets any is written off."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cutlayer.profiles.rows import PlanRow
    from cutlayer.runtime.messages import Arm

MOST_OPEN = 1024  # a device with more requests on their way will never catch up (as `envs.batch.MOST_PENDING`)


@dataclass(slots=True)
class Open:
    """A decision without an outcome; `computed` and `sent` tell which of its stages the device agent has told as over."""

    id: int
    plan: int
    row: PlanRow
    at_s: float
    deadline_s: float
    arm: Arm
    block: int
    probe: bool
    traced: bool
    computed: bool = False
    sent: bool = False


class Books:
    """Open decisions, oldest first."""

    def __init__(self) -> None:
        self._open: deque[Open] = deque()

    def __len__(self) -> int:
        return len(self._open)

    def enter(self, decision: Open) -> None:
        """A decision was made."""
        self._open.append(decision)

    def find(self, number: int, plan: int) -> Open | None:
        """The oldest open decision of that number and plan. 0 is the number of an agent that gives none: then the plan alone tells."""
        found = None
        for one in self._open:
            if one.plan == plan:
                if one.id == number:
                    return one
                found = found or one
        return found if number == 0 else None

    def close(self, decision: Open) -> None:
        """Its outcome is known."""
        if self._open[0] is decision:
            self._open.popleft()
        else:
            self._open.remove(decision)

    def overdue(self, before_s: float) -> Open | None:
        """Take out a decision made before that time, or one too many; None once there is no such."""
        if self._open and (self._open[0].at_s < before_s or len(self._open) > MOST_OPEN):
            return self._open.popleft()
        return None

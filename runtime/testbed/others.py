"""How much of the processor other work took: the ground on which a measurement is trusted or not. Linux."""

from __future__ import annotations

import os
import time
from pathlib import Path

STAT = Path("/proc/stat")
MOST = 0.1  # our choice: a tenth of the machine for others is the hum of an idle system; a training takes half of two cores


class Others:
    """The share of all cores' time, since it was made, that neither this process nor its ended children used.

    Time that a hypervisor gave to other machines (steal) counts as theirs. Children count once they have been waited for.
    """

    def __init__(self, stat: Path = STAT) -> None:
        self._stat = stat
        self._start_s, self._busy_s, self._own_s = time.monotonic(), self._busy(), _own()

    def share(self) -> float:
        """0 where nobody else worked, 1 where others had every core all the time."""
        took_s = (time.monotonic() - self._start_s) * (os.cpu_count() or 1)
        return min(1.0, max(0.0, self._busy() - self._busy_s - (_own() - self._own_s)) / took_s)

    def _busy(self) -> float:
        """Seconds in which any core worked for anybody since boot."""
        # cpu user nice system idle iowait irq softirq steal ... (proc(5)); guests are contained in user.
        user, nice, system, _, _, irq, softirq, steal = (
            int(x) for x in self._stat.read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]
        )
        return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _own() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system

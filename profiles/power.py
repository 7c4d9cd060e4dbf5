"""Watts of a network while it runs: read from a meter where there is one, else a cited figure that is labelled as modelled.

    idle_w    mean power of what the meter covers while this process sleeps
    busy_w    mean power while the network runs back to back on one thread

Both cover what the meter covers: the processor packages (RAPL), a board (INA3221), a whole laptop (battery), a GPU (NVML).
What covers it, and so what else is in the figure, stands in the `energy_method` of the table, as `rapl: processor package-0`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from cutlayer.errors import ProfileError
from cutlayer.profiles import meters
from cutlayer.profiles.energy import DEVICE_BUSY_W, DEVICE_ENERGY_METHOD

if TYPE_CHECKING:
    from pathlib import Path

    from cutlayer.profiles.meters import Meter

SETTLE_S = 1.0  # a choice: after it the clock of the processor has followed the load
LENGTH_S = 5.0  # a choice, of each state; RAPL counts in steps of a millisecond
GAUGE_S = 120.0  # of each state on a battery: at 8 W 960 J, against steps of the gauge of tens of joules
SEEN = 1.01  # a choice: a meter that reads less than 1 % more under load does not see the work

Choice = Literal["auto", "rapl", "ina3221", "nvml", "battery", "modelled"]
CHOICES: tuple[str, ...] = get_args(Choice)


@dataclass(frozen=True, slots=True)
class Power:
    """Watts under load and idle, and how they were found; idle_w is None where nothing says it."""

    busy_w: float
    idle_w: float | None
    method: str


Draw = Callable[[Callable[[], object]], Power]  # of a network, given one run of it


def modelled(work: Callable[[], object]) -> Power:  # noqa: ARG001 - a `Draw`; the figure is cited, nothing has to run
    """The cited power of a board, whatever this machine is."""
    return Power(DEVICE_BUSY_W, None, DEVICE_ENERGY_METHOD)


@dataclass(frozen=True, slots=True)
class Metered:
    """Power by a meter, which is read every `period_s` beside the work; a `Draw`. Clock and sleep are handed in, in seconds."""

    meter: Meter
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], object] = time.sleep
    period_s: float = 0.05

    def __call__(self, work: Callable[[], object]) -> Power:
        """Idle first, then `work` back to back.

        Raises:
            ProfileError: the meter cannot be read, or does not see the work.
        """
        with meters.sampling(self.meter, self.period_s):
            idle_w = self._mean_w(lambda: self.sleep(1.0))
            busy_w = self._mean_w(work)
        if busy_w <= idle_w * SEEN:
            raise ProfileError(
                f"{self.meter.method} ({self.meter.scope}) reads {busy_w:.3g} W while the network runs and {idle_w:.3g} W idle; it does "
                "not see the work, or the machine is busy: take another meter, or --energy modelled"
            )
        return Power(busy_w, idle_w, f"{self.meter.method}: {self.meter.scope}")

    def _mean_w(self, work: Callable[[], object]) -> float:
        self._for(SETTLE_S, work)
        start_j, start_s = self.meter.read_j(), self.clock()
        self._for(GAUGE_S if self.meter.method == meters.Battery.method else LENGTH_S, work)
        return (self.meter.read_j() - start_j) / (self.clock() - start_s)

    def _for(self, seconds: float, work: Callable[[], object]) -> None:
        end_s = self.clock() + seconds
        while self.clock() < end_s:
            work()


def choose(
    name: str,
    root: Path = meters.SYS,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
) -> tuple[Draw, str]:
    """What meters the power here, by its name or `auto` for the first that reads, and a line that says which and why.

    Raises:
        ProfileError: no such meter, or it cannot be read here.
    """
    if name not in CHOICES:
        raise ProfileError(f"no energy meter {name!r}; give one of: {', '.join(CHOICES)}")
    model = f"energy is modelled, {DEVICE_ENERGY_METHOD.removeprefix('modelled: ')}"
    if name == "modelled":
        return modelled, model
    if name != "auto":
        meter = meters.makers(root, clock)[name]()
    else:
        tried = meters.survey(root, clock=clock)
        meter = next(found.meter for found in tried if found.meter is not None)  # the power model comes last, and always is
        if isinstance(meter, meters.Modelled):
            passed = [f"{found.method}: {found.reason.partition(';')[0]}" for found in tried if found.meter is None]
            return modelled, f"{model}; {'; '.join(passed)}"
    return Metered(meter, clock, sleep), f"energy by {meter.method}: {meter.scope}"

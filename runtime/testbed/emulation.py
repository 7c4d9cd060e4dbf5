"""How a fast machine plays a slow device.

pad      real work, then sleep until it has lasted as long as the profiled device takes (the default: off by less than half a percent)
quota    the device's process may use a share of a core only, by a cpu cgroup: jittery, single inferences miss their target by 8 to
         114 %, because a short job runs on the slice that was saved up; it shows what contention does to every thread of the device
none     the device is as fast as this machine; the simulator is told its times
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from cutlayer.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

KINDS = ("pad", "quota", "none")
CGROUPS = Path("/sys/fs/cgroup")
PERIOD_S = 0.02  # our choice: of 5 to 100 ms the ones up to 20 missed least for jobs of 5 to 30 ms
LEAST_S = 0.001  # of a quota: the kernel takes no less; where a share needs less, the period is longer
PREFIX = "cutlayer-"  # of a group's name; the number of the process that made it follows


class Emulation(Protocol):
    """What makes the device's work last."""

    def begin(self, slow_down: float) -> None:
        """Work begins, on a device that is slowed so much right now."""
        ...

    def lasts_s(self, nominal_s: float, slow_down: float) -> float:
        """How long work of that profiled length has to last at least; 0 where nobody waits for it."""
        ...


class Pad:
    """Work lasts as long as on the profiled device."""

    def begin(self, slow_down: float) -> None:
        """Nothing to do."""

    def lasts_s(self, nominal_s: float, slow_down: float) -> float:
        """See `Emulation`."""
        return nominal_s * slow_down


class AsItIs:
    """Work lasts as long as it does here."""

    def begin(self, slow_down: float) -> None:
        """Nothing to do."""

    def lasts_s(self, nominal_s: float, slow_down: float) -> float:  # noqa: ARG002 - the same for all
        """See `Emulation`."""
        return 0.0


class Quota(AsItIs):
    """A share of a core for this process, less where the device is slowed; `group` from `group()`, by the maker's process.

    Raises:
        ConfigError: the group is gone, or the share is none that slows.
    """

    def __init__(self, group: Path, share: float) -> None:
        if not 0.0 < share < 1.0:
            raise ConfigError(f"this machine takes {share:.2f} times the profiled device's time; a quota only slows, so use --device none")
        self._group, self._share, self._now = group, share, 0.0
        (group / "cgroup.procs").write_text(str(os.getpid()), encoding="ascii")

    def begin(self, slow_down: float) -> None:
        """See `Emulation`."""
        share = self._share / slow_down
        if share != self._now:
            limit(self._group, share)
            self._now = share


def limit(group: Path, share: float) -> None:
    """Let the processes of a group use that share of a core."""
    period_s = max(PERIOD_S, LEAST_S / share)
    quota, period = round(1e6 * share * period_s), round(1e6 * period_s)
    if (group / "cpu.max").exists():  # version 2
        (group / "cpu.max").write_text(f"{quota} {period}", encoding="ascii")
        return
    # Version 1 checks each of both against the other: without a quota any period is right.
    (group / "cpu.cfs_quota_us").write_text("-1", encoding="ascii")
    (group / "cpu.cfs_period_us").write_text(str(period), encoding="ascii")
    (group / "cpu.cfs_quota_us").write_text(str(quota), encoding="ascii")


def version(root: Path) -> int:
    """Of the cgroups mounted there."""
    return 2 if (root / "cgroup.controllers").exists() else 1


@contextlib.contextmanager
def group(root: Path = CGROUPS) -> Iterator[Path]:
    """A cpu cgroup for one device; gone after the block, and those of processes that died before theirs.

    Raises:
        ConfigError: there is no cpu controller here that this user may use.
    """
    parent = root if version(root) == 2 else root / "cpu"
    for left in parent.glob(f"{PREFIX}*"):
        if not Path(f"/proc/{left.name.removeprefix(PREFIX)}").exists():
            with contextlib.suppress(OSError):
                left.rmdir()
    made = parent / f"{PREFIX}{os.getpid()}"
    try:
        made.mkdir()
    except OSError as error:
        raise ConfigError(f"{made}: {error.strerror}; a quota needs root and a cpu cgroup, use --device pad") from error
    try:
        if not any((made / name).exists() for name in ("cpu.max", "cpu.cfs_quota_us")):
            raise ConfigError(f"{made} has no quota: the cpu controller is not handed down to it; use --device pad")
        yield made
    finally:
        made.rmdir()


def unavailable(kind: str, root: Path = CGROUPS) -> str:
    """Why a device cannot be emulated so here, found by trying; empty where it can."""
    if kind != "quota":
        return ""
    try:
        with group(root) as made:
            limit(made, 0.5)
    except (ConfigError, OSError) as error:
        return str(error)
    return ""

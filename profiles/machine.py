"""What this machine is, as far as it tells: for the provenance of tables and the record of runs."""

from __future__ import annotations

import datetime as dt
import os
import platform
import sys
from pathlib import Path


def cpu_name() -> str:
    """Model name of the processor, from /proc/cpuinfo where there is one."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def governor() -> str:
    """CPU frequency governor, or `unknown` where the kernel does not show one (as in most virtual machines)."""
    try:
        return Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").read_text(encoding="utf-8").strip()
    except OSError:
        return "unknown"


def load_average() -> float:
    """One-minute load average."""
    return round(os.getloadavg()[0], 2)


def today() -> str:
    """Date in UTC, ISO 8601."""
    return dt.datetime.now(dt.UTC).date().isoformat()


def command_line() -> str:
    """The command that runs, without the folder the program lies in."""
    return " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])

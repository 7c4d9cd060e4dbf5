"""What this machine offers to measurements and to the testbed, found by trying, and what that means for which command."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cutlayer.profiles import machine, meters
from cutlayer.runtime.testbed import emulation, link
from cutlayer.runtime.testbed.others import MOST, Others

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LOOK_S = 0.5  # how long the load of others is looked at
STOLEN = 0.02  # our choice: a fiftieth, below what a profile's own spread hides
PROC, CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")


class Finding(NamedTuple):
    """One thing that was looked at: whether it is as good as it can be, what was found, and what that means."""

    name: str
    good: bool
    found: str
    means: str


def examine(sleep: Callable[[float], None] = time.sleep) -> list[Finding]:
    """Everything, in the order of what matters most; takes about a second."""
    return [
        *_load(sleep), *_links(), _qdiscs(), _cgroups(), _cores(), _governor(), _favour(), _congestion(), _idle_start(), _energy(),
        *_packages(),
    ]  # fmt: skip


def _load(sleep: Callable[[float], None]) -> Iterator[Finding]:
    others, stolen_s = Others(), _stolen_s()
    sleep(LOOK_S)
    share, stolen = others.share(), (_stolen_s() - stolen_s) / (max(LOOK_S, 0.01) * (os.cpu_count() or 1))
    means = "measurements can be trusted" if share <= MOST else "profile measure and testbed calibrate will flag what they measure now"
    yield Finding("load", share <= MOST, f"others use {share:.0%} of {os.cpu_count()} cores, load average {machine.load_average()}", means)
    means = (
        "no other machine of this host is in the way" if stolen <= STOLEN else "other machines of this host take time that nobody here sees"
    )
    yield Finding("steal", stolen <= STOLEN, f"{stolen:.1%}", means)


def _stolen_s() -> float:
    """Seconds that the hypervisor gave to others since boot, of all cores together."""
    path = PROC / "stat"
    if not path.exists():
        return 0.0
    return int(path.read_text(encoding="ascii").split("\n", 1)[0].split()[8]) / os.sysconf("SC_CLK_TCK")  # steal, proc(5)


def _qdiscs() -> Finding:
    done = subprocess.run([sys.executable, "-m", "cutlayer.runtime.testbed.qdiscs"], capture_output=True, text=True, check=False)
    found: dict[str, Any] = json.loads(done.stdout) if done.stdout else {"error": "could not be asked"}
    words = (
        str(found["error"]).partition(":")[0] if "error" in found else ", ".join(f"{k}{'' if v else ' missing'}" for k, v in found.items())
    )
    means = "testbed: --backend tbf shapes by the kernel" if found.get("tbf") is True else "testbed: no --backend tbf; tun does without"
    return Finding("qdiscs", found.get("tbf", False) is True, words, f"{means}; netem is not used")


def _cgroups() -> Finding:
    reason = emulation.unavailable("quota", CGROUPS)
    means = "testbed: --device quota works" if not reason else "testbed: no --device quota; padding, the default, is off by less anyway"
    return Finding("cgroups", not reason, reason or f"version {emulation.version(CGROUPS)} gives quotas", means)


def _links() -> Iterator[Finding]:
    means = {
        "tun": ("testbed: rate, delay, jitter and loss of whole packets", "testbed: the proxy instead, without loss; be root for tun"),
        "proxy": ("testbed: rate and delay for anybody", "testbed: cannot run here"),
        "tbf": ("testbed: as tun, rate and queue by the kernel; bursts of a packet", "testbed: tun or proxy instead"),
    }
    for name in link.BACKENDS:
        reason = link.unavailable(name)
        yield Finding(f"link {name}", not reason, reason or "works", means[name][bool(reason)])


def _cores() -> Finding:
    count = os.cpu_count() or 1
    means = "testbed: device and edge run on a core each" if count > 1 else "testbed: device and edge share the core, their times grow"
    return Finding("cores", count > 1, f"{count} of {machine.cpu_name()}, {platform.machine()}", means)


def _governor() -> Finding:
    found = machine.governor()
    steady = found in {"performance", "unknown"}
    means = {
        "performance": "profile measure: the clock is steady",
        "unknown": "profile measure: the clock is not this system's to set, as in a virtual machine",
    }.get(found, "profile measure: the clock changes with the load; set it to performance")
    return Finding("governor", steady, found, means)


def _favour() -> Finding:
    path = PROC / "self/autogroup"
    allowed = path.exists() and os.geteuid() == 0
    found = "a session may be favoured" if allowed else "not root" if path.exists() else "no autogroup in this kernel"
    means = "testbed: its processes go before other sessions" if allowed else "testbed: run it on a quiet machine"
    return Finding("priority", allowed, found, means)


def _congestion() -> Finding:
    path = PROC / "sys/net/ipv4/tcp_available_congestion_control"
    found = path.read_text(encoding="ascii").split() if path.exists() else []
    good = "cubic" in found
    means = "split inference: cubic, to which the model was fitted" if good else "split inference: the system's own, up to 21 % slower"
    return Finding("congestion control", good, " ".join(found) or "unknown", means)


def _idle_start() -> Finding:
    path = PROC / "sys/net/ipv4/tcp_slow_start_after_idle"
    found = path.read_text(encoding="ascii").strip() if path.exists() else "unknown"
    good = found == "0"
    slow = "split inference: transfers after a pause take up to twice as long, but for the testbed; to mend it: sysctl -w"
    means = "split inference: a pause costs nothing" if good else f"{slow} net.ipv4.tcp_slow_start_after_idle=0"
    return Finding("slow start after idle", good, found, means)


def _energy() -> Finding:
    tried = {candidate.method: candidate for gpu in (False, True) for candidate in meters.survey(gpu=gpu)}
    read = [method for method, candidate in tried.items() if candidate.meter is not None and method != "modelled"]
    means = "profile measure: power is metered" if read else "profile measure: power is modelled, and the table says so"
    return Finding("energy", bool(read), ", ".join(read) or "no meter reads here", means)


def _packages() -> Iterator[Finding]:
    for name, extra, what in (
        ("onnxruntime", "daemon", "split inference and profile measure --backend onnxruntime"),
        ("torch", "profile", "profile measure, train"),
        ("stable_baselines3", "train", "train"),
        ("zstandard", "zstd", "profile measure: the codec zstd"),
    ):
        there = importlib.util.find_spec(name) is not None
        mend = what if there else f"{what}; to have it: pip install 'cutlayer[{extra}]'"
        yield Finding(f"package {name}", there, "installed" if there else "missing", mend)


def text(findings: list[Finding]) -> str:
    """One finding a line, what falls short marked."""
    return "\n".join(f"{'+' if one.good else '-'} {one.name:<28}{one.found}\n  {'':<28}{one.means}" for one in findings)

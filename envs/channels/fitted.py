"""Generators fitted to measured uplink drives, shipped: parameters only, with the drives they come from and how well they match.

`data/NAME.json` is what the command in it wrote, run in the folder of the traces (no trace is shipped); a test runs the fit again.
Drives that are held out are never fitted: what is judged on them may be trained on these generators.

What none of them gets right, by the `mismatches` and `numbers` of each file:

- Long outages. A chain's outages have no memory: half of the draws of each generator stay under 2.0 s for the longest one of lte (measured:
  3.4 s), 3.5 s for 3g (5.7 s), 9 s for 5g-sa-low-band (23 s). The drive that 5g-nsa-walking holds out stands still for 48 s; those it is
  fitted to, for 1 s.
- Memory. A walk's rate is more like itself after 30 s (correlation 0.40 and 0.48) than the log-normal's after 3 s (0.26 and 0.15), which
  has one time constant.
- Tails. A log-normal's p95 is up to 1.8 times the measured one: links have a ceiling. markov and regimes come closer.
- Other carriers. What is held out of lte carries four times as much on average.
- Fading within a sample. 1 s and 3 s hide it, so a rate stays true for longer than it would on the air.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

from cutlayer.envs.channels.kinds import build
from cutlayer.errors import ConfigError, nearest

if TYPE_CHECKING:
    from cutlayer.envs.channels.generators import Channel

_MAHIMAHI = "Winstein, Sivaraman, Balakrishnan, NSDI 2013: saturator, packet opportunities in 100 ms bins"
_MTU = "Munster Technological University, InSecTT project, Cork 2021: saturating UDP through a 5G-NSA modem, a sample every 3 s"
_WALKS = "Narayanan et al., A Variegated Look at 5G in the Wild, SIGCOMM 2021: T-Mobile, Minneapolis, walking, a sample a second"


@dataclass(frozen=True, slots=True)
class DriveSet:
    """Drives of one kind of link: files to fit on, files held out, and who measured them. Paths are those of the shared data."""

    drives: tuple[str, ...]
    held_out: tuple[str, ...]
    source: str


def _walk(link: str, *runs: int) -> tuple[str, ...]:
    return tuple(f"trace_5g_sigcomm21_power/dev/mn_TMobile_{link}_uplink_run{run}.csv" for run in runs)


SETS: dict[str, DriveSet] = {
    # The same sides as the traces of the camera scenario, agents/inputs.py. One drive says nothing of how drives differ: those held out
    # carry two and six times as much.
    "lte": DriveSet(
        ("trace_lte_mahimahi/dev/ATT-LTE-driving.csv",),
        ("trace_lte_mahimahi/dev/ATT-LTE-driving-2016.csv", "trace_lte_mahimahi/dev/Verizon-LTE-short.csv"),
        _MAHIMAHI,
    ),
    "3g": DriveSet(("trace_lte_mahimahi/dev/TMobile-UMTS-driving.csv",), (), _MAHIMAHI),  # the only drive there is
    "5g-nsa": DriveSet(("trace_5g_mtu_ul/dev/Data5G_171221.csv",), ("trace_5g_mtu_ul/dev/Data5G_151221.csv",), _MTU),
    "5g-nsa-walking": DriveSet(_walk("NSALTE", 20076, 20077), _walk("NSALTE", 20086), _WALKS),
    "5g-sa-low-band": DriveSet(_walk("SAonly", 20070, 20074, 20078), _walk("SAonly", 20079), f"{_WALKS}; band n71"),
}


def report(name: str) -> dict[str, Any]:
    """What `cutlayer channel fit` wrote for a set: parameters, match with the drives and with those held out, command, version.

    Raises:
        ConfigError: the name is unknown.
    """
    if name not in SETS:
        raise ConfigError(f"unknown fitted link {name!r}; {nearest(name, SETS)}known: {', '.join(SETS)}")
    found: dict[str, Any] = json.loads((resources.files(__package__) / "data" / f"{name}.json").read_text(encoding="utf-8"))
    return found


def load(name: str, generator: str = "ar1-log-normal") -> Channel:
    """A fitted generator of a set.

    Raises:
        ConfigError: the set is unknown, or has no fit of that generator.
    """
    fits = {fit["generator"]: fit["channel"] for fit in report(name)["fits"] if "channel" in fit}
    if generator not in fits:
        raise ConfigError(f"{name} has no fit of {generator!r}; {nearest(generator, fits)}it has: {', '.join(fits)}")
    return build(fits[generator])

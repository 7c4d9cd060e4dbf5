"""Tables of machines that were not measured, derived from a measured one by a cited speed ratio.

The ratio of a device is the geometric mean, over the networks that a published benchmark has for both machines, of its
time over the time of a server processor on one thread:

    ratio = exp( sum over n networks of ln(device_ms / server_ms) / n )

Both are from ncnn's own benchmark (github.com/Tencent/ncnn at a4d2ea1d4422, benchmark/README.md, BSD-3-Clause): float32
networks, 1 thread, on the CPU, the least of its runs (min_ms: the run that other work disturbed least). The server is an
AMD EPYC 7742 at 2.25 GHz. Three of the networks, to follow the arithmetic:

    network            EPYC ms   Pi 4 ms   ratio   Nano ms   ratio
    alexnet              31.42    139.34    4.43    284.30    9.05
    mobilenet_v2         10.69     92.98    8.70     93.81    8.78
    yolo-fastest-1.1      5.02     56.58   11.27     54.55   10.87

    Raspberry Pi 4: 27 networks, 4.43 (alexnet) to 11.27 (yolo-fastest-1.1), spread by a factor of 1.21:  7.49
    Jetson Nano, its CPU: 25 networks, 6.37 (resnet18) to 11.52 (efficientnet_b0), a factor of 1.15:      8.60

With the means of the runs in place of the least they are 7.44 and 8.53. Networks differ by far more than that: a derived
table is a device of that class, not that device, and the ratio holds for a table measured on a processor like the EPYC.

Another program on other machines agrees. Scission (Lockhart et al., UCC 2020; Keras, all cores, sum of a network's
blocks, 15 networks) has the Pi 4 4.40 times slower than an Intel Core i5-2500 of 2011 without fused multiply-add (2.48
mobilenet to 5.85 vgg19), its edge machine, and 11.79 times slower than an i7-6700K at 4 GHz (8.03 to 20.62): a server
core of 2.25 GHz lies between.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from cutlayer.errors import ProfileError
from cutlayer.profiles.energy import DEVICE_BUSY_W, DEVICE_ENERGY_METHOD
from cutlayer.profiles.schema import Cell, ModelProfile, SegmentCost, Timing

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times slower one machine is: a geometric mean over `models` networks, and its lowest and highest."""

    ratio: float
    models: int
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Device:
    """A machine to derive: its name and processor in the table, and the cited ratio of its times to a server's."""

    machine: str
    cpu: str
    time_ratio: float
    source: str


PI4_TIME_RATIO = 7.49  # see the module: 27 networks
PI4_RATIO_SOURCE = "ncnn benchmark (github.com/Tencent/ncnn@a4d2ea1), 27 models, 1 thread, Raspberry Pi 4B over AMD EPYC 7742"
NANO_TIME_RATIO = 8.60  # see the module: 25 networks
NANO_RATIO_SOURCE = "ncnn benchmark (github.com/Tencent/ncnn@a4d2ea1), 25 models, 1 thread, CPU of Jetson Nano over AMD EPYC 7742"

# Pi 4 over each machine in Scission's blocks (github.com/qub-blesson/Scission at b765b2bd4c2b): the cross-check of the module.
SCISSION_PI4_OVER = {"2500": 4.40, "6700k(NoGPU)": 11.79}

DEVICES = {
    "raspberry-pi-4": Device("raspberry-pi-4-class", "Cortex-A72 at 1.8 GHz", PI4_TIME_RATIO, PI4_RATIO_SOURCE),
    "jetson-nano": Device("jetson-nano-class", "Cortex-A57 of a Jetson Nano", NANO_TIME_RATIO, NANO_RATIO_SOURCE),
}


def by_name(name: str, measured: ModelProfile) -> ModelProfile:
    """A device of `DEVICES`, from a table measured on a server processor; its power is the one cited for such boards.

    Raises:
        ProfileError: no such device, or `measured` is itself derived or imported.
    """
    if name not in DEVICES:
        raise ProfileError(f"no derived device {name!r}; there are: {', '.join(DEVICES)}")
    device = DEVICES[name]
    table = slower(measured, device.machine, device.time_ratio, device.source)
    # The measured table's watts are the server's, idle ones too.
    provenance = msgspec.structs.replace(table.provenance, cpu=device.cpu, energy_method=DEVICE_ENERGY_METHOD)
    return msgspec.structs.replace(table, busy_w=DEVICE_BUSY_W, idle_w=None, provenance=provenance)


def raspberry_pi_4(measured: ModelProfile) -> ModelProfile:
    """A Raspberry-Pi-4-class device, from a table measured on a server processor."""
    return by_name("raspberry-pi-4", measured)


def slower(profile: ModelProfile, machine_name: str, ratio: float, source: str) -> ModelProfile:
    """The same table for a machine `ratio` times slower; its provenance says what it is derived from, and by whose figure.

    Raises:
        ProfileError: the table is not a measured one, or the ratio is not positive.
    """
    if profile.provenance.kind != "measured":
        raise ProfileError(
            f"the table of {profile.provenance.machine} is {profile.provenance.kind}; derive {machine_name} from the measured table"
        )
    if not 0 < ratio < math.inf:
        raise ProfileError(
            f"ratio {ratio} of {machine_name} to {profile.provenance.machine} is impossible; give how many times slower it is"
        )
    provenance = msgspec.structs.replace(
        profile.provenance,
        kind="derived",
        machine=machine_name,
        derived_from=f"{profile.provenance.machine} ({profile.provenance.cpu})",
        time_ratio=ratio,
        ratio_source=source,
    )

    def scaled(timing: Timing) -> Timing:
        return Timing(wall=_scale(timing.wall, ratio), cpu=_scale(timing.cpu, ratio))

    def pieces(costs: tuple[SegmentCost, ...]) -> tuple[SegmentCost, ...]:
        """Without cold starts: megabytes of weights come from storage, which is not slower by the processor's ratio."""
        return tuple(msgspec.structs.replace(cost, time=scaled(cost.time), load=None) for cost in costs)

    before = profile.preprocess
    return msgspec.structs.replace(
        profile,
        layers=tuple(msgspec.structs.replace(cost, time=scaled(cost.time)) for cost in profile.layers),
        heads=tuple(msgspec.structs.replace(cost, time=scaled(cost.time)) for cost in profile.heads),
        codecs=tuple(msgspec.structs.replace(cost, encode=scaled(cost.encode), decode=scaled(cost.decode)) for cost in profile.codecs),
        whole=scaled(profile.whole),
        prefixes=pieces(profile.prefixes),
        suffixes=pieces(profile.suffixes),
        preprocess=msgspec.structs.replace(before, time=scaled(before.time)) if before is not None else None,
        postprocess=scaled(profile.postprocess) if profile.postprocess is not None else None,
        # A bottleneck is kilobytes that stay in the page cache: to swap it in is work of the processor.
        units=tuple(msgspec.structs.replace(unit, swap=scaled(unit.swap)) for unit in profile.units),
        provenance=provenance,
    )


def _scale(cell: Cell, ratio: float) -> Cell:
    seconds = {name: getattr(cell, name) * ratio for name in ("mean_s", "std_s", "p50_s", "p95_s", "p99_s")}
    return Cell(**seconds, n=cell.n)


def ratio_of(slow: Mapping[str, float], fast: Mapping[str, float]) -> Ratio:
    """How many times slower, over the networks that both have; times in one unit, as from `foreign.whole_s`.

    Raises:
        ProfileError: no network is in both, or a time is not positive.
    """
    common = sorted(slow.keys() & fast.keys())
    if not common:
        raise ProfileError(
            f"no network is in both tables: {', '.join(sorted(slow))} and {', '.join(sorted(fast))}; give tables that share some"
        )
    for name in common:
        if not (slow[name] > 0 and fast[name] > 0):
            raise ProfileError(f"times {slow[name]} and {fast[name]} of {name} have no ratio; leave the network out")
    ratios = [slow[name] / fast[name] for name in common]
    mean = math.exp(math.fsum(map(math.log, ratios)) / len(ratios))
    return Ratio(ratio=mean, models=len(ratios), low=min(ratios), high=max(ratios))

"""Tables of machines that were not measured, derived from a measured one by a cited speed ratio."""

from __future__ import annotations

import msgspec

from cutlayer.profiles.schema import Cell, ModelProfile, Timing

# Geometric mean over the 27 float32 models that ncnn's published benchmark has for both at one thread: Raspberry Pi 4
# Model B (Cortex-A72, 1.8 GHz) against AMD EPYC 7742 (2.25 GHz); single models range from 4.4 (alexnet) to 11.3
# (github.com/Tencent/ncnn, benchmark/README.md at a4d2ea1).
PI4_TIME_RATIO = 7.49
PI4_RATIO_SOURCE = "ncnn benchmark (github.com/Tencent/ncnn@a4d2ea1), 27 models, 1 thread, Raspberry Pi 4B over AMD EPYC 7742"


def raspberry_pi_4(measured: ModelProfile) -> ModelProfile:
    """A Raspberry-Pi-4-class device, from a table measured on a server processor."""
    return slower(measured, "raspberry-pi-4-class", PI4_TIME_RATIO, PI4_RATIO_SOURCE)


def slower(profile: ModelProfile, machine_name: str, ratio: float, source: str) -> ModelProfile:
    """The same table for a machine `ratio` times slower; its provenance says what it is derived from, and by whose figure."""
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

    return msgspec.structs.replace(
        profile,
        layers=tuple(msgspec.structs.replace(cost, time=scaled(cost.time)) for cost in profile.layers),
        heads=tuple(msgspec.structs.replace(cost, time=scaled(cost.time)) for cost in profile.heads),
        codecs=tuple(msgspec.structs.replace(cost, encode=scaled(cost.encode), decode=scaled(cost.decode)) for cost in profile.codecs),
        whole=scaled(profile.whole),
        provenance=provenance,
    )


def _scale(cell: Cell, ratio: float) -> Cell:
    seconds = {name: getattr(cell, name) * ratio for name in ("mean_s", "std_s", "p50_s", "p95_s", "p99_s")}
    return Cell(**seconds, n=cell.n)

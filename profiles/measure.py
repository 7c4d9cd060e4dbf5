"""Measure what a network costs here: the whole chain with time stamps, one thread, idle gaps between runs.

Layers are timed while the chain runs, not one by one in a loop: a layer alone finds its weights in the cache and looks
up to 28 % too fast. Every duration is taken by wall clock and by the thread's CPU time; the difference is other
people's work on the machine, so models use the CPU time and `noisy` flags a table whose wall clock is far above it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np
import torch

from cutlayer.profiles import codecs, machine
from cutlayer.profiles.energy import DEVICE_BUSY_W, DEVICE_ENERGY_METHOD
from cutlayer.profiles.schema import SCHEMA_VERSION, Cell, CodecCost, LayerCost, ModelProfile, Provenance, Timing
from cutlayer.profiles.zoo import MultiExit, weights_digest

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

NOISY_RATIO = 1.15  # wall over CPU median above which a table was measured on a busy machine
GAP_S = 0.01  # idle gap before each run: requests come one by one, caches cool in between
WARM_UP = 5  # runs thrown away: allocator and oneDNN settle within the first two or three


class Stopwatch:
    """Collects (wall, CPU) pairs under names, in nanoseconds."""

    def __init__(self) -> None:
        self.laps: dict[tuple[object, ...], list[tuple[int, int]]] = {}

    def lap(self, name: tuple[object, ...], work: Callable[[], object]) -> object:
        """Run `work`, note how long it took, hand on what it returned."""
        wall, cpu = time.perf_counter_ns(), time.thread_time_ns()
        result = work()
        took = (time.perf_counter_ns() - wall, time.thread_time_ns() - cpu)
        self.laps.setdefault(name, []).append(took)
        return result

    def timing(self, name: tuple[object, ...]) -> Timing:
        """The laps under that name as distributions in seconds."""
        laps = np.array(self.laps[name], np.float64) * 1e-9
        return Timing(wall=_cell(laps[:, 0]), cpu=_cell(laps[:, 1]))


def _cell(seconds: NDArray[np.float64]) -> Cell:
    p50, p95, p99 = np.percentile(seconds, [50, 95, 99])
    return Cell(
        mean_s=float(seconds.mean()), std_s=float(seconds.std()), p50_s=float(p50), p95_s=float(p95), p99_s=float(p99), n=len(seconds)
    )  # fmt: skip


@torch.inference_mode()
def measure(
    network: MultiExit, *, runs: int, device_name: str, seed: int = 0, progress: Callable[[float], None] | None = None
) -> ModelProfile:
    """Time every layer, head and codec of `network` over `runs` runs on this machine with torch, one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        network.eval()
        watch, shapes = Stopwatch(), {}
        rng = np.random.default_rng(seed)
        for run in range(-WARM_UP, runs):
            if run == 0:
                watch = Stopwatch()
            pixels = rng.integers(0, 256, network.input_shape).astype(np.uint8)
            time.sleep(GAP_S)
            shapes = _chain(network, pixels, watch)
            time.sleep(GAP_S)
            x = torch.from_numpy(pixels).float()[None]
            watch.lap(("whole",), lambda x=x: network(x))  # type: ignore[misc]  # mypy cannot infer a lambda with a default
            if progress is not None:
                progress((run + WARM_UP + 1) / (runs + WARM_UP))
    finally:
        torch.set_num_threads(threads)
    depths = tuple(network.depths)
    provenance = Provenance(
        kind="measured",
        machine=device_name,
        cpu=machine.cpu_name(),
        governor=machine.governor(),
        backend="torch",
        backend_version=str(torch.__version__),
        threads=1,
        date=machine.today(),
        command=machine.command_line(),
        load_average=machine.load_average(),
        energy_method=DEVICE_ENERGY_METHOD,
    )
    return ModelProfile(
        schema_version=SCHEMA_VERSION,
        model=network.name,
        weights_sha256=weights_digest(network),
        input_shape=network.input_shape,
        depths=depths,
        layers=tuple(
            LayerCost(name=name, output_shape=shapes["layer", i], time=watch.timing(("layer", i)))
            for i, name in enumerate(network.layer_names)
        ),
        heads=tuple(LayerCost(name=f"exit{i}", output_shape=shapes["head", i], time=watch.timing(("head", i))) for i in range(len(depths))),
        codecs=tuple(
            CodecCost(cut=cut, bits=bits, encode=watch.timing(("encode", cut, bits)), decode=watch.timing(("decode", cut, bits)))
            for cut in range(depths[-1] + 1)
            for bits in (codecs.BITS if cut else (codecs.RAW_BITS,))
        ),
        whole=watch.timing(("whole",)),
        busy_w=DEVICE_BUSY_W,
        provenance=provenance,
    )


def _chain(network: MultiExit, pixels: NDArray[np.uint8], watch: Stopwatch) -> dict[tuple[object, ...], tuple[int, ...]]:
    """Run the chain once under the stopwatch: layers and heads in order, each cut's codecs after the chain has passed."""
    x = torch.from_numpy(pixels).float()[None]
    shapes: dict[tuple[object, ...], tuple[int, ...]] = {}
    cuts: list[NDArray[np.float32]] = []
    for i, layer in enumerate(network.layers):
        x = watch.lap(("layer", i), lambda layer=layer, x=x: layer(x))  # type: ignore[misc, assignment]  # as in `measure`; lap hands on a tensor
        shapes["layer", i] = tuple(x.shape[1:])
        cuts.append(x.numpy())
        if i + 1 in network.depths:
            e = list(network.depths).index(i + 1)
            logits = watch.lap(("head", e), lambda head=network.heads[e], x=x: head(x))  # type: ignore[misc]  # as in `measure`
            assert isinstance(logits, torch.Tensor)
            shapes["head", e] = tuple(logits.shape[1:])
    raw = watch.lap(("encode", 0, codecs.RAW_BITS), lambda: codecs.encode_raw(pixels))
    _decode(watch, 0, raw, pixels.shape)
    for cut, tensor in enumerate(cuts, start=1):
        for bits in codecs.BITS:
            sent = watch.lap(("encode", cut, bits), lambda t=tensor, b=bits: codecs.encode(t, b))  # type: ignore[misc]  # as in `measure`
            _decode(watch, cut, sent, tensor.shape)
    return shapes


def _decode(watch: Stopwatch, cut: int, sent: object, shape: tuple[int, ...]) -> None:
    assert isinstance(sent, codecs.Encoded)
    watch.lap(("decode", cut, sent.bits), lambda: codecs.decode(sent.data, sent.bits, sent.lo, sent.scale, shape))


def noisy(profile: ModelProfile) -> bool:
    """Whether the machine was too busy while the table was measured; its CPU times are then less trustworthy too."""
    return profile.whole.wall.p50_s > NOISY_RATIO * profile.whole.cpu.p50_s


def additive_error(profile: ModelProfile) -> float:
    """Relative error of the summed chain against the whole network in one piece, CPU means."""
    parts = sum(cost.time.cpu.mean_s for cost in (*profile.layers, *profile.heads))
    return parts / profile.whole.cpu.mean_s - 1.0

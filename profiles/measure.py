"""Measure what a network costs here with torch: the whole chain with time stamps, one thread, idle gaps between runs.

Layers are timed while the chain runs, not one by one in a loop: a layer alone finds its weights in the cache and looks
up to 28 % too fast. Every duration is taken by wall clock and by the thread's CPU time; the difference is other
people's work on the machine, so models use the CPU time and `noisy` flags a table whose wall clock is far above it.
Asked for the ground truth, it also runs every prefix and every suffix in one piece. `measure_onnx` is its sister for
ONNX Runtime, and shares the stopwatch and what does not depend on the backend.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from cutlayer.errors import ProfileError
from cutlayer.profiles import codecs, machine
from cutlayer.profiles.energy import DEVICE_BUSY_W, DEVICE_ENERGY_METHOD
from cutlayer.profiles.schema import (
    SCHEMA_VERSION,
    Cell,
    CodecCost,
    FrameCost,
    LayerCost,
    ModelProfile,
    Provenance,
    SegmentCost,
    Timing,
)
from cutlayer.profiles.zoo import MultiExit, weights_digest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

NOISY_RATIO = 1.15  # wall over CPU median above which a table was measured on a busy machine
GAP_S = 0.01  # idle gap before each run: requests come one by one, caches cool in between
WARM_UP = 5  # runs thrown away: allocator and oneDNN settle within the first two or three
LOADS = 5  # cold starts of each segment: their spread is small, and each allocates all weights
FRAME_SHAPE = (480, 640, 3)  # VGA, the smallest mode that common camera modules and webcams offer by default
PAIR_FROM_S = 1e-3  # a network below a millisecond costs little more than starting it (`waking_s`: 0.1-0.3 ms on the machine tried)


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

    def timing(self, name: tuple[object, ...], minus: tuple[object, ...] | None = None) -> Timing:
        """The laps under that name as distributions in seconds; with `minus`, of the differences lap by lap, not below 0."""
        laps = np.array(self.laps[name], np.float64) * 1e-9
        if minus is not None:
            laps = laps - np.array(self.laps[minus], np.float64) * 1e-9
        return Timing(wall=_cell(laps[:, 0]), cpu=_cell(laps[:, 1]))


def _cell(seconds: NDArray[np.float64]) -> Cell:
    p50, p95, p99 = np.maximum(np.percentile(seconds, [50, 95, 99]), 0.0)
    return Cell(
        mean_s=max(0.0, float(seconds.mean())), std_s=float(seconds.std()),
        p50_s=float(p50), p95_s=float(p95), p99_s=float(p99), n=len(seconds),
    )  # fmt: skip


@torch.inference_mode()
def measure(
    network: MultiExit,
    *,
    runs: int,
    device_name: str,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
    ground_truth: bool = False,
) -> ModelProfile:
    """Time every layer, head and codec of `network` over `runs` runs on this machine with torch, one thread.

    `ground_truth` adds every prefix and every suffix in one piece, with their cold starts: about as many runs of the
    network again as it has layers and exits.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        network.eval()
        watch, around = Stopwatch(), Surroundings(network)
        shapes: dict[tuple[object, ...], tuple[int, ...]] = {}
        rng = np.random.default_rng(seed)
        for run in range(-WARM_UP, runs):
            if run == 0:
                watch = Stopwatch()
            pixels = rng.integers(0, 256, network.input_shape).astype(np.uint8)
            time.sleep(GAP_S)
            shapes, cuts = _chain(network, pixels, watch)
            time.sleep(GAP_S)
            x = torch.from_numpy(pixels).float()[None]
            logits = watch.lap(("whole",), lambda x=x: network(x))  # type: ignore[misc]  # mypy cannot infer a lambda with a default
            assert isinstance(logits, list)
            around.laps(logits[-1].numpy()[0], watch)
            if ground_truth:
                _segments(network, [x, *cuts], watch)
            if progress is not None:
                progress((run + WARM_UP + 1) / (runs + WARM_UP))
        sizes = _cold_starts(network, watch) if ground_truth else {}
    finally:
        torch.set_num_threads(threads)
    depths = tuple(network.depths)
    prefixes, suffixes = segment_costs(watch, sizes) if ground_truth else ((), ())
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
        codecs=codec_costs(depths[-1], watch),
        whole=watch.timing(("whole",)),
        busy_w=DEVICE_BUSY_W,
        provenance=provenance(device_name, "torch", str(torch.__version__)),
        prefixes=prefixes,
        suffixes=suffixes,
        preprocess=around.preprocess(watch),
        postprocess=watch.timing(("postprocess",)),
    )


def provenance(device_name: str, backend: str, version: str) -> Provenance:
    """Of a table that is measured here and now with one thread; its energy is modelled."""
    return Provenance(
        kind="measured",
        machine=device_name,
        cpu=machine.cpu_name(),
        governor=machine.governor(),
        backend=backend,
        backend_version=version,
        threads=1,
        date=machine.today(),
        command=machine.command_line(),
        load_average=machine.load_average(),
        energy_method=DEVICE_ENERGY_METHOD,
    )


def _chain(
    network: MultiExit, pixels: NDArray[np.uint8], watch: Stopwatch
) -> tuple[dict[tuple[object, ...], tuple[int, ...]], list[torch.Tensor]]:
    """Run the chain once under the stopwatch: layers and heads in order, each cut's codecs after the chain has passed."""
    x = torch.from_numpy(pixels).float()[None]
    shapes: dict[tuple[object, ...], tuple[int, ...]] = {}
    cuts: list[torch.Tensor] = []
    for i, layer in enumerate(network.layers):
        x = watch.lap(("layer", i), lambda layer=layer, x=x: layer(x))  # type: ignore[misc, assignment]  # as in `measure`; lap hands on a tensor
        shapes["layer", i] = tuple(x.shape[1:])
        cuts.append(x)
        if i + 1 in network.depths:
            e = list(network.depths).index(i + 1)
            logits = watch.lap(("head", e), lambda head=network.heads[e], x=x: head(x))  # type: ignore[misc]  # as in `measure`
            assert isinstance(logits, torch.Tensor)
            shapes["head", e] = tuple(logits.shape[1:])
    raw_laps(pixels, watch)
    for cut, tensor in enumerate(cuts, start=1):
        codec_laps(cut, tensor.numpy(), watch)
    return shapes, cuts


def raw_laps(pixels: NDArray[np.uint8], watch: Stopwatch) -> None:
    """Code and decode the input as its own bytes."""
    raw = watch.lap(("encode", 0, codecs.RAW_BITS), lambda: codecs.encode_raw(pixels))
    _decode(watch, 0, raw, pixels.shape)


def codec_laps(cut: int, tensor: NDArray[np.float32], watch: Stopwatch) -> None:
    """Code and decode the tensor of a cut with every bit width."""
    for bits in codecs.BITS:
        sent = watch.lap(("encode", cut, bits), lambda b=bits: codecs.encode(tensor, b))  # type: ignore[misc]  # as in `measure`
        _decode(watch, cut, sent, tensor.shape)


def _decode(watch: Stopwatch, cut: int, sent: object, shape: tuple[int, ...]) -> None:
    assert isinstance(sent, codecs.Encoded)
    watch.lap(("decode", cut, sent.bits), lambda: codecs.decode(sent.data, sent.bits, sent.lo, sent.scale, shape))


def codec_costs(layers: int, watch: Stopwatch) -> tuple[CodecCost, ...]:
    """What `raw_laps` and `codec_laps` have noted, for every cut of a trunk of so many layers."""
    return tuple(
        CodecCost(cut=cut, bits=bits, encode=watch.timing(("encode", cut, bits)), decode=watch.timing(("decode", cut, bits)))
        for cut in range(layers + 1)
        for bits in (codecs.BITS if cut else (codecs.RAW_BITS,))
    )


class Surroundings:
    """Before and after the network: a camera frame becomes its input, logits become an answer. Needs Pillow."""

    def __init__(self, network: MultiExit) -> None:
        self._shape = network.input_shape
        self._frame = np.random.default_rng(0).integers(0, 256, FRAME_SHAPE).astype(np.uint8)

    def laps(self, logits: NDArray[np.float32], watch: Stopwatch) -> None:
        """Both, once, under the stopwatch; `logits` is of shape (classes,)."""
        watch.lap(("preprocess",), self._input)
        watch.lap(("postprocess",), lambda: _answer(logits))

    def preprocess(self, watch: Stopwatch) -> FrameCost:
        """What the first of them costs."""
        return FrameCost(frame_shape=FRAME_SHAPE, time=watch.timing(("preprocess",)))

    def _input(self) -> NDArray[np.float32]:
        from PIL import Image

        _, height, width = self._shape
        resized = np.asarray(Image.fromarray(self._frame).resize((width, height), Image.Resampling.BILINEAR))
        return np.ascontiguousarray(resized.transpose(2, 0, 1), dtype=np.float32)


def _answer(logits: NDArray[np.float32]) -> tuple[int, float]:
    """The class and its share of the softmax."""
    shares = np.exp(logits - logits.max())
    best = int(shares.argmax())
    return best, float(shares[best] / shares.sum())


def segments(depths: Sequence[int]) -> Iterator[tuple[int, int | None]]:
    """Every prefix as (cut, None) and every suffix as (cut, exit), in the order of a table; their names on the stopwatch."""
    for cut in range(1, depths[-1] + 1):
        yield cut, None
    for exit_, depth in enumerate(depths):
        for cut in range(depth + 1):
            yield cut, exit_


def _modules(network: MultiExit, cut: int, exit_: int | None) -> list[torch.nn.Module]:
    layers = list(network.layers)
    return layers[:cut] if exit_ is None else [*layers[cut : network.depths[exit_]], network.heads[exit_]]


def _segments(network: MultiExit, cuts: Sequence[torch.Tensor], watch: Stopwatch) -> None:
    """Run every prefix and suffix once; cuts[p] is the tensor after p layers, cuts[0] the input."""

    def run(modules: Sequence[torch.nn.Module], x: torch.Tensor) -> torch.Tensor:
        for module in modules:
            x = module(x)
        return x

    for cut, exit_ in segments(network.depths):
        x, modules = cuts[0 if exit_ is None else cut], _modules(network, cut, exit_)
        time.sleep(GAP_S)
        watch.lap((cut, exit_), lambda modules=modules, x=x: run(modules, x))  # type: ignore[misc]  # as in `measure`


def _cold_starts(network: MultiExit, watch: Stopwatch) -> dict[tuple[int, int | None], int]:
    """Read the weights of every segment from a safetensors file and put them into its modules; returns the files' lengths."""
    from safetensors.torch import load, save

    sizes: dict[tuple[int, int | None], int] = {}
    with tempfile.TemporaryDirectory(prefix="cutlayer-") as folder:
        path = Path(folder) / "segment.safetensors"
        for name in segments(network.depths):
            segment = torch.nn.ModuleList(_modules(network, *name))
            data = save({key: value.clone().contiguous() for key, value in segment.state_dict().items()})
            path.write_bytes(data)
            sizes[name] = len(data)
            for _ in range(LOADS):
                watch.lap(("load", *name), lambda segment=segment: segment.load_state_dict(load(path.read_bytes())))  # type: ignore[misc]  # as in `measure`
    return sizes


def segment_costs(watch: Stopwatch, sizes: dict[tuple[int, int | None], int]) -> tuple[tuple[SegmentCost, ...], tuple[SegmentCost, ...]]:
    """Prefixes and suffixes from laps under the names of `segments`, and cold starts under (load, cut, exit); sizes in bytes."""
    costs = [
        SegmentCost(cut=cut, exit=exit_, time=watch.timing((cut, exit_)), load=watch.timing(("load", cut, exit_)), weight_bytes=size)
        for (cut, exit_), size in sizes.items()
    ]
    return tuple(cost for cost in costs if cost.exit is None), tuple(cost for cost in costs if cost.exit is not None)


def noise(profile: ModelProfile) -> float:
    """Wall over CPU median of the whole network; 1 on a machine that did nothing else."""
    return profile.whole.wall.p50_s / profile.whole.cpu.p50_s


def noisy(profile: ModelProfile) -> bool:
    """Whether the machine was too busy while the table was measured; its CPU times are then less trustworthy too."""
    return noise(profile) > NOISY_RATIO


def refuse_noisy(profile: ModelProfile) -> None:
    """Let only a table pass that was measured on a quiet machine.

    Raises:
        ProfileError: it is `noisy`.
    """
    if noisy(profile):
        where = profile.provenance
        raise ProfileError(
            f"wall over CPU time is {noise(profile):.2f} in the table of {profile.model} on {where.machine} (limit {NOISY_RATIO}, load "
            f"average {where.load_average}); measure again when the machine is quiet"
        )


def additive_error(profile: ModelProfile) -> float:
    """Relative error of the summed chain against the whole network in one piece, CPU means.

    It judges layers timed in the chain; where they are differences of prefixes, it is what the heads cost as graphs of their own.
    """
    parts = sum(cost.time.cpu.mean_s for cost in (*profile.layers, *profile.heads))
    return parts / profile.whole.cpu.mean_s - 1.0


def _pairs(profile: ModelProfile) -> dict[tuple[int, int], tuple[float, float]]:
    """By (cut, exit): prefix and suffix together, and the network up to that exit in one piece; CPU medians, seconds."""
    prefix = {cost.cut: cost.time.cpu.p50_s for cost in profile.prefixes}
    suffix = {(cost.cut, cost.exit): cost.time.cpu.p50_s for cost in profile.suffixes}
    return {(cut, e): (prefix[cut] + rest, suffix[0, e]) for (cut, e), rest in suffix.items() if cut and e is not None}


def waking_s(profile: ModelProfile) -> float:
    """What a cut costs beyond the work: median over all cuts of prefix and suffix less the network in one piece; 0 without cuts.

    A prefix and a suffix each start after an idle gap, with cold caches, as on a device and an edge server; the network
    in one piece starts once. Without gaps the difference is a tenth of it (ResNet-8 with torch: 0.02 for 0.27 ms).
    """
    excess = [pair - whole for pair, whole in _pairs(profile).values()]
    return float(np.median(excess)) if excess else 0.0


def pair_errors(profile: ModelProfile, less_s: float = 0.0) -> dict[tuple[int, int], float]:
    """Relative error of prefix and suffix together against the network in one piece, CPU medians, by (cut, exit).

    Of exits that cost over a millisecond in one piece. `less_s` is taken off every pair: `waking_s(profile)`, or nothing.
    """
    return {key: (pair - less_s) / whole - 1.0 for key, (pair, whole) in _pairs(profile).items() if whole > PAIR_FROM_S}


def pair_error(profile: ModelProfile) -> float:
    """The entry of `pair_errors` that is furthest from 0; 0 where there is none."""
    return max(pair_errors(profile).values(), key=abs, default=0.0)

"""Measure what a network costs here with torch: the whole chain with time stamps, one thread, idle gaps between runs.

Layers are timed while the chain runs, not one by one in a loop: a layer alone finds its weights in the cache and looks
up to 28 % too fast. Every duration is taken by wall clock and by the thread's CPU time; the difference is other
people's work on the machine, so models use the CPU time; `cutlayer.profiles.acceptance` judges it. `measure_onnx` is its
sister for ONNX Runtime, and shares the stopwatch and what does not depend on the backend.

Asked for the ground truth, it also runs every prefix and every suffix in one piece, the suffix directly behind its prefix.
A request pays one start from idle, 0.15 to 0.3 ms of cold caches on a server core: the device's, which is in its prefix. An
edge server that serves many devices is awake when a tensor comes in. Timed after a gap of its own, each suffix would hold
that start a second time, and a cut would look 11 to 22 % dearer than the network in one piece (ResNet-8, ResNet-20 and
AlexNet, 1.6 to 6.4 ms); timed behind its prefix, 2 to 6 %.
"""

from __future__ import annotations

import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from cutlayer.profiles import machine, pixels, power
from cutlayer.profiles.codecs import RAW_BITS, Affine, Encoded, decode, encode_raw
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
    UnitCost,
)
from cutlayer.profiles.zoo import MultiExit, weights_digest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from cutlayer.profiles.bottlenecks import Unit
    from cutlayer.profiles.codecs import TensorCodec

GAP_S = 0.01  # idle gap before each run: requests come one by one, caches cool in between
WARM_UP = 5  # runs thrown away: allocator and oneDNN settle within the first two or three
LOADS = 5  # cold starts of each segment and swaps of each unit: their spread is small, and each allocates all weights
FRAME_SHAPE = (480, 640, 3)  # VGA, the smallest mode that common camera modules and webcams offer by default

AFFINE: tuple[TensorCodec, ...] = (Affine(),)


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
    codecs: Sequence[TensorCodec] = AFFINE,
    units: Sequence[Unit] = (),
    images: Sequence[NDArray[np.uint8]] = (),
    draw: power.Draw = power.modelled,
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
    ground_truth: bool = False,
) -> ModelProfile:
    """Time every layer, head and codec of `network` over `runs` runs on this machine with torch, one thread.

    The runs take `images` in turn, each of the network's input shape; without any, those of `pixels.natural`. `units` are
    swapped in for their cost, `draw` meters the power while the network runs back to back. `ground_truth` adds every prefix
    and every suffix in one piece, with their cold starts: as many runs of the network again as there are suffixes.

    Raises:
        ProfileError: the power cannot be metered.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        network.eval()
        watch, around = Stopwatch(), Surroundings(network)
        shapes: dict[tuple[object, ...], tuple[int, ...]] = {}
        inputs = images or pixels.natural(network.input_shape, seed=seed)
        drawn = draw(lambda: network(_tensor(inputs[0])))
        for run in range(-WARM_UP, runs):
            if run == 0:
                watch = Stopwatch()
            image = inputs[run % len(inputs)]
            x = _tensor(image)
            time.sleep(GAP_S)
            shapes = _chain(network, x, codecs, watch)
            raw_laps(image, watch)
            time.sleep(GAP_S)
            logits = watch.lap(("whole",), partial(network, x))
            assert isinstance(logits, list)
            around.laps(logits[-1].numpy()[0], watch)
            if ground_truth:
                _segments(network, x, watch)
            if progress is not None:
                progress((run + WARM_UP + 1) / (runs + WARM_UP))
        sizes = _cold_starts(network, watch) if ground_truth else {}
        swaps = unit_costs(units, watch)
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
        codecs=codec_costs(depths[-1], codecs, watch),
        whole=watch.timing(("whole",)),
        busy_w=drawn.busy_w,
        idle_w=drawn.idle_w,
        provenance=provenance(device_name, "torch", str(torch.__version__), drawn.method),
        prefixes=prefixes,
        suffixes=suffixes,
        preprocess=around.preprocess(watch),
        postprocess=watch.timing(("postprocess",)),
        units=swaps,
    )


def provenance(device_name: str, backend: str, version: str, energy_method: str) -> Provenance:
    """Of a table that is measured here and now with one thread."""
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
        energy_method=energy_method,
    )


def _tensor(image: NDArray[np.uint8]) -> torch.Tensor:
    return torch.from_numpy(image).float()[None]


def _chain(
    network: MultiExit, x: torch.Tensor, codecs: Sequence[TensorCodec], watch: Stopwatch
) -> dict[tuple[object, ...], tuple[int, ...]]:
    """Run the chain once under the stopwatch: layers and heads in order, each cut's codecs after the chain has passed."""
    shapes: dict[tuple[object, ...], tuple[int, ...]] = {}
    cuts: list[torch.Tensor] = []
    for i, layer in enumerate(network.layers):
        out = watch.lap(("layer", i), partial(layer, x))
        assert isinstance(out, torch.Tensor)
        x = out
        shapes["layer", i] = tuple(x.shape[1:])
        cuts.append(x)
        if i + 1 in network.depths:
            e = list(network.depths).index(i + 1)
            logits = watch.lap(("head", e), partial(network.heads[e], x))
            assert isinstance(logits, torch.Tensor)
            shapes["head", e] = tuple(logits.shape[1:])
    for cut, tensor in enumerate(cuts, start=1):
        codec_laps(cut, tensor.numpy()[0], codecs, watch)
    return shapes


def raw_laps(image: NDArray[np.uint8], watch: Stopwatch) -> None:
    """Code and decode the input as its own bytes, which is the affine rule with step 1."""
    sent = watch.lap(("encode", 0, RAW_BITS, Affine.name), lambda: encode_raw(image))
    assert isinstance(sent, Encoded)
    watch.lap(("decode", 0, RAW_BITS, Affine.name), lambda: decode(sent.data, sent.bits, sent.lo, sent.scale, image.shape))


def codec_laps(cut: int, tensor: NDArray[np.float32], codecs: Sequence[TensorCodec], watch: Stopwatch) -> None:
    """Code and decode the tensor of a cut, without the batch axis, with every codec that serves it at every width."""
    for codec in codecs:
        for bits in codec.widths(cut):
            name = (cut, bits, codec.name)
            sent = watch.lap(("encode", *name), partial(codec.encode, tensor, cut, bits))
            assert isinstance(sent, Encoded)
            watch.lap(("decode", *name), partial(codec.decode, sent, cut, tensor.shape))


def codec_costs(layers: int, codecs: Sequence[TensorCodec], watch: Stopwatch) -> tuple[CodecCost, ...]:
    """What `raw_laps` and `codec_laps` have noted, for every cut of a trunk of so many layers."""
    names = [(0, RAW_BITS, Affine.name)]
    names += [(cut, bits, codec.name) for cut in range(1, layers + 1) for codec in codecs for bits in codec.widths(cut)]
    return tuple(
        CodecCost(
            cut=cut, bits=bits, codec=codec,
            encode=watch.timing(("encode", cut, bits, codec)), decode=watch.timing(("decode", cut, bits, codec)),
        )
        for cut, bits, codec in names
    )  # fmt: skip


def unit_costs(units: Sequence[Unit], watch: Stopwatch) -> tuple[UnitCost, ...]:
    """Swap every bottleneck in, several times, and say what it weighs."""
    costs = []
    for unit in units:
        for _ in range(LOADS):
            watch.lap(("swap", unit.name, unit.cut), unit.swap)
        costs.append(
            UnitCost(
                name=unit.name, cut=unit.cut, channels=unit.channels, code_shape=unit.code_shape, sha256=unit.sha256,
                encoder_bytes=unit.encoder_bytes, decoder_bytes=unit.decoder_bytes, swap=watch.timing(("swap", unit.name, unit.cut)),
            )
        )  # fmt: skip
    return tuple(costs)


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


def _segments(network: MultiExit, x: torch.Tensor, watch: Stopwatch) -> None:
    """Run every suffix once, each directly behind its prefix; `x` is the input. A prefix is timed before the last exit's suffix."""
    last = len(network.depths) - 1
    for cut, exit_ in segments(network.depths):
        if exit_ is None:
            continue
        before = partial(_run, _modules(network, cut, None), x)
        after = _modules(network, cut, exit_)
        time.sleep(GAP_S)
        tensor = watch.lap((cut, None), before) if cut and exit_ == last else before()
        assert isinstance(tensor, torch.Tensor)
        watch.lap((cut, exit_), partial(_run, after, tensor))


def _run(modules: Sequence[torch.nn.Module], x: torch.Tensor) -> torch.Tensor:
    for module in modules:
        x = module(x)
    return x


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
                watch.lap(("load", *name), lambda segment=segment: segment.load_state_dict(load(path.read_bytes())))  # type: ignore[misc]  # mypy cannot infer a lambda with a default
    return sizes


def segment_costs(watch: Stopwatch, sizes: dict[tuple[int, int | None], int]) -> tuple[tuple[SegmentCost, ...], tuple[SegmentCost, ...]]:
    """Prefixes and suffixes from laps under the names of `segments`, and cold starts under (load, cut, exit); sizes in bytes."""
    costs = [
        SegmentCost(cut=cut, exit=exit_, time=watch.timing((cut, exit_)), load=watch.timing(("load", cut, exit_)), weight_bytes=size)
        for (cut, exit_), size in sizes.items()
    ]
    return tuple(cost for cost in costs if cost.exit is None), tuple(cost for cost in costs if cost.exit is not None)

"""Measure what a network costs here with ONNX Runtime: every prefix and every suffix in one piece, one thread, idle gaps.

The graphs are those that device and edge run (`cutlayer.profiles.graphs`), exported to a temporary folder and run in
turn, so that a change in the machine's load meets all of them alike; a suffix runs directly behind its prefix, on what
that put out (`cutlayer.profiles.measure` says why). ONNX Runtime fuses across layers and runs none by
itself: a chain of one-layer graphs would be up to 31 % slower on MobileNetV2. So the prefixes and suffixes of the
profile are measured, and its layers are differences of consecutive prefixes, marked as such and for reading only. A
prefix that ends between two exits also puts out what the exit before it reads, as it does in use; the next prefix may
then cost less, and its layer shows 0.
"""

from __future__ import annotations

import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from cutlayer.errors import ConfigError
from cutlayer.profiles import graphs, pixels, power
from cutlayer.profiles.measure import (
    AFFINE,
    GAP_S,
    LOADS,
    WARM_UP,
    Stopwatch,
    Surroundings,
    codec_costs,
    codec_laps,
    provenance,
    raw_laps,
    segment_costs,
    segments,
    unit_costs,
)
from cutlayer.profiles.schema import SCHEMA_VERSION, LayerCost, ModelProfile

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from cutlayer.profiles.bottlenecks import Unit
    from cutlayer.profiles.codecs import TensorCodec
    from cutlayer.profiles.zoo import MultiExit

LOADED_BYTES = 1 << 30  # graphs open at a time: each holds its own copy of the weights, and VGG-16 has 8.5 GB of them
WHOLE = "whole.onnx"  # beside the exported graphs: the network in one piece with all heads

Segment = tuple[int, int | None]  # (cut, exit) as in `measure.segments`
WHOLE_SEGMENT: Segment = (0, None)  # not among them


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
) -> ModelProfile:
    """Time every prefix, suffix and codec of `network` over `runs` runs on this machine with ONNX Runtime, one thread.

    `images`, `units` and `draw` are as in `cutlayer.profiles.measure.measure`. Writes the graphs to the system's folder for
    temporary files, and removes them: two copies of the weights a cut.

    Raises:
        ConfigError: a package is missing, or the folder has no room.
        ProfileError: the power cannot be metered.
    """
    runtime = _runtime()
    with tempfile.TemporaryDirectory(prefix="cutlayer-") as temporary:
        folder = Path(temporary) / "graphs"
        graphs.export(network, folder)
        manifest = msgspec.json.decode((folder / graphs.MANIFEST).read_bytes(), type=graphs.Manifest)
        _write_whole(folder, manifest.depths)
        names: dict[Segment, str] = {WHOLE_SEGMENT: WHOLE}
        names |= {(p, e): graphs.prefix_name(p) if e is None else graphs.suffix_name(p, e) for p, e in segments(manifest.depths)}
        files = {segment: folder / name for segment, name in names.items()}
        bench = _Bench(runtime, network, files, images or pixels.natural(network.input_shape, seed=seed), codecs)
        drawn = bench.draw(draw)
        watch = bench.run(runs, progress)
        swaps = unit_costs(units, watch)
    depths = manifest.depths
    prefixes, suffixes = segment_costs(watch, {segment: bench.sizes[segment] for segment in segments(depths)})
    return ModelProfile(
        schema_version=SCHEMA_VERSION,
        model=manifest.model,
        weights_sha256=manifest.weights_sha256,
        input_shape=manifest.input_shape,
        depths=depths,
        layers=tuple(
            LayerCost(name=name, output_shape=manifest.cut_shapes[p], time=watch.timing((p, None), minus=(p - 1, None) if p > 1 else None))
            for p, name in enumerate(network.layer_names, start=1)
        ),
        heads=tuple(
            LayerCost(name=f"exit{e}", output_shape=(manifest.classes,), time=watch.timing((depth, e))) for e, depth in enumerate(depths)
        ),
        codecs=codec_costs(depths[-1], codecs, watch),
        whole=watch.timing(WHOLE_SEGMENT),
        busy_w=drawn.busy_w,
        idle_w=drawn.idle_w,
        provenance=provenance(device_name, "onnxruntime", str(runtime.__version__), drawn.method),
        layer_times="differences",
        prefixes=prefixes,
        suffixes=suffixes,
        preprocess=bench.around.preprocess(watch),
        postprocess=watch.timing(("postprocess",)),
        units=swaps,
    )


def _runtime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise ConfigError(f"measuring graphs needs the package {error.name}; install it with: pip install 'cutlayer[profile]'") from error
    return onnxruntime


class _Bench:
    """Runs the graphs in turn on the images in turn. sizes holds the length of each file, once it has been opened."""

    def __init__(
        self,
        runtime: Any,
        network: MultiExit,
        files: dict[Segment, Path],
        images: Sequence[NDArray[np.uint8]],
        codecs: Sequence[TensorCodec],
    ) -> None:
        self.runtime, self.files, self.images, self.codecs = runtime, files, images, codecs
        self.last = len(network.depths) - 1
        self.sizes: dict[Segment, int] = {}
        self.around = Surroundings(network)

    def draw(self, draw: power.Draw) -> power.Power:
        """The power while the network runs in one piece."""
        session, feed = self._open(WHOLE_SEGMENT, Stopwatch()), _feed(self.images[0])
        return draw(lambda: session.run(None, feed))

    def run(self, runs: int, progress: Callable[[float], None] | None) -> Stopwatch:
        """The laps of all graphs under their segments, of the codecs, and of what comes before and after."""
        watch = Stopwatch()
        batches = self._batches()
        rounds = len(batches) * (runs + WARM_UP)
        for batch, some in enumerate(batches):
            sessions = {segment: self._open(segment, watch) for segment in some}
            for run in range(-WARM_UP, runs):
                self._round(sessions, self.images[run % len(self.images)], watch if run >= 0 else Stopwatch())
                if progress is not None:
                    progress((batch * (runs + WARM_UP) + run + WARM_UP + 1) / rounds)
        return watch

    def _batches(self) -> list[list[Segment]]:
        """The graphs in such portions that each fits into `LOADED_BYTES`, or is one cut: its graphs run behind each other."""
        cuts: dict[int, list[Segment]] = {}
        for segment in self.files:
            cuts.setdefault(segment[0], []).append(segment)
        batches: list[list[Segment]] = [[]]
        open_bytes = 0
        for together in cuts.values():
            size = sum(self.files[segment].stat().st_size for segment in together)
            if batches[-1] and open_bytes + size > LOADED_BYTES:
                batches.append([])
                open_bytes = 0
            batches[-1] += together
            open_bytes += size
        return batches

    def _open(self, segment: Segment, watch: Stopwatch) -> Any:
        """A session from the graph's file; opened several times under the stopwatch."""
        path = self.files[segment]
        self.sizes[segment] = path.stat().st_size
        options = self.runtime.SessionOptions()  # as runtime.split.graphs sets them for the graphs in use
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors only
        options.add_free_dimension_override_by_name(graphs.BATCH, 1)
        session: Any = None
        for _ in range(LOADS):
            session = None  # the one before is freed first: of VGG-16 two would be over a gigabyte
            session = watch.lap(
                ("load", *segment), lambda: self.runtime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
            )
        return session

    def _round(self, sessions: dict[Segment, Any], image: NDArray[np.uint8], watch: Stopwatch) -> None:
        """Each graph from the pixels once, and each suffix directly behind its prefix, which is timed before the last exit's."""
        feed = _feed(image)
        for (cut, exit_), session in sessions.items():
            if cut and exit_ is None:
                continue
            time.sleep(GAP_S)
            if not cut:
                out = watch.lap((0, exit_), partial(session.run, None, feed))
                assert isinstance(out, list)
                if exit_ is None:
                    raw_laps(image, watch)
                    self.around.laps(out[-1][0], watch)
                continue
            before = partial(sessions[cut, None].run, None, feed)
            tensors = watch.lap((cut, None), before) if exit_ == self.last else before()
            assert isinstance(tensors, list)
            watch.lap((cut, exit_), partial(session.run, None, {graphs.cut_name(cut): tensors[0]}))
            if exit_ == self.last:
                codec_laps(cut, tensors[0][0], self.codecs, watch)


def _feed(image: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
    return {graphs.PIXELS: image.astype(np.float32)[None]}


def _write_whole(folder: Path, depths: Sequence[int]) -> None:
    """Join the trunk and all heads, which the export holds apart, to one graph from the pixels to every exit's logits."""
    import onnx

    whole = onnx.load(folder / graphs.prefix_name(depths[-1]))
    del whole.graph.output[:]
    made = {name for node in whole.graph.node for name in node.output} | {value.name for value in whole.graph.initializer}
    for exit_, depth in enumerate(depths):
        head = onnx.load(folder / graphs.suffix_name(depth, exit_)).graph
        whole.graph.node.extend(node for node in head.node if not made.intersection(node.output))
        whole.graph.initializer.extend(value for value in head.initializer if value.name not in made)
        made.update(name for node in head.node for name in node.output)
        made.update(value.name for value in head.initializer)
        whole.graph.output.extend(head.output)
    (folder / WHOLE).write_bytes(whole.SerializeToString())

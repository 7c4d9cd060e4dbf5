"""Measure how often every plan is right on labelled images: each cut tensor through each codec, then the rest of the network.

And the input itself as JPEG: bytes, time, and what the loss costs every exit. Needs Pillow.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cutlayer.errors import ConfigError
from cutlayer.profiles import codecs, machine, zoo
from cutlayer.profiles.builtin import JpegExit, JpegTable, Sizes
from cutlayer.profiles.measure import WARM_UP, Stopwatch
from cutlayer.profiles.schema import SCHEMA_VERSION, AccuracyTable, PlanAccuracy, Provenance
from cutlayer.profiles.stats import wilson
from cutlayer.profiles.zoo import MultiExit, weights_digest

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from cutlayer.profiles.images import ImageSet

BATCH = 50  # images at a time: large enough for the convolutions, small enough for the cache
JPEG_QUALITY = 75  # Pillow's default, and that of the Independent JPEG Group's cjpeg


@torch.inference_mode()
def measure(network: MultiExit, images: ImageSet, progress: Callable[[float], None] | None = None) -> AccuracyTable:
    """Count the right answers of every (exit, partition, bits) on `images`; 32 bits and the raw input are exact.

    Raises:
        ConfigError: the images have other classes than the network, or its weights are random.
    """
    _check(network, images)
    network.eval()
    pixels = images.resized(network.input_shape[1]).transpose(0, 3, 1, 2)
    right: dict[tuple[int, int, int], int] = {}
    for start in range(0, len(images), BATCH):
        _count(network, pixels[start : start + BATCH], torch.from_numpy(images.labels[start : start + BATCH]), right)
        if progress is not None:
            progress(min(1.0, (start + BATCH) / len(images)))
    plans = tuple(
        PlanAccuracy(exit=exit_, partition=partition, bits=bits, correct=right[exit_, cut, width])
        for exit_, depth in enumerate(network.depths)
        for partition in range(depth + 2)
        for bits, cut, width in _cells(partition, depth)
    )
    return AccuracyTable(
        schema_version=SCHEMA_VERSION, model=network.name, weights_sha256=weights_digest(network),
        source=images.source, images=len(images), plans=plans, provenance=_provenance("", "torch", str(torch.__version__)),
    )  # fmt: skip


def _check(network: MultiExit, images: ImageSet) -> None:
    if network.name in zoo.LATENCY_ONLY:
        trained = ", ".join(name for name in zoo.names() if name not in zoo.LATENCY_ONLY)
        raise ConfigError(
            f"{network.name} has random weights, so its accuracy is not measured; give a network with trained ones: {trained}"
        )
    if len(images.class_names) != network.classes or len(images) == 0:
        raise ConfigError(
            f"{len(images)} images of {len(images.class_names)} classes from {images.source}; {network.name} has {network.classes}; "
            "give images of its classes"
        )


def _provenance(machine_name: str, backend: str, version: str) -> Provenance:
    return Provenance(
        kind="measured", machine=machine_name, cpu=machine.cpu_name(), backend=backend, backend_version=version,
        threads=torch.get_num_threads(), date=machine.today(), command=machine.command_line(),
        load_average=machine.load_average(), energy_method="none", governor=machine.governor(),
    )  # fmt: skip


@torch.inference_mode()
def measure_jpeg(
    network: MultiExit,
    images: ImageSet,
    device_name: str = "this-machine",
    quality: int = JPEG_QUALITY,
    progress: Callable[[float], None] | None = None,
) -> JpegTable:
    """Encode every image at the network's resolution as JPEG, decode it, and count the right answers of every exit on both.

    `device_name` is the machine whose profile stands beside this table: the times are scaled from it.

    Raises:
        ConfigError: the images have other classes than the network, or its weights are random.
    """
    import PIL

    _check(network, images)
    network.eval()
    frames = images.resized(network.input_shape[1])
    for frame in frames[:WARM_UP]:
        _jpeg_trip(frame, quality, Stopwatch())
    watch, sizes = Stopwatch(), []
    right = {True: np.zeros(len(network.depths), np.int64), False: np.zeros(len(network.depths), np.int64)}
    for start in range(0, len(images), BATCH):
        labels = torch.from_numpy(images.labels[start : start + BATCH])
        seen = []
        for frame in frames[start : start + BATCH]:
            size, tensor = _jpeg_trip(frame, quality, watch)
            sizes.append(size)
            seen.append(tensor)
        exact = np.ascontiguousarray(frames[start : start + BATCH].transpose(0, 3, 1, 2)).astype(np.float32)
        for lossy, batch in ((False, exact), (True, np.stack(seen))):
            right[lossy] += [int((logits.argmax(1) == labels).sum()) for logits in network(torch.from_numpy(batch))]
        if progress is not None:
            progress(min(1.0, (start + BATCH) / len(images)))
    length = np.array(sizes, np.float64)
    p50, p95, p99 = np.percentile(length, [50, 95, 99])
    return JpegTable(
        schema_version=SCHEMA_VERSION,
        model=network.name,
        weights_sha256=weights_digest(network),
        source=images.source,
        images=len(images),
        input_shape=network.input_shape,
        quality=quality,
        sizes=Sizes(
            mean_bytes=float(length.mean()), std_bytes=float(length.std()),
            p50_bytes=float(p50), p95_bytes=float(p95), p99_bytes=float(p99), n=len(length),
        ),
        encode=watch.timing(("encode",)),
        decode=watch.timing(("decode",)),
        exits=tuple(
            JpegExit(exit=exit_, correct_raw=int(right[False][exit_]), correct_jpeg=int(right[True][exit_]))
            for exit_ in range(len(network.depths))
        ),
        provenance=_provenance(device_name, "pillow", PIL.__version__),
    )  # fmt: skip


def _jpeg_trip(frame: NDArray[np.uint8], quality: int, watch: Stopwatch) -> tuple[int, NDArray[np.float32]]:
    """Length of the file, and the tensor that the edge makes of it; both ways under the stopwatch."""
    from PIL import Image

    def encode() -> bytes:
        out = io.BytesIO()
        Image.fromarray(frame).save(out, "JPEG", quality=quality)  # chroma at half resolution, Pillow's default
        return out.getvalue()

    def decode(data: bytes) -> NDArray[np.float32]:
        pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        return np.ascontiguousarray(pixels.transpose(2, 0, 1), dtype=np.float32)

    data = watch.lap(("encode",), encode)
    assert isinstance(data, bytes)
    tensor = watch.lap(("decode",), lambda: decode(data))
    assert isinstance(tensor, np.ndarray)
    return len(data), tensor


def _cells(partition: int, depth: int) -> list[tuple[int, int, int]]:
    """(bits of the plan, cut, bits under which the count is kept): what is sent exactly shares the unsplit count."""
    if partition == 0:
        return [(codecs.RAW_BITS, 0, 32)]
    if partition == depth + 1:
        return [(0, 0, 32)]
    return [(bits, 0 if bits == 32 else partition, bits) for bits in codecs.BITS]


def _count(network: MultiExit, pixels: NDArray[np.uint8], labels: torch.Tensor, right: dict[tuple[int, int, int], int]) -> None:
    x = torch.from_numpy(np.ascontiguousarray(pixels)).float()
    cuts: list[torch.Tensor] = []
    for layer in network.layers:
        x = layer(x)
        cuts.append(x)
    _heads(network, cuts, 0, 32, labels, right)
    for cut in range(1, len(cuts) + 1):
        for bits in (b for b in codecs.BITS if b != 32):
            # Each image is quantised with its own range, as it would be sent.
            coded = np.stack([_round_trip(image, bits) for image in cuts[cut - 1].numpy()])
            y = torch.from_numpy(coded)
            tail = [y]
            for layer in network.layers[cut:]:
                y = layer(y)
                tail.append(y)
            _heads(network, [*cuts[: cut - 1], *tail], cut, bits, labels, right)


def _heads(
    network: MultiExit, cuts: list[torch.Tensor], cut: int, bits: int, labels: torch.Tensor, right: dict[tuple[int, int, int], int]
) -> None:
    for exit_, depth in enumerate(network.depths):
        if depth >= cut:
            hits = int((network.heads[exit_](cuts[depth - 1]).argmax(1) == labels).sum())
            right[exit_, cut, bits] = right.get((exit_, cut, bits), 0) + hits


def _round_trip(image: NDArray[np.float32], bits: int) -> NDArray[np.float32]:
    sent = codecs.encode(image, bits)
    return codecs.decode(sent.data, sent.bits, sent.lo, sent.scale, image.shape)


def summary(table: AccuracyTable) -> dict[str, Any]:
    """Accuracy of each exit with its interval, and for each bit width the accuracy of the last exit over the cuts."""
    depth = {plan.exit: 0 for plan in table.plans}
    exits, by_bits = [], {}
    for exit_ in sorted(depth):
        local = next(plan for plan in table.plans if plan.exit == exit_ and plan.bits == 0)
        low, high = wilson(local.correct, table.images)
        exits.append({"exit": exit_, "accuracy": local.correct / table.images, "low": low, "high": high})
    last = max(depth)
    for bits in codecs.BITS:
        sent = [plan for plan in table.plans if (plan.exit, plan.bits) == (last, bits) and plan.partition]
        by_bits[str(bits)] = {str(plan.partition): plan.correct / table.images for plan in sent}
    return {"model": table.model, "source": table.source, "images": table.images, "exits": exits, "bits": by_bits}

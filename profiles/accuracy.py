"""Measure how often every plan is right on labelled images: each cut tensor through each codec, then the rest of the network.

And how sure every exit is of each image (`record`); and the input itself as JPEG: bytes, time, and what the loss costs every
exit. Needs Pillow.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import torch

from cutlayer.errors import ConfigError
from cutlayer.profiles import machine, zoo
from cutlayer.profiles.builtin import JpegExit, JpegTable
from cutlayer.profiles.codecs import BITS, RAW_BITS, Affine, payload_bytes
from cutlayer.profiles.measure import WARM_UP, Stopwatch
from cutlayer.profiles.schema import SCHEMA_VERSION, AccuracyTable, PayloadSizes, PlanAccuracy, Provenance, Sizes
from cutlayer.profiles.stats import wilson
from cutlayer.profiles.traces import TRACE_FORMAT, TraceOrigin, Traces
from cutlayer.profiles.zoo import MultiExit, weights_digest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from cutlayer.profiles.codecs import TensorCodec
    from cutlayer.profiles.images import ImageSet

BATCH = 50  # images at a time: large enough for the convolutions, small enough for the cache
JPEG_QUALITY = 75  # Pillow's default, and that of the Independent JPEG Group's cjpeg


AFFINE: tuple[TensorCodec, ...] = (Affine(),)


@torch.inference_mode()
def measure(
    network: MultiExit, images: ImageSet, codecs: Sequence[TensorCodec] = AFFINE, progress: Callable[[float], None] | None = None
) -> AccuracyTable:
    """Count the right answers of every (exit, partition, bits, codec) on `images`, and weigh the payloads whose length varies.

    The raw input and what stays on the device are exact, and stand under "affine".

    Raises:
        ConfigError: the images have other classes than the network, or its weights are random.
    """
    _check(network, images)
    network.eval()
    count = _Count(network, codecs)
    for pixels, labels in _batches(network, images, progress):
        count.add(pixels, labels)
    return AccuracyTable(
        schema_version=SCHEMA_VERSION, model=network.name, weights_sha256=weights_digest(network),
        source=images.source, images=len(images), plans=tuple(count.plans()),
        provenance=_provenance("", "torch", str(torch.__version__)), payloads=tuple(count.payloads()), units=count.units(),
    )  # fmt: skip


class _Count:
    """Right answers and payload lengths so far, of every codec at every width and cut that it offers."""

    def __init__(self, network: MultiExit, codecs: Sequence[TensorCodec]) -> None:
        self._network = network
        self._codecs = codecs
        self._unsplit = np.zeros(len(network.depths), np.int64)
        self._right: dict[tuple[int, int, str], NDArray[np.int64]] = {}  # by (cut, bits, codec), one count an exit
        self._lengths: dict[tuple[int, int, str], list[int]] = {}
        self._elements: dict[int, int] = {}

    def add(self, pixels: torch.Tensor, labels: torch.Tensor) -> None:
        """Send the tensors of one batch through every codec."""
        tensors = _chain(self._network, 0, pixels)
        unsplit = self._hits(0, tensors, labels)
        self._unsplit += unsplit
        for cut, tensor in enumerate(tensors[1:], 1):
            exact = tensor.numpy()
            self._elements[cut] = exact[0].size
            # Equal values get equal answers: what is decoded exactly, or without loss, is not run again.
            known = [(exact, unsplit)]
            for codec in self._codecs:
                for bits in codec.widths(cut):
                    got = self._sent(codec, cut, bits, exact)
                    right = next((right for values, right in known if _equal(values, got)), None)
                    if right is None:
                        right = self._hits(cut, _chain(self._network, cut, torch.from_numpy(got)), labels)
                        known.append((got, right))
                    key = (cut, bits, codec.name)
                    self._right[key] = self._right.get(key, 0) + right

    def _sent(self, codec: TensorCodec, cut: int, bits: int, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """What the edge computes with; each image is coded by itself, as it would be sent."""
        sent = [codec.encode(image, cut, bits) for image in batch]
        self._lengths.setdefault((cut, bits, codec.name), []).extend(len(one.data) for one in sent)
        return np.stack([codec.decode(one, cut, image.shape) for one, image in zip(sent, batch, strict=True)])

    def _hits(self, cut: int, tensors: list[torch.Tensor], labels: torch.Tensor) -> NDArray[np.int64]:
        """Right answers of each exit; 0 of those before the cut."""
        logits = _logits(self._network, cut, tensors)
        right = [int((logits[exit_].argmax(1) == labels).sum()) if exit_ in logits else 0 for exit_ in range(len(self._network.depths))]
        return np.array(right, np.int64)

    def plans(self) -> Iterator[PlanAccuracy]:
        """In the order (exit, partition, bits, codec), codecs as they were given."""
        keys = sorted(self._right, key=lambda key: key[:2])
        for exit_, (depth, exact) in enumerate(zip(self._network.depths, self._unsplit.tolist(), strict=True)):
            yield PlanAccuracy(exit=exit_, partition=0, bits=RAW_BITS, correct=exact)
            for cut, bits, codec in keys:
                if cut <= depth:
                    yield PlanAccuracy(exit=exit_, partition=cut, bits=bits, correct=int(self._right[cut, bits, codec][exit_]), codec=codec)
            yield PlanAccuracy(exit=exit_, partition=depth + 1, bits=0, correct=exact)

    def payloads(self) -> Iterator[PayloadSizes]:
        """Of what is not as long as the tensor's shape, or the bottleneck's, says beforehand."""
        stated = {(unit.cut, codec.name): unit.payload_bytes for codec in self._codecs for unit in _units(codec)}
        for (cut, bits, codec), lengths in sorted(self._lengths.items(), key=lambda item: item[0][:2]):
            fixed = stated.get((cut, codec), payload_bytes(self._elements[cut], bits))
            if any(length != fixed for length in lengths):
                yield PayloadSizes(cut=cut, bits=bits, codec=codec, sizes=_sizes(lengths))

    def units(self) -> dict[str, str]:
        """Weights of the bottlenecks, by name and cut."""
        return {f"{unit.name}@{unit.cut}": unit.sha256 for codec in self._codecs for unit in _units(codec)}


def _equal(one: NDArray[np.float32], other: NDArray[np.float32]) -> bool:
    """Whether two batches are the same, mostly told by their first image."""
    return np.array_equal(one[0], other[0]) and np.array_equal(one, other)


def _units(codec: TensorCodec) -> Sequence[Any]:
    """The trained bottlenecks that a codec is made of (`profiles.bottlenecks.Unit`); most codecs have none."""
    found: Sequence[Any] = getattr(codec, "units", ())
    return found


@torch.inference_mode()
def record(network: MultiExit, images: ImageSet, progress: Callable[[float], None] | None = None) -> Traces:
    """Whether every exit is right about each image, and how sure it is.

    Raises:
        ConfigError: the images have other classes than the network, or its weights are random.
    """
    _check(network, images)
    network.eval()
    confidence, correct = [], []
    for pixels, labels in _batches(network, images, progress):
        logits = torch.stack(list(_logits(network, 0, _chain(network, 0, pixels)).values()), 1)
        confidence.append(logits.softmax(2).amax(2).numpy())
        correct.append((logits.argmax(2) == labels[:, None]).numpy())
    where = _provenance("", "torch", str(torch.__version__))
    origin = TraceOrigin(
        format=TRACE_FORMAT, model=network.name, weights_sha256=weights_digest(network), source=images.source, images=len(images),
        classes=network.classes, cpu=where.cpu, backend=where.backend, backend_version=where.backend_version,
        date=where.date, command=where.command,
    )  # fmt: skip
    return Traces(np.concatenate(correct), np.concatenate(confidence).astype(np.float16), origin)


def _batches(network: MultiExit, images: ImageSet, progress: Callable[[float], None] | None) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Input and labels of `BATCH` images at a time."""
    pixels = images.resized(network.input_shape[1]).transpose(0, 3, 1, 2)
    for start in range(0, len(images), BATCH):
        x = torch.from_numpy(np.ascontiguousarray(pixels[start : start + BATCH])).float()
        yield x, torch.from_numpy(images.labels[start : start + BATCH])
        if progress is not None:
            progress(min(1.0, (start + BATCH) / len(images)))


def _chain(network: MultiExit, cut: int, x: torch.Tensor) -> list[torch.Tensor]:
    """Given the tensor after `cut` layers: it, and the one after each later layer."""
    tensors = [x]
    for layer in network.layers[cut:]:
        tensors.append(layer(tensors[-1]))
    return tensors


def _logits(network: MultiExit, cut: int, tensors: list[torch.Tensor]) -> dict[int, torch.Tensor]:
    """Logits of every exit that is not before the cut, from its `_chain`."""
    return {exit_: network.heads[exit_](tensors[depth - cut]) for exit_, depth in enumerate(network.depths) if depth >= cut}


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
    return JpegTable(
        schema_version=SCHEMA_VERSION,
        model=network.name,
        weights_sha256=weights_digest(network),
        source=images.source,
        images=len(images),
        input_shape=network.input_shape,
        quality=quality,
        sizes=_sizes(sizes),
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


def _sizes(lengths: Sequence[int]) -> Sizes:
    length = np.array(lengths, np.float64)
    p50, p95, p99 = np.percentile(length, [50, 95, 99])
    return Sizes(
        mean_bytes=float(length.mean()), std_bytes=float(length.std()),
        p50_bytes=float(p50), p95_bytes=float(p95), p99_bytes=float(p99), n=len(length),
    )  # fmt: skip


def summary(table: AccuracyTable) -> dict[str, Any]:
    """Accuracy of each exit and of each plan with its interval, and by bits (affine) and cut that of the last exit."""
    plans = [
        {"exit": plan.exit, "partition": plan.partition, "bits": plan.bits, "codec": plan.codec, **_share(plan.correct, table.images)}
        for plan in table.plans
    ]
    exits = [{"exit": plan.exit, **_share(plan.correct, table.images)} for plan in table.plans if plan.bits == 0]
    last = max(plan.exit for plan in table.plans)
    sent = [plan for plan in table.plans if (plan.exit, plan.codec) == (last, Affine.name) and plan.bits and plan.partition]
    by_bits = {
        str(bits): {str(plan.partition): plan.correct / table.images for plan in sent if plan.bits == bits} for bits in BITS
    }  # fmt: skip
    return {
        "model": table.model, "source": table.source, "images": table.images, "exits": exits, "bits": by_bits, "plans": plans,
        "payloads": msgspec.to_builtins(table.payloads), "units": table.units,
    }  # fmt: skip


def _share(correct: int, images: int) -> dict[str, float]:
    low, high = wilson(correct, images)
    return {"accuracy": correct / images, "low": low, "high": high}


def text(table: AccuracyTable) -> str:
    """The summary for a terminal: every exit, then every way to send a tensor to the last one; each with its 95 % interval."""
    found = summary(table)
    weighed = {(size.cut, size.bits, size.codec): size.sizes for size in table.payloads}
    lines = [f"{table.images} images of {table.source}; accuracy with its 95 % interval (Wilson)"]
    lines += [f"exit {one['exit']}  {_shown(one)}" for one in found["exits"]]
    lines.append("last exit, by partition point, bits and codec:")
    for one in found["plans"]:
        if one["exit"] == len(found["exits"]) - 1 and one["bits"] and one["partition"]:
            sizes = weighed.get((one["partition"], one["bits"], one["codec"]))
            length = f"  {sizes.mean_bytes:.0f} bytes (p95 {sizes.p95_bytes:.0f})" if sizes else ""
            lines.append(f"  p{one['partition']:<3}{one['bits']:>2} bits  {one['codec']:<10}{_shown(one)}{length}")
    return "\n".join(lines)


def _shown(one: dict[str, Any]) -> str:
    return f"{one['accuracy']:.4f}  [{one['low']:.4f}, {one['high']:.4f}]"

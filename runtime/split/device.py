"""The device agent: runs the first layers, sends the tensor, and always has an answer.

When the edge cannot be reached, falls silent, refuses or sends what is no reply, the device answers from its own exit:
the deepest one whose trunk it has computed, or exit 0 where it has computed none. A connection that failed is dropped
with all it has not sent, so that the link is free again, and made anew for a later request.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from cutlayer.errors import ConfigError, PeerError
from cutlayer.profiles import codecs
from cutlayer.profiles.codecs import BITS
from cutlayer.runtime.split.connection import Connection
from cutlayer.runtime.split.graphs import resumable
from cutlayer.runtime.split.protocol import Reply, Request, Status

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from numpy.typing import NDArray

    from cutlayer.profiles.codecs import Encoded
    from cutlayer.runtime.split.address import Address
    from cutlayer.runtime.split.graphs import Graphs
    from cutlayer.runtime.split.pace import Pace

MARGIN_S = 0.05  # past the deadline before a transfer is given up: a late answer of a deeper exit may still be of use
_NO_REPLY = Reply(0, Status.FAILED)


@dataclass(frozen=True, slots=True)
class Inference:
    """What became of one request. Instants and durations by the device's clock; queue_s, decode_s and compute_s by the edge's.

    exit is the one that answered, not always the one asked for; status says who did, reason why not the edge.
    device_s is the work before sending, encoding (encode_s) and padding included; late_s by how much work overran its padding.
    exchange_s runs from then to the reply, or to giving up (a new connection included), fallback_s is the work after giving up.
    """

    logits: NDArray[np.float32]
    exit: int
    status: Literal["device", "edge", "fallback"]
    latency_s: float
    device_s: float
    encode_s: float = 0.0
    late_s: float = 0.0
    sent_bytes: int = 0
    send_start_s: float = 0.0
    send_s: float = 0.0
    exchange_s: float = 0.0
    queue_s: float = 0.0
    decode_s: float = 0.0
    compute_s: float = 0.0
    waiting: int = 0
    bytes_after_first: int = 0
    dispersion_s: float = 0.0
    fallback_s: float = 0.0
    reason: str = ""

    @property
    def predicted(self) -> int:
        """Index of the likeliest class."""
        return int(np.argmax(self.logits))


class DeviceAgent:
    """Answers requests of one network, by itself or with the edge at `address`. One request at a time, from one thread."""

    def __init__(
        self,
        graphs: Graphs,
        address: Address,
        *,
        tls: ssl.SSLContext | None = None,
        margin_s: float = MARGIN_S,
        pace: Pace | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.connection = Connection(address, graphs.shapes, tls=tls, pace=pace, clock=clock, sleep=sleep)
        self._graphs = graphs
        self._margin_s = margin_s
        self._clock = clock
        self._sleep = sleep

    def warm_up(self) -> None:
        """Load and run every graph that a request may need, so that none pays for it; raises as `Graphs` does."""
        self._graphs.warm_up("device")

    def close(self) -> None:
        """Drop the connection."""
        self.connection.close()

    def infer(
        self,
        pixels: NDArray[np.uint8],
        exit_: int,
        partition: int,
        bits: int,
        deadline_s: float,
        *,
        give_up_s: float | None = None,
        pad_s: float = 0.0,
        fallback_pad_s: float = 0.0,
    ) -> Inference:
        """Answer for `pixels` (height, width, 3) by the plan (exit, partition, bits), whatever the edge does.

        Partition 0 sends the pixels, depths[exit] + 1 sends nothing, and bits counts in between only. The edge is
        waited for until `give_up_s` after the call, as a controller decides it; else until the deadline and the margin have passed.
        pad_s makes the device's work before sending last that long, fallback_pad_s its own answer after giving up: a slower device,
        emulated.

        Raises:
            ConfigError: the network has no such plan, or takes other pixels.
        """
        begin_s = self._clock()
        waits_s = deadline_s + self._margin_s if give_up_s is None else give_up_s
        front = compute(self._graphs, pixels, exit_, partition, bits, self._clock)
        late_s = self._pad(begin_s, pad_s)
        device_s = self._clock() - begin_s
        if front.coded is None:
            return Inference(front.tensor, exit_, "device", device_s, device_s, late_s=late_s)
        reply, answering, reason = _NO_REPLY, exit_, ""
        try:
            reply, logits = self.connection.exchange(front.request, front.coded.data, begin_s + waits_s)
        except PeerError as error:
            reason = str(error)
        exchanged_s = self._clock()
        if reason:
            answering, logits = answer_alone(self._graphs, partition, front.tensor)
            late_s += self._pad(exchanged_s, fallback_pad_s)
        end_s = self._clock()
        transfer = self.connection.transfer
        return Inference(
            logits=logits,
            exit=answering,
            status="fallback" if reason else "edge",
            latency_s=end_s - begin_s,
            device_s=device_s,
            encode_s=front.encode_s,
            late_s=late_s,
            sent_bytes=transfer.sent_bytes,
            send_start_s=transfer.start_s,
            send_s=transfer.end_s - transfer.start_s,
            exchange_s=exchanged_s - device_s - begin_s,
            queue_s=reply.queue_s,
            decode_s=reply.decode_s,
            compute_s=reply.compute_s,
            waiting=reply.waiting,
            bytes_after_first=reply.bytes_after_first,
            dispersion_s=reply.dispersion_s,
            fallback_s=end_s - exchanged_s,
            reason=reason,
        )

    def _pad(self, begin_s: float, pad_s: float) -> float:
        """Sleep until the work has lasted `pad_s`; by how much it has lasted longer already."""
        left_s = begin_s + pad_s - self._clock()
        if left_s > 0:
            self._sleep(left_s)
        return max(0.0, -left_s) if pad_s > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Front:
    """What the device has computed of a plan: its answer, where it sends nothing; else what it sends, and how it could go on alone.

    tensor: the logits; or what its own exit reads (`answer_alone`). encode_s is the part of the work that made `coded`.
    """

    tensor: NDArray[np.float32]
    coded: Encoded | None = None
    request: Request = Request(0, b"", 0, 0)  # noqa: RUF009 - a frozen value
    encode_s: float = 0.0


def compute(
    graphs: Graphs, pixels: NDArray[np.uint8], exit_: int, partition: int, bits: int, clock: Callable[[], float] = time.monotonic
) -> Front:
    """The device's part of a plan for `pixels` (height, width, 3).

    Raises:
        ConfigError: the network has no such plan, or takes other pixels.
    """
    _check(graphs, pixels, exit_, partition, bits)
    image = np.ascontiguousarray(pixels.transpose(2, 0, 1))
    if partition > graphs.shapes.depths[exit_]:
        return Front(graphs.suffix(0, exit_, image.astype(np.float32)))
    if partition == 0:
        begin_s, kept = clock(), image.astype(np.float32)
        coded = codecs.encode_raw(image)
    else:
        cut, kept = graphs.prefix_and_kept(partition, image.astype(np.float32))
        begin_s = clock()
        coded = codecs.encode(cut, bits)
    request = Request(0, b"", 0, 0, exit=exit_, partition=partition, bits=coded.bits, lo=coded.lo, scale=coded.scale)
    return Front(kept, coded, request, clock() - begin_s)


def answer_alone(graphs: Graphs, partition: int, kept: NDArray[np.float32]) -> tuple[int, NDArray[np.float32]]:
    """Exit and logits of the device's own answer after `partition` layers, from the tensor that `compute` kept."""
    answering, depth = resumable(graphs.shapes, partition)
    return answering, graphs.suffix(depth, answering, kept)


def _check(graphs: Graphs, pixels: NDArray[np.uint8], exit_: int, partition: int, bits: int) -> None:
    shapes, model = graphs.shapes, graphs.manifest.model
    channels, height, width = graphs.manifest.input_shape
    if pixels.shape != (height, width, channels) or pixels.dtype != np.uint8:
        raise ConfigError(f"pixels of {pixels.dtype} {pixels.shape}; {model} takes uint8 {(height, width, channels)}")
    if not 0 <= exit_ < len(shapes.depths):
        raise ConfigError(f"no exit {exit_}; {model} has 0 to {len(shapes.depths) - 1}")
    depth = shapes.depths[exit_]
    if not 0 <= partition <= depth + 1:
        raise ConfigError(f"no partition {partition} of exit {exit_}; give 0 to {depth + 1}")
    if 0 < partition <= depth and bits not in BITS:
        raise ConfigError(f"no code of {bits} bits; give one of {', '.join(map(str, BITS))}")

"""The device agent: runs the first layers, sends the tensor, and always has an answer.

When the edge cannot be reached, falls silent, refuses or sends what is no reply, the device answers from its own exit:
the deepest one whose trunk it has computed, or exit 0 where it has computed none. A connection that failed is dropped
with all it has not sent, so that the link is free again, and made anew for a later request.
"""

from __future__ import annotations

import contextlib
import math
import socket
import struct
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from cutlayer.errors import ConfigError, PeerError
from cutlayer.profiles import codecs
from cutlayer.profiles.codecs import BITS, HEADER_BYTES
from cutlayer.profiles.cost import MSS_BYTES, OVERHEAD_BYTES
from cutlayer.runtime.split import protocol
from cutlayer.runtime.split.graphs import resumable
from cutlayer.runtime.split.protocol import FATAL, Inbox, Kind, RefusedError, Reply, Request, Shapes, Status

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from cutlayer.runtime.split.graphs import Graphs

    # (bytes, instant they are handed over) -> instant they have left; holds no state, so that a cancelled frame leaves none.
    Pace = Callable[[int, float], float]

MARGIN_S = 0.05  # past the deadline before a transfer is given up: a late answer of a deeper exit may still be of use
BACK_OFF_S = 0.25  # after the first failure to connect; doubled with each further one
LONGEST_BACK_OFF_S = 8.0
_PROBE = Request(0, b"", 0, 0, kind=Kind.PROBE)
_NO_REPLY = Reply(0, Status.FAILED)


class TracePace:
    """A `Pace` of a link whose rate is constant within slots: rates_bps[i] from start_s + i * slot_s, in a circle.

    Every segment carries the overhead of its packet, as in `cutlayer.profiles.cost.wire_bytes`.

    Raises:
        ConfigError: no rate is above 0, or one is no rate: nothing would ever arrive.
    """

    def __init__(self, rates_bps: Sequence[float] | NDArray[np.float64], slot_s: float, start_s: float = 0.0) -> None:
        self._rates_bps = [float(rate) for rate in rates_bps]
        self._slot_s = slot_s
        self._start_s = start_s
        if not all(0 <= rate < math.inf for rate in self._rates_bps) or not any(self._rates_bps) or not 0 < slot_s < math.inf:
            raise ConfigError(f"rates {self._rates_bps[:5]} in slots of {slot_s} s carry nothing; give bits per second, some above 0")

    def __call__(self, count: int, now_s: float) -> float:
        left_bits = 8.0 * (count + math.ceil(count / MSS_BYTES) * OVERHEAD_BYTES)
        slot = math.floor((now_s - self._start_s) / self._slot_s)
        while True:
            rate_bps = self._rates_bps[slot % len(self._rates_bps)]
            end_s = self._start_s + (slot + 1) * self._slot_s
            carried_bits = rate_bps * max(0.0, end_s - now_s)
            if left_bits <= carried_bits:
                return now_s + left_bits / rate_bps
            left_bits -= carried_bits
            now_s, slot = end_s, slot + 1


@dataclass(slots=True)
class Transfer:
    """How far a frame got: start_s and end_s of the sending, and the bytes handed to the system by end_s.

    Real time on air only where a pace was set; else the system took them to send later, and the edge's dispersion tells the rate.
    """

    start_s: float = 0.0
    end_s: float = 0.0
    sent_bytes: int = 0


class Connection:
    """One persistent TCP connection to an edge, made when it is first needed and again after a failure.

    Not for use from two threads. `transfer` is the latest frame's, also where it failed; `clock` and `sleep` are in seconds.
    """

    def __init__(
        self,
        address: tuple[str, int],
        shapes: Shapes,
        *,
        pace: Pace | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.address = address
        self.transfer = Transfer()
        self._shapes = shapes
        self._pace = pace
        self._clock = clock
        self._sleep = sleep
        self._socket: socket.socket | None = None
        self._inbox = Inbox(HEADER_BYTES + shapes.logits_bytes)
        self._sequence = 0
        self._failures = 0
        self._retry_s = -math.inf

    def exchange(self, request: Request, payload: bytes, give_up_s: float) -> tuple[Reply, NDArray[np.float32]]:
        """Send `request` with its payload; its reply and the logits, waited for until the instant `give_up_s`.

        Sequence, model, time left, length and checksum of the request are filled in here.

        Raises:
            PeerError: no reply came, or none that answers.
        """
        self.transfer = Transfer()
        try:
            return self._converse(self._connected(give_up_s), request, payload, give_up_s, self._pace)
        except (PeerError, OSError) as error:
            if not isinstance(error, RefusedError) or error.status in FATAL:
                self._abort()
            reason = "no reply in time" if isinstance(error, TimeoutError) else getattr(error, "strerror", None) or str(error)
            raise PeerError(f"edge {self.address[0]}:{self.address[1]}: {reason}") from error

    def probe(self, give_up_s: float, count: int = 0) -> Reply:
        """Ask for nothing, with `count` bytes of ballast: whether the edge is there with this model, and how fast the link is.

        Raises as `exchange` does.
        """
        return self.exchange(_PROBE, bytes(count), give_up_s)[0]

    def close(self) -> None:
        """Hang up; the next `exchange` makes a new connection."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _abort(self) -> None:
        """Hang up and have the system forget what it has not sent yet, else it would go on in front of the next tensor."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def _connected(self, give_up_s: float) -> socket.socket:
        if self._socket is not None and _ended(self._socket):
            self.close()  # the edge was stopped in between; it may be back
        if self._socket is None:
            if self._clock() < self._retry_s:
                raise PeerError("could not be reached a moment ago")
            try:
                self._socket = self._greet(give_up_s)
            except (PeerError, OSError):
                # Only here: a transfer that a slow link did not let through says nothing about the next one.
                self._retry_s = self._clock() + min(LONGEST_BACK_OFF_S, BACK_OFF_S * 2 ** min(self._failures, 16))
                self._failures += 1
                self.transfer = Transfer()  # a greeting is none
                raise
            self._failures = 0
        return self._socket

    def _greet(self, give_up_s: float) -> socket.socket:
        """A new connection, to an edge that has this model: found by 48 bytes, not by a tensor."""
        peer = socket.create_connection(self.address, timeout=self._left_s(give_up_s))
        try:
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if hasattr(socket, "TCP_CONGESTION"):  # bbr adds 11-21 % to small transfers; the link's model was fitted to cubic
                with contextlib.suppress(OSError):
                    peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"cubic")
            self._inbox.drop(len(self._inbox))
            self._converse(peer, _PROBE, b"", give_up_s, None)
        except BaseException:  # also an interrupt must not leave the socket open; it goes on
            peer.close()
            raise
        return peer

    def _converse(
        self, peer: socket.socket, request: Request, payload: bytes, give_up_s: float, pace: Pace | None
    ) -> tuple[Reply, NDArray[np.float32]]:
        self._sequence = (self._sequence + 1) & 0xFFFFFFFF
        crc, left_s = protocol.checksum(payload), self._left_s(give_up_s)
        request = replace(
            request, sequence=self._sequence, model=self._shapes.model, length=len(payload), crc=crc, deadline_s=left_s
        )  # fmt: skip
        self._send(peer, protocol.pack_request(request), payload, give_up_s, pace)
        self._receive(peer, HEADER_BYTES, give_up_s)
        reply = protocol.parse_reply(self._inbox.front(HEADER_BYTES))
        try:
            protocol.expect(reply, request, self._shapes)
        except RefusedError:
            self._inbox.drop(HEADER_BYTES)
            raise
        frame = HEADER_BYTES + reply.length
        self._receive(peer, frame, give_up_s)
        body = bytes(self._inbox.front(frame)[HEADER_BYTES:])
        self._inbox.drop(frame)
        if protocol.checksum(body) != reply.crc:
            raise PeerError("the logits were damaged on the way")
        return reply, np.frombuffer(body, np.float32)

    def _send(self, peer: socket.socket, header: bytes, payload: bytes, give_up_s: float, pace: Pace | None) -> None:
        at_s = self._clock()
        self.transfer = transfer = Transfer(at_s, at_s)
        if pace is None:
            peer.settimeout(self._left_s(give_up_s))
            sent = peer.sendmsg([header, payload])
            if sent < HEADER_BYTES + len(payload):  # the system's buffer is full
                peer.sendall((header + payload)[sent:])
            transfer.end_s, transfer.sent_bytes = self._clock(), HEADER_BYTES + len(payload)
            return
        frame = memoryview(header + payload)
        for start in range(0, len(frame), MSS_BYTES):
            chunk = frame[start : start + MSS_BYTES]
            at_s = pace(len(chunk), at_s)  # from when the last one left, not from now: oversleeping must not add up
            self._sleep_until(min(at_s, give_up_s))
            transfer.end_s = self._clock()
            # Written once it has left the emulated link: the edge sees it arrive as it would over a real one.
            peer.settimeout(self._left_s(give_up_s))
            peer.sendall(chunk)
            transfer.sent_bytes += len(chunk)

    def _sleep_until(self, instant_s: float) -> None:
        if (wait_s := instant_s - self._clock()) > 0:
            self._sleep(wait_s)

    def _receive(self, peer: socket.socket, count: int, give_up_s: float) -> None:
        while not self._inbox.has(count):
            peer.settimeout(self._left_s(give_up_s))
            got = peer.recv_into(self._inbox.space())
            if got == 0:
                raise PeerError("closed the connection")
            self._inbox.took(got, self._clock())

    def _left_s(self, give_up_s: float) -> float:
        left_s = give_up_s - self._clock()
        if left_s <= 0:
            raise TimeoutError
        return left_s


def _ended(peer: socket.socket) -> bool:
    """Whether the other side has closed, or sent what nobody asked for; looks without waiting or taking."""
    peer.settimeout(0)
    try:
        peer.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


@dataclass(frozen=True, slots=True)
class Inference:
    """What became of one request. Instants and durations by the device's clock; queue_s, decode_s and compute_s by the edge's.

    exit is the one that answered, not always the one asked for; status says who did, reason why not the edge.
    device_s is the work before sending, encoding (encode_s) and padding included; late_s by how much it overran the padding.
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
        address: tuple[str, int],
        *,
        margin_s: float = MARGIN_S,
        pace: Pace | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.connection = Connection(address, graphs.shapes, pace=pace, clock=clock, sleep=sleep)
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
        self, pixels: NDArray[np.uint8], exit_: int, partition: int, bits: int, deadline_s: float, *, pad_s: float = 0.0
    ) -> Inference:
        """Answer for `pixels` (height, width, 3) by the plan (exit, partition, bits), whatever the edge does.

        Partition 0 sends the pixels, depths[exit] + 1 sends nothing, and bits counts in between only. The edge is
        waited for until the deadline and the margin have passed. pad_s makes the device's work before sending last
        that long: a slower device, emulated.

        Raises:
            ConfigError: the network has no such plan, or takes other pixels.
        """
        begin_s = self._clock()
        self._check(pixels, exit_, partition, bits)
        image = np.ascontiguousarray(pixels.transpose(2, 0, 1))
        if partition > self._graphs.shapes.depths[exit_]:
            logits = self._graphs.suffix(0, exit_, image.astype(np.float32))
            late_s = self._pad(begin_s, pad_s)
            took_s = self._clock() - begin_s
            return Inference(logits, exit_, "device", took_s, took_s, late_s=late_s)
        if partition == 0:
            encoding_s = self._clock()
            coded = codecs.encode_raw(image)
        else:
            cut, kept = self._graphs.prefix_and_kept(partition, image.astype(np.float32))
            encoding_s = self._clock()
            coded = codecs.encode(cut, bits)
        encode_s = self._clock() - encoding_s
        late_s = self._pad(begin_s, pad_s)
        device_s = self._clock() - begin_s

        request = Request(0, b"", 0, 0, exit=exit_, partition=partition, bits=coded.bits, lo=coded.lo, scale=coded.scale)
        reply, answering, reason = _NO_REPLY, exit_, ""
        try:
            reply, logits = self.connection.exchange(request, coded.data, begin_s + deadline_s + self._margin_s)
        except PeerError as error:
            reason = str(error)
        exchanged_s = self._clock()
        if reason:
            answering, depth = resumable(self._graphs.shapes, partition)
            logits = self._graphs.suffix(depth, answering, image.astype(np.float32) if partition == 0 else kept)
        end_s = self._clock()
        transfer = self.connection.transfer
        return Inference(
            logits=logits,
            exit=answering,
            status="fallback" if reason else "edge",
            latency_s=end_s - begin_s,
            device_s=device_s,
            encode_s=encode_s,
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

    def _check(self, pixels: NDArray[np.uint8], exit_: int, partition: int, bits: int) -> None:
        shapes = self._graphs.shapes
        channels, height, width = self._graphs.manifest.input_shape
        if pixels.shape != (height, width, channels) or pixels.dtype != np.uint8:
            raise ConfigError(
                f"pixels of {pixels.dtype} {pixels.shape}; {self._graphs.manifest.model} takes uint8 {(height, width, channels)}"
            )
        if not 0 <= exit_ < len(shapes.depths):
            raise ConfigError(f"no exit {exit_}; {self._graphs.manifest.model} has 0 to {len(shapes.depths) - 1}")
        depth = shapes.depths[exit_]
        if not 0 <= partition <= depth + 1:
            raise ConfigError(f"no partition {partition} of exit {exit_}; give 0 to {depth + 1}")
        if 0 < partition <= depth and bits not in BITS:
            raise ConfigError(f"no code of {bits} bits; give one of {', '.join(map(str, BITS))}")

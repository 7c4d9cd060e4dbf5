"""The frames between device and edge: fixed headers, parsed without any input or output.

A request is a header of 48 bytes and the coded tensor; its reply is a header of 48 bytes and the logits. Little-endian:

    request  offset  type  field            reply  offset  type  field
                  0  4s    magic CUTL                   0  4s    magic CUTL
                  4  u8    version                      4  u8    version
                  5  u8    kind                         5  u8    kind (reply)
                  6  u8    exit                         6  u8    exit
                  7  u8    partition                    7  u8    status
                  8  u8    bits                         8  u16   requests waiting at the edge
                  9  u8    flags, 0                    10  u16   0
                 10  u16   0                           12  u32   sequence
                 12  u32   sequence                    16  f32   wait before the edge began, s
                 16  8s    model                       20  f32   decoding, s
                 24  f32   lo                          24  f32   computing, s
                 28  f32   scale                       28  u32   bytes after the first chunk
                 32  f32   time left, s                32  f32   from the first to the last chunk, s
                 36  u32   payload bytes               36  u32   payload bytes
                 40  u32   crc32 of the payload        40  u32   crc32 of the payload
                 44  u32   crc32 of bytes 0..43        44  u32   crc32 of bytes 0..43

The model is named by the first eight bytes of its weights' sha256. With model, exit and partition known to both sides
the shape of the tensor is too: its length is checked against it before a byte of payload is taken in. Times are durations, never
instants: the two clocks share no zero. `flags` and the zeros are kept for coding stages to come; a peer that does not
know them refuses. The kind `probe` asks for nothing: it is the greeting of a new connection, and may carry up to
`PROBE_BYTES` to measure the link.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from enum import IntEnum

import msgspec

from cutlayer.errors import PeerError
from cutlayer.profiles.codecs import BITS, HEADER_BYTES, RAW_BITS, payload_bytes

try:
    # The same checksum by vector instructions: 2 us instead of 23 for 100 kB on an EPYC. Comes with the extra `daemon`.
    from isal.isal_zlib import crc32
except ImportError:
    from zlib import crc32

MAGIC = b"CUTL"
VERSION = 1
MODEL_BYTES = 8
PROBE_BYTES = 65536  # measures 100 Mbit/s for five milliseconds; more would hold up requests
FLOAT_BYTES = 4

_REQUEST = struct.Struct("<4sBBBBBBHI8sfffII")
_REPLY = struct.Struct("<4sBBBBHHIfffIfII")
_CHECK = struct.Struct("<I")
_MAGIC_VERSION = MAGIC + bytes([VERSION])
_LARGEST = 1e30  # of lo and scale: 65535 steps from it stay inside float32


class Kind(IntEnum):
    """What a frame is."""

    INFER = 1
    REPLY = 2
    PROBE = 3


class Status(IntEnum):
    """How the edge answered; all but `OK` are refusals without logits."""

    OK = 0
    BAD_FRAME = 1  # the header is damaged, or of another version
    WRONG_MODEL = 2  # the edge serves other weights
    BAD_PLAN = 3  # no such exit, partition or bit width
    BAD_LENGTH = 4  # the payload does not hold the tensor of that cut
    BAD_CHECKSUM = 5  # the payload was damaged on the way
    LATE = 6  # the deadline had passed before computing began
    BUSY = 7  # too many requests wait already
    FAILED = 8  # computing failed; the edge's log says why


_STATUSES = tuple(Status)  # looked up for every frame, as `_ASKING` is: to call an enumeration costs ten times as much
_ASKING: dict[int, Kind] = {Kind.INFER: Kind.INFER, Kind.PROBE: Kind.PROBE}

# After these the edge cannot tell where the next frame begins, or would have to take in what it never needs: it hangs up.
FATAL = frozenset({Status.BAD_FRAME, Status.WRONG_MODEL, Status.BAD_PLAN, Status.BAD_LENGTH})


class RefusedError(PeerError):
    """The edge is well and said no: `status` says why. Unless that is in `FATAL`, the connection goes on."""

    def __init__(self, status: Status) -> None:
        super().__init__(status)
        self.status = status

    def __str__(self) -> str:
        return f"refused: {self.status.name.lower().replace('_', ' ')}"


@dataclass(frozen=True, slots=True)
class Shapes:
    """What both sides know of a model before a frame is sent.

    model is its name in frames; depths as in the zoo; cuts[p] is the shape of the tensor after p layers, cuts[0] the input's.
    """

    model: bytes
    depths: tuple[int, ...]
    cuts: tuple[tuple[int, ...], ...]
    classes: int

    def payload_bytes(self, partition: int, bits: int) -> int:
        """Length of the payload of a cut at a bit width."""
        return payload_bytes(math.prod(self.cuts[partition]), bits)

    @property
    def largest_frame(self) -> int:
        """Bytes of the longest frame that a valid request makes."""
        widths = [self.payload_bytes(0, RAW_BITS), *(self.payload_bytes(p, max(BITS)) for p in range(1, len(self.cuts)))]
        return HEADER_BYTES + max(*widths, PROBE_BYTES)

    @property
    def logits_bytes(self) -> int:
        """Length of the payload of a reply."""
        return self.classes * FLOAT_BYTES


class Request(msgspec.Struct, frozen=True):
    """Header of a request. deadline_s is the time left when it was sent, 0 where there is no deadline; length and crc are the payload's."""

    sequence: int
    model: bytes
    length: int
    crc: int
    kind: Kind = Kind.INFER
    exit: int = 0
    partition: int = 0
    bits: int = RAW_BITS
    lo: float = 0.0
    scale: float = 1.0
    deadline_s: float = 0.0


class Reply(msgspec.Struct, frozen=True):
    """Header of a reply.

    queue_s is the wait before the edge began, decode_s and compute_s its work; waiting counts the other requests that were there.
    bytes_after_first came in the dispersion_s between the first and the last chunk of the request: their ratio is the link's rate.
    """

    sequence: int
    status: Status
    length: int = 0
    crc: int = 0
    exit: int = 0
    waiting: int = 0
    queue_s: float = 0.0
    decode_s: float = 0.0
    compute_s: float = 0.0
    bytes_after_first: int = 0
    dispersion_s: float = 0.0


def checksum(payload: bytes | memoryview) -> int:
    """The crc32 that a header carries of its payload."""
    return crc32(payload)


def pack_request(request: Request) -> bytes:
    """Header of `request`, 48 bytes."""
    r = request
    fields = (r.kind, r.exit, r.partition, r.bits, 0, 0, r.sequence, r.model, r.lo, r.scale, r.deadline_s, r.length, r.crc)
    return _sealed(_REQUEST.pack(MAGIC, VERSION, *fields))


def pack_reply(reply: Reply) -> bytes:
    """Header of `reply`, 48 bytes."""
    r = reply
    times = (r.queue_s, r.decode_s, r.compute_s, r.bytes_after_first, r.dispersion_s)
    return _sealed(_REPLY.pack(MAGIC, VERSION, Kind.REPLY, r.exit, r.status, r.waiting, 0, r.sequence, *times, r.length, r.crc))


def parse_request(header: bytes | memoryview) -> Request:
    """The request whose first 48 bytes are `header`.

    Raises:
        PeerError: it is no request of this version, damaged, or holds a number that no device sends.
    """
    fields = _REQUEST.unpack(_unsealed(header))
    _, _, number, exit_, partition, bits, flags, zero, sequence, model, lo, scale, deadline_s, length, crc = fields
    kind = _ASKING.get(number)
    if kind is None:
        raise PeerError(f"frame of kind {number} is no request; the peer is no cutlayer device")
    if flags or zero:
        raise PeerError(f"frame asks for coding {flags}.{zero}, which version {VERSION} does not have; update this side")
    if not (abs(lo) <= _LARGEST and 0.0 < scale <= _LARGEST):
        raise PeerError(f"quantisation from {lo} in steps of {scale} overflows; the tensor on the device is not finite")
    if not (0.0 <= deadline_s < math.inf):
        raise PeerError(f"time left of {deadline_s} s is no duration")
    return Request(sequence, model, length, crc, kind, exit_, partition, bits, lo, scale, deadline_s)


def parse_reply(header: bytes | memoryview) -> Reply:
    """The reply whose first 48 bytes are `header`.

    Raises:
        PeerError: it is no reply of this version, damaged, or holds a number that no edge sends.
    """
    _, _, kind, exit_, status, waiting, zero, sequence, *times, length, crc = _REPLY.unpack(_unsealed(header))
    if kind != Kind.REPLY or zero:
        raise PeerError(f"frame of kind {kind} is no reply; the peer is no cutlayer edge")
    if status >= len(_STATUSES):
        raise PeerError(f"status {status} is unknown to version {VERSION}; update this side")
    queue_s, decode_s, compute_s, bytes_after_first, dispersion_s = times
    if not (0.0 <= queue_s < math.inf and 0.0 <= decode_s < math.inf and 0.0 <= compute_s < math.inf and 0.0 <= dispersion_s < math.inf):
        raise PeerError(f"waiting {queue_s}, decoding {decode_s}, computing {compute_s}, arriving {dispersion_s} s: one is no duration")
    return Reply(
        sequence, _STATUSES[status], length, crc, exit_, waiting, queue_s, decode_s, compute_s, bytes_after_first, dispersion_s
    )  # fmt: skip


def expect_next(sequence: int, before: int) -> None:
    """Check that a request's number follows that of the one `before` it on the same connection (-1: it is the first one).

    Raises:
        PeerError: it was there already, or is out of order: the frame was replayed.
    """
    if before >= 0 and not 0 < (sequence - before) & 0xFFFFFFFF < 1 << 31:
        raise PeerError(f"request {sequence} after {before}: the frame was sent again or is out of order")


def judge(request: Request, shapes: Shapes) -> Status:
    """Whether the payload of `request` may be taken in: `OK`, or why not. Needs the header alone."""
    if request.model != shapes.model:
        return Status.WRONG_MODEL
    if request.kind == Kind.PROBE:
        return Status.OK if request.length <= PROBE_BYTES else Status.BAD_LENGTH
    if request.exit >= len(shapes.depths) or request.partition > shapes.depths[request.exit]:
        return Status.BAD_PLAN
    if request.bits not in ((RAW_BITS,) if request.partition == 0 else BITS):
        return Status.BAD_PLAN
    fits = request.length == shapes.payload_bytes(request.partition, request.bits)
    return Status.OK if fits else Status.BAD_LENGTH


def expect(reply: Reply, request: Request, shapes: Shapes) -> None:
    """Check that `reply` answers `request`, from the header alone.

    Raises:
        RefusedError: the edge refused.
        PeerError: the edge answers something else, or announces a payload of another length than the logits'.
    """
    # A refusal of a damaged header cannot repeat its sequence number.
    if reply.sequence != request.sequence and reply.status != Status.BAD_FRAME:
        raise PeerError(f"reply to request {reply.sequence} in the place of {request.sequence}; the connection is out of step")
    answers = reply.status == Status.OK and request.kind == Kind.INFER
    length = shapes.logits_bytes if answers else 0
    if reply.length != length:
        raise PeerError(f"reply of {reply.length} bytes, {length} were expected")
    if reply.status != Status.OK:
        raise RefusedError(reply.status)
    if reply.exit != request.exit:
        raise PeerError(f"reply from exit {reply.exit}, asked was exit {request.exit}")


class Inbox:
    """What has come in on a connection: a buffer that never grows, and when its chunks came.

    Receive into `space()`, then tell `took()`. Once `has(n)`, read `front(n)` and drop it by `drop(n)`; what came behind
    stays. first_s and last_s are the instants of the first and the latest chunk since the last drop, first_bytes the size of the former.
    """

    __slots__ = ("_buffer", "_filled", "_view", "first_bytes", "first_s", "last_s")

    def __init__(self, capacity: int) -> None:
        self._buffer = bytearray(capacity)
        self._view = memoryview(self._buffer)
        self._filled = 0
        self.first_bytes = 0
        self.first_s = 0.0
        self.last_s = 0.0

    def space(self) -> memoryview:
        """The free rest of the buffer."""
        return self._view[self._filled :]

    def took(self, count: int, now_s: float) -> None:
        """`count` bytes were put at the start of `space()` at that instant."""
        if self._filled == 0:
            self.first_bytes, self.first_s = count, now_s
        self._filled += count
        self.last_s = now_s

    def __len__(self) -> int:
        return self._filled

    def has(self, count: int) -> bool:
        """Whether `count` bytes are there."""
        return self._filled >= count

    def front(self, count: int) -> memoryview:
        """The first `count` bytes, valid until they are dropped."""
        assert self.has(count)
        return self._view[:count]

    def drop(self, count: int) -> None:
        """Forget the first `count` bytes. What is left came with the latest chunk."""
        left = self._filled - count
        if left:
            self._buffer[:left] = self._buffer[count : self._filled]
        self._filled = left
        self.first_bytes, self.first_s = left, self.last_s


def _sealed(body: bytes) -> bytes:
    return body + _CHECK.pack(crc32(body))


def _unsealed(header: bytes | memoryview) -> bytes:
    """All but the checksum, which fits."""
    whole = bytes(header)  # a copy costs less than each look into a view
    if len(whole) != HEADER_BYTES:
        raise PeerError(f"header of {len(whole)} bytes, {HEADER_BYTES} were expected; the connection was cut")
    if not whole.startswith(_MAGIC_VERSION):
        if not whole.startswith(MAGIC):
            raise PeerError(f"frame begins with {whole[:4]!r}, not {MAGIC!r}; the peer does not speak this protocol")
        # The version is judged before the checksum: another version may place the checksum elsewhere.
        raise PeerError(f"frame of version {whole[4]}, this side speaks version {VERSION}; update the older side")
    body = whole[: HEADER_BYTES - _CHECK.size]
    if crc32(body) != _CHECK.unpack_from(whole, len(body))[0]:
        raise PeerError("the header was damaged on the way; its checksum does not fit")
    return body


assert _REQUEST.size + _CHECK.size == _REPLY.size + _CHECK.size == HEADER_BYTES

"""The decision trace: what was asked, decided and reported, a JSON object a line, for `cutlayer replay`.

    {"line":"trace","version":1,...}                                 what the file is
    {"line":"decide","at_s":..,"request":{..},"decision":{..},"observation":"<float32, little endian, base64>"}
    {"line":"progress","at_s":..,"progress":{..}}                    only where every decision is recorded
    {"line":"report","at_s":..,"outcome":{..}}                       of decisions that are recorded

Nothing here writes or reads files: `Recorder` hands out bytes, and `read` takes lines.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import msgspec
import numpy as np

from cutlayer.errors import ConfigError
from cutlayer.runtime.messages import Decision, Outcome, Progress, Request

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from cutlayer.profiles.plans import PlanTable

VERSION = 1
MOST_PENDING = 1 << 20  # bytes; our choice: a disk that stands still must not fill the memory


class Head(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="line", tag="trace"):
    """First line of every file: the version of the format and of cutlayer, what decided, and that one in `every` decisions is here."""

    version: int
    cutlayer_version: str
    scenario: str
    plans_sha256: str
    every: int


class Decided(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="line", tag="decide"):
    """A decision; the observation is empty where no policy was asked."""

    at_s: float
    request: Request
    decision: Decision
    observation: bytes = b""

    def values(self) -> NDArray[np.float32]:
        """The observation as the policy saw it."""
        return np.frombuffer(self.observation, "<f4").astype(np.float32)


class Progressed(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="line", tag="progress"):
    """How far a request had come."""

    at_s: float
    progress: Progress


class Reported(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="line", tag="report"):
    """What became of a request."""

    at_s: float
    outcome: Outcome


Event = Decided | Progressed | Reported
Message = TypeVar("Message", bound=msgspec.Struct)


class Recorder:
    """Collects lines of one decision in `every`, from the first on; whoever writes the file takes them out now and then."""

    def __init__(self, every: int = 1) -> None:
        self.every = every
        self.dropped = 0  # lines for which nobody made room
        self._count = 0
        self._pending = bytearray()
        self._encoder = msgspec.json.Encoder()

    def decided(self, at_s: float, request: Request, decision: Decision, observation: NDArray[np.float32] | None) -> bool:
        """A decision was made; whether it is recorded, and so its outcome should be."""
        number, self._count = self._count, self._count + 1
        if number % self.every:
            return False
        data = b"" if observation is None else observation.astype("<f4", copy=False).tobytes()
        return self._add(Decided(at_s, _plain(Request, request), decision, data))

    def progressed(self, at_s: float, progress: Progress) -> None:
        """A request came on."""
        if self.every == 1:
            self._add(Progressed(at_s, _plain(Progress, progress)))

    def reported(self, at_s: float, outcome: Outcome) -> None:
        """The outcome of a decision that is recorded."""
        self._add(Reported(at_s, _plain(Outcome, outcome)))

    def take(self) -> bytes:
        """Whole lines since the last call; a file begins with those of `Head`."""
        data = bytes(self._pending)
        self._pending.clear()
        return data

    def _add(self, line: Event) -> bool:
        if len(self._pending) > MOST_PENDING:
            self.dropped += 1
            return False
        self._pending += self._encoder.encode(line)
        self._pending += b"\n"
        return True


def _plain(kind: type[Message], message: Message) -> Message:
    """The message itself, of a subclass (as the daemon's, with a tag of its own) only the fields of its base."""
    return message if type(message) is kind else kind(**{name: getattr(message, name) for name in kind.__struct_fields__})


@dataclass(frozen=True, slots=True)
class Trace:
    """A trace that was read. cut_short: its last line was never finished, as after a loss of power, and is left out."""

    head: Head
    events: list[Event] = field(default_factory=list)
    cut_short: bool = False

    def check(self, plans: PlanTable) -> None:
        """Refuse a trace that was not recorded with this plan table.

        Raises:
            ConfigError: the digests differ, or a line names a plan that is not in the table.
        """
        if self.head.plans_sha256 != plans.digest():
            raise ConfigError(
                f"the trace was recorded with another plan table ({self.head.plans_sha256[:12]}); replay it with its own bundle"
            )
        for event in self.events:
            plan = event.decision.plan if isinstance(event, Decided) else event.outcome.plan if isinstance(event, Reported) else 0
            if not 0 <= plan < len(plans):
                raise ConfigError(f"the trace names plan {plan} at {event.at_s} s, the table has {len(plans)}; delete that line")


_DECODER = msgspec.json.Decoder(Head | Decided | Progressed | Reported)


def header(cutlayer_version: str, scenario: str, plans_sha256: str, every: int) -> bytes:
    """The first line of a file."""
    return msgspec.json.encode(Head(VERSION, cutlayer_version, scenario, plans_sha256, every)) + b"\n"


def read(lines: Iterable[bytes], where: str) -> Trace:
    """Read the lines of one file; each start of the daemon begins with a head, and all heads are alike.

    Raises:
        ConfigError: a line is damaged, the file is no trace, of another version, or heads differ.
    """
    head, events, cut_short = None, [], False
    for number, line in enumerate(lines, 1):
        if cut_short:
            raise ConfigError(f"line {number - 1} of {where} breaks off and others follow; delete that line")
        if not line.endswith(b"\n"):
            cut_short = True
            continue
        try:
            found = _DECODER.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"line {number} of {where} is damaged ({error}); delete that line, or name the trace of a cutlayerd"
            ) from error
        if isinstance(found, Head):
            if found.version != VERSION:
                raise ConfigError(
                    f"{where} has trace version {found.version}, this cutlayer reads {VERSION}; replay it with the one that wrote it"
                )
            if head not in (None, found):
                raise ConfigError(f"line {number} of {where} begins the trace of another bundle or rate; replay the two apart")
            head = found
        elif head is None:
            raise ConfigError(f"line {number} of {where} stands before any head; it is no trace, or its first line is lost: keep that one")
        else:
            events.append(found)
    if head is None:
        raise ConfigError(f"{where} holds no line of a trace; record one with the trace settings of cutlayerd")
    return Trace(head, events, cut_short)

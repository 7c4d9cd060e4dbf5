"""What `cutlayerd` answers to a line, and what it decides with; no socket, no signal.

    {"op": "decide", "id": 1}                         -> the decision
    {"op": "progress", "id": 1, "plan": 7, ...}       -> {"ok": true}
    {"op": "report", "id": 1, "plan": 7, ...}         -> {"ok": true}
    {"op": "status"}                                  -> counts, what decides, uptime, the present
    {"op": "reload"}                                  -> {"ok": true}, or an error and what decided goes on
    {"op": "rollback"}                                -> {"ok": true}: what decided before the last reload decides again

The last two are for operators alone.
A line that cannot be understood gets {"error": "..."}. docs/daemon.md explains the messages.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import msgspec

from cutlayer import __version__
from cutlayer.errors import BundleError, ConfigError, CutlayerError, PeerError
from cutlayer.profiles.plans import PlanTable
from cutlayer.runtime import bundle as bundles
from cutlayer.runtime import bundle_signing, live, trace
from cutlayer.runtime.bundle_archive import MOST_FILE_BYTES
from cutlayer.runtime.controller import Controller, Task
from cutlayer.runtime.messages import Outcome, Progress, Request
from cutlayer.runtime.tracefile import TraceFile

if TYPE_CHECKING:
    from collections.abc import Callable

    from cutlayer.runtime.bundle import Bundle
    from cutlayer.runtime.config import DaemonConfig, TaskConfig
    from cutlayer.runtime.live import Present
    from cutlayer.runtime.modes import Verdict

AHEAD_S = 0.1  # our choice: a client reads the same clock; what is later by more is on another one
FIXED = ("socket", "socket_group", "clock", "http", "log", "trace_path", "trace_every", "trace_max_bytes")  # what only a restart can change
DECIDES = ("form", "public_key", "mode", "incumbent", "controller", "task")  # with the bundle: what a controller is made of
OK = b'{"ok":true}'


class Decide(Request, frozen=True, forbid_unknown_fields=True, tag_field="op", tag="decide"):
    """Ask which plan a request gets; at_s: when it came in, on the device's monotonic clock."""

    at_s: float | None = None


class Told(Progress, frozen=True, forbid_unknown_fields=True, tag_field="op", tag="progress"):
    """Tell how far a request has come; at_s: since when that is known."""

    at_s: float | None = None


class Report(Outcome, frozen=True, forbid_unknown_fields=True, tag_field="op", tag="report"):
    """Tell what became of a request; at_s: since when that is known."""

    at_s: float | None = None


class Status(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="op", tag="status"):
    """Ask how it is going."""


class Reload(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="op", tag="reload"):
    """Read configuration and bundle again."""


class Rollback(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="op", tag="rollback"):
    """Let what decided before the last reload decide again."""


Message = Decide | Told | Report | Status | Reload | Rollback


class Session:
    """One client: the times it gave last, who it is by the kernel's word, and whether it may change what decides."""

    __slots__ = ("arrived_s", "operator", "told_s", "who")

    def __init__(self, who: str = "this client", *, operator: bool = False) -> None:
        self.arrived_s = self.told_s = -math.inf
        self.who, self.operator = who, operator


class Loaded(NamedTuple):
    """A controller and what it was made of: the digest of its bundle's file, that of its plans, the settings.

    problem: why it has no bundle.
    """

    controller: Controller
    digest: str
    plans_sha256: str
    settings: DaemonConfig
    incumbent: Bundle | None
    problem: str = ""


class Service:
    """What the connections share. read gives the settings, and gives them anew at each reload.

    Raises:
        CutlayerError: the settings or the bundle cannot be used, and there is no task to decide without one.
    """

    def __init__(self, read: Callable[[], DaemonConfig], clock: Callable[[], float] = time.monotonic) -> None:
        self._read, self._clock = read, clock
        self._started_s = clock()
        self._arrived_s = self._told_s = -math.inf
        self._decoder = msgspec.json.Decoder(Message)
        self._encoder = msgspec.json.Encoder()
        self.settings = read()
        self.took = live.Histogram(live.DECISION_S)
        self.refused = 0  # lines and connections that got an error
        self.changes: Counter[tuple[str, str]] = Counter()
        self.told: Callable[..., None] = _nobody  # hears of reloads and rollbacks: an event's name, then what belongs to it
        self.trace_problem = ""
        self.previous: Loaded | None = None
        self.recorder = trace.Recorder(self.settings.trace_every) if self.settings.trace_path else None
        self.loaded = self._first()
        self.trace = None
        if self.recorder is not None:
            self.trace = TraceFile(Path(self.settings.trace_path), self.settings.trace_max_bytes, self._head())

    @property
    def controller(self) -> Controller:
        """What decides now."""
        return self.loaded.controller

    @property
    def problem(self) -> str:
        """Why no bundle decides; empty while one does."""
        return self.loaded.problem

    # --- messages

    def answer(self, line: bytes, session: Session) -> bytes:
        """The reply to one line, without its newline; never raises."""
        try:
            message = self._decoder.decode(line)
            if isinstance(message, Decide):
                begun_s = time.perf_counter()
                now_s = self._arrival(message.at_s, session)
                decision = self.controller.decide(now_s, message)
                self.took.add(time.perf_counter() - begun_s)
                return self._encoder.encode(decision)
            if isinstance(message, (Report, Told)):
                self._take_in(message, session)
            elif isinstance(message, Status):
                return self._encoder.encode(self.status())
            else:
                self._change(message, session)
        except (msgspec.DecodeError, UnicodeDecodeError, CutlayerError) as error:
            return self.refuse(str(error))
        except RecursionError:
            return self.refuse("brackets are nested too deep")
        return OK

    def refuse(self, text: str) -> bytes:
        """A reply that refuses; counted."""
        self.refused += 1
        return self._encoder.encode({"error": text})

    def _change(self, message: Reload | Rollback, session: Session) -> None:
        """What an operator asks for; heard of by whoever keeps the log."""
        operation: Literal["reload", "rollback"] = "reload" if isinstance(message, Reload) else "rollback"
        if not session.operator:
            raise PeerError(
                f"{session.who} may not {operation}; ask as the daemon's own user or root, or name it in operator_uids or _gids"
            )
        self.change(operation, session.who)

    def change(self, operation: Literal["reload", "rollback"], who: str) -> None:
        """Reload or roll back, count it and tell the log.

        Raises:
            CutlayerError: it is refused; what decided goes on.
        """
        try:
            if operation == "reload":
                self.reload()
            else:
                self.rollback()
        except CutlayerError as error:
            self.changes[operation, "refused"] += 1
            self.told(f"{operation}-refused", by=who, error=str(error))
            raise
        self.changes[operation, "done"] += 1
        self.told(operation, by=who, **self.named(), bundle_sha256=self.loaded.digest, mode=self.controller.mode)

    def _take_in(self, message: Report | Told, session: Session) -> None:
        plans = len(self.controller.task.plans)
        if not 0 <= message.plan < plans:
            raise PeerError(f"plan {message.plan} is not in the table of {plans} plans")
        now_s = self._time(message.at_s, session.told_s)
        if message.at_s is not None:
            session.told_s = now_s
        self._told_s = now_s = max(now_s, self._told_s)
        if isinstance(message, Report):
            self.controller.report(now_s, message)
        else:
            self.controller.progress(now_s, message)

    def _arrival(self, at_s: float | None, session: Session) -> float:
        """When a request came in. Clients may race each other by a little: time goes on for the controller all the same."""
        now_s = self._time(at_s, session.arrived_s)
        if at_s is not None:
            session.arrived_s = now_s
        self._arrived_s = max(now_s, self._arrived_s)
        return self._arrived_s

    def _time(self, at_s: float | None, before_s: float) -> float:
        """The time of a message: the one that came with it, not before the last that its client gave; else now."""
        if at_s is None:
            if self.settings.clock == "clients":
                raise PeerError("at_s is missing; the daemon runs with clock = 'clients', so every message says when it is")
            return self._clock()
        if self.settings.clock == "device" and at_s > self._clock() + AHEAD_S:
            raise PeerError(f"at_s {at_s} lies ahead of the device's monotonic clock; stamp with that, or run cutlayerd --clock clients")
        if at_s < before_s:
            raise PeerError(f"at_s {at_s} lies before the {before_s} that this client gave last; send messages in order of their times")
        return at_s

    def status(self) -> dict[str, object]:
        """Counts since the start, and what decides."""
        controller, counts = self.controller, self.controller.counts
        found = self._name(controller)
        return {
            "version": __version__,
            "uptime_s": self._clock() - self._started_s,
            **found,
            "problem": self.problem,
            **self.identity(),
            "mode": controller.mode,
            "verdict": controller.verdict,
            "rollback": self.previous is not None,
            "edge_lost": controller.edge.open,
            "decisions": counts.decisions,
            "reports": counts.reports,
            "lost": counts.lost,
            "misses": controller.live.misses,
            "refused": self.refused,
            "fallbacks": counts.fallbacks,
            "shadow_agreed": counts.shadow_agreed,
            "steps": dict(counts.steps),
            "reasons": dict(counts.reasons),
            "trace_problem": self.trace_problem,
            "trace_dropped": self.dropped,
            "now": self.present(),
        }

    @property
    def dropped(self) -> int:
        """Lines of the trace for which there was no room."""
        return 0 if self.recorder is None else self.recorder.dropped

    def present(self) -> Present:
        """The last decision, the last answers, and what is believed of link and edge, on the clock that messages are on."""
        now_s = self._clock() if self.settings.clock == "device" else max(self._arrived_s, self._told_s)
        return live.present(self.controller.live, self.controller.readings, self.controller.estimators, now_s)

    def identity(self) -> dict[str, object]:
        """Which file decides, by its digest, what it was trained from, and whether its signature was asked for."""
        loaded = self.loaded
        trained = {} if self.problem else {name: str(loaded.controller.bundle.trained.get(name, "")) for name in ("commit", "date")}
        return {
            "bundle": loaded.settings.bundle,
            "bundle_sha256": loaded.digest,
            "plans_sha256": loaded.plans_sha256,
            "trained": trained,
            "signed": bool(loaded.digest and loaded.settings.public_key),
        }

    def named(self) -> dict[str, str]:
        """Scenario and algorithm of what decides."""
        return self._name(self.controller)

    @staticmethod
    def _name(controller: Controller) -> dict[str, str]:
        try:
            return {"scenario": controller.bundle.scenario, "algorithm": controller.bundle.algorithm}
        except BundleError:
            return {"scenario": "", "algorithm": ""}

    # --- what decides

    def reload(self) -> None:
        """Read configuration and bundle again; all or nothing. What is known of the world and was counted stays.

        A trial goes on where neither the bundle nor what concerns it has changed.
        """
        settings = self._read()
        for name in FIXED:
            if getattr(settings, name) != getattr(self.settings, name):
                raise ConfigError(f"{name} is {getattr(settings, name)!r} now; restart cutlayerd to change that, or put it back")
        old, file = self.loaded, Path(settings.bundle)
        digest = _digest(file)
        if digest == old.digest and all(getattr(settings, name) == getattr(old.settings, name) for name in DECIDES):
            self.settings = settings
            return
        fresh = self._make(settings, _bundle(settings), digest, self._before(settings))
        fresh.controller.go_on_from(old.controller)
        self.settings, self.previous = settings, old
        self._swap(fresh)

    def rollback(self) -> None:
        """Let what decided before the last reload decide again, with its own mode and trial.

        Raises:
            ConfigError: there was none, or it decides already.
        """
        if self.previous is None:
            raise ConfigError("nothing decided before; a rollback undoes the last reload, once")
        back, self.previous = self.previous, None
        back.controller.go_on_from(self.controller)
        self._swap(back)

    def _swap(self, loaded: Loaded) -> None:
        self.flush()
        self.loaded = loaded
        if self.trace is not None:
            self._write(self.trace.begin, self._head())

    def _first(self) -> Loaded:
        """What decides from the start: the bundle, else the rule on the task that the configuration holds."""
        settings = self.settings
        try:
            if settings.bundle:
                digest, loaded = _digest(Path(settings.bundle)), _bundle(settings)
                incumbent = _bundle(settings, settings.incumbent) if settings.incumbent else None
                return self._make(settings, loaded, digest, incumbent)
            problem = "no bundle is configured"
        except BundleError as error:
            if settings.task is None:
                raise
            problem = str(error)
        assert settings.task is not None  # without a bundle its absence is refused by the configuration
        missing = "bundle-rejected" if settings.bundle and Path(settings.bundle).exists() else "no-bundle"
        controller = Controller(
            _task(settings.task), missing=missing, settings=settings.controller, clock=time.perf_counter, recorder=self.recorder
        )
        return Loaded(controller, "", controller.task.plans.digest(), settings, None, problem)

    def _make(self, settings: DaemonConfig, loaded: Bundle, digest: str, incumbent: Bundle | None) -> Loaded:
        controller = Controller(
            loaded,
            mode=settings.mode,
            policy=loaded.form(settings.form, settings.bundle),
            incumbent=incumbent,
            settings=settings.controller,
            clock=time.perf_counter,
            recorder=self.recorder,
        )
        return Loaded(controller, digest, loaded.plans.digest(), settings, incumbent)

    def _before(self, settings: DaemonConfig) -> Bundle | None:
        """What a new bundle has to prove itself against: what is named, else what decides now; None where that is the rule."""
        if settings.mode == "active":
            return None
        if settings.incumbent:
            return _bundle(settings, settings.incumbent)
        if self.controller.mode != "active" or not self.named()["algorithm"]:
            return self.loaded.incumbent
        return self.controller.bundle

    # --- the trace

    def flush(self) -> None:
        """Write what was recorded; where the disk is full or gone those lines are lost, and `trace_problem` says so."""
        if self.trace is not None and self.recorder is not None:
            self._write(self.trace.write, self.recorder.take())

    def _write(self, write: Callable[[bytes], None], data: bytes) -> None:
        try:
            write(data)
            self.trace_problem = ""
        except OSError as error:
            self.trace_problem = f"cannot write {self.settings.trace_path}: {error.strerror}"

    def _head(self) -> bytes:
        return trace.header(__version__, self.named()["scenario"], self.loaded.plans_sha256, self.settings.trace_every)

    @property
    def verdict(self) -> Verdict | None:
        """What the last look at a trial found."""
        return self.controller.verdict


def _nobody(event: str, **more: object) -> None:
    """Hears of events where there is no log."""


def _digest(file: Path) -> str:
    """Of a file that may change under way; empty where there is none: then it is no known one."""
    try:
        with file.open("rb") as opened:
            return hashlib.sha256(opened.read(MOST_FILE_BYTES + 1)).hexdigest()
    except OSError:
        return ""


def _bundle(settings: DaemonConfig, name: str = "") -> Bundle:
    key = bundle_signing.public_key(Path(settings.public_key)) if settings.public_key else None
    return bundles.load(Path(name or settings.bundle), key)


def _task(given: TaskConfig) -> Task:
    try:
        plans = PlanTable.decode(Path(given.plans).read_bytes(), given.plans)
    except OSError as error:
        raise ConfigError(f"cannot read the plan table {given.plans}: {error.strerror}; make one with: cutlayer profile plans") from error
    return Task(plans, given.path, given.objective)

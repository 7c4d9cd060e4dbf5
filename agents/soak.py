"""A long run of the daemon under all that goes wrong, each reply held to what a controller beside it says.

Requests are stamped with simulated time, so a controller in this process that is told the same must decide the same: every reply is
compared byte by byte. Meanwhile bundles are reloaded (whole and damaged ones), the edge is lost in two ways, requests are never
reported on, lines are malformed, clients come and go, metrics are read and the trace turns over.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import random
import resource
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from cutlayer import __version__
from cutlayer.agents import agreement, runs
from cutlayer.agents.bench_decision import random_bundle, resident_bytes
from cutlayer.envs import scenarios
from cutlayer.errors import CutlayerError
from cutlayer.runtime.bundle import Golden
from cutlayer.runtime.controller import Controller
from cutlayer.runtime.guard import Ranges
from cutlayer.runtime.ladder import FAULTS
from cutlayer.runtime.messages import Decision, Outcome
from cutlayer.runtime.policy import Mlp
from cutlayer.runtime.service import Decide, Report
from cutlayer.runtime.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cutlayer.runtime.bundle import Bundle

MALFORMED = 0.05  # of all requests
DAMAGED = 10  # one reload in so many finds a damaged bundle
UNREPORTED = 0.002  # of requests nobody ever hears again
LOST_FOR = 120  # requests of a lost edge: four seconds of a camera
CLIENTS = 8  # connections that take turns
TURN = 64  # requests of one client at a time: some 30 kB of lines, less than a socket holds
KEPT_OPEN = 3  # requests that are decided before the first of them is reported
WARM_SHARE, WARM_LEAST = 0.1, 1_000  # of the decisions, until memory is taken for the first time: caches and heaps are full then
MOST_GROWTH_BYTES = 2_000_000  # the bound of the specification
SETTINGS = Settings(budget_s=1_000.0)  # no answer is too slow on a busy machine: when one is, is the only thing not simulated
TRACE_EVERY = 100
LIKES_TO_SEND = 1.0  # on the scale of logits: more than half of all requests are sent then
BAD_LINES = (
    b"hello",
    b'{"op":"decide","id":',
    b"{}",
    b'{"op":"shutdown"}',
    b"[1,2,3]",
    b'{"op":"decide","id":"one","at_s":1e18}',
    b'{"op":"decide","edge_reachable":1}',
    b'{"op":"decide","deadline":0.1}',
    b'{"op":"decide","acked_bytes":NaN}',
    b'{"op":"decide","id":1}',  # without a time
    b'{"op":"decide","id":1,"at_s":-1e300}',  # before all others
    b'{"op":"report","plan":1}',
    b'{"op":"report","plan":100000,"device_start_s":1,"device_s":1,"at_s":1e18}',
    b'{"op":"d\xff"}',
    b"\x00\x00\x00",
    b'{"a":' + b"[" * 5_000 + b"]" * 5_000 + b',"op":"decide"}',
)


@dataclass
class Found:
    """What a run found. wrong: replies that were none or another than expected; missing: those that never came."""

    decisions: int = 0
    reloads: int = 0
    refused_reloads: int = 0
    edge_losses: int = 0
    malformed: int = 0
    wrong: int = 0
    missing: int = 0
    first_wrong: str = ""
    faults: Counter[str] = field(default_factory=Counter)  # replies by the reason they gave
    warm_rss_bytes: int = 0
    end_rss_bytes: int = 0
    elapsed_s: float = 0.0
    daemon_cpu_s: float = 0.0
    own_cpu_s: float = 0.0
    unequal: list[str] = field(default_factory=list)  # counters of the daemon that are not what was counted here
    exit_code: int | None = None

    def failures(self) -> list[str]:
        """What does not hold, in words; none where all does."""
        growth = self.end_rss_bytes - self.warm_rss_bytes
        said = {
            f"{self.wrong} wrong replies, the first: {self.first_wrong}": self.wrong > 0,
            f"{self.missing} replies never came": self.missing > 0,
            f"memory grew by {growth} bytes, at most {MOST_GROWTH_BYTES} are allowed": growth >= MOST_GROWTH_BYTES,
            f"counters differ: {', '.join(self.unequal)}": bool(self.unequal),
            f"the daemon ended with {self.exit_code}": self.exit_code != 0,
        }
        return [words for words, wrong in said.items() if wrong]


class Device:
    """A made-up device: when requests come, and what becomes of them. Its link wanders, its edge is lost now and then."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.now_s, self._log_rate = 100.0, 7.0

    def arrive(self) -> float:
        """The time of the next request: a camera that now and then pauses."""
        self.now_s += self._random.uniform(0.02, 0.05) if self._random.random() > 1e-4 else 20.0
        return self.now_s

    def chance(self, share: float) -> bool:
        """Whether something of that probability happens now."""
        return self._random.random() < share

    def outcome(self, decision: Decision, at_s: float, *, lost: bool, controller: Controller) -> Outcome:
        """What becomes of a request; a lost edge takes everything and answers nothing."""
        row = controller.task.plans.rows[decision.plan]
        self._log_rate = min(max(self._log_rate + self._random.gauss(0.0, 0.05), 5.0), 8.5)
        device_s = (row.device_s + row.encode_s) * self._random.uniform(0.9, 1.6)
        if row.bits == 0:
            return Outcome(decision.plan, at_s, device_s, id=decision.id, latency_s=device_s)
        send_s = 8.0 * row.wire_bytes / 10.0**self._log_rate
        wait_s = self._random.uniform(0.0, 0.02)
        latency_s = device_s + send_s + wait_s + row.edge_s
        told = {"edge_wait_s": wait_s, "edge_s": 1.2 * row.edge_s, "rtt_s": 0.02} if not lost else {}
        return Outcome(
            decision.plan, at_s, device_s, at_s + device_s, send_s, float(row.wire_bytes), id=decision.id, latency_s=latency_s, **told
        )


class Twin:
    """What the daemon ought to say: a controller of this process that is told the same."""

    def __init__(self, given: Bundle) -> None:
        self.controller = Controller(given, settings=SETTINGS)

    def reload(self, given: Bundle) -> None:
        """As the daemon does with a bundle that is another one."""
        fresh = Controller(given, settings=SETTINGS)
        fresh.go_on_from(self.controller)
        self.controller = fresh


class Soak:
    """One run against a daemon that is ready."""

    def __init__(self, folder: Path, loaded: tuple[Bundle, Bundle], seed: int) -> None:
        self.found, self.twin, self.device = Found(), Twin(loaded[0]), Device(seed)
        self._folder, self._bundles = folder, loaded
        self._files = [(folder / f"{which}.cutlayer").read_bytes() for which in ("a", "b")]
        self._random = random.Random(seed + 1)
        self._encoder = msgspec.json.Encoder()
        self._clients = [_connect(folder) for _ in range(CLIENTS)]
        self._open: deque[tuple[Decision, float, bool]] = deque()
        self._waiting: tuple[socket.socket, list[bytes | None]] | None = None  # who has been asked, and what is expected; None: an error

    def run(self, decisions: int, reloads: int, edge_losses: int, tell: Callable[[float], None], watch: Callable[[], int]) -> Found:
        """All of it; watch: resident bytes of the daemon."""
        found, turns = self.found, -(-decisions // TURN)
        reload_at, lose_at = _spread(reloads, turns), _spread(edge_losses, turns)
        warm = max(WARM_LEAST, int(WARM_SHARE * decisions))
        lost_until = -1
        begun_s, begun_cpu_s = time.perf_counter(), time.process_time()
        for turn in range(turns):
            while reload_at and reload_at[0] <= turn:
                reload_at.pop(0)
                self._reload()
            if lose_at and lose_at[0] <= turn:
                lose_at.pop(0)
                found.edge_losses += 1
                lost_until = found.decisions + LOST_FOR
            self._turn(turn, min(TURN, decisions - found.decisions), lost_until)
            if not found.warm_rss_bytes and found.decisions >= warm:
                self._settle()
                found.warm_rss_bytes = watch()
            tell((turn + 1) / turns)
        self._settle()
        found.elapsed_s, found.own_cpu_s = time.perf_counter() - begun_s, time.process_time() - begun_cpu_s
        found.end_rss_bytes = watch()
        self._compare()
        for client in self._clients:
            client.close()
        return found

    def _turn(self, turn: int, requests: int, lost_until: int) -> None:
        """One client's requests, worked out while the daemon answers the one before."""
        lines: list[bytes] = []
        expected: list[bytes | None] = []
        for _ in range(requests):
            if self.device.chance(MALFORMED) and lines:  # a new connection's first time, be it -1e300, is before no other
                self.found.malformed += 1
                lines.append(self._random.choice(BAD_LINES))
                expected.append(None)
            self._request(lines, expected, lost_until)
        self._settle()
        which = turn % CLIENTS
        if turn % (100 * CLIENTS) == which:
            self._clients[which].close()
            self._clients[which] = _connect(self._folder)
        self._clients[which].sendall(b"\n".join(lines) + b"\n")
        self._waiting = self._clients[which], expected

    def _request(self, lines: list[bytes], expected: list[bytes | None], lost_until: int) -> None:
        found, controller, device = self.found, self.twin.controller, self.device
        found.decisions += 1
        lost = found.decisions <= lost_until
        # Every second loss the agent notices by itself; the others the controller has to find.
        reachable = not (lost and found.edge_losses % 2)
        at_s = device.arrive()
        request = Decide(id=found.decisions, edge_reachable=reachable, at_s=at_s)
        decision = controller.decide(at_s, request)
        lines.append(self._encoder.encode(request))
        expected.append(self._encoder.encode(decision))
        if not device.chance(UNREPORTED):
            self._open.append((decision, at_s, lost))
        if len(self._open) > KEPT_OPEN:
            ended, ended_at_s, was_lost = self._open.popleft()
            outcome = device.outcome(ended, ended_at_s, lost=was_lost, controller=controller)
            controller.report(at_s, outcome)
            lines.append(self._encoder.encode(Report(**msgspec.structs.asdict(outcome), at_s=at_s)))
            expected.append(b'{"ok":true}')

    def _settle(self) -> None:
        """Take in what the daemon has been asked for, and compare."""
        if self._waiting is None:
            return
        client, expected = self._waiting
        self._waiting = None
        replies = _lines(client, len(expected))
        self.found.missing += len(expected) - len(replies)
        for reply, right in zip(replies, expected, strict=False):
            if right is None:
                fine = reply.startswith(b'{"error":')
            else:
                fine = reply == right
                if b'"reason":"",' not in reply and right.startswith(b'{"id"'):
                    self.found.faults[msgspec.json.decode(reply).get("reason", "")] += 1
            if not fine:
                self.found.wrong += 1
                self.found.first_wrong = self.found.first_wrong or f"{reply[:300]!r} in place of {(right or b'an error')[:300]!r}"

    def _reload(self) -> None:
        """Another bundle, in one step; now and then a damaged one before it, which is refused."""
        self._settle()
        found, file = self.found, self._folder / "policy.cutlayer"
        if found.reloads % DAMAGED == 0:
            found.refused_reloads += 1
            _put(file, self._files[0][: self._random.randrange(1, len(self._files[0]) - 1)])
            self._ask(b'{"op":"reload"}', b'{"error":')
        found.reloads += 1
        which = found.reloads % 2
        _put(file, self._files[which])
        self._ask(b'{"op":"reload"}', b'{"ok":true}')
        self.twin.reload(self._bundles[which])

    def _ask(self, line: bytes, begins: bytes) -> bytes:
        client = self._clients[0]
        client.sendall(line + b"\n")
        reply = (_lines(client, 1) or [b""])[0]
        if not reply.startswith(begins):
            self.found.wrong += 1
            self.found.first_wrong = self.found.first_wrong or f"{reply[:300]!r} in place of {begins!r} to {line!r}"
        return reply

    def _compare(self) -> None:
        """What the daemon has counted against what was sent and came back, and against the controller beside it."""
        found, counts = self.found, self.twin.controller.counts
        told = msgspec.json.decode(self._ask(b'{"op":"status"}', b'{"version"'))
        pairs = {
            "decisions": (told["decisions"], found.decisions),
            "reports": (told["reports"], counts.reports),
            "lost": (told["lost"], counts.lost),
            "steps": (told["steps"], dict(counts.steps)),
            "reasons": (told["reasons"], dict(counts.reasons)),
            "fallbacks": (told["fallbacks"], sum(count for reason, count in found.faults.items() if reason in FAULTS)),
            "refused": (told["refused"], found.malformed + found.refused_reloads),
            "misses": (told["misses"], self.twin.controller.live.misses),
        }
        found.unequal = [f"{name} {theirs}, not {ours}" for name, (theirs, ours) in pairs.items() if theirs != ours]


def run(
    decisions: int = 2_000_000, reloads: int = 200, edge_losses: int = 50, seed: int = 0, tell: Callable[[float], None] = lambda _: None
) -> dict[str, Any]:
    """Run it; all figures, and `failures`: what does not hold, in words.

    Raises:
        CutlayerError: the daemon did not start.
    """
    scenario = scenarios.make("camera")
    loaded = _bundles()
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        for which, one in zip(("a", "b"), loaded, strict=True):
            one.save(folder / f"{which}.cutlayer", __version__)
        _put(folder / "policy.cutlayer", (folder / "a.cutlayer").read_bytes())
        process = stack.enter_context(_daemon(folder))
        address = _address(folder)

        def watch() -> int:
            """Resident bytes, after a look at the metrics as Prometheus would."""
            with urllib.request.urlopen(f"http://{address}/metrics", timeout=60) as reply:
                reply.read()
            return resident_bytes(process.pid) or 0

        soak = Soak(folder, loaded, seed)
        found = soak.run(decisions, reloads, edge_losses, tell, watch)
        process.terminate()
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        found.exit_code = process.wait(60)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        found.daemon_cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    shown = [one.name for one in dataclasses.fields(found) if one.name not in ("unequal", "first_wrong")]
    return {
        **{name: getattr(found, name) for name in shown},
        "growth_bytes": found.end_rss_bytes - found.warm_rss_bytes,
        "decisions_per_s": found.decisions / found.elapsed_s,
        "failures": found.failures(),
        "run": runs.manifest(scenario, {"seed": seed}),
    }


def _bundles() -> tuple[Bundle, Bundle]:
    """Two random policies that like to send, guarded by ranges that a restless link leaves now and then."""
    made = random_bundle(scenarios.make("camera"))
    size = made.policy.inputs
    guarded = dataclasses.replace(made, ranges=Ranges((-1.0,) * size, (3.9,) * size), tree=None)
    return _sending(guarded, 1.0), dataclasses.replace(_sending(guarded, -1.0), algorithm="random-too")


def _sending(given: Bundle, sign: float) -> Bundle:
    """The bundle with a bent for plans that offload; sign turns its first layer round, so that it sees another world."""
    (weight, bias), *between, (last, worth) = given.policy.layers
    bent = worth + LIKES_TO_SEND * given.plans.offloads
    policy = Mlp([(np.float32(sign) * weight, bias), *between, (last, bent.astype(np.float32))], given.policy.activation)
    observations = np.array(given.golden.observations, np.float32)
    return dataclasses.replace(
        given, policy=policy, golden=Golden(given.golden.observations, agreement.plans(policy, observations).tolist())
    )


@contextlib.contextmanager
def _daemon(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A daemon that is ready. Its log goes to a file: a pipe that nobody reads would stop it."""
    (folder / "cutlayerd.toml").write_text(
        f'bundle = "{folder}/policy.cutlayer"\nsocket = "{folder}/d.sock"\nhttp = "127.0.0.1:0"\nclock = "clients"\n'
        f'trace_path = "{folder}/d.trace"\ntrace_every = {TRACE_EVERY}\ntrace_max_bytes = 1000000\n'
        f"[controller]\nbudget_s = {SETTINGS.budget_s}\n",
        encoding="utf-8",
    )
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as inbox, (folder / "log").open("wb") as log:
        inbox.bind(str(folder / "notify"))
        command = [sys.executable, "-m", "cutlayer.runtime.daemon", "--config", str(folder / "cutlayerd.toml")]
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "NOTIFY_SOCKET": str(folder / "notify")})  # noqa: S603 - our own module
        try:
            inbox.settimeout(1.0)
            while True:
                with contextlib.suppress(TimeoutError):
                    if b"READY=1" in inbox.recv(4096):
                        break
                if process.poll() is not None:
                    raise CutlayerError(f"cutlayerd did not start: {(folder / 'log').read_text(encoding='utf-8').strip()[-300:]}")
            yield process
        finally:
            process.kill()
            process.wait()


def _spread(count: int, turns: int) -> list[int]:
    """The turns at which something happens that happens so often, evenly spread."""
    return [round((i + 0.5) * turns / count) for i in range(count)]


def _address(folder: Path) -> str:
    """Where HTTP is served, by the log."""
    events = [msgspec.json.decode(line) for line in (folder / "log").read_bytes().splitlines()]
    return str(next(event["http"] for event in events if event["event"] == "ready"))


def _connect(folder: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made.settimeout(60.0)  # a reply that takes longer is one that never comes
    made.connect(str(folder / "d.sock"))
    return made


def _lines(client: socket.socket, count: int) -> list[bytes]:
    """So many lines; fewer where the daemon hangs up or says no more."""
    data, found = b"", 0
    with contextlib.suppress(OSError):
        while found < count and (more := client.recv(262_144)):
            data += more
            found += more.count(b"\n")
    return data.split(b"\n")[:found]


def _put(file: Path, data: bytes) -> None:
    """Atomically, as whoever installs a bundle should."""
    fresh = file.with_suffix(".new")
    fresh.write_bytes(data)
    fresh.replace(file)

"""An emulated link behind one interface, whatever carries its packets.

    tun      a user-space emulator between two network namespaces: rate, delay, jitter, loss, no burst credit (root; the default there)
    tbf      the same with queue and rate by the kernel's token bucket, which credits a burst (root, pyroute2)
    proxy    a TCP proxy: rate, delay and jitter (no root)

The emulator is a process of its own that ends with this one, however this one ends, and leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Protocol, Self

import msgspec

from cutlayer.errors import ConfigError
from cutlayer.runtime.testbed.pipe import QUEUE_BYTES, Conditions
from cutlayer.runtime.testbed.tun import EDGE_ADDRESS
from cutlayer.runtime.testbed.ways import Command

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

EDGE_CORE, DEVICE_CORE = 0, 1  # apart, as on two machines; on a machine of one core they share it
TEARDOWN_S = 2.0  # for an emulator to end by itself before it is killed


def launched(command: Sequence[str], core: int, space: str = "") -> list[str]:
    """`command` on a core, in a namespace if one is named; see `launch`."""
    where = ["--space", space] if space else []
    return [sys.executable, "-m", "cutlayer.runtime.testbed.launch", *where, "--core", str(core), "--", *command]


class Link(Protocol):
    """An emulated link. A context manager; made without limit and without delay."""

    name: str
    edge_host: str  # the address that the edge listens on
    gauge: str  # file of the emulator that tells what has arrived (`gauge.Gauge`); empty where only the kernel knows

    def __enter__(self) -> Self:
        """Start it."""
        ...

    def __exit__(self, *_: object) -> None:
        """Take it down."""
        ...

    def on_edge(self, command: Sequence[str]) -> list[str]:
        """The command that runs `command` at the edge's end."""
        ...

    def on_device(self, command: Sequence[str]) -> list[str]:
        """The command that runs `command` at the device's end."""
        ...

    def reach(self, port: int) -> tuple[str, int]:
        """Where the device finds what listens on `port` at the edge's end."""
        ...

    def set(self, *, up: Conditions | None = None, down: Conditions | None = None) -> dict[str, int]:
        """Change one or both directions; packets dropped and lost so far."""
        ...


class _Emulator:
    """A process of this package that carries packets and takes commands on stdin."""

    def __init__(self, module: str, *arguments: int) -> None:
        command = [sys.executable, "-m", f"cutlayer.runtime.testbed.{module}", *map(str, arguments)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # noqa: S603 - this very package
        self._guard = threading.Lock()  # a replay changes the link while others ask it
        self.ready = self._answer()

    def say(self, command: Command) -> dict[str, Any]:
        """Send a command; its answer."""
        assert self._process.stdin is not None
        with self._guard:
            self._process.stdin.write(msgspec.json.encode(command) + b"\n")
            self._process.stdin.flush()
            return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise ConfigError(f"the link's emulator ended with code {self._process.wait()}; its words stand on stderr")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise ConfigError(answer["error"])
        return answer

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(TEARDOWN_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


class TunLink:
    """Two namespaces and an emulator between them; see `tun`."""

    name = "tun"
    module = "tun"  # of this package, that carries packets
    edge_host = EDGE_ADDRESS
    gauge = ""

    def __init__(self, seed: int = 0, queue_bytes: int = QUEUE_BYTES) -> None:
        self._arguments = (seed, queue_bytes)

    def __enter__(self) -> Self:
        """Raises ConfigError where namespaces or TUN are refused."""
        self._emulator = _Emulator(self.module, *self._arguments)
        self.gauge = str(self._emulator.ready["gauge"])
        return self

    def __exit__(self, *_: object) -> None:
        """Namespaces end with the emulator."""
        self._emulator.close()

    def on_edge(self, command: Sequence[str]) -> list[str]:
        """See `Link`."""
        return self._inside("edge", command)

    def on_device(self, command: Sequence[str]) -> list[str]:
        """See `Link`."""
        return self._inside("device", command)

    def _inside(self, end: str, command: Sequence[str]) -> list[str]:
        ready = self._emulator.ready
        return launched(command, DEVICE_CORE if end == "device" else EDGE_CORE, f"{ready['pid']}:{ready[end]}")

    def reach(self, port: int) -> tuple[str, int]:
        """See `Link`."""
        return (EDGE_ADDRESS, port)

    def set(self, *, up: Conditions | None = None, down: Conditions | None = None) -> dict[str, int]:
        """See `Link`."""
        return self._emulator.say(Command(up, down))


class TbfLink(TunLink):
    """The same with the kernel's token bucket; see `shaped`."""

    name = "tbf"
    module = "shaped"


class ProxyLink:
    """A proxy in front of the edge; see `proxy`."""

    name = "proxy"
    edge_host = "127.0.0.1"
    gauge = ""

    def __init__(self, seed: int = 0, queue_bytes: int = QUEUE_BYTES) -> None:
        self._arguments = (seed, queue_bytes)
        self._emulator: _Emulator | None = None
        self._set = Command()

    def __enter__(self) -> Self:
        """Nothing runs yet: a proxy needs to know the port of the edge."""
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the proxy."""
        if self._emulator is not None:
            self._emulator.close()

    def on_edge(self, command: Sequence[str]) -> list[str]:
        """See `Link`."""
        return launched(command, EDGE_CORE)

    def on_device(self, command: Sequence[str]) -> list[str]:
        """See `Link`."""
        return launched(command, DEVICE_CORE)

    def reach(self, port: int) -> tuple[str, int]:
        """See `Link`; starts the proxy. Once only."""
        assert self._emulator is None, "one edge a proxy"
        self._emulator = _Emulator("proxy", *self._arguments, port)
        self._emulator.say(self._set)
        self.gauge = str(self._emulator.ready["gauge"])
        return ("127.0.0.1", int(self._emulator.ready["port"]))

    def set(self, *, up: Conditions | None = None, down: Conditions | None = None) -> dict[str, int]:
        """See `Link`.

        Raises:
            ConfigError: loss is asked for; a proxy hands on a stream, of which nothing can be missing.
        """
        for one in (up, down):
            if one is not None and one.loss > 0.0:
                raise ConfigError(f"a loss of {one.loss}: a proxy cannot lose packets; use --backend tun")
        self._set = Command(up or self._set.up, down or self._set.down)
        return self._emulator.say(self._set) if self._emulator is not None else {"dropped": 0, "lost": 0}


BACKENDS: dict[str, type[TunLink | ProxyLink]] = {"tun": TunLink, "proxy": ProxyLink, "tbf": TbfLink}  # the best first


def unavailable(backend: str) -> str:
    """Why a backend cannot be used here, found by trying; empty where it can."""
    if backend not in BACKENDS:
        return f"unknown backend {backend!r}; known: {', '.join(BACKENDS)}"
    try:
        with BACKENDS[backend]():
            return ""
    except ConfigError as error:
        return str(error)


def best() -> str:
    """The most faithful backend that works here."""
    return next(name for name in BACKENDS if not unavailable(name))


class Replay:
    """Drives the uplink's rate through a trace, a slot after the other and round again, in a thread of its own."""

    def __init__(
        self,
        link: Link,
        rates_bps: Sequence[float],
        slot_s: float,
        others: Conditions,
        clock: Callable[[], float] = time.monotonic,
        start_s: float | None = None,
    ) -> None:
        self._begin_s = start_s
        self._link, self._rates_bps, self._slot_s, self._others = link, rates_bps, slot_s, others
        self._clock = clock
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.start_s = 0.0
        self.latest_s = 0.0  # by how much the latest change was late at most

    def __enter__(self) -> Self:
        """The first slot counts from `start_s` on, or from now; the link is like it at once."""
        self.start_s = self._clock() if self._begin_s is None else self._begin_s
        self._change(0)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """The link stays as it is."""
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        slot = 1
        while not self._stop.wait(self.start_s + slot * self._slot_s - self._clock()):
            self._change(slot)
            self.latest_s = max(self.latest_s, self._clock() - self.start_s - slot * self._slot_s)
            # Slots that were slept through are skipped, not caught up on.
            slot = max(slot + 1, int((self._clock() - self.start_s) / self._slot_s))

    def _change(self, slot: int) -> None:
        rate_bps = self._rates_bps[slot % len(self._rates_bps)]
        now = self._others
        self._link.set(up=Conditions(rate_bps, now.delay_s, now.jitter_s, now.loss))

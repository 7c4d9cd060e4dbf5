"""What a decision costs through the daemon's socket on this machine: one client's round trip, and how many of them eight get."""

from __future__ import annotations

import contextlib
import http.client
import selectors
import socket
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from cutlayer import __version__
from cutlayer.agents import demo, runs
from cutlayer.agents.bench_decision import WARM_UP, random_bundle
from cutlayer.envs import scenarios
from cutlayer.runtime.client import Client
from cutlayer.runtime.messages import Outcome

if TYPE_CHECKING:
    from cutlayer.envs.spec import Scenario

DECISIONS = 10_000  # of one client: the 99th percentile then has a hundred round trips above it
ROUNDS = 1_000  # over HTTP: the median is asked for
CLIENTS = 8
SHARED = 5_000  # decisions of each of them
LONG_S = 60.0  # deadline of eight clients' requests: one device is too small for them, and the policy would not be asked in time
LONGEST_LINE = 65_536


class _Decided(msgspec.Struct):
    id: int
    plan: int


def run() -> dict[str, Any]:
    """All figures.

    p50_s, p99_s: round trip of `decide`, one client, by the wall clock. decisions_per_s: of eight clients together, each with one
    request on its way, and every decision reported on (so twice as many messages); one process plays them all. errors: replies
    that were none, or another request's. by_policy: share of all these decisions that the policy took. http_p50_s: round trip of
    GET /healthz over a connection that stays open, beside them: what a decision over HTTP would cost at least.
    """
    scenario = scenarios.make("camera")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        random_bundle(scenario).save(folder / "policy.cutlayer", __version__)
        path = folder / "cutlayerd.sock"
        command = ["cutlayer.runtime.daemon", "--bundle", str(folder / "policy.cutlayer"), "--socket", str(path), "--http", "127.0.0.1:0"]
        with demo.process(command) as ready:
            over_http = _over_http(ready["http"])
            took = _alone(path, scenario)
            elapsed_s, errors = _together(path, scenario)
            with Client(path) as client:
                status = client.status()
    p50, p99 = (float(x) for x in np.percentile(took, [50, 99]))
    return {
        "p50_s": p50,
        "p99_s": p99,
        "decisions_per_s": CLIENTS * SHARED / elapsed_s,
        "clients": CLIENTS,
        "errors": errors,
        "by_policy": status["steps"].get("policy", 0) / status["decisions"],
        "http_p50_s": float(np.median(over_http)),
        "run": runs.manifest(scenario, {"weights": 0}),
    }


def _outcome(scenario: Scenario, number: int, plan: int) -> Outcome:
    """A request that went as planned, a moment ago, over a link of 10 Mb/s."""
    row, now_s = scenario.plans.rows[plan], time.monotonic()
    send_s = 8 * row.wire_bytes / 10e6
    offloads = row.bits > 0
    return Outcome(
        plan, now_s - row.device_s - send_s, row.device_s, now_s - send_s, send_s, float(row.wire_bytes),
        edge_wait_s=0.0 if offloads else -1.0, id=number, latency_s=row.device_s + send_s + row.edge_s,
    )  # fmt: skip


def _alone(path: Path, scenario: Scenario) -> list[float]:
    took = []
    with Client(path) as client:
        for number in range(1, WARM_UP + DECISIONS + 1):
            start_s = time.perf_counter()
            decision = client.decide(number)
            took.append(time.perf_counter() - start_s)
            client.report(_outcome(scenario, number, decision.plan))
    return took[WARM_UP:]


def _over_http(address: str) -> list[float]:
    took = []
    connection = http.client.HTTPConnection(address)
    with contextlib.closing(connection):
        for _ in range(ROUNDS):
            start_s = time.perf_counter()
            connection.request("GET", "/healthz")
            connection.getresponse().read()
            took.append(time.perf_counter() - start_s)
    return took


class _Asking:
    """One of several clients: asks, reports, asks again."""

    def __init__(self, path: Path, scenario: Scenario, first: int) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.connect(str(path))
        self._scenario = scenario
        self._number, self._end = first, first + SHARED
        self._decoder = msgspec.json.Decoder(_Decided)
        self._pending = b""
        self.errors = 0

    def ask(self, before: bytes = b"") -> None:
        self.socket.sendall(before + b'{"op":"decide","id":%d,"deadline_s":%g}\n' % (self._number, LONG_S))

    def take(self) -> bool:
        """Take in what came, go on when it is the decision; whether there is more to ask."""
        self._pending += self.socket.recv(LONGEST_LINE)
        *lines, self._pending = self._pending.split(b"\n")
        for line in lines:
            if line == b'{"ok":true}':
                continue
            try:
                decided = self._decoder.decode(line)
                self.errors += decided.id != self._number
            except msgspec.DecodeError:
                self.errors += 1
                decided = _Decided(self._number, 0)
            outcome = _outcome(self._scenario, self._number, decided.plan)
            report = msgspec.json.encode({"op": "report", **msgspec.structs.asdict(outcome)}) + b"\n"
            self._number += 1
            if self._number == self._end:
                return False
            self.ask(report)
        return True


def _together(path: Path, scenario: Scenario) -> tuple[float, int]:
    """Seconds, and errors."""
    clients = [_Asking(path, scenario, 1_000_000 * (1 + i)) for i in range(CLIENTS)]
    with selectors.DefaultSelector() as selector:
        for client in clients:
            selector.register(client.socket, selectors.EVENT_READ, client)
        start_s = time.perf_counter()
        for client in clients:
            client.ask()
        while selector.get_map():
            for key, _ in selector.select():
                if not key.data.take():
                    selector.unregister(key.fileobj)
        elapsed_s = time.perf_counter() - start_s
    for client in clients:
        client.socket.close()
    return elapsed_s, sum(client.errors for client in clients)

"""What a message costs between two processes: the frames of `runtime.split` beside ZeroMQ and gRPC, interleaved, on loopback.

A request of so many bytes, a reply of 40 (ten logits). Each server is a process of its own and does nothing with what it gets. Ours is the
edge server itself: it checks lengths and checksums as ever, and the time that it says it decoded and computed is taken off. It answers so
fast that the device watches for the reply (`runtime.brisk.BRISK_S`); `cutlayer-asleep` never does: that is what a request costs whose
edge has something to compute.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from cutlayer.errors import ConfigError
from cutlayer.profiles import machine
from cutlayer.runtime.brisk import BRISK_S
from cutlayer.runtime.split.address import Address
from cutlayer.runtime.split.connection import Connection
from cutlayer.runtime.split.edge import EdgeServer
from cutlayer.runtime.split.protocol import Request, Shapes
from cutlayer.runtime.testbed.calibrate import line, python, running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

SIZES = (1_000, 10_000, 100_000, 1_000_000)
ROUNDS, BLOCK = 40, 25  # messages of a size: 1,000, in blocks that take turns; ten of them lie above the 99th percentile
WARM = 2  # rounds that are not counted
CLASSES = 10
GIVE_UP_S = 10.0
METHOD = "/cutlayer/exchange"
SHAPES = Shapes(b"8 bytes!", (len(SIZES),), ((1, 1, 1), *((size,) for size in SIZES)), CLASSES)


class Nothing:
    """Graphs that compute nothing."""

    shapes = SHAPES

    def suffix(self, *_: object) -> NDArray[np.float32]:
        """Ten zeros."""
        return np.zeros(CLASSES, np.float32)


class Exchange(Protocol):
    """A client: sends a payload, waits for the reply."""

    def __call__(self, payload: bytes) -> float:
        """Seconds that the server says it worked on it."""
        ...


# --- servers


def ready(port: int) -> None:
    """Tell where to connect to, and whose processor time to watch."""
    print(f'{{"port": {port}, "pid": {os.getpid()}}}', flush=True)


def serve_cutlayer() -> None:
    """The edge server over graphs that compute nothing."""
    with EdgeServer(Nothing()) as server:  # type: ignore[arg-type]  # what it needs of graphs: shapes and suffix
        ready(server.address.port)
        server.serve()


def serve_zeromq() -> None:
    """REP."""
    import zmq

    socket: Any = zmq.Context.instance().socket(zmq.REP)
    port = socket.bind_to_random_port("tcp://127.0.0.1")
    ready(port)
    reply = bytes(4 * CLASSES)
    while True:
        socket.recv(copy=False)
        socket.send(reply)


def serve_grpc() -> None:
    """Unary, of bytes."""
    from concurrent import futures

    import grpc

    reply = bytes(4 * CLASSES)
    server = grpc.server(futures.ThreadPoolExecutor(1))
    handler = grpc.unary_unary_rpc_method_handler(lambda _payload, _context: reply)
    service, _, method = METHOD.strip("/").partition("/")
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    ready(port)
    server.wait_for_termination()


SERVERS: dict[str, Callable[[], None]] = {
    "cutlayer": serve_cutlayer,
    "cutlayer-asleep": serve_cutlayer,
    "zeromq": serve_zeromq,
    "grpc": serve_grpc,
}


# --- clients


@contextlib.contextmanager
def cutlayer(port: int, brisk_s: float = BRISK_S) -> Iterator[Exchange]:
    """One connection, as a device agent holds it."""
    connection = Connection(Address("127.0.0.1", port), SHAPES, brisk_s=brisk_s)
    cuts = {size: partition for partition, size in enumerate(SIZES, 1)}

    def exchange(payload: bytes) -> float:
        request = Request(0, b"", 0, 0, partition=cuts[len(payload)], bits=8)
        reply, _ = connection.exchange(request, payload, time.monotonic() + GIVE_UP_S)
        return reply.queue_s + reply.decode_s + reply.compute_s

    with contextlib.closing(connection):
        yield exchange


@contextlib.contextmanager
def zeromq(port: int) -> Iterator[Exchange]:
    """REQ, without copies."""
    import zmq

    def exchange(payload: bytes) -> float:
        socket.send(payload, copy=False)
        socket.recv(copy=False)
        return 0.0

    with zmq.Context() as context, context.socket(zmq.REQ) as socket:
        socket.connect(f"tcp://127.0.0.1:{port}")
        yield exchange


@contextlib.contextmanager
def grpc(port: int) -> Iterator[Exchange]:
    """A channel that stays open."""
    import grpc

    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_unary(METHOD)

        def exchange(payload: bytes) -> float:
            call(payload)
            return 0.0

        yield exchange


CLIENTS: dict[str, Callable[[int], contextlib.AbstractContextManager[Exchange]]] = {
    "cutlayer": cutlayer,
    "cutlayer-asleep": partial(cutlayer, brisk_s=0.0),
    "zeromq": zeromq,
    "grpc": grpc,
}


def run(rounds: int = ROUNDS, progress: Callable[[float], None] = lambda _: None) -> dict[str, Any]:
    """p50_s, p99_s (wall) and cpu_s (both processes, mean) of each transport by size, and each rival's p50 over ours.

    Raises:
        ConfigError: ZeroMQ or gRPC is not installed.
    """
    _check()
    found: dict[str, dict[int, list[float]]] = {name: {size: [] for size in SIZES} for name in CLIENTS}
    cpu: dict[str, dict[int, list[float]]] = {name: {size: [] for size in SIZES} for name in CLIENTS}
    with contextlib.ExitStack() as stack:
        exchanges, clocks = {}, {}
        for name, client in CLIENTS.items():
            said = json.loads(line(stack.enter_context(running(python("cutlayer.agents.bench_split", name)))))
            exchanges[name] = stack.enter_context(client(said["port"]))
            clocks[name] = cpu_clock(said["pid"])
        for done in range(WARM + rounds):
            for size in SIZES:
                for name in CLIENTS:
                    took, cpu_s = _block(exchanges[name], os.urandom(size), clocks[name])
                    if done >= WARM:
                        found[name][size] += took
                        cpu[name][size].append(cpu_s)
            progress((done + 1) / (WARM + rounds))
    sizes = {str(size): {name: _figures(found[name][size], cpu[name][size]) for name in CLIENTS} for size in SIZES}
    lowest = {size: min(rows, key=lambda name: rows[name]["p50_s"]) for size, rows in sizes.items()}
    p50_s = {name: {size: rows[name]["p50_s"] for size, rows in sizes.items()} for name in CLIENTS}
    return {
        "ours_p50_s": p50_s["cutlayer"],
        "ours_asleep_p50_s": p50_s["cutlayer-asleep"],
        "zeromq_p50_s": p50_s["zeromq"],
        "grpc_p50_s": p50_s["grpc"],
        "sizes": sizes,
        "over_ours": {
            size: {name: rows[name]["p50_s"] / rows["cutlayer"]["p50_s"] for name in CLIENTS if name != "cutlayer"}
            for size, rows in sizes.items()
        },
        "lowest_p50": lowest,
        "messages": rounds * BLOCK,
        "run": {"cpu": machine.cpu_name(), "load_average": machine.load_average(), "date": machine.today()},
    }


def _check() -> None:
    for module, package in (("zmq", "pyzmq"), ("grpc", "grpcio")):
        try:
            __import__(module)
        except ImportError as error:
            raise ConfigError(f"bench split compares with {package}, which is not installed; pip install {package}") from error


def cpu_clock(pid: int) -> int:
    """The clock of another process's processor time, for `time.clock_gettime`; as clock_getcpuclockid(3) makes it on Linux."""
    return (~pid << 3) | 2


def _block(exchange: Exchange, payload: bytes, clock: int) -> tuple[list[float], float]:
    """What each message of a block took, and what one cost both processes together."""
    took, worked_s = [], 0.0
    begin_s = time.process_time() + time.clock_gettime(clock)
    for _ in range(BLOCK):
        start_s = time.perf_counter()
        work_s = exchange(payload)
        took.append(time.perf_counter() - start_s - work_s)
        worked_s += work_s
    return took, (time.process_time() + time.clock_gettime(clock) - begin_s - worked_s) / BLOCK


def _figures(took: Sequence[float], cpu_s: Sequence[float]) -> dict[str, float]:
    p50, p99 = (float(x) for x in np.percentile(took, [50, 99]))
    return {"p50_s": p50, "p99_s": p99, "cpu_s": float(np.median(cpu_s))}


def table(result: dict[str, Any]) -> str:
    """A line for each size and transport, in microseconds."""
    lines = [f"{'bytes':>9}  {'transport':<16}{'p50 us':>9}{'p99 us':>9}{'cpu us':>9}{'p50 over ours':>15}"]
    for size, rows in result["sizes"].items():
        for name, one in rows.items():
            p50, p99, cpu = (1e6 * one[key] for key in ("p50_s", "p99_s", "cpu_s"))
            over = result["over_ours"][size].get(name, 1.0)
            lines.append(f"{size:>9}  {name:<16}{p50:>9.0f}{p99:>9.0f}{cpu:>9.0f}{over:>15.2f}")
    return "\n".join(lines)


if __name__ == "__main__":
    SERVERS[sys.argv[1]]()

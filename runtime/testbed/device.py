"""The device's process of a testbed run: requests come in at their times, the daemon decides each, real networks run.

As in the simulator the processor works on one request at a time, the uplink sends one frame at a time, and requests wait for both; so a
thread each: one asks the daemon as requests arrive, one computes, `Uplink` sends and receives, one answers what was given up, one tells
the daemon. The device's work is padded to the profiled time, times the slow-down of the moment, or slowed otherwise (`emulation`).

Run with a file of `Orders`; prints {"ready": true} once every graph has run, reads the instant to start at from stdin, writes `Done`s.
"""

from __future__ import annotations

import heapq
import itertools
import queue
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from cutlayer.errors import CutlayerError
from cutlayer.files import write_atomic
from cutlayer.profiles.codecs import HEADER_BYTES
from cutlayer.profiles.cost import MSS_BYTES, OVERHEAD_BYTES
from cutlayer.profiles.plans import PlanTable
from cutlayer.runtime.client import Client
from cutlayer.runtime.messages import UNKNOWN, Outcome, Progress, Request
from cutlayer.runtime.split.address import Address
from cutlayer.runtime.split.device import answer_alone, compute
from cutlayer.runtime.split.graphs import Graphs
from cutlayer.runtime.split.run import MIN_DISPERSION_BYTES, refuse_unspoken
from cutlayer.runtime.testbed import gauge as gauges
from cutlayer.runtime.testbed.emulation import AsItIs, Pad, Quota
from cutlayer.runtime.testbed.uplink import ON_WIRE, Frame, Uplink, acknowledged

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from cutlayer.runtime.messages import Decision
    from cutlayer.runtime.split.device import Front
    from cutlayer.runtime.testbed.emulation import Emulation

TIMED = 5  # runs of the whole network that a quota is found by: their median, after every graph has been warmed up
HEARD_S = 2.0  # as `Settings.edge_silence_s`: an edge that answered anything since is there, and a transfer that stood tells of the link


class Orders(msgspec.Struct, frozen=True):
    """What to do. Times in seconds since the start; slow_down in slots of slot_s, the last one holds; deadline_s empty: the usual one.

    fixed_s: what a request costs beside transfer, round trip and the edge's work, as calibrated. images: .npy (n, height, width, 3), taken
    in turn. gauge: see `link.Link`. emulation: one of `emulation.KINDS`; group: of a quota.
    """

    graphs: str
    plans: str
    socket: str
    edge: str
    gauge: str
    images: str
    arrival_s: list[float]
    slow_down: list[float]
    slot_s: float
    deadline_s: list[float]
    rtt_s: float
    fixed_s: float
    emulation: str = "pad"
    group: str = ""


class Done(msgspec.Struct, kw_only=True):
    """What became of a request; times in seconds since the start, bytes as on the wire, those of the edge's wait by its own clock.

    status: device, edge, given-up (something of it was on the way) or unsent. exit: the one that answered; predicted: its class.
    late_s: by how much real work overran what it was padded to. step, reason: who decided, and why not the policy; fault: why not the
    edge.
    """

    plan: int
    arrival_s: float
    device_start_s: float = 0.0
    device_end_s: float = 0.0
    send_start_s: float = 0.0
    send_end_s: float = 0.0
    sent_bytes: float = 0.0
    edge_wait_s: float = 0.0
    edge_s: float = 0.0
    finish_s: float = 0.0
    status: str = "device"
    exit: int = 0
    predicted: int = 0
    late_s: float = 0.0
    step: str = ""
    reason: str = ""
    fault: str = ""


class Result(msgspec.Struct, frozen=True):
    """Every request in its order, and how often a connection was reset to free the link."""

    done: list[Done]
    resets: int


@dataclass(slots=True)
class Job:
    """A request between its decision and its answer; due_s: the instant by which its transfer is given up."""

    number: int
    pixels: NDArray[np.uint8]
    decision: Decision
    due_s: float
    done: Done
    slow_down: float = 1.0
    front: Front | None = None
    given_up_s: float = 0.0


class Device:
    """One run: `run` returns when every request is answered."""

    def __init__(
        self,
        orders: Orders,
        graphs: Graphs,
        plans: PlanTable,
        images: NDArray[np.uint8],
        clients: tuple[Client, Client],
        emulation: Emulation,
    ) -> None:
        self._orders, self._graphs, self._plans, self._images = orders, graphs, plans, images
        self._asking, self._telling = clients
        self._emulation = emulation
        self._begin_s = 0.0
        self._free_s = 0.0  # when the last frame had left
        self._to_compute: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._to_answer: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._to_tell: queue.SimpleQueue[tuple[float, Progress | Outcome] | None] = queue.SimpleQueue()  # from when on it is known
        self._numbers = itertools.count()
        self._jobs: dict[int, Job] = {}  # on the link, by the identity of their frames
        self._finished = threading.Semaphore(0)
        self._fault: BaseException | None = None
        self.uplink = Uplink(
            Address.parse(orders.edge), graphs.shapes, self._answered, started=self._started, sent=self._sent, left=left_by(orders.gauge)
        )

    def run(self, begin_s: float) -> list[Done]:
        """Play the orders from that instant on."""
        self._begin_s = begin_s
        threads = [threading.Thread(target=self._guarded, args=(one,)) for one in (self._compute, self._answer, self._tell)]
        for thread in threads:
            thread.start()
        done = []
        try:
            for number in range(len(self._orders.arrival_s)):
                done.append(self._arrive(number))
                if self._fault is not None:
                    break
            for _ in done:
                while not self._finished.acquire(timeout=1.0) and self._fault is None:
                    pass
        finally:
            self._to_compute.put(None)
            self._to_answer.put(None)
            self._to_tell.put(None)
            for thread in threads:
                thread.join()
            self.uplink.close()
        if self._fault is not None:
            raise self._fault
        return done

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - told by the thread that waits, which would wait for ever
            self._fault = error
            self._finished.release()

    def _now_s(self) -> float:
        return time.monotonic() - self._begin_s

    def _arrive(self, number: int) -> Done:
        orders, arrival_s = self._orders, self._orders.arrival_s[number]
        time.sleep(max(0.0, arrival_s - self._now_s()))
        reachable = not self.uplink.lost
        due_s = orders.deadline_s[number] if orders.deadline_s else UNKNOWN
        decision = self._asking.ask(Request(number + 1, self.uplink.acked_bytes(), edge_reachable=reachable, deadline_s=due_s))
        done = Done(plan=decision.plan, arrival_s=arrival_s, step=decision.step, reason=decision.reason)
        job = Job(number + 1, self._images[number % len(self._images)], decision, self._begin_s + arrival_s + decision.give_up_s, done)
        self._to_compute.put(job)
        return done

    # --- the processor

    def _compute(self) -> None:
        while (job := self._to_compute.get()) is not None:
            row, done, decision = self._plans.rows[job.decision.plan], job.done, job.decision
            done.device_start_s = start_s = self._now_s()
            slots = self._orders.slow_down
            job.slow_down = slots[min(int(start_s / self._orders.slot_s), len(slots) - 1)]
            self._say(Progress(job.number, done.plan, self._begin_s + start_s))
            self._emulation.begin(job.slow_down)
            job.front = compute(self._graphs, job.pixels, decision.exit, decision.partition, decision.bits)
            done.late_s = self._pad(start_s, self._emulation.lasts_s(row.device_s + row.encode_s, job.slow_down))
            done.device_end_s = done.send_start_s = done.send_end_s = self._now_s()
            took_s = done.device_end_s - start_s
            if job.front.coded is None:
                self._finish(job, decision.exit, job.front.tensor)
                continue
            self._say(Progress(job.number, done.plan, self._begin_s + start_s, took_s))
            frame = Frame(job.front.request, job.front.coded.data, job.due_s)
            self._jobs[id(frame)] = job
            self.uplink.put(frame)

    def _pad(self, start_s: float, pad_s: float) -> float:
        """Sleep until `pad_s` after the start; by how much that has passed already. Nothing to wait for is never late."""
        if pad_s <= 0.0:
            return 0.0
        left_s = start_s + pad_s - self._now_s()
        time.sleep(max(0.0, left_s))
        return max(0.0, -left_s)

    # --- the link; these are called by its thread

    def _started(self, frame: Frame) -> None:
        # As in the simulator: that bytes have begun to cross is known when the first of them could have crossed. Told at once, the transfer
        # would read as one that stands still for half a round trip.
        seen_s = max(frame.start_s, frame.handed_s + self._orders.rtt_s / 2)
        job = self._jobs[id(frame)]
        self._to_tell.put((seen_s, Progress(job.number, job.done.plan, send_start_s=seen_s)))

    def _sent(self, frame: Frame) -> None:
        job = self._jobs[id(frame)]
        self._say(Progress(job.number, job.done.plan, sent=True))

    def _answered(self, frame: Frame) -> None:
        job = self._jobs.pop(id(frame))
        done, end_s = job.done, frame.end_s - self._begin_s
        done.fault, job.given_up_s = frame.reason, end_s
        if frame.start_s > frame.end_s:  # its turn never came
            done.status, done.send_start_s, done.send_end_s = "unsent", end_s, end_s
            self._to_answer.put(job)
            return
        # Behind the frame before: when that one had left is known better from its reply than from its acknowledgement, a round trip later.
        done.send_start_s = min(max(done.device_end_s, self._free_s), end_s)
        if frame.reply is not None:
            self._edge_answered(job, frame, end_s)
            return
        self._free_s = done.send_end_s = max(done.send_start_s, min(frame.sent_s - self._begin_s, end_s))
        # Of an edge that was just heard of, nothing carried would say that it is gone.
        alive = frame.end_s - self.uplink.heard_s < HEARD_S
        left = carried(frame.sent_bytes, frame.size, done.send_end_s - done.send_start_s, self._orders.rtt_s / 2)
        done.sent_bytes = _wire(max(left, HEADER_BYTES if alive else 0))
        done.status = "given-up"
        self._to_answer.put(job)

    def _edge_answered(self, job: Job, frame: Frame, end_s: float) -> None:
        reply, done = frame.reply, job.done
        assert reply is not None
        done.edge_wait_s, done.edge_s = reply.queue_s, reply.decode_s + reply.compute_s
        # What is left of the way there and back, but for the edge's time, the round trip and the constant, is the transfer's.
        away_s = self._orders.rtt_s + self._orders.fixed_s + reply.queue_s + done.edge_s
        self._free_s = done.send_end_s = max(done.send_start_s, min(end_s - away_s, frame.sent_s - self._begin_s))
        done.sent_bytes, done.status = _wire(frame.size), "edge"
        measured = reply.bytes_after_first >= MIN_DISPERSION_BYTES and reply.dispersion_s > 0.0
        rate = (ON_WIRE * reply.bytes_after_first, reply.dispersion_s) if measured else (0.0, 0.0)
        self._finish(job, reply.exit, frame.logits, rate)

    # --- answers

    def _answer(self) -> None:
        """The device's own answers to what was given up; as in the simulator none keeps the processor, nor the next one, from others."""
        ready: list[tuple[float, int, Job, int, NDArray[np.float32]]] = []  # by when their padding ends
        while True:
            try:
                job = self._to_answer.get(timeout=max(0.0, ready[0][0] - self._now_s()) if ready else None)
            except queue.Empty:
                _, _, job, exit_, logits = heapq.heappop(ready)
                self._finish(job, exit_, logits)
                continue
            if job is None:
                return
            assert job.front is not None
            pad_s = self._emulation.lasts_s(self._plans.rows[job.decision.plan].fallback_s, job.slow_down)
            exit_, logits = answer_alone(self._graphs, job.decision.partition, job.front.tensor)
            due_s = job.given_up_s + pad_s
            job.done.late_s += max(0.0, self._now_s() - due_s) if pad_s > 0.0 else 0.0
            heapq.heappush(ready, (due_s, job.number, job, exit_, logits))

    def _finish(self, job: Job, exit_: int, logits: NDArray[np.float32], rate: tuple[float, float] = (0.0, 0.0)) -> None:
        done, begin_s = job.done, self._begin_s
        done.finish_s, done.exit, done.predicted = self._now_s(), exit_, int(logits.argmax())
        answered = done.status == "edge"
        self._say(
            Outcome(
                done.plan, begin_s + done.device_start_s, done.device_end_s - done.device_start_s, begin_s + done.send_start_s,
                done.send_end_s - done.send_start_s, done.sent_bytes, *rate, done.edge_wait_s if answered else UNKNOWN, id=job.number,
                latency_s=done.finish_s - done.arrival_s, edge_s=done.edge_s if answered else UNKNOWN,
            )
        )  # fmt: skip
        self._finished.release()

    def _say(self, message: Progress | Outcome) -> None:
        self._to_tell.put((0.0, message))

    def _tell(self) -> None:
        later: list[tuple[float, int, Progress | Outcome]] = []  # of what is not known yet; numbered, so that no messages are compared
        while True:
            try:
                told = self._to_tell.get(timeout=max(0.0, later[0][0] - time.monotonic()) if later else None)
            except queue.Empty:
                self._send(heapq.heappop(later)[2])
                continue
            if told is None:
                return
            if told[0] > time.monotonic():
                heapq.heappush(later, (told[0], next(self._numbers), told[1]))
            else:
                self._send(told[1])

    def _send(self, message: Progress | Outcome) -> None:
        if isinstance(message, Progress):
            self._telling.progress(message)
        else:
            self._telling.report(message)


def carried(seen: int, size: int, took_s: float, late_s: float) -> int:
    """Of a transfer of that size that was given up after `took_s`: how many bytes had left, where `seen` had been seen to arrive.

    What left in the last `late_s` is not seen yet, and packets are seen whole: half of one counts, and the rate is taken to have held.
    Where nothing was seen nothing is guessed: that is an outage.
    """
    if seen <= 0 or seen >= size:
        return max(0, min(seen, size))
    known_s = took_s - late_s
    return size - 1 if known_s <= 0.0 else min(size - 1, round((seen + MSS_BYTES / 2) * took_s / known_s))


def _wire(count: int) -> float:
    """Bytes on the wire of so many of a frame."""
    return float(count - (-count // MSS_BYTES) * OVERHEAD_BYTES)


def left_by(gauge: str) -> Callable[[socket.socket, int], int]:
    """How an `Uplink` learns what has left: from a link's gauge, else from the kernel."""
    if not gauge:
        return acknowledged
    radio = gauges.read(gauge)
    return lambda peer, _: radio.arrived(peer.getsockname()[1])


def emulated(orders: Orders, graphs: Graphs, plans: PlanTable, image: NDArray[np.uint8]) -> Emulation:
    """What the orders ask for; a quota is the share of a core that makes this machine as slow as the profiled device.

    Raises:
        ConfigError: this machine is slower than that device.
    """
    if orders.emulation != "quota":
        return Pad() if orders.emulation == "pad" else AsItIs()
    row = plans.rows[plans.device_only()]
    took_s = []
    for _ in range(TIMED):
        start_s = time.thread_time()
        compute(graphs, image, row.exit, row.partition, row.bits)
        took_s.append(time.thread_time() - start_s)
    return Quota(Path(orders.group), float(np.median(took_s)) / row.device_s)


def main(arguments: Sequence[str]) -> int:
    """Run as `python -m cutlayer.runtime.testbed.device ORDERS OUT`."""
    orders_file, out = map(Path, arguments)
    try:
        orders = msgspec.json.decode(orders_file.read_bytes(), type=Orders)
        graphs, plans = Graphs(Path(orders.graphs)), PlanTable.decode(Path(orders.plans).read_bytes(), orders.plans)
        refuse_unspoken(plans)
        images = np.load(orders.images, allow_pickle=False)
        graphs.warm_up("device")
        with Client(Path(orders.socket)) as asking, Client(Path(orders.socket)) as telling:
            device = Device(orders, graphs, plans, images, (asking, telling), emulated(orders, graphs, plans, images[0]))
            print('{"ready": true}', flush=True)
            begin_s = float(sys.stdin.readline())
            done = device.run(begin_s)
        write_atomic(out, msgspec.json.encode(Result(done, device.uplink.resets)))
    except CutlayerError as error:
        sys.stderr.write(f"cutlayer testbed: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

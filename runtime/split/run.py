"""The device process: for each image ask the daemon, run the plan with the edge, tell the daemon how it went.

The uplink is emulated at the sender by a table of rates and the device by its profiled times, so that one machine behaves
like a slow device on a cellular link. After each image the same exit and partition is run once more at 32 bits and full
speed: that answer must be the unsplit network's.
"""

from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from cutlayer.errors import ConfigError, CutlayerError
from cutlayer.files import write_atomic
from cutlayer.options import Parser
from cutlayer.profiles.plans import PlanTable
from cutlayer.profiles.rows import AFFINE
from cutlayer.runtime.client import Client
from cutlayer.runtime.messages import UNKNOWN, Outcome, Request
from cutlayer.runtime.split.address import Address
from cutlayer.runtime.split.device import DeviceAgent
from cutlayer.runtime.split.graphs import Graphs
from cutlayer.runtime.split.pace import TracePace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from cutlayer.runtime.split.device import Inference

MIN_DISPERSION_BYTES = 3 * 1448  # fewer than three packets after the first tell nothing of the rate


class Run(msgspec.Struct, frozen=True):
    """One image: the plan, what answered it, and what the same exit and partition give at 32 bits."""

    plan: int
    exit: int
    status: str
    predicted: int
    exact_exit: int
    exact_status: str
    exact_predicted: int
    latency_s: float


class Drive(msgspec.Struct, frozen=True):
    """What is emulated: uplink rate and slow-down of the device in slots of slot_s, in a circle."""

    rates_bps: list[float]
    slow_down: list[float]
    slot_s: float

    def factor(self, since_s: float) -> float:
        """Slow-down at a time since the start."""
        return self.slow_down[int(since_s / self.slot_s) % len(self.slow_down)]


def outcome(number: int, plan: int, start_s: float, done: Inference) -> Outcome:
    """What the controller learns from the inference of request `number` that began at `start_s`."""
    measured = done.bytes_after_first >= MIN_DISPERSION_BYTES
    return Outcome(
        id=number,
        plan=plan,
        latency_s=done.latency_s,
        edge_s=done.decode_s + done.compute_s if done.status == "edge" else UNKNOWN,
        device_start_s=start_s,
        device_s=done.device_s,
        send_start_s=done.send_start_s,
        send_s=done.send_s,
        sent_bytes=float(done.sent_bytes),
        rate_bytes=float(done.bytes_after_first) if measured else 0.0,
        rate_s=done.dispersion_s if measured else 0.0,
        edge_wait_s=done.queue_s if done.status == "edge" else UNKNOWN,
    )


def refuse_unspoken(plans: PlanTable) -> None:
    """Device and edge speak raw pixels and quantised tensors: a table with any other codec would be run as something else.

    Raises:
        ConfigError: the table has a plan of another codec.
    """
    other = [plan for plan, row in enumerate(plans.rows) if row.codec != AFFINE]
    if other:
        codecs = ", ".join(dict.fromkeys(plans.rows[plan].codec for plan in other))
        raise ConfigError(
            f"{len(other)} plans of the table, the first of them {plans.name(other[0])!r}, are coded by {codecs}, which split "
            "inference does not speak; give a plan table, and a policy for it, with affine plans only"
        )


def run(
    plans: PlanTable, client: Client, graphs: Graphs, address: Address, pixels: NDArray[np.uint8], drive: Drive, deadline_s: float
) -> list[Run]:
    """Every image once as the daemon decides and once at 32 bits; pixels (n, height, width, 3).

    Raises:
        ConfigError: the table has plans that split inference cannot run, or `DeviceAgent.infer` refuses a request.
    """
    refuse_unspoken(plans)
    begin_s = time.monotonic()
    agent = DeviceAgent(graphs, address, pace=TracePace(drive.rates_bps, drive.slot_s, begin_s))
    exact = DeviceAgent(graphs, address)
    agent.warm_up()
    runs = []
    with contextlib.closing(agent), contextlib.closing(exact):
        for number, image in enumerate(pixels, 1):  # 0 would mean that the agent numbers nothing
            # One that may not be tried yet after a failure is no edge that can be reached; the controller then says when to probe.
            decision = client.ask(Request(number, edge_reachable=not agent.connection.barred, deadline_s=deadline_s))
            if decision.probe:
                agent.connection.try_again()
            row = plans.rows[decision.plan]
            start_s = time.monotonic()
            slow = drive.factor(start_s - begin_s)
            done = agent.infer(
                image, decision.exit, decision.partition, decision.bits, deadline_s, give_up_s=decision.give_up_s,
                pad_s=(row.device_s + row.encode_s) * slow, fallback_pad_s=row.fallback_s * slow,
            )  # fmt: skip
            client.report(outcome(number, decision.plan, start_s, done))
            # Not part of the measurement: no pace, no padding, and time enough.
            again = exact.infer(image, decision.exit, decision.partition, 32, deadline_s=10.0)
            answers = (done.exit, done.status, done.predicted, again.exit, again.status, again.predicted)
            runs.append(Run(decision.plan, *answers, done.latency_s))
    return runs


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as `python -m cutlayer.runtime.split.run`."""
    parser = Parser(description="Device process: decide by the daemon, split with the edge, for every image of a file.")
    parser.add_argument("--graphs", type=Path, required=True, metavar="DIR", help="exported graphs")
    parser.add_argument("--plans", type=Path, required=True, metavar="FILE", help="plan table (JSON)")
    parser.add_argument("--socket", type=Path, required=True, metavar="PATH", help="socket of the daemon")
    parser.add_argument("--edge", required=True, metavar="ADDRESS", help="edge server: HOST:PORT or unix:PATH")
    parser.add_argument("--images", type=Path, required=True, metavar="FILE", help=".npy with pixels (n, height, width, 3)")
    parser.add_argument("--drive", type=Path, required=True, metavar="FILE", help="JSON with rates_bps, slow_down and slot_s")
    parser.add_argument("--deadline", type=float, required=True, metavar="SECONDS")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="JSON with one entry an image")
    options = parser.parse_args(arguments)
    try:
        address = Address.parse(options.edge)
        plans = PlanTable.decode(options.plans.read_bytes(), str(options.plans))
        drive = msgspec.json.decode(options.drive.read_bytes(), type=Drive)
        pixels = np.load(options.images, allow_pickle=False)
        with Client(options.socket) as client:
            runs = run(plans, client, Graphs(options.graphs), address, pixels, drive, options.deadline)
        write_atomic(options.out, msgspec.json.encode(runs))
    except (CutlayerError, OSError, ValueError, msgspec.DecodeError) as error:
        sys.stderr.write(f"cutlayer split run: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

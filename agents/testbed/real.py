"""One testbed run for real: daemon, device and edge in processes of their own, a trace drives the link between them."""

from __future__ import annotations

import contextlib
import json
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from cutlayer.agents.demo import process
from cutlayer.envs.record import Record, Status
from cutlayer.runtime.testbed import emulation
from cutlayer.runtime.testbed.calibrate import line, python, running
from cutlayer.runtime.testbed.device import Orders, Result
from cutlayer.runtime.testbed.link import BACKENDS, Replay
from cutlayer.runtime.testbed.others import Others
from cutlayer.runtime.testbed.pipe import Conditions

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from cutlayer.agents.testbed.deciding import Choice
    from cutlayer.envs.spec import Scenario
    from cutlayer.runtime.testbed.device import Done
    from cutlayer.runtime.testbed.link import Link

LEAD_S = 0.3  # our choice: for the start's instant to reach both ends before it comes
STATUS = {"device": Status.DEVICE, "edge": Status.EDGE, "given-up": Status.GIVEN_UP, "unsent": Status.UNSENT}


class Materials(NamedTuple):
    """What every run of a command shares: graphs, plan table and images as files, and the `run.Settings` that a run needs."""

    graphs: Path
    plans: Path
    images: Path
    scenario: str
    backend: str
    seed: int
    emulation: str


class Course(NamedTuple):
    """What happens to the device: requests, their deadlines (none: the usual), rates of the uplink and slow-downs in slots.

    fixed_s: the constant of a request, as far as it is known.
    """

    arrival_s: list[float]
    deadline_s: list[float]
    rate_bps: list[float]
    slow_down: list[float]
    slot_s: float
    fixed_s: float


class Ran(NamedTuple):
    """What came of it; others: the share of this machine that others took meanwhile; slot_late_s: the latest change of the link."""

    done: list[Done]
    resets: int
    others: float
    slot_late_s: float


def run(materials: Materials, world: Scenario, chosen: Choice, course: Course) -> Ran:
    """Play a course.

    Raises:
        CutlayerError: a process could not be started or failed.
    """
    watch = Others()
    path = world.path
    with tempfile.TemporaryDirectory(prefix="cutlayer-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        socket = folder / "daemon.sock"
        stack.enter_context(_daemon(materials, chosen, socket))
        made: Link = BACKENDS[materials.backend]()
        link = stack.enter_context(made)
        # Nobody but the two ends reaches the link's addresses.
        serve = python("cutlayer.runtime.split.edge", "--graphs", str(materials.graphs), "--host", link.edge_host, "--insecure")
        edge = stack.enter_context(running(link.on_edge(serve)))
        host, port = link.reach(int(json.loads(line(edge))["port"]))
        orders = Orders(
            str(materials.graphs), str(materials.plans), str(socket), f"{host}:{port}", link.gauge, str(materials.images),
            course.arrival_s, course.slow_down, course.slot_s, course.deadline_s, path.rtt_s, course.fixed_s, materials.emulation,
            str(stack.enter_context(emulation.group())) if materials.emulation == "quota" else "",
        )  # fmt: skip
        (folder / "orders.json").write_bytes(msgspec.json.encode(orders))
        link.set(up=Conditions(course.rate_bps[0] or 1.0, path.rtt_s / 2), down=Conditions(path.downlink_bps, path.rtt_s / 2))
        work = python("cutlayer.runtime.testbed.device", str(folder / "orders.json"), str(folder / "done.json"))
        device = stack.enter_context(running(link.on_device(work)))
        line(device)
        start_s = time.monotonic() + LEAD_S
        assert device.stdin is not None
        device.stdin.write(f"{start_s!r}\n".encode())
        device.stdin.flush()
        with Replay(link, course.rate_bps, course.slot_s, Conditions(delay_s=path.rtt_s / 2), start_s=start_s) as replay:
            device.wait()
        if not (folder / "done.json").exists():
            line(device)  # raises with its exit code
        result = msgspec.json.decode((folder / "done.json").read_bytes(), type=Result)
        late_s = replay.latest_s
    return Ran(result.done, result.resets, watch.share(), late_s)


def _daemon(materials: Materials, chosen: Choice, socket: Path) -> contextlib.AbstractContextManager[object]:
    if chosen.file is not None:
        return process(["cutlayer.runtime.daemon", "--bundle", str(chosen.file), "--socket", str(socket)])
    return process(
        ["cutlayer.agents.testbed.ruled", materials.scenario, chosen.name, str(materials.seed), str(materials.plans), str(socket)]
    )


def records(world: Scenario, done: Sequence[Done]) -> Iterator[Record]:
    """What became of each request in the simulator's words: accuracy is the table's, of the exit that answered; energy is modelled."""
    radio = world.path.radio
    for one in done:
        row, status = world.plans.rows[one.plan], STATUS[one.status]
        answered = status in (Status.DEVICE, Status.EDGE)
        joules = row.device_j
        if status is not Status.DEVICE:
            joules += radio.base_w * (one.send_end_s - one.send_start_s) + radio.joules_per_bit * 8.0 * one.sent_bytes
        yield Record(
            one.plan, status, one.arrival_s, one.device_start_s, one.device_end_s, one.send_start_s, one.send_end_s, one.sent_bytes,
            one.edge_wait_s, one.finish_s, row.accuracy if answered else row.fallback_accuracy,
            joules if answered else joules + row.fallback_j,
        )  # fmt: skip


def right(done: Sequence[Done], labels: NDArray[np.int64] | None) -> list[bool] | None:
    """Whether each answer is right; None without labels."""
    if labels is None:
        return None
    return [one.predicted == int(labels[i % len(labels)]) for i, one in enumerate(done)]

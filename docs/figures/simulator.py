# noqa: INP001 - a script, no module
"""Draws `simulator.png`: five requests on their way, run by the engine itself in a world small enough to follow by eye.

python docs/figures/simulator.py
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np

from cutlayer.envs import scenarios
from cutlayer.envs.kernel import Kernel
from cutlayer.envs.record import Record, Status
from cutlayer.envs.streams import Streams
from cutlayer.envs.workload import EdgeJobs, SlowDown

if TYPE_CHECKING:
    from cutlayer.profiles.plans import PlanTable

HERE = Path(__file__).parent
# Okabe and Ito's colours, which the colour-blind tell apart: requests in turn, other people's work in grey.
COLOURS, OTHERS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00"), "#bbbbbb"
JOBS = ((0.012, 0.03), (0.055, 0.022), (0.15, 0.01))  # (arrival, service) of background jobs, seconds
RATES_MBPS = (8.0, 8.0, 6.0, 5.0, 4.0, 2.0, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 12.0, 12.0)  # one a slot of 20 ms


def requests(plans: PlanTable) -> list[tuple[float, int]]:
    """When each comes in, and its plan."""
    return [
        (0.00, plans.index(4, 2, 4)),
        (0.034, plans.device_only(1)),
        (0.07, plans.index(4, 1, 4)),
        (0.11, plans.index(3, 1, 8)),
        (0.16, plans.index(4, 1, 4)),
    ]


def run() -> tuple[list[Record], Streams, PlanTable]:
    """The records of the engine."""
    scenario = dataclasses.replace(scenarios.make("camera"), slow_down=SlowDown(), edge_jobs=EdgeJobs(), requests=5)
    decided = requests(scenario.plans)
    slow = np.where(np.arange(len(RATES_MBPS)) == 1, 2.0, 1.0)
    arrival, service = np.array(JOBS).T
    streams = Streams(0.02, np.array([*(at for at, _ in decided), 1.0]), 1e6 * np.array(RATES_MBPS), slow, arrival, service)
    engine = Kernel(scenario, streams)
    return [engine.submit(plan) for _, plan in decided], streams, scenario.plans


def served(records: list[Record], rtt_s: float, return_s: float) -> list[tuple[float, float, str, str]]:
    """Stretches of the edge's time: other people's jobs fill what our requests wait for and what lies free."""
    ours = [
        (record.send_end_s + rtt_s / 2 + record.edge_wait_s, record, COLOURS[k])
        for k, record in enumerate(records)
        if record.status == Status.EDGE
    ]
    stretches, free = [], 0.0
    waiting = list(JOBS)
    for start, record, colour in sorted(ours, key=lambda one: one[0]):
        reached = record.send_end_s + rtt_s / 2
        while waiting and waiting[0][0] <= reached:
            arrival, service = waiting.pop(0)
            begin = max(arrival, free)
            stretches.append((begin, service, OTHERS, ""))
            free = begin + service
        stretches.append((start, record.finish_s - return_s - start, colour, ""))
        free = stretches[-1][0] + stretches[-1][1]
    return stretches + [(max(arrival, free), service, OTHERS, "") for arrival, service in waiting]


def draw(file: Path) -> None:
    """Write the figure."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    records, streams, plans = run()
    path = scenarios.make("camera").path
    figure, (link, flow) = plt.subplots(2, 1, figsize=(9, 5), sharex=True, height_ratios=(1, 2.6), layout="constrained")
    edges = 1e3 * streams.slot_s * np.arange(len(RATES_MBPS) + 1)
    link.stairs(RATES_MBPS, edges, fill=True, color="#56b4e9")
    link.set_ylabel("uplink, Mb/s")
    link.set_title("Five requests: device, uplink and edge serve each in order", loc="left")

    def box(row: int, start: float, length: float, colour: str, text: str = "", **more: Any) -> None:
        flow.barh(row, 1e3 * length, left=1e3 * start, height=0.6, color=colour, edgecolor="white", **more)
        if text:
            flow.text(1e3 * (start + length / 2), row, text, ha="center", va="center", fontsize=8, color="white")

    for k, record in enumerate(records):
        number = str(k + 1)
        flow.annotate(
            "", (1e3 * record.arrival_s, 3.35), (1e3 * record.arrival_s, 3.75), arrowprops={"arrowstyle": "->", "color": COLOURS[k]}
        )
        flow.text(1e3 * record.arrival_s + 2, 3.62, f"{number}: {plans.name(record.plan)}", fontsize=8, color=COLOURS[k])
        box(3, record.device_start_s, record.device_end_s - record.device_start_s, COLOURS[k], number)
        if record.status != Status.DEVICE:
            given_up = record.status == Status.GIVEN_UP
            sending = record.send_end_s - record.send_start_s
            box(2, record.send_start_s, sending, COLOURS[k], number, hatch="///" if given_up else None)
        if record.status == Status.GIVEN_UP:
            flow.text(1e3 * record.send_start_s, 2.4, "given up: exit 0 of the device answers", fontsize=8, color=COLOURS[k])
        flow.plot(1e3 * record.finish_s, 0, marker="v", color=COLOURS[k], clip_on=False)
        below = -0.2 - 0.25 * (k % 2)  # neighbours do not touch
        flow.text(
            1e3 * record.finish_s, below, f"{number}: {1e3 * record.latency_s:.0f} ms", fontsize=8, ha="center", va="top", color=COLOURS[k]
        )
    for start, length, colour, text in served(records, path.rtt_s, path.return_s):
        box(1, start, length, colour, text)
    flow.set_yticks([3, 2, 1, 0], ["device", "uplink", "edge (others grey)", "answers"])
    flow.set_ylim(-0.75, 3.95)
    flow.set_xlim(0, 1e3 * streams.slot_s * len(RATES_MBPS))
    flow.set_xlabel("ms")
    for side in ("top", "right", "left"):
        flow.spines[side].set_visible(False)
        link.spines[side].set_visible(side == "left")
    figure.savefig(file, dpi=110)


if __name__ == "__main__":
    draw(HERE / "simulator.png")

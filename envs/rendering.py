"""What a person sees of an episode: one line a request, or a picture of link, queues and the last requests.

The picture shows the simulator's truth, which the device does not know: nothing here is an observation.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np

from cutlayer.envs.record import Status
from cutlayer.runtime import telemetry as tm

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from cutlayer.envs.record import Record
    from cutlayer.envs.simulation import Simulation
    from cutlayer.profiles.plans import PlanTable

SHOWN = 12  # requests in the picture
WIDTH, HEIGHT = 720, 440
LEFT, RIGHT = 118, 640  # of the time axis, pixels
LINK_TOP, LINK_BOTTOM = 40, 132
ROWS_TOP, ROW = 168, 18
PAST_DEADLINES = 4.0  # seen of the past, in deadlines; one and a half of the future
FUTURE_DEADLINES = 1.5

INK, PALE, PAPER, RED = "#222222", "#d8d8d8", "#ffffff", "#c1272d"
# Colour-blind safe (Okabe and Ito 2008): a stage in its own colour, waiting for it in grey.
DEVICE, SENDING, EDGE, LINK = "#0072b2", "#e69f00", "#009e73", "#56b4e9"


def line(record: Record, plans: PlanTable) -> str:
    """A request in one line of text."""
    return (
        f"{record.arrival_s:8.3f} s  {plans.name(record.plan):<12} {Status(record.status).name:<8} "
        f"latency {1e3 * record.latency_s:7.1f} ms  sent {record.sent_bytes:7.0f} B  waited {1e3 * record.edge_wait_s:6.1f} ms at the edge"
    )


def picture(simulation: Simulation, records: Sequence[tuple[Record, float]]) -> NDArray[np.uint8]:
    """The last requests (each with its deadline), the link and the queues at this moment, (HEIGHT, WIDTH, 3).

    Raises:
        DependencyNotInstalled: pillow, which draws it, is missing.
    """
    try:
        from PIL import Image, ImageDraw
    except ImportError as error:
        raise gym.error.DependencyNotInstalled("rgb_array needs pillow; install it with: pip install 'cutlayer[sim]'") from error
    image = Image.new("RGB", (WIDTH, HEIGHT), PAPER)
    _Picture(ImageDraw.Draw(image), simulation).draw(records)
    return np.asarray(image, np.uint8).copy()


class _Picture:
    """Draws one moment of a simulation."""

    def __init__(self, pen: Any, simulation: Simulation) -> None:
        self.pen, self.simulation = pen, simulation
        self.now_s = simulation.now_s
        self.deadline_s = simulation.scenario.objective.deadline_s
        self.from_s = self.now_s - PAST_DEADLINES * self.deadline_s
        self.until_s = self.now_s + FUTURE_DEADLINES * self.deadline_s

    def draw(self, records: Sequence[tuple[Record, float]]) -> None:
        scenario = self.simulation.scenario
        self.text(8, 6, f"{scenario.name}    {self.now_s:.3f} s    request {self.simulation.request} of {scenario.requests}")
        self.text(RIGHT, 6, f"deadline {1e3 * self.deadline_s:g} ms", anchor="ra")
        self.link()
        self.requests(records)
        self.axis()
        self.queues()

    def x(self, at_s: float) -> int:
        """Pixel of a time, within the axis."""
        share = (min(max(at_s, self.from_s), self.until_s) - self.from_s) / (self.until_s - self.from_s)
        return LEFT + round(share * (RIGHT - LEFT))

    def text(self, x: int, y: int, words: str, colour: str = INK, anchor: str = "la") -> None:
        self.pen.text((x, y), words, fill=colour, anchor=anchor)

    def bar(self, start_s: float, end_s: float, top: int, colour: str) -> None:
        """A stage of a request; what lies in the future is drawn hollow."""
        if end_s <= start_s or end_s < self.from_s or start_s > self.until_s:
            return
        box = (self.x(start_s), top, max(self.x(end_s), self.x(start_s) + 1), top + ROW - 7)
        self.pen.rectangle(box, outline=colour, fill=PAPER)
        if start_s < self.now_s:
            self.pen.rectangle((box[0], box[1], max(self.x(min(end_s, self.now_s)), box[0] + 1), box[3]), fill=colour)

    def link(self) -> None:
        streams = self.simulation.streams
        first, last = streams.slot(max(0.0, self.from_s)), streams.slot(self.until_s)
        rates = streams.rate_bps[first : last + 1] / 1e6
        top = _round_up(float(rates.max(initial=0.0)))
        for k, rate in enumerate(rates):
            at_s = (first + k) * streams.slot_s
            height = round(rate / top * (LINK_BOTTOM - LINK_TOP))
            if height:
                box = (self.x(at_s), LINK_BOTTOM - height, self.x(at_s + streams.slot_s), LINK_BOTTOM)
                self.pen.rectangle(box, fill=LINK if at_s < self.now_s else None, outline=LINK)
        self.pen.line((LEFT, LINK_BOTTOM, RIGHT, LINK_BOTTOM), fill=INK)
        self.text(8, LINK_TOP + 30, "uplink, Mb/s")
        self.text(LEFT - 4, LINK_TOP - 4, f"{top:g}", anchor="ra")
        self.text(LEFT - 4, LINK_BOTTOM - 8, "0", anchor="ra")

    def requests(self, records: Sequence[tuple[Record, float]]) -> None:
        for k, (record, deadline_s) in enumerate(list(records)[-SHOWN:]):
            top = ROWS_TOP + k * ROW
            finish, late = record.finish_s, record.latency_s > deadline_s
            self.text(8, top, self.simulation.plans.name(record.plan))
            self.text(RIGHT + 6, top, f"{1e3 * record.latency_s:.0f} ms", RED if late else INK)
            self.bar(record.arrival_s, finish, top, PALE)
            self.bar(record.device_start_s, record.device_end_s, top, DEVICE)
            self.bar(record.send_start_s, record.send_end_s, top, SENDING)
            if record.status == Status.EDGE:
                half_rtt_s = self.simulation.scenario.path.rtt_s / 2
                self.bar(record.send_end_s + half_rtt_s + record.edge_wait_s, finish, top, EDGE)
            elif record.status != Status.DEVICE:
                self.bar(record.send_end_s, finish, top, DEVICE)
            due = record.arrival_s + deadline_s
            if self.from_s < due < self.until_s:
                self.pen.line((self.x(due), top - 1, self.x(due), top + ROW - 6), fill=RED, width=2)

    def axis(self) -> None:
        now = self.x(self.now_s)
        self.pen.line((now, LINK_TOP - 6, now, LINK_BOTTOM), fill=INK)
        self.pen.line((now, ROWS_TOP - 4, now, ROWS_TOP + SHOWN * ROW), fill=INK)
        self.text(now, LINK_TOP - 18, "now", anchor="ma")
        x = LEFT
        for words, colour in (("waits", PALE), ("device", DEVICE), ("sends", SENDING), ("edge", EDGE), ("deadline", RED)):
            self.pen.rectangle((x, ROWS_TOP - 22, x + 10, ROWS_TOP - 12), fill=colour)
            self.text(x + 15, ROWS_TOP - 23, words)
            x += 30 + 7 * len(words)

    def queues(self) -> None:
        readings, now_s = self.simulation.readings, self.now_s
        plans = self.simulation.plans
        queues = (
            ("device work", tm.backlog_s(readings, now_s), float(plans.device_s.max()), "{:.3f} s"),
            ("to send", readings[tm.TO_SEND_BYTES] / 1e3, float(plans.wire_bytes.max()) / 1e3, "{:.1f} kB"),
            ("in flight", readings[tm.IN_FLIGHT], 8.0, "{:.0f}"),
        )
        top = ROWS_TOP + SHOWN * ROW + 14
        for k, (name, value, full, form) in enumerate(queues):
            left = 8 + k * 236
            share = min(1.0, max(0.0, value) / full) if full else 0.0  # a table that sends nothing
            self.text(left, top, f"{name}  {form.format(value)}")
            self.pen.rectangle((left, top + 16, left + 200, top + 24), outline=INK)
            self.pen.rectangle((left, top + 16, left + round(200 * share), top + 24), fill=INK)


def _round_up(value: float) -> float:
    """The next of 1, 2, 5 times a power of ten; 1 for nothing."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1.0, 2.0, 5.0, 10.0) if value <= step * power * (1 + 1e-9))

"""The device of a testbed run, without a run: what it tells the daemon, and when."""

from __future__ import annotations

import itertools
import queue
import threading
import time
from types import SimpleNamespace

import pytest

from cutlayer.runtime.messages import Outcome, Progress
from cutlayer.runtime.testbed.device import Device, Done, carried
from cutlayer.runtime.testbed.uplink import Frame

RTT_S = 0.4


@pytest.fixture
def device():
    """One whose daemon is a queue, with a frame of request 7 on its way."""
    made = Device.__new__(Device)
    made._to_tell, made._numbers = queue.SimpleQueue(), itertools.count()
    heard = queue.SimpleQueue()
    made._telling = SimpleNamespace(progress=heard.put, report=heard.put)
    made._orders = SimpleNamespace(rtt_s=RTT_S)
    return made, heard


def on_its_way(device, handed_s, start_s):
    frame = Frame(None, b"", 0.0, handed_s=handed_s, start_s=start_s)
    device._jobs = {id(frame): SimpleNamespace(number=7, done=Done(plan=3, arrival_s=0.0))}
    return frame


@pytest.mark.parametrize(
    ("handed_s", "start_s", "seen_s"),
    [(1.0, 1.0, 1.0 + RTT_S / 2), (1.0, 5.0, 5.0), (1.0, 1.1, 1.0 + RTT_S / 2)],  # alone; behind one that left late; behind one that leaves
)
def test_a_transfer_begins_when_its_first_byte_could_have_been_seen_to_arrive(device, handed_s, start_s, seen_s):
    made, _ = device
    made._started(on_its_way(made, handed_s, start_s))
    assert made._to_tell.get_nowait() == (seen_s, Progress(7, 3, send_start_s=seen_s))


def test_what_is_not_known_yet_is_told_later_and_holds_nothing_up(device):
    made, heard = device
    now_s = time.monotonic()
    later, latest = (Progress(number, 0, send_start_s=1.0) for number in (1, 2))
    made._to_tell.put((now_s + 0.02, latest))
    made._to_tell.put((now_s + 0.01, later))
    made._say(outcome := Outcome(0, 0.0, 0.0))
    thread = threading.Thread(target=made._tell)
    thread.start()
    assert [heard.get(timeout=20) for _ in range(3)] == [outcome, later, latest]
    assert time.monotonic() >= now_s + 0.02
    made._to_tell.put(None)
    thread.join()


@pytest.mark.parametrize(
    ("seen", "size", "took_s", "left"),
    [
        (0, 4144, 0.14, 0),  # an outage
        (4144, 4144, 0.14, 4144),  # all of it, and no answer
        (1448, 10_000, 0.04, (1448 + 724) * 2),  # half of the time is seen
        (2896, 4144, 0.025, 4143),  # as much as there is, but for the last byte: it was given up
        (1448, 4144, 0.02, 4143),
    ],
)
def test_what_left_and_is_not_seen_yet_is_taken_to_be_as_much_as_before(seen, size, took_s, left):
    """Half a round trip of 20 ms; told as seen, every transfer that is given up would read as one over a slower link."""
    assert carried(seen, size, took_s, 0.02) == left


def test_an_end_leaves_untold_what_was_not_known_by_then(device):
    made, heard = device
    made._to_tell.put((time.monotonic() + 1e6, Progress(1, 0)))
    made._to_tell.put(None)
    made._tell()
    assert heard.empty()

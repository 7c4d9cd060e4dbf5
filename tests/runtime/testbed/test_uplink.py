"""The pipelined way to the edge, over real edges and a proxy: every frame ends once, in time, whatever becomes of the edge."""

from __future__ import annotations

import contextlib
import os
import queue
import random
import re
import signal
import socket
import time

import pytest

from cutlayer.profiles import codecs
from cutlayer.profiles.codecs import HEADER_BYTES
from cutlayer.runtime.split.address import Address
from cutlayer.runtime.split.device import DeviceAgent, compute
from cutlayer.runtime.testbed import uplink as uplinks
from cutlayer.runtime.testbed.device import left_by
from cutlayer.runtime.testbed.link import ProxyLink
from cutlayer.runtime.testbed.pipe import Conditions
from cutlayer.runtime.testbed.uplink import Frame, Uplink

LONG_S = 20.0  # far from what anything takes, also on a busy machine
MARGIN_S = 1.0  # what a busy machine adds before a thread runs again
STORM = int(os.environ.get("CUTLAYER_STORM", "8"))  # steps; `make bench` asks for 60


@contextlib.contextmanager
def uplink(opened, address, gauge=""):
    done = queue.SimpleQueue()
    made = Uplink(address, opened.shapes, done.put, left=left_by(gauge))
    try:
        yield made, done
    finally:
        made.close()


def frame(opened, image, give_up_s, partition=2):
    front = compute(opened, image, 4, partition, 8)
    return Frame(front.request, front.coded.data, time.monotonic() + give_up_s)


@contextlib.contextmanager
def proxied(edge):
    with ProxyLink() as link:
        yield link, Address(*link.reach(edge.address.port))


def test_frames_on_their_way_at_once_are_each_answered_with_their_own(opened, edge, image):
    images = [image, image[::-1].copy(), 255 - image]
    with uplink(opened, edge.address) as (way, done):
        sent = [frame(opened, one, LONG_S) for one in images]
        for one in sent:
            way.put(one)
        assert [done.get(timeout=LONG_S) for _ in sent] == sent
    for one, pixels in zip(sent, images, strict=True):
        coded = compute(opened, pixels, 4, 2, 8).coded
        x = codecs.decode(coded.data, 8, coded.lo, coded.scale, opened.shapes.cuts[2])
        assert (one.logits == opened.suffix(2, 4, x)).all()
        assert (one.reason, one.sent_bytes) == ("", one.size)
        assert one.start_s <= one.sent_s <= one.end_s


def test_a_link_that_stands_costs_the_frame_its_time_and_frees_what_stands_behind(opened, edge, image):
    """The first one is given up in mid-transfer; the second, with more time, goes out over the spare once the link carries again."""
    with proxied(edge) as (link, address), uplink(opened, address, link.gauge) as (way, done):
        way.put(frame(opened, image, LONG_S))
        assert done.get(timeout=LONG_S).reason == ""
        link.set(up=Conditions(rate_bps=0.0))
        late, patient = frame(opened, image, 0.2), frame(opened, image, LONG_S)
        way.put(late)
        way.put(patient)
        assert done.get(timeout=LONG_S) is late
        assert (late.reason, late.reply) == ("no reply in time", None)
        assert late.end_s >= late.give_up_s
        link.set(up=Conditions())
        assert done.get(timeout=LONG_S) is patient
        assert (patient.reason, patient.reply.exit, way.resets) == ("", 4, 1)


def test_how_far_a_transfer_has_come_is_asked_anew_each_time(opened, edge, image, monkeypatch):
    """What the thread saw at its last look may be as old as half a transfer, and reads as a link that stands still."""
    monkeypatch.setattr(uplinks, "LOOK_S", LONG_S)
    left = [HEADER_BYTES]  # the greeting's
    done = queue.SimpleQueue()
    with proxied(edge) as (link, address):
        way = Uplink(address, opened.shapes, done.put, left=lambda _peer, _written: left[0])
        with contextlib.closing(way):
            way.put(frame(opened, image, LONG_S))
            assert done.get(timeout=LONG_S).reason == ""
            link.set(up=Conditions(rate_bps=0.0))
            begun = queue.SimpleQueue()
            way._started = begun.put
            way.put(stuck := frame(opened, image, LONG_S))
            assert begun.get(timeout=LONG_S) is stuck
            before = stuck.reaches - stuck.size  # of the frame before it
            for bytes_ in (0, 100, 1500, 1400):
                left[0] = HEADER_BYTES + before + bytes_
                assert way.acked_bytes() == pytest.approx((bytes_ + 1448 / 2) * 1514 / 1448)  # half of a packet is under way
            link.set(up=Conditions())
            assert done.get(timeout=LONG_S) is stuck


def test_a_killed_edge_fails_frames_at_once_and_is_found_again(opened, graphs_folder, start_edge, image):
    with start_edge(graphs_folder) as first, uplink(opened, first.address) as (way, done):
        way.put(frame(opened, image, LONG_S))
        assert done.get(timeout=LONG_S).reason == ""
        first.process.kill()
        first.process.wait()
        way.put(frame(opened, image, LONG_S))
        gone = done.get(timeout=LONG_S)
        assert gone.reply is None
        assert re.search("refused|reset|closed", gone.reason), gone.reason
        assert gone.end_s < gone.give_up_s
        assert way.lost
        with start_edge(graphs_folder, "--port", str(first.address.port)):
            end_s = time.monotonic() + LONG_S
            while way.lost and time.monotonic() < end_s:
                way.put(frame(opened, image, 0.05))
                done.get(timeout=LONG_S)
            way.put(frame(opened, image, LONG_S))
            assert done.get(timeout=LONG_S).reason == ""


def test_a_stopped_edge_costs_each_frame_its_own_time(opened, graphs_folder, start_edge, image):
    with start_edge(graphs_folder) as stopped, uplink(opened, stopped.address) as (way, done):
        way.put(frame(opened, image, LONG_S))
        assert done.get(timeout=LONG_S).reason == ""
        os.kill(stopped.process.pid, signal.SIGSTOP)
        frames = [frame(opened, image, 0.1 * (1 + i)) for i in range(3)]
        for one in frames:
            way.put(one)
        assert [done.get(timeout=LONG_S) for _ in frames] == frames
        assert {one.reason for one in frames} == {"no reply in time"}
        assert all(one.give_up_s <= one.end_s < one.give_up_s + MARGIN_S for one in frames)
        os.kill(stopped.process.pid, signal.SIGCONT)
        way.put(frame(opened, image, LONG_S))
        assert done.get(timeout=LONG_S).reason == ""  # the late replies before it are left out


@contextlib.contextmanager
def weather(link, start_edge, graphs_folder, port):
    """An edge in a storm: `blow(event)` changes what becomes of it; at the end it is well."""
    with contextlib.ExitStack() as stack:
        running = [stack.enter_context(start_edge(graphs_folder, "--port", str(port)))]

        def blow(event):
            process = running[-1].process
            if event == "kill":
                process.kill()
                process.wait()
                running.append(stack.enter_context(start_edge(graphs_folder, "--port", str(port))))
            elif event == "dark":
                link.set(up=Conditions(rate_bps=0.0))
            elif event == "slow":
                link.set(up=Conditions(rate_bps=5e5, delay_s=0.01))
            elif event == "stop":
                process.send_signal(signal.SIGSTOP)
            else:
                process.send_signal(signal.SIGCONT)
                link.set(up=Conditions())

        yield blow


@pytest.mark.parametrize("seed", [1])
def test_every_request_is_answered_in_a_storm(opened, graphs_folder, start_edge, image, seed):
    """Killed and restarted, stopped, black-holed, slowed down at random; a device that asks on gets an answer by deadline and margin."""
    rng, deadline_s, margin_s = random.Random(seed), 0.08, 0.05
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    statuses = []
    with ProxyLink() as link:
        address = Address(*link.reach(port))
        with weather(link, start_edge, graphs_folder, port) as blow:
            device = DeviceAgent(opened, address, margin_s=margin_s)
            with contextlib.closing(device):
                device.warm_up()
                for step in range(STORM):
                    blow("well")
                    if step % 4 == 0:  # between two gusts: whoever waits long enough is answered by the edge
                        device.connection.try_again()
                        assert device.infer(image, 4, 2, 8, LONG_S).status == "edge"
                    # Killed seldom: a new edge takes seconds of processor time to be ready.
                    blow("kill" if step % 8 == 3 else rng.choice(["stop", "dark", "slow"]))
                    for _ in range(4):
                        got = device.infer(image, 4, rng.choice([0, 1, 2, 5]), 8, deadline_s)
                        assert got.device_s + got.exchange_s < max(got.device_s, deadline_s + margin_s) + MARGIN_S
                        assert got.logits.shape == (10,)
                        statuses.append(got.status)
                blow("well")
                device.connection.try_again()
                assert device.infer(image, 4, 2, 8, LONG_S).status == "edge"
    assert len(statuses) == 4 * STORM
    assert "fallback" in statuses

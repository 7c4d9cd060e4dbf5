"""Waiting awake: only after a wait that was short, for no longer than stated, and with the same result as asleep."""

from __future__ import annotations

import selectors
import socket

import pytest

from cutlayer.runtime.brisk import BRISK_S, Brisk, BriskSelector

LOOK_S = BRISK_S / 8  # what a look takes, by the clock below


class World:
    """A message comes at `due_s`; looks and sleeps are counted, and time goes by for both alone."""

    def __init__(self):
        self.now_s = self.due_s = 0.0
        self.looks = self.sleeps = 0

    def clock(self):
        return self.now_s

    def look(self):
        self.looks += 1
        self.now_s += LOOK_S
        return "message" if self.now_s >= self.due_s - 1e-9 else None  # but for rounding

    def sleep(self):
        self.sleeps += 1
        self.now_s = max(self.now_s, self.due_s)
        return "message"

    def waits(self, brisk, after_s):
        """How many looks and sleeps it takes until the message that comes after so long is there."""
        self.due_s, self.looks, self.sleeps = self.now_s + after_s, 0, 0
        assert brisk.wait(self.look, self.sleep) == "message"
        return self.looks, self.sleeps


@pytest.fixture
def world():
    return World()


@pytest.fixture
def brisk(world):
    return Brisk(world.clock)


def test_what_comes_now_and_then_is_slept_for(world, brisk):
    assert [world.waits(brisk, 2 * BRISK_S) for _ in range(3)] == [(0, 1)] * 3


def test_what_follows_closely_is_looked_for(world, brisk):
    assert world.waits(brisk, BRISK_S / 2) == (0, 1)
    assert [world.waits(brisk, BRISK_S / 2) for _ in range(3)] == [(4, 0)] * 3


def test_between_two_looks_others_may_have_the_processor(world, brisk, monkeypatch):
    given = []
    monkeypatch.setattr("os.sched_yield", lambda: given.append(world.looks))
    world.waits(brisk, BRISK_S / 2)
    world.waits(brisk, BRISK_S / 2)
    assert given == [1, 2, 3]


def test_the_end_of_a_burst_costs_so_long_once(world, brisk):
    world.waits(brisk, BRISK_S / 2)
    looks, sleeps = world.waits(brisk, 1.0)
    assert (looks * LOOK_S, sleeps) == (BRISK_S, 1)
    assert world.waits(brisk, 1.0) == (0, 1)


def test_a_short_sleep_begins_another_burst(world, brisk):
    world.waits(brisk, 1.0)
    world.waits(brisk, BRISK_S / 2)
    assert world.waits(brisk, BRISK_S / 2) == (4, 0)


@pytest.mark.parametrize("short", [False, True])
@pytest.mark.parametrize("timeout", [0, 0.001, 1.0, None])
def test_a_selector_finds_the_same_awake_and_asleep(short, timeout):
    ours, theirs = socket.socketpair()
    with ours, theirs, BriskSelector() as brisk, selectors.DefaultSelector() as plain:
        for selector in (brisk, plain):
            selector.register(ours, selectors.EVENT_READ, "data")
        if timeout is not None and timeout < 1.0:
            brisk._brisk.short = short
            assert brisk.select(timeout) == plain.select(timeout) == []
        theirs.send(b"x")
        brisk._brisk.short = short
        (key, events), *others = brisk.select(timeout)
        assert (key.fileobj, key.data, events, others) == (ours, "data", selectors.EVENT_READ, [])

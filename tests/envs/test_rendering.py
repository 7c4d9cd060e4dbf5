"""What a person sees: a picture of the right shape, whose marks stand where the records say."""

from __future__ import annotations

import itertools
import sys

import gymnasium as gym
import numpy as np
import pytest

from cutlayer.envs import rendering, scenarios
from cutlayer.envs.offload_env import OffloadEnv
from cutlayer.envs.record import Record, Status
from cutlayer.envs.simulation import Simulation


def colour(name):
    return tuple(int(name[at : at + 2], 16) for at in (1, 3, 5))


def columns(image, name, top):
    """First and last pixel column of a colour within a request's row."""
    row = image[top : top + rendering.ROW - 6, rendering.LEFT : rendering.RIGHT + 1]
    found = np.flatnonzero((row == colour(name)).all(axis=2).any(axis=0))
    return (int(found[0]) + rendering.LEFT, int(found[-1]) + rendering.LEFT) if len(found) else None


@pytest.mark.parametrize("name", scenarios.names())
def test_every_scenario_is_drawn_at_every_moment(name):
    env = OffloadEnv(name, "kernel", render_mode="rgb_array")
    env.reset(seed=1)
    rng = np.random.default_rng(0)
    shown = [env.render()]
    for k in range(env.scenario.requests):
        env.step(np.int64(rng.integers(env.action_space.n)))
        if k % 40 == 39:
            shown.append(env.render())
    for image in shown:
        assert image.shape == (rendering.HEIGHT, rendering.WIDTH, 3)
        assert image.dtype == np.uint8
    assert all(not np.array_equal(a, b) for a, b in itertools.pairwise(shown))


def test_a_request_is_drawn_where_its_times_are(lab):
    """100 ms deadline: the axis shows 400 ms of the past and 150 ms of the future on 522 pixels. The moment is 0.4 s."""
    scenario = lab.scenario(
        lab.plan(device_s=0.05, wire_bytes=5000, edge_s=0.05), objective=scenarios.make("camera").objective, path=lab.path(rtt_s=0.02)
    )
    simulation = Simulation(scenario, lab.streams([0.4, 9.0], 1e6))
    record = Record(0, Status.EDGE, 0.1, 0.15, 0.2, 0.22, 0.3, 5000.0, 0.03, 0.38, 0.8, 0.0)
    image = rendering.picture(simulation, [(record, 0.1)])

    def at(time_s):
        return rendering.LEFT + round(time_s / 0.55 * (rendering.RIGHT - rendering.LEFT))

    for name, begin, end in (
        (rendering.DEVICE, 0.15, 0.2),
        (rendering.SENDING, 0.22, 0.3),
        (rendering.EDGE, 0.3 + 0.01 + 0.03, 0.38),  # half a round trip and the wait lie before
    ):
        first, last = columns(image, name, rendering.ROWS_TOP)
        assert (first, last) == pytest.approx((at(begin), at(end)), abs=2), name
    first, last = columns(image, rendering.RED, rendering.ROWS_TOP)  # the deadline
    assert (first + last) / 2 == pytest.approx(at(0.2), abs=2)


def test_what_lies_ahead_is_hollow(lab):
    scenario = lab.scenario(lab.plan(device_s=0.05), objective=scenarios.make("camera").objective)
    simulation = Simulation(scenario, lab.streams([0.4, 9.0], 1e6))
    record = Record(0, Status.DEVICE, 0.39, 0.41, 0.47, 0.47, 0.47, 0.0, 0.0, 0.47, 0.8, 0.0)
    image = rendering.picture(simulation, [(record, 0.1)])
    first, last = columns(image, rendering.DEVICE, rendering.ROWS_TOP)
    middle = image[rendering.ROWS_TOP + 5, (first + last) // 2]
    assert tuple(middle) == colour(rendering.PAPER)


def test_a_picture_shows_the_true_rate_of_the_link(lab):
    """Half of the axis' top in the past: the bar reaches half of the height."""
    scenario = lab.scenario(lab.plan(device_s=0.05), objective=scenarios.make("camera").objective)
    simulation = Simulation(scenario, lab.streams([0.4, 9.0], 0.5e6 * np.array([1, 2] + [1] * 40), slot_s=0.02))
    image = rendering.picture(simulation, [])
    steady = (image[:, rendering.LEFT + 200] == colour(rendering.LINK)).all(axis=1).sum()
    assert steady == pytest.approx((rendering.LINK_BOTTOM - rendering.LINK_TOP) / 2, abs=2)


def test_without_pillow_the_mend_is_named(monkeypatch):
    env = OffloadEnv("camera", "kernel", render_mode="rgb_array")
    env.reset(seed=0)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(gym.error.DependencyNotInstalled, match="pip install"):
        env.render()


@pytest.mark.parametrize(("value", "top"), [(0.0, 1.0), (0.9, 1.0), (1.0, 1.0), (1.2, 2.0), (30.0, 50.0), (51.0, 100.0), (0.03, 0.05)])
def test_the_axis_ends_at_a_round_number(value, top):
    assert rendering._round_up(value) == pytest.approx(top)

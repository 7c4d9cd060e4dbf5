"""SPINN: the shares are those of the recorded images, the scaling factor follows what the device takes."""

from __future__ import annotations

import dataclasses

import msgspec
import numpy as np
import pytest

from cutlayer.agents.baselines import confidence
from cutlayer.agents.baselines.link import Belief
from cutlayer.agents.baselines.worth import worth
from cutlayer.envs import scenarios
from cutlayer.envs.channels import Constant
from cutlayer.envs.simulation import Simulation
from cutlayer.envs.streams import draw
from cutlayer.envs.workload import Periodic
from cutlayer.errors import ConfigError, ProfileError
from cutlayer.profiles import builtin, traces
from cutlayer.profiles.plans import PlanTable

PLANS = scenarios.plan_table()


@pytest.fixture(scope="module")
def recorded():
    return traces.load("alexnet")


@pytest.fixture(scope="module")
def ways(recorded):
    return confidence.branches(PLANS, recorded)


def rule(scenario, ways, weight=0.5, seed=0):
    return confidence.Spinn(scenario, ways, 1.0, Belief(5e6), weight, np.random.default_rng(seed))


def stops_at(sureness, threshold):
    """Exit of one image: the first that is sure enough, or the last."""
    for exit_, sure in enumerate(sureness[:-1]):
        if float(sure) >= threshold:
            return exit_
    return len(sureness) - 1


def test_shares_are_counted_image_by_image(recorded, ways):
    images = range(0, len(recorded), 7)
    assert len(ways.shares) > 30
    for choice in range(0, len(ways.shares), 9):
        threshold = confidence.THRESHOLDS[ways.threshold[choice]]
        for image in images:
            assert ways.stops[ways.threshold[choice], image] == stops_at(recorded.confidence[image], threshold)
    for choice, shares in enumerate(ways.shares):
        counts = np.bincount(ways.plans[choice, ways.stops[ways.threshold[choice]]], minlength=len(PLANS))
        np.testing.assert_allclose(shares, counts / len(recorded), atol=1e-12)


def test_an_exit_up_to_the_cut_answers_on_the_device_and_a_later_one_from_the_cut(ways):
    cuts = set()
    for plans in ways.plans:
        rows = [PLANS.rows[plan] for plan in plans if plan >= 0]
        sent = {row.partition for row in rows if row.bits}
        assert len(sent) <= 1, "one cut"
        for row in rows:
            assert (row.bits == 0) == (not sent or PLANS.depths[row.exit] <= min(sent))
            assert row.bits in (0, confidence.BITS)
        cuts |= sent
    assert cuts == set(range(PLANS.depths[-1])), "every cut, and the input; behind the last layer nothing is sent"


def test_the_expected_worth_is_the_mean_over_images(ways):
    scenario = scenarios.make("camera")
    latency = np.linspace(0.01, 0.2, len(PLANS))
    paid = worth(scenario, latency, 5e6, 0.1)
    for choice in range(0, len(ways.shares), 11):
        each = paid[ways.plans[choice, ways.stops[ways.threshold[choice]]]]
        assert ways.shares[choice] @ paid == pytest.approx(each.mean())


def test_the_factor_moves_towards_what_was_measured():
    scenario = scenarios.make("camera")
    one = rule(scenario, None, weight=0.5)
    readings = Simulation(scenario, draw(scenario, 0)).readings
    for at_s, measured, factor in ((1.0, 3.0, 2.0), (1.0, 9.0, 2.0), (2.0, 3.0, 2.5), (3.0, 3.0, 2.75), (4.0, 1.0, 1.875)):
        readings[confidence.tm.SLOW_DOWN_AT], readings[confidence.tm.SLOW_DOWN] = at_s, measured
        one.correct(readings)
        assert one.factor == pytest.approx(factor), "the same measurement counts once"
    one.begin()
    assert one.factor == 1.0


@dataclasses.dataclass(frozen=True)
class Twice:
    """A device that takes twice as long from some slot on."""

    from_slot: int

    def draw(self, _rng, slots, _slot_s):
        return np.where(np.arange(slots) < self.from_slot, 1.0, 2.0)


@pytest.mark.parametrize("weight", confidence.WEIGHTS[:2])
def test_after_a_step_in_speed_every_cut_is_predicted_within_a_tenth(ways, weight):
    scenario = dataclasses.replace(
        scenarios.make("camera"), channel=Constant(40e6), arrivals=Periodic(0.2), slow_down=Twice(100), requests=30
    )
    world, one = Simulation(scenario, draw(scenario, 3)), rule(scenario, ways, weight)
    cut = PLANS.index(4, 2, 8)
    while not world.done:
        one.correct(world.readings)
        after = world.now_s - 100 * scenario.slot_s
        device_s = (PLANS.device_s + PLANS.encode_s) * one.factor
        real = 1.0 if after < 0 else 2.0
        if after < 0 or after > 10 * 0.2:
            np.testing.assert_allclose(device_s, (PLANS.device_s + PLANS.encode_s) * real, rtol=0.1)
        elif after < 0.2:
            assert one.factor == pytest.approx(1.0), "nothing measured yet"
        world.decide(cut)


def test_images_are_drawn_by_seed_and_in_the_shares(ways):
    scenario = dataclasses.replace(scenarios.make("camera"), requests=3)
    world = Simulation(scenario, draw(scenario, 3))
    one, two, other = rule(scenario, ways, seed=1), rule(scenario, ways, seed=1), rule(scenario, ways, seed=2)
    mixed = int(np.flatnonzero((ways.shares > 0).sum(axis=1) >= 4)[0])
    for each in (one, two, other):
        each.branches = ways._replace(shares=ways.shares[[mixed]], plans=ways.plans[[mixed]], threshold=ways.threshold[[mixed]])
    drawn = [[each.act(world) for _ in range(2000)] for each in (one, two, other)]
    assert drawn[0] == drawn[1] != drawn[2]
    found = np.bincount(drawn[0], minlength=len(PLANS)) / 2000
    assert np.abs(found - ways.shares[mixed]).max() < 5 * np.sqrt(0.25 / 2000)


def test_a_table_without_the_input_has_no_choice_that_sends_it(recorded):
    private = builtin.table("privacy")
    shares = confidence.branches(private, recorded).shares
    assert len(shares)
    assert private.partition[(shares > 0).any(axis=0)].min() >= 1


def test_what_it_cannot_run_on_is_refused_in_one_line(recorded):
    other = dataclasses.replace(scenarios.make("camera"), plans=PlanTable("nameless", "d", "e", PLANS.depths, PLANS.rows))
    with pytest.raises(ProfileError, match="nameless"):
        confidence.spinn(other, range(1), 0)
    shallow = PlanTable("alexnet", "d", "e", PLANS.depths[:2], tuple(row for row in PLANS.rows if row.exit < 2))
    with pytest.raises(ConfigError, match="have 5 exits, its table 2"):
        confidence.branches(shallow, recorded)
    cut = msgspec.structs.replace(PLANS.rows[PLANS.index(1, 1, 2)])
    bare = PlanTable("alexnet", "d", "e", PLANS.depths, (cut,))
    with pytest.raises(ConfigError, match="lacks a plan for every threshold and cut") as refused:
        confidence.branches(bare, recorded)
    assert "\n" not in str(refused.value)

"""The other faces of the action space mean what they say: against the plan table itself, for every triple and for random points."""

from __future__ import annotations

import itertools
import math

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_match import check_environments_match
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.envs.offload_env import OffloadEnv
from cutlayer.envs.wrappers import BoxPlans, MultiDiscretePlans, Triples
from cutlayer.errors import ConfigError
from cutlayer.profiles import builtin

TABLES = {"default": builtin.table, "privacy": lambda: builtin.table("privacy"), "pruned": lambda: builtin.table().pruned()}


def closest(plans, exit_, partition, bits):
    """The statement of `Triples`, the slow way: keep the nearest by one knob after the other, of two equally near the larger."""
    left = list(plans.rows)
    for key, wish in (
        (lambda row: row.exit, exit_),
        (lambda row: row.partition, partition),
        (lambda row: math.log2(max(row.bits, 1)), math.log2(bits)),
    ):
        gap = min(abs(key(row) - wish) for row in left)
        left = [row for row in left if abs(key(row) - wish) == gap]
        largest = max(key(row) for row in left)
        left = [row for row in left if key(row) == largest]
    (only,) = left
    return plans.rows.index(only)


@pytest.mark.parametrize("name", TABLES)
def test_every_triple_is_its_plan_or_the_nearest_one(name):
    plans = TABLES[name]()
    triples = Triples(plans)
    assert triples.widths == tuple(sorted({row.bits for row in plans.rows if row.bits and row.partition}))
    assert triples.plan.shape == (len(plans.depths), max(plans.depths) + 2, len(triples.widths))
    for (e, p), (w, bits) in itertools.product(np.ndindex(triples.plan.shape[:2]), enumerate(triples.widths)):
        try:
            expected, valid = plans.index(e, p, bits), True
        except KeyError:
            expected, valid = closest(plans, e, p, bits), False
        assert (triples.plan[e, p, w], triples.valid[e, p, w]) == (expected, valid), (e, p, bits)


def test_every_plan_can_be_said_as_a_triple():
    for table in (TABLES["default"](), TABLES["privacy"]()):
        assert set(Triples(table).plan.ravel()) == set(range(len(table)))


def test_known_triples():
    plans = TABLES["privacy"]()
    triples = Triples(plans)
    assert triples.widths == (2, 4, 8, 16, 32)
    named = {triple: plans.name(int(triples.plan[triple])) for triple in ((0, 2, 0), (0, 8, 3), (2, 3, 1), (4, 0, 1), (1, 0, 4))}
    assert named == {
        (0, 2, 0): "e0 local",  # behind one layer and the head nothing is left to send: valid, the bits mean nothing
        (0, 8, 3): "e0 local",  # deeper than this exit: the device runs it all
        (2, 3, 1): "e2 p3 4b",
        (4, 0, 1): "e4 p1 4b",  # the image must not be sent: the first cut
        (1, 0, 4): "e1 p1 32b",
    }
    assert [bool(triples.valid[triple]) for triple in named] == [True, False, True, False, False]


def test_an_invalid_triple_is_told_and_counted():
    env = MultiDiscretePlans(OffloadEnv("privacy", "kernel"))
    env.reset(seed=0)
    told = []
    for triple in ((4, 0, 1), (2, 3, 1), (0, 8, 3)):
        info = env.step(np.array(triple))[4]
        assert info["record"]["plan"] == env.triples.plan[triple]
        told.append((info["valid_triple"], info["invalid_triples"]))
    assert told == [(False, 1), (True, 1), (False, 2)]
    env.reset()
    assert env.step(np.array((0, 1, 0)))[4]["invalid_triples"] == 0


def test_a_mask_forbids_what_no_plan_has():
    env = MultiDiscretePlans(OffloadEnv("privacy", "kernel"))
    mask = env.action_masks()
    assert mask.shape == (int(env.action_space.nvec.sum()),)
    forbidden = np.flatnonzero(~mask) - env.action_space.nvec[0]
    assert forbidden.tolist() == [0]  # partition 0, the image itself
    assert MultiDiscretePlans(OffloadEnv("camera", "kernel")).action_masks().all()


@given(point=st.tuples(*[st.floats(-1.0, 1.0, width=32)] * 3))
def test_every_point_is_a_plan_in_equal_parts(point):
    env = BOX
    plans = env.unwrapped.scenario.plans
    row = plans.rows[env.plan(np.array(point, np.float32))]
    share = [(float(value) + 1.0) / 2.0 for value in point]

    def part(options, at):
        return sorted(options)[min(int(at * len(options)), len(options) - 1)]

    assert row.exit == part({r.exit for r in plans.rows}, share[0])
    assert row.partition == part({r.partition for r in plans.rows if r.exit == row.exit}, share[1])
    assert row.bits == part({r.bits for r in plans.rows if (r.exit, r.partition) == (row.exit, row.partition)}, share[2])


BOX = BoxPlans(OffloadEnv("camera", "kernel"))


def test_every_plan_has_a_point():
    grid = np.linspace(-0.999, 0.999, 40, dtype=np.float32)
    assert {BOX.plan(np.array(point)) for point in itertools.product(grid, grid, grid)} == set(range(len(BOX.unwrapped.scenario.plans)))


@pytest.mark.parametrize("wrapper", [MultiDiscretePlans, BoxPlans])
def test_a_face_changes_the_action_alone(wrapper):
    """The same plan through a face and without it: one trajectory."""
    face, flat = wrapper(OffloadEnv("urllc-ge", "kernel")), OffloadEnv("urllc-ge", "kernel")
    face.action_space.seed(0)
    np.testing.assert_array_equal(face.reset(seed=1)[0], flat.reset(seed=1)[0])
    for _ in range(60):
        seen, reward, _, _, info = face.step(face.action_space.sample())
        expected = flat.step(np.int64(info["record"]["plan"]))
        np.testing.assert_array_equal(seen, expected[0])
        assert reward == expected[1]


@pytest.mark.parametrize("id_", ["cutlayer/OffloadMultiDiscrete-v0", "cutlayer/OffloadBox-v0"])
def test_a_face_is_made_again_from_its_spec(id_):
    env = gym.make(id_, scenario="privacy", engine="kernel")
    check_environments_match(env, gym.make(env.spec), num_steps=30)


@pytest.mark.parametrize(
    ("wrapper", "bad"), [(MultiDiscretePlans, (0, 99, 0)), (BoxPlans, (0.0, 1.5, 0.0)), (BoxPlans, (0.0, math.nan, 0.0))]
)
def test_an_action_outside_the_space_is_refused(wrapper, bad):
    env = wrapper(OffloadEnv("camera", "kernel"))
    env.reset(seed=0)
    with pytest.raises(AssertionError):
        env.step(np.array(bad, env.action_space.dtype))


def test_another_environment_is_refused():
    with pytest.raises(ConfigError, match="CartPole"):
        BoxPlans(gym.make("CartPole-v1"))

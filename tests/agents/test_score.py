"""Scores: 0 and 1 where they must be, intervals that hold what they say, and no score where there is nothing to score."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from cutlayer.agents import score
from cutlayer.agents.episodes import HELD_OUT
from cutlayer.agents.evaluate import FEWEST_MISSES, resolved
from cutlayer.envs import scenarios
from cutlayer.envs.channels import Trace
from cutlayer.envs.streams import draw
from cutlayer.profiles.stats import wilson


def rewards(count=60, seed=0):
    """Two simple policies, one between, and the best possible, whose episodes are alike hard for all."""
    rng = np.random.default_rng(seed)
    hard = rng.normal(0.0, 0.1, count)
    return {
        "worse": 0.4 + hard + rng.normal(0, 0.01, count),
        "simple": 0.5 + hard + rng.normal(0, 0.01, count),
        "between": 0.6 + hard + rng.normal(0, 0.01, count),
        "best": 0.8 + hard,
    }


def scored(policy, given=None, over=None):
    given = rewards() if given is None else given
    simple = {"one": given["worse"], "two": given["simple"]}
    return score.score(given[policy], simple, given["best"], over or score.episodes(len(given["best"])))


def test_the_best_simple_policy_is_zero_and_the_clairvoyant_one():
    assert scored("simple").value == 0.0
    assert scored("best").value == 1.0
    assert scored("best").interval == (1.0, 1.0)
    assert scored("worse").value < 0.0


def test_by_hand():
    given = {"worse": np.array([0.0, 0.2]), "simple": np.array([0.4, 0.6]), "between": np.array([0.6, 0.6]), "best": np.array([0.9, 0.9])}
    found = scored("between", given)
    assert found.value == pytest.approx(0.25)
    assert found.headroom == pytest.approx(0.8)
    assert (found.simple, found.simple_value, found.top_value) == ("two", pytest.approx(0.5), pytest.approx(0.9))


def test_which_simple_policy_is_zero_is_chosen_anew_in_every_resample():
    """Two simple policies that are good on different halves: a resample of one half has the better of them as its zero."""
    half = np.repeat([0.0, 1.0], 20)
    found = score.score(np.full(40, 0.75), {"one": half, "two": 1.0 - half}, np.ones(40), score.episodes(40))
    assert found.value == pytest.approx(0.5)
    assert found.interval[1] <= 0.5, "the zero is never below a half"


@pytest.mark.parametrize(("gap", "scores"), [(0.004, False), (0.006, True)])
def test_under_one_per_cent_there_is_no_score(gap, scores):
    simple = np.full(30, 0.5)
    found = score.score(simple + gap / 2, {"static": simple}, simple + gap, score.episodes(30))
    assert (found.value is not None) == scores
    assert found.headroom == pytest.approx(gap / 0.5)
    if not scores:
        assert found.interval is None
        assert "no headroom" in found.note
        assert "static" in found.note


def test_a_gap_that_the_episodes_do_not_tell_from_nothing_has_no_interval():
    rng = np.random.default_rng(1)
    simple = rng.normal(0.5, 0.01, 20)
    found = score.score(simple, {"static": simple}, simple + 0.02 + rng.normal(0.0, 0.3, 20), score.episodes(20))
    assert found.headroom > score.HEADROOM
    assert found.interval is None
    assert "no interval" in found.note


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    """Score 1/3 by construction; 120 samples of 60 episodes."""
    held = 0
    for seed in range(120):
        low, high = scored("between", rewards(seed=seed)).interval
        held += low <= 1.0 / 3.0 <= high
    assert 0.90 <= held / 120 <= 0.99


def test_pairing_narrows_the_interval_where_episodes_are_alike_for_all():
    given = rewards()
    over = score.episodes(60)
    _, low, high = score.difference(given["between"], given["simple"], over)
    one, other = (
        score.resampled(given[name][np.random.default_rng(i).permutation(60), None], over) for i, name in ((0, "between"), (1, "simple"))
    )
    unpaired = score.interval((one - other)[:, 0])
    assert high - low < 0.2 * (unpaired[1] - unpaired[0])
    assert low < 0.1 < high


def test_the_same_interval_every_time():
    assert scored("between") == scored("between")


# --- what is resampled


def test_whole_drives_are_resampled_where_there_are_enough():
    names = [f"drive{i % 6}" for i in range(60)]
    over = score.units(names, 60)
    assert (over.kind, over.count, over.drives) == ("drive", 6, 6)
    assert "over 6 drives" in over.words()
    # All that differs is between drives: sixty episodes of six drives say no more than six.
    by_drive = np.array([i % 6 for i in range(60)], float)
    spread = [np.ptp(score.interval(score.resampled(by_drive[:, None], one)[:, 0])) for one in (over, score.episodes(60))]
    assert spread[0] > 2.0 * spread[1]


def test_of_few_drives_the_interval_says_that_it_knows_no_others():
    over = score.units(["a", "b"] * 10, 20)
    assert (over.kind, over.count, over.drives) == ("episode", 20, 2)
    assert "says nothing of other drives" in over.words()
    assert score.units(None, 20).words() == "over 20 episodes"


def test_drives_are_those_that_the_streams_replay():
    names = ("slow", "middle", "fast")
    times, rates = np.array([0.0, 1.0]), (1e6, 2e6, 3e6)
    trace = Trace(names, (times,) * 3, tuple(np.full(2, rate) for rate in rates))
    scenario = dataclasses.replace(scenarios.make("camera"), channel=trace, requests=5)
    episodes = range(HELD_OUT, HELD_OUT + 20)
    found = score.drives(scenario, episodes)
    assert found == [names[rates.index(draw(scenario, episode).rate_bps[0])] for episode in episodes]
    assert set(found) == set(names)


def test_a_generated_link_has_no_drives():
    assert score.drives(scenarios.make("camera"), range(3)) is None


# --- misses


@pytest.mark.parametrize("misses", [0, 1, FEWEST_MISSES - 1, FEWEST_MISSES, 500])
def test_a_rate_of_too_few_misses_is_not_told(misses):
    given = {"requests": 12_000, "misses": misses, "miss_rate": misses / 12_000, "miss_ci95": list(wilson(misses, 12_000))}
    found = resolved(given)
    assert found["miss_ci95"] == given["miss_ci95"]
    if misses >= FEWEST_MISSES:
        assert found == {**given, "miss_note": None}
    else:
        assert found["miss_rate"] is None
        assert f"{misses} misses in 12000 requests" in found["miss_note"]
        assert f"below {given['miss_ci95'][1]:.2g}" in found["miss_note"]


def test_wilson_by_hand():
    """Newcombe 1998 (Statistics in Medicine 17), Table I, method 3: 81 of 263, 15 of 148, 0 of 20, 1 of 29."""
    for count, n, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)):
        assert wilson(count, n) == pytest.approx((low, high), abs=5e-5)

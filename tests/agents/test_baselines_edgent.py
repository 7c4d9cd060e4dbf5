"""Edgent in a dynamic environment: changes are found where they are and nowhere else, and the map is what a plain loop finds."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cutlayer.agents.baselines import edgent
from cutlayer.agents.baselines.changepoint import LONGEST, ChangePoint
from cutlayer.agents.episodes import TUNING
from cutlayer.profiles.cost import Estimate, expected_energy_j, expected_latency_s
from cutlayer.runtime import telemetry as tm

NOISE = 0.05


def detector(hazard=0.0125):
    return ChangePoint(mean=7.0, spread=0.6, noise=NOISE, hazard=hazard)


# --- change points


@pytest.mark.parametrize("step", [-1.0, -0.4, 0.4, 1.0])
def test_a_step_in_the_rate_is_a_change_and_noise_is_none(step):
    rng = np.random.default_rng(1)
    values = 7.0 + NOISE * rng.standard_normal(140)
    values[100:] += step
    detect = detector()
    fired = [k for k, value in enumerate(values) if detect.observe(value)]
    assert fired
    assert 100 <= fired[0] <= 102, "within three values of the step, and not before"
    assert fired[1:] == []
    assert detect.level == pytest.approx(7.0 + step, abs=3 * NOISE / math.sqrt(40))
    assert detect.run == 40


def test_noise_alone_is_no_change():
    for seed in range(5):
        rng, detect = np.random.default_rng(seed), detector()
        assert not any(detect.observe(value) for value in 7.0 + NOISE * rng.standard_normal(300))
        assert detect.run == LONGEST
        assert detect.level == pytest.approx(7.0, abs=3 * NOISE / math.sqrt(LONGEST))


def normal_log(values, mean, spread, noise):
    """Logarithm of the density of a run: its level is normal, its values are normal about that."""
    cov = spread**2 * np.ones((len(values), len(values))) + noise**2 * np.eye(len(values))
    apart = np.array(values) - mean
    return -0.5 * (apart @ np.linalg.solve(cov, apart) + np.linalg.slogdet(2 * np.pi * cov)[1])


@settings(max_examples=25)
@given(st.lists(st.floats(5.5, 8.5), min_size=1, max_size=7), st.sampled_from(edgent.HAZARDS))
def test_the_run_is_that_of_all_ways_to_part_the_values(values, hazard):
    spread, chances = 0.6, {}
    for ends in itertools.product([False, True], repeat=len(values) - 1):
        runs, log = [[values[0]]], 0.0
        for value, end in zip(values[1:], ends, strict=True):
            log += math.log(hazard if end else 1 - hazard)
            if end:
                runs.append([])
            runs[-1].append(value)
        log += sum(normal_log(run, 7.0, spread, NOISE) for run in runs)
        chances.setdefault(len(runs[-1]), []).append(log)
    logs = {run: np.logaddexp.reduce(ways) for run, ways in chances.items()}
    best = max(logs.values())
    detect = detector(hazard)
    for value in values:
        detect.observe(value)
    assert logs[detect.run] == pytest.approx(best, abs=1e-6), "the most probable run, or one as probable"
    own = values[-detect.run :]
    weight = detect.run * spread**2 / (detect.run * spread**2 + NOISE**2)
    assert detect.level == pytest.approx(7.0 + weight * (np.mean(own) - 7.0), abs=1e-9)


def test_forgotten_values_leave_no_trace():
    fresh, used = detector(), detector()
    for value in (6.0, 6.1, 8.0):
        used.observe(value)
    used.reset()
    assert (used.run, used.level) == (0, 7.0)
    for value in (7.5, 7.4, 6.2):
        assert fresh.observe(value) == used.observe(value)
        assert (fresh.run, fresh.level) == (used.run, used.level)


def test_a_link_without_spread_has_one_state():
    constant = [np.full(30, 6.5)] * 2
    detect = edgent.detector(constant, 0.05)
    levels = edgent.watch(detect, constant)
    assert edgent.state_borders(levels) == []
    np.testing.assert_allclose(levels, 6.5)


# --- the map


def test_the_map_has_the_best_plan_of_each_state(small):
    rates = [np.log10(np.array([1e5, 1e6, 3e7, 2e8, 1e6])), np.log10(np.array([5e4, 4e8, 2e6, 1e7, 9e7]))]
    states = np.array([0, 0, 2, 2, 1, 0, 2, 1, 1, 2])
    allowed = np.arange(len(small.plans)) != small.plans.edge_only()
    plans, path, objective = small.plans, small.path, small.objective
    for part in (1.0, 0.35):
        got = edgent.configuration_map(states, edgent.worth_at(small, np.concatenate(rates), part), allowed)
        for state in range(3):
            sums = np.zeros(len(plans))
            for rate in 10.0 ** np.concatenate(rates)[states == state]:
                latency, joules = expected_latency_s(plans, path, Estimate(rate)), expected_energy_j(plans, path, rate)
                for i, row in enumerate(plans.rows):
                    late = latency[i] > part * objective.deadline_s
                    sums[i] += (-objective.late_penalty if late else row.accuracy) - objective.energy_weight * joules[i]
            best = max(total for total, may in zip(sums, allowed, strict=True) if may)
            assert sums[got[state]] == pytest.approx(best)
            assert allowed[got[state]]


def test_states_are_equally_frequent_and_none_is_empty():
    rng = np.random.default_rng(2)
    for levels in (rng.normal(size=1600), np.repeat([6.0, 7.0, 8.0], [900, 50, 650])):
        borders = edgent.state_borders(levels)
        counts = np.bincount(np.searchsorted(borders, levels, side="right"), minlength=len(borders) + 1)
        assert counts.min() > 0
        assert len(set(levels.tolist())) == 3 or (counts.min(), counts.max()) == (100, 100)


# --- the rule


class Look:
    """A view of a link that shows one transfer after the other."""

    def __init__(self):
        self.readings, self.now_s, self.deadline_s = tm.fresh(), 0.0, 0.1

    def transfer(self, rate_bps):
        self.now_s += 0.1
        tm.sampled(self.readings, self.now_s, 0.01, rate_bps * 0.01 / 8)


def test_the_plan_changes_with_the_state_and_comes_back_when_it_is_forgotten():
    slow, usual, fast = 3, 1, 2
    rule = edgent.EdgentDynamic(detector(), borders=[6.5, 7.5], plans=[slow, usual, fast], forget_s=2.0)
    look, rng = Look(), np.random.default_rng(4)
    assert rule.act(look) == usual

    def after(rate_bps, transfers):
        for _ in range(transfers):
            look.transfer(rate_bps * 10 ** (NOISE * rng.standard_normal()))
            chosen = rule.act(look)
        return chosen

    assert after(1e8, 20) == fast
    assert after(1e6, 3) == slow
    assert after(1e6, 20) == slow
    look.now_s += 1.9
    assert rule.act(look) == slow
    look.now_s += 0.2
    assert rule.act(look) == usual, "two seconds after the last transfer the link is as on average"
    assert after(1e8, 3) == fast
    rule.begin()
    assert rule.act(Look()) == usual


def test_transfers_between_two_requests_all_count():
    one, two = (edgent.EdgentDynamic(detector(), [7.0], [0, 1], math.inf) for _ in range(2))
    a, b = Look(), Look()
    for rate in (1e8, 3e6, 2e6, 4e6):
        a.transfer(rate)
        one.act(a)
        b.transfer(rate)
    assert two.act(b) == one.act(a) == 0


def test_the_whole_rule_on_a_small_world(small):
    rule = edgent.edgent_dynamic(small, TUNING[:1])
    assert set(rule._plans) <= set(range(len(small.plans)))

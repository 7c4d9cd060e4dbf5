"""Every rival: named, credited, repeatable, on every built-in scenario and any reading; and the simplest ones against plain loops."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cutlayer.agents import baselines
from cutlayer.agents.baselines import ABOUT, RULES, Fixed, link, tuning
from cutlayer.agents.episodes import TUNING
from cutlayer.agents.evaluate import evaluate
from cutlayer.envs import scenarios
from cutlayer.envs.channels import Constant
from cutlayer.envs.record import Status
from cutlayer.envs.simulation import Simulation
from cutlayer.envs.streams import draw
from cutlayer.errors import ConfigError
from cutlayer.runtime import telemetry as tm
from cutlayer.runtime.rules import PRIOR_RATE_BPS, estimate

EPISODE = TUNING[:1]


@dataclasses.dataclass
class Look:
    """A view of readings that nobody took."""

    readings: list[float]
    now_s: float
    deadline_s: float
    acked: float = 0.0

    def acked_bytes(self):
        return self.acked


def make(name, scenario, place=0, seed=0):
    """A rule as it comes, but for the race that tunes it: the candidate at `place` of its field, round and round."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(baselines, "TUNING", EPISODE)
        patch.setattr(tuning, "best", lambda _scenario, field, _episodes: field[place % len(field)])
        return RULES[name](scenario, seed)


@pytest.fixture(scope="module")
def short():
    """A built-in scenario by name, with few requests."""
    return lambda name: dataclasses.replace(scenarios.make(name), requests=12)


# --- all of them


def test_every_rule_is_credited():
    assert set(ABOUT) == set(RULES)
    for name, about in ABOUT.items():
        assert about.decides_from, name
        assert about.tuned, name
        assert about.left_out, name
        assert bool(about.authors) == bool(about.venue) == (about.year > 2000), name


@pytest.mark.parametrize("scenario", scenarios.names())
def test_every_rule_decides_on_every_built_in_scenario(short, scenario):
    world = short(scenario)
    for place, name in enumerate(RULES):
        if (scenario, name) == ("privacy", "edge-only"):
            with pytest.raises(ConfigError, match="edge-only cannot run on privacy: none of its plans sends the input") as refused:
                make(name, world)
            assert "\n" not in str(refused.value)
            continue
        result = evaluate(world, make(name, world, place), EPISODE)
        assert np.isfinite(result.reward).all(), name


# Times and sizes as they come, and what only a broken clock or sensor tells.
READING = st.one_of(
    st.floats(-10.0, 1e4), st.sampled_from([tm.NEVER, 0.0, 1.0, 1e-300, 1e300, -1e300, math.inf, -math.inf]), st.integers(0, 9).map(float)
)


@pytest.fixture(scope="module")
def rules(short):
    """Every rule on two scenarios, with candidates from all over the fields."""
    worlds = [short("compound"), short("privacy")]
    return [
        (world, make(name, world, place))
        for world in worlds
        for name in RULES
        for place in (0, 7)
        # The priced rules are the daemon's second rung, and what arithmetic on a broken reading ends in has a row of the ladder.
        if (world.name, name) != ("privacy", "edge-only") and name not in ("belief-greedy", "bayes-greedy")
    ]


@settings(max_examples=40)
@given(st.lists(st.lists(READING, min_size=tm.SIZE, max_size=tm.SIZE), min_size=1, max_size=2), READING, READING)
def test_no_reading_breaks_a_rule(rules, sequences, now_s, acked):
    for world, rule in rules:
        rule.begin()
        for readings in sequences:
            plan = rule.act(Look(readings, now_s, world.objective.deadline_s, acked))
            assert isinstance(plan, int)
            assert 0 <= plan < len(world.plans)


@pytest.mark.parametrize("name", sorted(RULES))
def test_equal_seeds_give_equal_decisions(short, name):
    world = short("hidden-load")
    one, two, other = (evaluate(world, make(name, world, place=5, seed=seed), TUNING[:2]).plans for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, two)
    if name == "random":
        assert (one != other).any()


def test_a_race_finds_the_best_candidate(small):
    field = [Fixed(plan) for plan in range(len(small.plans))]
    assert tuning.best(small, field, TUNING) == baselines.best_static(small, TUNING)


def test_a_race_is_between_candidates_that_played_the_same(small):
    played = {}

    class Counted:
        """A fixed plan that counts its episodes."""

        def __init__(self, plan):
            self.plan = plan

        def begin(self):
            played[self.plan] = played.get(self.plan, 0) + 1

        def act(self, _view):
            return self.plan

    tuning.best(small, [Counted(plan) for plan in range(len(small.plans))], TUNING)
    rounds = {sum(count for count, _ in tuning.ROUNDS[:n]) for n in range(1, len(tuning.ROUNDS) + 1)}
    assert set(played.values()) <= rounds
    assert max(played.values()) == max(rounds)


# --- random


def test_random_is_uniform(short):
    world = short("camera")
    rule = RULES["random"](world, 3)
    each, plans = 100, len(world.plans)
    counts = np.bincount([rule.act(None) for _ in range(each * plans)], minlength=plans)
    squares = ((counts - each) ** 2 / each).sum()
    # Mean plans - 1, deviation the root of twice that: five of them are one chance in over a million.
    assert abs(squares - (plans - 1)) < 5 * math.sqrt(2 * (plans - 1))


# --- greedy on the last rate


def last_known_rate(scenario, records, now_s):
    """Of the last transfer that the device has a report of; reports are taken in order."""
    rate, known_s = PRIOR_RATE_BPS, 0.0
    for record in records:
        if record.status is Status.DEVICE:
            continue
        known_s = max(known_s, record.finish_s if record.status is Status.EDGE else record.send_end_s + scenario.path.rtt_s / 2)
        if known_s <= now_s and record.status is not Status.UNSENT:
            rate = max(8 * record.sent_bytes / (record.send_end_s - record.send_start_s), tm.SLOWEST_BPS)
    return rate


def plain_greedy(scenario, now, rate_bps):
    """The best plan by a loop over the rows; of equals the one with fewer bytes, then with less energy."""
    path, objective, best = scenario.path, scenario.objective, None
    for plan, row in enumerate(scenario.plans.rows):
        latency = (now.backlog_s + row.device_s + row.encode_s) * now.slow_down
        joules = row.device_j
        if row.bits:
            latency = max(latency, 8 * now.queued_bytes / rate_bps) + 8 * row.wire_bytes / rate_bps + path.rtt_s / 2
            latency += now.edge_wait_s + row.decode_s + row.edge_s + path.return_s
            joules += path.radio.base_w * 8 * row.wire_bytes / rate_bps + path.radio.joules_per_bit * 8 * row.wire_bytes
        late = objective.enforce_deadline and latency > objective.deadline_s
        worth = (-objective.late_penalty if late else row.accuracy) - objective.energy_weight * joules
        worth -= objective.latency_weight * min(latency / objective.deadline_s, objective.timeout_deadlines)
        key = round(worth, 11), -row.wire_bytes, -joules
        if best is None or key > best[0]:
            best = key, plan
    return best[1]


@pytest.mark.parametrize("name", ["urllc-ge", "compound", "lte-uplink"])
def test_greedy_last_is_a_plain_loop_at_the_last_transfers_rate(name):
    scenario = dataclasses.replace(scenarios.make(name), requests=40)
    rule, rng = baselines.greedy_last(scenario), np.random.default_rng(5)
    world, records = Simulation(scenario, draw(scenario, 11)), []
    while not world.done:
        rate_bps = last_known_rate(scenario, records, world.now_s)
        assert link.last_rate_bps(world.readings) == pytest.approx(rate_bps)
        now = estimate(world.readings, world.now_s, world.acked_bytes())
        assert rule.act(world) == plain_greedy(scenario, now, rate_bps)
        records.append(world.decide(int(rng.integers(len(scenario.plans)))))
    assert any(record.status is Status.EDGE for record in records)


def test_a_rate_that_is_told_is_newer_than_the_last_transfer():
    scenario = dataclasses.replace(scenarios.make("paper-linear"), requests=20)
    streams = draw(scenario, 4)
    world = Simulation(scenario, streams)
    while not world.done:
        told = streams.rate_bps[streams.slot(max(0.0, world.now_s - scenario.path.rtt_s / 2))]
        assert link.last_rate_bps(world.readings) == pytest.approx(told)
        world.decide(world.request % len(scenario.plans))


# --- what rules believe of the link


def test_an_old_rate_gives_way_to_the_usual_one():
    readings = tm.fresh()
    belief = link.Belief(prior_bps=7e6, forget_s=2.0)
    assert belief.estimate(Look(readings, 0.5, 0.1)).rate_bps == 7e6
    tm.sampled(readings, 1.0, 0.5, 1e6)
    assert belief.estimate(Look(readings, 3.0, 0.1)).rate_bps == 16e6
    assert belief.estimate(Look(readings, 3.1, 0.1)).rate_bps == 7e6
    assert link.Belief(7e6).estimate(Look(readings, 1e6, 0.1)).rate_bps == 16e6


def test_each_transfer_is_new_once_and_in_order():
    readings = tm.fresh()
    assert link.new_rates(readings, tm.NEVER) == []
    for end_s, rate_bps in ((1.0, 1e6), (2.0, 1e7), (3.0, 1e8)):
        tm.sampled(readings, end_s, 0.8, rate_bps / 10)
    assert link.new_rates(readings, tm.NEVER) == pytest.approx([6, 7, 8])
    assert link.new_rates(readings, 1.0) == pytest.approx([7, 8])
    assert link.new_rates(readings, 3.0) == []


def test_the_history_of_a_link_is_what_it_carries_within_a_deadline(small):
    streams = draw(small, TUNING[0])
    got = link.history(small, TUNING[0])
    span_s = small.objective.deadline_s
    for k in range(small.requests):
        arrival_s = streams.arrival_s[k]
        mean_bps = 8 * streams.carried_bytes(arrival_s, arrival_s + span_s) / span_s
        assert got[k] == pytest.approx(math.log10(max(mean_bps, tm.SLOWEST_BPS)), abs=1e-6)
    constant = dataclasses.replace(small, channel=Constant(3e6))
    np.testing.assert_allclose(link.history(constant, 1), math.log10(3e6))
    assert link.usual_bps(constant, EPISODE) == 3e6

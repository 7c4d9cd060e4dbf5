"""Trials: whose turn it is, and what a verdict is worth, by simulated outcomes of known candidates."""

from __future__ import annotations

import math
from collections import Counter
from statistics import NormalDist

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.runtime.messages import Outcome, Request
from cutlayer.runtime.modes import Tally, Terms, Trial, design_effect, judge, newcombe, welch

TERMS = Terms()
TRIALS = 150


def tally(late, latency_s):
    """Blocks of the usual length with so many misses and such mean latencies."""
    made = Tally()
    made.requests, made.late = [TERMS.block] * len(late), np.asarray(late).tolist()
    made.latency_s, made.total = (TERMS.block * np.asarray(latency_s)).tolist(), TERMS.block * len(late)
    return made


def misses(rng, share, alike, blocks):
    """Misses of each block; alike is the correlation of two requests of one block (a beta-binomial count)."""
    if not alike:
        return rng.binomial(TERMS.block, share, blocks)
    odds = (1.0 - alike) / alike
    return rng.binomial(TERMS.block, rng.beta(share * odds, (1.0 - share) * odds, blocks))


def play(rng, ours, theirs, alike=0.0, slower=1.0):
    """A trial of outcomes that are drawn: (finding, requests of the candidate by then)."""
    most = -(-TERMS.look(TERMS.looks - 1) // TERMS.block)
    others = round(most * (1.0 - TERMS.share) / TERMS.share)
    our_late, their_late = misses(rng, ours, alike, most), misses(rng, theirs, alike, others)
    # Latencies of a block average to 50 ms, 15 % about it.
    our_s, their_s = rng.gamma(44.0, slower * 0.05 / 44.0, most), rng.gamma(44.0, 0.05 / 44.0, others)
    for number in range(TERMS.looks):
        seen = -(-TERMS.look(number) // TERMS.block)
        seen_too = round(seen * (1.0 - TERMS.share) / TERMS.share)
        sides = tally(our_late[:seen], our_s[:seen]), tally(their_late[:seen_too], their_s[:seen_too])
        found = judge(*sides, TERMS, last=number == TERMS.looks - 1)
        if found.finding != "running":
            return found.finding, TERMS.look(number)
    raise AssertionError("the last look decides")


def findings(ours, theirs, trials=TRIALS, **options):
    rng = np.random.default_rng(5)
    return [play(rng, ours, theirs, **options) for _ in range(trials)]


def share_by(found, finding, requests=math.inf):
    return sum(one == finding and by <= requests for one, by in found) / len(found)


# --- verdicts


@pytest.mark.parametrize(("share", "alike"), [(0.05, 0.0), (0.05, 0.2), (0.001, 0.0), (0.3, 0.3)])
def test_an_equal_candidate_is_hardly_ever_rolled_back(share, alike):
    """At most in the stated share of trials, all eight looks and both measures together; three deviates for the sample."""
    most = TERMS.alarm + 3.0 * math.sqrt(TERMS.alarm * (1.0 - TERMS.alarm) / TRIALS)
    assert share_by(findings(share, share, alike=alike), "roll-back") <= most


@pytest.mark.parametrize("share", [0.0, 0.001, 0.05])
def test_an_equal_candidate_is_promoted(share):
    found = findings(share, share, trials=100)
    assert share_by(found, "promote") >= 0.97
    assert share_by(found, "promote", 6400) >= 0.95


@pytest.mark.parametrize(
    ("ours", "theirs", "alike", "requests"),
    [
        (1.0, 0.05, 0.0, 100),  # a disaster, at the first look
        (0.5, 0.05, 0.2, 400),
        (0.10, 0.05, 0.0, 1600),  # twice the misses
        (0.10, 0.05, 0.2, 6400),  # and where a miss seldom comes alone
        (0.01, 0.001, 0.0, 1600),
    ],
)
def test_a_worse_candidate_is_rolled_back_within_so_many_of_its_requests(ours, theirs, alike, requests):
    assert share_by(findings(ours, theirs, trials=150, alike=alike), "roll-back", requests) >= 0.97


def test_a_slower_candidate_is_rolled_back_although_it_misses_no_more():
    assert share_by(findings(0.05, 0.05, trials=100, slower=1.2), "roll-back", 3200) >= 0.97
    assert share_by(findings(0.05, 0.05, trials=100, slower=0.8), "promote") >= 0.97


def test_a_better_candidate_is_promoted():
    assert share_by(findings(0.02, 0.05, trials=100), "promote", 3200) >= 0.97


def test_what_cannot_be_told_stays_undecided():
    """Misses that come in whole blocks: 640 blocks are 640 requests' worth."""
    assert Counter(finding for finding, _ in findings(0.05, 0.05, trials=50, alike=0.9))["undecided"] >= 45


# --- the parts of it


def test_the_deviate_shares_the_alarm_out():
    assert TERMS.z == pytest.approx(3.2272, abs=1e-4)
    assert 2 * TERMS.looks * (1.0 - NormalDist().cdf(TERMS.z)) == pytest.approx(TERMS.alarm)


def test_newcombes_interval_is_the_published_one():
    """Newcombe 1998, table II, method 10 (without continuity correction)."""
    for ours, theirs, low, high in [
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((10, 10), (0, 20), 0.6791, 1.0),
        ((5, 56), (0, 29), -0.0381, 0.1926),
    ]:
        found = newcombe(ours[0] / ours[1], ours[1], theirs[0] / theirs[1], theirs[1], 1.959964)
        assert (found.low, found.high) == (pytest.approx(low, abs=6e-5), pytest.approx(high, abs=6e-5))
        assert found.middle == pytest.approx(ours[0] / ours[1] - theirs[0] / theirs[1])


@given(st.integers(0, 40), st.integers(1, 40), st.integers(0, 400), st.integers(1, 400))
def test_newcombes_interval_holds_the_difference_and_turns_with_the_sides(x, m, y, n):
    ours, theirs = min(x, m) / m, min(y, n) / n
    one, other = newcombe(ours, m, theirs, n, 3.2), newcombe(theirs, n, ours, m, 3.2)
    assert one.low <= one.middle <= one.high
    assert (one.low, one.high) == (pytest.approx(-other.high), pytest.approx(-other.low))


def test_welch_is_the_textbook_interval():
    rng = np.random.default_rng(3)
    ours, theirs = rng.normal(5.0, 1.0, 30), rng.normal(4.0, 2.0, 50)
    half = 2.0 * math.sqrt(ours.var(ddof=1) / 30 + theirs.var(ddof=1) / 50)
    found = welch(tally([0] * 30, ours), tally([0] * 50, theirs), 2.0, 20)
    assert found.middle == pytest.approx(ours.mean() - theirs.mean())
    assert (found.low, found.high) == (pytest.approx(found.middle - half), pytest.approx(found.middle + half))
    assert welch(tally([0] * 19, ours[:19]), tally([0] * 50, theirs), 2.0, 20).high == math.inf


def test_requests_that_fail_together_count_as_one():
    rng = np.random.default_rng(4)
    together = TERMS.block * (rng.random(400) < 0.1)
    alone = rng.binomial(TERMS.block, 0.1, 400)
    still = [0.05] * 400
    assert design_effect(tally(together, still), tally(alone, still), TERMS) == pytest.approx(TERMS.block, rel=0.05)
    assert 1.0 <= design_effect(tally(alone, still), tally(alone, still), TERMS) < 1.3
    assert design_effect(tally([0] * 400, still), tally([0] * 400, still), TERMS) == 1.0
    assert design_effect(tally(alone[:5], still[:5]), tally(alone, still), TERMS) == TERMS.block


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9])
def test_the_candidate_has_its_share_and_does_not_fall_into_step(share):
    terms = Terms(share=share)
    turns = np.array([terms.arm(block) == "candidate" for block in range(4000)])
    assert turns.mean() == pytest.approx(share, abs=0.002)
    for period in range(2, 30):  # of a workload, in blocks
        for phase in range(period):
            assert turns[phase::period].mean() == pytest.approx(share, abs=0.1)


def test_the_turn_follows_from_the_number_alone():
    assert [TERMS.arm(block) for block in range(50)] == [Terms().arm(block) for block in range(50)]


@pytest.mark.parametrize("wrong", [{"share": 0.0}, {"share": 1.0}, {"alarm": 0.0}, {"block": 0}, {"looks": 0}, {"miss_margin": -0.1}])
def test_terms_that_make_no_sense_are_refused_by_name(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Terms(**wrong)
    with pytest.raises(msgspec.ValidationError, match=next(iter(wrong))):
        msgspec.convert(wrong, Terms)


def test_a_trial_looks_when_it_is_time():
    terms = Terms(first_look=20, looks=3, block=10)
    trial, looks = Trial(terms), []
    for number in range(100):
        for arm in ("incumbent", "candidate"):
            found = trial.add(arm, number // 10, 0.05, late=number % 4 == 0)
            if found is not None:
                looks.append((found.candidate, found.finding))
    assert looks == [(20, "running"), (40, "running"), (80, "undecided")]
    assert trial.candidate.late == [3, 2] * 5


# --- the modes of a controller


@pytest.fixture
def make(make_bundle, make_policy, plans):
    """A controller in a mode, with two policies that seldom agree."""
    from cutlayer.runtime.controller import Controller, Settings

    def made(mode, terms=TERMS, incumbent=True):
        old = make_bundle(policy=make_policy(len(plans), seed=2), algorithm="old") if incumbent else None
        return Controller(make_bundle(), mode=mode, incumbent=old, settings=Settings(trial=terms))

    return made


def serve(controller, count, latency_s):
    """Decide and report `count` requests, a tenth of a second apart; latency_s tells what a decision takes."""
    made = []
    for _ in range(count):
        now_s = 0.1 * (controller.counts.decisions + 1)
        decision = controller.decide(now_s, Request(controller.counts.decisions + 1))
        made.append(decision)
        controller.report(
            now_s + 0.05,
            Outcome(
                plan=decision.plan, id=decision.id, device_start_s=now_s, device_s=0.02, edge_wait_s=0.0, latency_s=latency_s(decision)
            ),
        )
    return made


def fast(decision):
    return 0.05


def test_off_leaves_the_candidate_alone(make, make_bundle):
    controller = make("off")
    assert {(one.arm, one.step, one.shadow, one.mode) for one in serve(controller, 50, fast)} == {("incumbent", "policy", -1, "off")}
    assert controller.counts.fallbacks == 0


def test_without_an_incumbent_policy_the_rule_is_it_and_that_is_no_fault(make):
    controller = make("off", incumbent=False)
    assert {(one.arm, one.step, one.reason) for one in serve(controller, 20, fast)} == {("incumbent", "greedy", "not-active")}
    assert controller.counts.fallbacks == 0
    assert controller.counts.reasons == {"not-active": 20}


def test_shadow_tells_what_the_candidate_would_do(make):
    """Both see what follows from the incumbent's plans; the shadow is the plan of the candidate alone on the same readings."""
    shadow, agreed = make("shadow"), 0
    for number in range(1, 60):
        now_s, alone = 0.1 * number, make("active")
        alone.readings = list(shadow.readings)
        decision = shadow.decide(now_s, Request(number))
        assert decision.arm == "incumbent"
        assert decision.shadow == alone.decide(now_s, Request(number)).plan
        agreed += decision.shadow == decision.plan
        shadow.report(now_s + 0.05, Outcome(plan=decision.plan, id=number, device_start_s=now_s, device_s=0.02, edge_wait_s=0.001))
    assert shadow.counts.shadow_agreed == agreed < 59


def test_the_mode_changes_nothing_that_the_incumbent_decides(make):
    plain, watched = serve(make("off"), 60, fast), serve(make("shadow"), 60, fast)
    assert [one.plan for one in plain] == [one.plan for one in watched]


def test_a_good_candidate_becomes_active(make):
    controller = make("canary", Terms(share=0.5))
    made = serve(controller, 6500, fast)
    trial = [one.arm == "candidate" for one in made if one.mode == "canary"]
    assert sum(trial) == pytest.approx(3200, abs=1)
    assert sum(trial) / len(trial) == pytest.approx(0.5, abs=0.01)
    assert (controller.mode, controller.verdict.finding) == ("active", "promote")
    assert made[-1].arm == "candidate"


def test_a_bad_candidate_is_off_after_a_hundred_requests_of_its_own(make):
    controller = make("canary")
    made = serve(controller, 1500, lambda decision: 0.3 if decision.arm == "candidate" else 0.05)
    assert sum(one.arm == "candidate" for one in made) == pytest.approx(100, abs=TERMS.block)
    assert (controller.mode, controller.verdict.finding) == ("off", "roll-back")
    assert controller.verdict.misses.low > 0.0
    assert (made[-1].arm, made[-1].mode) == ("incumbent", "off")


def test_decisions_of_the_candidate_that_nobody_reports_on_count_against_it(make):
    """A plan that brings the device agent down must not look good because only the survivors report."""
    controller = make("canary", Terms(share=0.5))
    for number in range(1, 600):
        now_s = 0.5 * number
        decision = controller.decide(now_s, Request(number))
        if decision.arm == "incumbent":
            controller.report(now_s + 0.05, Outcome(plan=decision.plan, id=number, device_start_s=now_s, device_s=0.02, edge_wait_s=0.0))
    assert controller.mode == "off"
    assert controller.counts.lost >= 100


def test_a_canary_that_is_entered_again_begins_anew(make):
    controller = make("canary")
    serve(controller, 1500, lambda decision: 0.3 if decision.arm == "candidate" else 0.05)
    controller.enter("canary")
    assert (controller.verdict, controller.trial.candidate.total) == (None, 0)
    serve(controller, 300, fast)
    assert controller.mode == "canary"


def test_an_incumbent_of_another_table_is_refused(make_bundle, plans):
    import dataclasses

    from cutlayer.errors import BundleError
    from cutlayer.runtime.controller import Controller

    other = dataclasses.replace(plans, rows=plans.rows[:-1])
    with pytest.raises(BundleError, match="another plan table"):
        Controller(make_bundle(), mode="canary", incumbent=make_bundle(table=other))

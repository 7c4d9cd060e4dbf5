"""The filter against enumeration, matrices and particles; the forecast against sampled futures; and what it must never be told."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from cutlayer.runtime import filters, forecasts
from cutlayer.runtime import telemetry as tm
from cutlayer.runtime.filters import Aging, Arrivals, Link

SIZES = [4342.0, 8636.0, 51444.0]
STEADY = Arrivals()
CHAIN = Link(60e6, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 0.02, 0.1, 0.25, 3e6, 0.02, 0.02)
DRIFTS = Link(10e6, (0.5, 0.4, 0.3), (1e4, 2.0, 0.2), 0.1)
SLOW_CHAIN = Link(60e6, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 0.02, 0.02, 0.06, 3e6, 0.02, 0.02)
BOTH = Link(5e6, (0.0, 0.6, 0.0), (1.0, 0.9, 1.0), 0.05, 0.02, 0.06, tm.SLOWEST_BPS, 0.5, 0.02)


def numbers(link, arrivals=STEADY, late_s=0.0):
    return [*link.numbers(late_s), *arrivals.numbers()]


def transfer(readings, start_s, end_s, sent_bytes):
    tm.sampled(readings, end_s, end_s - start_s, sent_bytes)


def learn(link, seen, now_s=None, state=None):
    """State after transfers (start, end, bytes), each taken up before the next one comes."""
    model, readings = numbers(link), tm.fresh()
    state = filters.fresh(model) if state is None else state
    for start_s, end_s, sent_bytes in seen:
        transfer(readings, start_s, end_s, sent_bytes)
        filters.update(state, model, SIZES, readings, end_s if now_s is None else now_s, 0.0)
    return state


def moments(state):
    mean = np.array(state[filters.DRIFT : filters.COVARIANCE])
    covariance = np.array(state[filters.COVARIANCE : filters.BELIEF]).reshape(filters.DRIFTS, filters.DRIFTS)
    return mean, covariance


# --- the chain


def carried(path, link, start_s, end_s):
    """Bytes and share of open time of a window, slot by slot."""
    open_s = total_s = 0.0
    slot = math.floor(start_s / link.step_s)
    while slot * link.step_s < end_s:
        piece = min(end_s, (slot + 1) * link.step_s) - max(start_s, slot * link.step_s)
        total_s += piece
        open_s += piece if path[slot] else 0.0
        slot += 1
    return (open_s * link.median_bps + (total_s - open_s) * link.blocked_bps) / 8.0, open_s / total_s


def normal(x, sd):
    return math.exp(-0.5 * (x / sd) ** 2) / sd


def likelihood(path, link, seen):
    """Density of the measured logarithms, and of the times of those that went through."""
    chance = 1.0
    for start_s, end_s, sent_bytes in seen:
        rate = 8.0 * sent_bytes / (end_s - start_s)
        share = carried(path, link, start_s, end_s)[1]
        last = path[math.floor(end_s / link.step_s)]
        if share == 0.0:
            chance *= normal(math.log(rate / link.blocked_bps), math.hypot(link.blocked_sd, link.noise_sd))
            open_rate = link.median_bps
        else:
            open_rate = (rate - (1.0 - share) * link.blocked_bps) / share
            if open_rate <= 0.0:
                return 0.0
            chance *= normal(math.log(open_rate / link.median_bps), link.noise_sd) * rate / (share * open_rate)
        if sent_bytes in SIZES:
            chance *= (open_rate if last else link.blocked_bps) / rate
    return chance


@pytest.mark.parametrize("seed", range(8))
def test_the_chain_is_that_of_all_paths_enumerated(seed):
    """Transfers over one to five steps, some cut off, with and without gaps; every path of eleven steps weighed."""
    rng = np.random.default_rng(seed)
    link, steps = CHAIN, 11
    share = link.block / (link.block + link.unblock)
    path = [bool(rng.uniform() > share)]
    while len(path) < steps:
        path.append(bool(rng.uniform() > (link.block if path[-1] else 1.0 - link.unblock)))
    seen, at_s = [], 0.0
    while True:
        start_s = at_s + rng.choice([0.0, rng.uniform(0.0, 0.04)])
        end_s = start_s + rng.uniform(0.003, 0.08)
        if end_s >= steps * link.step_s:
            break
        sent_bytes = carried(path, link, start_s, end_s)[0]
        if rng.uniform() < 0.5:  # one that went through: measured bytes are those of a plan
            sent_bytes = min(SIZES, key=lambda size: abs(math.log(size / sent_bytes)))
        seen.append((start_s, end_s, sent_bytes * (1.0 if sent_bytes in SIZES else math.exp(rng.normal(0.0, 0.01)))))
        at_s = end_s
    last = math.floor(seen[-1][1] / link.step_s)
    total = np.zeros(2)
    for guess in itertools.product([False, True], repeat=last + 1):
        prior = 1.0 - share if guess[0] else share
        for a, b in itertools.pairwise(guess):
            turn = link.block if a else link.unblock
            prior *= turn if a != b else 1.0 - turn
        total[int(guess[-1])] += prior * likelihood(guess, link, seen)
    state = learn(link, seen)
    # What nothing explains is the filter's own; where something does, the enumeration is exact.
    if total.sum() > 1e-3:
        assert state[filters.BLOCKED] == pytest.approx(total[0] / total.sum(), abs=2e-4)


def test_without_news_the_chain_tends_to_its_share_step_by_step():
    model = numbers(CHAIN)
    state = learn(CHAIN, [(0.001, 0.002, 60e6 / 8 * 0.001)])
    assert state[filters.BLOCKED] < 1e-6
    for steps in (1, 2, 7, 500):
        later = list(state)
        filters.wait(later, 0, model, 0.005 + steps * 0.02)
        chance = np.linalg.matrix_power([[0.9, 0.1], [0.25, 0.75]], steps)[0, 1]
        assert later[filters.BLOCKED] == pytest.approx(chance, abs=1e-6)


def test_a_transfer_that_went_through_was_open_at_its_end():
    """Of two transfers as slow, the one that was cut off tells of an outage."""
    slow = 0.3 * 5e6 / 8 * 0.1
    through, cut = ([(0.0, 0.1, size)] for size in (SIZES[0], slow))
    assert SIZES[0] != slow
    assert learn(BOTH, through)[filters.BLOCKED] < 0.01
    assert learn(BOTH, cut)[filters.BLOCKED] > 0.1
    assert learn(BOTH, [(0.0, 0.1, 0.0)])[filters.BLOCKED] > 0.9


# --- the drifts


@pytest.mark.parametrize("seed", range(6))
def test_the_drifts_are_those_of_dense_matrices(seed):
    """Every drift on a fine grid of times at once: one large Gaussian, conditioned on the means over transfers."""
    rng = np.random.default_rng(seed)
    link, grid_s = DRIFTS, 2e-3
    edges = np.cumsum(rng.integers(5, 60, 8))
    windows = [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]
    at_s = (np.arange(windows[-1][1]) + 0.5) * grid_s
    at_s = np.append(at_s, windows[-1][1] * grid_s)
    lags = np.abs(at_s[:, None] - at_s)
    kernels = [sd**2 * np.exp(-lags / memory_s) for sd, memory_s in zip(link.sd, link.memory_s, strict=True)]
    rows = np.zeros((len(windows), len(at_s)))
    for row, (a, b) in zip(rows, windows, strict=True):
        row[a:b] = 1.0 / (b - a)
    measured = rng.normal(0.0, 0.6, len(windows))
    inner = sum(rows @ kernel @ rows.T for kernel in kernels) + link.noise_sd**2 * np.eye(len(windows))
    cross = np.stack([kernel[-1] @ rows.T for kernel in kernels])
    mean = cross @ np.linalg.solve(inner, measured)
    covariance = np.diag(np.square(link.sd)) - cross @ np.linalg.solve(inner, cross.T)

    seen = [
        (a * grid_s, b * grid_s, link.median_bps * math.exp(x) / 8 * (b - a) * grid_s) for (a, b), x in zip(windows, measured, strict=True)
    ]
    found_mean, found_covariance = moments(learn(link, seen))
    np.testing.assert_allclose(found_mean, mean, atol=2e-3)
    np.testing.assert_allclose(found_covariance, covariance, atol=1e-3)


def test_a_measurement_says_less_with_age_and_the_more_of_now_the_shorter_it_was():
    model = numbers(DRIFTS)
    spread = []
    for took_s in (0.01, 0.1, 1.0):
        state = learn(DRIFTS, [(2.0 - took_s, 2.0, 1e7 / 8 * took_s)])
        spread.append(moments(state)[1].sum())
        for _ in range(3):
            before = moments(state)[1].sum()
            filters.wait(state, 0, model, state[filters.AT] + 0.5)
            assert moments(state)[1].sum() > before
    assert spread == sorted(spread)


def test_covariances_stay_symmetric_and_positive():
    rng = np.random.default_rng(5)
    at_s, seen = 0.0, []
    for _ in range(200):
        start_s = at_s + rng.exponential(0.05)
        at_s = start_s + rng.uniform(1e-4, 0.1)
        seen.append((start_s, at_s, 8e3 / 8 * (at_s - start_s) if rng.uniform() < 0.2 else 1e6 * (at_s - start_s)))
    link = Link(5e6, (0.7, 0.4, 0.3), (1e4, 2.0, 0.2), 0.02, 0.01, 0.05, 1e4, 0.3)
    state = learn(link, seen)
    mean, covariance = moments(state)
    np.testing.assert_allclose(covariance, covariance.T, atol=1e-12)
    assert np.linalg.eigvalsh(covariance).min() > -1e-12
    assert np.isfinite(mean).all()
    assert 0.0 <= state[filters.BLOCKED] <= 1.0


# --- both at once


def paths(link, rng, count, steps, blocked=None, drift=None):
    """Sampled links at the step: open (count, steps), log rate (count, steps)."""
    share = link.block / (link.block + link.unblock) if link.block else 0.0
    shut = rng.uniform(size=count) < share if blocked is None else blocked
    x = link.sd[1] * rng.standard_normal(count) if drift is None else drift
    keep = math.exp(-link.step_s / link.memory_s[1])
    opened, logs = np.empty((count, steps), bool), np.empty((count, steps))
    for k in range(steps):
        if k:
            turn = rng.uniform(size=count)
            shut = np.where(shut, turn >= link.unblock, turn < link.block)
            x = keep * x + link.sd[1] * math.sqrt(1.0 - keep * keep) * rng.standard_normal(count)
        opened[:, k], logs[:, k] = ~shut, math.log(link.median_bps) + x
    return opened, logs


def mean_rate(link, opened, logs, start, end):
    """Of whole steps."""
    rate = np.where(opened[:, start:end], np.exp(logs[:, start:end]), link.blocked_bps)
    return rate.mean(axis=1)


@pytest.mark.parametrize("seed", range(4))
def test_outages_and_drift_together_are_those_of_many_particles(seed):
    """Transfers of whole steps, cut off at their ends, so that particles can be weighed by their bytes."""
    rng = np.random.default_rng(seed)
    link = BOTH
    windows = [(2, 4), (8, 9), (9, 12), (30, 34), (36, 37), (60, 65)]
    true_open, true_logs = paths(link, rng, 1, 66)
    opened, logs = paths(link, rng, 60_000, 66)
    weight, seen = np.zeros(len(opened)), []
    for start, end in windows:
        rate = float(mean_rate(link, true_open, true_logs, start, end)[0]) * math.exp(rng.normal(0.0, link.noise_sd))
        guess = mean_rate(link, opened, logs, start, end)
        never_open = ~opened[:, start:end].any(axis=1)
        sd = np.where(never_open, math.hypot(link.blocked_sd, link.noise_sd), link.noise_sd)
        weight += -0.5 * (np.log(rate / guess) / sd) ** 2 - np.log(sd)
        seen.append((start * link.step_s, end * link.step_s - 1e-9, rate / 8 * (end - start) * link.step_s))
        state = learn(link, seen)
        w = np.exp(weight - weight.max())
        if w.sum() ** 2 / (w**2).sum() < 400:  # too few particles are left to judge by
            break
        w /= w.sum()
        assert state[filters.BLOCKED] == pytest.approx(w @ ~opened[:, end - 1], abs=0.06)
        x = logs[:, end - 1] - math.log(link.median_bps)
        assert moments(state)[0][1] == pytest.approx(w @ x, abs=0.12)
        assert math.sqrt(moments(state)[1][1, 1]) == pytest.approx(math.sqrt(w @ x**2 - (w @ x) ** 2), abs=0.1)


# --- what it is told, and when


def test_each_transfer_is_taken_up_once():
    model, readings = numbers(BOTH), tm.fresh()
    state = filters.fresh(model)
    transfer(readings, 0.1, 0.15, 8636.0)
    filters.update(state, model, SIZES, readings, 0.2, 0.0)
    once = list(state)
    filters.update(state, model, SIZES, readings, 0.9, 0.0)
    assert state == once


def test_three_transfers_at_once_are_three_one_by_one():
    seen = [(0.1, 0.12, 8636.0), (0.13, 0.16, 4342.0), (0.2, 0.22, 51444.0)]
    model, readings = numbers(BOTH), tm.fresh()
    for one in seen:
        transfer(readings, *one)
    state = filters.fresh(model)
    filters.update(state, model, SIZES, readings, 0.3, 0.0)
    assert state[: filters.BELIEF] == pytest.approx(learn(BOTH, seen)[: filters.BELIEF], rel=1e-12)


def test_the_running_transfer_is_shown_and_not_kept():
    model, readings = numbers(BOTH), tm.fresh()
    state = filters.fresh(model)
    kept = list(state[filters.KEPT : filters.KEPT + filters.BELIEF])
    tm.send_started(readings, 0.5)
    filters.update(state, model, SIZES, readings, 0.6, 0.0)
    assert state[filters.BLOCKED] > 0.8, "nothing came through for 100 ms"
    assert state[filters.KEPT : filters.KEPT + filters.BELIEF] == kept
    filters.update(state, model, SIZES, readings, 0.6, 5e6 / 8 * 0.1)
    assert state[filters.BLOCKED] < 0.1


def test_the_sender_knows_of_the_running_transfer_half_a_round_trip_late():
    model, readings = numbers(BOTH, late_s=0.01), tm.fresh()
    state = filters.fresh(model)
    tm.send_started(readings, 0.51)  # it began at 0.5, and the sender knew it then
    filters.update(state, model, SIZES, readings, 0.6, 1e4)
    assert state[filters.AT] == pytest.approx(0.59)
    same = learn(BOTH, [(0.5, 0.59, 1e4)])
    assert state[: filters.BELIEF] == pytest.approx(same[: filters.BELIEF])


def test_a_told_rate_is_believed_and_nothing_else_is_asked():
    told = Link(5e6, (0.0, 0.6, 0.0), (1.0, 0.9, 1.0), 1e-6, told=True)
    model, readings = numbers(told), tm.fresh()
    state = filters.fresh(model)
    transfer(readings, 0.1, 0.2, 8636.0)
    tm.rate_told(readings, 0.3, 20e6)
    filters.update(state, model, SIZES, readings, 0.31, 0.0)
    mean, covariance = moments(state)
    assert math.log(5e6) + mean.sum() == pytest.approx(math.log(20e6), abs=1e-4), "but for the outlier's share"
    assert covariance.sum() < 1e-4
    assert state[filters.AT] == 0.3


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf, 1e300])
def test_a_broken_reading_does_not_break_the_belief(broken):
    model = numbers(BOTH)
    state = filters.fresh(model)
    for place in range(3):
        readings = tm.fresh()
        transfer(readings, 0.1, 0.15, 8636.0)
        readings[tm.RING + place] = broken
        filters.update(state, model, SIZES, readings, 0.2, 0.0)
    readings = tm.fresh()
    tm.send_started(readings, 0.1)
    filters.update(state, model, SIZES, readings, 0.3, broken)
    assert np.isfinite(state).all()


# --- bursts


def test_the_chance_of_a_burst_is_that_of_a_matrix_exponential():
    arrivals = Arrivals(5.0, 60.0, 1.0, 0.5)
    model, readings = numbers(CHAIN, arrivals), tm.fresh()
    state = filters.fresh(model)
    generator = np.array([[-1.0, 1.0], [2.0, -2.0]])
    rates = np.diag([5.0, 60.0])
    values, vectors = np.linalg.eig(generator - rates)
    belief = np.array([2 / 3, 1 / 3]) @ rates
    now_s = 0.0
    for gap_s in (0.0, 0.01, 0.02, 0.5, 0.004, 3.0, 0.1):
        now_s += gap_s
        if gap_s:
            belief = belief @ (vectors @ np.diag(np.exp(values * gap_s)) @ np.linalg.inv(vectors)) @ rates
        belief /= belief.sum()
        tm.arrived(readings, now_s)
        filters.update(state, model, SIZES, readings, now_s, 0.0)
        assert state[filters.BURST] == pytest.approx(belief[1], abs=1e-12)


# --- the forecast


def forecast(link, state, near_s, far_s):
    out = [0.0] * forecasts.FORECAST
    forecasts.forecast(state, numbers(link), near_s, far_s, out)
    return out


@pytest.mark.parametrize("link", [SLOW_CHAIN, DRIFTS, BOTH], ids=["chain", "drifts", "both"])
@pytest.mark.parametrize("believed", ["steady", "good", "blocked"])
def test_the_chance_to_be_in_time_is_that_of_sampled_futures(link, believed):
    """Windows that begin now or later; the sampled link steps at 1 ms, with the chances of its own step spread over it."""
    rng = np.random.default_rng(1)
    good, blocked = (0.1, 0.11, 0.01 * link.median_bps / 8), (0.05, 0.11, 0.06 * link.blocked_bps / 8)
    seen = {"steady": [], "good": [good], "blocked": [blocked]}[believed]
    state = learn(link, seen) if seen else filters.fresh(numbers(link))
    now_s = 0.13
    ahead = forecast(link, state, now_s, now_s + 0.12)
    filters.wait(state, 0, numbers(link), now_s)
    fine_s, count = 2e-3, 10_000
    fine = {"block": 1 - (1 - link.block) ** (fine_s / link.step_s), "unblock": 1 - (1 - link.unblock) ** (fine_s / link.step_s)}
    shut = rng.uniform(size=count) < state[filters.BLOCKED]
    mean, covariance = moments(state)
    x = rng.multivariate_normal(mean, covariance, count)
    keep = np.exp(-fine_s / np.array(link.memory_s))
    bits = np.zeros((count, 61))
    for k in range(60):
        rate = np.where(shut, link.blocked_bps, link.median_bps * np.exp(x.sum(axis=1)))
        bits[:, k + 1] = bits[:, k] + rate * fine_s
        turn = rng.uniform(size=count)
        shut = np.where(shut, turn >= fine["unblock"], turn < fine["block"]) if link.block else shut
        x = x * keep + np.array(link.sd) * np.sqrt(1 - keep**2) * rng.standard_normal((count, 3))
    for start in (0, 8, 30):
        for length in (5, 12, 30):
            for sent_bytes in (500.0, 4342.0, 17224.0, 51444.0, 200_000.0):
                real = float((bits[:, start + length] - bits[:, start] >= 8 * sent_bytes).mean())
                found = forecasts.in_time(ahead, now_s + start * fine_s, now_s + (start + length) * fine_s, sent_bytes)
                assert found == pytest.approx(real, abs=0.025), (start, length, sent_bytes)


@given(
    st.floats(0.0, 0.1), st.floats(0.001, 0.1), st.floats(0.001, 0.05), st.floats(1.0, 1e6), st.floats(1.01, 3.0), st.booleans()
)  # fmt: skip
def test_more_bytes_or_less_time_are_never_likelier(start_s, length_s, longer_s, sent_bytes, more, good):
    state = learn(BOTH, [(0.0, 0.01, 6000.0 if good else 0.0)])
    ahead = forecast(BOTH, state, 0.02, 0.4)
    begin_s = 0.02 + start_s
    chance = forecasts.in_time(ahead, begin_s, begin_s + length_s, sent_bytes)
    assert 0.0 <= chance <= 1.0
    grain = 2e-3  # of the curves through three times
    assert forecasts.in_time(ahead, begin_s, begin_s + length_s, sent_bytes * more) <= chance + grain
    assert forecasts.in_time(ahead, begin_s, begin_s + length_s + longer_s, sent_bytes) >= chance - grain


def test_one_formula_serves_floats_and_columns():
    state = learn(BOTH, [(0.0, 0.01, 6000.0)])
    ahead = forecast(BOTH, state, 0.02, 0.4)
    start_s, end_s, sent = np.array([0.02, 0.05, 0.2]), np.array([0.1, 0.06, 0.1]), np.array([4e3, 5e3, 100.0])
    column = forecasts.in_time(ahead, start_s, end_s, sent)
    for i in range(3):
        assert forecasts.in_time(ahead, float(start_s[i]), float(end_s[i]), float(sent[i])) == pytest.approx(column[i], rel=1e-12)
    assert column[2] < 1e-9, "a window that ends before it begins carries nothing"


def test_phi_is_the_normal_distribution():
    z = np.linspace(-6, 6, 241)
    exact = np.array([0.5 * math.erfc(-x / math.sqrt(2)) for x in z])
    assert np.abs(forecasts.phi(z) - exact).max() < 1.5e-4


# --- the rule of thumb


def test_an_aged_rate_is_shrunk_to_its_prior():
    aging = Aging(prior_bps=2e6, memory_s=0.5, newest=0.25, running=0.5, caution=0.1, old_caution=0.3)
    model = [*numbers(Link(2e6, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))), *aging.numbers()]
    state, readings = filters.fresh(model), tm.fresh()

    def rate():
        filters.aged(state, model, readings, 2.0, 1000.0)
        return forecasts.forecast(state, model, 2.0, 2.1, out := [0.0] * forecasts.FORECAST) or out[forecasts.MEAN]

    assert rate() == pytest.approx(math.log(2e6) - 0.4), "nothing measured: the prior, all cautions"
    transfer(readings, 1.0, 1.1, 1e5)
    transfer(readings, 1.4, 1.5, 2e5)
    share = math.exp(-0.5 / 0.5)
    seen = math.log(readings[tm.RATE_BPS]) + 0.25 * (math.log(1.6e7) - math.log(readings[tm.RATE_BPS]))
    expected = math.log(2e6) + share * (seen - math.log(2e6))
    assert rate() == pytest.approx(expected - 0.1 - 0.3 * (1 - share))
    tm.send_started(readings, 1.9)
    assert rate() == pytest.approx(0.5 * expected + 0.5 * math.log(8e4) - 0.1 - 0.3 * (1 - share))
    assert max(state[filters.COVARIANCE : filters.BELIEF]) == 0.0


# --- jumps


def test_where_a_link_jumps_one_transfer_far_off_is_a_jump_and_not_noise():
    """A rate measured every three seconds stands still, then is another."""
    still = Link(10e6, (0.0, 0.8, 0.0), (1.0, 20.0, 1.0), 0.02)
    jumps = replace(still, jump_per_s=1 / 3)
    seen = [(t, t + 0.01, 20e6 / 8 * 0.01) for t in (0.5, 0.55, 0.6)]
    for link, believed in ((still, 20e6), (jumps, 20e6)):
        assert math.log(10e6) + moments(learn(link, seen))[0].sum() == pytest.approx(math.log(believed), abs=0.05)
    seen.append((0.65, 0.66, 7e6 / 8 * 0.01))
    away = {link: moments(learn(link, seen))[0].sum() - math.log(7 / 10) for link in (still, jumps)}
    assert abs(away[jumps]) < 0.05 < abs(away[still])


def test_a_jump_is_not_expected_but_possible():
    """Between two measurements 50 ms apart a link that jumps is nearly always what it was, and else anything."""
    still = Link(10e6, (0.0, 0.8, 0.0), (1.0, 20.0, 1.0), 0.02)
    jumps = replace(still, jump_per_s=1 / 3)
    sent = {}
    for link in (still, jumps):
        ahead = forecast(link, learn(link, [(0.5, 0.51, 10e6 / 8 * 0.01)]), 0.56, 0.6)
        sent[link] = [forecasts.in_time(ahead, 0.56, 0.58, share * 10e6 / 8 * 0.02) for share in (0.5, 0.9, 1.1)]
    assert sent[jumps][1] > 0.98 > sent[still][1], "nine tenths of the rate are safe unless it jumps"
    assert sent[jumps][0] < sent[still][0], "half of it are not as safe as if it could only drift"
    assert sent[jumps][2] < 0.02 < sent[still][2]


def test_the_covariance_is_that_of_drift_where_nothing_jumps_far():
    """Jumps so often that there is one in every gap are a drift."""
    often = replace(DRIFTS, jump_per_s=1e6)
    seen = [(0.1, 0.15, 6e4), (0.3, 0.31, 2e4), (0.9, 1.0, 9e4)]
    np.testing.assert_allclose(learn(often, seen)[: filters.BELIEF], learn(DRIFTS, seen)[: filters.BELIEF], atol=1e-9)

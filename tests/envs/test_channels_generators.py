"""Generators have the statistics that their formulas say, within five standard errors of the sample that is drawn."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.envs.channels import Cellular, Constant, GilbertElliott, Markov, Mixture, Rayleigh, Regimes
from cutlayer.envs.channels.chains import autoregression, stationary, step_of_slot, walk
from cutlayer.errors import ConfigError

SLOT_S = 0.02
Z = 5.0  # standard errors: a right generator fails one seed in two million

# Named with their steady state: by hand, from the balance of what flows between neighbours.
WEATHER = ((0.9, 0.1, 0.0), (0.2, 0.5, 0.3), (0.0, 0.6, 0.4))
WEATHER_SHARE = (4 / 7, 2 / 7, 1 / 7)


def error_of_mean(std, n, correlation=0.0):
    """Standard error of the mean of n values whose correlation falls as correlation^lag."""
    return std * math.sqrt((1 + correlation) / (1 - correlation) / n)


def near(value, expected, std, n, correlation=0.0):
    return abs(value - expected) <= Z * error_of_mean(std, n, correlation)


def autocorrelation(x, lag):
    x = x - x.mean()
    return float((x[:-lag] * x[lag:]).mean() / x.var())


# --- chains


def test_the_steady_state_is_what_the_balance_says():
    assert stationary(WEATHER) == pytest.approx(WEATHER_SHARE)
    assert stationary(((0.0, 1.0), (1.0, 0.0))) == pytest.approx([0.5, 0.5])  # periodic, and yet its shares are defined
    assert stationary(((1.0,),)) == pytest.approx([1.0])
    p, q = 0.03, 0.2
    assert stationary(((1 - p, p), (q, 1 - q))) == pytest.approx([q / (p + q), p / (p + q)])


@given(st.integers(2, 7), st.integers(0, 2**32 - 1))
def test_the_steady_state_is_where_many_steps_lead(states, seed):
    matrix = np.random.default_rng(seed).dirichlet(np.ones(states), states)
    share = stationary(tuple(map(tuple, matrix.tolist())))
    assert share.sum() == pytest.approx(1.0)
    assert share == pytest.approx(np.linalg.matrix_power(matrix, 4096)[0], abs=1e-7)


def test_a_walk_spends_its_time_and_makes_its_steps_as_the_matrix_says():
    n = 200_000
    path = walk(np.random.default_rng(1), WEATHER, n)
    # The second largest eigenvalue bounds how slowly shares settle.
    slow = sorted(abs(np.linalg.eigvals(np.array(WEATHER))))[-2]
    for state, share in enumerate(WEATHER_SHARE):
        inside = path == state
        assert near(inside.mean(), share, math.sqrt(share * (1 - share)), n, slow)
        for following, chance in enumerate(WEATHER[state]):
            got = (path[1:][inside[:-1]] == following).mean()
            assert near(got, chance, math.sqrt(chance * (1 - chance)), inside.sum()), (state, following)


def test_a_walk_begins_in_its_steady_state():
    first = np.array([walk(np.random.default_rng(seed), WEATHER, 1)[0] for seed in range(3000)])
    for state, share in enumerate(WEATHER_SHARE):
        assert near((first == state).mean(), share, math.sqrt(share * (1 - share)), 3000)


def test_an_autoregression_is_its_recursion_and_keeps_unit_variance():
    noise = np.random.default_rng(2).standard_normal(100_000)
    x = autoregression(noise, 0.9)
    assert x[0] == noise[0]
    assert x[1:] == pytest.approx(0.9 * x[:-1] + math.sqrt(1 - 0.81) * noise[1:])
    # Squares of a Gaussian AR(1) are correlated as its square.
    assert near((x * x).mean(), 1.0, math.sqrt(2), len(x), 0.81)


def test_steps_last_their_time_from_a_random_phase_on():
    rng = np.random.default_rng(3)
    steps = step_of_slot(rng, 1000, 0.02, 0.1)
    lengths = np.diff(np.flatnonzero(np.diff(steps)))
    assert (lengths == 5).all()
    phases = np.array([np.flatnonzero(np.diff(step_of_slot(np.random.default_rng(seed), 50, 0.02, 0.1)))[0] for seed in range(1000)])
    assert near(phases.mean(), 2.0, math.sqrt(2), 1000)
    assert (np.diff(step_of_slot(rng, 100, 0.3, 0.1)) == 3).all()


# --- Markov


def test_markov_rates_have_their_shares_mean_and_correlation():
    """With a two-state chain that is left with chances p and q the correlation falls as (1 - p - q) a step."""
    p, q, n = 0.05, 0.15, 400_000
    rates = Markov((8e6, 1e6), ((1 - p, p), (q, 1 - q)), SLOT_S).draw(np.random.default_rng(4), n, SLOT_S)
    slow, share = 1 - p - q, q / (p + q)
    assert set(np.unique(rates)) == {1e6, 8e6}
    spread = math.sqrt(share * (1 - share))
    assert near((rates == 8e6).mean(), share, spread, n, slow)
    assert near(rates.mean(), 1e6 + 7e6 * share, 7e6 * spread, n, slow)
    for lag in (1, 3, 10):
        assert abs(autocorrelation(rates, lag) - slow**lag) <= Z * error_of_mean(1.0, n, slow), lag


def test_markov_steps_may_be_longer_or_shorter_than_slots():
    p, q = 0.1, 0.3
    channel = Markov((1.0, 0.0), ((1 - p, p), (q, 1 - q)), 0.1)
    for slot_s in (0.01, 0.1, 0.2, 0.5):
        n = int(20_000 / slot_s * 0.1)
        rates = channel.draw(np.random.default_rng(5), n, slot_s)
        steps = n * slot_s / 0.1
        assert near(rates.mean(), 0.75, math.sqrt(0.75 * 0.25), min(n, steps), (1 - p - q) ** max(1.0, slot_s / 0.1)), slot_s
        lag = round(1.0 / slot_s)
        # A second is ten steps: the correlation is gone, whatever the slot.
        assert abs(autocorrelation(rates, lag)) <= Z * error_of_mean(1.0, min(n, steps), 0.6), slot_s


def test_markov_stays_are_geometric():
    leave = 0.1
    rates = Markov((1.0, 0.0), ((1 - leave, leave), (0.5, 0.5)), SLOT_S).draw(np.random.default_rng(6), 200_000, SLOT_S)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], rates, [0]])))
    stays = (edges[1::2] - edges[::2])[1:-1]
    assert near(stays.mean(), 1 / leave, math.sqrt(1 - leave) / leave, len(stays))
    assert near((stays > 10).mean(), (1 - leave) ** 10, 0.5, len(stays))


def test_many_levels_with_equal_rows_forget_at_once():
    share = np.full(50, 1 / 50)
    rates = Markov(tuple(range(50)), (tuple(share.tolist()),) * 50, SLOT_S).draw(np.random.default_rng(7), 100_000, SLOT_S)
    assert near(rates.mean(), 24.5, math.sqrt((50**2 - 1) / 12), 100_000)
    assert abs(autocorrelation(rates, 1)) <= Z / math.sqrt(100_000)


BAD_MATRICES = {
    "adding up to 0.9": ((0.5, 0.4), (0.5, 0.5)),
    "adding up to 1.2": ((0.6, 0.6), (0.5, 0.5)),
    "1x2": ((0.5, 0.5),),
    "2x3": ((0.5, 0.5), (0.3, 0.3, 0.4)),
    "never meet": ((1.0, 0.0), (0.0, 1.0)),
    "row 0": ((-0.5, 1.5), (0.5, 0.5)),
    "row 1": ((0.5, 0.5), (math.nan, 0.5)),
}


@pytest.mark.parametrize("words", BAD_MATRICES)
def test_a_matrix_that_is_no_chain_is_refused(words):
    for make in (
        lambda matrix: Markov((1e6, 2e6), matrix, 0.1),
        lambda matrix: Regimes((Constant(1e6), Constant(2e6)), matrix, 0.1),
    ):
        with pytest.raises(ConfigError, match=words):
            make(BAD_MATRICES[words])


# --- Gilbert-Elliott


def test_gilbert_elliott_has_its_share_stays_and_correlation():
    n = 400_000
    channel = GilbertElliott(good_bps=10e6, bad_bps=0.5e6, good_s=2.0, bad_s=0.7)
    rates = channel.draw(np.random.default_rng(8), n, SLOT_S)
    bad = rates == 0.5e6
    assert set(np.unique(rates)) == {0.5e6, 10e6}
    # Left with chances slot / stay: what is left of the correlation after a slot.
    slow = 1 - SLOT_S / 2.0 - SLOT_S / 0.7
    share = 0.7 / 2.7
    assert near(bad.mean(), share, math.sqrt(share * (1 - share)), n, slow)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], bad.astype(int), [0]])))
    stays, gaps = (edges[1::2] - edges[::2]) * SLOT_S, (edges[2::2] - edges[1:-1:2]) * SLOT_S
    assert near(stays.mean(), 0.7, 0.7, len(stays))
    assert near(gaps.mean(), 2.0, 2.0, len(gaps))
    lag = round(0.5 / SLOT_S)
    assert abs(autocorrelation(rates, lag) - slow**lag) <= Z * error_of_mean(1.0, n, slow)


# --- AR(1) log-normal


def test_log_normal_rates_have_the_moments_of_a_log_normal():
    """Mean exp(mu + s^2/2), squared coefficient of variation exp(s^2) - 1, and log-normal autocovariance (exp(s^2 rho) - 1)."""
    n, spread, tau = 400_000, 0.6, 0.2
    rates = Cellular(2e6, spread, tau).draw(np.random.default_rng(9), n, SLOT_S)
    rho, square = math.exp(-SLOT_S / tau), spread * spread
    std = 2e6 * math.exp(square / 2) * math.sqrt(math.exp(square) - 1)
    assert near(rates.mean(), 2e6 * math.exp(square / 2), std, n, rho)
    fourth = math.exp(4 * square) + 2 * math.exp(3 * square) + 3 * math.exp(2 * square) - 3  # kurtosis of a log-normal
    assert near(rates.var() / std**2, 1.0, math.sqrt(fourth - 1), n, rho)
    for lag in (1, 10, 30):
        expected = (math.exp(square * rho**lag) - 1) / (math.exp(square) - 1)
        assert abs(autocorrelation(rates, lag) - expected) <= Z * error_of_mean(1.0, n, rho), lag
    assert near(np.log(rates).mean(), math.log(2e6), spread, n, rho)


# --- Rayleigh


def test_rayleigh_power_is_exponential_and_its_rate_is_shannons():
    n, snr_db = 100_000, 12.0
    rates = Rayleigh(bandwidth_hz=1e6, snr_db=snr_db, block_s=SLOT_S).draw(np.random.default_rng(10), n, SLOT_S)
    power = (2 ** (rates / 1e6) - 1) / 10 ** (snr_db / 10)
    assert near(power.mean(), 1.0, 1.0, n)
    assert near((power**2).mean(), 2.0, math.sqrt(20), n)  # moments k! of an exponential: 4! - 2!^2 = 20
    for level in (0.1, 0.7, 2.0):
        chance = math.exp(-level)
        assert near((power > level).mean(), chance, math.sqrt(chance * (1 - chance)), n)
    # Ergodic capacity: the integral of log2(1 + snr h) exp(-h) over h, by the midpoint rule.
    h = (np.arange(4_000_000) + 0.5) * 1e-5
    capacity = float((np.log2(1 + 10 ** (snr_db / 10) * h) * np.exp(-h)).sum() * 1e-5) * 1e6
    assert near(rates.mean(), capacity, rates.std(), n)


def test_rayleigh_blocks_last_their_time_and_know_nothing_of_each_other():
    rates = Rayleigh(1e6, 10.0, block_s=0.1).draw(np.random.default_rng(11), 200_000, SLOT_S)
    edges = np.flatnonzero(np.diff(rates))
    assert (np.diff(edges) == 5).all()
    blocks = rates[edges]
    assert abs(autocorrelation(blocks, 1)) <= Z / math.sqrt(len(blocks))
    # Slots of 20 ms in blocks of 100 ms: pairs at lag k share their block in 1 - k/5 of the cases.
    for lag in (1, 3, 5, 8):
        assert abs(autocorrelation(rates, lag) - max(0.0, 1 - lag / 5)) <= Z / math.sqrt(len(blocks))


def test_a_block_of_many_slots_begins_anywhere():
    firsts = [np.flatnonzero(np.diff(Rayleigh(1e6, 10.0, 1.0).draw(np.random.default_rng(s), 60, SLOT_S)))[0] for s in range(1000)]
    assert near(np.mean(firsts), 24.5, 50 / math.sqrt(12), 1000)


# --- regimes


def test_regimes_share_the_time_and_each_is_itself_while_it_lasts():
    p, q, n = 0.02, 0.06, 200_000
    channel = Regimes((Cellular(10e6, 0.2, 0.1), Cellular(0.1e6, 0.2, 0.1)), ((1 - p, p), (q, 1 - q)), 0.1)
    level = np.log(channel.draw(np.random.default_rng(12), n, SLOT_S))
    high = level > math.log(1e6)  # eleven deviations from either level
    steps, slow = n * SLOT_S / 0.1, 1 - p - q
    assert near(high.mean(), q / (p + q), math.sqrt(0.75 * 0.25), steps, slow)
    rho = math.exp(-SLOT_S / 0.1)
    for inside, median in ((high, 10e6), (~high, 0.1e6)):
        assert near(level[inside].mean(), math.log(median), 0.2, inside.sum(), rho)
        pairs = inside[:-1] & inside[1:]
        x = level - math.log(median)
        assert abs((x[:-1] * x[1:])[pairs].mean() / 0.04 - rho) <= Z * error_of_mean(1.0, inside.sum(), rho)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], high.astype(int), [0]])))
    stays_s = (edges[1::2] - edges[::2])[1:-1] * SLOT_S
    assert near(stays_s.mean(), 0.1 / p, 0.1 / p, len(stays_s))


def test_a_regime_may_be_any_channel():
    inner = Regimes((Constant(1.0), Constant(2.0)), ((0.5, 0.5), (0.5, 0.5)), SLOT_S)
    rates = Regimes((inner, Constant(0.0)), ((0.9, 0.1), (0.9, 0.1)), SLOT_S).draw(np.random.default_rng(13), 20_000, SLOT_S)
    shares = [(rates == value).mean() for value in (0.0, 1.0, 2.0)]
    for share, expected in zip(shares, (0.1, 0.45, 0.45), strict=True):
        assert near(share, expected, math.sqrt(expected * (1 - expected)), 20_000)


# --- all of them

EVERY = {
    "constant": Constant(3e6),
    "markov": Markov((8e6, 1e6, 0.0), WEATHER, 0.1),
    "gilbert-elliott": GilbertElliott(10e6, 0.0, 2.0, 0.7),
    "ar1-log-normal": Cellular(2e6, 0.7, 1.0, 0.1, 0.5, 0.3),
    "rayleigh": Rayleigh(1e6, 10.0, 0.05),
    "regimes": Regimes((Cellular(2e6, 0.7, 1.0), Constant(0.0)), ((0.9, 0.1), (0.5, 0.5)), 0.5),
    "mixture": Mixture((Constant(1e6), Rayleigh(1e6, 10.0, 0.05))),
}

# First, second, last and mean rate of 50 slots with seed 2024, drawn with numpy 2.4.
DRAWN_2024 = {
    "markov": (8000000, 8000000, 0, 4680000),
    "gilbert-elliott": (10000000, 10000000, 0, 6800000),
    "ar1-log-normal": (8594721.805, 10409466.22, 2686139.34, 4349914.998),
    "rayleigh": (1101234.224, 1428756.643, 1006066.717, 2507835.977),
    "regimes": (7101791.545, 7851318.082, 2902661.679, 2522540.921),
}


@pytest.mark.parametrize("name", EVERY)
def test_every_generator_gives_one_rate_a_slot_and_the_same_for_the_same_seed(name):
    channel = EVERY[name]
    for slots, slot_s in ((1, 0.02), (7, 1.0), (500, 0.001)):
        one, again = (channel.draw(np.random.default_rng(5), slots, slot_s) for _ in range(2))
        assert one.shape == (slots,)
        assert one.dtype == np.float64
        assert np.isfinite(one).all()
        assert (one >= 0).all()
        assert np.array_equal(one, again)
    if name != "constant":
        assert len({channel.draw(np.random.default_rng(seed), 200, 0.1).tobytes() for seed in range(5)}) > 1


@pytest.mark.parametrize("name", DRAWN_2024)
def test_the_same_seed_draws_the_same_rates_for_ever(name):
    rates = EVERY[name].draw(np.random.default_rng(2024), 50, 0.05)
    assert (rates[0], rates[1], rates[-1], rates.mean()) == pytest.approx(DRAWN_2024[name], rel=1e-8)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Constant(-1.0), "rate_bps is -1.0"),
        (lambda: Constant(math.inf), "rate_bps is inf"),
        (lambda: Markov((1.0, -2.0), ((0.5, 0.5), (0.5, 0.5)), 0.1), r"rates_bps\[1\] is -2.0"),
        (lambda: Markov((1.0, 2.0), ((0.5, 0.5), (0.5, 0.5)), 0.0), "step_s is 0.0"),
        (lambda: GilbertElliott(1e6, 0.0, 0.0, 1.0), "good_s is 0.0"),
        (lambda: GilbertElliott(1e6, -1.0, 1.0, 1.0), "bad_bps is -1.0"),
        (lambda: Cellular(0.0, 0.7, 1.0), "median_bps is 0.0"),
        (lambda: Cellular(1e6, -0.7, 1.0), "spread is -0.7"),
        (lambda: Cellular(1e6, 0.7, math.nan), "decorrelation_s is nan"),
        (lambda: Cellular(1e6, 0.7, 1.0, outage_share=1.0), "outage_share is 1.0"),
        (lambda: Rayleigh(0.0, 10.0, 0.1), "bandwidth_hz is 0.0"),
        (lambda: Rayleigh(1e6, math.nan, 0.1), "snr_db is nan"),
        (lambda: Rayleigh(1e6, 10.0, -0.1), "block_s is -0.1"),
        (lambda: Regimes((Constant(1.0),), ((1.0,),), math.inf), "step_s is inf"),
        (lambda: Mixture(()), "channels is empty"),
    ],
)
def test_a_value_that_makes_no_sense_is_named(make, words):
    with pytest.raises(ConfigError, match=words):
        make()

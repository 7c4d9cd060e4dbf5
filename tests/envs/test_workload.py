"""Arrivals, background jobs and co-tenants have the rates and the burstiness that their formulas say, within five standard errors."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cutlayer.envs.streams import draw
from cutlayer.envs.workload import (
    ArrivalTrace,
    Bursty,
    DriftingSlowDown,
    EdgeJobs,
    EdgeStream,
    Periodic,
    Poisson,
    RateTrace,
    SlowDown,
    read_arrivals,
    read_rates,
    read_slow_down,
)
from cutlayer.errors import ConfigError

Z = 5.0  # standard errors: a right process fails one seed in two million


def dispersion(bursty, window_s=math.inf):
    """Variance over mean of the counts of a two-state process in windows (Fischer and Meier-Hellstern 1993, section 2)."""
    (a, b), (q, r) = bursty.rates_per_s, (1 / stay for stay in bursty.stays_s)
    extra = 2 * (a - b) ** 2 * q * r / ((q + r) ** 2 * (a * r + b * q))
    fade = (1 - math.exp(-(q + r) * window_s)) / ((q + r) * window_s) if math.isfinite(window_s) else 0.0
    return 1 + extra * (1 - fade)


def index_of_dispersion(times, window_s, until_s):
    counts = np.histogram(times, np.arange(int(until_s / window_s) + 1) * window_s)[0]
    return counts.var(ddof=1) / counts.mean(), len(counts)


def near_dispersion(value, expected, windows):
    """A sample variance of n nearly normal counts has the relative error sqrt(2 / n)."""
    return abs(value / expected - 1) <= Z * math.sqrt(2 / windows)


TWO = Bursty((60.0, 5.0), (0.5, 2.0))


# --- bursty


def test_bursty_requests_have_the_rate_of_their_states():
    """0.5 of 2.5 s at 60 a second and 2 s at 5: 16 a second; counts of a long time have the closed form's spread."""
    assert TWO.rate_per_s == pytest.approx(16.0)
    until_s = 20_000.0
    times = TWO.until(np.random.default_rng(1), until_s)
    assert abs(len(times) - 16.0 * until_s) <= Z * math.sqrt(16.0 * until_s * dispersion(TWO))


@pytest.mark.parametrize("window_s", [0.02, 0.2, 1.0, 10.0])
def test_bursty_counts_have_the_dispersion_of_the_closed_form(window_s):
    until_s = min(20_000.0, 20_000 * window_s)
    times = TWO.until(np.random.default_rng(2), until_s)
    value, windows = index_of_dispersion(times, window_s, until_s)
    # Windows shorter than a stay are alike: a stay and a half holds one that is new.
    independent = windows * min(1.0, window_s / 0.6)
    kurtosis = 3.0 if window_s < 1 else 1.0  # counts of short windows are mixtures of two Poissons, far from normal
    assert abs(value / dispersion(TWO, window_s) - 1) <= Z * math.sqrt(2 * kurtosis / independent)


def test_the_closed_form_is_poisson_where_the_states_are_alike():
    same = Bursty((10.0, 10.0), (1.0, 3.0))
    assert dispersion(same) == 1.0
    times = same.until(np.random.default_rng(3), 5000.0)
    value, windows = index_of_dispersion(times, 1.0, 5000.0)
    assert near_dispersion(value, 1.0, windows)
    assert np.diff(times).std() == pytest.approx(0.1, rel=Z * math.sqrt(2 / len(times)))


def test_a_slow_obvious_twin_counts_the_same_bursts():
    """Step by step in slots of a millisecond, without any formula."""
    rng, state, count = np.random.default_rng(4), 0, []
    rates, leave = (60.0, 5.0), (0.001 / 0.5, 0.001 / 2.0)
    draws = rng.uniform(size=(2, 300_000))
    for change, arrive in draws.T.tolist():
        state = 1 - state if change < leave[state] else state
        count.append(arrive < rates[state] * 0.001)
    twin = np.array(count).reshape(300, 1000).sum(axis=1)
    ours = np.histogram(TWO.until(np.random.default_rng(5), 6000.0), np.arange(6001.0))[0]
    assert abs(twin.mean() - ours.mean()) <= Z * math.sqrt(dispersion(TWO) * 16 * (1 / 300 + 1 / 6000))
    assert twin.var() / ours.var() == pytest.approx(1.0, abs=Z * math.sqrt(2 / 300))


def test_bursts_of_three_states_spend_their_stays():
    three = Bursty((0.0, 20.0, 200.0), (3.0, 1.0, 0.25))
    until_s = 20_000.0
    times = three.until(np.random.default_rng(6), until_s)
    assert three.rate_per_s == pytest.approx((20.0 + 50.0) / 4.25)
    counts = np.histogram(times, np.arange(0.0, until_s + 1, 20.0))[0]
    assert abs(counts.mean() - 20 * three.rate_per_s) <= Z * counts.std() / math.sqrt(len(counts))


def test_bursts_begin_in_their_steady_state():
    firsts = [len(TWO.until(np.random.default_rng(seed), 0.01)) for seed in range(4000)]
    assert abs(np.mean(firsts) - 0.16) <= Z * math.sqrt(0.16 * dispersion(TWO, 0.01) / 4000)


# --- traces


def test_arrivals_are_replayed_from_a_start_and_wrapped_after_the_mean_gap(lab):
    """Arrivals at 0, 1 and 4 s: the mean gap of 2 s ends the lap at 6 s."""
    trace = ArrivalTrace(("t",), (np.array([0.0, 1.0, 4.0]),))
    assert trace.draw(lab.Chosen(0.5), 7).tolist() == [0.5, 3.5, 5.5, 6.5, 9.5, 11.5, 12.5]
    assert trace.until(lab.Chosen(0.5), 6.5).tolist() == [0.5, 3.5, 5.5, 6.5]
    assert trace.draw(lab.Chosen(5.0), 2).tolist() == [1.0, 2.0]
    fast = ArrivalTrace(("t",), (np.array([0.0, 1.0, 4.0]),), speed=2.0)
    assert fast.draw(lab.Chosen(0.25), 4).tolist() == [0.25, 1.75, 2.75, 3.25]


def test_arrivals_of_every_file_and_start_come_up():
    trace = ArrivalTrace(("a", "b"), (np.arange(10.0), np.arange(10.0) * 3))
    gaps = [np.diff(trace.draw(np.random.default_rng(seed), 3)).max() for seed in range(1000)]
    assert abs(np.mean(np.isclose(gaps, 3.0)) - 0.5) <= Z * 0.5 / math.sqrt(1000)
    firsts = [trace.draw(np.random.default_rng(seed), 1)[0] for seed in range(1000)]
    assert abs(np.mean(firsts) - (0.5 + 1.5) / 2) <= Z * 1.0 / math.sqrt(1000)


def test_arrivals_stamped_alike_come_one_after_the_other(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("t_s,tokens\n3.0,1\n3.0,2\n3.0,3\n5.0,4\n")
    times = read_arrivals(path).times_s[0]
    assert times == pytest.approx([0.0, 1e-6, 2e-6, 2.0], abs=1e-12)
    assert (np.diff(times) > 0).all()


def test_a_rate_trace_is_a_poisson_process_of_the_measured_rates():
    per_s = np.array([0.0, 10.0, 100.0, 10.0])
    times = RateTrace("r", per_s, scale=2.0).until(np.random.default_rng(7), 4000.0)
    counts = np.histogram(times, np.arange(4001.0))[0].reshape(1000, 4)
    start = int(counts.sum(axis=0).argmin())
    for second in range(4):
        expected = 2 * per_s[second]
        of_second = counts[:, (start + second) % 4]
        assert abs(of_second.mean() - expected) <= Z * math.sqrt(expected / 1000)
        if expected:
            assert near_dispersion(of_second.var() / of_second.mean(), 1.0, 1000)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "cannot read|needs at least two"),
        ("time\n1\n2\n", "has the columns time; it needs t_s"),
        ("t_s\n1\nlate\n", "late"),
        ("t_s\n1\n", "at least two"),
        ("t_s\n2\n1\n", "never fall"),
        ("t_s\n2\n2\n", "not all alike"),
        ("t_s\n1\nnan\n", "finite"),
    ],
)
def test_a_bad_arrival_trace_is_refused_with_its_name(tmp_path, content, words):
    path = tmp_path / "mine.csv"
    path.write_text(content)
    with pytest.raises(ConfigError, match=words) as caught:
        read_arrivals(path)
    assert str(path) in str(caught.value)


def test_a_bad_rate_trace_is_refused_with_its_name(tmp_path):
    path = tmp_path / "r.npz"
    for array in ([[1.0]], [0.0, 0.0], [1.0, -1.0], [1.0, np.nan]):
        np.savez(path, req_per_s=np.array(array))
        with pytest.raises(ConfigError, match=r"r\.npz"):
            read_rates(path)
    np.savez(path, other=np.ones(3))
    with pytest.raises(ConfigError, match="no array req_per_s"):
        read_rates(path)
    np.save(tmp_path / "r.npy", np.ones(3))
    for content in (b"PK\x03\x04 no zip", b"", b"text", (tmp_path / "r.npy").read_bytes()):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match="cannot read rate trace"):
            read_rates(path)
    with pytest.raises(ConfigError, match="cannot read rate trace"):
        read_rates(tmp_path / "none.npz")


def test_the_azure_arrivals_are_as_bursty_as_they_are_said_to_be(data_dir):
    """Its provenance: 8,819 requests, coefficient of variation 13.2 of the gaps."""
    trace = read_arrivals(data_dir / "arrivals_azure_llm_2023/dev/azure_llm_2023_code.csv")
    gaps = np.diff(trace.times_s[0])
    assert len(gaps) == 8818
    assert gaps.std() / gaps.mean() == pytest.approx(13.15, abs=0.05)
    assert (gaps > 0).all()
    drawn = trace.draw(np.random.default_rng(0), 20_000)
    assert (np.diff(drawn) > 0).all()
    assert drawn[0] >= 0


@pytest.mark.parametrize(("name", "mean"), [("twitter_2021-08_req_per_s_days01-14", 63.557), ("nasa_1995-07_req_per_s", 0.7943)])
def test_the_web_rates_load_and_drive_arrivals(data_dir, name, mean):
    trace = read_rates(data_dir / f"arrivals_web_rates/dev/{name}.npz")
    assert trace.per_s.mean() == pytest.approx(mean, rel=1e-3)
    drawn = trace.draw(np.random.default_rng(0), 500)
    assert (np.diff(drawn) > 0).all()
    assert len(drawn) == 500


# --- every process of arrivals

EVERY = {
    "poisson": Poisson(20.0),
    "bursty": TWO,
    "trace": ArrivalTrace(("t",), (np.sort(np.random.default_rng(0).uniform(0, 50, 900)),)),
    "rates": RateTrace("r", np.array([5.0, 30.0])),
}


@pytest.mark.parametrize("name", EVERY)
def test_arrivals_rise_reach_their_end_and_are_the_same_for_the_same_seed(name):
    arrivals = EVERY[name]
    for count in (1, 2, 500):
        times = arrivals.draw(np.random.default_rng(3), count)
        assert times.shape == (count,)
        assert times[0] >= 0
        assert (np.diff(times) > 0).all()
        assert np.array_equal(times, arrivals.draw(np.random.default_rng(3), count))
    times = arrivals.until(np.random.default_rng(3), 100.0)
    assert times[0] >= 0
    assert (np.diff(times) > 0).all()
    assert 98.0 < times[-1] <= 100.0
    assert not np.array_equal(times, arrivals.until(np.random.default_rng(4), 100.0))


def test_poisson_arrivals_of_a_stretch_have_their_rate():
    counts = [len(Poisson(20.0).until(np.random.default_rng(seed), 1.0)) for seed in range(2000)]
    assert abs(np.mean(counts) - 20.0) <= Z * math.sqrt(20.0 / 2000)
    assert near_dispersion(np.var(counts) / np.mean(counts), 1.0, 2000)


# --- edge jobs


@pytest.mark.parametrize("cv", [0.0, 0.5, 1.0, 2.0])
def test_service_times_have_their_mean_and_spread(cv):
    times, service = EdgeStream(Poisson(50.0), 0.01, cv).draw(np.random.default_rng(8), 2000.0)
    n = len(service)
    assert len(times) == n
    assert abs(service.mean() - 0.01) <= Z * 0.01 * cv / math.sqrt(n) + 1e-15
    # A gamma's excess kurtosis is 6 cv^2, so the relative error of its variance is sqrt((2 + 6 cv^2) / n).
    assert service.std() == pytest.approx(0.01 * cv, rel=Z * math.sqrt((2 + 6 * cv * cv) / n) / 2, abs=1e-15)
    assert service.min() >= 0.0


def test_a_stream_of_exponential_jobs_is_the_plain_one():
    """Same law, other draws: mean and spread of the load."""
    plain, stream = EdgeJobs(60.0, 0.005), EdgeStream(Poisson(60.0), 0.005)
    loads = [[job.draw(np.random.default_rng(seed), 5.0)[1].sum() for seed in range(1000)] for job in (plain, stream)]
    # A compound Poisson sum: mean n m, variance 2 n m^2 with n = 300.
    error = math.sqrt(2 * 300) * 0.005 / math.sqrt(1000)
    for load in loads:
        assert abs(np.mean(load) - 1.5) <= Z * error
        assert np.var(load) == pytest.approx(2 * 300 * 0.005**2, rel=Z * math.sqrt(2 / 1000))


# --- co-tenants


def test_a_drifting_load_has_its_median_mean_and_memory():
    n, tau = 200_000, 0.4
    factor = DriftingSlowDown(extra=1.5, spread=0.5, decorrelation_s=tau).draw(np.random.default_rng(9), n, 0.02)
    rho = math.exp(-0.02 / tau)
    error = math.sqrt((1 + rho) / (1 - rho) / n)
    x = np.log(factor - 1.0) - math.log(1.5)
    assert (factor > 1).all()
    assert abs(x.mean()) <= Z * 0.5 * error
    std = 1.5 * math.exp(0.125) * math.sqrt(math.exp(0.25) - 1)
    assert abs(factor.mean() - (1 + 1.5 * math.exp(0.125))) <= Z * std * error
    lag = 20
    assert abs((x[:-lag] * x[lag:]).mean() / 0.25 - math.exp(-1)) <= Z * error


def test_a_co_tenant_that_never_stops_slows_always():
    assert (SlowDown(2.5, busy_share=1.0).draw(np.random.default_rng(0), 100, 0.02) == 2.5).all()
    assert (DriftingSlowDown(0.0, 1.0, 1.0).draw(np.random.default_rng(0), 100, 0.02) == 1.0).all()


def test_any_arrivals_jobs_and_co_tenant_make_an_episode(lab):
    """Streams take them as they are: what the engines read is rising, reaches the end and never speeds the device up."""
    scenario = lab.scenario(
        lab.plan(device_s=0.1),
        lab.plan(wire_bytes=1000),
        arrivals=TWO,
        slow_down=DriftingSlowDown(1.0, 0.5, 2.0),
        edge_jobs=EdgeStream(Bursty((50.0, 1.0), (0.2, 1.0)), 0.01, 0.5),
        requests=200,
    )
    streams = draw(scenario, 3)
    assert (np.diff(streams.arrival_s) > 0).all()
    assert (np.diff(streams.job_arrival_s) > 0).all()
    assert (streams.slow_down >= 1).all()
    assert streams.slow_down.std() > 0
    assert len(streams.job_arrival_s) > 10
    assert np.array_equal(streams.job_arrival_s, draw(scenario, 3).job_arrival_s)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Periodic(0.0), "period_s is 0.0"),
        (lambda: Periodic(0.1, jitter=1.0), "jitter is 1.0"),
        (lambda: Poisson(-1.0), "rate_per_s is -1.0"),
        (lambda: Bursty((1.0,), (1.0,)), "1 rates_per_s and 1 stays_s"),
        (lambda: Bursty((1.0, 2.0), (1.0,)), "2 rates_per_s and 1 stays_s"),
        (lambda: Bursty((0.0, 0.0), (1.0, 1.0)), "nothing would ever arrive"),
        (lambda: Bursty((1.0, 2.0), (1.0, 0.0)), r"stays_s\[1\] is 0.0"),
        (lambda: ArrivalTrace(("t",), (np.arange(3.0),), speed=0.0), "speed is 0.0"),
        (lambda: RateTrace("r", np.ones(3), scale=math.nan), "scale is nan"),
        (lambda: SlowDown(0.5, 0.5), "factor is 0.5"),
        (lambda: SlowDown(2.0, 1.5), "busy_share is 1.5"),
        (lambda: SlowDown(2.0, 0.5, 0.0), "busy_s is 0.0"),
        (lambda: DriftingSlowDown(-1.0, 0.5, 1.0), "extra is -1.0"),
        (lambda: EdgeJobs(-1.0), "rate_per_s is -1.0"),
        (lambda: EdgeStream(Poisson(1.0), math.inf), "mean_s is inf"),
    ],
)
def test_a_value_that_makes_no_sense_is_named(make, words):
    with pytest.raises(ConfigError, match=words):
        make()


# --- measured slow-down


def test_a_measured_slow_down_is_held_until_the_next_value_and_wrapped(lab, tmp_path):
    """Factors 1, 3, 2 at 5, 6 and 8 s: three samples that last 1, 2 and (as the median) 1.5 s."""
    path = tmp_path / "load.csv"
    path.write_text("t_s,cpu\n5,1\n6,3\n8,2\n")
    factor = read_slow_down(path, "cpu").draw(lab.Chosen(0.5), 10, 0.5)
    assert factor.tolist() == [1, 3, 3, 3, 3, 2, 2, 2, 1, 1]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("t_s\n1\n2\n", r"has the columns t_s; it needs t_s \(seconds\) and slow_down \(a factor\)"),
        ("t_s,slow_down\n1,2\n", "at least two"),
        ("t_s,slow_down\n1,2\n1,2\n", "rising"),
        ("t_s,slow_down\n1,2\n2,0.5\n", "from 1 on"),
        ("t_s,slow_down\n1,2\n2,nan\n", "finite"),
        ("t_s,slow_down\n1,2\n2,\n", "cannot read"),
    ],
)
def test_a_bad_slow_down_trace_is_refused_with_its_name(tmp_path, content, words):
    path = tmp_path / "mine.csv"
    path.write_text(content)
    with pytest.raises(ConfigError, match=words) as caught:
        read_slow_down(path)
    assert str(path) in str(caught.value)

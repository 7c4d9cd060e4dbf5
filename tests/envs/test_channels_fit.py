"""A fit finds again what was drawn, tells where it does not match, and the shipped parameters are what it finds in the real drives."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cutlayer.agents import inputs
from cutlayer.envs.channels import Cellular, Constant, GilbertElliott, Markov, Rayleigh, Regimes, build, fitted, fitting
from cutlayer.envs.channels import statistics as stats
from cutlayer.envs.channels.chains import stationary
from cutlayer.envs.channels.report import report, text
from cutlayer.errors import ConfigError


def drives(*rates, bin_s=0.1):
    return stats.Drives(tuple(f"drive{i}" for i in range(len(rates))), tuple(np.asarray(x, float) for x in rates), bin_s)


def drawn(channel, slots=20_000, count=3, bin_s=0.1):
    return drives(*(channel.draw(np.random.default_rng(seed), slots, bin_s) for seed in range(count)), bin_s=bin_s)


def write(folder, times, mbps, name="drive.csv"):
    path = folder / name
    path.write_text("t_s,ul_mbps\n" + "".join(f"{t:g},{r:g}\n" for t, r in zip(times, mbps, strict=True)))
    return path


# --- statistics, by hand


def test_bins_carry_what_the_trace_carries():
    """1 Mb/s for a second, 3 Mb/s for two, 5 Mb/s for the median gap of 1.5 s: 4.5 s, four whole bins of a second."""
    times, rates = np.array([0.0, 1.0, 3.0]), np.array([1e6, 3e6, 5e6])
    assert stats.in_bins(times, rates, 1.0).tolist() == [1e6, 3e6, 3e6, 5e6]
    assert stats.in_bins(times, rates, 1.5).tolist() == [1e6 + 2e6 / 3 // 1 + 1, 3e6, 5e6]
    assert stats.in_bins(times, rates, 2.0).tolist() == [2e6, 4e6]


def test_a_trace_in_its_own_bins_stays_as_it_is(tmp_path):
    mbps = np.round(np.random.default_rng(0).uniform(0, 3, 200), 2) * (np.arange(200) % 7 > 0)
    found = stats.load([write(tmp_path, 0.1 * np.arange(200), mbps)])
    assert found.bin_s == 0.1
    assert found.rates_bps[0] == pytest.approx(mbps * 1e6, abs=1.0)
    assert ((found.rates_bps[0] == 0) == (mbps == 0)).all()


def test_the_numbers_of_a_square_wave_are_known():
    """Ten bins of 4 Mb/s, ten of nothing, again and again."""
    wave = np.tile(np.repeat([4e6, 0.0], 10), 100)
    found = stats.measure([wave], 0.1)
    assert (found["mean_bps"], found["p5_bps"], found["p50_bps"], found["p95_bps"]) == (2e6, 0.0, 2e6, 4e6)
    # Half a period later it is its own opposite, a tenth of it later they differ in one bin of ten.
    assert found["autocorrelation_1s"] == pytest.approx(-1.0)
    assert found["autocorrelation_0.1s"] == pytest.approx(0.8, abs=0.001)
    assert found["autocorrelation_10s"] == pytest.approx(1.0)
    assert found["outage_share"] == 0.5
    assert found["outages_per_hour"] == pytest.approx(1800.0)
    assert (found["outage_mean_s"], found["outage_p95_s"], found["outage_longest_s"]) == pytest.approx((1.0, 1.0, 1.0))


def test_outages_at_the_ends_and_across_drives_are_kept_apart():
    lengths = stats.outages([np.array([0.0, 0, 1e6, 0]), np.array([0.0, 1e6, 1e6, 0, 0, 0])], 1e5)
    assert lengths.tolist() == [2, 1, 1, 3]
    assert stats.outages([np.full(5, 1e6)], 1e5).tolist() == []


def test_the_correlation_is_about_each_drives_own_mean():
    """Two steady drives at different levels: nothing of the difference between them is memory."""
    rng = np.random.default_rng(1)
    noise = [rng.standard_normal(5000) + level for level in (0.0, 1000.0)]
    assert abs(stats.autocorrelation(noise, 1)) < 5 / math.sqrt(10_000)
    assert stats.autocorrelation([np.arange(10.0)], 3) is None  # too short to tell
    assert stats.autocorrelation([np.ones(100)], 3) == 0.0


def test_the_distance_is_that_of_kolmogorov_and_smirnov():
    a, b = np.array([1.0, 2.0, 3.0, 4.0]), np.array([3.0, 4.0, 5.0, 6.0])
    assert stats.distance(a, a) == 0.0
    assert stats.distance(a, b) == 0.5
    assert stats.distance(a, a + 10) == 1.0


# --- fits find again what was drawn; the tolerance is that of 60,000 bins, less where they are correlated

CELLULAR = Cellular(2e6, spread=0.5, decorrelation_s=0.8, outage_share=0.08, outage_s=0.4)


def test_a_log_normal_is_found_again():
    found = fitting.fit("ar1-log-normal", drawn(CELLULAR))
    independent = 60_000 * 0.1 / (2 * 0.8)  # bins over the correlation's integral
    assert math.log(found.median_bps / 2e6) == pytest.approx(0.0, abs=5 * 0.5 / math.sqrt(independent))
    assert found.spread == pytest.approx(0.5, rel=5 / math.sqrt(2 * independent))
    assert found.decorrelation_s == pytest.approx(0.8, rel=0.15)
    assert found.outage_share == pytest.approx(0.08, rel=0.1)
    assert found.outage_s == pytest.approx(0.4, rel=5 / math.sqrt(60_000 * 0.08 / 4))
    assert found.drive_spread < 0.05


def test_levels_of_drives_are_their_spread_and_not_that_of_the_rate():
    rates = [Cellular(level, 0.3, 0.5).draw(np.random.default_rng(i), 5000, 0.1) for i, level in enumerate((1e6, 2e6, 4e6))]
    found = fitting.fit("ar1-log-normal", drives(*rates))
    assert found.median_bps == pytest.approx(2e6, rel=0.1)
    assert found.drive_spread == pytest.approx(math.log(2), rel=0.1)
    assert found.spread == pytest.approx(0.3, rel=0.1)


def test_gilbert_elliott_is_found_again():
    truth = GilbertElliott(10e6, 0.5e6, 2.0, 0.7)
    found = fitting.fit("gilbert-elliott", drawn(truth))
    assert (found.good_bps, found.bad_bps) == (10e6, 0.5e6)
    visits = 6000.0 / 2.7
    assert found.good_s == pytest.approx(2.0, rel=5 / math.sqrt(visits))
    assert found.bad_s == pytest.approx(0.7, rel=5 / math.sqrt(visits))


def test_a_markov_fit_has_exactly_the_shares_that_were_measured():
    """Along a ring every state is left as often as it is entered, so the steady state is the histogram, not near it."""
    sample = drawn(CELLULAR, slots=800, count=2)
    found = fitting.fit("markov", sample)
    assert len(found.rates_bps) == fitting.MARKOV_STATES + 1  # and one for outages
    share = stationary(found.transitions)
    outage = (sample.pooled < 1e5).mean()
    assert share[0] == pytest.approx(outage, abs=1e-6)
    assert share[1:] == pytest.approx((1 - outage) / fitting.MARKOV_STATES, abs=2 / 1600)  # levels of equal shares, to whole bins
    assert stationary(found.transitions) @ found.rates_bps == pytest.approx(sample.pooled.mean(), rel=1e-4)


def test_a_markov_chain_is_found_again():
    truth = Markov((1e6, 3e6), ((0.8, 0.2), (0.4, 0.6)), 0.1)
    found = fitting.fit("markov", drives(truth.draw(np.random.default_rng(0), 50_000, 0.1)))
    assert found.rates_bps == truth.rates_bps
    assert np.array(found.transitions) == pytest.approx(np.array(truth.transitions), abs=5 * 0.5 / math.sqrt(50_000 / 3))


def test_rayleigh_is_found_again():
    found = fitting.fit("rayleigh", drawn(Rayleigh(2e6, 8.0, 2.0), slots=50_000))
    assert found.snr_db == pytest.approx(8.0, abs=0.6)
    assert found.bandwidth_hz == pytest.approx(2e6, rel=0.06)
    assert found.block_s == pytest.approx(2.0, rel=0.08)


def test_regimes_are_found_again():
    truth = Regimes(
        (Cellular(20e6, 0.2, 0.5), Cellular(1e6, 0.3, 0.5), Constant(0.0)),
        ((0.998, 0.002, 0), (0.001, 0.998, 0.001), (0, 0.004, 0.996)),
        0.1,
    )
    found = fitting.fit("regimes", drawn(truth, slots=40_000))
    out, low, high = found.channels
    assert out == Constant(0.0) or out.outage_share > 0.7  # the edges of an outage are smoothed into it
    assert low.median_bps == pytest.approx(1e6, rel=0.15)
    assert high.median_bps == pytest.approx(20e6, rel=0.05)
    share = stationary(found.transitions)
    sample = drawn(truth, slots=40_000).pooled
    assert share[2] == pytest.approx((sample > 5e6).mean(), abs=0.03)
    assert share[0] == pytest.approx((sample == 0).mean(), abs=0.04)


def test_clusters_of_a_line_are_those_of_all_cuts():
    """2-means against every possible cut; also where the lesser cluster is a fiftieth."""
    rng = np.random.default_rng(2)
    for low, high in ((60, 30), (147, 3), (4, 200)):
        values = np.sort(np.concatenate([rng.normal(0, 1, low), rng.normal(8, 1, high)]))
        cost = [values[:i].var() * i + values[i:].var() * (len(values) - i) for i in range(1, len(values))]
        assert (fitting.clusters(values, 2) == 0).sum() == 1 + int(np.argmin(cost)) == low


def test_clusters_are_found_whatever_their_shares():
    values = np.repeat([0.0, 5.0, 9.0], [20, 900, 80])
    assert np.bincount(fitting.clusters(values, 3)).tolist() == [20, 900, 80]
    assert np.bincount(fitting.clusters(values, 5)).tolist() == [20, 900, 80]
    assert np.bincount(fitting.clusters(np.ones(7), 3)).tolist() == [7]


def test_transitions_are_counted_along_a_ring():
    matrix = fitting.transitions(np.array([0, 1, 2, 0, 0, 1]), 3)
    assert matrix[0] == pytest.approx((1 / 3, 2 / 3, 0.0), abs=1e-8)
    assert matrix[1] == pytest.approx((0.5, 0.0, 0.5))
    assert matrix[2] == pytest.approx((1.0, 0.0, 0.0))
    assert all(sum(row) == pytest.approx(1.0, abs=1e-15) for row in matrix)


@pytest.mark.parametrize(
    ("kind", "rates", "words"),
    [
        ("gilbert-elliott", np.ones(50), "never changes"),
        ("ar1-log-normal", np.zeros(50), "is ever above"),
        ("rayleigh", np.zeros(50), "median rate is 0"),
        ("rayleigh", np.repeat([1e6, 9e6], (90, 10)), "9.00 times its median"),
        ("markow", np.ones(50), "did you mean 'markov'"),
    ],
)
def test_a_generator_that_cannot_describe_the_drives_says_why(kind, rates, words):
    with pytest.raises(ConfigError, match=words):
        fitting.fit(kind, drives(rates))


@pytest.mark.parametrize("kind", fitting.FITS)
def test_every_fit_of_odd_drives_is_a_channel_or_a_reason(kind):
    rng = np.random.default_rng(5)
    odd = (np.ones(20) * 1e6, np.zeros(20), np.r_[np.zeros(15), 1e6 * np.ones(5)], rng.uniform(0, 1e9, 30), np.r_[1e6, np.zeros(19)])
    for rates in odd:
        for sample in (drives(rates), drives(rates, 1e6 * np.ones(12))):
            try:
                channel = fitting.fit(kind, sample)
            except ConfigError:
                continue
            again = channel.draw(np.random.default_rng(0), 50, 0.1)
            assert np.isfinite(again).all()
            assert (again >= 0).all()


# --- how well it matches


def test_a_generator_matches_its_own_draws():
    """Of some fifteen numbers, each outside its 95 % range once in twenty: more than three would be a broken comparison."""
    for seed in range(3):
        sample = drives(CELLULAR.draw(np.random.default_rng(100 + seed), 5000, 0.1))
        compared = stats.compare(CELLULAR, sample, replicas=60)
        assert sum(not one.matches for one in compared.values()) <= 3
        assert stats.rate_distance(CELLULAR, sample, 20) < 0.1


def test_a_generator_of_another_kind_is_found_out():
    """Memoryless outages against ones that all last 5 s; and a rate without memory against one that has it."""
    long = np.tile(np.r_[np.full(450, 2e6), np.zeros(50)], 20)
    found = report(drives(long), ["gilbert-elliott"], replicas=40)["fits"][0]["match"]
    assert "outage_longest_s" in found["mismatches"] or "outage_p95_s" in found["mismatches"]
    assert "mean_bps" not in found["mismatches"]
    slow = drives(Cellular(2e6, 0.5, 10.0).draw(np.random.default_rng(0), 5000, 0.1))
    wrong = stats.compare(Cellular(2e6, 0.5, 0.2), slow, 40)
    assert not wrong["autocorrelation_1s"].matches


def test_a_report_tells_of_each_kind_and_of_drives_it_was_not_fitted_to():
    sample, other = drawn(CELLULAR, 600, 2), drawn(Cellular(20e6, 0.5, 0.8), 600, 1)
    found = report(sample, ["constant", "ar1-log-normal"], other, replicas=20)
    assert [fit["generator"] for fit in found["fits"]] == ["constant", "ar1-log-normal"]
    assert build(found["fits"][1]["channel"]) == fitting.fit("ar1-log-normal", sample)
    assert found["drives"] == [{"name": f"drive{i}", "bins": 600, "length_s": 60.0} for i in range(2)]
    assert "mean_bps" in found["fits"][1]["held_out"]["mismatches"]
    assert found["fits"][1]["match"]["numbers"]["mean_bps"]["trace"] == pytest.approx(sample.pooled.mean(), rel=1e-4)
    shown = text(found)
    assert "fitted to drive0 (60 s), drive1 (60 s)" in shown
    assert "held out drive0 (60 s)" in shown
    assert "median_bps" in shown


def test_a_report_of_all_goes_on_where_one_does_not_fit():
    found = report(drives(np.repeat([1e6, 9e6], (90, 10))), ["rayleigh", "constant"], replicas=5)
    assert "times its median" in found["fits"][0]["refused"]
    assert "channel" in found["fits"][1]
    assert "left out: rayleigh" in text(found)
    with pytest.raises(ConfigError, match="times its median"):
        report(drives(np.repeat([1e6, 9e6], (90, 10))), ["rayleigh"], replicas=5)


# --- files


def test_drives_of_unlike_bins_are_fitted_apart_or_in_the_coarser_ones(tmp_path):
    fine = write(tmp_path, 0.1 * np.arange(400), np.tile([1.0, 3.0], 200), "fine.csv")
    coarse = write(tmp_path, np.arange(40), np.ones(40), "coarse.csv")
    with pytest.raises(ConfigError, match=r"fine\.csv has samples every 0\.1 s and .*coarse\.csv every 1 s; .*--bin-s 1"):
        stats.load([fine, coarse])
    both = stats.load([fine, coarse], bin_s=1.0)
    assert both.rates_bps[0] == pytest.approx(np.full(40, 2e6))
    with pytest.raises(ConfigError, match=r"--bin-s 0\.5 is finer"):
        stats.load([coarse], bin_s=0.5)
    with pytest.raises(ConfigError, match="lasts 4 bins"):
        stats.load([coarse], bin_s=10.0)
    with pytest.raises(ConfigError, match="no trace files"):
        stats.load([])


# --- shipped


@pytest.mark.parametrize("name", fitted.SETS)
def test_the_shipped_parameters_are_what_the_command_finds_in_the_real_drives(data_dir, name):
    links, shipped = fitted.SETS[name], fitted.report(name)
    real = stats.load([data_dir / file for file in links.drives])
    assert [drive["name"] for drive in shipped["drives"]] == list(real.names)
    numbers = stats.measure(real.rates_bps, real.bin_s)
    for fit in shipped["fits"]:
        found = fitting.fit(fit["generator"], real)
        assert build(fit["channel"]) == found
        assert {key: one["trace"] for key, one in fit["match"]["numbers"].items()} == pytest.approx(numbers, rel=1e-4)
    if links.held_out:
        apart = stats.load([data_dir / file for file in links.held_out])
        numbers = stats.measure(apart.rates_bps, apart.bin_s)
        assert {key: one["trace"] for key, one in shipped["fits"][0]["held_out"]["numbers"].items()} == pytest.approx(numbers, rel=1e-4)


def test_the_shipped_comparison_is_what_the_command_finds(data_dir):
    """One whole file, draws and all; the parameters of the others are held above."""
    links, shipped = fitted.SETS["5g-nsa"], fitted.report("5g-nsa")
    sides = [stats.load([data_dir / file for file in files]) for files in (links.drives, links.held_out)]
    found = report(sides[0], list(fitting.FITS), sides[1])
    for ours, theirs in zip(found["fits"], shipped["fits"], strict=True):
        for part in ("match", "held_out"):
            assert ours[part]["mismatches"] == theirs[part]["mismatches"]
            assert ours[part]["rate_distance"] == pytest.approx(theirs[part]["rate_distance"])
            for key, one in ours[part]["numbers"].items():
                assert one == pytest.approx(theirs[part]["numbers"][key], rel=1e-4, abs=1e-9), key


@pytest.mark.parametrize("name", fitted.SETS)
def test_every_shipped_link_names_its_drives_its_source_and_its_command(name):
    links, shipped = fitted.SETS[name], fitted.report(name)
    assert not set(links.drives) & set(links.held_out)
    assert links.source
    assert [f"{drive['name']}.csv" for drive in shipped["held_out"]] == [file.split("/")[-1] for file in links.held_out]
    assert shipped["command"].startswith("cutlayer channel fit ")
    for file in (*links.drives, *links.held_out):
        assert file in shipped["command"].split()
    for fit in shipped["fits"]:
        match = fit["match"]
        assert match["mismatches"] == [key for key, one in match["numbers"].items() if not one["matches"]]
        rates = fitted.load(name, fit["generator"]).draw(np.random.default_rng(0), 500, 0.02)
        assert (rates >= 0).all()
        assert rates.max() > 0


def test_no_drive_that_is_tested_on_is_fitted_to():
    fitted_to = {file for links in fitted.SETS.values() for file in links.drives}
    held_out = {file for links in fitted.SETS.values() for file in links.held_out}
    assert not fitted_to & {*held_out, *inputs.TEST_TRACES}
    assert set(inputs.TRAIN_TRACES) <= fitted_to


def test_what_the_documentation_says_of_mismatches_is_in_the_files():
    """Medians of the longest outage, the memory after 30 s and p95, as the docstring of `fitted` tells them."""
    longest = {"lte": (3.4, 2.0), "3g": (5.7, 3.5), "5g-sa-low-band": (23.0, 9.0)}
    for name, (measured, most) in longest.items():
        numbers = [fit["match"]["numbers"]["outage_longest_s"] for fit in fitted.report(name)["fits"]]
        assert {one["trace"] for one in numbers} == {measured}
        assert max(one["generated"] for one in numbers) == most
    for name in ("5g-nsa-walking", "5g-sa-low-band"):
        numbers = next(fit for fit in fitted.report(name)["fits"] if fit["generator"] == "ar1-log-normal")["match"]["numbers"]
        assert 0.4 <= numbers["autocorrelation_30s"]["trace"] < 0.48
        assert 0.14 < numbers["autocorrelation_3s"]["generated"] < 0.27
        assert 1.2 < numbers["p95_bps"]["generated"] / numbers["p95_bps"]["trace"] < 1.8
    held_out = fitted.report("5g-nsa-walking")["fits"][0]["held_out"]["numbers"]["outage_longest_s"]["trace"]
    assert held_out == 48.0
    lte = fitted.report("lte")["fits"][0]
    assert lte["held_out"]["numbers"]["mean_bps"]["trace"] / lte["match"]["numbers"]["mean_bps"]["trace"] == pytest.approx(4.4, abs=0.1)


@pytest.mark.parametrize(
    ("name", "generator", "words"), [("ltee", "markov", "did you mean 'lte'"), ("lte", "markow", "did you mean 'markov'")]
)
def test_an_unknown_link_or_generator_is_refused_with_the_nearest(name, generator, words):
    with pytest.raises(ConfigError, match=words):
        fitted.load(name, generator)

"""Channels have the statistics that their fields claim, traces are replayed as they were measured, and bad files are refused."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cutlayer.agents import inputs
from cutlayer.envs import scenarios
from cutlayer.envs.channels import Cellular, Constant, Mixture, Trace, fitted, on_off, read_trace, replay
from cutlayer.errors import ConfigError

SLOT_S = 0.02


def runs(on):
    """Lengths of the runs of true values that begin and end inside."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], np.asarray(on, int), [0]])))
    return (edges[1::2] - edges[::2])[1:-1]


@pytest.mark.parametrize(("share", "mean_s"), [(0.068, 0.36), (0.4, 2.0), (0.9, 0.5)])
def test_on_off_is_on_for_its_share_and_its_mean_time(share, mean_s):
    on = on_off(np.random.default_rng(5), 400_000, SLOT_S, share, mean_s)
    assert on.mean() == pytest.approx(share, rel=0.08)
    lengths = runs(on) * SLOT_S
    assert lengths.mean() == pytest.approx(mean_s, rel=0.08)
    # A Markov chain forgets: its stays are geometric, with a standard deviation near their mean.
    assert lengths.std() == pytest.approx(math.sqrt(mean_s * (mean_s - SLOT_S)), rel=0.12)


def test_on_off_begins_in_its_steady_state():
    """A chain that always began 'off' would make every short episode better than the link is."""
    on = [on_off(np.random.default_rng(seed), 1, SLOT_S, 0.3, 5.0)[0] for seed in range(3000)]
    assert np.mean(on) == pytest.approx(0.3, abs=0.03)


def test_a_constant_channel_is_constant():
    assert np.array_equal(Constant(3e6).draw(np.random.default_rng(0), 7, SLOT_S), np.full(7, 3e6))


def test_cellular_rates_have_their_median_spread_and_correlation():
    rate = Cellular(2e6, spread=0.7, decorrelation_s=0.5).draw(np.random.default_rng(1), 400_000, SLOT_S)
    level = np.log(rate)
    assert np.exp(np.median(level)) == pytest.approx(2e6, rel=0.05)
    assert level.std() == pytest.approx(0.7, rel=0.05)
    x = level - level.mean()
    for lag_s in (SLOT_S, 0.5, 1.0):
        lag = round(lag_s / SLOT_S)
        assert (x[:-lag] * x[lag:]).mean() / x.var() == pytest.approx(math.exp(-lag_s / 0.5), abs=0.05)


def test_cellular_rates_do_not_depend_on_how_the_time_is_cut():
    """Half the slot length, the same process: spread and correlation over a second stay."""
    for slot_s in (0.01, 0.1):
        level = np.log(Cellular(2e6, 0.7, 1.0).draw(np.random.default_rng(2), int(4000 / slot_s), slot_s))
        x, lag = level - level.mean(), round(1.0 / slot_s)
        assert x.std() == pytest.approx(0.7, rel=0.06)
        assert (x[:-lag] * x[lag:]).mean() / x.var() == pytest.approx(math.exp(-1), abs=0.06)


def test_cellular_outages_carry_nothing_and_take_their_share():
    channel = Cellular(2e6, 0.7, 0.5, outage_share=0.1, outage_s=0.5)
    rate = channel.draw(np.random.default_rng(3), 400_000, SLOT_S)
    out = rate == 0.0
    assert out.mean() == pytest.approx(0.1, rel=0.1)
    assert runs(out).mean() * SLOT_S == pytest.approx(0.5, rel=0.08)
    # Outages are no part of the level: outside them median and spread are as without.
    assert np.exp(np.median(np.log(rate[~out]))) == pytest.approx(2e6, rel=0.05)
    assert (Cellular(2e6, 0.7, 0.5).draw(np.random.default_rng(3), 1000, SLOT_S) > 0).all()


def test_cellular_drives_differ_in_their_median():
    channel = Cellular(2e6, spread=0.01, decorrelation_s=0.5, drive_spread=0.8)
    medians = [np.median(np.log(channel.draw(np.random.default_rng(seed), 20, SLOT_S))) for seed in range(2000)]
    assert np.std(medians) == pytest.approx(0.8, rel=0.06)
    assert np.exp(np.mean(medians)) == pytest.approx(2e6, rel=0.08)


def test_cellular_correlation_begins_in_its_steady_state():
    first = [math.log(Cellular(1.0, 0.7, 60.0).draw(np.random.default_rng(seed), 1, SLOT_S)[0]) for seed in range(2000)]
    assert np.std(first) == pytest.approx(0.7, rel=0.06)


def test_a_mixture_draws_one_of_its_channels_for_a_whole_episode():
    channel = Mixture((Constant(1.0), Constant(2.0)))
    drawn = [np.unique(channel.draw(np.random.default_rng(seed), 50, SLOT_S)) for seed in range(400)]
    assert all(len(values) == 1 for values in drawn)
    assert np.mean([values[0] for values in drawn]) == pytest.approx(1.5, abs=0.08)


def test_a_trace_holds_each_value_until_the_next_and_wraps_at_its_end(lab):
    """Samples at 0, 1 and 3 s; the last holds for the median gap of 1.5 s, so the trace is 4.5 s long."""
    trace = Trace(("t",), (np.array([0.0, 1.0, 3.0]),), (np.array([10.0, 20.0, 30.0]),))
    slots = trace.draw(lab.Chosen(0.25), 14, 0.5)
    #   0.25 0.75 | 1.25 1.75 2.25 2.75 | 3.25 3.75 4.25 | wrapped: 0.25 0.75 | 1.25 ...
    assert slots.tolist() == [10, 10, 20, 20, 20, 20, 30, 30, 30, 10, 10, 20, 20, 20]
    assert trace.draw(lab.Chosen(4.4), 3, 0.5).tolist() == [30, 10, 10]
    assert trace.draw(lab.Chosen(1.0), 1, 0.5).tolist() == [20]  # a sample holds from its own time on


def test_a_trace_starts_anywhere_in_any_file(lab):
    trace = Trace(
        ("a", "b"), (np.arange(10.0), np.arange(10.0)), (np.arange(10.0), 100 + np.arange(10.0))
    )  # fmt: skip
    starts = np.array([trace.draw(np.random.default_rng(seed), 1, 0.1)[0] for seed in range(2000)])
    values, counts = np.unique(starts, return_counts=True)
    assert values.tolist() == [*range(10), *range(100, 110)]
    assert counts.min() > 60
    assert trace.draw(lab.Chosen(2.5, file=1), 2, 1.0).tolist() == [102, 103]


def test_a_trace_longer_than_the_episode_is_replayed_in_order(lab):
    rates = np.random.default_rng(0).uniform(size=1000)
    trace = Trace(("t",), (0.1 * np.arange(1000),), (rates,))
    got = trace.draw(lab.Chosen(20.05), 300, 0.1)
    assert np.array_equal(got, rates[200:500])


def write(tmp_path, text, name="drive.csv"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_good_trace_is_read_in_seconds_from_zero_and_bits_per_second(tmp_path):
    path = write(tmp_path, "t_s,rsrp_dbm,ul_mbps\n5.0,-80,1.5\n5.5,-81,\n6.0,-82,0\n7.25,,2\n")
    times, rates = read_trace(path)
    assert times.tolist() == [0.0, 1.0, 2.25]  # the empty cell was not measured
    assert rates.tolist() == [1.5e6, 0.0, 2e6]
    assert read_trace(write(tmp_path, "t_s,dl_mbps\n0,1\n1,2\n"), "dl_mbps")[1].tolist() == [1e6, 2e6]


def test_replay_takes_the_files_in_the_order_of_their_names(tmp_path):
    paths = [write(tmp_path, f"t_s,ul_mbps\n0,{rate}\n1,{rate}\n", f"{name}.csv") for rate, name in ((2, "b"), (1, "a"))]
    trace = replay(paths)
    assert trace.names == ("a", "b")
    assert [rates[0] for rates in trace.rates_bps] == [1e6, 2e6]


GOOD = "t_s,ul_mbps\n0,1\n1,2\n"
BAD = {
    "empty file": "",
    "header only": "t_s,ul_mbps\n",
    "no time column": "time,ul_mbps\n0,1\n1,2\n",
    "no rate column": "t_s,dl_mbps\n0,1\n1,2\n",
    "rate nan": "t_s,ul_mbps\n0,1\n1,nan\n",
    "rate infinite": "t_s,ul_mbps\n0,1\n1,inf\n",
    "rate negative": "t_s,ul_mbps\n0,1\n1,-2\n",
    "rate text": "t_s,ul_mbps\n0,1\n1,fast\n",
    "time nan": "t_s,ul_mbps\n0,1\nnan,2\n2,3\n",
    "time infinite": "t_s,ul_mbps\n0,1\n1,2\ninf,3\n",
    "time text": "t_s,ul_mbps\nnow,1\n1,2\n",
    "time empty": "t_s,ul_mbps\n0,1\n,2\n2,3\n",
    "times fall": "t_s,ul_mbps\n0,1\n2,2\n1,3\n",
    "times repeat": "t_s,ul_mbps\n0,1\n1,2\n1,3\n",
    "one row": "t_s,ul_mbps\n0,1\n",
    "one row measured": "t_s,ul_mbps\n0,1\n1,\n2,\n",
    "nothing measured": "t_s,ul_mbps\n0,\n1,\n",
    "short row": "t_s,ul_mbps,x\n0,1,1\n1\n2,3,4\n5\n",
    "no text": b"\x89PNG\r\n\x1a\n\xff\xfe\x00\x00",
    "endless cell": "t_s,ul_mbps\n0," + "1" * 200_000 + "\n1,2\n",
}


@pytest.mark.parametrize("case", [name for name in BAD if name != "short row"])
def test_a_bad_trace_is_refused_with_its_name(tmp_path, case):
    path = write(tmp_path, BAD[case])
    with pytest.raises(ConfigError) as caught:
        read_trace(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message.replace(str(path), "")
    assert len(message) < 600 + len(str(path))


def test_a_row_without_a_rate_cell_was_not_measured(tmp_path):
    assert read_trace(write(tmp_path, BAD["short row"]))[0].tolist() == [0.0, 2.0]


@pytest.mark.parametrize("name", ["missing.csv", "."])
def test_a_missing_trace_or_a_folder_is_refused_with_its_name(tmp_path, name):
    with pytest.raises(ConfigError, match="cannot read trace") as caught:
        read_trace(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


def test_replay_of_no_file_or_a_bad_one_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no trace files"):
        replay([])
    with pytest.raises(ConfigError, match=r"worse\.csv"):
        replay([write(tmp_path, GOOD), write(tmp_path, BAD["rate text"], "worse.csv")])


@pytest.mark.parametrize("name", [*inputs.TRAIN_TRACES, *inputs.TEST_TRACES])
def test_every_real_trace_that_is_used_loads(data_dir, name):
    times, rates = read_trace(data_dir / name)
    assert times[0] == 0.0
    assert len(times) == len(rates) > 300
    assert times[-1] > 100.0
    assert 1e5 < np.median(rates) < 1e9
    slots = replay([data_dir / name]).draw(np.random.default_rng(0), 5000, SLOT_S)
    assert np.isin(slots, rates).all()
    assert slots.std() > 0


def test_training_and_test_drives_are_apart():
    """Also where drives are replaced by what was fitted: no link that ships has seen a drive that policies are tested on."""
    assert not set(inputs.TRAIN_TRACES) & set(inputs.TEST_TRACES)
    used = [drive for name in ("lte", "5g-nsa") for drive in fitted.SETS[name].drives]
    assert used == list(inputs.TRAIN_TRACES)
    assert not set(used) & {*inputs.TEST_TRACES, *(drive for name in ("lte", "5g-nsa") for drive in fitted.SETS[name].held_out)}
    assert scenarios.make("camera").channel == Mixture((fitted.load("lte"), fitted.load("5g-nsa")))


@pytest.mark.parametrize(("name", "link"), [("compound", "lte"), ("bursty-deadline", "lte"), ("paper-urllc", "5g-nsa")])
def test_links_that_are_our_choice_vary_as_the_fitted_ones_do(name, link):
    channel, own = scenarios.make(name).channel, fitted.load(link)
    assert channel.spread == own.spread
    assert channel.median_bps > own.median_bps

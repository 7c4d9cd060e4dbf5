"""Packet traces, columns with units, and channels written as plain values: read as they were meant, refused with their fault."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.envs.channels import (
    Cellular,
    Constant,
    GilbertElliott,
    Markov,
    Mixture,
    Rayleigh,
    Regimes,
    build,
    describe,
    read_mahimahi,
    read_trace,
    replay,
)
from cutlayer.envs.channels.traces import read
from cutlayer.errors import ConfigError


def write(folder, text, name):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


# --- mahimahi


def test_a_packet_trace_is_counted_in_bins_of_1500_bytes(tmp_path):
    """Stamps 0 and 99 are in the first 100 ms, 100 in the second, 300 in the fourth, which the trace ends inside."""
    path = write(tmp_path, "0\n99\n100\n100\n300\n", "drive.up")
    times, rates = read_mahimahi(path)
    assert times == pytest.approx([0.0, 0.1, 0.2])
    assert rates.tolist() == [2 * 120e3, 2 * 120e3, 0.0]
    times, rates = read_mahimahi(path, bin_s=0.05)
    assert rates.tolist() == [240e3, 240e3, 480e3, 0.0, 0.0, 0.0]


@given(st.lists(st.integers(0, 40), min_size=5, max_size=400), st.sampled_from([0.02, 0.05, 0.1, 0.25]))
def test_a_packet_trace_carries_what_its_whole_bins_hold(tmp_path_factory, gaps, bin_s):
    stamps = np.cumsum([*gaps, 1000])
    path = write(tmp_path_factory.mktemp("trace"), "\n".join(map(str, stamps)), "t.down")
    times, rates = read_mahimahi(path, bin_s)
    whole_ms = round(1000 * bin_s) * (int(stamps[-1]) // round(1000 * bin_s))
    assert len(times) * bin_s * 1000 == pytest.approx(whole_ms)
    assert rates.sum() * bin_s / 8 == pytest.approx(1500 * (stamps < whole_ms).sum())


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"0\n",
        b"50\n",
        b"0\n250\n200\n",
        b"-1\n300\n",
        b"0\n1.5\n900\n",
        b"t_s,ul_mbps\n0,1\n1,2\n",
        b"\xff\xfe\x00",
        b"0\n9" + b"0" * 17,
    ],
)
def test_a_file_that_is_no_packet_trace_is_refused_with_its_name(tmp_path, content):
    path = write(tmp_path, content, "drive.up")
    with pytest.raises(ConfigError) as caught:
        read_mahimahi(path)
    message = str(caught.value)
    assert str(path) in message
    assert len(message) < 300 + len(str(path))
    assert "\n" not in message


def test_a_missing_packet_trace_is_refused_with_its_name(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read trace .*none\.up"):
        read_mahimahi(tmp_path / "none.up")


def test_the_name_says_what_a_file_is(tmp_path):
    packets = write(tmp_path, "0\n100\n200\n300\n", "a.up")
    table = write(tmp_path, "t_s,ul_mbps\n0,1\n1,2\n", "b.CSV")
    assert read(packets)[1].tolist() == [120e3, 120e3, 120e3]
    assert read(table)[1].tolist() == [1e6, 2e6]
    both = replay([table, packets])
    assert both.names == ("a", "b")
    with pytest.raises(ConfigError, match=r"must end in \.csv"):
        read(write(tmp_path, "t_s,ul_mbps\n0,1\n", "c.txt"))


# --- columns


@pytest.mark.parametrize(
    ("column", "time_column", "rate", "second"),
    [("ul_bps", "t_s", 3.0, 1.0), ("tput_kbps", "at_ms", 3e3, 1e-3), ("x_mbps", "t_s", 3e6, 1.0), ("UL_Gbps", "T_ms", 3e9, 1e-3)],
)
def test_the_end_of_a_column_says_its_unit(tmp_path, column, time_column, rate, second):
    path = write(tmp_path, f"{time_column},{column}\n5,3\n7,0\n", "mine.csv")
    times, rates = read_trace(path, column, time_column)
    assert times.tolist() == [0.0, 2 * second]
    assert rates.tolist() == [rate, 0.0]


def test_a_table_with_a_byte_order_mark_is_read(tmp_path):
    assert read_trace(write(tmp_path, "\ufefft_s,ul_mbps\n0,1\n1,2\n", "excel.csv"))[1].tolist() == [1e6, 2e6]


@pytest.mark.parametrize(
    ("column", "time_column", "words"),
    [
        ("speed", "t_s", "column 'speed' does not tell its unit; .*_mbps"),
        ("ul_mbps", "t", "column 't' does not tell its unit; .*_ms"),
        ("dl_mbps", "t_s", "has the columns t_s, t, speed, ul_mbps; it needs t_s .time. and dl_mbps"),
    ],
)
def test_a_column_that_is_not_there_or_tells_no_unit_is_refused(tmp_path, column, time_column, words):
    path = write(tmp_path, "t_s,t,speed,ul_mbps\n0,0,1,1\n1,1,2,2\n", "mine.csv")
    with pytest.raises(ConfigError, match=words):
        read_trace(path, column, time_column)


def test_the_row_that_is_wrong_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"row 3, .*fast"):
        read_trace(write(tmp_path, "t_s,ul_mbps\n0,1\n1,fast\n", "mine.csv"))


def test_a_real_drive_is_the_same_in_bins_and_in_packets(data_dir, tmp_path):
    """The shared drives are packet traces counted in 100 ms: written as packets again, the reader finds the same rates."""
    times, rates = read_trace(data_dir / "trace_lte_mahimahi/dev/TMobile-UMTS-driving.csv")
    packets = np.rint(rates * 0.1 / 12000).astype(int)
    stamps = np.repeat(np.rint(times * 1000).astype(int) + 50, packets)
    path = write(tmp_path, "\n".join(map(str, [*stamps, round(times[-1] * 1000) + 100])), "again.up")
    assert read_mahimahi(path)[1] == pytest.approx(rates)


# --- plain values

NESTED = Regimes(
    (Cellular(2e6, 0.7, 1.0, 0.1, 0.5, 0.3), Mixture((Constant(0.0), GilbertElliott(1e6, 0.0, 2.0, 0.5)))), ((0.9, 0.1), (0.5, 0.5)), 0.5
)
EVERY = (Constant(3e6), Markov((8e6, 1e6), ((0.5, 0.5), (0.1, 0.9)), 0.1), Rayleigh(1e6, -3.0, 0.05), NESTED)


@pytest.mark.parametrize("channel", EVERY, ids=lambda channel: type(channel).__name__)
def test_a_generator_is_built_again_from_what_it_is_written_as(channel):
    values = describe(channel)
    assert build(values) == channel
    assert build(json.loads(json.dumps(values))) == channel
    assert next(iter(values)) == "kind"


def test_defaults_may_be_left_out_and_whole_numbers_are_numbers():
    assert build({"kind": "ar1-log-normal", "median_bps": 2_000_000, "spread": 1, "decorrelation_s": 1}) == Cellular(2e6, 1.0, 1.0)


def test_traces_are_built_from_their_files(tmp_path):
    write(tmp_path, "t_s,up_mbps\n0,1\n1,2\n", "drive.csv")
    trace = build({"kind": "trace", "files": ["drive.csv"], "column": "up_mbps"}, tmp_path)
    assert set(trace.draw(np.random.default_rng(0), 100, 0.1)) == {1e6, 2e6}
    with pytest.raises(ConfigError, match="Trace has no name"):
        describe(trace)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "unknown channel kind None; known: constant"),
        ({"kind": "markow"}, "did you mean 'markov'"),
        ({"kind": "constant"}, "constant channel: rate_bps missing"),
        ({"kind": "constant", "rate_bps": "fast"}, "rate_bps is 'fast'"),
        ({"kind": "constant", "rate": 1e6}, "unknown field 'rate'; did you mean 'rate_bps'"),
        ({"kind": "constant", "rate_bps": -5}, "rate_bps is -5.0"),
        ({"kind": "markov", "rates_bps": [1, 2], "transitions": [0.5, 0.5], "step_s": 1}, "transitions is"),
        ({"kind": "trace"}, "files missing"),
        ({"kind": "trace", "files": []}, "no trace files"),
        ({"kind": "trace", "files": "drive.csv"}, "files is 'drive.csv'"),
        ({"kind": "mixture", "channels": [{"kind": "constant", "rate_bps": math.nan}]}, "rate_bps is nan"),
        ({"kind": "mixture", "channels": [1]}, r"channels is \[1\]"),
    ],
)
def test_values_that_tell_of_no_channel_are_refused_with_the_mend(values, words):
    with pytest.raises(ConfigError, match=words):
        build(values)

"""`cutlayer channel fit`: fits, compares, writes and draws; bad input ends in one line and exit code 2."""

from __future__ import annotations

import json
import shlex

import numpy as np
import pytest

from cutlayer import cli
from cutlayer.envs.channels import Cellular, build, fitting


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    """The command in this process, in an empty folder: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        try:
            code = cli.main(["channel", "fit", *(str(argument) for argument in arguments)])
        except SystemExit as stopped:
            code = stopped.code
        caught = capsys.readouterr()
        return code, caught.out, caught.err

    return call


@pytest.fixture
def drive(tmp_path):
    """Write a drive of a log-normal link; hand back its name."""

    def make(name, seed=0, column="ul_mbps", slots=300):
        rates = Cellular(2e6, 0.5, 0.8, 0.05, 0.3).draw(np.random.default_rng(seed), slots, 0.1)
        rows = "".join(f"{0.1 * i:.1f},{rate / 1e6:.4f}\n" for i, rate in enumerate(rates))
        (tmp_path / name).write_text(f"t_s,{column}\n{rows}")
        return name

    return make


def test_a_fit_is_printed_written_and_drawn(run, drive, tmp_path):
    code, out, err = run(drive("a.csv"), drive("b.csv", 1), "--held-out", drive("c.csv", 2), "--generator", "all", "--replicas", 8,
                         "--figure", "fit.png", "-o", "fit.json", "--json")  # fmt: skip
    assert (code, err) == (0, "")
    result = json.loads(out)
    assert result == json.loads((tmp_path / "fit.json").read_text())
    assert [fit["generator"] for fit in result["fits"]] == list(fitting.FITS)
    assert all("match" in fit and "held_out" in fit for fit in result["fits"] if "channel" in fit)
    assert (tmp_path / "fit.png").read_bytes().startswith(b"\x89PNG")
    assert build(next(fit["channel"] for fit in result["fits"] if fit["generator"] == "ar1-log-normal")).median_bps > 1e6
    assert max(len(line) for line in (tmp_path / "fit.json").read_text().splitlines()) < 300


def test_the_command_that_is_written_down_gives_the_same_again(run, drive):
    options = ("--generator", "markov", "--replicas", 7, "--seed", 3, "--lag-s", 0.2, "--lag-s", 2, "--outage-mbps", 0.5, "--bin-s", 0.2)
    _, first, _ = run(drive("a b.csv"), *options, "--held-out", drive("c.csv", 1), "--json")
    first = json.loads(first)
    words = shlex.split(first["command"])
    assert words[:3] == ["cutlayer", "channel", "fit"]
    code, again, _ = run(*words[3:], "--json")
    assert code == 0
    assert json.loads(again) == first
    assert {"autocorrelation_0.2s", "autocorrelation_2s"} <= set(first["fits"][0]["match"]["numbers"])
    _, plain, _ = run("c.csv", "--replicas", 100, "--json")
    assert json.loads(plain)["command"] == "cutlayer channel fit c.csv --generator ar1-log-normal"


def test_a_table_is_printed_for_people(run, drive):
    code, out, err = run(drive("a.csv"), "--replicas", 5)
    assert (code, err) == (0, "")
    for words in ("fitted to a (30 s)", "ar1-log-normal", "p95 Mb/s", "autocorrelation 1s", "outage longest s", "* the drives lie outside"):
        assert words in out


def test_a_users_columns_and_a_packet_trace_are_fitted(run, drive, tmp_path):
    code, out, _ = run(drive("mine.csv", column="tput_mbps"), "--column", "tput_mbps", "--generator", "constant", "--replicas", 3, "--json")
    assert code == 0
    assert "--column tput_mbps" in json.loads(out)["command"]
    (tmp_path / "drive.up").write_text("".join(f"{ms}\n" for ms in range(0, 3000, 4)))
    code, out, _ = run("drive.up", "--generator", "constant", "--replicas", 3, "--json")
    assert code == 0
    assert json.loads(out)["fits"][0]["channel"] == {"kind": "constant", "rate_bps": 3e6}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["none.csv"], "none.csv"),
        (["a.csv", "--generator", "markow"], "did you mean 'markov'"),
        (["a.csv", "--column", "speed"], "a.csv"),
        (["a.csv", "--held-out", "a.csv"], "a.csv is fitted and held out at once"),
        (["a.csv", "--held-out", "./a.csv"], "a.csv is fitted and held out at once"),
        (["a.csv", "--bin-s", "0.01"], "--bin-s 0.01 is finer"),
        (["a.csv", "--bin-s", "-1"], "not above 0"),
        (["a.csv", "--outage-mbps", "nan"], "not above 0"),
        (["a.csv", "--lag-s", "soon"], "no number"),
        (["a.csv", "--replicas", "0"], "less than 1"),
        (["a.csv", "--outage-mbps", "1000"], "is ever above"),
        ([], "TRACE"),
    ],
)
def test_bad_input_ends_in_one_line(run, drive, tmp_path, arguments, words):
    drive("a.csv")
    code, out, err = run(*arguments, *(["-o", "fit.json"] if arguments else []))
    assert (code, out) == (2, "")
    assert words in err
    assert err.count("\n") == 1
    assert not (tmp_path / "fit.json").exists()

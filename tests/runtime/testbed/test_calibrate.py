"""Calibration: its arithmetic on made-up measurements, and the whole of it over real processes in small."""

from __future__ import annotations

import json
import os

import pytest

from cutlayer import cli
from cutlayer.runtime.testbed import calibrate
from cutlayer.runtime.testbed.calibrate import Configuration, LinkSetting
from cutlayer.runtime.testbed.others import Others

SETTING = LinkSetting(20e6, 0.01)


def made_up(count, measured):
    """Configurations with predictions of 10 ms, 20 ms, ...; `measured` is a function of the prediction."""
    predictions = [0.01 * (1 + i) for i in range(count)]
    return [Configuration("m", "p", SETTING, 1.0, one, 0.5 * one, measured(one), 0) for one in predictions]


def test_a_constant_that_was_missing_is_found_and_leaves_no_error():
    told = calibrate.judge(made_up(30, lambda predicted: predicted + 0.0031), seed=1)
    assert told["c0_s"] == pytest.approx(0.0031)
    assert (told["mape"], told["bias"], told["p95_error"]) == pytest.approx((0.0, 0.0, 0.0), abs=1e-9)
    assert (told["configurations"], told["held_out_configurations"]) == (30, 10)


def test_the_errors_are_relative_signed_and_of_the_rest():
    """Everything takes a quarter longer than predicted: no constant mends it, and predictions are low."""
    told = calibrate.judge(made_up(300, lambda predicted: 1.25 * predicted), seed=1)
    assert told["naive_bias"] == pytest.approx(-0.6)
    assert told["naive_mape"] == pytest.approx(0.6)
    assert told["mape"] > 0.05


def test_what_is_held_out_does_not_move_the_constant():
    """The same configurations but for one that is held out: c0 stays, the error does not."""
    plain = made_up(30, lambda predicted: predicted + 0.003)
    before = calibrate.judge(plain, seed=4)
    moved = 0
    for i, one in enumerate(plain):
        worse = [*plain[:i], Configuration("m", "p", SETTING, 1.0, one.predicted_s, one.naive_s, 9.0, 0), *plain[i + 1 :]]
        after = calibrate.judge(worse, seed=4)
        assert after["c0_s"] == pytest.approx(before["c0_s"])  # a median of twenty does not move for one
        moved += after["mape"] > 0.01
    assert moved == before["held_out_configurations"]


def test_cuts_are_distinct_and_exist():
    assert calibrate.cuts(7, 6) == [0, 1, 2, 3, 6]
    assert calibrate.cuts(1, 6) == [0, 1]


def test_the_time_of_others_is_what_is_left(tmp_path):
    """A made-up /proc/stat: others used a whole second of every core, which is more than passed."""
    stat, tick = tmp_path / "stat", os.sysconf("SC_CLK_TCK")
    stat.write_text("cpu  0 0 0 0 0 0 0 0 0 0\n")
    others = Others(stat)
    stat.write_text(f"cpu  {1000 * tick} 0 0 0 0 0 0 0 0 0\n")
    assert others.share() == 1.0
    stat.write_text("cpu  0 0 0 99999 99999 0 0 0 0 0\n")  # idle and waiting for disks is nobody's work
    assert others.share() == 0.0


def test_real_split_inference_is_predicted_within_a_factor(monkeypatch, capsys):
    """Small, on a machine of any load, so the bound is wide: a wrong unit or a forgotten term would be a factor off."""
    monkeypatch.setattr(calibrate, "LINKS", (LinkSetting(2e6, 0.04),))
    monkeypatch.setattr(calibrate, "SLOW_DOWNS", (8.0,))
    monkeypatch.setattr(calibrate, "PROFILE_RUNS", 4)
    monkeypatch.setattr(calibrate, "REQUESTS", 5)
    monkeypatch.setattr(calibrate, "MOST", 2.0)
    monkeypatch.setattr(calibrate.acceptance, "NOISY_RATIO", 1e9)
    assert cli.main(["testbed", "calibrate", "resnet8", "--backend", "proxy", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["quiet"]
    for one in told["measured"]:
        assert 0.5 < one["measured_s"] / one["predicted_s"] < 3.0, one
    raw = [one for one in told["measured"] if "raw" in one["plan"]]
    assert all(one["measured_s"] >= 8 * 3072 / 2e6 + 0.04 for one in raw)


def test_a_busy_machine_is_told_and_does_not_pass(monkeypatch, capsys):
    told = {**calibrate.judge(made_up(30, lambda x: x), 0), "quiet": False, "others": 0.4, "wall_over_cpu": 1.02}
    monkeypatch.setattr(calibrate, "calibrate", lambda *_: told)
    with pytest.raises(SystemExit) as ended:
        cli.main(["testbed", "calibrate", "--backend", "proxy", "--json"])
    assert ended.value.code == 1
    shown = capsys.readouterr()
    assert '"mape"' in shown.out
    assert "others took 40%" in shown.err

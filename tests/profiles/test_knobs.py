"""The knob report: known answers on tables that one can solve by hand, and a slow obvious loop for the rest."""

from __future__ import annotations

import dataclasses
import json

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.errors import ConfigError, ProfileError
from cutlayer.profiles import builtin, check, knobs
from cutlayer.profiles.cost import Estimate, Path, deadline, linear
from cutlayer.profiles.knobs import Sweep, report
from cutlayer.profiles.plans import PlanRow, PlanTable
from cutlayer.runtime.rules import Greedy

SMALL = Sweep(rates_bps=(0.3e6, 2e6, 9e6, 300e6), slow_downs=(1.0, 3.3, 7.0), edge_loads=(0.0, 0.5, 0.9))
NEAR = Path(rtt_s=0.002)


def row(exit_=0, partition=0, bits=8, **given_):
    """A plan of which only what matters is said; nothing costs anything."""
    free = dict.fromkeys(("device_s", "encode_s", "decode_s", "edge_s", "device_j", "fallback_s", "fallback_j"), 0.0)
    nothing = {"payload_bytes": 0, "wire_bytes": 0, "accuracy": 0.5, "fallback_exit": 0, "fallback_accuracy": 0.5}
    return PlanRow(exit=exit_, partition=partition, bits=bits, **(free | nothing | given_))


def table(*rows, depths=(2,)):
    return PlanTable("net", "device", "edge", depths, rows)


def choice():
    """Send 10 kB, send 1 kB after half of the device's work, or do it all: 40 ms on the device, 1 ms on the edge."""
    return table(
        row(0, 0, 8, edge_s=0.001, wire_bytes=10_000),
        row(0, 1, 8, device_s=0.02, edge_s=0.0005, wire_bytes=1_000),
        row(0, 3, 0, device_s=0.04),
    )


def test_a_dead_link_leaves_the_device_and_an_endless_one_sends_the_input():
    found = report(choice(), NEAR, linear(0.1), Sweep((1e3, 1e12), (1.0,), (0.0,)))
    assert [found.plans.name(int(plan)) for plan in found.chosen[0, 0]] == ["e0 local", "e0 raw"]


def test_the_rate_at_which_the_cut_takes_over_is_the_one_worked_out_by_hand():
    # Cut and local are worth the same where 20 ms + 8 kbit / rate + 2 ms there and back + reply + 0.5 ms = 40 ms.
    reply_s = NEAR.return_s - NEAR.rtt_s / 2
    rate = 8 * 1_000 / (0.04 - 0.02 - NEAR.rtt_s - 0.0005 - reply_s)
    found = report(choice(), NEAR, linear(0.1), Sweep((0.999 * rate, 1.001 * rate), (1.0,), (0.0,)))
    assert [found.plans.name(int(plan)) for plan in found.chosen[0, 0]] == ["e0 local", "e0 p1 8b"]


def test_a_busy_edge_takes_work_back_to_the_device():
    # At load 0.9 the wait is 45 ms: longer than all of the device's work.
    found = report(choice(), NEAR, linear(0.1), Sweep((1e12,), (1.0,), (0.0, 0.9)))
    assert [found.plans.name(int(plan)) for plan in found.chosen[:, 0, 0]] == ["e0 raw", "e0 local"]


def test_load_zero_is_an_idle_edge_and_both_effects_grow_with_it():
    assert (knobs.edge_wait_s(0.0), knobs.edge_slow_down(0.0)) == (0.0, 1.0)
    assert knobs.edge_wait_s(0.5) == pytest.approx(knobs.EDGE_JOB_S)
    assert knobs.edge_wait_s(0.8) > knobs.edge_wait_s(0.4)
    assert knobs.edge_slow_down(0.8) > knobs.edge_slow_down(0.4) > 1.0


@pytest.mark.parametrize("objective", [deadline(0.08), linear(0.08), deadline(0.03)])
def test_the_sweep_equals_the_greedy_rule_asked_state_by_state(objective):
    found = report(builtin.table(), knobs.PATH, objective, SMALL)
    for i, load in enumerate(SMALL.edge_loads):
        stretch = knobs.edge_slow_down(load)
        slower = [
            msgspec.structs.replace(plan, edge_s=plan.edge_s * stretch, decode_s=plan.decode_s * stretch) for plan in found.plans.rows
        ]
        greedy = Greedy(dataclasses.replace(found.plans, rows=tuple(slower)), knobs.PATH, objective)
        for j, slow_down in enumerate(SMALL.slow_downs):
            for k, rate in enumerate(SMALL.rates_bps):
                plan, _ = greedy.choose(Estimate(rate, slow_down=slow_down, edge_wait_s=knobs.edge_wait_s(load)))
                assert found.plans.name(int(found.chosen[i, j, k])) == found.plans.name(plan)


def test_ties_go_to_fewer_bytes_then_to_less_energy_then_to_the_first():
    plans = table(
        row(0, 0, 8, wire_bytes=200),
        row(0, 1, 8, wire_bytes=100, device_j=2.0),
        row(0, 1, 4, wire_bytes=100, device_j=1.0),
        row(0, 1, 2, wire_bytes=100, device_j=1.0),
    )
    assert knobs.optimal(plans, np.zeros(4)) == 2
    assert knobs.optimal(plans, np.array([0.1, 0.0, 0.0, 0.0])) == 0
    assert knobs.optimal(plans, np.array([1e-13, 0.0, 0.0, 0.0])) == 2  # less than a tie's width


def test_a_knob_that_changes_nothing_gains_nothing():
    found = report(choice(), NEAR, linear(0.1))
    assert found.share["exit"] == {"0": 1.0}
    assert {pair.frozen: pair.gain for pair in found.pairs}["exit"] == 0.0
    assert found.gains.max() == 0.0
    assert report(builtin.table()).gains.mean() > 0.0


def test_frozen_bits_leave_what_is_sent_whole_to_choose():
    """The pair exit and partition may still send the input or stay; the width is frozen where there is a width."""
    plans = table(*choice().rows, row(0, 1, 2, device_s=0.02, edge_s=0.0005, wire_bytes=250, accuracy=0.45))
    pair = {pair.frozen: pair for pair in report(plans, NEAR, linear(0.1)).pairs}
    assert pair["bits"].value in {"2", "8"}
    assert pair["bits"].reward >= pair["partition"].reward


def test_gains_are_those_of_a_naive_search_over_the_constants():
    plans, objective = builtin.table(), deadline(0.08)
    found = report(plans, knobs.PATH, objective, SMALL)
    rewards = SMALL.rewards(found.plans, knobs.PATH, objective).reshape(-1, len(plans))
    best = rewards.max(axis=1).mean()
    for pair in found.pairs:
        means = []
        for value in found.offered[pair.frozen]:
            kept = [
                i
                for i, plan in enumerate(plans.rows)
                if knobs.values(plans)[pair.frozen][i] == value
                or (pair.frozen == "bits" and value.isdigit() and (plan.partition == 0 or plan.bits == 0))
            ]
            means.append(rewards[:, kept].max(axis=1).mean() if pair.frozen != "bits" or value.isdigit() else -np.inf)
        assert pair.reward == pytest.approx(max(means))
        assert pair.gain == pytest.approx(best - max(means))
    assert found.best_pair.gain == min(pair.gain for pair in found.pairs)
    assert found.gains.mean() == pytest.approx(found.best_pair.gain)
    assert found.largest_gain()["gain"] == found.gains.max()


def test_what_interior_cuts_are_worth_is_what_is_lost_without_them():
    plans = choice()
    found = report(plans, NEAR, linear(0.1))
    uncut = table(*(plan for plan in plans.rows if plan.partition != 1))
    assert found.interior_gain == pytest.approx(found.reward - report(uncut, NEAR, linear(0.1)).reward)
    assert report(uncut, NEAR, linear(0.1)).interior_gain == 0.0


@given(st.data())
def test_shares_sum_to_one_and_name_every_value_offered(data):
    cost, right = st.floats(0.0, 0.1), st.floats(0.1, 0.9)
    rows = [
        row(exit_, partition, bits, device_s=data.draw(cost), edge_s=data.draw(cost), accuracy=data.draw(right), wire_bytes=wire)
        for exit_, partition, bits, wire in [(0, 0, 8, 900), (0, 1, 2, 90), (0, 1, 4, 100), (0, 2, 0, 0), (1, 2, 4, 50), (1, 3, 0, 0)]
    ]
    found = report(table(*rows, depths=(1, 2)), NEAR, linear(0.1), SMALL)
    for knob, shares in found.share.items():
        assert sum(shares.values()) == pytest.approx(1.0)
        assert list(shares) == found.offered[knob]
        assert sorted(shares) == sorted(set(knobs.values(found.plans)[knob]))
    assert found.interior == pytest.approx(1.0 - found.share["partition"]["input"] - found.share["partition"]["local"])


def test_what_is_sent_whole_or_stays_is_listed_and_is_no_bit_width():
    found = report(choice(), NEAR, linear(0.1))
    assert set(found.share["bits"]) == {"raw", "8", "none"}
    assert set(found.share["codec"]) == {"raw", "affine", "none"}
    assert found.counts() == {
        "optimal_exits": 1, "optimal_partitions": 3, "optimal_interior_partitions": 1, "optimal_bits": 1, "optimal_codecs": 1,
    }  # fmt: skip


def test_a_value_counts_from_one_percent_on():
    # 99 of 100 states without a link, one with an endless one; then 199 of 200.
    for states, counted in ((100, 2), (200, 1)):
        sweep = Sweep(rates_bps=(*[1e3] * (states - 1), 1e12), slow_downs=(1.0,), edge_loads=(0.0,))
        assert report(choice(), NEAR, linear(0.1), sweep).counts()["optimal_partitions"] == counted


def test_a_coded_plan_is_not_right_more_often_than_an_exact_one():
    plans = table(
        row(0, 1, 8, wire_bytes=9, accuracy=0.81),  # lucky
        row(0, 1, 4, wire_bytes=5, accuracy=0.7996),  # two of 5,000 images: chance
        row(0, 1, 2, wire_bytes=3, accuracy=0.79),  # fifty: not chance
        row(0, 3, 0, accuracy=0.8),
    )
    assert knobs.settled(plans).accuracy.tolist() == [0.8, 0.8, 0.79, 0.8]
    assert report(plans, NEAR, linear(0.1), resolution=None).plans.accuracy.tolist() == plans.accuracy.tolist()


def test_the_standard_deadline_is_the_devices_own_time_in_the_middle_of_its_slow_downs():
    assert knobs.standard(choice(), SMALL).deadline_s == pytest.approx(0.04 * np.sqrt(7.0))


def test_where_says_in_which_range_a_value_is_optimal():
    at = report(choice(), NEAR, linear(0.1), Sweep((1e3, 1e12), (1.0, 2.0), (0.0,))).where()["partition"]["input"]
    assert (at["rate_bps"], at["slow_down"], at["share"]) == ([1e12, 1e12], [1.0, 2.0], 0.5)


def test_a_value_that_is_never_optimal_must_be_declared():
    """The guard of the built-in tables, on one with a plan that nobody would take."""
    plans = table(*choice().rows, row(0, 2, 8, device_s=0.5, edge_s=0.5, wire_bytes=50_000, accuracy=0.1))
    found = report(plans, NEAR, linear(0.1))
    assert found.never == {"exit": [], "partition": ["2"], "bits": [], "codec": []}
    assert check.undeclared(found, {}) == {"partition": ["2"]}
    assert check.undeclared(found, {"partition": {"2": "because"}}) == {}
    assert check.overdeclared(found, {"partition": {"2": "because"}}) == {}
    assert check.overdeclared(found, {"partition": {"1": "so", "2": "because"}, "bits": {"5": "?"}}) == {"partition": ["1"], "bits": ["5"]}


def test_check_gives_the_contract_for_a_file_and_text_says_it(tmp_path):
    file = tmp_path / "plans.json"
    dear = row(0, 2, 8, device_s=0.5, edge_s=0.5, wire_bytes=50_000, accuracy=0.1)
    file.write_bytes(table(*choice().rows, dear).encode())
    result = json.loads(json.dumps(check.check(str(file))))
    contract = {"optimal_exits", "optimal_partitions", "optimal_interior_partitions", "optimal_bits", "share", "gain_over_best_pair"}
    assert contract <= set(result)
    assert set(result["share"]) == {"exit", "partition", "bits", "codec"}
    assert isinstance(result["gain_over_best_pair"], float)
    assert "beside" not in result
    assert result["declared"] == {}
    lines = check.text(result)
    assert "NOT DECLARED" not in lines  # a table of one's own declares nothing
    assert "never optimal: 2" in lines
    assert result["plans_after_pruning"] == 3


def test_a_table_without_interior_cuts_is_judged_too():
    uncut = table(*(plan for plan in choice().rows if plan.partition != 1))
    found = report(uncut)
    assert found.counts()["optimal_bits"] == 0
    assert [pair.frozen for pair in found.pairs] == ["exit", "partition"]


@pytest.mark.parametrize("name", ["defualt", "nowhere/plans.json"])
def test_an_unknown_table_is_told_what_there_is(name):
    with pytest.raises(ConfigError, match="built-in name: default, jpeg, privacy, bottleneck"):
        check.check(name)


def test_a_file_that_is_no_plan_table_is_refused(tmp_path):
    (tmp_path / "other.json").write_text('{"format": 1}', encoding="utf-8")
    with pytest.raises(ProfileError, match="is not a plan table"):
        check.check(str(tmp_path / "other.json"))


# --- several codecs


def codings():
    """One cut, sent as 1 kB exactly, as 400 B by a bottleneck that errs, or as 900 B by a slow zstd."""
    half = {"device_s": 0.02, "edge_s": 0.0005}
    return table(
        row(0, 0, 8, edge_s=0.001, wire_bytes=10_000),
        row(0, 1, 8, **half, wire_bytes=1_000),
        row(0, 1, 8, **half, wire_bytes=900, encode_s=0.03, codec="zstd", payload_p95_bytes=1_200),
        row(0, 1, 8, **half, wire_bytes=400, accuracy=0.47, codec="bottle6", unit="bottle6@1", channels=6, swap_s=0.5, unit_bytes=900),
        row(0, 1, 4, **half, wire_bytes=390, accuracy=0.4),
        row(0, 3, 0, device_s=0.04),
    )


def test_the_codec_of_a_tensor_is_a_knob_with_its_channels():
    found = report(codings(), NEAR, linear(0.1))
    assert list(found.share["codec"]) == found.offered["codec"] == ["raw", "affine", "zstd", "bottle6", "none"]
    assert found.never["codec"] == ["zstd"]  # the device alone is faster
    assert [(way["codec"], way["channels"]) for way in found.codecs] == [("affine", None), ("zstd", None), ("bottle6", 6)]
    assert {way["codec"]: way["share"] for way in found.codecs} == {
        codec: found.share["codec"][codec] for codec in ("affine", "zstd", "bottle6")
    }
    assert found.bottleneck == found.share["codec"]["bottle6"] > 0.0
    assert sum(found.share["codec"].values()) == pytest.approx(1.0)
    assert found.share["bits"]["8"] == pytest.approx(sum(way["share"] for way in found.codecs))
    assert found.counts()["optimal_codecs"] == sum(way["share"] >= knobs.COUNTS_FROM for way in found.codecs)


def test_the_rate_from_which_the_exact_tensor_is_worth_its_bytes_is_the_one_worked_out_by_hand():
    # linear(0.1): a second costs 0.2 / 0.1, so 0.03 of accuracy are worth 15 ms, in which 600 bytes go at 320 kb/s.
    rate = 8 * 600 / (0.03 * 0.1 / 0.2)
    found = report(
        table(*codings().rows[1:4], row(0, 3, 0, device_s=9.0)), NEAR, linear(0.1), Sweep((0.999 * rate, 1.001 * rate), (1.0,), (0.0,))
    )
    assert [found.plans.name(int(plan)) for plan in found.chosen[0, 0]] == ["e0 p1 bottle6", "e0 p1 8b"]


def test_bits_and_codec_are_frozen_together_and_each_constant_is_tried():
    plans, objective = codings(), linear(0.1)
    found = report(plans, NEAR, objective)
    pair = {pair.frozen: pair for pair in found.pairs}
    assert list(pair) == ["exit", "partition", "coding"]
    rewards = found.sweep.rewards(found.plans, NEAR, objective).reshape(-1, len(plans))
    means = {
        plans.name(plan).removeprefix("e0 p1 "): rewards[:, [0, plan, 5]].max(axis=1).mean() for plan in range(1, 5)
    }  # each way to code the tensor alone, beside the input and the device
    assert pair["coding"].value == max(means, key=means.get)
    assert pair["coding"].reward == pytest.approx(max(means.values()))
    of_codec = {"affine": [0, 1, 4, 5], "zstd": [0, 2, 5], "bottle6": [0, 3, 5]}
    alone = {codec: rewards[:, kept].max(axis=1).mean() for codec, kept in of_codec.items()}
    assert found.codec == max(alone, key=alone.get)
    assert found.codec_gain == pytest.approx(rewards.max(axis=1).mean() - max(alone.values()))


def test_with_one_codec_it_is_the_width_that_is_frozen_and_more_codecs_gain_nothing():
    found = report(choice(), NEAR, linear(0.1))
    assert [pair.frozen for pair in found.pairs] == ["exit", "partition", "bits"]
    assert (found.codec, found.codec_gain) == ("affine", 0.0)


def test_what_a_swap_takes_changes_nothing_here_and_the_report_says_so(tmp_path):
    plans = codings()
    free = dataclasses.replace(plans, rows=tuple(msgspec.structs.replace(row, swap_s=0.0) for row in plans.rows))
    assert (report(plans).chosen == report(free).chosen).all()
    (tmp_path / "plans.json").write_bytes(plans.encode())
    result = check.check(str(tmp_path / "plans.json"))
    assert result["question"]["most_swap_s"] == 0.5
    assert "is not charged here" in result["question"]["switching"]
    text = check.text(result)
    assert "a change of plan costs nothing in this report (to swap a bottleneck in takes the device up to 500 ms)" in text
    assert "bottle6 (6 channels)" in text
    assert "codec     never optimal: zstd" in text
    assert "over the best one alone" in text


@given(st.data())
def test_shares_of_codecs_are_those_of_a_count_state_by_state(data):
    cost, right, size = st.floats(0.0, 0.05), st.floats(0.4, 0.6), st.integers(100, 9_000)
    rows = [
        row(
            0,
            1,
            8,
            device_s=data.draw(cost),
            wire_bytes=data.draw(size),
            accuracy=data.draw(right),
            codec=codec,
            unit=unit,
            channels=channels,
        )
        for codec, unit, channels in [("affine", "", 0), ("zstd", "", 0), ("ae12", "ae12@1", 12), ("bottle3", "bottle3@1", 3)]
    ]
    found = report(table(*rows, row(0, 2, 8, wire_bytes=50, accuracy=0.4), row(0, 3, 0, device_s=0.03)), NEAR, linear(0.1), SMALL)
    names = [found.plans.rows[int(plan)].codec if found.plans.rows[int(plan)].bits else "none" for plan in found.chosen.ravel()]
    assert found.share["codec"] == {codec: pytest.approx(names.count(codec) / len(names)) for codec in found.offered["codec"]}
    assert found.bottleneck == pytest.approx(sum(name in {"ae12", "bottle3"} for name in names) / len(names))


def test_the_figure_has_a_column_for_the_codec_where_there_is_a_choice(tmp_path):
    pytest.importorskip("matplotlib")
    from cutlayer.agents import figures

    widths = []
    for plans in (choice(), codings()):
        figures.knob_figure(report(plans, NEAR, linear(0.1), SMALL, name="a test"), tmp_path / "knobs.png")
        widths.append(int.from_bytes((tmp_path / "knobs.png").read_bytes()[16:20], "big"))  # of a PNG, in pixels
    assert widths[1] == pytest.approx(widths[0] * 4 / 3, abs=2)

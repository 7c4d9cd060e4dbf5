"""The plan table and the cost model, against numbers worked out by hand and against the compiled engine."""

from __future__ import annotations

import dataclasses
import math

import msgspec
import numpy as np
import pytest

from cutlayer.envs import scenarios
from cutlayer.envs.channels import Constant
from cutlayer.envs.kernel import Kernel
from cutlayer.envs.record import Status
from cutlayer.envs.spec import Scenario
from cutlayer.envs.streams import draw
from cutlayer.envs.workload import Periodic
from cutlayer.errors import ProfileError
from cutlayer.profiles import cost
from cutlayer.profiles.codecs import BITS
from cutlayer.profiles.cost import Estimate, Path, expected_energy_j, expected_latency_s, wire_bytes
from cutlayer.profiles.energy import Radio
from cutlayer.profiles.plans import PlanRow, PlanTable


@pytest.fixture(scope="module")
def plans(device, edge, accuracy_table):
    return PlanTable.build(device, edge, accuracy_table)


def row(exit_, partition, bits, device_s, encode_s, decode_s, edge_s, payload, wire, accuracy, fallback):
    """Compute power is 2 W; fallback is (exit, seconds, accuracy)."""
    return PlanRow(
        exit_, partition, bits, device_s, encode_s, decode_s, edge_s, payload, wire, accuracy, 2 * (device_s + encode_s),
        fallback[0], fallback[1], fallback[2], 2 * fallback[1],
    )  # fmt: skip


# Device: layers 10, 20, 5, 4 ms, heads 1, 3 ms, raw input 0.5 ms, encoding 0.01 ms a bit and layer before the cut.
# Edge: a tenth of the layers and heads, raw input 0.05 ms, decoding 0.001 ms a bit and layer before the cut.
BY_HAND = [
    # The image: 3 x 32 x 32 bytes and a header of 48 take three packets. Given up: layers 1, 2 and head 0 on the device.
    row(0, 0, 8, 0.0, 0.0005, 0.00005, 0.0031, 3072, 3318, 0.6, (0, 0.031, 0.6)),
    row(1, 0, 8, 0.0, 0.0005, 0.00005, 0.0042, 3072, 3318, 0.8, (0, 0.031, 0.6)),
    # Cut before exit 0: 512 elements; given up, layer 2 and head 0 are missing.
    row(0, 1, 2, 0.010, 0.00002, 0.000002, 0.0021, 128, 242, 0.5, (0, 0.021, 0.6)),
    row(1, 1, 32, 0.010, 0.00032, 0.000032, 0.0032, 2048, 2228, 0.8, (0, 0.021, 0.6)),
    # Cut at exit 0: only its head is missing. At exit 0 the edge runs nothing else.
    row(0, 2, 16, 0.030, 0.00032, 0.000032, 0.0001, 512, 626, 0.6, (0, 0.001, 0.6)),
    row(1, 2, 8, 0.030, 0.00016, 0.000016, 0.0012, 256, 370, 0.796, (0, 0.001, 0.6)),
    # Cut between the exits: 27 elements of 4 bits take 14 bytes; the nearest exit on the way is still exit 0.
    row(1, 3, 4, 0.035, 0.00012, 0.000012, 0.0007, 14, 128, 0.74, (0, 0.001, 0.6)),
    # Cut at the last exit: its own head answers.
    row(1, 4, 2, 0.039, 0.00008, 0.000008, 0.0003, 2, 116, 0.4, (1, 0.003, 0.8)),
    # Device only.
    row(0, 3, 0, 0.031, 0.0, 0.0, 0.0, 0, 0, 0.6, (0, 0.0, 0.6)),
    row(1, 5, 0, 0.042, 0.0, 0.0, 0.0, 0, 0, 0.8, (1, 0.0, 0.8)),
]


@pytest.mark.parametrize("expected", BY_HAND, ids=lambda r: f"e{r.exit}-p{r.partition}-{r.bits}b")
def test_every_column_of_a_plan_is_as_worked_out_by_hand(plans, expected):
    got = plans.rows[plans.index(expected.exit, expected.partition, expected.bits)]
    for name in PlanRow.__struct_fields__:
        value, wanted = getattr(got, name), getattr(expected, name)
        assert type(value) is type(wanted)
        assert value == wanted or value == pytest.approx(wanted, rel=1e-12, abs=1e-15), name


def test_every_valid_triple_is_there_once_in_order(plans):
    triples = [(r.exit, r.partition, r.bits) for r in plans.rows]
    assert len(plans) == len(triples) == (1 + 2 * 5 + 1) + (1 + 4 * 5 + 1)
    assert triples == sorted(set(triples), key=lambda t: (t[0], t[1], BITS.index(t[2]) if t[2] else 0))
    assert (plans.model, plans.device, plans.edge, plans.depths) == ("tiny", "slow", "fast", (2, 4))


def test_columns_are_the_rows_and_cannot_be_written(plans):
    for name in ("exit", "partition", "bits", "device_s", "wire_bytes", "accuracy", "fallback_j", "edge_s"):
        column = getattr(plans, name)
        assert column.tolist() == [getattr(r, name) for r in plans.rows]
        with pytest.raises(ValueError, match="read-only"):
            column[0] = 1
    assert plans.offloads.tolist() == [r.bits > 0 for r in plans.rows]
    with pytest.raises(dataclasses.FrozenInstanceError):
        plans.model = "other"


def test_index_gives_a_knob_that_means_nothing_its_one_value(plans):
    for i, r in enumerate(plans.rows):
        assert plans.index(r.exit, r.partition, r.bits) == i
        for bits in (*BITS, 0, 7):
            if r.partition in (0, plans.depths[r.exit] + 1):
                assert plans.index(r.exit, r.partition, bits) == i


@pytest.mark.parametrize("triple", [(-1, 0, 8), (2, 0, 8), (0, -1, 8), (0, 4, 0), (1, 6, 0), (0, 1, 0), (1, 2, 7)])
def test_index_refuses_what_is_no_plan(plans, triple):
    with pytest.raises(KeyError):
        plans.index(*triple)


def test_names_say_what_is_sent(plans):
    assert plans.name(plans.index(0, 0, 8)) == "e0 raw"
    assert plans.name(plans.index(1, 3, 4)) == "e1 p3 4b"
    assert plans.name(plans.index(1, 5, 0)) == "e1 local"
    assert len({plans.name(i) for i in range(len(plans))}) == len(plans)


def test_the_two_ends_of_the_table(plans):
    assert plans.rows[plans.device_only()] == plans.rows[plans.index(1, 5, 0)]
    assert plans.rows[plans.device_only(0)] == plans.rows[plans.index(0, 3, 0)]
    assert plans.rows[plans.edge_only()] == plans.rows[plans.index(1, 0, 8)]


@pytest.mark.parametrize(
    ("deadline_s", "slow_down", "exit_"),
    [(0.042, 1.0, 1), (0.0419, 1.0, 0), (0.1, 1.0, 1), (0.031, 1.0, 0), (0.1, 3.0, 0), (0.126001, 3.0, 1), (0.01, 1.0, 0)],
)
def test_the_safe_plan_is_the_most_accurate_one_in_time_or_the_fastest(plans, deadline_s, slow_down, exit_):
    assert plans.static_safe(deadline_s, slow_down) == plans.device_only(exit_)


def test_privacy_leaves_out_every_plan_that_sends_the_image(plans, device, edge, accuracy_table):
    private = PlanTable.build(device, edge, accuracy_table, allow_raw=False)
    assert private.rows == tuple(r for r in plans.rows if r.partition > 0)
    with pytest.raises(KeyError):
        private.index(1, 0, 8)
    with pytest.raises(KeyError):
        private.edge_only()
    assert private.digest() != plans.digest()


def test_bit_widths_can_be_chosen(plans, device, edge, accuracy_table):
    some = PlanTable.build(device, edge, accuracy_table, bits=(4, 32))
    assert some.rows == tuple(r for r in plans.rows if r.bits in (0, 4, 32) or r.partition == 0)


@pytest.mark.parametrize("which", ["edge", "accuracy_table"])
@pytest.mark.parametrize("changes", [{"weights_sha256": "cd" * 32}, {"model": "other"}])
def test_tables_of_other_weights_are_refused(device, edge, accuracy_table, which, changes):
    tables = {"edge": edge, "accuracy_table": accuracy_table}
    tables[which] = msgspec.structs.replace(tables[which], **changes)
    with pytest.raises(ProfileError, match=r"different networks: tiny abababababab and (tiny cdcdcdcdcdcd|other abababababab); measure"):
        PlanTable.build(device, tables["edge"], tables["accuracy_table"])


@pytest.mark.parametrize("lost", [(0, 3, 0), (1, 2, 8), (1, 0, 8)])
def test_an_accuracy_that_was_not_measured_is_refused(device, edge, accuracy_table, lost):
    kept = tuple(p for p in accuracy_table.plans if (p.exit, p.partition, p.bits) != lost)
    with pytest.raises(
        ProfileError, match=rf"no measured accuracy for exit {lost[0]}, partition {lost[1]}, {lost[2]} bits of tiny; measure"
    ):
        PlanTable.build(device, edge, msgspec.structs.replace(accuracy_table, plans=kept))


@pytest.mark.parametrize("side", ["device", "edge"])
def test_a_codec_that_was_not_measured_is_refused(device, edge, accuracy_table, side):
    tables = {"device": device, "edge": edge}
    kept = tuple(c for c in tables[side].codecs if (c.cut, c.bits) != (3, 4))
    tables[side] = msgspec.structs.replace(tables[side], codecs=kept)
    with pytest.raises(ProfileError, match=r"3.*4 bits"):
        PlanTable.build(tables["device"], tables["edge"], accuracy_table)


def test_a_table_survives_its_file_and_its_digest_is_stable(plans, device, edge, accuracy_table):
    again = PlanTable.decode(plans.encode(), "a file")
    assert (again.model, again.device, again.edge, again.depths) == (plans.model, plans.device, plans.edge, plans.depths)
    assert again.rows == plans.rows
    assert again.encode() == plans.encode()
    assert again.digest() == plans.digest() == PlanTable.build(device, edge, accuracy_table).digest()
    assert len(plans.digest()) == 64


def test_another_measurement_has_another_digest(plans, device, edge, accuracy_table):
    first = accuracy_table.plans[0]
    other = (msgspec.structs.replace(first, correct=first.correct + 1), *accuracy_table.plans[1:])
    assert PlanTable.build(device, edge, msgspec.structs.replace(accuracy_table, plans=other)).digest() != plans.digest()


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data[: len(data) // 2],
        lambda data: b"",
        lambda data: data.replace(b'"format":1', b'"format":99'),
        lambda data: data.replace(b'"exit":1', b'"exit":"1"', 1),
        lambda data: data.replace(b'"bits"', b'"width"', 1),
        lambda data: data.replace(b'"tiny"', b'"t\xffny"'),
        lambda data: data[: data.index(b'"plans":[') + 9] + b"]}",
    ],
)
def test_a_damaged_file_is_refused_by_name(plans, damage):
    with pytest.raises(ProfileError, match=r"my\.json .*; build it anew"):
        PlanTable.decode(damage(plans.encode()), "my.json")


# --- the cost model


@pytest.mark.parametrize(
    ("payload", "packets"), [(0, 1), (1, 1), (1400, 1), (1401, 2), (2848, 2), (2849, 3), (3 * 128 * 128, 34), (10_000_000, 6907)]
)
def test_every_started_packet_carries_its_overhead(payload, packets):
    assert cost.MSS_BYTES == 1448
    assert cost.OVERHEAD_BYTES == 66
    assert wire_bytes(payload) == payload + 48 + 66 * packets


PATH = Path(rtt_s=0.02, downlink_bps=8e6, reply_bytes=1000, fixed_s=0.0005, radio=Radio(base_w=0.5, joules_per_bit=1e-7))


def test_the_way_back_is_half_a_round_trip_the_reply_and_the_constant():
    assert PATH.return_s == pytest.approx(0.01 + 0.001 + 0.0005)


def test_expected_latency_and_energy_by_hand(plans):
    now = Estimate(rate_bps=1e6, slow_down=2.0, backlog_s=0.005, queued_bytes=12_500, edge_wait_s=0.004)
    latency = expected_latency_s(plans, PATH, now)
    energy = expected_energy_j(plans, PATH, now.rate_bps)
    local = plans.device_only()
    assert latency[local] == pytest.approx(2 * (0.005 + 0.042))
    assert energy[local] == pytest.approx(2 * 0.042)
    # The device is done at 2 x 15.02 ms, the link is free at 100 ms, then 242 bytes at 1 Mb/s.
    cut = plans.index(0, 1, 2)
    assert latency[cut] == pytest.approx(0.1 + 0.001936 + 0.01 + 0.004 + 0.000002 + 0.0021 + PATH.return_s)
    assert energy[cut] == pytest.approx(2 * 0.01002 + 0.5 * 0.001936 + 1e-7 * 1936)
    # Without a queue the device is what holds it up.
    assert expected_latency_s(plans, PATH, Estimate(1e6))[cut] == pytest.approx(0.01002 + 0.001936 + 0.01 + 0.002102 + PATH.return_s)


def idle(plans, rate_bps, path):
    """A world without any queue or change, in which nothing is ever late."""
    return Scenario("idle", plans, Constant(rate_bps), Periodic(1.0), cost.deadline(60.0), path, requests=1)


@pytest.mark.parametrize("rate_bps", [3e5, 4.7e6, 1e9])
@pytest.mark.parametrize("slow_down", [1.0, 2.7])
@pytest.mark.parametrize("built_in", [False, True])
def test_the_cost_model_is_the_engines(plans, rate_bps, slow_down, built_in):
    """For every plan, in an idle world at a constant rate, the estimate that is true gives the engine's latency and energy."""
    table = scenarios.plan_table() if built_in else plans
    scenario = idle(table, rate_bps, PATH)
    streams = draw(scenario, 0)
    streams = dataclasses.replace(streams, slow_down=np.full_like(streams.slow_down, slow_down))
    records = [Kernel(scenario, streams).submit(plan) for plan in range(len(table))]
    assert {record.status for record in records} == {Status.DEVICE, Status.EDGE}
    expected = expected_latency_s(table, PATH, Estimate(rate_bps, slow_down))
    np.testing.assert_allclose([record.latency_s for record in records], expected, rtol=1e-9)
    np.testing.assert_allclose([record.energy_j for record in records], expected_energy_j(table, PATH, rate_bps), rtol=1e-9)


# --- what a request is worth


def worth(objective, latency_s, accuracy=0.8, energy_j=0.1):
    return float(objective.reward(np.array([latency_s]), np.array([accuracy]), np.array([energy_j]))[0])


def test_a_deadline_is_kept_or_costs_the_penalty():
    objective = cost.deadline(0.1, late_penalty=0.7)
    assert worth(objective, 0.0) == worth(objective, 0.1) == pytest.approx(0.8)
    assert worth(objective, math.nextafter(0.1, 1)) == worth(objective, 99.0) == pytest.approx(-0.7)


def test_the_linear_objective_prices_latency_up_to_the_timeout():
    objective = cost.linear(0.1, latency_weight=0.2)
    assert worth(objective, 0.05) == pytest.approx(0.8 - 0.2 * 0.5)
    assert worth(objective, 0.2) == pytest.approx(0.8 - 0.2 * 2)
    assert worth(objective, 0.5) == worth(objective, 50.0) == pytest.approx(0.8 - 0.2 * 5)


def test_the_energy_objective_prices_joules():
    objective = cost.energy(0.1, energy_weight=0.3)
    assert worth(objective, 0.05, energy_j=0.4) == pytest.approx(0.8 - 0.3 * 0.4)
    assert worth(objective, 0.2, energy_j=0.4) == pytest.approx(-0.3 * 0.4)


def test_all_weights_together_and_in_columns():
    objective = cost.Objective(0.1, late_penalty=2.0, latency_weight=0.5, energy_weight=0.25, timeout_deadlines=3.0)
    latency, accuracy, energy = np.array([[0.02, 0.2], [0.9, 0.1]]), np.array([[0.9, 0.8], [0.7, 0.6]]), np.array([[0.0, 1.0], [2.0, 4.0]])
    expected = [[0.9 - 0.1, -2.0 - 1.0 - 0.25], [-2.0 - 1.5 - 0.5, 0.6 - 0.5 - 1.0]]
    np.testing.assert_allclose(objective.reward(latency, accuracy, energy), expected)
    one = cost.reward(0.2, 0.8, 1.0, *objective.numbers())
    assert float(one) == pytest.approx(-3.25)

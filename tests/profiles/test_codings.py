"""Plans of several codecs: zstd and trained bottlenecks, against numbers worked out by hand from the small tables."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from cutlayer.errors import ProfileError
from cutlayer.profiles import derived
from cutlayer.profiles.cost import wire_bytes
from cutlayer.profiles.plans import PlanTable

ALL = ("affine", "zstd", "ae2", "bottle3", "bottle6")


@pytest.fixture(scope="module")
def plans(coded_device, coded_edge, coded_accuracy):
    return PlanTable.build(coded_device, coded_edge, coded_accuracy, ALL)


@pytest.fixture(scope="module")
def affine(device, edge, accuracy_table):
    return PlanTable.build(device, edge, accuracy_table)


def coded(plans, *place):
    return plans.rows[plans.index(*place)]


def replaced(table, kind, keep, **changes):
    """The table with `changes` to those entries of `kind` for which `keep` is false; without them where there are none."""
    entries = getattr(table, kind)
    changed = [entry if keep(entry) else msgspec.structs.replace(entry, **changes) for entry in entries if keep(entry) or changes]
    return msgspec.structs.replace(table, **{kind: tuple(changed)})


def test_more_codecs_leave_the_affine_plans_as_they_were(plans, affine):
    assert tuple(row for row in plans.rows if row.codec == "affine") == affine.rows


def test_a_table_of_affine_plans_is_written_as_before_whatever_else_was_measured(coded_device, coded_edge, coded_accuracy, affine):
    table = PlanTable.build(coded_device, coded_edge, coded_accuracy)
    assert table.encode() == affine.encode()
    assert table.encode().startswith(b'{"format":1,')
    for word in (b"codec", b"unit", b"swap", b"p95", b"channels"):
        assert word not in table.encode()


def test_every_plan_is_there_once_in_order(plans):
    keys = [(row.exit, row.partition, row.bits, row.codec) for row in plans.rows]
    assert len(set(keys)) == len(keys)
    assert keys == sorted(keys, key=lambda key: (*key[:2], key[2] or 0, ALL.index(key[3])))
    for exit_, depth in ((0, 2), (1, 4)):
        extra = [(key[1], key[2], key[3]) for key in keys if key[0] == exit_ and key[3] != "affine"]
        assert extra == [
            (1, 4, "zstd"), (1, 8, "zstd"), (1, 8, "bottle3"), (1, 8, "bottle6"),
            (2, 4, "zstd"), (2, 8, "zstd"), (2, 8, "ae2"), (2, 8, "bottle3"),
        ]  # fmt: skip
        assert len([key for key in keys if key[0] == exit_]) == 8 + 1 + 5 * depth + 1


@pytest.mark.parametrize("codecs", [ALL, ALL[::-1], (*ALL, *ALL), ("bottle6", "zstd", "ae2", "affine", "bottle3")])
def test_the_order_does_not_depend_on_how_codecs_are_named(plans, coded_device, coded_edge, coded_accuracy, codecs):
    assert PlanTable.build(coded_device, coded_edge, coded_accuracy, codecs).digest() == plans.digest()


def test_zstd_by_hand(plans):
    """At exit 1 after layer 2 at 4 bits: three times the affine times; 42.25 bytes on average, 80.5 at the 95th percentile."""
    got, lossy = coded(plans, 1, 2, 4, "zstd"), coded(plans, 1, 2, 4, "affine")
    assert (got.payload_bytes, got.payload_p95_bytes, got.wire_bytes) == (43, 81, wire_bytes(43))
    assert got.encode_s == pytest.approx(3 * 1e-5 * 2 * 4)
    assert got.decode_s == pytest.approx(3 * 1e-6 * 2 * 4)
    assert got.accuracy == lossy.accuracy == 0.76
    assert (got.device_s, got.edge_s, got.fallback_s) == (lossy.device_s, lossy.edge_s, lossy.fallback_s)
    assert got.device_j == pytest.approx(2 * (0.03 + 3 * 8e-5))
    assert (got.unit, got.unit_bytes, got.swap_s, got.channels) == ("", 0, 0.0, 0)


def test_zstd_has_its_own_accuracy_where_it_was_counted(coded_device, coded_edge, coded_accuracy):
    own = [
        msgspec.structs.replace(plan, correct=7, codec="zstd") for plan in coded_accuracy.plans if plan.partition == 1 and plan.bits == 4
    ]
    table = msgspec.structs.replace(coded_accuracy, plans=(*coded_accuracy.plans, *own))
    assert coded(PlanTable.build(coded_device, coded_edge, table, ALL), 1, 1, 4, "zstd").accuracy == 0.007


@pytest.mark.parametrize(
    ("place", "payload", "encode_s", "accuracy", "unit", "channels"),
    [
        ((0, 1, 8, "bottle3"), 192, 3e-4, 0.57, "bottle3@1", 3),  # 3 x 8 x 8
        ((1, 1, 8, "bottle6"), 96, 6e-4, 0.79, "bottle6@1", 6),  # 6 x 4 x 4: the encoder halves the sides
        ((1, 2, 8, "ae2"), 128, 2e-4, 0.795, "ae2@2", 2),
        ((1, 2, 8, "bottle3"), 48, 3e-4, 0.75, "bottle3@2", 3),
    ],
)
def test_a_bottleneck_by_hand(plans, place, payload, encode_s, accuracy, unit, channels):
    got, lossy = coded(plans, *place), coded(plans, *place[:3], "affine")
    assert (got.payload_bytes, got.payload_p95_bytes, got.wire_bytes) == (payload, None, wire_bytes(payload))
    assert (got.encode_s, got.decode_s) == (pytest.approx(encode_s), pytest.approx(2 * encode_s / 10))
    assert got.accuracy == accuracy
    assert (got.device_s, got.edge_s, got.fallback_accuracy) == (lossy.device_s, lossy.edge_s, lossy.fallback_accuracy)
    assert got.device_j == pytest.approx(2 * (lossy.device_s + encode_s))
    assert (got.unit, got.channels, got.unit_bytes, got.swap_s) == (unit, channels, 500 * channels, pytest.approx(0.002 * channels))


def test_columns_tell_a_simulator_what_is_swapped(plans):
    assert plans.units == ("bottle3@1", "bottle6@1", "ae2@2", "bottle3@2")
    names = ("", *plans.units)
    assert [names[number] for number in plans.unit] == [row.unit for row in plans.rows]
    assert plans.swap_s.tolist() == [row.swap_s for row in plans.rows]
    assert plans.unit_bytes.tolist() == [row.unit_bytes for row in plans.rows]
    assert plans.payload_p95_bytes.tolist() == [row.payload_p95_bytes or row.payload_bytes for row in plans.rows]
    assert (plans.swap_s[plans.unit == 0] == 0.0).all()
    assert (plans.swap_s[plans.unit > 0] > 0.0).all()
    with pytest.raises(ValueError, match="read-only"):
        plans.unit[0] = 1


def test_a_table_without_bottlenecks_has_no_units(affine):
    assert affine.units == ()
    assert not affine.unit.any()
    assert not affine.swap_s.any()
    assert affine.payload_p95_bytes.tolist() == [row.payload_bytes for row in affine.rows]


def test_a_triple_means_the_same_plan_whatever_codecs_the_table_has(plans, affine):
    for row in affine.rows:
        for bits in (row.bits, 7) if row.partition in (0, plans.depths[row.exit] + 1) else (row.bits,):
            assert coded(plans, row.exit, row.partition, bits) == row
    for plan, row in enumerate(plans.rows):
        assert plans.index(row.exit, row.partition, row.bits, row.codec) == plan
    with pytest.raises(KeyError, match="zstd"):
        plans.index(1, 3, 8, "zstd")


def test_without_an_affine_plan_a_triple_is_the_first_codec_in_order(coded_device, coded_edge, coded_accuracy):
    table = PlanTable.build(coded_device, coded_edge, coded_accuracy, ("bottle6", "bottle3", "zstd"))
    assert coded(table, 1, 1, 8).codec == "zstd"
    assert coded(PlanTable.build(coded_device, coded_edge, coded_accuracy, ("bottle6", "bottle3")), 1, 1, 8).codec == "bottle3"
    assert {row.codec for row in table.rows if row.partition == 0 or row.bits == 0} == {"affine"}


def test_names_are_short_and_differ(plans):
    assert plans.name(plans.index(1, 1, 8, "bottle6")) == "e1 p1 bottle6"
    assert plans.name(plans.index(1, 2, 4, "zstd")) == "e1 p2 4b zstd"
    assert plans.name(plans.index(1, 2, 4)) == "e1 p2 4b"
    assert len({plans.name(plan) for plan in range(len(plans))}) == len(plans)


def test_widths_asked_for_are_those_of_quantisation_and_a_bottleneck_has_its_own(coded_device, coded_edge, coded_accuracy):
    table = PlanTable.build(coded_device, coded_edge, coded_accuracy, ALL, bits=(32, 4))
    assert [(row.bits, row.codec) for row in table.rows if (row.exit, row.partition) == (0, 1)] == [
        (4, "affine"), (4, "zstd"), (8, "bottle3"), (8, "bottle6"), (32, "affine"),
    ]  # fmt: skip


def test_a_derived_device_swaps_and_codes_as_much_slower(coded_device, coded_edge, coded_accuracy, plans):
    slow = derived.slower(coded_device, "slower", 3.0, "a test")
    table = PlanTable.build(slow, coded_edge, coded_accuracy, ALL)
    np.testing.assert_allclose(table.swap_s, 3 * plans.swap_s)
    np.testing.assert_allclose(table.encode_s, 3 * plans.encode_s)
    assert table.unit_bytes.tolist() == plans.unit_bytes.tolist()
    assert slow.units[0].swap.wall.p99_s == pytest.approx(3 * coded_device.units[0].swap.wall.p99_s)


# --- what is refused


@pytest.mark.parametrize(
    ("codec", "message"),
    [
        ("botle6", r"no codec 'botle6' in the tables of tiny; did you mean 'bottle6'\? there are: affine, zstd, ae2, bottle3, bottle6$"),
        ("gzip-9", r"no codec 'gzip-9' in the tables of tiny; there are: affine"),
        ("jpeg", "codec 'jpeg' is of the input and has a table of its own; give that as jpeg=$"),
    ],
)
def test_an_unknown_codec_is_corrected(coded_device, coded_edge, coded_accuracy, codec, message):
    with pytest.raises(ProfileError, match=message):
        PlanTable.build(coded_device, coded_edge, coded_accuracy, ("affine", codec))


def test_a_codec_that_no_table_knows_is_told_what_there_is(device, edge, accuracy_table):
    with pytest.raises(ProfileError, match=r"no codec 'zstd' in the tables of tiny; there are: affine$"):
        PlanTable.build(device, edge, accuracy_table, ("affine", "zstd"))


@pytest.mark.parametrize("side", ["device", "edge"])
@pytest.mark.parametrize(
    ("kind", "lost", "message"),
    [
        ("codecs", ("zstd", 2), r"no measured time to (en|de)code the tensor at partition 2 at (4|8) bits by zstd on (slow|fast); measure"),
        (
            "codecs",
            ("bottle6", 1),
            r"no measured time to (en|de)code the tensor at partition 1 at 8 bits by bottle6 on (slow|fast); measure",
        ),
        ("units", ("bottle3", 2), r"no bottleneck bottle3@2 in the profile of tiny on (slow|fast); measure the machine again"),
    ],
)
def test_what_one_machine_has_not_measured_is_refused(coded_device, coded_edge, coded_accuracy, side, kind, lost, message):
    tables = {"device": coded_device, "edge": coded_edge}
    name = "name" if kind == "units" else "codec"
    tables[side] = replaced(tables[side], kind, lambda entry: (getattr(entry, name), entry.cut) != lost)
    with pytest.raises(ProfileError, match=message) as caught:
        PlanTable.build(tables["device"], tables["edge"], coded_accuracy, ALL)
    assert ("slow" if side == "device" else "fast") in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "lost", "message"),
    [
        ("plans", ("ae2", 2), "no measured accuracy for exit 0, partition 2, 8 bits by ae2 of tiny; measure it with"),
        ("payloads", ("zstd", 1), "no measured payload of zstd at partition 1 at 4 bits of tiny; measure it with"),
    ],
)
def test_what_was_not_counted_or_weighed_is_refused(coded_device, coded_edge, coded_accuracy, kind, lost, message):
    where = "partition" if kind == "plans" else "cut"
    table = replaced(coded_accuracy, kind, lambda entry: (entry.codec, getattr(entry, where)) != lost)
    with pytest.raises(ProfileError, match=message):
        PlanTable.build(coded_device, coded_edge, table, ALL)
    PlanTable.build(coded_device, coded_edge, table, tuple(codec for codec in ALL if codec != lost[0]))  # the others need it not


def test_a_bottleneck_that_only_one_table_knows_is_refused_and_not_left_out(coded_device, coded_edge, coded_accuracy):
    units = {name: sha256 for name, sha256 in coded_accuracy.units.items() if name != "ae2@2"}
    with pytest.raises(ProfileError, match="no bottleneck ae2@2 in the accuracy table of tiny; measure it with"):
        PlanTable.build(coded_device, coded_edge, msgspec.structs.replace(coded_accuracy, units=units), ALL)
    unit = msgspec.structs.replace(coded_device.units[0], cut=3)
    more = msgspec.structs.replace(coded_device, units=(*coded_device.units, unit))
    with pytest.raises(ProfileError, match="no bottleneck bottle3@3 in the profile of tiny on fast; measure"):
        PlanTable.build(more, coded_edge, coded_accuracy, ALL)


def test_a_bottleneck_of_other_weights_is_refused(coded_device, coded_edge, coded_accuracy):
    other = replaced(coded_edge, "units", lambda unit: (unit.name, unit.cut) != ("bottle6", 1), sha256="cd" * 32)
    with pytest.raises(
        ProfileError, match=r"^bottleneck bottle6@1 has weights \w{12} on slow and cdcdcdcdcdcd on fast; measure both.*$"
    ) as caught:
        PlanTable.build(coded_device, other, coded_accuracy, ALL)
    assert "\n" not in str(caught.value)
    counted = msgspec.structs.replace(coded_accuracy, units=coded_accuracy.units | {"bottle6@1": "ef" * 32})
    with pytest.raises(ProfileError, match=r"bottle6@1 has weights .* on slow and efefefefefef in the accuracy table; measure both"):
        PlanTable.build(coded_device, coded_edge, counted, ALL)
    PlanTable.build(coded_device, other, counted, ("affine", "zstd", "bottle3"))  # whoever does not ask for it need not mind


# --- files


def test_a_table_of_codecs_survives_its_file(plans):
    data = plans.encode()
    assert data.startswith(b'{"format":2,')
    again = PlanTable.decode(data, "a file")
    assert again.rows == plans.rows
    assert again.digest() == plans.digest()
    assert (again.units, again.unit.tolist()) == (plans.units, plans.unit.tolist())


def test_a_file_of_the_first_format_is_read_with_defaults(affine):
    row = PlanTable.decode(affine.encode(), "a file").rows[3]
    assert (row.codec, row.payload_p95_bytes, row.unit, row.unit_bytes, row.swap_s) == ("affine", None, "", 0, 0.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"unit": ""}, "swaps a bottleneck in that it does not name"),
        ({"swap_s": 0.5}, "bottle3@2 of here has two swap times or sizes"),
        ({"unit_bytes": 1}, "bottle3@2 of here has two swap times or sizes"),
        ({"swap_s": -1.0}, "has a cost that is no number from 0 on"),
        ({"payload_p95_bytes": -4}, "has a cost that is no number from 0 on"),
        ({"codec": "affine"}, "names a plan twice"),
    ],
)
def test_a_row_that_contradicts_itself_or_another_is_refused(plans, changes, message):
    last = max(plan for plan, row in enumerate(plans.rows) if row.unit == "bottle3@2")
    rows = [msgspec.structs.replace(row, **changes) if plan == last else row for plan, row in enumerate(plans.rows)]
    data = PlanTable(plans.model, plans.device, plans.edge, plans.depths, tuple(rows)).encode()
    with pytest.raises(ProfileError, match=message):
        PlanTable.decode(data, "here")


def test_a_plan_that_sends_no_tensor_has_no_bottleneck(plans):
    row = msgspec.structs.replace(plans.rows[0], unit="bottle3@2", swap_s=0.006, unit_bytes=1500)
    data = PlanTable(plans.model, plans.device, plans.edge, plans.depths, (row, *plans.rows[1:])).encode()
    with pytest.raises(ProfileError, match="sends no tensor, yet codes it with bottle3@2"):
        PlanTable.decode(data, "here")

"""The plan tables that ship: what they offer matters or says that it does not, and the input may travel as JPEG."""

from __future__ import annotations

import ast
import dataclasses
from functools import cache

import msgspec
import pytest

from cutlayer.errors import ConfigError, ProfileError
from cutlayer.profiles import builtin, check, derived, images, knobs, load
from cutlayer.profiles.codecs import RAW_BITS
from cutlayer.profiles.cost import wire_bytes
from cutlayer.profiles.plans import PlanTable

REMAKE = "measure it with profiles.accuracy.measure_jpeg on the weights and images of alexnet-accuracy.json"


TABLES = builtin.names()


@cache
def judged(name):
    return knobs.report(builtin.table(name), name=name)


def test_in_the_default_table_every_knob_matters():
    counts = judged("default").counts()
    assert counts["optimal_exits"] >= 3
    assert counts["optimal_partitions"] >= 3
    assert counts["optimal_interior_partitions"] >= 2
    assert judged("default").counts()["optimal_bits"] >= 2
    assert judged("default").gains.mean() > 0.0


@pytest.mark.parametrize("name", TABLES)
def test_no_table_offers_a_value_that_is_never_optimal_without_saying_so(name):
    declared = {knob: dict(why) for knob, why in builtin.TABLES[name].never_optimal.items()}
    assert check.undeclared(judged(name), declared) == {}, f"declare them in profiles/builtin.py, TABLES[{name!r}], with the reason"


@pytest.mark.parametrize("name", TABLES)
def test_what_is_declared_is_offered_never_optimal_and_has_a_reason(name):
    declared = {knob: dict(why) for knob, why in builtin.TABLES[name].never_optimal.items()}
    assert check.overdeclared(judged(name), declared) == {}
    assert all(all(why.values()) for why in declared.values())


def test_a_jpeg_leaves_interior_cuts_worth_less_and_privacy_more():
    assert judged("jpeg").interior_gain < judged("default").interior_gain < judged("privacy").interior_gain


def test_the_check_of_one_stands_beside_the_others():
    result = check.check()
    assert result["table"] == "default"
    assert set(result["beside"]) == {"jpeg", "privacy", "bottleneck"}
    text = check.text(result)
    assert "An interior cut is optimal on" in text
    assert "  where the input may be sent as a JPEG, it " in text
    assert "  where the input may not be sent, it grows by" in text
    assert check.check("jpeg")["share"]["bits"].keys() >= {"raw", "jpeg"}


def test_the_bottleneck_table_is_the_default_one_with_more_ways_to_send_a_tensor(shipped_with_codecs):
    made, _ = shipped_with_codecs
    plans, default = builtin.table("bottleneck"), builtin.table()
    assert tuple(row for row in plans.rows if row.codec == "affine") == default.rows
    assert {row.codec for row in plans.rows} == {"affine", "zstd", "bottle3", "bottle6"}
    row = plans.rows[plans.index(4, 2, RAW_BITS, "bottle6")]
    assert (row.unit, row.payload_bytes, row.swap_s) == ("bottle6@2", 6 * 8 * 8, pytest.approx(2e-4 * derived.PI4_TIME_RATIO))
    assert made.provenance.kind == "measured"


def test_without_measured_bottlenecks_it_says_how_to_measure_them(shipped_with_codecs, monkeypatch):
    _, counted = shipped_with_codecs
    monkeypatch.setattr(load, "accuracy", lambda _: msgspec.structs.replace(counted, units={}))
    with pytest.raises(ProfileError, match="alexnet-accuracy holds no bottleneck; measure it"):
        builtin.TABLES["bottleneck"].build()


def test_the_check_prints_what_a_table_has_to_declare_and_what_it_declared_in_error(shipped_with_codecs, monkeypatch):
    entry = dataclasses.replace(builtin.TABLES["bottleneck"], never_optimal={"exit": {"4": "a wrong reason"}})
    monkeypatch.setitem(builtin.TABLES, "bottleneck", entry)
    result = check.check("bottleneck")
    lines = check.text(result).splitlines()
    (wanted,) = [line for line in lines if line.startswith("to declare in TABLES['bottleneck'] of profiles/builtin.py")]
    assert result["undeclared"]
    declared = {
        key.value: set(ast.literal_eval(value.args[0]))
        for node in ast.walk(ast.parse(wanted.partition(": ")[2]))
        if isinstance(node, ast.Dict)
        for key, value in zip(node.keys, node.values, strict=True)
    }
    assert declared == {knob: set(names) for knob, names in result["undeclared"].items()}
    assert "to take out of TABLES['bottleneck'] of profiles/builtin.py, declared but optimal: exit 4" in lines
    assert any("NOT DECLARED" in line for line in lines)
    assert any(line.startswith("  where a tensor may be sent through zstd or a trained bottleneck, it") for line in lines)
    assert any("bottlenecks together" in line for line in lines)


def test_a_table_that_cannot_be_built_is_named_and_the_rest_is_judged(monkeypatch):
    def broken():
        raise ProfileError("tables of different networks")

    entry = dataclasses.replace(builtin.TABLES["jpeg"], build=broken)
    monkeypatch.setitem(builtin.TABLES, "jpeg", entry)
    builtin.table.cache_clear()
    result = check.check()
    builtin.table.cache_clear()
    assert result["beside"]["jpeg"]["error"] == "tables of different networks"
    assert "tables of different networks" in check.text(result)


def test_privacy_sends_the_input_in_no_form():
    plans = builtin.table("privacy")
    assert (plans.partition > 0).all()
    edge, jpeg = load.profile("alexnet"), builtin.jpeg_table()
    device = derived.raspberry_pi_4(edge)
    both = PlanTable.build(device, edge, load.accuracy("alexnet-accuracy"), allow_raw=False, jpeg=jpeg.on(device))
    assert both.rows == plans.rows


def test_the_jpeg_table_is_the_default_one_with_one_more_way_to_send_the_input():
    plans, default = builtin.table("jpeg"), builtin.table()
    assert tuple(row for row in plans.rows if row.codec == "affine") == default.rows
    assert len(plans) == len(default) + len(default.depths)
    jpeg, last = builtin.jpeg_table(), len(plans.depths) - 1
    as_jpeg, raw = plans.index(last, 0, RAW_BITS, "jpeg"), plans.index(last, 0, RAW_BITS, "affine")
    assert plans.rows[as_jpeg].wire_bytes == wire_bytes(plans.rows[as_jpeg].payload_bytes)
    assert plans.rows[as_jpeg].payload_bytes - 1 < jpeg.sizes.mean_bytes <= plans.rows[as_jpeg].payload_bytes
    assert plans.rows[as_jpeg].payload_p95_bytes - 1 < jpeg.sizes.p95_bytes <= plans.rows[as_jpeg].payload_p95_bytes
    assert plans.rows[as_jpeg].encode_s == pytest.approx(jpeg.encode.cpu.mean_s * derived.PI4_TIME_RATIO)
    assert plans.rows[as_jpeg].accuracy == jpeg.exits[last].correct_jpeg / jpeg.images
    assert (plans.name(as_jpeg), plans.name(raw)) == (f"e{last} jpeg", f"e{last} raw")


def test_the_input_goes_as_the_fewest_bytes_unless_it_is_said_how():
    plans = builtin.table("jpeg")
    assert plans.index(2, 0, RAW_BITS) == plans.index(2, 0, RAW_BITS, "jpeg")
    assert plans.rows[plans.edge_only()].codec == "jpeg"
    assert builtin.table().rows[builtin.table().edge_only()].codec == "affine"
    with pytest.raises(KeyError):
        builtin.table().index(2, 0, RAW_BITS, "jpeg")
    with pytest.raises(KeyError):
        builtin.table("privacy").edge_only()


def test_a_table_keeps_its_codecs_on_disk_and_one_without_jpeg_does_not_mention_them():
    plans = builtin.table("jpeg")
    assert PlanTable.decode(plans.encode(), "here").digest() == plans.digest()
    assert b'"codec":"jpeg"' in plans.encode()
    assert b"codec" not in builtin.table().encode()


def test_the_three_files_are_of_the_same_weights_and_images():
    edge, accuracy, jpeg = load.profile("alexnet"), load.accuracy("alexnet-accuracy"), builtin.jpeg_table()
    assert jpeg.weights_sha256 == edge.weights_sha256 == accuracy.weights_sha256, REMAKE
    assert (jpeg.source, jpeg.images) == (accuracy.source, accuracy.images), REMAKE
    exact = {plan.exit: plan.correct for plan in accuracy.plans if plan.bits == 0}
    for exit_ in jpeg.exits:
        # Counted twice, in batches of different shape: rounding in a convolution may turn one image in a thousand.
        assert abs(exit_.correct_raw - exact[exit_.exit]) <= jpeg.images / 1000, REMAKE


def test_jpegs_of_other_images_are_not_joined_with_the_accuracy_table(monkeypatch):
    table = msgspec.structs.replace(builtin.jpeg_table(), images=100)
    monkeypatch.setattr(builtin, "jpeg_table", lambda: table)
    with pytest.raises(ProfileError, match="of 100 images of"):
        builtin.TABLES["jpeg"].build()


def test_jpegs_of_another_network_are_refused():
    edge = load.profile("alexnet")
    other = dataclasses.replace(builtin.jpeg_table().on(edge), weights_sha256="0" * 64)
    with pytest.raises(ProfileError, match="tables of different networks"):
        PlanTable.build(edge, edge, load.accuracy("alexnet-accuracy"), jpeg=other)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[:200], "is not whole JSON"),
        (lambda text: text.replace(b'"quality"', b'"qualitty"'), "is not a JpegTable"),
        (lambda text: text.replace(b'"schema_version": 2', b'"schema_version": 99'), "schema version 99"),
        (lambda text: text.replace(b'"images": ', b'"images": -'), "more often than there are images"),
        (lambda text: text.replace(b'"std_s": ', b'"std_s": -'), "is no duration"),
        (lambda text: text.replace(b'"mean_s": 0.', b'"mean_s": 9000.'), "is no duration"),
        (lambda text: text.replace(b'"mean_bytes": ', b'"mean_bytes": -'), "is no size of a file"),
    ],
)
def test_a_damaged_jpeg_table_is_refused_in_one_line(tmp_path, damage, message):
    file = tmp_path / "jpeg.json"
    file.write_bytes(damage(builtin.JPEG_FILE.read_bytes()))
    with pytest.raises(ProfileError, match=message) as caught:
        builtin.jpeg_table(file)
    assert "\n" not in str(caught.value)
    assert str(file) in str(caught.value)


def test_a_missing_jpeg_table_is_named(tmp_path):
    with pytest.raises(ProfileError, match="cannot read"):
        builtin.jpeg_table(tmp_path / "none.json")


def test_an_unknown_name_is_corrected():
    with pytest.raises(ConfigError, match="did you mean 'privacy'"):
        builtin.table("privcy")


def test_jpegs_are_measured_as_they_are_sent(tmp_path):
    torch = pytest.importorskip("torch")
    pytest.importorskip("PIL")
    from cutlayer.profiles import accuracy, zoo

    torch.set_num_threads(1)
    network = zoo.build("alexnet", seed=1)
    network.eval()
    table = accuracy.measure_jpeg(network, images.generated(6, 0), device_name="here", quality=75)
    assert (table.images, table.sizes.n, table.encode.cpu.n, table.decode.wall.n) == (6, 6, 6, 6)
    assert table.provenance.machine == "here"
    assert 600 < table.sizes.p50_bytes < 128 * 128 * 3  # more than the tables of the header, less than the pixels
    assert [exit_.exit for exit_ in table.exits] == list(range(len(network.depths)))
    coarse = accuracy.measure_jpeg(network, images.generated(6, 0), quality=10)
    assert coarse.sizes.mean_bytes < table.sizes.mean_bytes
    builtin.save_jpeg(table, tmp_path / "jpeg.json")
    assert builtin.jpeg_table(tmp_path / "jpeg.json") == table


def test_jpegs_of_other_classes_are_refused():
    torch = pytest.importorskip("torch")
    from cutlayer.profiles import accuracy, zoo

    torch.set_num_threads(1)
    with pytest.raises(ConfigError, match="images of 3 classes"):
        accuracy.measure_jpeg(zoo.build("alexnet", seed=1), images.generated(6, 0, classes=3))

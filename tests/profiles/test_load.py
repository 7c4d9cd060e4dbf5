"""Tables on disk: what is wrong gets one line that names value, place and mend; what is saved is whole."""

from __future__ import annotations

import json
import os

import msgspec
import pytest

from cutlayer.errors import ProfileError
from cutlayer.profiles import load
from cutlayer.profiles.schema import AccuracyTable, ModelProfile


@pytest.fixture
def refused(tmp_path):
    """Write bytes or an object as a table, load it, and hand back the message of its refusal."""

    def run(content, kind=load.profile):
        path = tmp_path / "table.json"
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        with pytest.raises(ProfileError) as caught:
            kind(path)
        message = str(caught.value)
        assert str(path) in message, "names the place"
        assert any(sign in message for sign in ("; ", "? ", " must ", " needs ")), "names the mend"
        assert "\n" not in message
        return message

    return run


def test_a_table_comes_back_as_it_was_saved(tmp_path, device, accuracy_table):
    load.save(device, tmp_path / "profile.json")
    load.save(accuracy_table, tmp_path / "accuracy.json")
    assert load.profile(tmp_path / "profile.json") == device
    assert load.profile(str(tmp_path / "profile.json")) == device
    assert load.accuracy(tmp_path / "accuracy.json") == accuracy_table


def test_equal_tables_give_equal_files_that_people_can_read(tmp_path, device):
    load.save(device, tmp_path / "one.json")
    load.save(device, tmp_path / "two.json")
    text = (tmp_path / "one.json").read_text(encoding="utf-8")
    assert text == (tmp_path / "two.json").read_text(encoding="utf-8")
    assert text.endswith("}\n")
    assert text.count("\n") > 100


def test_built_in_tables_are_found_by_name():
    assert isinstance(load.profile("alexnet"), ModelProfile)
    assert isinstance(load.accuracy("alexnet-accuracy"), AccuracyTable)


def test_a_missing_table_names_those_that_exist():
    with pytest.raises(ProfileError, match=r"no table 'alexnett'; give the path of a JSON file or a built-in name: .*alexnet") as caught:
        load.profile("alexnett")
    assert "\n" not in str(caught.value)


def test_a_name_too_long_for_a_file_is_only_missing():
    with pytest.raises(ProfileError, match="no table"):
        load.profile("x" * 300)


def test_a_folder_is_no_table(tmp_path):
    with pytest.raises(ProfileError, match=r"cannot read .*; check the path"):
        load.profile(tmp_path)


def test_a_table_of_the_other_kind_is_refused(refused, as_dict, device, accuracy_table):
    assert "not a ModelProfile" in refused(as_dict(accuracy_table))
    assert "not a AccuracyTable" in refused(as_dict(device), load.accuracy)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(refused, device, share):
    data = msgspec.json.encode(device)
    assert "is not whole JSON" in refused(data[: int(share * len(data))])


@pytest.mark.parametrize("content", [b"\x00" * 64, b"layer,mean_s\nconv1,0.1\n", b'{"model": "tiny",}'])
def test_what_is_no_json_is_refused(refused, content):
    refused(content)


def test_text_that_is_not_utf_8_is_refused(refused, device):
    refused(msgspec.json.encode(device).replace(b'"tiny"', b'"t\xffny"'))


def test_brackets_without_end_are_refused(refused):
    refused(b'{"model":' + b"[" * 100_000)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e999"])
def test_a_number_that_is_not_finite_is_refused(refused, device, value):
    refused(msgspec.json.encode(device).replace(b'"busy_w":2.0', b'"busy_w":' + value.encode()))


def change(table, keys, value):
    *keys, last = keys
    for key in keys:
        table = table[key]
    table[last] = value


SECOND = ("layers", 1, "time", "cpu", "mean_s")


@pytest.mark.parametrize(
    ("keys", "value", "said"),
    [
        (("unit",), "ms", ["unknown field `unit`", "compare"]),
        ((*SECOND[:-1], "median"), 0.1, ["unknown field `median`", "$.layers[1].time.cpu"]),
        (SECOND, "fast", ["float", "str", "$.layers[1].time.cpu.mean_s"]),
        (SECOND, None, ["$.layers[1].time.cpu.mean_s"]),
        (SECOND, -0.02, ["mean_s -0.02", "b (cpu)", "measure it anew"]),
        (("heads", 0, "time", "wall", "p99_s"), -1e-9, ["p99_s -1e-09", "exit0 (wall)", "measure it anew"]),
        (("whole", "cpu", "std_s"), -1.0, ["std_s -1.0", "whole (cpu)", "measure it anew"]),
        (("codecs", 1, "decode", "cpu", "p50_s"), -2.5, ["p50_s -2.5", "decode of cut 1 at 2 bits", "measure it anew"]),
        (SECOND, 3600.5, ["mean_s 3600.5", "b (cpu)", "over an hour", "milliseconds", "seconds"]),
        ((*SECOND[:-1], "n"), 0, ["n 0", "b (cpu)", "at least one run"]),
        (("schema_version",), 0, ["schema version 0", "reads 1 to 2", "measure it anew"]),
        (("schema_version",), 99, ["schema version 99", "reads 1 to 2", "update cutlayer, or measure it anew"]),
        (("depths",), [4, 2], ["depths (4, 2)", "must rise"]),
        (("depths",), [2, 2], ["depths (2, 2)", "must rise"]),
        (("depths",), [0, 4], ["depths (0, 4)", "at least 1"]),
        (("depths",), [2, 3], ["depths (2, 3)", "number of layers, 4"]),
        (("depths",), [2, 5], ["depths (2, 5)", "number of layers, 4"]),
        (("depths",), [], ["depths ()"]),
        (("heads",), [], ["0 heads for 2 exits", "one head an exit"]),
        (("busy_w",), -2.0, ["busy_w -2.0", "watts"]),
        (("whole", "wall", "p50_s"), 0.0, ["whole", "takes no time", "measure it anew"]),
        ((*SECOND[:-1], "p50_s"), 9.0, ["p50_s 9.0", "b (cpu)", "do not rise"]),
        (("idle_w",), -1.0, ["idle_w -1.0", "watts"]),
        (("idle_w",), 2.5, ["idle_w 2.5", "above busy_w 2.0", "exchanged?"]),
        (("codecs", 2, "bits"), 2, ["cut 1 at 2 bits (affine) is there 2 times", "keep one"]),
        (("input_shape",), [3, 32], ["$.input_shape"]),
        (("provenance", "kind"), "guessed", ["guessed", "$.provenance.kind"]),
    ],
)
def test_a_profile_that_cannot_be_is_refused(refused, as_dict, device, keys, value, said):
    table = as_dict(device)
    change(table, keys, value)
    message = refused(table)
    for part in said:
        assert part in message


@pytest.mark.parametrize("key", ["model", "heads", "whole", "provenance", "schema_version"])
def test_a_missing_key_is_named(refused, as_dict, device, key):
    table = as_dict(device)
    del table[key]
    assert f"missing required field `{key}`" in refused(table)


def test_a_share_of_right_answers_over_one_is_refused(refused, as_dict, accuracy_table):
    table = as_dict(accuracy_table)
    table["plans"][3]["correct"] = 1001
    message = refused(table, load.accuracy)
    for part in ("1001 right answers of 1000 images", "exit 0, partition 1, 8 bits", "measure the table anew"):
        assert part in message
    table["plans"][3]["correct"] = -1
    refused(table, load.accuracy)


UNIT = {"name": "ae3", "cut": 1, "channels": 3, "code_shape": [3, 8, 8], "sha256": "cd" * 32, "encoder_bytes": 9, "decoder_bytes": 8}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"encoder_bytes": 0}, "unit ae3 at cut 1 in "),
        ({"code_shape": [3, 0, 8]}, "has a size below 1 or no such cut"),
        ({"cut": 5}, "unit ae3 at cut 5 in "),
        ({"cut": 0}, "has a size below 1 or no such cut"),
        ({"swap": -1.0}, "mean_s -1.0 of swap of ae3 at cut 1 (cpu)"),
        ({"twice": True}, "unit ae3 at cut 1 is there 2 times"),
    ],
)
def test_a_bottleneck_that_cannot_be_is_refused(refused, as_dict, device, tmp_path, wrong, said):
    table = as_dict(device)
    unit = UNIT | {"swap": as_dict(device.whole)}
    table["units"] = [unit]
    (tmp_path / "good.json").write_text(json.dumps(table), encoding="utf-8")
    assert load.profile(tmp_path / "good.json").units[0].code_shape == (3, 8, 8)
    if "swap" in wrong:
        change(unit, ("swap", "cpu", "mean_s"), wrong["swap"])
    elif "twice" in wrong:
        table["units"].append(unit)
    else:
        unit.update(wrong)
    assert said in refused(table)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"mean_bytes": -5.0}, "mean_bytes -5.0 of cut 1 at 4 bits (zstd)"),
        ({"p50_bytes": 0.0}, "p50_bytes 0.0 of cut 1 at 4 bits (zstd)"),
        ({"std_bytes": -1.0}, "std_bytes -1.0 of cut 1"),
        ({"p50_bytes": 300.0}, "p50_bytes, p95_bytes, p99_bytes of cut 1 at 4 bits (zstd)"),
        ({"n": 0}, "n 0 of cut 1 at 4 bits (zstd)"),
    ],
)
def test_payload_sizes_that_cannot_be_are_refused(refused, as_dict, accuracy_table, tmp_path, wrong, said):
    table = as_dict(accuracy_table)
    sizes = {"mean_bytes": 100.0, "std_bytes": 0.0, "p50_bytes": 90.0, "p95_bytes": 120.0, "p99_bytes": 130.0, "n": 9}
    table["payloads"] = [{"cut": 1, "bits": 4, "codec": "zstd", "sizes": sizes}]
    (tmp_path / "good.json").write_text(json.dumps(table), encoding="utf-8")
    assert load.accuracy(tmp_path / "good.json").payloads[0].sizes.n == 9
    sizes.update(wrong)
    assert said in refused(table, load.accuracy)


def test_a_plan_that_is_counted_twice_is_refused(refused, as_dict, accuracy_table):
    table = as_dict(accuracy_table)
    table["plans"].append(table["plans"][1])
    assert "exit 0, partition 1, 2 bits (affine) is there 2 times" in refused(table, load.accuracy)


@pytest.mark.parametrize(
    "content", [b"[" * 100_000, b'{"schema_version": 2, "model":' + b"[" * 100_000, b'{"schema_version": 1, "model":' + b"[" * 100_000]
)
def test_nesting_without_end_is_refused(refused, content):
    refused(content)


def test_an_accuracy_without_images_is_refused(refused, as_dict, accuracy_table):
    table = as_dict(accuracy_table)
    table["images"] = 0
    for plan in table["plans"]:
        plan["correct"] = 0
    refused(table, load.accuracy)


def test_saving_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, device, edge):
    path = tmp_path / "profile.json"
    load.save(device, path)

    def broken(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="No space"):
        load.save(edge, path)
    assert load.profile(path) == device
    assert list(tmp_path.iterdir()) == [path]


def test_saving_makes_its_folder_and_keeps_to_the_umask(tmp_path, device):
    path = tmp_path / "new" / "deep" / "profile.json"
    before = os.umask(0o027)
    try:
        load.save(device, path)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o640

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
        (("schema_version",), 0, ["schema version 0", "reads 1", "measure it anew"]),
        (("schema_version",), 99, ["schema version 99", "reads 1", "measure it anew"]),
        (("depths",), [4, 2], ["depths (4, 2)", "must rise"]),
        (("depths",), [2, 2], ["depths (2, 2)", "must rise"]),
        (("depths",), [0, 4], ["depths (0, 4)", "at least 1"]),
        (("depths",), [2, 3], ["depths (2, 3)", "number of layers, 4"]),
        (("depths",), [2, 5], ["depths (2, 5)", "number of layers, 4"]),
        (("depths",), [], ["depths ()"]),
        (("heads",), [], ["0 heads for 2 exits", "one head an exit"]),
        (("busy_w",), -2.0, ["busy_w -2.0", "watts"]),
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

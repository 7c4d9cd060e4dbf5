"""Older tables are read: real files of version 1 mean today what they meant then, and what is newer is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cutlayer.errors import ProfileError
from cutlayer.profiles import builtin, foreign, load
from cutlayer.profiles.schema import SCHEMA_VERSION

DATA = Path(__file__).parent / "data"

# Cut down from the tables that version 1 shipped; the JPEG table is whole. READERS[file] reads its kind.
READERS = {
    "version-1-profile.json": load.profile,
    "version-1-accuracy.json": load.accuracy,
    "version-1-jpeg.json": builtin.jpeg_table,
}
# No such table ever shipped; by the schema of version 1, in the words of its own importer.
IMPORTED = {
    "schema_version": 1, "format": "csv",
    "machines": [
        {
            "provenance": {
                "kind": "imported", "machine": "board", "cpu": "unknown", "backend": "unknown", "backend_version": "unknown", "threads": 2,
                "date": "unknown", "command": "cutlayer profile import csv t.csv", "load_average": None, "energy_method": "unknown",
                "governor": "unknown", "derived_from": "", "time_ratio": 1.0, "ratio_source": "", "source": "t.csv",
                "source_sha256": "ab" * 32, "licence": "unknown", "citation": "unknown",
            },
            "clock": "wall", "setting": "", "models": [{"name": "net", "whole": {"name": "whole", "time": {"mean_s": 0.012, "n": 30}}}],
        }
    ],
}  # fmt: skip


@pytest.fixture(params=[*READERS, "imported"])
def old(request, tmp_path):
    """(file of version 1, what reads it)."""
    if request.param in READERS:
        return DATA / request.param, READERS[request.param]
    (tmp_path / "imported.json").write_text(json.dumps(IMPORTED), encoding="utf-8")
    return tmp_path / "imported.json", foreign.load


def kept(new, old):
    """What `new` says of the keys of `old`, at every depth: a later version may add."""
    if isinstance(old, dict):
        return {key: kept(new[key], value) for key, value in old.items()}
    return [kept(*pair) for pair in zip(new, old, strict=True)] if isinstance(old, list) else new


def test_every_version_before_this_one_has_an_upgrade():
    assert sorted(load.UPGRADES) == list(range(1, SCHEMA_VERSION))


def test_a_table_of_version_1_is_read_with_every_figure_it_had(old, tmp_path):
    path, read = old
    before = json.loads(path.read_bytes())
    assert before["schema_version"] == 1
    table = read(path)
    assert table.schema_version == SCHEMA_VERSION
    load.save(table, tmp_path / "new.json")
    after = json.loads((tmp_path / "new.json").read_bytes())
    assert after.pop("schema_version") == SCHEMA_VERSION
    del before["schema_version"]
    assert kept(after, before) == before
    assert read(tmp_path / "new.json") == table


def test_a_codec_of_version_1_is_the_affine_one():
    assert {cost.codec for cost in load.profile(DATA / "version-1-profile.json").codecs} == {"affine"}
    assert {plan.codec for plan in load.accuracy(DATA / "version-1-accuracy.json").plans} == {"affine"}


@pytest.mark.parametrize(("version", "mend"), [(0, "; measure"), (-1, "; measure"), (SCHEMA_VERSION + 1, "; update cutlayer, or ")])
def test_other_versions_are_refused_in_one_line_whatever_they_hold(old, tmp_path, version, mend):
    path, read = old
    table = json.loads(path.read_bytes()) | {"schema_version": version, "a key of the future": [1]}
    (tmp_path / "other.json").write_text(json.dumps(table), encoding="utf-8")
    with pytest.raises(
        ProfileError, match=rf"other.json has schema version {version}, this cutlayer reads 1 to {SCHEMA_VERSION}"
    ) as caught:
        read(tmp_path / "other.json")
    message = str(caught.value)
    assert "\n" not in message
    assert mend in message.replace("; import the source again", "; measure")


def test_an_old_table_that_is_damaged_is_refused_as_a_new_one_is(old, tmp_path):
    path, read = old
    table = json.loads(path.read_bytes())
    (tmp_path / "bad.json").write_text(json.dumps(table | {"unit": "ms"}), encoding="utf-8")
    with pytest.raises(ProfileError, match=r"bad.json is not a \w+: Object contains unknown field `unit`"):
        read(tmp_path / "bad.json")
    (tmp_path / "bad.json").write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ProfileError, match=r"bad.json is not whole JSON"):
        read(tmp_path / "bad.json")


def test_upgrades_run_one_after_the_other(tmp_path, monkeypatch):
    """As if this were version 3, and version 3 had renamed a key."""

    def to_3(table):
        return {**{key: value for key, value in table.items() if key != "network"}, "model": table["network"], "schema_version": 3}

    table = json.loads((DATA / "version-1-accuracy.json").read_bytes())
    table["network"] = table.pop("model")
    (tmp_path / "old.json").write_text(json.dumps(table), encoding="utf-8")
    monkeypatch.setattr(load, "SCHEMA_VERSION", 3)
    monkeypatch.setattr(load, "UPGRADES", {**load.UPGRADES, 2: to_3})
    assert (load.accuracy(tmp_path / "old.json").model, load.accuracy(tmp_path / "old.json").schema_version) == ("alexnet", 3)

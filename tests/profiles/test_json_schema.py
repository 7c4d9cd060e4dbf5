"""The committed JSON Schemas are the generated ones, and a stranger's validator takes every shipped table and no spoilt one."""

from __future__ import annotations

import copy
import json

import jsonschema
import msgspec
import pytest

from cutlayer.profiles import builtin, graphs, importers, json_schema, load
from cutlayer.profiles.schema import FrameCost, SegmentCost, UnitCost

SHIPPED = {"alexnet": "model-profile", "alexnet-accuracy": "accuracy", "alexnet-jpeg": "jpeg"}  # others are told apart by their keys


def kind_of(file):
    keys = load.keys(file)
    return "accuracy" if {"plans", "images"} <= keys else "jpeg" if "quality" in keys else "model-profile"


@pytest.fixture(scope="module")
def checkers():
    """A validator of each kind, by name; a schema that is none is refused here."""
    made = {}
    for name, schema in json_schema.schemas().items():
        jsonschema.Draft202012Validator.check_schema(schema)
        made[name] = jsonschema.Draft202012Validator(schema)
    return made


def test_the_committed_schemas_are_the_generated_ones(root, tmp_path):
    made = {path.name: path.read_text(encoding="utf-8") for path in json_schema.write(tmp_path)}
    committed = {path.name: path.read_text(encoding="utf-8") for path in (root / "docs" / "schema").glob("*.json")}
    assert made == committed, "docs/schema is out of date; make it anew with: cutlayer profile schema -o docs/schema"


@pytest.mark.parametrize("name", sorted(path.stem for path in load.BUILT_IN.glob("*.json")))
def test_every_shipped_table_fits_its_schema(checkers, name):
    file = load.BUILT_IN / f"{name}.json"
    kind = kind_of(file)
    assert SHIPPED.get(name, kind) == kind
    checkers[kind].validate(json.loads(file.read_bytes()))


def test_every_shipped_plan_table_fits_its_schema(checkers):
    checkers["plan-table"].validate(json.loads(builtin.table().encode()))


def test_a_measured_table_with_every_part_fits_its_schema(checkers, device, tmp_path):
    time = device.whole
    full = msgspec.structs.replace(
        device, idle_w=1.5, preprocess=FrameCost(frame_shape=(480, 640, 3), time=time), postprocess=time,
        prefixes=(SegmentCost(cut=1, time=time, load=time, weight_bytes=12),), suffixes=(SegmentCost(cut=1, exit=0, time=time),),
        units=(
            UnitCost(name="ae3", cut=1, channels=3, code_shape=(3, 8, 8), sha256="ab" * 32, encoder_bytes=9, decoder_bytes=8, swap=time),
        ),
    )  # fmt: skip
    load.save(full, tmp_path / "full.json")
    checkers["model-profile"].validate(json.loads((tmp_path / "full.json").read_bytes()))
    assert load.profile(tmp_path / "full.json") == full


def test_an_imported_table_fits_its_schema(checkers, tmp_path):
    (tmp_path / "t.csv").write_text(
        "machine,model,part,name,mean_ms,p95_ms\nboard,net,,,12,15\nboard,net,block,conv1,4,\n", encoding="utf-8"
    )
    load.save(importers.read("csv", tmp_path / "t.csv"), tmp_path / "t.json")
    checkers["imported"].validate(json.loads((tmp_path / "t.json").read_bytes()))


def test_graphs_fit_their_schema(checkers):
    manifest = graphs.Manifest(
        schema_version=graphs.SCHEMA_VERSION, model="toy", weights_sha256="ab", input_shape=(3, 8, 8), depths=(1, 2), classes=4,
        cut_shapes=((3, 8, 8), (4, 4, 4), (5,)), exporter="torch 2", files={"prefix_1.onnx": "cd"},
    )  # fmt: skip
    checkers["graphs"].validate(json.loads(msgspec.json.encode(manifest)))


def change(table, keys, value):
    *keys, last = keys
    for key in keys:
        table = table[key]
    table[last] = value


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        (("unit",), "ms"),
        (("schema_version",), 1),
        (("layers", 0, "time", "cpu", "mean_s"), "fast"),
        (("layers", 0, "time", "cpu", "median"), 0.1),
        (("input_shape",), [3, 32]),
        (("provenance", "kind"), "guessed"),
        (("heads",), None),
    ],
)
def test_the_schema_refuses_what_the_reader_refuses(checkers, keys, value):
    table = json.loads((load.BUILT_IN / "alexnet.json").read_bytes())
    broken = copy.deepcopy(table)
    change(broken, keys, value)
    checkers["model-profile"].validate(table)
    with pytest.raises(jsonschema.ValidationError):
        checkers["model-profile"].validate(broken)

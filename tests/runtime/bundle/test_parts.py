"""The parts of a bundle that not every reader needs: graph, tree, ranges, parameters of the rule, optional features."""

from __future__ import annotations

import dataclasses
import io
import json
import sys
import zipfile

import numpy as np
import pytest

from cutlayer.errors import BundleError
from cutlayer.runtime import bundle, bundle_archive, features
from cutlayer.runtime.bundle import MANIFEST, Golden
from cutlayer.runtime.controller import Controller, Request
from cutlayer.runtime.features import Blocks
from cutlayer.runtime.policy import Mlp

# --- the parts that may be there


def test_the_graph_is_the_one_that_the_onnx_library_writes(made, data, unzip):
    """And it checks it, types and shapes included."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    part = unzip(data)["policy.onnx"]
    read = onnx.load_from_string(part)
    onnx.checker.check_model(read, full_check=True)
    nodes, weights, source = [], [], "observation"
    for i, (weight, bias) in enumerate(made.policy.layers):
        target = "logits" if i == 2 else f"sums{i}"
        weights += [numpy_helper.from_array(weight, f"layer{i}.weight"), numpy_helper.from_array(bias, f"layer{i}.bias")]
        nodes.append(helper.make_node("Gemm", [source, f"layer{i}.weight", f"layer{i}.bias"], [target], transB=1))
        if i < 2:
            source = f"hidden{i}"
            nodes.append(helper.make_node("Tanh", [target], [source]))
    ends = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size])] for name, size in (("observation", 32), ("logits", 8))]
    graph = helper.make_graph(nodes, "policy", *ends, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8, producer_name="cutlayer")
    assert read == model
    assert part == model.SerializeToString(deterministic=True)


def renamed(part):
    return part.replace(b"Tanh", b"Relu")


def with_an_external_weight(part):
    """ONNX Runtime would read it from a file below the working folder."""
    import onnx

    model = onnx.load_from_string(part)
    weight = model.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="w.bin")
    return model.SerializeToString()


def with_a_loop(part):
    import onnx

    model = onnx.load_from_string(part)
    model.graph.node.append(onnx.helper.make_node("Loop", [], []))
    return model.SerializeToString()


@pytest.mark.parametrize("change", [renamed, with_an_external_weight, with_a_loop, lambda part: part[:-1], lambda part: b""])
def test_any_other_graph_is_refused_before_it_is_run(refused, data, change, resealed):
    """It is a program; only the one that follows from the weights is ever run."""
    assert "policy.onnx of" in (message := refused(resealed(data, {"policy.onnx": change})))
    assert "is not the graph of weights.safetensors" in message


def test_every_form_decides(file):
    loaded = bundle.load(file)
    observations = np.random.default_rng(5).uniform(-1, 4, (300, features.SIZE)).astype(np.float32)
    expected = [loaded.policy.choose(one) for one in observations]
    assert loaded.form("numpy") is loaded.policy
    assert [loaded.form("onnxruntime").choose(one) for one in observations] == expected
    tree = loaded.form("tree")
    assert {tree.choose(one) for one in observations} == {(7, True), (1, True), (2, True)}


def test_without_onnx_runtime_the_form_is_refused_in_one_line(made, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(
        BundleError, match=r"cannot run policy.cutlayer in ONNX Runtime, which is not installed: pip install 'cutlayer\[daemon\]'"
    ):
        made.form("onnxruntime", "policy.cutlayer")


@pytest.mark.parametrize(
    ("column", "node", "value"),
    [
        ("yes", 0, 0),  # would never end
        ("no", 2, 2),
        ("yes", 0, 5),
        ("no", 0, -1),
        ("feature", 0, features.SIZE),
        ("feature", 0, -2),
        ("plan", 1, 8),
        ("plan", 1, -1),
        ("plan", 1, 10**30),
        ("threshold", 0, "0"),
        ("threshold", 0, None),
    ],
)
def test_a_tree_that_cannot_be_is_refused(refused, data, column, node, value, resealed, as_json):
    def change(tree):
        tree[column][node] = value

    assert "tree" in refused(resealed(data, {"tree.json": as_json(change)}))


@pytest.mark.parametrize("change", [lambda tree: tree["plan"].pop(), lambda tree: {name: [] for name in tree}, lambda _: [1]])
def test_a_tree_without_nodes_or_with_uneven_columns_is_refused(refused, data, change, resealed, as_json):
    assert "tree" in refused(resealed(data, {"tree.json": as_json(change)}))


@pytest.mark.parametrize(
    "change",
    [
        lambda ranges: ranges["low"].pop(),
        lambda ranges: ranges["high"].append(1.0),
        lambda ranges: ranges["low"].__setitem__(4, 2.0),
        lambda ranges: ranges["low"].__setitem__(4, None),
        lambda ranges: ranges.update(more=1),
    ],
)
def test_ranges_that_cannot_be_are_refused(refused, data, change, resealed, as_json):
    assert "ranges" in refused(resealed(data, {"ranges.json": as_json(change)}))


@pytest.mark.parametrize(
    ("where", "value"),
    [(("link", "median_bps"), -1.0), (("link", "memory_s"), [0.0, 1.0, 1.0]), (("edge", "memory_s"), 0.0)],
)
def test_parameters_of_a_rule_that_make_no_sense_are_refused(refused, data, where, value, resealed, as_json):
    def change(parameters):
        parameters[where[0]][where[1]] = value

    assert "bayes.json" in refused(resealed(data, {"bayes.json": as_json(change)}))


@pytest.mark.parametrize(
    "loads",
    [
        {"unit": [0] * 7, "load_s": [0.0] * 7},
        {"unit": [0] * 8, "load_s": [0.0] * 9},
        {"unit": [-2] + [0] * 7, "load_s": [0.0] * 8},
        {"unit": [10**30] + [0] * 7, "load_s": [0.0] * 8},
        {"unit": [0] * 8, "load_s": [-1.0] + [0.0] * 7},
    ],
)
def test_segments_of_a_rule_that_are_not_those_of_the_plans_are_refused(refused, data, loads, resealed, as_json):
    assert "bayes.json" in refused(resealed(data, {"bayes.json": as_json(lambda parameters: parameters | {"loads": loads})}))


BLOCKS = Blocks(deadline=True, throttle_c=60.0, limit_c=85.0, capacity_j=20.0, units=3, broadcast=True)


@pytest.fixture(scope="module")
def with_blocks(make_bundle, plans):
    """A bundle for a world with every optional feature."""
    rng = np.random.default_rng(3)
    size = features.size(BLOCKS)
    policy = Mlp([(rng.normal(0, 0.3, (len(plans), size)).astype(np.float32), np.zeros(len(plans), np.float32))], "tanh")
    observations = rng.uniform(-1, 4, (32, size)).astype(np.float32)
    golden = Golden(observations.tolist(), [policy.choose(one)[0] for one in observations])
    return dataclasses.replace(make_bundle(), policy=policy, golden=golden, blocks=BLOCKS)


def test_optional_features_make_the_observation_longer(with_blocks, tmp_path):
    with_blocks.save(tmp_path / "more.cutlayer", "1.2.3")
    got = bundle.load(tmp_path / "more.cutlayer")
    assert got.blocks == BLOCKS
    assert got.policy.inputs == features.size(BLOCKS) == len(features.table(BLOCKS)) > features.SIZE
    decision = Controller(got).decide(0.0, Request())
    assert decision.step == "policy"


@pytest.mark.parametrize("change", [{"units": 2}, {"broadcast": False}, {"units": 10**9}, {"units": -1}, {"units": 3.5}, {"limit_c": 10.0}])
def test_other_optional_features_than_stated_are_refused(refused, with_blocks, tmp_path, change, unzip, resealed):
    with_blocks.save(tmp_path / "more.cutlayer", "1.2.3")
    data = (tmp_path / "more.cutlayer").read_bytes()
    blocks = json.loads(unzip(data)[MANIFEST])["blocks"]
    refused(resealed(data, {}, blocks=blocks | change))


def test_a_part_that_no_bundle_has_is_refused(refused, data, unzip, rezip):
    assert "holds 'run.py', which no bundle does" in refused(rezip(unzip(data) | {"run.py": b"print(1)"}))


def test_a_part_that_the_manifest_does_not_name_is_refused(refused, data, unzip, resealed):
    stated = json.loads(unzip(data)[MANIFEST])
    del stated["parts"]["tree.json"]
    assert "tree.json of" in refused(resealed(data, {}, parts=stated["parts"]))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_part_that_is_there_twice_is_refused(refused, data):
    buffer = io.BytesIO(data)
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr("golden.json", b"{}")
    assert "holds a part twice" in refused(buffer.getvalue())


def test_a_file_that_is_too_long_is_refused(refused, data):
    assert "this is no policy" in refused(data + bytes(bundle_archive.MOST_FILE_BYTES))


def test_a_part_that_would_not_be_read_again_is_not_written(made, tmp_path):
    layers = [(np.zeros((1000, 600), np.float32), np.zeros(1000, np.float32))]
    with pytest.raises(BundleError, match=r"weights.safetensors of .* has \d+ bytes, at most \d+ are read; train a smaller network"):
        dataclasses.replace(made, policy=Mlp(layers, "tanh")).save(tmp_path / "large.cutlayer", "1.2.3")
    assert not list(tmp_path.iterdir())

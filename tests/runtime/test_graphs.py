"""Exported graphs compute what the network computes, and a damaged folder is refused by name."""

from __future__ import annotations

import hashlib
import json
import sys

import msgspec
import numpy as np
import pytest

from cutlayer.errors import ConfigError
from cutlayer.profiles import graphs as exporter
from cutlayer.profiles import zoo
from cutlayer.runtime.split.graphs import Graphs, resumable


def replace(folder, name, data):
    (folder / name).unlink()
    (folder / name).write_bytes(data)


def rewrite_manifest(folder, **changes):
    manifest = json.loads((folder / exporter.MANIFEST).read_bytes()) | changes
    replace(folder, exporter.MANIFEST, json.dumps(manifest).encode())


def test_a_folder_holds_a_graph_for_every_cut_and_says_whose(network, graphs_folder):
    manifest = msgspec.json.decode((graphs_folder / exporter.MANIFEST).read_bytes(), type=exporter.Manifest)
    names = {f"prefix_{p}.onnx" for p in range(1, 8)}
    names |= {f"suffix_{p}_{e}.onnx" for e, depth in enumerate(network.depths) for p in range(depth + 1)}
    assert {file.name for file in graphs_folder.iterdir()} == names | {"graphs.json"}
    assert manifest.files == {name: hashlib.sha256((graphs_folder / name).read_bytes()).hexdigest() for name in names}
    assert manifest.weights_sha256 == zoo.weights_digest(network)
    assert manifest.cut_shapes[:3] == ((3, 128, 128), (64, 16, 16), (128, 8, 8))
    assert manifest.cut_shapes[-1] == (256,)


def test_graphs_name_no_path_of_the_machine(graphs_folder, root):
    for file in graphs_folder.iterdir():
        assert str(root).encode() not in file.read_bytes()


def test_exporting_again_replaces_the_folder_and_gives_the_same_graphs(network, graphs_folder, tmp_path):
    folder = tmp_path / "graphs"
    folder.mkdir()
    (folder / exporter.MANIFEST).write_text("of an earlier version")
    (folder / "prefix_99.onnx").write_text("left over")
    exporter.export(network, folder)
    assert (folder / exporter.MANIFEST).read_bytes() == (graphs_folder / exporter.MANIFEST).read_bytes()
    assert not (folder / "prefix_99.onnx").exists()
    assert [file.name for file in tmp_path.iterdir()] == ["graphs"]


def test_a_folder_of_something_else_is_left_alone(network, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match=r"holds no graphs\.json; give an empty or new folder"):
        exporter.export(network, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_failed_export_leaves_nothing(network, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exporter, "_whole_graph", lambda _: (None, (), ""))
    monkeypatch.setattr(exporter, "_write_graphs", fail)
    with pytest.raises(ConfigError, match="No space left"):
        exporter.export(network, tmp_path / "graphs")
    assert list(tmp_path.iterdir()) == []


def test_every_prefix_and_suffix_computes_its_part_of_the_network(network, opened, image):
    import torch

    x = np.ascontiguousarray(image.transpose(2, 0, 1)).astype(np.float32)
    with torch.no_grad():
        logits = [value[0].numpy() for value in network(torch.from_numpy(x)[None])]
        cuts, live = [x], torch.from_numpy(x)[None]
        for layer in network.layers:
            live = layer(live)
            cuts.append(live[0].numpy())
    for partition in range(1, 8):
        cut, kept = opened.prefix_and_kept(partition, x)
        answering, depth = resumable(opened.shapes, partition)
        np.testing.assert_allclose(cut, cuts[partition], rtol=0, atol=1e-5 * np.abs(cuts[partition]).max())
        np.testing.assert_allclose(opened.suffix(depth, answering, kept), logits[answering], rtol=0, atol=1e-4)
    for exit_, depth in enumerate(network.depths):
        for partition in range(depth + 1):
            np.testing.assert_allclose(opened.suffix(partition, exit_, cuts[partition]), logits[exit_], rtol=0, atol=1e-4)


def test_where_the_device_can_answer_by_itself(opened):
    assert [resumable(opened.shapes, p) for p in range(8)] == [(0, 0), (0, 1), (1, 2), (2, 3), (3, 4), (3, 4), (3, 4), (4, 7)]


def test_before_the_first_exit_the_device_goes_on_from_where_it_stands():
    assert exporter.kept_depth((2, 4), 1) == 1
    assert exporter.signatures((2, 4))["prefix_1.onnx"] == ("pixels", ("cut_1",))
    assert exporter.signatures((2, 4))["prefix_3.onnx"] == ("pixels", ("cut_3", "cut_2"))


def test_warming_up_a_side_loads_what_it_can_be_asked_for(graphs_folder):
    device, edge = Graphs(graphs_folder), Graphs(graphs_folder)
    device.warm_up("device")
    edge.warm_up("edge")
    assert sorted(edge._sessions) == sorted(name for name in edge.manifest.files if name.startswith("suffix"))
    heads = {"suffix_1_0.onnx", "suffix_2_1.onnx", "suffix_3_2.onnx", "suffix_4_3.onnx", "suffix_7_4.onnx"}
    assert set(device._sessions) == heads | {f"suffix_0_{e}.onnx" for e in range(5)} | {f"prefix_{p}.onnx" for p in range(1, 8)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema_version": 2}, "schema version 2, this cutlayer reads 1"),
        ({"depths": [2, 1]}, "must rise"),
        ({"depths": [1, 300]}, "one byte"),
        ({"depths": [1, 2]}, "cut shapes"),
        ({"input_shape": [3, 64, 64]}, "cut shapes"),
        ({"classes": 0}, r"tensor of shape \(0,\)"),
        ({"classes": 10**9}, "tensor of shape"),
        ({"weights_sha256": "../../etc"}, "weights_sha256"),
        ({"files": {}}, "lists no prefix_1.onnx"),
        ({"surprise": 1}, "does not describe graphs"),
    ],
)
def test_a_wrong_manifest_is_refused_by_what_is_wrong(linked_folder, changes, message):
    rewrite_manifest(linked_folder, **changes)
    with pytest.raises(ConfigError, match=message) as caught:
        Graphs(linked_folder)
    assert str(linked_folder) in str(caught.value)


def test_a_missing_folder_and_a_cut_manifest_are_told_apart(linked_folder, tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read .*No such file.*give the folder"):
        Graphs(tmp_path / "nowhere")
    replace(linked_folder, exporter.MANIFEST, b'{"schema_version": 1,')
    with pytest.raises(ConfigError, match="not whole JSON"):
        Graphs(linked_folder)


def test_a_graph_is_checked_when_it_is_loaded(linked_folder, image):
    x = image.transpose(2, 0, 1).astype(np.float32)
    data = (linked_folder / "prefix_2.onnx").read_bytes()
    replace(linked_folder, "prefix_2.onnx", data[:-100])
    (linked_folder / "prefix_3.onnx").unlink()
    junk = b"no graph at all"
    replace(linked_folder, "prefix_4.onnx", junk)
    replace(linked_folder, "prefix_5.onnx", data)
    listed = json.loads((linked_folder / exporter.MANIFEST).read_bytes())["files"]
    as_listed = {"prefix_4.onnx": hashlib.sha256(junk).hexdigest(), "prefix_5.onnx": hashlib.sha256(data).hexdigest()}
    rewrite_manifest(linked_folder, files=listed | as_listed)
    graphs = Graphs(linked_folder)
    assert graphs.prefix(1, x).shape == (64, 16, 16)
    for partition, message in ((2, "truncated or altered"), (3, "No such file"), (4, "cannot load"), (5, "promises")):
        with pytest.raises(ConfigError, match=message) as caught:
            graphs.prefix(partition, x)
        assert f"prefix_{partition}.onnx" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_without_the_runtime_the_extra_is_named(graphs_folder, image, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match=r"pip install 'cutlayer\[daemon\]'"):
        Graphs(graphs_folder).prefix(1, image.transpose(2, 0, 1).astype(np.float32))

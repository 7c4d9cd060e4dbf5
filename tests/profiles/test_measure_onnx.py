"""Prefixes and suffixes are measured in one piece by both backends, and a plan table takes its times from them."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
import torch
from torch import nn

from cutlayer.errors import ProfileError
from cutlayer.profiles import acceptance, codecs, cuts, graphs, load, measure, measure_onnx
from cutlayer.profiles.plans import PlanTable
from cutlayer.profiles.schema import (
    SCHEMA_VERSION,
    AccuracyTable,
    Cell,
    CodecCost,
    LayerCost,
    ModelProfile,
    PlanAccuracy,
    Provenance,
    SegmentCost,
    Timing,
)

RUNS = 3
DEPTHS = (2, 3)
SUFFIXES = [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1), (3, 1)]


def small():
    """Three convolutions and a classifier, with an early exit after the second; cut by `cuts.chain`."""
    torch.manual_seed(1)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
    )  # fmt: skip
    early = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5))
    return cuts.chain(network, exits={"3": early}, input_shape=(3, 16, 16), name="small")


@pytest.fixture(scope="module")
def network():
    return small()


@pytest.fixture(scope="module")
def profiles(network):
    """The network measured by both backends, without the idle gaps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "GAP_S", 0.0)
        patch.setattr(measure_onnx, "GAP_S", 0.0)
        shares = []
        table = measure_onnx.measure(network, runs=RUNS, device_name="here", progress=shares.append)
        assert shares == sorted(shares)
        assert shares[-1] == 1.0
        return {
            "onnxruntime": table,
            "torch": measure.measure(network, runs=RUNS, device_name="here", ground_truth=True),
        }


@pytest.mark.parametrize("backend", ["torch", "onnxruntime"])
def test_a_profile_has_every_prefix_and_suffix_with_its_cold_start(profiles, backend):
    profile = profiles[backend]
    assert profile.provenance.backend == backend
    assert (profile.depths, profile.model, profile.provenance.threads) == (DEPTHS, "small", 1)
    assert [(cost.cut, cost.exit) for cost in profile.prefixes] == [(1, None), (2, None), (3, None)]
    assert [(cost.cut, cost.exit) for cost in profile.suffixes] == SUFFIXES
    for cost in (*profile.prefixes, *profile.suffixes):
        assert cost.time.cpu.n == cost.time.wall.n == RUNS
        assert cost.time.cpu.mean_s > 0
        assert cost.load.cpu.n == measure.LOADS
        assert cost.load.wall.mean_s > 0
    sizes = [cost.weight_bytes for cost in profile.prefixes]
    assert sizes == sorted(sizes)
    assert sizes[0] > 4 * 3 * 4 * 9  # the float32 kernel of the first convolution
    assert profile.suffixes[-1].weight_bytes > 4 * 8 * 5  # a head on its own
    assert {(cost.cut, cost.bits) for cost in profile.codecs} == {(0, 8)} | {(cut, bits) for cut in (1, 2, 3) for bits in codecs.BITS}
    assert profile.preprocess.frame_shape == (480, 640, 3)
    assert profile.preprocess.time.cpu.n == profile.postprocess.cpu.n == RUNS


def test_both_backends_describe_one_network(profiles):
    one, other = profiles["torch"], profiles["onnxruntime"]
    assert one.weights_sha256 == other.weights_sha256
    assert [cost.output_shape for cost in one.layers] == [cost.output_shape for cost in other.layers] == [(4, 14, 14), (6, 12, 12), (8,)]
    assert [cost.name for cost in one.layers] == [cost.name for cost in other.layers]
    assert [cost.output_shape for cost in one.heads] == [cost.output_shape for cost in other.heads] == [(5,), (5,)]
    assert (one.layer_times, other.layer_times) == ("in-chain", "differences")


def test_layers_of_graphs_are_differences_and_never_negative(profiles):
    profile = profiles["onnxruntime"]
    ends = [0.0, *(cost.time.cpu.mean_s for cost in profile.prefixes)]
    for i, layer in enumerate(profile.layers):
        assert layer.time.cpu.mean_s == pytest.approx(max(0.0, ends[i + 1] - ends[i]), abs=1e-12)
        assert min(layer.time.cpu.p50_s, layer.time.wall.p99_s) >= 0


@pytest.mark.parametrize("backend", ["torch", "onnxruntime"])
def test_a_measured_profile_survives_its_file(profiles, backend, tmp_path):
    load.save(profiles[backend], tmp_path / "table.json")
    assert load.profile(tmp_path / "table.json") == profiles[backend]


def test_a_profile_without_ground_truth_has_the_file_it_had_before(network, monkeypatch):
    monkeypatch.setattr(measure, "GAP_S", 0.0)
    profile = measure.measure(network, runs=1, device_name="here")
    assert profile.prefixes == profile.suffixes == ()
    assert not {"prefixes", "suffixes", "layer_times"} & set(msgspec.json.decode(msgspec.json.encode(profile)))


def test_the_whole_graph_gives_the_logits_of_every_exit(network, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    graphs.export(network, tmp_path / "graphs")
    measure_onnx._write_whole(tmp_path / "graphs", DEPTHS)
    session = onnxruntime.InferenceSession((tmp_path / "graphs" / measure_onnx.WHOLE).read_bytes(), providers=["CPUExecutionProvider"])
    x = torch.rand(1, 3, 16, 16) * 255
    with torch.no_grad():
        for ours, theirs in zip(session.run(None, {graphs.PIXELS: x.numpy()}), network(x), strict=True):
            np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-4, atol=1e-5 * float(theirs.abs().max()))


def test_large_networks_are_opened_in_portions(network, tmp_path, monkeypatch):
    files = {}
    for cut, size in enumerate((30, 40, 50, 90, 10, 10), start=1):
        files[cut, None] = tmp_path / str(cut)
        files[cut, None].write_bytes(bytes(size))
    monkeypatch.setattr(measure_onnx, "LOADED_BYTES", 100)
    batches = measure_onnx._Bench(None, network, files, seed=0)._batches()
    assert [[cut for cut, _ in batch] for batch in batches] == [[1, 2], [3], [4, 5], [6]]


# ---- what is made of the figures: synthetic tables, so that every number is known


def timing(mean_s, wall=1.0):
    cell = Cell(mean_s=mean_s, std_s=0.0, p50_s=mean_s, p95_s=mean_s, p99_s=mean_s, n=30)
    return Timing(wall=msgspec.structs.replace(cell, p50_s=wall * mean_s), cpu=cell)


def synthetic(layers, heads, *, waking_s=0.0, wall=1.0, pieces=True, slower=1.0):
    """A profile whose layers and heads take those seconds; in one piece each segment starts for `waking_s` more."""
    depths = DEPTHS
    codec = timing(1e-4)
    prefixes = tuple(SegmentCost(cut=p, time=timing(slower * sum(layers[:p]) + waking_s)) for p in range(1, 4))
    suffixes = tuple(
        SegmentCost(cut=p, exit=e, time=timing(slower * sum(layers[p : depths[e]]) + heads[e] + waking_s)) for p, e in SUFFIXES
    )
    return ModelProfile(
        schema_version=SCHEMA_VERSION, model="toy", weights_sha256="0", input_shape=(3, 8, 8), depths=depths,
        layers=tuple(LayerCost(name=f"layer{i}", output_shape=(4, 4), time=timing(s)) for i, s in enumerate(layers)),
        heads=tuple(LayerCost(name=f"exit{i}", output_shape=(10,), time=timing(s)) for i, s in enumerate(heads)),
        codecs=tuple(CodecCost(cut=p, bits=b, encode=codec, decode=codec) for p in range(4) for b in codecs.BITS),
        whole=timing(sum(layers) + sum(heads) + waking_s, wall), busy_w=2.0,
        prefixes=prefixes if pieces else (), suffixes=suffixes if pieces else (),
        provenance=Provenance(
            kind="measured", machine="toy-machine", cpu="cpu", backend="torch", backend_version="2", threads=1, date="2026-11-01",
            command="test", load_average=0.5, energy_method="none",
        ),
    )  # fmt: skip


def right_always():
    plans = []
    for exit_, depth in enumerate(DEPTHS):
        for p in range(depth + 2):
            widths = (8,) if p == 0 else (0,) if p == depth + 1 else codecs.BITS
            plans += [PlanAccuracy(exit=exit_, partition=p, bits=b, correct=9) for b in widths]
    provenance = synthetic((1.0, 1.0, 1.0), (1.0, 1.0)).provenance
    return AccuracyTable(
        schema_version=SCHEMA_VERSION, model="toy", weights_sha256="0", source="test", images=10, plans=tuple(plans), provenance=provenance
    )


LAYERS, HEADS = (0.004, 0.003, 0.002), (0.001, 0.0005)


def test_a_plan_takes_its_times_from_the_pieces_where_they_are_measured():
    device = synthetic(LAYERS, HEADS, waking_s=0.0003)
    table = PlanTable.build(device, device, right_always())
    row = table.rows[table.index(1, 2, 8)]
    assert row.device_s == pytest.approx(0.0073)
    assert row.edge_s == pytest.approx(0.0028)
    assert row.fallback_s == pytest.approx(0.0013)  # the head of exit 0 alone, which lies on the way
    before = table.rows[table.index(1, 1, 8)]
    assert (before.fallback_exit, before.fallback_s) == (0, pytest.approx(0.0043))  # layer 2 and the head of exit 0
    assert table.rows[table.index(1, 4, 0)].device_s == pytest.approx(0.0098)
    assert table.rows[table.index(0, 0, 8)].device_s == 0.0


@pytest.mark.parametrize("pieces", [True, False])
def test_a_device_only_plan_costs_the_layers_of_its_own_exit_and_no_more(pieces):
    device = synthetic(LAYERS, HEADS, pieces=pieces)
    table = PlanTable.build(device, device, right_always())
    for exit_, depth in enumerate(DEPTHS):
        local, edge = table.rows[table.index(exit_, depth + 1, 0)], table.rows[table.index(exit_, 0, 8)]
        assert local.device_s == pytest.approx(sum(LAYERS[:depth]) + HEADS[exit_])
        assert edge.edge_s == pytest.approx(local.device_s)
        assert local.device_j == pytest.approx(2.0 * local.device_s)


def test_pieces_and_layers_of_one_machine_give_one_table():
    apart, summed = (synthetic(LAYERS, HEADS, pieces=pieces) for pieces in (True, False))
    for one, other in zip(
        PlanTable.build(apart, apart, right_always()).rows, PlanTable.build(summed, summed, right_always()).rows, strict=True
    ):
        assert msgspec.structs.astuple(one)[3:7] == pytest.approx(msgspec.structs.astuple(other)[3:7])


def test_a_profile_with_some_pieces_missing_is_refused():
    device = synthetic(LAYERS, HEADS)
    for broken in (msgspec.structs.replace(device, prefixes=device.prefixes[1:]), msgspec.structs.replace(device, suffixes=())):
        with pytest.raises(ProfileError, match=r"toy on toy-machine .* not one for every cut and exit; measure it anew"):
            PlanTable.build(broken, device, right_always())


def test_pieces_of_another_machine_than_the_layers_are_refused():
    device = synthetic(LAYERS, HEADS)
    unscaled = msgspec.structs.replace(synthetic([7.49 * s for s in LAYERS], HEADS), prefixes=device.prefixes, suffixes=device.suffixes)
    with pytest.raises(ProfileError, match=r"0\.009 s in one piece and 0\.0674 s layer by layer"):
        PlanTable.build(unscaled, device, right_always())


def test_a_pair_is_compared_with_the_network_up_to_its_exit():
    profile = synthetic(LAYERS, HEADS, waking_s=0.0004)
    assert measure.waking_s(profile) == pytest.approx(0.0004)
    assert measure.pair_errors(profile).keys() == {(1, 0), (2, 0), (1, 1), (2, 1), (3, 1)}
    assert measure.pair_error(profile) == pytest.approx(0.0004 / 0.0084)
    assert list(measure.pair_errors(profile, measure.waking_s(profile)).values()) == pytest.approx([0] * 5, abs=1e-12)


def test_networks_below_a_millisecond_are_left_out_of_the_pairs():
    tiny = synthetic([s / 20 for s in LAYERS], [s / 20 for s in HEADS], waking_s=0.0001)
    assert measure.pair_errors(tiny) == {}
    assert measure.pair_error(tiny) == 0.0


def test_a_table_of_a_busy_machine_is_refused_by_name():
    measure.refuse_noisy(synthetic(LAYERS, HEADS, wall=1.14))
    busy = synthetic(LAYERS, HEADS, wall=1.3)
    assert measure.noisy(busy)
    with pytest.raises(ProfileError, match=r"1\.30 in the table of toy on toy-machine \(limit 1\.15, load average 0\.5\)"):
        measure.refuse_noisy(busy)


@pytest.mark.parametrize(
    ("options", "verdict"),
    [
        ({"waking_s": 0.0004}, "within"),
        ({"waking_s": 0.002}, "but for waking"),
        ({"slower": 0.7, "waking_s": 0.0}, "within"),  # pieces that are all faster agree with each other
    ],
)
def test_the_verdict_tells_a_second_start_from_a_slower_network(options, verdict):
    profile = synthetic(LAYERS, HEADS, **options)
    profile = msgspec.structs.replace(profile, whole=timing(sum(LAYERS) + sum(HEADS)))
    assert acceptance.judge(profile).verdict == verdict


def test_layers_that_do_not_add_up_are_outside():
    profile = synthetic(LAYERS, HEADS)
    apart = msgspec.structs.replace(profile, whole=timing(0.9 * (sum(LAYERS) + sum(HEADS))))
    result = acceptance.judge(apart)
    assert result.additive == pytest.approx(1 / 0.9 - 1)
    assert result.verdict == "outside"
    assert acceptance.judge(msgspec.structs.replace(apart, layer_times="differences")).additive is None


def test_the_check_measures_a_zoo_network_with_both_backends(monkeypatch):
    monkeypatch.setattr(measure, "GAP_S", 0.0)
    monkeypatch.setattr(measure_onnx, "GAP_S", 0.0)
    results = acceptance.check(["resnet8"], runs=5, attempts=2)
    assert [(result.model, result.backend) for result in results] == [("resnet8", "torch"), ("resnet8", "onnxruntime")]
    assert all(math.isfinite(result.pair) and result.whole_s > 0 for result in results)
    assert abs(results[0].additive) < 0.5  # CPU times of the same work: only gross mistakes, such as a layer left out, are that far off
    assert results[1].additive is None
    assert len(acceptance.text(results).splitlines()) == 3

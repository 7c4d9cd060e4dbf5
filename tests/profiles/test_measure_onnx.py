"""Prefixes and suffixes are measured in one piece by both backends, and a plan table takes its times from them."""

from __future__ import annotations

import math
import shutil

import msgspec
import numpy as np
import pytest
import torch
from torch import nn

from cutlayer.errors import ProfileError
from cutlayer.profiles import acceptance, codecs, cuts, graphs, load, measure, measure_onnx, power
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
def exported(network, tmp_path_factory):
    """The graphs of the network, written once: exporting takes seconds."""
    folder = tmp_path_factory.mktemp("exported") / "graphs"
    graphs.export(network, folder)
    return folder


@pytest.fixture(scope="module")
def profiles(network, exported):
    """The network measured by both backends, without the idle gaps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graphs, "export", lambda _network, folder: shutil.copytree(exported, folder))
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


def test_the_whole_graph_gives_the_logits_of_every_exit(network, exported, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    shutil.copytree(exported, tmp_path / "graphs")
    measure_onnx._write_whole(tmp_path / "graphs", DEPTHS)
    session = onnxruntime.InferenceSession((tmp_path / "graphs" / measure_onnx.WHOLE).read_bytes(), providers=["CPUExecutionProvider"])
    x = torch.rand(1, 3, 16, 16) * 255
    with torch.no_grad():
        for ours, theirs in zip(session.run(None, {graphs.PIXELS: x.numpy()}), network(x), strict=True):
            np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-4, atol=1e-5 * float(theirs.abs().max()))


def test_large_networks_are_opened_in_portions_of_whole_cuts(network, tmp_path, monkeypatch):
    """A suffix runs directly behind its prefix, so both are open; a cut that is too large by itself is opened alone."""
    files = {}
    for cut, size in enumerate((30, 40, 50, 90, 10, 10)):
        for exit_ in (None, 0) if cut else (None,):
            files[cut, exit_] = tmp_path / f"{cut}-{exit_}"
            files[cut, exit_].write_bytes(bytes(size))
    monkeypatch.setattr(measure_onnx, "LOADED_BYTES", 120)
    batches = measure_onnx._Bench(None, network, files, (), ())._batches()
    assert [segment for batch in batches for segment in batch] == list(files)
    assert [sorted({cut for cut, _ in batch}) for batch in batches] == [[0, 1], [2], [3], [4, 5]]


@pytest.fixture
def at_once(exported, monkeypatch):
    """No idle gaps, and the graphs that are written already."""
    monkeypatch.setattr(graphs, "export", lambda _network, folder: shutil.copytree(exported, folder))
    monkeypatch.setattr("time.sleep", lambda _seconds: None)


class Order:
    """What happened: "gap" for an idle gap, the name of a lap."""

    def __init__(self, patch):
        self.events = []
        lap = measure.Stopwatch.lap

        def noted(watch, name, work):
            self.events.append(name)
            return lap(watch, name, work)

        patch.setattr(measure.Stopwatch, "lap", noted)
        patch.setattr("time.sleep", lambda _seconds: self.events.append("gap"))

    def before(self, name):
        """The event before each lap of that name."""
        return {self.events[i - 1] for i, event in enumerate(self.events) if event == name}


@pytest.mark.parametrize("backend", ["torch", "onnxruntime"])
def test_a_suffix_runs_directly_behind_its_prefix_and_both_start_once(network, at_once, monkeypatch, backend):
    order = Order(monkeypatch)
    if backend == "torch":
        measure.measure(network, runs=2, device_name="here", ground_truth=True)
    else:
        measure_onnx.measure(network, runs=2, device_name="here")
    for cut, exit_ in SUFFIXES:
        # Before the last exit's suffix its prefix is timed, before the others it only runs.
        assert order.before((cut, exit_)) == {(cut, None) if cut and exit_ == len(DEPTHS) - 1 else "gap"}
    for cut in (1, 2, 3):
        assert order.before((cut, None)) == {"gap"}
    assert order.events.count((2, 0)) == order.events.count((2, None)) == 2 + measure.WARM_UP


class Doubling:
    """A codec of one cut that tells what it was given; follows `TensorCodec`."""

    name = "doubling"

    def __init__(self):
        self.encoded, self.decoded = [], []

    def widths(self, cut):
        return (8, 16) if cut == 2 else ()

    def encode(self, x, cut, bits):
        self.encoded.append((x.copy(), cut, bits))
        return codecs.Encoded((2 * x).tobytes(), bits, 0.0, 1.0)

    def decode(self, sent, cut, shape):
        self.decoded.append((np.frombuffer(sent.data, np.float32).reshape(shape) / 2, cut, sent.bits))
        return self.decoded[-1][0]


class Unit:
    """What is read of a bottleneck."""

    name, cut, channels, code_shape, sha256, encoder_bytes, decoder_bytes = "ae3", 2, 3, (3, 4, 4), "cd" * 32, 60, 70
    swaps = 0

    def swap(self):
        self.swaps += 1


@pytest.mark.parametrize("backend", ["torch", "onnxruntime"])
def test_every_codec_is_timed_on_the_tensors_of_the_images_through_its_own_methods(network, at_once, backend):
    images = [np.random.default_rng(i).integers(0, 256, (3, 16, 16)).astype(np.uint8) for i in range(2)]
    codec, unit = Doubling(), Unit()
    one = measure.measure if backend == "torch" else measure_onnx.measure
    profile = one(network, runs=RUNS, device_name="here", codecs=(*measure.AFFINE, codec), units=[unit], images=images)
    assert [(c.cut, c.bits, c.codec) for c in profile.codecs if c.cut in (0, 2)] == [
        (0, 8, "affine"), *((2, bits, "affine") for bits in codecs.BITS), (2, 8, "doubling"), (2, 16, "doubling"),
    ]  # fmt: skip
    assert all(c.encode.cpu.n == c.decode.cpu.n == RUNS for c in profile.codecs)
    with torch.no_grad():
        tensors = [network.layers[1](network.layers[0](torch.from_numpy(image).float()[None]))[0].numpy() for image in images]
    assert len(codec.encoded) == len(codec.decoded) == 2 * (RUNS + measure.WARM_UP)
    for i, (given, got) in enumerate(zip(codec.encoded, codec.decoded, strict=True)):
        np.testing.assert_array_equal(given[0], got[0])
        run = i // 2 - measure.WARM_UP
        np.testing.assert_allclose(given[0], tensors[run % 2], rtol=1e-4, atol=1e-3)
        assert given[1:] == got[1:] == (2, (8, 16)[i % 2])
    (cost,) = profile.units
    assert unit.swaps == cost.swap.cpu.n == measure.LOADS
    assert (cost.name, cost.cut, cost.channels, cost.code_shape, cost.sha256) == ("ae3", 2, 3, (3, 4, 4), "cd" * 32)
    assert (cost.encoder_bytes, cost.decoder_bytes) == (60, 70)


@pytest.mark.parametrize("backend", ["torch", "onnxruntime"])
def test_power_is_drawn_by_whole_runs_and_says_how(network, at_once, backend):
    answers = []

    def draw(work):
        answers.append(work())
        return power.Power(12.5, 9.0, "rapl: processor package-0")

    one = measure.measure if backend == "torch" else measure_onnx.measure
    profile = one(network, runs=1, device_name="here", draw=draw)
    assert [tuple(logits.shape) for logits in answers[0]] == [(1, 5), (1, 5)]
    assert (profile.busy_w, profile.idle_w, profile.provenance.energy_method) == (12.5, 9.0, "rapl: processor package-0")


# ---- what is made of the figures: synthetic tables, so that every number is known


def timing(mean_s, wall=1.0):
    cell = Cell(mean_s=mean_s, std_s=0.0, p50_s=mean_s, p95_s=mean_s, p99_s=mean_s, n=30)
    return Timing(wall=msgspec.structs.replace(cell, p50_s=wall * mean_s), cpu=cell)


def synthetic(layers, heads, *, start_s=0.0, cut_s=0.0, wall=1.0, pieces=True, slower=1.0):
    """A profile whose layers and heads take those seconds; what starts from the pixels takes `start_s` more, a cut `cut_s`."""
    depths = DEPTHS
    codec = timing(1e-4)
    prefixes = tuple(SegmentCost(cut=p, time=timing(slower * sum(layers[:p]) + start_s)) for p in range(1, 4))
    suffixes = tuple(
        SegmentCost(cut=p, exit=e, time=timing(slower * sum(layers[p : depths[e]]) + heads[e] + (cut_s if p else start_s)))
        for p, e in SUFFIXES
    )
    return ModelProfile(
        schema_version=SCHEMA_VERSION, model="toy", weights_sha256="0", input_shape=(3, 8, 8), depths=depths,
        layers=tuple(LayerCost(name=f"layer{i}", output_shape=(4, 4), time=timing(s)) for i, s in enumerate(layers)),
        heads=tuple(LayerCost(name=f"exit{i}", output_shape=(10,), time=timing(s)) for i, s in enumerate(heads)),
        codecs=tuple(CodecCost(cut=p, bits=b, encode=codec, decode=codec) for p in range(4) for b in codecs.BITS),
        whole=timing(sum(layers) + sum(heads) + start_s, wall), busy_w=2.0,
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
    device = synthetic(LAYERS, HEADS, start_s=0.0003)
    table = PlanTable.build(device, device, right_always())
    row = table.rows[table.index(1, 2, 8)]
    assert row.device_s == pytest.approx(0.0073)
    assert row.edge_s == pytest.approx(0.0025)
    assert row.fallback_s == pytest.approx(0.001)  # the head of exit 0 alone, which lies on the way
    before = table.rows[table.index(1, 1, 8)]
    assert (before.fallback_exit, before.fallback_s) == (0, pytest.approx(0.004))  # layer 2 and the head of exit 0
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
    profile = synthetic(LAYERS, HEADS, start_s=0.0004, cut_s=0.0003)
    errors = acceptance.pair_errors(profile)
    assert errors == {
        (1, 0): pytest.approx(0.0003 / 0.0084), (2, 0): pytest.approx(0.0003 / 0.0084),
        (1, 1): pytest.approx(0.0003 / 0.0099), (2, 1): pytest.approx(0.0003 / 0.0099), (3, 1): pytest.approx(0.0003 / 0.0099),
    }  # fmt: skip
    assert acceptance.pair_error(profile) == pytest.approx(0.0003 / 0.0084)
    assert acceptance.pair_error(synthetic(LAYERS, HEADS, start_s=0.0004)) == pytest.approx(0, abs=1e-12)


def test_networks_below_a_millisecond_are_left_out_of_the_pairs():
    tiny = synthetic([s / 20 for s in LAYERS], [s / 20 for s in HEADS], cut_s=0.0001)
    assert acceptance.pair_errors(tiny) == {}
    assert acceptance.pair_error(tiny) == 0.0


def test_a_table_of_a_busy_machine_is_refused_by_name():
    acceptance.refuse_noisy(synthetic(LAYERS, HEADS, wall=1.14))
    busy = synthetic(LAYERS, HEADS, wall=1.3)
    assert acceptance.noisy(busy)
    with pytest.raises(ProfileError, match=r"1\.30 in the table of toy on toy-machine \(limit 1\.15, load average 0\.5\)"):
        acceptance.refuse_noisy(busy)


@pytest.mark.parametrize(
    ("options", "within"),
    [
        ({"start_s": 0.002}, True),  # both start once, however long that takes
        ({"cut_s": 0.0007}, True),
        ({"cut_s": 0.001}, False),  # 10 % of 8 ms, the cheaper exit, is less
        ({"slower": 0.7}, True),  # pieces that are all faster agree with each other
    ],
)
def test_a_network_that_its_cuts_make_slower_is_outside(options, within):
    profile = synthetic(LAYERS, HEADS, **options)
    profile = msgspec.structs.replace(profile, whole=timing(sum(LAYERS) + sum(HEADS)))
    assert acceptance.judge(profile).within is within


def test_layers_that_do_not_add_up_are_outside():
    profile = synthetic(LAYERS, HEADS)
    apart = msgspec.structs.replace(profile, whole=timing(0.9 * (sum(LAYERS) + sum(HEADS))))
    result = acceptance.judge(apart)
    assert result.additive == pytest.approx(1 / 0.9 - 1)
    assert not result.within
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

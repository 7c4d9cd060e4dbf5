"""Derived devices: the cited ratios follow from the data they cite, and a derived table says what it is."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.errors import ProfileError
from cutlayer.profiles import derived, foreign, importers, measure, zoo
from cutlayer.profiles.energy import DEVICE_BUSY_W
from cutlayer.profiles.schema import SCHEMA_VERSION, Cell, CodecCost, LayerCost, ModelProfile, Provenance, Timing

SERVER = "AMD EPYC 7742 (2.25GHz)"


def timing(mean_s):
    wall = Cell(mean_s=1.1 * mean_s, std_s=0.1 * mean_s, p50_s=mean_s, p95_s=1.2 * mean_s, p99_s=1.3 * mean_s, n=30)
    return Timing(wall=wall, cpu=Cell(mean_s=mean_s, std_s=0.05 * mean_s, p50_s=mean_s, p95_s=1.1 * mean_s, p99_s=1.2 * mean_s, n=30))


@pytest.fixture
def measured():
    provenance = Provenance(
        kind="measured", machine="server", cpu="AMD EPYC", backend="torch", backend_version="2", threads=1, date="2026-11-01",
        command="cutlayer profile measure", load_average=0.1, energy_method="rapl",
    )  # fmt: skip
    return ModelProfile(
        schema_version=SCHEMA_VERSION, model="toy", weights_sha256="0", input_shape=(3, 8, 8), depths=(1,),
        layers=(LayerCost(name="conv1", output_shape=(4, 4), time=timing(0.01)),),
        heads=(LayerCost(name="exit0", output_shape=(10,), time=timing(0.002)),),
        codecs=(CodecCost(cut=1, bits=8, encode=timing(0.001), decode=timing(0.0005)),),
        whole=timing(0.012), busy_w=80.0, provenance=provenance,
    )  # fmt: skip


@pytest.mark.parametrize(("name", "ratio"), [("raspberry-pi-4", 7.49), ("jetson-nano", 8.60)])
def test_a_derived_table_scales_every_time_and_names_its_source(measured, name, ratio):
    table = derived.by_name(name, measured)
    assert table.layers[0].time.cpu.mean_s == pytest.approx(0.01 * ratio)
    assert table.heads[0].time.wall.p99_s == pytest.approx(0.0026 * ratio)
    assert table.codecs[0].encode.cpu.std_s == pytest.approx(0.00005 * ratio)
    assert table.whole.cpu.mean_s == pytest.approx(0.012 * ratio)
    assert table.whole.cpu.n == 30
    where = table.provenance
    assert (where.kind, where.time_ratio, where.derived_from) == ("derived", ratio, "server (AMD EPYC)")
    assert where.machine == f"{name}-class"
    assert "ncnn@a4d2ea1" in where.ratio_source


def test_a_derived_board_does_not_inherit_the_power_of_the_server(measured):
    measured = msgspec.structs.replace(measured, idle_w=40.0)
    table = derived.by_name("raspberry-pi-4", measured)
    assert (table.busy_w, table.idle_w) == (DEVICE_BUSY_W, None)
    assert table.provenance.energy_method.startswith("modelled:")
    assert table == derived.raspberry_pi_4(measured)


def test_a_derived_table_is_not_derived_again(measured):
    once = derived.by_name("jetson-nano", measured)
    with pytest.raises(ProfileError, match="jetson-nano-class is derived; derive raspberry-pi-4-class from the measured table"):
        derived.by_name("raspberry-pi-4", once)


def test_an_unknown_device_or_ratio_is_refused(measured):
    with pytest.raises(ProfileError, match="no derived device 'abacus'; there are: raspberry-pi-4, jetson-nano"):
        derived.by_name("abacus", measured)
    for ratio in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(ProfileError, match="is impossible; give how many times slower"):
            derived.slower(measured, "x", ratio, "a test")


def test_the_ratio_is_the_geometric_mean_over_common_networks():
    got = derived.ratio_of({"a": 8.0, "b": 2.0, "c": 5.0}, {"a": 1.0, "b": 1.0, "d": 1.0})
    assert got == derived.Ratio(ratio=pytest.approx(4.0), models=2, low=2.0, high=8.0)
    with pytest.raises(ProfileError, match="no network is in both tables: a and b"):
        derived.ratio_of({"a": 1.0}, {"b": 1.0})
    with pytest.raises(ProfileError, match=r"times 0\.0 and 1.0 of a have no ratio"):
        derived.ratio_of({"a": 0.0}, {"a": 1.0})


TIMES = st.dictionaries(st.sampled_from("abcdef"), st.floats(1e-6, 1e3), min_size=6, max_size=6)


@given(TIMES, TIMES)
def test_exchanging_the_machines_inverts_the_ratio(one, other):
    there, back = derived.ratio_of(one, other), derived.ratio_of(other, one)
    assert there.ratio * back.ratio == pytest.approx(1.0)
    assert there.low <= there.ratio * (1 + 1e-9)
    assert there.ratio <= there.high * (1 + 1e-9)


def ncnn_times(table, machine, statistic):
    """Float32 networks of a machine on one CPU thread."""
    (found,) = [
        m for m in table.machines
        if m.provenance.machine.startswith(machine) and m.provenance.threads == 1 and m.provenance.backend == "ncnn on the CPU"
    ]  # fmt: skip
    return {name: seconds for name, seconds in foreign.whole_s(found, statistic).items() if "int8" not in name}


@pytest.mark.parametrize(
    ("device", "machine", "models", "low", "high", "of_means"),
    [
        ("raspberry-pi-4", "Raspberry Pi 4 Model B", 27, 4.43, 11.27, 7.44),
        ("jetson-nano", "NVIDIA Jetson Nano", 25, 6.37, 11.52, 8.53),
    ],
)
def test_the_cited_ratio_follows_from_the_cited_data(data_dir, device, machine, models, low, high, of_means):
    """Every figure of the docstring of cutlayer.profiles.derived."""
    table = importers.read("ncnn", data_dir / "hw_ncnn_benchmark")
    got = derived.ratio_of(ncnn_times(table, machine, "min_s"), ncnn_times(table, SERVER, "min_s"))
    assert (round(got.ratio, 2), got.models) == (derived.DEVICES[device].time_ratio, models)
    assert (round(got.low, 2), round(got.high, 2)) == (low, high)
    assert f"{models} models" in derived.DEVICES[device].source
    assert round(derived.ratio_of(ncnn_times(table, machine, "mean_s"), ncnn_times(table, SERVER, "mean_s")).ratio, 2) == of_means


def test_the_three_networks_of_the_docstring_are_as_published(data_dir):
    table = importers.read("ncnn", data_dir / "hw_ncnn_benchmark")
    machines = (SERVER, "Raspberry Pi 4 Model B", "NVIDIA Jetson Nano")
    server, pi, nano = ({k: 1e3 * v for k, v in ncnn_times(table, machine, "min_s").items()} for machine in machines)
    for name in ("alexnet", "mobilenet_v2", "yolo-fastest-1.1"):
        row = (server[name], pi[name], pi[name] / server[name], nano[name], nano[name] / server[name])
        assert [name, *(f"{value:.2f}" for value in row)] in [line.split() for line in derived.__doc__.splitlines()]


def test_scission_brackets_the_ratio_of_the_pi(data_dir):
    table = importers.read("scission", data_dir / "hw_scission_block_latency")
    seconds = {machine.provenance.machine: foreign.whole_s(machine) for machine in table.machines}
    over = {name: derived.ratio_of(seconds["raspi4"], seconds[name]) for name in derived.SCISSION_PI4_OVER}
    assert {name: round(got.ratio, 2) for name, got in over.items()} == derived.SCISSION_PI4_OVER
    assert {got.models for got in over.values()} == {15}
    assert over["2500"].ratio < derived.PI4_TIME_RATIO < over["6700k(NoGPU)"].ratio
    assert [round(x, 2) for got in over.values() for x in (got.low, got.high)] == [2.48, 5.85, 8.03, 20.62]


def test_prefixes_and_suffixes_are_slower_too_and_lose_their_cold_starts():
    """A plan table reads them before the layers: unscaled, the device would be as fast as the server."""
    network = zoo.build("resnet8", seed=1)
    measured = measure.measure(network, runs=2, device_name="here", ground_truth=True)
    device = derived.slower(measured, "slow", 3.0, "a test")
    for before, after in zip((*measured.prefixes, *measured.suffixes), (*device.prefixes, *device.suffixes), strict=True):
        assert after.time.cpu.mean_s == pytest.approx(3.0 * before.time.cpu.mean_s)
        assert after.load is None
        assert after.weight_bytes == before.weight_bytes
    assert device.preprocess.time.cpu.mean_s == pytest.approx(3.0 * measured.preprocess.time.cpu.mean_s)
    assert device.postprocess.cpu.mean_s == pytest.approx(3.0 * measured.postprocess.cpu.mean_s)

"""Profiles: what was timed here is whole and plausible, and what is derived says so."""

from __future__ import annotations

import msgspec
import pytest

from cutlayer.profiles import acceptance, codecs, derived, load, measure, zoo
from cutlayer.profiles.plans import PlanTable
from cutlayer.profiles.schema import SCHEMA_VERSION, AccuracyTable, Cell, PlanAccuracy, Timing

RUNS = 8
FIELDS = ("mean_s", "std_s", "p50_s", "p95_s", "p99_s")


@pytest.fixture(scope="module")
def told():
    return []


@pytest.fixture(scope="module")
def measured(network, told):
    return measure.measure(network, runs=RUNS, device_name="a bench", progress=told.append)


def timings(profile):
    yield profile.whole
    yield from (cost.time for cost in (*profile.layers, *profile.heads))
    yield from (timing for codec in profile.codecs for timing in (codec.encode, codec.decode))


def test_it_is_a_profile_of_that_network(measured, network):
    assert (measured.schema_version, measured.model) == (SCHEMA_VERSION, "alexnet")
    assert measured.weights_sha256 == zoo.weights_digest(network)
    assert measured.input_shape == (3, 128, 128)
    assert measured.depths == (1, 2, 3, 4, 7)


def test_every_layer_and_head_is_there_with_the_shape_it_puts_out(measured):
    assert {layer.name: layer.output_shape for layer in measured.layers} == {
        "conv1": (64, 16, 16), "conv2": (128, 8, 8), "conv3": (192, 8, 8), "conv4": (192, 8, 8), "conv5": (128, 4, 4),
        "fc6": (384,), "fc7": (256,),
    }  # fmt: skip
    assert [(head.name, head.output_shape) for head in measured.heads] == [(f"exit{i}", (10,)) for i in range(5)]


def test_every_cut_has_its_codecs(measured):
    assert [(codec.cut, codec.bits) for codec in measured.codecs] == [(0, 8), *((cut, bits) for cut in range(1, 8) for bits in codecs.BITS)]


def test_every_distribution_is_in_order_and_counts_its_runs(measured):
    for timing in timings(measured):
        for cell in (timing.wall, timing.cpu):
            assert cell.n == RUNS, "runs to warm up are not counted"
            assert 0 < cell.p50_s <= cell.p95_s <= cell.p99_s
            assert cell.mean_s > 0
            assert cell.std_s >= 0


def test_cpu_time_is_part_of_wall_time(measured):
    """The clocks have a grain of their own, so a tenth of a millisecond is granted."""
    for timing in timings(measured):
        assert timing.cpu.mean_s <= timing.wall.mean_s * 1.02 + 1e-4


def test_the_parts_add_up_to_the_whole(measured):
    """A few runs on a busy machine prove little: a layer forgotten or counted twice would show."""
    assert abs(acceptance.additive_error(measured)) < 0.5


def test_additive_error_by_hand(device):
    assert acceptance.additive_error(device) == pytest.approx(0.0, abs=1e-12)
    first = device.layers[0]
    time = msgspec.structs.replace(first.time, cpu=msgspec.structs.replace(first.time.cpu, mean_s=first.time.cpu.mean_s + 0.0043))
    more = msgspec.structs.replace(device, layers=(msgspec.structs.replace(first, time=time), *device.layers[1:]))
    assert acceptance.additive_error(more) == pytest.approx(0.1)


def test_provenance_says_where_when_and_how(measured):
    where = measured.provenance
    assert (where.kind, where.machine, where.backend, where.threads) == ("measured", "a bench", "torch", 1)
    for text in (where.cpu, where.backend_version, where.command, where.governor):
        assert text
    assert len(where.date.split("-")) == 3
    assert where.load_average >= 0
    assert where.energy_method.startswith("modelled")
    assert measured.busy_w > 0
    assert (where.derived_from, where.time_ratio) == ("", 1.0)


def test_progress_rises_to_the_end(measured, told):
    assert told == sorted(told)
    assert told[-1] == 1.0


def test_threads_are_left_as_they_were(network):
    import torch

    torch.set_num_threads(2)
    try:
        measure.measure(network, runs=1, device_name="a bench")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_what_was_measured_makes_a_plan_table(measured, tmp_path):
    load.save(measured, tmp_path / "mine.json")
    read = load.profile(tmp_path / "mine.json")
    assert read == measured
    plans = tuple(
        PlanAccuracy(exit=exit_, partition=partition, bits=bits, correct=1)
        for exit_, depth in enumerate(read.depths)
        for partition in range(depth + 2)
        for bits in ((8,) if partition == 0 else (0,) if partition > depth else codecs.BITS)
    )
    accuracy = AccuracyTable(
        schema_version=SCHEMA_VERSION, model=read.model, weights_sha256=read.weights_sha256, source="", images=1, plans=plans,
        provenance=read.provenance,
    )  # fmt: skip
    assert len(PlanTable.build(read, read, accuracy)) == len(plans) == sum(5 * depth + 2 for depth in read.depths)


# --- quiet or noisy


@pytest.mark.parametrize(("wall_s", "noisy"), [(0.0100, False), (0.0114, False), (0.0116, True), (0.1, True)])
def test_a_wall_clock_far_above_the_cpu_flags_the_table(device, wall_s, noisy):
    def cell(p50_s, mean_s):
        return Cell(mean_s=mean_s, std_s=0.0, p50_s=p50_s, p95_s=p50_s, p99_s=p50_s, n=9)

    # It is the medians that count: one stall in nine runs moves a mean.
    whole = Timing(wall=cell(wall_s, 1.0 if not noisy else 0.0), cpu=cell(0.010, 0.010))
    assert acceptance.noisy(msgspec.structs.replace(device, whole=whole)) is noisy


# --- derived tables


def test_a_slower_machine_has_every_time_scaled_and_nothing_else(device):
    made = derived.slower(device, "a board", 3.5, "a paper")
    for old, new in zip(timings(device), timings(made), strict=True):
        for a, b in ((old.wall, new.wall), (old.cpu, new.cpu)):
            for name in FIELDS:
                assert getattr(b, name) == pytest.approx(3.5 * getattr(a, name), rel=1e-12)
            assert b.n == a.n
    assert [(layer.name, layer.output_shape) for layer in made.layers] == [(layer.name, layer.output_shape) for layer in device.layers]
    assert (made.weights_sha256, made.depths, made.busy_w) == (device.weights_sha256, device.depths, device.busy_w)


def test_a_derived_table_says_from_what_by_how_much_and_by_whose_figure(device):
    where = derived.slower(device, "a board", 3.5, "a paper").provenance
    assert (where.kind, where.machine) == ("derived", "a board")
    assert where.derived_from == "slow (a processor)"
    assert (where.time_ratio, where.ratio_source) == (3.5, "a paper")
    assert (where.date, where.backend) == (device.provenance.date, device.provenance.backend)


def test_the_raspberry_pi_class_cites_its_ratio(device):
    made = derived.raspberry_pi_4(device)
    assert made.provenance.machine == "raspberry-pi-4-class"
    assert made.provenance.time_ratio == derived.PI4_TIME_RATIO > 1
    assert "ncnn" in made.provenance.ratio_source
    assert made.whole.cpu.mean_s == pytest.approx(derived.PI4_TIME_RATIO * device.whole.cpu.mean_s)

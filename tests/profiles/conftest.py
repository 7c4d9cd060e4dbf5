"""Two small tables of one network, with round numbers from which every plan can be worked out by hand."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from cutlayer.profiles import builtin, load, zoo
from cutlayer.profiles.codecs import BITS
from cutlayer.profiles.schema import (
    SCHEMA_VERSION,
    AccuracyTable,
    Cell,
    CodecCost,
    LayerCost,
    ModelProfile,
    PayloadSizes,
    PlanAccuracy,
    Provenance,
    Sizes,
    Timing,
    UnitCost,
)

NAMES = ("a", "b", "c", "d")
SHAPES = ((8, 8, 8), (4, 8, 8), (3, 3, 3), (5,))  # 512, 256, 27 and 5 elements
DEPTHS = (2, 4)
DROP = {2: 100, 4: 20, 8: 2, 16: 0, 32: 0}  # right answers of 1000 lost, for each layer before the cut


# Bottlenecks: shape of the code and right answers of 1000 lost; bottle6 halves both sides of its tensor.
UNITS = {("bottle3", 1): ((3, 8, 8), 30), ("bottle6", 1): ((6, 4, 4), 10), ("bottle3", 2): ((3, 4, 4), 50), ("ae2", 2): ((2, 8, 8), 5)}
ZSTD_CUTS, ZSTD_BITS = (1, 2), (4, 8)  # where the lossless stage was measured
SWAP_S, ENCODER_BYTES = 0.002, 500  # of a unit, for each channel of its code


def timing(cpu_s):
    """CPU time of that mean; wall clock and every other statistic are far from it, so that a wrong choice is seen."""

    def cell(mean_s, factor):
        return Cell(mean_s=mean_s, std_s=0.1 * mean_s, p50_s=factor * mean_s, p95_s=3 * mean_s, p99_s=4 * mean_s, n=50)

    return Timing(wall=cell(7.0 * cpu_s, 0.9), cpu=cell(cpu_s, 0.5))


def provenance(machine):
    return Provenance(
        kind="measured", machine=machine, cpu="a processor", backend="torch", backend_version="2", threads=1,
        date="2026-01-02", command="cutlayer profile measure", load_average=0.5, energy_method="modelled",
    )  # fmt: skip


def profile(machine, layers_s, heads_s, encode_s, decode_s):
    """encode_s and decode_s: (of the raw input, of each bit and layer before the cut)."""
    cuts = [(0, 8), *((cut, bits) for cut in range(1, len(NAMES) + 1) for bits in BITS)]
    codecs = (
        CodecCost(
            cut=cut,
            bits=bits,
            encode=timing(encode_s[1] * cut * bits if cut else encode_s[0]),
            decode=timing(decode_s[1] * cut * bits if cut else decode_s[0]),
        )
        for cut, bits in cuts
    )
    layers = zip(NAMES, SHAPES, layers_s, strict=True)
    return ModelProfile(
        schema_version=SCHEMA_VERSION,
        model="tiny",
        weights_sha256="ab" * 32,
        input_shape=(3, 32, 32),
        depths=DEPTHS,
        layers=tuple(LayerCost(name=name, output_shape=shape, time=timing(seconds)) for name, shape, seconds in layers),
        heads=tuple(LayerCost(name=f"exit{i}", output_shape=(3,), time=timing(seconds)) for i, seconds in enumerate(heads_s)),
        codecs=tuple(codecs),
        whole=timing(sum(layers_s) + sum(heads_s)),
        busy_w=2.0,
        provenance=provenance(machine),
    )


@pytest.fixture(scope="session")
def device():
    """Layers of 10, 20, 5 and 4 ms, heads of 1 and 3 ms, 2 W."""
    return profile("slow", (0.010, 0.020, 0.005, 0.004), (0.001, 0.003), (0.0005, 1e-5), (0.9, 0.9))


@pytest.fixture(scope="session")
def edge():
    """Ten times as fast as the device."""
    return profile("fast", (0.0010, 0.0020, 0.0005, 0.0004), (0.0001, 0.0003), (0.8, 0.8), (0.00005, 1e-6))


@pytest.fixture(scope="session")
def accuracy_table():
    """600 of 1000 right at exit 0, 800 at exit 1, less at low bits."""
    plans = []
    for exit_, (depth, right) in enumerate(zip(DEPTHS, (600, 800), strict=True)):
        plans.append(PlanAccuracy(exit=exit_, partition=0, bits=8, correct=right))
        plans += [
            PlanAccuracy(exit=exit_, partition=cut, bits=bits, correct=right - DROP[bits] * cut)
            for cut in range(1, depth + 1)
            for bits in BITS
        ]
        plans.append(PlanAccuracy(exit=exit_, partition=depth + 1, bits=0, correct=right))
    return AccuracyTable(
        schema_version=SCHEMA_VERSION, model="tiny", weights_sha256="ab" * 32, source="a test", images=1000,
        plans=tuple(plans), provenance=provenance(""),
    )  # fmt: skip


def with_codecs(table, seconds, swap_s):
    """The profile with zstd, three times the affine time, and bottlenecks, `seconds` for each channel of the code."""
    affine = {(cost.cut, cost.bits): cost for cost in table.codecs}

    def tripled(side):
        return timing(3 * side.cpu.mean_s)

    more = [
        msgspec.structs.replace(cost, codec="zstd", encode=tripled(cost.encode), decode=tripled(cost.decode))
        for cost in (affine[cut, bits] for cut in ZSTD_CUTS for bits in ZSTD_BITS)
    ]
    for (name, cut), (shape, _) in UNITS.items():
        more.append(CodecCost(cut=cut, bits=8, encode=timing(seconds * shape[0]), decode=timing(2 * seconds * shape[0]), codec=name))
    units = (
        UnitCost(
            name=name, cut=cut, channels=shape[0], code_shape=shape, sha256=sha256_of(name, cut), encoder_bytes=ENCODER_BYTES * shape[0],
            decoder_bytes=9 * ENCODER_BYTES * shape[0], swap=timing(swap_s * shape[0]),
        )
        for (name, cut), (shape, _) in UNITS.items()
    )  # fmt: skip
    return msgspec.structs.replace(table, codecs=(*table.codecs, *more), units=tuple(units))


def sha256_of(name, cut):
    """Made up, but another one for each."""
    return (f"{name}-{cut}-".encode().hex() * 8)[:64]


@pytest.fixture(scope="session")
def coded_device(device):
    return with_codecs(device, 1e-4, SWAP_S)


@pytest.fixture(scope="session")
def coded_edge(edge):
    return with_codecs(edge, 1e-5, SWAP_S / 10)


@pytest.fixture(scope="session")
def coded_accuracy(accuracy_table):
    """Of zstd there are lengths but no counts of its own: it is as accurate as what it packs."""
    plans = [
        PlanAccuracy(exit=exit_, partition=cut, bits=8, correct=right - lost, codec=name)
        for exit_, (depth, right) in enumerate(zip(DEPTHS, (600, 800), strict=True))
        for (name, cut), (_, lost) in UNITS.items()
        if cut <= depth
    ]
    payloads = [
        PayloadSizes(
            cut=cut, bits=bits, codec="zstd",
            sizes=Sizes(
                mean_bytes=10 * bits + cut + 0.25, std_bytes=3.0, p50_bytes=10 * bits, p95_bytes=20 * bits + 0.5, p99_bytes=20 * bits + 1,
                n=1000,
            ),
        )
        for cut in ZSTD_CUTS for bits in ZSTD_BITS
    ]  # fmt: skip
    return msgspec.structs.replace(
        accuracy_table, plans=(*accuracy_table.plans, *plans), payloads=tuple(payloads),
        units={f"{name}@{cut}": sha256_of(name, cut) for name, cut in UNITS},
    )  # fmt: skip


@pytest.fixture
def shipped_with_codecs(monkeypatch):
    """The built-in tables as if zstd and two bottlenecks had been measured for them, with made-up figures."""
    profile, accuracy = load.profile("alexnet"), load.accuracy("alexnet-accuracy")
    affine = {(cost.cut, cost.bits): cost for cost in profile.codecs if cost.codec == "affine"}
    cells = [("zstd", cut, bits) for cut in (1, 2, 3) for bits in (2, 4, 8)] + [("bottle3", 1, 8), ("bottle6", 2, 8)]
    units = tuple(
        UnitCost(
            name=name, cut=cut, channels=int(name[-1]), code_shape=(int(name[-1]), 8, 8), sha256=sha256_of(name, cut), encoder_bytes=5_000,
            decoder_bytes=40_000, swap=timing(2e-4),
        )
        for name, cut, _ in cells[-2:]
    )  # fmt: skip
    codecs = (*affine.values(), *(msgspec.structs.replace(affine[cut, bits], codec=name) for name, cut, bits in cells))
    plans = [plan for plan in accuracy.plans if plan.codec == "affine"]
    plans += [
        PlanAccuracy(exit=plan.exit, partition=cut, bits=8, correct=plan.correct - 20, codec=name)
        for plan in plans
        for name, cut, _ in cells[-2:]
        if plan.bits == 0 and cut < plan.partition
    ]
    payloads = [
        PayloadSizes(cut=cut, bits=bits, codec=name, sizes=Sizes(
            mean_bytes=900.0 * bits, std_bytes=90.0, p50_bytes=900.0 * bits, p95_bytes=950.0 * bits, p99_bytes=990.0 * bits, n=5000
        ))
        for name, cut, bits in cells[:-2]
    ]  # fmt: skip
    made = msgspec.structs.replace(profile, codecs=codecs, units=units)
    counted = msgspec.structs.replace(
        accuracy, plans=tuple(plans), payloads=tuple(payloads), units={f"{unit.name}@{unit.cut}": unit.sha256 for unit in units}
    )
    monkeypatch.setattr(load, "profile", lambda _: made)
    monkeypatch.setattr(load, "accuracy", lambda _: counted)
    builtin.table.cache_clear()
    yield made, counted
    builtin.table.cache_clear()


@pytest.fixture
def as_dict():
    """A table as plain dictionaries and lists, to be broken."""
    return lambda table: msgspec.json.decode(msgspec.json.encode(table))


@pytest.fixture(scope="session")
def network():
    """AlexNet with fresh weights, and batch norm that has seen some pixels: else every activation is near zero."""
    import torch

    network = zoo.build("alexnet", seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for _ in range(3):
            network(torch.randint(0, 256, (8, *network.input_shape), generator=generator).float())
    network.eval()
    return network


@pytest.fixture
def rng():
    return np.random.default_rng(7)

"""Two small tables of one network, with round numbers from which every plan can be worked out by hand."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from cutlayer.profiles import zoo
from cutlayer.profiles.codecs import BITS
from cutlayer.profiles.schema import (
    SCHEMA_VERSION,
    AccuracyTable,
    Cell,
    CodecCost,
    LayerCost,
    ModelProfile,
    PlanAccuracy,
    Provenance,
    Timing,
)

NAMES = ("a", "b", "c", "d")
SHAPES = ((8, 8, 8), (4, 8, 8), (3, 3, 3), (5,))  # 512, 256, 27 and 5 elements
DEPTHS = (2, 4)
DROP = {2: 100, 4: 20, 8: 2, 16: 0, 32: 0}  # right answers of 1000 lost, for each layer before the cut


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

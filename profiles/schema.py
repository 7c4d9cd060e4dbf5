"""The tables on disk: what a model costs on a machine, and how often each plan is right.

Every duration is a distribution over repeated runs, by wall clock and by the thread's CPU time; every table says where
it comes from. Files are JSON, checked whole when they are read (`cutlayer.profiles.load`).
"""

from __future__ import annotations

from typing import Literal

import msgspec

SCHEMA_VERSION = 1


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of all parts of a table: immutable, and no key is ignored."""


class Cell(Table, frozen=True):
    """One duration over `n` runs, seconds."""

    mean_s: float
    std_s: float
    p50_s: float
    p95_s: float
    p99_s: float
    n: int


class Timing(Table, frozen=True):
    """The same runs by wall clock and by CPU time of the thread; models use the CPU time, wall shows the noise."""

    wall: Cell
    cpu: Cell


class Provenance(Table, frozen=True):
    """Where a table comes from."""

    kind: Literal["measured", "derived", "imported"]
    machine: str
    cpu: str
    backend: str
    backend_version: str
    threads: int
    date: str
    command: str
    load_average: float
    energy_method: str
    governor: str = "unknown"
    derived_from: str = ""
    time_ratio: float = 1.0
    ratio_source: str = ""


class LayerCost(Table, frozen=True):
    """One trunk layer or exit head: its time, and the shape of what it puts out for one image."""

    name: str
    output_shape: tuple[int, ...]
    time: Timing


class CodecCost(Table, frozen=True):
    """Time to encode and to decode the tensor after `cut` trunk layers at `bits` bits."""

    cut: int
    bits: int
    encode: Timing
    decode: Timing


class ModelProfile(Table, frozen=True):
    """What a multi-exit network costs on one machine with one backend.

    layers are the trunk in order, heads the exits, depths[e] the number of trunk layers before head e; whole is the
    network run in one piece, measured in turn with the chain.
    """

    schema_version: int
    model: str
    weights_sha256: str
    input_shape: tuple[int, int, int]
    depths: tuple[int, ...]
    layers: tuple[LayerCost, ...]
    heads: tuple[LayerCost, ...]
    codecs: tuple[CodecCost, ...]
    whole: Timing
    busy_w: float
    provenance: Provenance


class PlanAccuracy(Table, frozen=True):
    """Right answers of one (exit, partition, bits) on the held-out images; bits 0 where nothing is quantised."""

    exit: int
    partition: int
    bits: int
    correct: int


class AccuracyTable(Table, frozen=True):
    """Measured accuracy of every plan of a model on `images` labelled images."""

    schema_version: int
    model: str
    weights_sha256: str
    source: str
    images: int
    plans: tuple[PlanAccuracy, ...]
    provenance: Provenance

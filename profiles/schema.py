"""The tables on disk: what a model costs on a machine, and how often each plan is right.

Every duration measured here is a distribution over repeated runs, by wall clock and by the thread's CPU time; every
table says where it comes from. Tables of other people say less, so they have a form of their own, `ImportedTable`, in
which what the source did not state is absent. Files are JSON, checked whole when they are read (`cutlayer.profiles.load`,
`cutlayer.profiles.foreign`).
"""

from __future__ import annotations

from typing import Literal

import msgspec

SCHEMA_VERSION = 2  # 2 adds what has a default here: codecs other than affine, bottleneck units, payload sizes, idle power


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


class Sizes(Table, frozen=True):
    """Length of an encoded image or tensor over `n` images, bytes."""

    mean_bytes: float
    std_bytes: float
    p50_bytes: float
    p95_bytes: float
    p99_bytes: float
    n: int


class Timing(Table, frozen=True):
    """The same runs by wall clock and by CPU time of the thread; models use the CPU time, wall shows the noise."""

    wall: Cell
    cpu: Cell


class Provenance(Table, frozen=True):
    """Where a table comes from.

    Of an imported table, `command` is the one that imported it; threads and load_average are null, and texts "unknown",
    where the source does not state them. source, source_sha256 (of the file that was read), licence and citation are of
    an imported table alone.
    """

    kind: Literal["measured", "derived", "imported"]
    machine: str
    cpu: str
    backend: str
    backend_version: str
    threads: int | None
    date: str
    command: str
    load_average: float | None
    energy_method: str
    governor: str = "unknown"
    derived_from: str = ""
    time_ratio: float = 1.0
    ratio_source: str = ""
    source: str = ""
    source_sha256: str = ""
    licence: str = ""
    citation: str = ""


class LayerCost(Table, frozen=True):
    """One trunk layer or exit head: its time, and the shape of what it puts out for one image."""

    name: str
    output_shape: tuple[int, ...]
    time: Timing


class CodecCost(Table, frozen=True, omit_defaults=True):
    """Time of `codec` to encode and to decode the tensor after `cut` trunk layers at `bits` bits."""

    cut: int
    bits: int
    encode: Timing
    decode: Timing
    codec: str = "affine"


class UnitCost(Table, frozen=True):
    """A trained bottleneck at one cut: what it weighs and what it takes to swap it in; what it costs to run is a `CodecCost`.

    encoder_bytes and decoder_bytes are the float16 weights of its two halves; swap is the time to read and initialise both.
    code_shape is (channels, height, width) of what the encoder puts out for one image: an encoder may halve the two sides.
    """

    name: str
    cut: int
    channels: int
    code_shape: tuple[int, int, int]
    sha256: str
    encoder_bytes: int
    decoder_bytes: int
    swap: Timing


class SegmentCost(Table, frozen=True, omit_defaults=True):
    """A stretch of a network run in one piece, and what it takes to make it ready.

    A prefix (exit null) runs from the pixels to the tensor after `cut` trunk layers, a suffix from that tensor to the
    logits of `exit`; cut 0 is the whole network up to that exit. load is the cold start: reading its weights from a
    file that is in the page cache, and making it ready to run; weight_bytes the length of that file.
    """

    cut: int
    time: Timing
    exit: int | None = None
    load: Timing | None = None
    weight_bytes: int | None = None


class FrameCost(Table, frozen=True):
    """Time to make the network's input of a camera frame: resize, channels first, float32. frame_shape is (height, width, 3)."""

    frame_shape: tuple[int, int, int]
    time: Timing


class ModelProfile(Table, frozen=True, omit_defaults=True):
    """What a multi-exit network costs on one machine with one backend.

    layers are the trunk in order, heads the exits, depths[e] the number of trunk layers before head e; whole is the
    network run in one piece with all heads, measured in turn with the chain.

    prefixes (every cut from 1) and suffixes (every exit, every cut from 0 to its depth) are measured in one piece: where
    they are given they are the truth, and layers are for reading. layer_times says how the times of layers came about:
    in-chain with time stamps, or, where a backend runs no layer by itself, as differences of consecutive prefixes, run by
    run and not below 0. preprocess and postprocess (softmax and argmax of the last exit) are the same for every plan.
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
    layer_times: Literal["in-chain", "differences"] = "in-chain"
    prefixes: tuple[SegmentCost, ...] = ()
    suffixes: tuple[SegmentCost, ...] = ()
    preprocess: FrameCost | None = None
    postprocess: Timing | None = None
    units: tuple[UnitCost, ...] = ()
    idle_w: float | None = None


class PlanAccuracy(Table, frozen=True, omit_defaults=True):
    """Right answers of one (exit, partition, bits, codec) on the held-out images; bits 0 where nothing is quantised."""

    exit: int
    partition: int
    bits: int
    correct: int
    codec: str = "affine"


class PayloadSizes(Table, frozen=True):
    """What a codec whose output varies from image to image makes of the tensor after `cut` layers."""

    cut: int
    bits: int
    codec: str
    sizes: Sizes


class AccuracyTable(Table, frozen=True, omit_defaults=True):
    """Measured accuracy of every plan of a model on `images` labelled images.

    payloads are of the codecs with a lossless stage; units maps the name and cut of every bottleneck that was measured, as
    "name@cut", to the sha256 of its weights.
    """

    schema_version: int
    model: str
    weights_sha256: str
    source: str
    images: int
    plans: tuple[PlanAccuracy, ...]
    provenance: Provenance
    payloads: tuple[PayloadSizes, ...] = ()
    units: dict[str, str] = {}


class ImportedTime(Table, frozen=True, omit_defaults=True):
    """One duration as a foreign table states it, seconds: a mean, and of its spread only what the source gives."""

    mean_s: float
    min_s: float | None = None
    max_s: float | None = None
    std_s: float | None = None
    p50_s: float | None = None
    p95_s: float | None = None
    p99_s: float | None = None
    n: int | None = None


class ImportedCost(Table, frozen=True, omit_defaults=True):
    """One part of a network: its time, and the tensor it puts out for one image, uncompressed, where the source says.

    output_elements is the number of values in the tensor (its shape is not known); compression_ratio how many times
    smaller the source's own codec makes it; power_w the mean power while it runs.
    """

    name: str
    time: ImportedTime
    output_bytes: int | None = None
    output_elements: int | None = None
    compression_ratio: float | None = None
    power_w: float | None = None
    energy_j: float | None = None


class ImportedModel(Table, frozen=True, omit_defaults=True):
    """One network on one machine, in as many of three views as the source has.

    whole was timed in one piece; blocks follow each other and were timed each by itself; a prefix runs from the input to
    a cut. A sum of blocks is not a measured whole, so `whole` stays absent where only blocks were timed.
    """

    name: str
    whole: ImportedCost | None = None
    blocks: tuple[ImportedCost, ...] = ()
    prefixes: tuple[ImportedCost, ...] = ()
    input_bytes: int | None = None
    input_elements: int | None = None


class ImportedMachine(Table, frozen=True):
    """All networks of one machine under one setting; `setting` is in the words of the source."""

    provenance: Provenance
    clock: Literal["wall", "cpu", "unknown"]
    setting: str
    models: tuple[ImportedModel, ...]


class ImportedTable(Table, frozen=True):
    """A foreign table, read into this project's units; `format` names the importer that read it.

    It is no `ModelProfile` and cannot be taken for one: a plan table needs distributions, codecs and heads that no such
    source has measured. Its use is comparison, and speed ratios (`cutlayer.profiles.derived`).
    """

    schema_version: int
    format: str
    machines: tuple[ImportedMachine, ...]

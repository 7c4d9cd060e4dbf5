"""Bring other people's latency tables into this project's units, with their source, licence and citation.

    kind     what a file holds                                        what it does not
    scission mean of every block of a network, bytes after it         spread, runs, shapes, the network in one piece
    mahppo   time, power, energy from the input to each cut           spread, runs, the clock
    ncnn     least, mean, most of whole networks, runs, threads       anything inside a network
    csv      what its columns say; see `CSV_COLUMNS`                  what they do not say

What a source does not state is absent in the table, never filled in (`cutlayer.profiles.schema.ImportedTable`). Source,
licence and citation come from the options, else from a `PROVENANCE.md` beside the file, else from what is known of the
kind. The data files themselves are not part of this project: several state no licence.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypedDict, Unpack, cast

import msgspec

from cutlayer.errors import ConfigError, ProfileError
from cutlayer.profiles import machine as here
from cutlayer.profiles.foreign import PER_SECOND, Origin, Row, Sheet, check_cost, costs, origin, sheet
from cutlayer.profiles.schema import (
    SCHEMA_VERSION,
    ImportedCost,
    ImportedMachine,
    ImportedModel,
    ImportedTable,
    ImportedTime,
    Provenance,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path


class Choices(TypedDict, total=False):
    """What a caller of `read` may choose or state; `OPTIONS` says what each means."""

    machine: str
    model: str
    threads: int
    cpu: str
    backend: str
    clock: str
    date: str
    energy_method: str
    source: str
    licence: str
    citation: str


# The options of `cutlayer profile import`: the first three choose rows, the others state what the file does not.
OPTIONS: dict[str, str] = {
    "machine": "only machines whose name contains this; of a csv without that column, the machine's name",
    "model": "only the network of that name",
    "threads": "only runs with so many threads; of a csv without that column, the number of threads",
    "cpu": "processor of the machine",
    "backend": "library that ran the networks",
    "clock": "what the times are of: wall or cpu",
    "date": "day of the measurement, ISO 8601",
    "energy_method": "how joules or watts were measured",
    "source": "where the table is published",
    "licence": "its licence, or that none is stated",
    "citation": "what to cite",
}
CLOCKS = ("wall", "cpu", "unknown")

SCISSION_COLUMNS = ("tier", "machine", "model", "block", "input_layer", "output_layer", "latency_s", "output_bytes")
MAHPPO_COLUMNS = (
    "model", "cut_point", "intermediate_bits", "ae_compression_rate", "front_latency_s", "front_power_w", "front_energy_j",
)  # fmt: skip
NCNN_COLUMNS = ("device", "num_threads", "powersave", "gpu_device", "loop_count", "model", "min_ms", "max_ms", "avg_ms")

STATISTICS = ("mean", "min", "max", "std", "p50", "p95", "p99")
# The documented generic form, one row a part of a network. `model` and one mean are needed; part is whole (default),
# block or prefix, and needs a name unless whole; durations end in _s, _ms or _us; runs is what the mean is over.
CSV_COLUMNS = (
    "model", *(f"{statistic}_{unit}" for statistic in STATISTICS for unit in PER_SECOND), "part", "name", "runs",
    "output_bytes", "output_elements", "compression_ratio", "power_w", "power_mw", "energy_j", "energy_mj", "machine", "threads",
)  # fmt: skip

NPY_HEADER_BYTES = 128  # header of a .npy file of a small array: Scission counts the file np.save writes (its scission_benchmark.py)
FLOAT_BYTES = 4  # Keras and PyTorch pass float32
POWER_AGREES = 0.02  # of the energy; rounding in the published MAHPPO rows stays under 0.1 %

# As in Scission's file names (github.com/qub-blesson/Scission, benchmark_data/) and its paper.
SCISSION_CPUS = {
    "raspi4": "Raspberry Pi 4 (Cortex-A72)",
    "2500": "Intel Core i5-2500",
    "vm2Core": "virtual machine with 2 cores",
    "6700k(NoGPU)": "Intel Core i7-6700K",
    "6700k(GPU)": "Intel Core i7-6700K with a GPU",
}

# What is known of a kind where neither an option nor a PROVENANCE.md says otherwise.
ORIGINS = {
    "scission": Origin("github.com/qub-blesson/Scission", "none stated in the repository", "Lockhart et al., Scission, UCC 2020"),
    "mahppo": Origin(
        "github.com/Hao840/MAHPPO", "none stated in the repository",
        "Hao et al., Multi-Agent Collaborative Inference via DNN Decoupling, IEEE TMC 2022",
    ),
    "ncnn": Origin("github.com/Tencent/ncnn, benchmark/README.md", "BSD-3-Clause", "ncnn contributors"),
    "csv": Origin("unknown", "unknown", "unknown"),
}  # fmt: skip


def read(kind: str, path: Path, **choices: Unpack[Choices]) -> ImportedTable:
    """The foreign table at `path`: a CSV file, or for a named kind also the folder it is published in.

    Raises:
        ProfileError: the file is malformed or implausible, or no row is of the chosen machine, threads and model.
        ConfigError: no such kind or clock.
    """
    if kind not in READERS:
        raise ConfigError(f"unknown kind of table {kind!r}; there are: {', '.join(READERS)}")
    if choices.get("clock", "unknown") not in CLOCKS:
        raise ConfigError(f"unknown clock {choices['clock']!r}; say one of: {', '.join(CLOCKS)}")
    file, reader = READERS[kind]
    if file and path.is_dir():
        path /= file
    machines = tuple(_chosen(path, reader(path, choices), choices))
    table = ImportedTable(schema_version=SCHEMA_VERSION, format=kind, machines=machines)
    for cost, where in costs(table):
        check_cost(cost, f"{where} in {path}")
    return table


def _chosen(path: Path, machines: Iterable[ImportedMachine], choices: Choices) -> Iterable[ImportedMachine]:
    """The machines and networks that the first three options leave; an exact machine name wins over a part of one."""
    left = list(machines)
    name = choices.get("machine", "")
    exact = [machine for machine in left if machine.provenance.machine == name]
    found = exact or [machine for machine in left if name.lower() in machine.provenance.machine.lower()]
    if not found:
        raise ProfileError(f"no machine {name!r} in {path}; it has: {_few(machine.provenance.machine for machine in left)}")
    if "threads" in choices:
        counts = [machine.provenance.threads for machine in found]
        found = [machine for machine in found if machine.provenance.threads == choices["threads"]]
        if not found:
            known = _few("unknown" if count is None else str(count) for count in counts)
            raise ProfileError(f"no run with {choices['threads']} threads in {path}; there are: {known}")
    if "model" in choices:
        known = _few(model.name for machine in found for model in machine.models)
        picked = [(machine, tuple(model for model in machine.models if model.name == choices["model"])) for machine in found]
        found = [ImportedMachine(m.provenance, m.clock, m.setting, models) for m, models in picked if models]
        if not found:
            raise ProfileError(f"no network {choices['model']!r} in {path}; it has: {known}")
    return found


def _few(names: Iterable[str], most: int = 20) -> str:
    """The distinct names in order, the last ones counted where they are too many for a line."""
    distinct = list(dict.fromkeys(names))
    return ", ".join(distinct[:most]) + (f" and {len(distinct) - most} more" if len(distinct) > most else "")


def _machine(
    kind: str, found: Sheet, choices: Choices, name: str, models: tuple[ImportedModel, ...],
    *, cpu: str = "unknown", backend: str = "unknown", threads: int | None = None, clock: str = "unknown",
    setting: str = "", energy_method: str = "none",
) -> ImportedMachine:  # fmt: skip
    """A machine with its provenance; what the user states goes before what is known of the kind."""
    terms = origin(found.path, ORIGINS[kind])
    provenance = Provenance(
        kind="imported",
        machine=name,
        cpu=choices.get("cpu", cpu),
        backend=choices.get("backend", backend),
        backend_version="unknown",
        threads=threads,
        date=choices.get("date", "unknown"),
        command=here.command_line(),
        load_average=None,
        energy_method=choices.get("energy_method", energy_method),
        source=choices.get("source", terms.source),
        source_sha256=found.sha256,
        licence=choices.get("licence", terms.licence),
        citation=choices.get("citation", terms.citation),
    )
    stated = cast("Literal['wall', 'cpu', 'unknown']", choices.get("clock", clock))
    return ImportedMachine(provenance=provenance, clock=stated, setting=setting, models=models)


def _scission(path: Path, choices: Choices) -> list[ImportedMachine]:
    """Blocks of every (machine, model): wall clock, a mean over an unstated number of runs (its program's default is 10)."""
    found = sheet(path, SCISSION_COLUMNS, SCISSION_COLUMNS)
    chains: dict[tuple[str, str], dict[str, list[ImportedCost]]] = {}
    ends: dict[tuple[str, str, str], int] = {}
    for row in found.rows:
        key = (row.text("tier"), row.text("machine"))
        model = row.text("model")
        blocks = chains.setdefault(key, {}).setdefault(model, [])
        first, last = row.whole("input_layer"), row.whole("output_layer")
        if row.whole("block") != len(blocks):
            raise row.wrong("block", f"of {model} on {key[1]} follows {len(blocks)} blocks", "give every block once, from 0, in order")
        if (blocks and first != ends[*key, model] + 1) or last < first:
            raise row.wrong("input_layer", f"to {last} does not follow the block before", "blocks must cover the layers in order")
        ends[*key, model] = last
        size = row.whole("output_bytes", NPY_HEADER_BYTES) - NPY_HEADER_BYTES
        if size % FLOAT_BYTES:
            raise row.wrong("output_bytes", f"less {NPY_HEADER_BYTES} of header is no float32 tensor", "give the size of the .npy file")
        time = ImportedTime(mean_s=row.seconds("latency_s"))
        blocks.append(ImportedCost(name=f"layers {first}-{last}", time=time, output_bytes=size, output_elements=size // FLOAT_BYTES))
    return [
        _machine(
            "scission", found, choices, name,
            tuple(ImportedModel(name=model, blocks=tuple(blocks)) for model, blocks in models.items()),
            cpu=SCISSION_CPUS.get(name, "unknown"), backend="TensorFlow Keras", clock="wall", setting=f"{tier} tier, batch 1",
        )
        for (tier, name), models in chains.items()
    ]  # fmt: skip


def _mahppo(path: Path, choices: Choices) -> list[ImportedMachine]:
    """Prefixes of every network: cut 0 is the input as bytes, a cut that puts nothing out is the whole network."""
    found = sheet(path, MAHPPO_COLUMNS, MAHPPO_COLUMNS)
    models: dict[str, ImportedModel] = {}
    cuts: dict[str, int] = {}
    for row in found.rows:
        name, cut = row.text("model"), row.whole("cut_point")
        if cut <= cuts.get(name, -1):
            raise row.wrong("cut_point", f"of {name} follows {cuts[name]}", "give every cut once, in rising order")
        cuts[name] = cut
        model = models.get(name, ImportedModel(name=name))
        bits, time_s = row.whole("intermediate_bits"), row.seconds("front_latency_s")
        power_w, energy_j = row.number("front_power_w"), row.number("front_energy_j")
        if abs(power_w * time_s - energy_j) > POWER_AGREES * energy_j:
            raise row.wrong("front_energy_j", f"is not {power_w:g} W for {time_s:g} s", "give joules, watts and seconds")
        if cut == 0:
            if time_s > 0 or bits % 8:
                raise row.wrong(
                    "front_latency_s", f"at cut 0, of {bits} bits", "cut 0 is the input itself, 8 bits a value, before any layer"
                )
            models[name] = _with(model, input_bytes=bits // 8, input_elements=bits // 8)
            continue
        ratio = row.number("ae_compression_rate")
        if bits % (8 * FLOAT_BYTES) or ratio < 1:
            raise row.wrong(
                "intermediate_bits",
                f"compressed {ratio:g} times is no float32 tensor",
                "give bits before compression, and a rate of 1 or more",
            )
        cost = ImportedCost(
            name=f"cut {cut}" if bits else "whole", time=ImportedTime(mean_s=time_s), power_w=power_w, energy_j=energy_j,
            output_bytes=bits // 8 or None, output_elements=bits // (8 * FLOAT_BYTES) or None, compression_ratio=ratio if bits else None,
        )  # fmt: skip
        models[name] = _with(model, prefixes=(*model.prefixes, cost)) if bits else _with(model, whole=cost)
    built = _machine(
        "mahppo", found, choices, "jetson-nano", tuple(models.values()),
        cpu="NVIDIA Jetson Nano", setting="nvpmodel 1, clocks locked", energy_method="external power monitor",
    )  # fmt: skip
    return [built]


def _ncnn(path: Path, choices: Choices) -> list[ImportedMachine]:
    """Whole networks, wall clock; a table that the source lists twice under one setting stays two machines."""
    found = sheet(path, NCNN_COLUMNS, NCNN_COLUMNS)
    tables: dict[tuple[str, int, str, str], list[dict[str, ImportedModel]]] = {}
    for row in found.rows:
        gpu = row.cells["gpu_device"] or "-1"  # older entries know no GPU
        if gpu != "-1":
            row.whole("gpu_device")
        setting = f"powersave={row.whole('powersave')} gpu_device={gpu} loop_count={row.whole('loop_count', 1)}"
        listed = tables.setdefault((row.text("device"), row.whole("num_threads", 1), gpu, setting), [])
        name = row.text("model")
        if not listed or name in listed[-1]:
            listed.append({})
        time = ImportedTime(
            mean_s=row.seconds("avg_ms"), min_s=row.seconds("min_ms"), max_s=row.seconds("max_ms"), n=row.whole("loop_count", 1)
        )
        listed[-1][name] = ImportedModel(name=name, whole=ImportedCost(name="whole", time=time))
    machines = []
    for (device, threads, gpu, setting), listed in tables.items():
        backend = "ncnn on the CPU" if gpu == "-1" else "ncnn on Vulkan"
        for number, models in enumerate(listed, start=1):
            which = f"{setting}, listing {number} of {len(listed)}" if len(listed) > 1 else setting
            known = {"cpu": device, "backend": backend, "clock": "wall", "setting": which}
            machines.append(_machine("ncnn", found, choices, device, tuple(models.values()), threads=threads, **known))
    return machines


def _csv(path: Path, choices: Choices) -> list[ImportedMachine]:
    """The generic form of `CSV_COLUMNS`."""
    found = sheet(path, CSV_COLUMNS, ("model",))
    for quantity in (*STATISTICS, "power", "energy"):
        given = [column for column in found.columns if column.rsplit("_", 1)[0] == quantity]
        if len(given) > 1 or (quantity == "mean" and not given):
            have = " and ".join(given) or "no column of the mean"
            raise ProfileError(f"{have} in {path} line 1; give one column of each quantity, as mean_ms")
    if "machine" not in found.columns and not choices.get("machine"):
        raise ProfileError(f"no column 'machine' in {path} line 1; add it, or name the machine with --machine")
    grouped: dict[tuple[str, int | None], dict[str, ImportedModel]] = {}
    for row in found.rows:
        name = row.text("machine") if "machine" in found.columns else choices["machine"]
        threads = row.whole("threads", 1) if row.has("threads") else None if "threads" in found.columns else choices.get("threads")
        models, model = grouped.setdefault((name, threads), {}), row.text("model")
        models[model] = _csv_part(row, models.get(model, ImportedModel(name=model)))
    return [_machine("csv", found, choices, name, tuple(models.values()), threads=threads) for (name, threads), models in grouped.items()]


def _csv_part(row: Row, model: ImportedModel) -> ImportedModel:
    """The network with the part that the row adds."""
    part = row.cells.get("part") or "whole"
    cost = _csv_cost(row, row.text("name") if part != "whole" else "whole")
    if part == "whole" and model.whole is None:
        return _with(model, whole=cost)
    if part == "whole":
        raise row.wrong("model", "has a second row for the whole network", "keep one, or name part block or prefix")
    if part not in ("block", "prefix"):
        raise row.wrong("part", "is no part", "say whole, block or prefix")
    field = f"{part}s"
    before: tuple[ImportedCost, ...] = getattr(model, field)
    if any(other.name == cost.name for other in before):
        raise row.wrong("name", f"is there twice among the {field} of {model.name}", "keep one")
    return _with(model, **{field: (*before, cost)})


def _csv_cost(row: Row, name: str) -> ImportedCost:
    times = {
        f"{statistic}_s": row.seconds(column)
        for statistic in STATISTICS
        for column in (f"{statistic}_{unit}" for unit in PER_SECOND)
        if row.has(column) or (statistic == "mean" and column in row.cells)
    }
    return ImportedCost(
        name=name,
        time=ImportedTime(**times, n=row.whole("runs", 1) if row.has("runs") else None),
        output_bytes=row.whole("output_bytes") if row.has("output_bytes") else None,
        output_elements=row.whole("output_elements") if row.has("output_elements") else None,
        compression_ratio=row.number("compression_ratio") if row.has("compression_ratio") else None,
        power_w=_scaled(row, {"power_w": 1.0, "power_mw": 1e3}),
        energy_j=_scaled(row, {"energy_j": 1.0, "energy_mj": 1e3}),
    )


def _scaled(row: Row, per_unit: Mapping[str, float]) -> float | None:
    """The number in whichever of the columns the row fills, in the unit without a prefix."""
    return next((row.number(column) / parts for column, parts in per_unit.items() if row.has(column)), None)


def _with(model: ImportedModel, **changes: object) -> ImportedModel:
    return msgspec.structs.replace(model, **changes)


# Name of the file inside the folder a kind is published in, and its reader.
READERS: dict[str, tuple[str, Callable[[Path, Choices], list[ImportedMachine]]]] = {
    "scission": ("block_latency.csv", _scission),
    "mahppo": ("jetson_nano_cutpoints.csv", _mahppo),
    "ncnn": ("ncnn_model_latency.csv", _ncnn),
    "csv": ("", _csv),
}

"""A table in short, whichever kind it is: as one JSON object, and as text for a terminal."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec

from cutlayer.errors import ProfileError
from cutlayer.profiles import acceptance, builtin, foreign, load
from cutlayer.profiles.plans import PlanTable

if TYPE_CHECKING:
    from pathlib import Path

    from cutlayer.profiles.schema import CodecCost, ModelProfile


def show(name_or_path: str | Path) -> tuple[dict[str, Any], str]:
    """The table of that path or built-in name; its keys say what it is.

    Raises:
        ProfileError: it is missing, malformed, or of no kind that is known here.
    """
    path = load.find(name_or_path)
    keys = load.keys(path)
    if "machines" in keys:
        result = foreign.summary(foreign.load(path))
        return result, json.dumps(result, indent=1)
    if "quality" in keys:
        return _jpeg(path)
    if {"format", "plans"} <= keys:
        return _plans(path)
    if "plans" in keys:
        from cutlayer.profiles import accuracy

        counted = load.accuracy(path)
        return accuracy.summary(counted), accuracy.text(counted)
    table = load.profile(path)
    return summary(table), text(table)


def summary(table: ModelProfile) -> dict[str, Any]:
    """A profile in short: what its parts cost, how trustworthy it is, and where it comes from."""
    costs = [
        {
            "name": cost.name,
            "output_shape": list(cost.output_shape),
            "cpu_mean_s": cost.time.cpu.mean_s,
            "wall_p50_s": cost.time.wall.p50_s,
            "wall_p99_s": cost.time.wall.p99_s,
        }
        for cost in (*table.layers, *table.heads)
    ]
    return {
        "model": table.model,
        "weights_sha256": table.weights_sha256,
        "layers": costs,
        "layer_times": table.layer_times,
        "whole_cpu_mean_s": table.whole.cpu.mean_s,
        "sum_cpu_mean_s": sum(cost.time.cpu.mean_s for cost in (*table.layers, *table.heads)),
        "prefixes": len(table.prefixes),
        "suffixes": len(table.suffixes),
        "pair_error": acceptance.pair_error(table) if acceptance.pair_errors(table) else None,
        "codecs": list(dict.fromkeys(cost.codec for cost in table.codecs)),
        "units": [
            {
                "name": unit.name, "cut": unit.cut, "encoder_bytes": unit.encoder_bytes, "decoder_bytes": unit.decoder_bytes,
                "swap_cpu_mean_s": unit.swap.cpu.mean_s,
            }
            for unit in table.units
        ],
        "busy_w": table.busy_w,
        "idle_w": table.idle_w,
        "wall_over_cpu": acceptance.noise(table),
        "noisy": acceptance.noisy(table),
        "runs": table.whole.cpu.n,
        "provenance": msgspec.structs.asdict(table.provenance),
    }  # fmt: skip


def text(table: ModelProfile) -> str:
    """The same for a terminal."""
    width = max(8, *(len(cost.name) + 1 for cost in (*table.layers, *table.heads)))
    lines = [f"{'layer':<{width}}{'output':>16}{'CPU mean ms':>13}{'wall p50 ms':>13}{'wall p99 ms':>13}"]
    for cost in (*table.layers, *table.heads):
        shape, time = "x".join(map(str, cost.output_shape)), cost.time
        lines.append(f"{cost.name:<{width}}{shape:>16}" + _ms(time.cpu.mean_s, time.wall.p50_s, time.wall.p99_s))
    whole, where = table.whole.cpu, table.provenance
    parts = f"sum of parts {100 * acceptance.additive_error(table):+.1f} %" if table.layer_times == "in-chain" else "parts by differences"
    lines.append(f"whole network {1e3 * whole.mean_s:.3f} ms, {parts}, {whole.n} runs")
    if table.prefixes:
        pair = f", together {100 * acceptance.pair_error(table):+.1f} % off the whole at most" if acceptance.pair_errors(table) else ""
        lines.append(f"in one piece: {len(table.prefixes)} prefixes and {len(table.suffixes)} suffixes{pair}")
    lines += _codec_lines(table.codecs)
    lines += [
        f"bottleneck {unit.name} at cut {unit.cut}: {unit.encoder_bytes} + {unit.decoder_bytes} bytes, "
        f"swapped in {1e3 * unit.swap.cpu.mean_s:.2f} ms"
        for unit in table.units
    ]
    idle = "" if table.idle_w is None else f", {table.idle_w:.3g} W idle"
    lines.append(f"power {table.busy_w:.3g} W busy{idle}; {where.energy_method}")
    lines.append(f"{where.kind} on {where.machine}: {where.cpu}, {where.backend} {where.backend_version}, {where.date}")
    if where.derived_from:
        lines.append(f"derived from {where.derived_from}, {where.time_ratio} times slower: {where.ratio_source}")
    if acceptance.noisy(table):
        ratio = f"{acceptance.noise(table):.2f} (limit {acceptance.NOISY_RATIO})"
        lines.append(f"NOISY: wall over CPU time is {ratio}; the machine was busy, measure again")
    return "\n".join(lines)


def _ms(*seconds: float) -> str:
    return "".join(f"{1e3 * value:>13.3f}" for value in seconds)


def _codec_lines(codecs: tuple[CodecCost, ...]) -> list[str]:
    """One line a codec: the range of its times over cuts and widths."""
    lines = []
    for name in dict.fromkeys(cost.codec for cost in codecs):
        mine = [cost for cost in codecs if cost.codec == name]
        encode, decode = ([1e3 * getattr(cost, side).cpu.mean_s for cost in mine] for side in ("encode", "decode"))
        lines.append(
            f"codec {name}: {len(mine)} ways, encoding {min(encode):.3f} to {max(encode):.3f} ms, "
            f"decoding {min(decode):.3f} to {max(decode):.3f} ms (CPU mean)"
        )
    return lines


def _jpeg(path: Path) -> tuple[dict[str, Any], str]:
    table = builtin.jpeg_table(path)
    exits = [
        {"exit": one.exit, "accuracy_raw": one.correct_raw / table.images, "accuracy_jpeg": one.correct_jpeg / table.images}
        for one in table.exits
    ]
    result = {
        "model": table.model, "weights_sha256": table.weights_sha256, "quality": table.quality, "images": table.images,
        "mean_bytes": table.sizes.mean_bytes, "p95_bytes": table.sizes.p95_bytes, "encode_cpu_mean_s": table.encode.cpu.mean_s,
        "decode_cpu_mean_s": table.decode.cpu.mean_s, "exits": exits, "provenance": msgspec.structs.asdict(table.provenance),
    }  # fmt: skip
    cost = f"encoding {1e3 * table.encode.cpu.mean_s:.3f} ms, decoding {1e3 * table.decode.cpu.mean_s:.3f} ms"
    lines = [
        f"input of {table.model} as JPEG of quality {table.quality}, {table.images} images of {table.source}",
        f"{table.sizes.mean_bytes:.0f} bytes (p95 {table.sizes.p95_bytes:.0f}), {cost}",
        *(f"exit {one['exit']}  {one['accuracy_jpeg']:.4f}, of the raw input {one['accuracy_raw']:.4f}" for one in exits),
    ]
    return result, "\n".join(lines)


def _plans(path: Path) -> tuple[dict[str, Any], str]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ProfileError(f"cannot read {path}: {error.strerror}; check the path and its permissions") from error
    table = PlanTable.decode(data, str(path))
    plans: list[dict[str, Any]] = [
        {
            "plan": table.name(i), "device_s": row.device_s + row.encode_s, "wire_bytes": row.wire_bytes,
            "edge_s": row.decode_s + row.edge_s, "accuracy": row.accuracy, "device_j": row.device_j,
        }
        for i, row in enumerate(table.rows)
    ]  # fmt: skip
    lines = [
        f"{len(table)} plans of {table.model} on {table.device} with {table.edge} as edge; judge them with: cutlayer profile check {path}",
        f"{'plan':<20}{'device ms':>12}{'bytes sent':>12}{'edge ms':>12}{'accuracy':>10}{'device J':>12}",
        *(
            f"{one['plan']:<20}{1e3 * one['device_s']:>12.3f}{one['wire_bytes']:>12}{1e3 * one['edge_s']:>12.3f}{one['accuracy']:>10.4f}"
            f"{one['device_j']:>12.5f}"
            for one in plans
        ),
    ]
    return {"model": table.model, "device": table.device, "edge": table.edge, "sha256": table.digest(), "plans": plans}, "\n".join(lines)

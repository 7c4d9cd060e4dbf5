"""How well fitted generators match drives, as plain values and as a table: what `cutlayer channel fit` prints and writes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cutlayer.envs.channels import fitting
from cutlayer.envs.channels import statistics as st
from cutlayer.envs.channels.kinds import describe
from cutlayer.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cutlayer.envs.channels.generators import Channel
    from cutlayer.envs.channels.statistics import Drives

REPLICAS = 100  # the ends of a 95 % range then rest on the third value from each side


def report(
    drives: Drives,
    kinds: Sequence[str],
    held_out: Drives | None = None,
    *,
    lags_s: Sequence[float] = st.LAGS_S,
    outage_bps: float = st.OUTAGE_BPS,
    replicas: int = REPLICAS,
    seed: int = 0,
    progress: Callable[[float], None] = lambda _share: None,
) -> dict[str, Any]:
    """Each kind fitted to `drives` and compared with them, and with `held_out` drives, which the fit never sees.

    A kind that cannot describe the drives has `refused`, the reason, in the place of its numbers; where it was the only one asked for,
    that is an error.

    Raises:
        ConfigError: a kind is unknown, or the only one does not fit.
    """
    fits: list[dict[str, Any]] = []
    for i, kind in enumerate(kinds):
        progress(i / len(kinds))
        try:
            channel = fitting.fit(kind, drives, outage_bps)
        except ConfigError as error:
            if len(kinds) == 1 or kind not in fitting.FITS:
                raise
            fits.append({"generator": kind, "refused": str(error)})
            continue
        made: dict[str, Any] = {"generator": kind, "channel": describe(channel)}
        for name, against in (("match", drives), ("held_out", held_out)):
            if against is not None:
                made[name] = _match(channel, against, lags_s, outage_bps, replicas, seed)
        fits.append(made)
    progress(1.0)
    return {
        "drives": _lengths(drives),
        "held_out": _lengths(held_out) if held_out is not None else [],
        "bin_s": drives.bin_s,
        "outage_bps": outage_bps,
        "replicas": replicas,
        "seed": seed,
        "fits": fits,
    }


def _lengths(drives: Drives) -> list[dict[str, Any]]:
    return [
        {"name": name, "bins": len(rates), "length_s": fitting.rounded(len(rates) * drives.bin_s)}
        for name, rates in zip(drives.names, drives.rates_bps, strict=True)
    ]


def _match(channel: Channel, drives: Drives, lags_s: Sequence[float], outage_bps: float, replicas: int, seed: int) -> dict[str, Any]:
    compared = st.compare(channel, drives, replicas, seed, lags_s, outage_bps)
    numbers = {
        name: {
            **{part: fitting.rounded(getattr(one, part)) for part in ("trace", "generated", "low", "high")},
            "matches": one.matches,
        }
        for name, one in compared.items()
    }
    return {
        "numbers": numbers,
        "mismatches": [name for name, one in compared.items() if not one.matches],
        "rate_distance": fitting.rounded(st.rate_distance(channel, drives, replicas, seed)),
    }


def text(result: dict[str, Any]) -> str:
    """The report for a terminal: one table for the drives, one for those held out; a star where a generator does not match."""
    lines = []
    for name, title, drives in (("match", "fitted to", result["drives"]), ("held_out", "held out", result["held_out"])):
        if drives:
            lines += ["", *_table([fit for fit in result["fits"] if "channel" in fit], name, f"{title} {_names(drives)}")]
    lines += [""] + [f"{fit['generator']}: {_parameters(fit['channel'])}" for fit in result["fits"] if "channel" in fit]
    lines += [f"left out: {fit['refused']}" for fit in result["fits"] if "refused" in fit]
    lines.append("* the drives lie outside the range that holds 95 % of the generator's draws of the same lengths")
    return "\n".join(lines[1:])


def _names(drives: list[dict[str, Any]]) -> str:
    return ", ".join(f"{drive['name']} ({drive['length_s']:g} s)" for drive in drives)


def _table(fits: list[dict[str, Any]], part: str, title: str) -> list[str]:
    lines = [title, f"{'':<22}{'trace':>11}" + "".join(f"{fit['generator']:>17}" for fit in fits)]
    for name, first in fits[0][part]["numbers"].items():
        unit, scale = ("Mb/s", 1e-6) if name.endswith("_bps") else ("", 1.0)
        label = f"{name.removesuffix('_bps')} {unit}".replace("_", " ")
        cells = (fit[part]["numbers"][name] for fit in fits)
        row = "".join(f"{scale * cell['generated']:>16.3f}{' ' if cell['matches'] else '*'}" for cell in cells)
        lines.append(f"{label:<22}{scale * first['trace']:>11.3f}{row}")
    lines.append(f"{'distance of rates':<22}{'':>11}" + "".join(f"{fit[part]['rate_distance']:>16.3f} " for fit in fits))
    lines.append(f"{'numbers that match':<22}{len(fits[0][part]['numbers']):>11}" + "".join(f"{_matching(fit[part]):>16} " for fit in fits))
    return lines


def _matching(match: dict[str, Any]) -> int:
    return len(match["numbers"]) - len(match["mismatches"])


def _parameters(channel: dict[str, Any]) -> str:
    """Fields of a generator in one line; matrices by their size, parts by their kind."""
    parts = []
    for name, value in channel.items():
        if name == "kind":
            continue
        if name == "transitions":
            parts.append(f"{name} {len(value)}x{len(value)}")
        elif name == "channels":
            parts += [f"[{one['kind']}: {_parameters(one)}]" for one in value]
        elif isinstance(value, (list, tuple)):
            parts.append(f"{name} {' '.join(f'{one:g}' for one in value)}")
        else:
            parts.append(f"{name} {value:g}")
    return ", ".join(parts)

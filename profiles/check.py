"""`cutlayer profile check`: the knob report of a plan table as numbers and as text, with what it rests on.

Beside the judgement stand three others that differ in one thing each, so that a reader sees how much of it is the table
and how much the question; and for a built-in table, those of the others.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any

import msgspec

from cutlayer.errors import ProfileError
from cutlayer.profiles import builtin, knobs
from cutlayer.profiles.cost import linear, wire_bytes
from cutlayer.profiles.knobs import KNOBS, PATH, Report, report
from cutlayer.profiles.plans import PlanTable
from cutlayer.profiles.rows import JPEG

if TYPE_CHECKING:
    from cutlayer.profiles.rows import PlanRow

FAR_RTT_S = 0.02  # the scenario camera's: LTE 21 ms, 5G-NSA low band 15 ms to a near server (Narayanan et al., SIGCOMM 2021)


def load(table: str | None = None) -> tuple[str, PlanTable]:
    """A plan table and its name: a built-in one (the default without a name), or a JSON file that `PlanTable.encode` wrote.

    Raises:
        ConfigError: it is neither.
        ProfileError: the file is no plan table, or the parts of a built-in table do not fit each other.
    """
    name = builtin.DEFAULT if table is None else table
    file = FilePath(name)
    if name in builtin.TABLES or not file.is_file():
        return name, builtin.table(name)
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ProfileError(f"cannot read {file}: {error.strerror}; check the path and its permissions") from error
    return name, PlanTable.decode(data, str(file))


def undeclared(found: Report, declared: dict[str, dict[str, str]]) -> dict[str, list[str]]:
    """Values that are never optimal and not declared so; empty for a table that says what it is."""
    missing = {knob: [value for value in names if value not in declared.get(knob, {})] for knob, names in found.never.items()}
    return {knob: names for knob, names in missing.items() if names}


def overdeclared(found: Report, declared: dict[str, dict[str, str]]) -> dict[str, list[str]]:
    """Values that are said to be never optimal and are, or that the table does not offer."""
    wrong = {knob: [value for value in why if value not in found.never.get(knob, [])] for knob, why in declared.items()}
    return {knob: names for knob, names in wrong.items() if names}


def check(table: str | None = None) -> dict[str, Any]:
    """The knob report as one JSON object; raises as `load` does."""
    name, plans = load(table)
    found = report(plans)
    told = {knob: dict(why) for knob, why in builtin.TABLES[name].never_optimal.items()} if name in builtin.TABLES else {}
    result: dict[str, Any] = {
        "table": name,
        "model": plans.model,
        "device": plans.device,
        "edge": plans.edge,
        "plans": len(plans),
        "plans_after_pruning": len(plans.pruned()),
        **found.counts(),
        "share": found.share,
        "interior_share": found.interior,
        "interior_gain": found.interior_gain,
        "codecs": found.codecs,
        "bottleneck_share": found.bottleneck,
        "gain_over_best_pair": float(found.gains.mean()),
        "gain": {
            "unit": "mean reward over the sweep",
            "all_knobs": found.reward,
            "best_pair_frozen": found.best_pair.frozen,
            "pairs": [{"frozen": pair.frozen, "at": pair.value, "reward": pair.reward, "gain": pair.gain} for pair in found.pairs],
            "largest": found.largest_gain(),
            "codecs": {"best_alone": found.codec, "gain": found.codec_gain},
        },
        "where": found.where(),
        "never_optimal": found.never,
        "built_in": name in builtin.TABLES,
        "declared": told,
        "undeclared": undeclared(found, told),
        "declared_but_optimal": overdeclared(found, told),
        "question": _question(found),
        "otherwise": {
            "accuracies as measured": _short(report(plans, resolution=None)),
            "linear objective": _short(report(plans, objective=linear(found.objective.deadline_s))),
            "round trip 20 ms": _short(report(plans, replace(PATH, rtt_s=FAR_RTT_S))),
        },
    }
    if any(row.codec == JPEG for row in plans.rows):
        result["otherwise"]["JPEGs of twice the size"] = _short(report(_larger(plans)))
    if name in builtin.TABLES:
        result["beside"] = {other: _beside(other) for other in builtin.TABLES if other != name}
    return result


def _question(found: Report) -> dict[str, Any]:
    sweep = found.sweep
    return {
        "request": "one alone: device and link idle",
        "switching": "free: what it takes to change to another plan, such as to swap a bottleneck in, is not charged here",
        "most_swap_s": float(found.plans.swap_s.max()),
        "objective": "accuracy if in time, else -1" if found.objective.enforce_deadline else "accuracy - weight * latency / deadline",
        "deadline_s": found.objective.deadline_s,
        "rtt_s": found.path.rtt_s,
        "states": int(found.chosen.size),
        "rate_bps": [sweep.rates_bps[0], sweep.rates_bps[-1]],
        "slow_down": [sweep.slow_downs[0], sweep.slow_downs[-1]],
        "edge_load": list(sweep.edge_loads),
        "edge_wait_s": [knobs.edge_wait_s(load) for load in sweep.edge_loads],
        "edge_slow_down": [knobs.edge_slow_down(load) for load in sweep.edge_loads],
        "counts_from": knobs.COUNTS_FROM,
        "optimal_bits": "widths of tensors sent at an interior cut; raw, jpeg and none stand in the shares and do not count",
        "optimal_codecs": "codecs of tensors sent at an interior cut, as optimal_bits",
        "optimal_partitions": "input (sent as it is) and local (nothing sent) count, each once; optimal_interior_partitions are the rest",
        "accuracies": f"settled: what is coded is right at most as often as what is not, and as often within {knobs.RESOLUTION:.5f}",
        "ties": "fewer bytes, then less device energy",
    }


def _short(found: Report) -> dict[str, Any]:
    return {
        **found.counts(),
        "interior_share": found.interior,
        "interior_gain": found.interior_gain,
        "bottleneck_share": found.bottleneck,
        "share": found.share,
    }


def _larger(plans: PlanTable) -> PlanTable:
    """The table for images that compress half as well: those of the built-in one were enlarged from 32 px, and are smooth."""

    def double(row: PlanRow) -> PlanRow:
        if row.codec != JPEG:
            return row
        size, longest = 2 * row.payload_bytes, None if row.payload_p95_bytes is None else 2 * row.payload_p95_bytes
        return msgspec.structs.replace(row, payload_bytes=size, payload_p95_bytes=longest, wire_bytes=wire_bytes(size))

    return replace(plans, rows=tuple(double(row) for row in plans.rows))


def _beside(name: str) -> dict[str, Any]:
    try:
        return {"summary": builtin.TABLES[name].summary, **_short(report(builtin.table(name)))}
    except ProfileError as error:  # one table that cannot be built does not keep the others from being judged
        return {"summary": builtin.TABLES[name].summary, "error": str(error)}


def text(result: dict[str, Any]) -> str:
    """What `check` found, for a terminal."""
    return "\n".join([*_head(result), "", *_optimal(result), *_never(result), "", *_frozen(result), "", *_others(result)])


def _head(result: dict[str, Any]) -> list[str]:
    asked = result["question"]
    low, high = (rate / 1e6 for rate in asked["rate_bps"])
    who = f"{result['table']}: {result['model']} on {result['device']} with {result['edge']} as edge"
    question = f"one request, {asked['objective']}; deadline {1e3 * asked['deadline_s']:.0f} ms, round trip {1e3 * asked['rtt_s']:.0f} ms"
    slow = f"slow-down {asked['slow_down'][0]:g}-{asked['slow_down'][1]:g}"
    loads = f"edge load {asked['edge_load'][0]:g}-{asked['edge_load'][-1]:g}"
    points = f"{result['optimal_partitions']} partition points ({result['optimal_interior_partitions']} interior)"
    codings = f"{result['optimal_bits']} bit widths, {result['optimal_codecs']} codecs of tensors"
    swap = f" (to swap a bottleneck in takes the device up to {1e3 * asked['most_swap_s']:.3g} ms)" if asked["most_swap_s"] else ""
    return [
        f"{who}, {result['plans']} plans ({result['plans_after_pruning']} after pruning)",
        f"{question}; {asked['states']} states: {low:g}-{high:g} Mb/s, {slow}, {loads}",
        f"a change of plan costs nothing in this report{swap}: switching is the simulator's to charge",
        f"optimal on 1 % or more: {result['optimal_exits']} exits, {points}, {codings}",
    ]


def _optimal(result: dict[str, Any]) -> list[str]:
    """Where each value is optimal; one line each."""
    lines = [f"{'knob':<10}{'value':<10}{'optimal on':>11}{'uplink Mb/s':>17}{'slow-down':>12}{'edge load':>12}"]
    for knob in KNOBS:
        for value, at in result["where"][knob].items():
            rates = _range([rate / 1e6 for rate in at["rate_bps"]], 3)
            others = f"{_range(at['slow_down'], 2):>12}{_range(at['edge_load'], 2):>12}"
            lines.append(f"{knob:<10}{value:<10}{100 * at['share']:>9.2f} %{rates:>17}{others}")
    widths = [way for way in result["codecs"] if way["channels"]]
    if widths:
        each = ", ".join(f"{way['codec']} ({way['channels']} channels) {100 * way['share']:.2f} %" for way in widths)
        lines.append(f"{'':<10}bottlenecks together {100 * result['bottleneck_share']:.2f} %: {each}")
    return lines


def _never(result: dict[str, Any]) -> list[str]:
    """Values that are optimal nowhere, the reasons that a built-in table gives for them, and what it has to declare yet."""
    lines = []
    for knob, names in result["never_optimal"].items():
        if names:
            open_ = result["undeclared"].get(knob, [])
            said = f"; NOT DECLARED: {', '.join(open_)}" if open_ and result["built_in"] else ""
            lines.append(f"{knob:<10}never optimal: {', '.join(names)}{said}")
            told = result["declared"].get(knob, {})
            for why in dict.fromkeys(told.values()):
                these = ", ".join(value for value in names if told.get(value) == why)
                lines.append(f"{'':<10}  {these}: {why}")
    place = f"TABLES[{result['table']!r}] of profiles/builtin.py"
    if result["built_in"] and result["undeclared"]:
        each = ", ".join(f'"{knob}": dict.fromkeys({tuple(names)!r}, WHY)' for knob, names in result["undeclared"].items())
        lines.append(f"to declare in {place}, with the reasons: {{{each}}}")
    if result["declared_but_optimal"]:
        each = "; ".join(f"{knob} {', '.join(names)}" for knob, names in result["declared_but_optimal"].items())
        lines.append(f"to take out of {place}, declared but optimal: {each}")
    return lines


def _frozen(result: dict[str, Any]) -> list[str]:
    """What is lost where one knob may not move."""
    gain, most = result["gain"], result["gain"]["largest"]
    lines = [f"{'frozen':<10}{'at':<10}{'mean reward':>12}{'lost':>9}", f"{'nothing':<20}{gain['all_knobs']:>12.4f}{0:>9.4f}"]
    lines += [f"{pair['frozen']:<10}{pair['at']:<10}{pair['reward']:>12.4f}{pair['gain']:>9.4f}" for pair in gain["pairs"]]
    at = f"{most['rate_bps'] / 1e6:.3g} Mb/s, slow-down {most['slow_down']:.2g}, edge load {most['edge_load']:g}"
    lines.append(f"all knobs gain {result['gain_over_best_pair']:.4f} over the best pair ({gain['best_pair_frozen']} frozen)")
    if most["gain"] > 0.0:
        lines[-1] += f"; most, {most['gain']:.3f}, with {most['plan']} at {at}"
    if len(result["codecs"]) > 1:
        lines.append(f"all codecs gain {gain['codecs']['gain']:.4f} over the best one alone, {gain['codecs']['best_alone']} (at any width)")
    return lines


def _others(result: dict[str, Any]) -> list[str]:
    """The judgement beside those that differ in one thing, and beside the other built-in tables."""
    lines = [f"{'':<25}{'exits':>6}{'partitions (interior)':>23}{'bits':>6}{'codecs':>8}{'interior cut optimal on':>25}{'worth':>9}"]
    rows = {result["table"]: result, **result["otherwise"], **result.get("beside", {})}
    for name, found in rows.items():
        if "error" in found:
            lines.append(f"{name:<25} {found['error']}")
            continue
        cuts = f"{found['optimal_partitions']} ({found['optimal_interior_partitions']})"
        counts = f"{found['optimal_exits']:>6}{cuts:>23}{found['optimal_bits']:>6}{found['optimal_codecs']:>8}"
        lines.append(f"{name:<25}{counts}{_percent(found['interior_share']):>25}{found['interior_gain']:>9.4f}")
    return [*lines, *_lesson(rows)]


def _range(ends: list[float], digits: int) -> str:
    low, high = (f"{end:.{digits}g}" for end in ends)
    return low if low == high else f"{low}-{high}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


LESSONS = {
    "jpeg": "where the input may be sent as a JPEG",
    "privacy": "where the input may not be sent",
    "bottleneck": "where a tensor may be sent through zstd or a trained bottleneck",
}


def _lesson(rows: dict[str, dict[str, Any]]) -> list[str]:
    """How the interior region of each built-in table differs from that of the default, where they are at hand."""
    known = {name: found for name, found in rows.items() if "interior_share" in found and name in builtin.TABLES}
    if builtin.DEFAULT not in known or len(known) == 1:
        return []
    usual = known[builtin.DEFAULT]
    lines = [
        "",
        f"An interior cut is optimal on {_percent(usual['interior_share'])} of the states where the input may be sent raw,",
        f"and is worth {usual['interior_gain']:.4f} of mean reward: so much would be lost without it. Against that,",
    ]
    for name, when in LESSONS.items():
        if name in known:
            change = _change(usual["interior_share"], known[name]["interior_share"])
            lines.append(f"  {when}, {change} and is worth {known[name]['interior_gain']:.4f}")
    return lines


def _change(before: float, after: float) -> str:
    """In words: a region that was optimal on this share of the sweep is so on that one."""
    if after == before:
        return f"it stays at {_percent(after)}"
    points = f"by {100 * abs(after - before):.1f} points"
    if after == 0.0:
        return f"it vanishes, {points},"
    return f"it {'grows' if after > before else 'shrinks'} {points} to {_percent(after)}"

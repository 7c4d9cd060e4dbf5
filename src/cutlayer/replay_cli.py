"""The command `cutlayer replay`: play a recorded decision trace to a policy, to a controller, or in the simulator."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutlayer.errors import ConfigError
from cutlayer.options import command, show

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from cutlayer.envs.record import Record
    from cutlayer.envs.spec import Scenario
    from cutlayer.envs.streams import Streams
    from cutlayer.runtime.bundle import Bundle
    from cutlayer.runtime.trace import Trace

# Rules that need no tuning: a trace is one world, and a rule tuned on what it is judged on is none.
UNTUNED = ("device-only", "edge-only", "greedy-last", "greedy-ewma")


def replay_trace(options: argparse.Namespace) -> None:
    """`cutlayer replay`."""
    from cutlayer.runtime import bundle

    found, given = _read(options.traces), bundle.load(options.bundle)
    found.check(given.plans)
    result = {"recorded": _recorded(found, given), "policy": _policy(found, given, options)}
    if found.head.every == 1:
        result["controller"] = _controller(found, given, options)
    if options.simulate:
        from cutlayer.envs import recorded

        scenario, streams = recorded.world(found, given.plans, given.path, given.objective)
        result["simulated"] = {name: _simulated(scenario, streams, name) for name in options.simulate}
    show(options, result, _text(result))


def _read(files: Sequence[Path]) -> Trace:
    """The files as one trace, oldest first."""
    from cutlayer.runtime import trace

    parts = []
    for file in files:
        try:
            with file.open("rb") as lines:
                parts.append(trace.read(lines, str(file)))
        except FileNotFoundError as error:
            raise ConfigError(f"no trace at {file}; cutlayerd writes one where its configuration names a trace file") from error
        if parts[-1].head != parts[0].head:
            raise ConfigError(f"{file} is the trace of another bundle, version or rate than {files[0]}; replay them apart")
    return trace.Trace(parts[0].head, [event for part in parts for event in part.events], any(part.cut_short for part in parts))


def _recorded(found: Trace, given: Bundle) -> dict[str, Any]:
    """What the trace itself tells."""
    from cutlayer.runtime.trace import Decided, Reported

    decided = [event for event in found.events if isinstance(event, Decided)]
    reports = [event for event in found.events if isinstance(event, Reported)]
    decisions = [event.decision for event in decided]
    return {
        "scenario": found.head.scenario,
        "every": found.head.every,
        "cut_short": found.cut_short,
        "decisions": len(decisions),
        "reports": len(reports),
        "span_s": decided[-1].at_s - decided[0].at_s if decided else 0.0,
        "steps": Counter(one.step for one in decisions),
        "reasons": Counter(one.reason for one in decisions if one.reason),
        "modes": Counter(one.mode for one in decisions),
        "share": _share([one.plan for one in decisions], given),
    }


def _policy(found: Trace, given: Bundle, options: argparse.Namespace) -> dict[str, Any]:
    """What the bundle's policy chooses on the recorded observations."""
    from cutlayer.runtime import features, replaying

    policy = given.form(options.form, str(options.bundle))
    pairs = list(replaying.replay(found, policy, features.size(given.blocks)))
    same = sum(plan == event.decision.plan for event, plan in pairs)
    plans = [plan for _, plan in pairs if plan >= 0]
    return {"asked": len(pairs), "agreement": same / len(pairs) if pairs else None, "share": _share(plans, given)}


def _controller(found: Trace, given: Bundle, options: argparse.Namespace) -> dict[str, Any]:
    """What a controller with the bundle decides when it is told the same."""
    from cutlayer.runtime import replaying
    from cutlayer.runtime.controller import Controller

    controller = Controller(given, policy=given.form(options.form, str(options.bundle)))
    pairs = list(replaying.rerun(found, controller))
    same = sum(decision.plan == event.decision.plan for event, decision in pairs)
    counts = controller.counts
    return {
        "agreement": same / len(pairs) if pairs else None,
        "fallbacks": counts.fallbacks,
        "steps": counts.steps,
        "reasons": counts.reasons,
        "share": _share([decision.plan for _, decision in pairs], given),
    }


def _simulated(scenario: Scenario, streams: Streams, name: str) -> dict[str, Any]:
    """What another policy makes of the world of the trace."""
    from cutlayer.agents import baselines, evaluate
    from cutlayer.envs.simulation import Simulation
    from cutlayer.runtime import bundle

    if name in UNTUNED:
        policy = baselines.RULES[name](scenario, 0)
    elif Path(name).exists():
        loaded = bundle.load(Path(name))
        if loaded.plans.digest() != scenario.plans.digest():
            raise ConfigError(
                f"{name} was exported for another plan table than the trace was recorded with; simulate one of the same table"
            )
        policy = evaluate.Learned(loaded.policy)
    else:
        raise ConfigError(f"cannot simulate {name!r}; give a bundle or one of: {', '.join(UNTUNED)}")
    world = Simulation(scenario, streams)
    policy.begin()
    records = []
    while not world.done:
        records.append(world.decide(policy.act(world)))
    return _figures(scenario, streams, records)


def _figures(scenario: Scenario, streams: Streams, records: Sequence[Record]) -> dict[str, Any]:
    import numpy as np

    from cutlayer.envs.streams import deadlines
    from cutlayer.profiles.stats import wilson

    deadline_s = deadlines(scenario, streams)
    latency_s, accuracy, energy_j = (np.array([getattr(one, name) for one in records]) for name in ("latency_s", "accuracy", "energy_j"))
    late = int((latency_s > deadline_s).sum())
    p50, p95, p99 = (float(x) for x in np.percentile(latency_s, [50, 95, 99]))
    return {
        "reward_mean": float(scenario.objective.reward(latency_s, accuracy, energy_j, deadline_s).mean()),
        "latency_p50_s": p50,
        "latency_p95_s": p95,
        "latency_p99_s": p99,
        "miss_rate": late / len(records),
        "miss_ci95": list(wilson(late, len(records))),
        "accuracy": float(accuracy.mean()),
        "energy_j": float(energy_j.mean()),
    }


def _share(plans: Sequence[int], given: Bundle) -> dict[str, dict[str, float]]:
    rows = [given.plans.rows[plan] for plan in plans]
    return {
        knob: {str(value): count / len(rows) for value, count in sorted(Counter(getattr(row, knob) for row in rows).items())}
        for knob in ("exit", "partition", "bits")
    }


def _text(result: dict[str, Any]) -> str:
    recorded, policy = result["recorded"], result["policy"]
    steps = ", ".join(f"{step}: {count}" for step, count in recorded["steps"].items())
    sampled = "" if recorded["every"] == 1 else f" (one in {recorded['every']})"
    lines = [f"{recorded['decisions']} decisions{sampled} and {recorded['reports']} outcomes in {recorded['span_s']:.1f} s; by {steps}"]
    if recorded["cut_short"]:
        lines.append("a file's last line breaks off and is left out")
    if policy["asked"]:
        lines.append(f"the policy agrees in {policy['agreement']:.1%} of the {policy['asked']} decisions with an observation")
    told = result.get("controller")
    if told is not None and told["agreement"] is not None:
        lines.append(f"a controller told the same agrees in {told['agreement']:.1%}, with {told['fallbacks']} fallbacks")
    for name, one in result.get("simulated", {}).items():
        low, high = one["miss_ci95"]
        lines.append(
            f"{name:<14} reward {one['reward_mean']:.4f}  missed {one['miss_rate']:.2%} [{low:.2%}, {high:.2%}]  "
            f"p50 {1e3 * one['latency_p50_s']:.1f} ms  p99 {1e3 * one['latency_p99_s']:.1f} ms  accuracy {one['accuracy']:.4f}"
        )
    return "\n".join(lines)


def add(commands: Any) -> None:
    """Add the command to the parser's."""
    text = "play a recorded decision trace to a policy, or simulate its world"
    one = command(commands, "replay", replay_trace, text, "cutlayer replay cutlayerd.trace --bundle policy.cutlayer --simulate greedy-ewma")
    one.add_argument("traces", type=Path, nargs="+", metavar="TRACE", help="trace of cutlayerd; of rotated files the oldest first")
    one.add_argument("--bundle", type=Path, required=True, metavar="FILE", help="exported policy, of the same plan table")
    one.add_argument("--form", choices=["numpy", "onnxruntime", "tree"], default="numpy", help="form of its policy")
    one.add_argument(
        "--simulate",
        action="append",
        default=[],
        metavar="P",
        help=f"simulate this policy too: a bundle, or {', '.join(UNTUNED)}; may be repeated",
    )

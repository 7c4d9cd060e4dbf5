"""`cutlayer testbed run`: each policy for real and in the simulator, on the same requests, link and slow-downs; side by side.

Into the folder go `graphs/`, `survey.json` (the edge and the constant of this machine, measured first), a file `POLICY.json` for each
policy with the records of both worlds (`Side`), and `run.json`. A policy whose file is there, of the same settings, is not run again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from cutlayer.agents import device_agent, inputs, runs
from cutlayer.agents.episodes import HELD_OUT
from cutlayer.agents.evaluate import Result
from cutlayer.agents.testbed import deciding, real, world
from cutlayer.agents.testbed.heard import Heard
from cutlayer.agents.testbed.real import Course, Materials
from cutlayer.agents.testbed.side import KIND, SURVEY, Side
from cutlayer.envs import scenarios
from cutlayer.envs.streams import draw
from cutlayer.errors import ConfigError
from cutlayer.files import write_atomic
from cutlayer.runtime.split.run import refuse_unspoken
from cutlayer.runtime.testbed import emulation
from cutlayer.runtime.testbed.link import unavailable
from cutlayer.runtime.testbed.others import MOST

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from cutlayer.agents.testbed.deciding import Choice
    from cutlayer.envs.record import Record
    from cutlayer.envs.spec import Scenario
    from cutlayer.envs.streams import Streams

IMAGES = 500  # held-out ones, at most; asked for in turn
WARM_ROUNDS, ROUNDS = 1, 5  # of the survey over every cut, our choice: a dozen seconds; the first round finds cold caches
SURVEY_DEADLINE_S = 5.0  # nothing is given up there


@dataclasses.dataclass(frozen=True, slots=True)
class Settings:
    """What a run is of; a result is only kept for the same."""

    scenario: str
    traces: tuple[Path, ...]
    requests: int
    backend: str
    seed: int
    emulation: str = "pad"


def run(settings: Settings, names: Sequence[str], folder: Path, progress: Callable[[float], None] = lambda _: None) -> dict[str, Any]:
    """Run every policy that the folder does not hold yet; keys as `cutlayer testbed run --json` prints them.

    Raises:
        CutlayerError: the scenario cannot be emulated, the backend does not work here, or a process failed.
    """
    if reason := unavailable(settings.backend):
        raise ConfigError(f"backend {settings.backend}: {reason}")
    if reason := emulation.unavailable(settings.emulation):
        raise ConfigError(f"device {settings.emulation}: {reason}")
    here = world.scenario(settings.scenario, settings.traces, settings.requests)
    refuse_unspoken(here.plans)
    tuning = inputs.on_drives(scenarios.make(settings.scenario), "train")
    chosen = [deciding.choice(here, name, folder) for name in names]  # what is wrong with one is told before anything takes time
    materials, labels, images = _materials(settings, here, folder)
    digest = _digest(settings, here)
    survey = _survey(materials, here, folder, digest)
    there = world.simulated(here, survey)
    streams = draw(here, HELD_OUT + settings.seed)
    if settings.emulation == "none":
        there, streams = world.as_fast_as_here(there, survey), dataclasses.replace(streams, slow_down=np.ones_like(streams.slow_down))
    sides = []
    for i, one in enumerate(chosen):
        side = _kept(folder, one, digest)
        if side is None:
            side = _both(materials, (here, there, tuning), survey, one, streams, labels, digest)
            write_atomic(folder / f"{one.label}.json", msgspec.json.encode(side))
        sides.append(side)
        progress((i + 1) / len(chosen))
    result = {
        "backend": settings.backend,
        "emulation": settings.emulation,
        "requests": settings.requests,
        "images": images,
        "deadline_s": None if here.deadlines is not None else here.objective.deadline_s,
        "quiet": all(side.others <= MOST for side in sides),
        "survey": msgspec.to_builtins(survey),
        **compared(sides),
    }
    seeds: dict[str, object] = {"episode": HELD_OUT + settings.seed}
    runs.write(folder, "run.json", {**runs.manifest(here, seeds, kind=KIND), **result})
    return result


def _materials(settings: Settings, here: Scenario, folder: Path) -> tuple[Materials, Any, str]:
    """Graphs, plans and images as files; labels or None, and what the images are."""
    import torch

    from cutlayer.profiles import cuts as networks
    from cutlayer.profiles import graphs

    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    network = networks.resolve(here.plans.model, None)
    if not (folder / "graphs" / graphs.MANIFEST).exists():
        graphs.export(network, folder / "graphs")
    write_atomic(folder / "plans.json", here.plans.encode())
    found = inputs.find(IMAGES)
    shape = network.input_shape
    if found.images is not None:
        pixels, labels = found.images.resized(shape[1]), found.images.labels
        source = found.images_source
    else:
        pixels = np.random.default_rng(0).integers(0, 256, (16, shape[1], shape[2], shape[0]), dtype=np.uint8)
        labels, source = None, "random pixels (no images at hand): accuracy is not measured"
    np.save(folder / "images.npy", pixels)
    made = Materials(
        (folder / "graphs").resolve(), (folder / "plans.json").resolve(), (folder / "images.npy").resolve(),
        settings.scenario, settings.backend, settings.seed, settings.emulation,
    )  # fmt: skip
    return made, labels, source


def _digest(settings: Settings, here: Scenario) -> str:
    told = [
        settings.scenario, *map(str, settings.traces), settings.requests, settings.backend, settings.seed, settings.emulation,
        here.plans.digest(),
    ]  # fmt: skip
    return hashlib.sha256(msgspec.json.encode(told)).hexdigest()[:16]


def _kept(folder: Path, one: Choice, digest: str) -> Side | None:
    """What an earlier call left, where it was of the same settings."""
    with contextlib.suppress(OSError, msgspec.DecodeError):
        side = msgspec.json.decode((folder / f"{one.label}.json").read_bytes(), type=Side)
        return side if side.settings == digest else None
    return None


def _survey(materials: Materials, here: Scenario, folder: Path, digest: str) -> world.Found:
    """The edge and the constant of this machine, measured once for a folder."""
    file = folder / SURVEY
    with contextlib.suppress(OSError, msgspec.DecodeError, KeyError):
        kept = msgspec.json.decode(file.read_bytes())
        if kept["settings"] == digest:
            return msgspec.convert(kept["found"], world.Found)
    cuts = len(deciding.Survey.of(here.plans).plans)
    count = cuts * (WARM_ROUNDS + ROUNDS)
    arrivals = [world.SURVEY_GAP_S * (1 + i) for i in range(count)]
    course = Course(arrivals, [SURVEY_DEADLINE_S] * count, [world.SURVEY_BPS], [1.0], world.SLOT_S, 0.0)
    ran = real.run(materials, here, deciding.Choice(deciding.SURVEY, deciding.SURVEY, None), course)
    found = world.found(here, ran.done, cuts * WARM_ROUNDS)
    write_atomic(file, msgspec.json.encode({"settings": digest, "others": ran.others, "found": found}))
    return found


def _both(
    materials: Materials,
    worlds: tuple[Scenario, Scenario, Scenario],
    survey: world.Found,
    one: Choice,
    streams: Streams,
    labels: Any,
    digest: str,
) -> Side:
    """One policy for real, then in the simulator."""
    here, there, tuning = worlds
    due = [] if streams.deadline_s is None else streams.deadline_s.tolist()
    course = Course(
        streams.arrival_s[:-1].tolist(), due, streams.rate_bps.tolist(), streams.slow_down.tolist(), streams.slot_s, survey.fixed_s
    )  # fmt: skip
    ran = real.run(materials, here, one, course)
    measured = list(real.records(here, ran.done))
    later = world.asked(streams, survey)
    decider = Heard(deciding.controller(here, tuning, one, materials.seed), later)
    simulated = list(world.as_arrived((record for _, record in device_agent.drive(there, later, decider)), survey))
    correct = real.right(ran.done, labels)
    faults = Counter(done.fault for done in ran.done if done.fault)
    steps = Counter(f"{done.step}: {done.reason}" if done.reason else done.step for done in ran.done)
    return Side(
        one.name, one.label, digest, len(measured), figures(here, measured, streams, correct), figures(there, simulated, streams),
        measured, simulated, correct, sum(done.late_s > 0.0 for done in ran.done), max(done.late_s for done in ran.done),
        ran.resets, ran.others, ran.slot_late_s, dict(faults), dict(steps), runs.origin(),
    )  # fmt: skip


def figures(scenario: Scenario, records: Sequence[Record], streams: Streams, correct: Sequence[bool] | None = None) -> dict[str, Any]:
    """As `Result.summary` has them, and the mean latency, shares of plans by name, and the share of real answers that are right."""
    plans = np.array([[one.plan for one in records]])
    latency, accuracy, energy = (np.array([[getattr(one, name) for one in records]]) for name in ("latency_s", "accuracy", "energy_j"))
    due = None if streams.deadline_s is None else streams.deadline_s[None, :]
    names, counts = np.unique([scenario.plans.name(one.plan) for one in records], return_counts=True)
    return {
        **Result(scenario, plans, latency, accuracy, energy, due).summary(),
        "latency_mean_s": float(latency.mean()),
        "plans": {str(name): int(count) for name, count in zip(names, counts, strict=True)},
        "accuracy_of_images": None if correct is None else float(np.mean(correct)),
    }


def compared(sides: Sequence[Side]) -> dict[str, Any]:
    """The figures of both worlds, and how they agree: error of the mean latency by policy, and the rankings by mean reward."""
    rows = {
        side.label: {
            "measured": side.measured, "simulated": side.simulated, "late": side.late, "latest_s": side.latest_s, "resets": side.resets,
            "others": side.others, "faults": side.faults, "steps": side.steps, "made": side.made,
            "latency_error": side.simulated["latency_mean_s"] / side.measured["latency_mean_s"] - 1.0,
        }
        for side in sides
    }  # fmt: skip
    order = {kind: sorted(rows, key=lambda label: -rows[label][kind]["reward_mean"]) for kind in ("measured", "simulated")}
    return {
        "policies": rows,
        "ranking_measured": order["measured"],
        "ranking_simulated": order["simulated"],
        "same_ranking": order["measured"] == order["simulated"],
        "worst_latency_error": max((row["latency_error"] for row in rows.values()), key=abs),
    }


def table(result: dict[str, Any]) -> str:
    """The comparison as text: a line of each world for each policy."""
    head = ("policy", "world", "mean ms", "p50", "p95", "p99", "missed", "accuracy", "reward")
    lines = ["{:<16}{:<11}{:>9}{:>8}{:>8}{:>8}{:>9}{:>10}{:>9}".format(*head)]
    for label, row in result["policies"].items():
        for kind in ("measured", "simulated"):
            one = row[kind]
            mean, p50, p95, p99 = (1e3 * one[f"latency_{name}_s"] for name in ("mean", "p50", "p95", "p99"))
            lines.append(
                f"{label if kind == 'measured' else '':<16}{kind:<11}{mean:>9.1f}{p50:>8.1f}{p95:>8.1f}{p99:>8.1f}"
                f"{one['miss_rate']:>9.2%}{one['accuracy']:>10.3f}{one['reward_mean']:>9.3f}"
            )
        found = row["measured"]["accuracy_of_images"]
        seen = "not measured" if found is None else f"{found:.3f}"
        plans = ", ".join(f"{name} {count}" for name, count in sorted(row["measured"]["plans"].items(), key=lambda one: -one[1])[:3])
        lines.append(f"{'':<16}latency {row['latency_error']:+.1%}; on images {seen}; late {row['late']}; mostly {plans}")
    lines.append(f"by measured reward:  {' > '.join(result['ranking_measured'])}")
    lines.append(f"by simulated reward: {' > '.join(result['ranking_simulated'])}")
    return "\n".join(lines)

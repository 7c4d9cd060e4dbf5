"""The main job, end to end: measure, build the plan table, learn, evaluate, export, serve, split. Run by `make demo`."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec
import numpy as np
import torch

from cutlayer.agents import baselines, device_agent, evaluate, export, inputs, runs
from cutlayer.agents.episodes import HELD_OUT, TUNING
from cutlayer.agents.report import maps, panels
from cutlayer.agents.train import train
from cutlayer.envs import scenarios
from cutlayer.envs.streams import draw
from cutlayer.errors import CutlayerError
from cutlayer.files import write_atomic
from cutlayer.profiles import acceptance, accuracy, derived, graphs, images, load, measure, zoo
from cutlayer.profiles.plans import PlanTable
from cutlayer.runtime.client import Client
from cutlayer.runtime.split.run import Drive, Run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from cutlayer.agents.evaluate import Result
    from cutlayer.envs.spec import Scenario
    from cutlayer.profiles.zoo import MultiExit
    from cutlayer.runtime.messages import Decision, Outcome, Progress, Request
    from cutlayer.runtime.policy import Mlp

MODEL = "alexnet"


@dataclasses.dataclass(frozen=True, slots=True)
class Size:
    """How much of everything; the defaults are the demo's."""

    runs: int = 60  # of the profiler
    accuracy_images: int = 1_000  # of the held-out images: +-2.5 % at 95 %, 15 s
    steps: int | None = None  # of training; None is the recipe's own number
    episodes: int = 40  # held out: 8,000 requests resolve a miss rate of 0.1 %
    decisions: int = 2_000
    split_images: int = 100


class Stage:
    """Tells what is being done, how far it is, and how long it took."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[Callable[[float], None]]:
        """A stage of that name; what it yields takes the share done."""
        start, shown = time.monotonic(), -1

        def progress(share: float) -> None:
            nonlocal shown
            percent = int(100 * share)
            if self._live and percent != shown:
                shown = percent
                bar = "#" * (percent // 5)
                print(f"\r{name:<34} [{bar:<20}] {percent:3d} %", end="", file=sys.stderr, flush=True)

        yield progress
        clear = "\r\x1b[2K" if self._live else ""
        print(f"{clear}{name:<34} {time.monotonic() - start:6.1f} s", file=sys.stderr, flush=True)


def demo(folder: Path, seed: int = 0, size: Size = Size()) -> dict[str, Any]:
    """Run every stage, write `summary.json`, tables, bundle and figure into `folder`; return the summary.

    Raises:
        CutlayerError: a stage failed; the message says which part is wrong.
    """
    started = time.monotonic()
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    stage = Stage()
    found = inputs.find(size.accuracy_images)
    print(f"traces: {found.traces}\nimages: {found.images_source}", file=sys.stderr)

    network = zoo.build(MODEL)
    plans = _measure(network, found, folder, stage, size.runs)
    base = scenarios.camera(plans, found.test_channel, inputs=found.traces)
    # Policies and rules are tuned on other drives than they are tested on.
    tuning = dataclasses.replace(base, channel=found.train_channel)

    networks = {}
    for algorithm in ("ppo", "sac-d"):
        shutil.rmtree(folder / algorithm, ignore_errors=True)  # a former demo's, whose plan table was measured at another time
        with stage(f"train {algorithm}") as progress:
            train(tuning, algorithm, seed, folder / algorithm, steps=size.steps, report=progress)
        networks[algorithm] = export.network(export.load_run(folder / algorithm)[0])
    with stage("choose what ships, tune the rules"):
        scores = {name: evaluate.evaluate(tuning, evaluate.Learned(net), TUNING).reward.mean() for name, net in networks.items()}
        static = baselines.best_static(tuning, TUNING)
    held_out = range(HELD_OUT, HELD_OUT + size.episodes)
    shipped = max(scores, key=lambda name: scores[name])

    results = _evaluate(base, networks, static, stage, held_out)
    table = {name: _row(result) for name, result in results.items()}
    with stage("draw the policy map") as progress:
        mapped: dict[str, evaluate.Policy] = {"greedy-ewma": baselines.greedy_ewma(base), "clairvoyant": maps.clairvoyant(base)}
        mapped |= {name: evaluate.Learned(net) for name, net in networks.items()}
        panels.save_png(panels.map_panel(maps.survey(base, mapped, report=progress)), folder / "policy_map.png")
    with stage(f"export {shipped}"):
        export.export(folder / shipped, folder / "policy.cutlayer", tuning)
        write_atomic(folder / "plans.json", plans.encode())
    with stage("serve decisions"), daemon(folder, "--clock", "clients") as socket:
        served = serve(base, socket, seed, size.decisions)
    with stage("export graphs"):
        graphs.export(network, folder / "graphs")
    with stage("split real inference"):
        split = _split(network, base, found, folder, seed, size.split_images)

    summary: dict[str, Any] = {
        "inputs": {"images": found.images_source, "traces": found.traces},
        "policies": table,
        "daemon": served,
        "split": split,
        "run": {
            **runs.manifest(base, {"training": seed, "held_out": [held_out.start, held_out.stop]}),
            "shipped": shipped,
            "seconds": time.monotonic() - started,
        },
    }
    runs.write(folder, "summary.json", summary)
    runs.write(folder, "run.json", summary["run"])
    return summary


def _measure(network: MultiExit, found: inputs.Inputs, folder: Path, stage: Stage, runs: int) -> PlanTable:
    """Profile this machine as the edge, derive the device, measure or read the accuracy, build the plan table."""
    with stage("measure layers on this machine") as progress:
        edge = measure.measure(network, runs=runs, device_name="this-machine", progress=progress)
        device = derived.raspberry_pi_4(edge)
        load.save(edge, folder / "profile-edge.json")
        load.save(device, folder / "profile-device.json")
    if acceptance.noisy(edge):
        print("note: this machine was busy while it was measured (wall/CPU above 1.15); CPU times are used", file=sys.stderr)
    if found.images is None:
        table = load.accuracy(f"{MODEL}-accuracy")
        print(f"accuracy: from the shipped table, measured on {table.images} images of {table.source}", file=sys.stderr)
    else:
        with stage("measure accuracy of every plan") as progress:
            table = accuracy.measure(network, found.images, progress=progress)
            load.save(table, folder / "accuracy.json")
    with stage("build the plan table"):
        plans = PlanTable.build(device, edge, table)
    print(f"{len(plans)} plans: {plans.device} (derived: {device.provenance.ratio_source}) with {plans.edge} as edge", file=sys.stderr)
    return plans


def _evaluate(scenario: Scenario, networks: dict[str, Mlp], static: baselines.Fixed, stage: Stage, episodes: range) -> dict[str, Result]:
    policies: dict[str, evaluate.Policy] = {
        "device-only": baselines.Fixed(scenario.plans.device_only()),
        "edge-only": baselines.Fixed(scenario.plans.edge_only()),
        "best-static": static,
        "greedy-ewma": baselines.greedy_ewma(scenario),
        **{name: evaluate.Learned(network) for name, network in networks.items()},
    }
    results = {}
    with stage("evaluate on held-out episodes") as progress:
        for i, (name, policy) in enumerate(policies.items()):
            results[name] = evaluate.evaluate(scenario, policy, episodes)
            progress((i + 1) / (len(policies) + 3))
        results["clairvoyant"] = evaluate.evaluate_clairvoyant(scenario, episodes, list(results.values()))
    return results


def _row(result: Result) -> dict[str, object]:
    keys = ("reward_mean", "latency_p50_s", "latency_p95_s", "latency_p99_s", "miss_rate", "accuracy", "energy_j")
    summary = result.summary()
    return {key: summary[key] for key in keys}


@contextlib.contextmanager
def process(arguments: list[str]) -> Iterator[dict[str, Any]]:
    """A server in its own process: what it printed when it was ready; ended with SIGTERM."""
    child = subprocess.Popen([sys.executable, "-m", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)  # noqa: S603 - our own modules
    try:
        assert child.stdout is not None
        said = {"event": "start"}  # the daemon says that it begins before it says that it is ready
        while said.get("event") == "start":
            line = child.stdout.readline()
            if not line:
                _, errors = child.communicate()
                _failed(arguments[0], errors)
            said = json.loads(line)
        yield said
    finally:
        child.terminate()
        child.communicate(timeout=30)


def _failed(what: str, errors: str) -> NoReturn:
    lines = errors.strip().splitlines() or ["it said nothing"]
    raise CutlayerError(f"{what} did not start: {lines[-1]}")


@contextlib.contextmanager
def daemon(folder: Path, *options: str) -> Iterator[Path]:
    """`cutlayerd` with the folder's bundle; yields its socket."""
    socket = folder / "cutlayerd.sock"
    with process(["cutlayer.runtime.daemon", "--bundle", str(folder / "policy.cutlayer"), "--socket", str(socket), *options]):
        yield socket


class Served:
    """A daemon that is asked in simulated time; took_s: how long each decision took to come back."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.took_s: list[float] = []

    def decide(self, at_s: float, request: Request) -> Decision:
        """See `device_agent.Decider`."""
        start = time.perf_counter()
        decision = self._client.ask(request, at_s)
        self.took_s.append(time.perf_counter() - start)
        return decision

    def progress(self, at_s: float, progress: Progress) -> None:
        """See `device_agent.Decider`."""
        self._client.progress(progress, at_s)

    def report(self, at_s: float, outcome: Outcome) -> None:
        """See `device_agent.Decider`."""
        self._client.report(outcome, at_s)


def serve(scenario: Scenario, socket: Path, seed: int, decisions: int) -> dict[str, object]:
    """Let the daemon decide one long episode of the simulator, and tell it over the socket all that its device would."""
    long = dataclasses.replace(scenario, requests=decisions)
    with Client(socket) as client:
        served = Served(client)
        episode = device_agent.drive(long, draw(long, HELD_OUT + 10_000 + seed), served)
        missed = sum(record.latency_s > scenario.objective.deadline_s for _, record in episode)
        status = client.status()
    p50, p99 = (float(x) for x in np.percentile(served.took_s, [50, 99]))
    return {
        "decisions": status["decisions"], "p50_s": p50, "p99_s": p99, "miss_rate": missed / decisions,
        "fallbacks": status["fallbacks"], "reasons": status["reasons"],
    }  # fmt: skip


def _split(network: MultiExit, scenario: Scenario, found: inputs.Inputs, folder: Path, seed: int, count: int) -> dict[str, object]:
    """A device process and an edge process split real inference as the daemon decides; compare with the unsplit network."""
    pictures = found.images if found.images is not None else images.generated(count, seed)
    pictures = pictures.head(count)
    pixels = pictures.resized(network.input_shape[1])
    streams = draw(scenario, HELD_OUT + 20_000 + seed)
    np.save(folder / "split-images.npy", pixels)
    drive = Drive(streams.rate_bps.tolist(), streams.slow_down.tolist(), streams.slot_s)
    write_atomic(folder / "split-drive.json", msgspec.json.encode(drive))
    deadline_s = scenario.objective.deadline_s
    with daemon(folder) as socket, process(["cutlayer.runtime.split.edge", "--graphs", str(folder / "graphs")]) as edge:
        arguments = [
            "--graphs", str(folder / "graphs"), "--plans", str(folder / "plans.json"), "--socket", str(socket),
            "--edge", f"{edge['host']}:{edge['port']}", "--images", str(folder / "split-images.npy"),
            "--drive",
            str(folder / "split-drive.json"),
            "--deadline", str(deadline_s), "--out", str(folder / "split.json"),
        ]  # fmt: skip
        done = subprocess.run([sys.executable, "-m", "cutlayer.runtime.split.run", *arguments], capture_output=True, text=True, check=False)  # noqa: S603 - our own module
        if done.returncode:
            _failed("the device process", done.stderr)
    requests = msgspec.json.decode((folder / "split.json").read_bytes(), type=list[Run])
    with torch.inference_mode():
        x = torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()).float()
        whole = np.array([logits.argmax(1).numpy() for logits in network(x)])
    unsplit = np.array([whole[r.exact_exit, i] for i, r in enumerate(requests)])
    exact = np.array([r.exact_predicted for r in requests])
    summary: dict[str, object] = {
        "requests": len(requests),
        "agree_with_unsplit": int((exact == unsplit).sum()),
        "agree_as_decided": int(sum(r.predicted == whole[r.exit, i] for i, r in enumerate(requests))),
        "correct": None
        if found.images is None
        else int(sum(r.predicted == label for r, label in zip(requests, pictures.labels, strict=True))),
        "latency_p50_s": float(np.median([r.latency_s for r in requests])),
        "in_time": int(sum(r.latency_s <= deadline_s for r in requests)),
        "answered_by": {kind: sum(r.status == kind for r in requests) for kind in ("device", "edge", "fallback")},
        "plans": {scenario.plans.name(plan): sum(r.plan == plan for r in requests) for plan in sorted({r.plan for r in requests})},
    }
    return summary


def table(summary: dict[str, Any]) -> str:
    """The summary as text for a terminal."""
    lines = [f"{'policy':<13}{'reward':>8}{'accuracy':>10}{'missed':>9}{'p50 ms':>9}{'p95 ms':>9}{'p99 ms':>9}{'joule':>8}"]
    for name, row in sorted(summary["policies"].items(), key=lambda item: item[1]["reward_mean"]):
        lines.append(
            f"{name:<13}{row['reward_mean']:>8.3f}{row['accuracy']:>10.3f}{row['miss_rate']:>9.2%}{1e3 * row['latency_p50_s']:>9.1f}"
            f"{1e3 * row['latency_p95_s']:>9.1f}{1e3 * row['latency_p99_s']:>9.1f}{row['energy_j']:>8.4f}"
        )
    served, split = summary["daemon"], summary["split"]
    correct = "" if split["correct"] is None else f", {split['correct']} right"
    us, ms = 1e6, 1e3
    p50, p99 = us * served["p50_s"], us * served["p99_s"]
    lines.append(f"\ndaemon: {served['decisions']} decisions, p50 {p50:.0f} us, p99 {p99:.0f} us, {served['fallbacks']} fallbacks")
    same, median = split["agree_with_unsplit"], ms * split["latency_p50_s"]
    lines.append(f"split:  {split['requests']} images, {same} equal to the unsplit network at 32 bits{correct}, p50 {median:.1f} ms")
    return "\n".join(lines)

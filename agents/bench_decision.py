"""What a decision costs on this machine: in process by every form of the policy, in C, and by the library that trained it; and what
the daemon weighs.

Times of single calls by the wall clock, as a device would wait for them: on a busy machine the median is worth more than the tail.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3 import PPO

from cutlayer import __version__
from cutlayer.agents import agreement, c_export, runs
from cutlayer.envs import scenarios
from cutlayer.envs.kernel import Kernel
from cutlayer.envs.record import Record, Status
from cutlayer.envs.streams import draw
from cutlayer.errors import CutlayerError
from cutlayer.runtime import features
from cutlayer.runtime.bundle import Bundle, Golden
from cutlayer.runtime.client import Client
from cutlayer.runtime.controller import Controller, Outcome, Request
from cutlayer.runtime.policy import Mlp, Tree

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from cutlayer.envs.spec import Scenario
    from cutlayer.runtime.policy import Form, Policy

HIDDEN = (64, 64)  # of every network that ships
DECISIONS = 10_000  # the 99th percentile then has a hundred calls above it
WARM_UP = 500
LEAVES = 256
STARTS = 5  # of a fresh process; the median is reported
C_CALLS = 200_000

# Times single calls: observations from stdin, then the median and the 99th percentile in seconds.
_DRIVER = """\
#define _POSIX_C_SOURCE 199309L
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include "{header}"

static float observations[{rows}][CUTLAYER_FEATURES];
static double took_s[{calls}];

static int later(const void *a, const void *b)
{{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}}

int main(void)
{{
    struct timespec from, to;
    volatile int plan;
    long i;

    if (fread(observations, sizeof observations, 1, stdin) != 1)
        return 1;
    for (i = 0; i < {calls}; i++) {{
        clock_gettime(CLOCK_MONOTONIC, &from);
        plan = cutlayer_choose(observations[i % {rows}]);
        clock_gettime(CLOCK_MONOTONIC, &to);
        took_s[i] = (double)(to.tv_sec - from.tv_sec) + 1e-9 * (double)(to.tv_nsec - from.tv_nsec);
    }}
    (void)plan;
    qsort(took_s, {calls}, sizeof took_s[0], later);
    printf("[%.9f, %.9f]\\n", took_s[{calls} / 2], took_s[{calls} / 100 * 99]);
    return 0;
}}
"""


def run() -> dict[str, Any]:
    """All figures.

    numpy_*, onnxruntime_*: `Controller.decide`, that is telemetry, features, guard, policy and expected latency, and the share of
    decisions that the policy took (the others cost more). *_policy_*: the policy alone. c_*: one call in a loop in C, compiled with
    -O3; None without a C compiler. sb3_predict_*: `PPO.predict` with a network of that size. import_s, ready_s: of a fresh process,
    until the daemon's module is loaded, and until the daemon says that it is ready; rss_bytes: what is resident then (Linux).
    """
    torch.set_num_threads(1)
    scenario = scenarios.make("camera")
    bundle = random_bundle(scenario)
    observations = agreement.observations(bundle.policy.inputs, DECISIONS)
    forms: dict[Form, Policy] = {name: bundle.form(name) for name in ("numpy", "onnxruntime", "tree")}
    found: dict[str, Any] = {}
    for name in ("numpy", "onnxruntime"):
        controller = Controller(bundle, policy=forms[name])
        found |= _percentiles(name, _decide(controller, scenario))
        found[f"{name}_by_policy"] = controller.counts.steps["policy"] / controller.counts.decisions
    for name, form in forms.items():
        found |= _percentiles(f"{name}_policy", _each(form.choose, observations))
    found |= _in_c(bundle, observations)
    model = PPO("MlpPolicy", gym.make("cutlayer/Offload-v0", scenario=scenario), policy_kwargs={"net_arch": list(HIDDEN)}, device="cpu")
    found |= _percentiles("sb3_predict", _each(lambda one: model.predict(one, deterministic=True), observations[:2_000]))
    return {**found, **_daemon(bundle), "run": runs.manifest(scenario, {"weights": 0})}


def random_bundle(scenario: Scenario) -> Bundle:
    """A network of the size that ships, of random weights but with a bent for light plans, so that the world stays usable; and a tree."""
    plans, rng = scenario.plans, np.random.default_rng(0)
    sizes = (features.size(scenario.blocks), *HIDDEN, len(plans))
    heavy = (plans.device_s + plans.encode_s) / scenario.objective.deadline_s + plans.wire_bytes / plans.wire_bytes.max()
    biases = (*map(np.zeros, HIDDEN), -3.0 * heavy)
    weights = (rng.normal(0.0, inputs**-0.5, (outputs, inputs)) for inputs, outputs in itertools.pairwise(sizes))
    policy = Mlp([(w.astype(np.float32), b.astype(np.float32)) for w, b in zip(weights, biases, strict=True)], "tanh")
    observations = agreement.observations(policy.inputs, 32)
    golden = Golden(observations.tolist(), agreement.plans(policy, observations).tolist())
    return Bundle(
        scenario.name, "random", plans, scenario.path, scenario.objective, policy, golden, {}, scenario.blocks, tree=_tree(rng, policy)
    )  # fmt: skip


def _tree(rng: np.random.Generator, policy: Mlp) -> Tree:
    """A full tree of random questions: as many leaves as `cutlayer export --tree` makes."""
    inner = LEAVES - 1
    nodes = range(inner + LEAVES)
    return Tree(
        feature=(*rng.integers(policy.inputs, size=inner).tolist(), *[-1] * LEAVES),
        threshold=(*rng.uniform(features.LOW, features.HIGH, inner).tolist(), *[0.0] * LEAVES),
        yes=tuple(2 * node + 1 if node < inner else 0 for node in nodes),
        no=tuple(2 * node + 2 if node < inner else 0 for node in nodes),
        plan=tuple(rng.integers(policy.outputs, size=len(nodes)).tolist()),
    )


def _decide(controller: Controller, scenario: Scenario) -> NDArray[np.float64]:
    """Seconds of each decision, while the simulator plays the world, in one stream, and every outcome is reported when it is known."""
    scenario = dataclasses.replace(scenario, requests=WARM_UP + DECISIONS)
    streams = draw(scenario, 0)
    world, took, pending = Kernel(scenario, streams), np.empty(scenario.requests), deque[tuple[int, Record]]()
    for number, arrival_s in enumerate(streams.arrival_s[: scenario.requests].tolist()):
        while pending and pending[0][1].finish_s <= arrival_s:
            _report(controller, *pending.popleft())
        request = Request(id=number)
        start_s = time.perf_counter()
        decision = controller.decide(arrival_s, request)
        took[number] = time.perf_counter() - start_s
        pending.append((number, world.submit(decision.plan)))
    for one in pending:
        _report(controller, *one)
    return took[WARM_UP:]


def _report(controller: Controller, number: int, record: Record) -> None:
    outcome = Outcome(
        id=number,
        plan=record.plan,
        device_start_s=record.device_start_s,
        device_s=record.device_end_s - record.device_start_s,
        send_start_s=record.send_start_s,
        send_s=record.send_end_s - record.send_start_s,
        sent_bytes=record.sent_bytes,
        edge_wait_s=record.edge_wait_s if record.status is Status.EDGE else -1.0,
        latency_s=record.latency_s,
    )
    controller.report(record.finish_s, outcome)


def _each(call: Callable[[NDArray[np.float32]], object], observations: NDArray[np.float32]) -> NDArray[np.float64]:
    took = np.empty(len(observations))
    for one in observations[:WARM_UP]:
        call(one)
    for i, one in enumerate(observations):
        start_s = time.perf_counter()
        call(one)
        took[i] = time.perf_counter() - start_s
    return took


def _percentiles(name: str, took_s: NDArray[np.float64]) -> dict[str, float]:
    p50, p99 = (float(x) for x in np.percentile(took_s, [50, 99]))
    return {f"{name}_p50_s": p50, f"{name}_p99_s": p99}


def _in_c(bundle: Bundle, observations: NDArray[np.float32]) -> dict[str, float | None]:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return {"c_p50_s": None, "c_p99_s": None}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        c_export.write(bundle, folder)
        (folder / "main.c").write_text(_DRIVER.format(header=c_export.HEADER, rows=len(observations), calls=C_CALLS), encoding="utf-8")
        program = folder / "main"
        subprocess.run([compiler, "-std=c99", "-O3", "-o", program, folder / "main.c", folder / c_export.SOURCE], check=True)  # noqa: S603 - our own source
        done = subprocess.run([program], input=observations.tobytes(), capture_output=True, check=True)  # noqa: S603 - just compiled
    p50, p99 = json.loads(done.stdout)
    return {"c_p50_s": p50, "c_p99_s": p99}


def _daemon(bundle: Bundle) -> dict[str, float | int | None]:
    """Of fresh processes, the median over some; memory once a request was decided."""
    code = "import time; t = time.perf_counter(); import cutlayer.runtime.daemon; print(time.perf_counter() - t)"
    imports = [float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout) for _ in range(STARTS)]  # noqa: S603 - our own module
    with tempfile.TemporaryDirectory() as name:
        file, socket = Path(name) / "policy.cutlayer", Path(name) / "cutlayerd.sock"
        bundle.save(file, __version__)
        started = [_start(file, socket) for _ in range(STARTS)]
    ready_s, resident = zip(*started, strict=True)
    return {"import_s": statistics.median(imports), "ready_s": statistics.median(ready_s), "rss_bytes": resident[-1]}


def _start(file: Path, socket: Path) -> tuple[float, int | None]:
    """Seconds until a daemon said that it is ready, and its resident bytes after a decision."""
    start_s = time.perf_counter()
    command = [sys.executable, "-m", "cutlayer.runtime.daemon", "--bundle", str(file), "--socket", str(socket)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:  # noqa: S603 - our own module
        try:
            assert child.stdout is not None
            if not any('"ready"' in line for line in child.stdout):
                lines = child.communicate()[1].strip().splitlines()
                raise CutlayerError(f"cutlayerd did not start: {lines[-1] if lines else 'it said nothing'}")
            ready_s = time.perf_counter() - start_s
            with Client(socket) as client:
                client.decide(1)
            return ready_s, resident_bytes(child.pid)
        finally:
            child.terminate()
            child.communicate(timeout=30)


def resident_bytes(process: int) -> int | None:
    """What a process has in memory now (Linux); None where that is not told."""
    status = Path(f"/proc/{process}/status")
    if not status.exists():
        return None
    (line,) = (line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024

"""Hold the cost model to account: predicted latency of a request against real split inference over an emulated link.

Every configuration is a network, a plan, a link and a slow-down of the device. Prefix and suffix run for real in two processes,
each on a core of its own; the slow device is emulated by padding its work to the profiled time. What is predicted comes from
`profiles.cost`, the formulas of the simulator, and a table measured on this machine a moment before. One constant, c0, is fitted on
a part of the configurations; the errors reported are those of the rest.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np

from cutlayer.errors import ConfigError
from cutlayer.profiles import acceptance, cost, derived, load
from cutlayer.profiles.plans import PlanTable
from cutlayer.runtime.testbed.link import BACKENDS, unavailable
from cutlayer.runtime.testbed.others import MOST, Others
from cutlayer.runtime.testbed.pipe import Conditions
from cutlayer.runtime.testbed.worker import Measured, Trial

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from cutlayer.profiles.rows import PlanRow
    from cutlayer.profiles.schema import ModelProfile
    from cutlayer.runtime.testbed.link import Link

MODELS = ("alexnet", "resnet20")  # one of few large layers, one of many small ones


class LinkSetting(NamedTuple):
    """Rate of the uplink and round trip; the downlink has the same rate."""

    rate_bps: float
    rtt_s: float


LINKS = (
    LinkSetting(5e6, 0.010),
    LinkSetting(20e6, 0.010),
    LinkSetting(100e6, 0.004),
)  # slow LTE, LTE, good 5G: our choice, one decade and a half
SLOW_DOWNS = (1.0, 8.0)  # this machine itself, and about a Raspberry Pi 4
BITS = (8, 4, 2)
REQUESTS, WARM = 14, 3  # of a configuration, and how many of them are not counted: the first ones fill TCP's window
GAP_S = 0.03  # between requests: as between the runs of a profile, so that both begin from idle
DEADLINE_S = 10.0  # nothing is given up: what is measured is how long it takes
HELD_OUT_SHARE = 1 / 3
PROFILE_RUNS = 100


@dataclass(frozen=True, slots=True)
class Configuration:
    """One thing that was both predicted and measured."""

    model: str
    plan: str
    setting: LinkSetting
    slow_down: float
    predicted_s: float  # without c0
    naive_s: float
    measured_s: float  # median
    late: int  # requests in which the device was slower than what it was padded to


def cuts(depth: int, deepest: int) -> list[int]:
    """Partition points to try: the input itself, the first cuts, one in the middle, one near the end."""
    return sorted({cut for cut in (0, 1, 2, depth // 2, deepest) if cut <= depth})


def naive_s(row: PlanRow, setting: LinkSetting) -> float:
    """The formula of the papers: device work, payload over rate, round trip, edge work. No headers, no coding, no constant."""
    return float(row.device_s + 8 * row.payload_bytes / setting.rate_bps + setting.rtt_s + row.edge_s)


def predicted_s(plans: PlanTable, setting: LinkSetting) -> NDArray[np.float64]:
    """Latency of every plan by the simulator's formulas, without the constant; `plans` are those of the slowed device."""
    path = cost.Path(setting.rtt_s, downlink_bps=setting.rate_bps, fixed_s=0.0)
    return cost.expected_latency_s(plans, path, cost.Estimate(setting.rate_bps))


def python(module: str, *arguments: str) -> list[str]:
    """The command that runs a module of this package."""
    return [sys.executable, "-m", module, *arguments]


@contextlib.contextmanager
def running(command: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is talked to by lines; it ends with the block."""
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # noqa: S603 - this very package
    try:
        yield child
    finally:
        child.terminate()
        child.communicate(timeout=30)


def line(child: subprocess.Popen[bytes]) -> bytes:
    """The next line that a process prints.

    Raises:
        ConfigError: it ended instead.
    """
    assert child.stdout is not None
    said = child.stdout.readline()
    if not said:
        raise ConfigError(f"a process of the testbed ended with code {child.wait()}; its words stand on stderr")
    return said


class Bench:
    """Device and edge of one network at the ends of a link, ready to be asked."""

    def __init__(self, link: Link, device: subprocess.Popen[bytes]) -> None:
        self._link, self._device = link, device

    def measure(self, trial: Trial, setting: LinkSetting) -> Measured:
        """Run a trial over a link of that setting."""
        way = Conditions(setting.rate_bps, setting.rtt_s / 2)
        self._link.set(up=way, down=way)
        assert self._device.stdin is not None
        self._device.stdin.write(msgspec.json.encode(trial) + b"\n")
        self._device.stdin.flush()
        return msgspec.json.decode(line(self._device), type=Measured)


@contextlib.contextmanager
def bench(backend: str, graphs: Path) -> Iterator[Bench]:
    """An edge server and a device over a new link; they end with the block."""
    with BACKENDS[backend]() as link:
        # Nobody but the two ends reaches the link's addresses.
        serve = python("cutlayer.runtime.split.edge", "--graphs", str(graphs), "--host", link.edge_host, "--insecure")
        with running(link.on_edge(serve)) as edge:
            host, port = link.reach(int(json.loads(line(edge))["port"]))
            work = python("cutlayer.runtime.testbed.worker", str(graphs), host, str(port))
            with running(link.on_device(work)) as device:
                line(device)
                yield Bench(link, device)


def _sweep(plans: dict[float, PlanTable], settings: Sequence[LinkSetting]) -> list[tuple[float, LinkSetting, int]]:
    """(slow-down, link, plan index) of a network's configurations: the last exit over all cuts and bits, exit 0 at its first cuts."""
    found = []
    for slow_down, setting in itertools.product(plans, settings):
        table = plans[slow_down]
        last = len(table.depths) - 1
        for exit_ in (0, last):
            for cut in cuts(table.depths[exit_], table.depths[last] - 1):
                widths = BITS if cut and exit_ == last else BITS[:1]
                found += [(slow_down, setting, table.index(exit_, cut, bits)) for bits in widths]
    return found


def _model(name: str, backend: str, tell: Callable[[float], None]) -> tuple[list[Configuration], ModelProfile]:
    """Every configuration of a network, and its table, measured right before."""
    import torch

    from cutlayer.profiles import cuts as networks
    from cutlayer.profiles import graphs, measure_onnx

    torch.set_num_threads(1)
    network = networks.resolve(name, None)
    table = measure_onnx.measure(network, runs=PROFILE_RUNS, device_name="this-machine", progress=lambda share: tell(0.2 * share))
    accuracy = load.accuracy(f"{name}-accuracy")
    plans = {f: PlanTable.build(derived.slower(table, f"padded x{f:g}", f, "padding"), table, accuracy, bits=BITS) for f in SLOW_DOWNS}
    configurations = []
    with tempfile.TemporaryDirectory(prefix="cutlayer-") as folder:
        graphs.export(network, Path(folder) / "graphs")
        with bench(backend, Path(folder) / "graphs") as asked:
            todo = _sweep(plans, LINKS)
            for i, (slow_down, setting, plan) in enumerate(todo):
                row = plans[slow_down].rows[plan]
                pad_s = row.device_s + row.encode_s if slow_down > 1.0 and row.partition > 0 else 0.0
                trial = Trial(row.exit, row.partition, row.bits or 8, REQUESTS, pad_s, GAP_S, DEADLINE_S)
                measured = asked.measure(trial, setting)
                wrong = [status for status in measured.status if status != "edge"]
                if wrong:
                    raise ConfigError(f"{len(wrong)} of {REQUESTS} requests of {plans[slow_down].name(plan)} were not answered by the edge")
                configurations.append(
                    Configuration(
                        name, plans[slow_down].name(plan), setting, slow_down,
                        float(predicted_s(plans[slow_down], setting)[plan]), naive_s(row, setting),
                        float(np.median(measured.latency_s[WARM:])), sum(late > 0.0 for late in measured.late_s[WARM:]),
                    )
                )  # fmt: skip
                tell(0.2 + 0.8 * (i + 1) / len(todo))
    return configurations, table


def judge(configurations: Sequence[Configuration], seed: int) -> dict[str, Any]:
    """Fit c0 on a part, chosen by the seed, and tell the errors on the rest.

    mape: mean absolute relative error; bias: mean relative error, negative where the prediction is too low; p95_error of the former.
    """
    held = set(np.random.default_rng(seed).permutation(len(configurations))[: math.ceil(HELD_OUT_SHARE * len(configurations))].tolist())
    measured, predicted, naive = (
        np.array([getattr(one, name) for one in configurations]) for name in ("measured_s", "predicted_s", "naive_s")
    )
    out = np.array([i in held for i in range(len(configurations))])
    c0_s = float(np.median((measured - predicted)[~out]))
    error = (predicted + c0_s - measured)[out] / measured[out]
    naive_error = (naive - measured)[out] / measured[out]
    return {
        "configurations": len(configurations),
        "held_out_configurations": int(out.sum()),
        "mape": float(np.abs(error).mean()),
        "bias": float(error.mean()),
        "p95_error": float(np.percentile(np.abs(error), 95)),
        "c0_s": c0_s,
        "naive_mape": float(np.abs(naive_error).mean()),
        "naive_bias": float(naive_error.mean()),
    }


def calibrate(
    backend: str, models: Sequence[str] = MODELS, seed: int = 0, progress: Callable[[float], None] = lambda _: None
) -> dict[str, Any]:
    """Measure every configuration and judge the model by them; keys as `cutlayer testbed calibrate --json` prints them.

    quiet: whether others took no more of the processor than an idle system does, and wall time stayed by CPU time in the
    profiles; else no figure here judges anything.

    Raises:
        ConfigError: the backend does not work here, or a process of the testbed failed.
    """
    if reason := unavailable(backend):
        raise ConfigError(f"backend {backend}: {reason}")
    configurations: list[Configuration] = []
    noise, others = 0.0, Others()
    for i, model in enumerate(models):
        done, table = _model(model, backend, lambda share, i=i: progress((i + share) / len(models)))  # type: ignore[misc]  # binds i
        configurations += done
        noise = max(noise, acceptance.noise(table))
    share = others.share()
    return {
        "backend": backend,
        **judge(configurations, seed),
        "quiet": share <= MOST and noise <= acceptance.NOISY_RATIO,
        "others": share,
        "wall_over_cpu": noise,
        "late": sum(one.late for one in configurations),
        "measured": [msgspec.to_builtins(one) for one in configurations],
    }

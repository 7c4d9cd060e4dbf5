"""Figures; matplotlib is imported here only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cutlayer.runtime import features
from cutlayer.runtime import telemetry as tm
from cutlayer.runtime.rules import Greedy, estimate

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from cutlayer.envs.spec import Scenario
    from cutlayer.runtime.policy import Mlp


def steady(rate_bps: float, slow_down: float, plans_bytes: float, gap_s: float, now_s: float = 10.0) -> list[float]:
    """Readings of a device whose last transfers and device work all went at this rate and slow-down; idle now."""
    readings = tm.fresh()
    tm.arrived(readings, now_s - 2 * gap_s)
    tm.arrived(readings, now_s - gap_s)
    for i in range(tm.RING_LENGTH, 0, -1):
        tm.sampled(readings, now_s - i * gap_s, 8 * plans_bytes / rate_bps, plans_bytes)
    tm.device_ended(readings, now_s - gap_s, 0.01, 0.01 * slow_down)
    tm.edge_waited(readings, now_s - gap_s, 0.0)
    tm.arrived(readings, now_s)
    return readings


def policy_map(scenario: Scenario, policies: dict[str, Mlp], file: Path) -> None:
    """Draw the plan that each policy and the greedy rule choose over uplink rate and slow-down of the device; PNG."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.patches import Patch

    rates, slow = np.logspace(5, 8, 61), np.linspace(1.0, 4.0, 31)
    gap_s = float(np.diff(scenario.arrivals.draw(np.random.default_rng(0), 3)).mean())
    scale = features.scales(scenario.plans, scenario.objective.deadline_s)
    greedy = Greedy(scenario.plans, scenario.path, scenario.objective)
    typical = float(np.median(scenario.plans.wire_bytes[scenario.plans.offloads]))
    maps: dict[str, NDArray[np.int64]] = {name: np.empty((len(slow), len(rates)), np.int64) for name in ("greedy-ewma", *policies)}
    out = [0.0] * features.SIZE
    for i, slow_down in enumerate(slow):
        for j, rate in enumerate(rates):
            readings = steady(rate, slow_down, typical, gap_s)
            maps["greedy-ewma"][i, j] = greedy.choose(estimate(readings, 10.0, 0.0))[0]
            features.encode(readings, scale, 10.0, 0.0, out)
            for name, policy in policies.items():
                maps[name][i, j] = policy.logits(np.array(out, np.float32)).argmax()
    # Most used plans get a colour of their own; the rest share grey.
    used, counts = np.unique(np.concatenate([m.ravel() for m in maps.values()]), return_counts=True)
    shown = used[np.argsort(-counts)][:12]
    colours = {int(plan): plt.colormaps["tab20"](k) for k, plan in enumerate(shown)}
    grey = (0.8, 0.8, 0.8, 1.0)
    figure, axes = plt.subplots(1, len(maps), figsize=(4.2 * len(maps), 4.6), sharey=True, layout="constrained")
    for axis, (name, plans) in zip(np.atleast_1d(axes), maps.items(), strict=True):
        image = np.array([[colours.get(int(plan), grey) for plan in line] for line in plans])
        axis.pcolormesh(rates / 1e6, slow, image, shading="nearest", rasterized=True)
        axis.set_xscale("log")
        axis.set_title(name)
        axis.set_xlabel("uplink rate (Mb/s)")
    np.atleast_1d(axes)[0].set_ylabel("slow-down of the device (1 = idle)")
    handles = [Patch(color=colours[int(plan)], label=scenario.plans.name(int(plan))) for plan in shown]
    if len(used) > len(shown):
        handles.append(Patch(color=grey, label="other"))
    figure.legend(handles=handles, loc="outside lower center", ncols=7, fontsize="small", frameon=False)
    figure.suptitle(
        f"Chosen plan, scenario {scenario.name}: e = exit, p = partition point, b = bits; local = device only, raw = input sent",
        fontsize="medium",
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)
    plt.close(figure)

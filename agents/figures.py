"""Figures of policies and plan tables; matplotlib is loaded when one is drawn."""

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
    from cutlayer.profiles.knobs import Report
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


# Okabe and Ito's colours, told apart with any colour vision; what is not cut has the same ones in both knobs.
_CUT = ("#E69F00", "#D55E00", "#CC79A7", "#F0E442", "#009E73", "#000000", "#882255", "#44AA99")
_WHOLE = {"input": "#0072B2", "raw": "#0072B2", "jpeg": "#56B4E9", "local": "#DDDDDD", "none": "#DDDDDD"}


def knob_figure(report: Report, file: Path) -> None:
    """Draw which exit, partition point and bit width is optimal over uplink rate and slow-down, on an idle and on a busy edge; PNG.

    And which codec, where the table has more than one for tensors.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.colors import to_rgba
    from matplotlib.patches import Patch
    from matplotlib.ticker import FuncFormatter, NullLocator

    from cutlayer.profiles import knobs

    titles = {"exit": "exit", "partition": "layers on the device", "bits": "bits of the tensor sent"}
    if not knobs.one_codec(report.plans):
        titles["codec"] = "codec of the tensor sent"
    rates, slow = np.array(report.sweep.rates_bps) / 1e6, np.array(report.sweep.slow_downs)
    names = knobs.values(report.plans)
    shown = (0, len(report.sweep.edge_loads) - 1)
    size = (11.0 / 3 * len(titles), 6.2)
    figure, axes = plt.subplots(len(shown), len(titles), figsize=size, sharex=True, sharey=True, layout="constrained")
    for column, (knob, title) in enumerate(titles.items()):
        offered = report.offered[knob]
        numbers = [value for value in offered if value not in _WHOLE]
        ramp = plt.colormaps["viridis"](np.linspace(0.95, 0.1, len(numbers)))
        colours = {value: to_rgba(_WHOLE[value]) for value in offered if value in _WHOLE}
        colours |= {value: to_rgba(ramp[i] if knob == "exit" else _CUT[i % len(_CUT)]) for i, value in enumerate(numbers)}
        of_plan = np.array([colours[value] for value in names[knob]])
        drawn = {value for value in offered if value in np.array(names[knob])[report.chosen[list(shown)]]}
        for row, load in enumerate(shown):
            axis = axes[row, column]
            axis.pcolormesh(rates, slow, of_plan[report.chosen[load]], shading="nearest", rasterized=True)
            axis.set_xscale("log")
            axis.set_yscale("log")
            axis.set_yticks([s for s in (1, 2, 4, 8, 16) if slow[0] <= s <= slow[-1]])
            axis.yaxis.set_minor_locator(NullLocator())
            for ticks in (axis.xaxis, axis.yaxis):
                ticks.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes[0, column].set_title(title)
        axes[-1, column].set_xlabel("uplink rate (Mb/s)")
        handles = [Patch(color=colours[value], label=value) for value in offered if value in drawn]
        axes[-1, column].legend(
            handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=min(6, len(handles)), fontsize="small", frameon=False,
            handlelength=1.2, columnspacing=1.2,
        )  # fmt: skip
    for row, load in enumerate(shown):
        axes[row, 0].set_ylabel(f"slow-down of the device\n(edge load {report.sweep.edge_loads[load]:g})")
    figure.suptitle(
        f"Optimal plan, table {report.name or report.plans.model}: deadline {1e3 * report.objective.deadline_s:.0f} ms, "
        f"round trip {1e3 * report.path.rtt_s:.0f} ms",
        fontsize="medium",
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)
    plt.close(figure)

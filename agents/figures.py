"""The figure of a plan table's knobs; matplotlib is loaded when it is drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    from cutlayer.profiles.knobs import Report


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

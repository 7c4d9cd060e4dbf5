# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 1. Profile a model and read the knob report
#
# A network with several exits can be stopped early, and cut in two: the first layers on a device, the rest on a server, the tensor between them sent with a few bits a value.
# cutlayer chooses all three for every image. Before anything is learned, one question: **which of these choices are ever worth taking?**
#
# This notebook measures a network on the machine it runs on, makes a table of every choice with its cost, and puts each knob to the question. It needs no network and no data.

# %%
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import FuncFormatter

from cutlayer.profiles import derived, knobs, load, measure, zoo
from cutlayer.profiles.cost import Estimate, Path, expected_latency_s
from cutlayer.profiles.plans import PlanTable

# %% [markdown]
# ## The network
#
# A 5-exit AlexNet on CIFAR-10 images, enlarged to 128 pixels as a camera's would be. *Layers* are the pieces between which it can be cut: exactly one tensor is live there. An exit is a head
# behind some of them.

# %%
network = zoo.build("alexnet")
for exit_, depth in enumerate(network.depths):
    print(f"exit {exit_}: answers after {depth} of {len(network.layers)} layers ({network.layer_names[depth - 1]})")

# %% [markdown]
# ## What each layer costs here
#
# Layers are timed while the whole chain runs, not each in a loop of its own, where it would find its weights in the cache. Every cut's encoding and decoding is timed too. Twenty runs will do for a look;
# the command `cutlayer profile measure alexnet -o mine.json` takes a hundred and keeps the table.

# %%
profile = measure.measure(network, runs=20, device_name="this-machine")
wall_over_cpu = sum(layer.time.wall.mean_s for layer in profile.layers) / sum(layer.time.cpu.mean_s for layer in profile.layers)
print(
    f"{profile.provenance.cpu}, {profile.provenance.backend}: wall time is {wall_over_cpu:.2f} times CPU time (over 1.15: this machine is busy)"
)

# %% [markdown]
# Two numbers of a layer matter: its time, and how many bytes come out of it. A good cut has little time before it and few bytes at it.

# %%
names = [layer.name for layer in profile.layers]
times_ms = [1e3 * layer.time.cpu.mean_s for layer in profile.layers]
kilobytes = [np.prod(layer.output_shape) * 4 / 1e3 for layer in profile.layers]

figure, (upper, lower) = plt.subplots(2, 1, figsize=(8, 5), sharex=True, layout="constrained")
upper.bar(names, times_ms, color="#0072B2")
upper.set_ylabel("CPU time (ms)")
upper.set_title("What each layer takes on this machine, and what comes out of it", loc="left")
lower.bar(names, kilobytes, color="#E69F00")
lower.axhline(np.prod(network.input_shape) / 1e3, color="black", linestyle="--", linewidth=1, label="the image itself, 8 bits a value")
lower.set(yscale="log", ylim=(0.5, 300))
lower.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
lower.set_ylabel("output as floats (kB)")
lower.set_xlabel("layer")
lower.legend(frameon=False)
plt.show()

# %% [markdown]
# ## Every plan in one table
#
# A *plan* is one valid choice of exit, partition point and bits. Three tables make the table of plans: the device's, the server's, and how often each choice is right, counted on images by really
# encoding and decoding each tensor. This machine plays the server. The device is derived from it by a published ratio of speeds, a Raspberry-Pi-4-class one, and the table says so. The accuracies ship
# with the network.

# %%
device = derived.raspberry_pi_4(profile)
accuracy = load.accuracy("alexnet-accuracy")
plans = PlanTable.build(device, profile, accuracy)
print(f"accuracy: counted on {accuracy.images} images of {accuracy.source}")
print(f"{len(plans)} plans; {len(plans.pruned())} are left without those that another beats in everything")
print(f"the device: {device.provenance.kind}, {device.provenance.time_ratio:.2f} times as slow as this machine")

# %% [markdown]
# The cost of a plan on an idle device, link and server is a formula of four terms: device, link, server, round trip. Drawn over the rate of the uplink, each plan is a curve; the
# lowest one that is accurate enough is the one to take. `e4 p1 4b` reads: exit 4, one layer on the device, 4 bits a value.

# %%
path = Path(rtt_s=0.01)
rates_bps = np.geomspace(0.3e6, 300e6, 200)
latency_s = np.array([expected_latency_s(plans, path, Estimate(rate)) for rate in rates_bps])  # (rates, plans)

figure, axis = plt.subplots(figsize=(8, 4.2), layout="constrained")
shown = [plans.device_only(0), plans.device_only(), plans.index(4, 0, 8), plans.index(4, 1, 4), plans.index(4, 2, 4)]
for plan, colour in zip(shown, ("#999999", "#000000", "#D55E00", "#0072B2", "#009E73"), strict=True):
    axis.plot(rates_bps / 1e6, 1e3 * latency_s[:, plan], color=colour, label=f"{plans.name(plan)} ({plans.accuracy[plan]:.1%} right)")
axis.set(xscale="log", yscale="log", xlabel="uplink rate (Mb/s)", ylabel="latency of one request (ms)", ylim=(5, 2_000))
for ticks in (axis.xaxis, axis.yaxis):
    ticks.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
axis.set_title("Five of the plans, device and server idle, round trip 10 ms", loc="left")
axis.legend(frameon=False, fontsize="small")
plt.show()

# %% [markdown]
# ## The knobs, put to the question
#
# The report sweeps what a policy will meet: uplink rates from 0.1 to 500 Mb/s, a device slowed up to eightfold by other programs, an edge busy with others' work. In each of those states it takes the best plan,
# and counts which values of each knob are ever part of it.

# %%
report = knobs.report(plans)
for knob, shares in report.share.items():
    print(f"{knob:10}", "  ".join(f"{value} {share:.1%}" for value, share in shares.items() if share >= knobs.COUNTS_FROM))
    never = [value for value, share in shares.items() if share < knobs.COUNTS_FROM]
    print(f"{'':10} hardly ever or never: {', '.join(never) or 'none'}")

# %% [markdown]
# Where is each of them the best? Of plans that are worth the same the one with fewer bytes is taken, so the lower half is plain: a device that is slowed less than about threefold has the time to
# answer by itself, at the last exit. Above it the link decides.

# %%
states = np.array(report.sweep.rates_bps) / 1e6, np.array(report.sweep.slow_downs)
values = knobs.values(report.plans)
figure, axes = plt.subplots(1, 3, figsize=(11, 4), sharey=True, layout="constrained")
for axis, (knob, title) in zip(
    axes, {"exit": "exit", "partition": "layers on the device", "bits": "bits of the tensor"}.items(), strict=True
):
    used = [value for value in report.offered[knob] if value in {values[knob][plan] for plan in report.chosen[0].ravel()}]
    number = np.array([used.index(value) if value in used else -1 for value in values[knob]])
    colours = plt.colormaps["viridis"].resampled(len(used))
    axis.pcolormesh(*states, number[report.chosen[0]], cmap=colours, vmin=-0.5, vmax=len(used) - 0.5, shading="nearest", rasterized=True)
    handles = [plt.Rectangle((0, 0), 1, 1, color=colours(i)) for i in range(len(used))]
    axis.legend(handles, used, loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=4, frameon=False, fontsize="small")
    axis.set(xscale="log", yscale="log", xlabel="uplink rate (Mb/s)", title=f"{title}, server idle")
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
axes[0].set_yticks([1, 2, 4, 8], ["1", "2", "4", "8"])
axes[0].minorticks_off()
axes[0].set_ylabel("slow-down of the device (times)")
plt.show()

# %% [markdown]
# And what is it worth to have them? The report freezes one knob at its best constant value and asks how much mean reward the other two lose. Reward is the accuracy of an answer in time, and −1 for a late one.

# %%
print(f"mean reward with all knobs: {report.reward:.4f}")
for pair in report.pairs:
    print(f"  {pair.frozen:9} frozen at {pair.value:6} {pair.reward:.4f}, so freeing it is worth {pair.gain:.4f}")
print(f"interior cuts are worth {report.interior_gain:.4f}")

# %% [markdown]
# Read it soberly: a cut between layers is worth little here, because the image may be sent as it is. Where it may be sent as a JPEG such cuts are worth nothing, and where it may not be sent at all about
# ten times as much (`docs/design.md` has the figures). That is why the question comes before the learning: with knobs that are worth nothing every policy looks alike.
#
# ## What to try next
#
# - The other tables that ship: `cutlayer profile check jpeg`, `privacy`, `bottleneck`, and `--figure knobs.png` to draw them.
# - Another network: `zoo.build("resnet8")` with `load.accuracy("resnet8-accuracy")`. Or your own: notebook 3.
# - `PlanTable.build(..., allow_raw=False)`: no plan may send the image. What are interior cuts worth now?
# - Learn when to take which plan: notebook 2.

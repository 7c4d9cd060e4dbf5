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
# # 3. Bring your own network and trace
#
# From a `torch.nn.Module` of your own and a file of uplink rates to a policy for the two of them. The network here is a small one, trained in this notebook on images that it makes (gratings in noise: four
# directions, two widths), so that its exits differ in how often they are right. The trace is drawn from a generator that was fitted to real LTE drives. Put your own in the two marked places; everything
# else stays.

# %%
import dataclasses
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn

from cutlayer.agents import baselines, evaluate, export, train
from cutlayer.agents.episodes import HELD_OUT, TUNING
from cutlayer.envs import scenarios
from cutlayer.envs.channels import fitted, replay
from cutlayer.profiles import accuracy, cuts, derived, images, measure
from cutlayer.profiles.plans import PlanTable
from cutlayer.profiles.stats import wilson

torch.set_num_threads(1)
folder = Path(tempfile.mkdtemp())

# %% [markdown]
# ## Your network
#
# Its `forward` gives the logits of the last exit. Further exits are heads, attached by the name of the submodule behind which they sit. That is all: where it can be cut is found in its graph.


# %%
def head(channels):
    return nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16 * channels, 8))


class Mine(nn.Module):  # <- your network here
    input_shape = (3, 32, 32)  # channels, height, width; pixel values 0..255 come in
    classes = 8

    def __init__(self):
        super().__init__()
        self.stage1 = nn.Sequential(nn.Conv2d(3, 8, 5, stride=2, padding=2), nn.ReLU())
        self.stage2 = nn.Sequential(nn.Conv2d(8, 24, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        self.stage3 = nn.Sequential(nn.Conv2d(24, 48, 3, padding=1), nn.ReLU())
        self.head = head(48)
        self.exits = {"stage1": head(8), "stage2": head(24)}

    def forward(self, x):
        return self.head(self.stage3(self.stage2(self.stage1(x / 128 - 1))))


torch.manual_seed(0)
network = cuts.chain(Mine())
for layer, name in enumerate(network.layer_names, start=1):
    print(f"layer {layer}: {name}{'   <- an exit behind it' if layer in network.depths else ''}")

# %% [markdown]
# Train it with all exits at once: the sum of their losses.


# %%
def gratings(count, seed):
    """Stripes in four directions and two widths, faint in noise: images and their classes."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(8, size=count)
    y, x = np.mgrid[:32, :32]
    angle, waves = np.pi / 4 * (labels % 4), np.where(labels < 4, 2.5, 4.5)
    along = np.cos(angle)[:, None, None] * x + np.sin(angle)[:, None, None] * y
    stripes = np.sin(2 * np.pi * waves[:, None, None] * along / 32 + rng.uniform(0, 2 * np.pi, (count, 1, 1)))
    pixels = 128 + 22 * stripes[..., None] + 55 * rng.normal(size=(count, 32, 32, 3))
    names = tuple(f"{45 * (c % 4)} degrees, {'wide' if c < 4 else 'narrow'}" for c in range(8))
    return images.ImageSet(pixels.clip(0, 255).astype(np.uint8), labels, names, f"gratings, seed {seed}")


shown, held_out = gratings(3_000, seed=0), gratings(1_000, seed=1)
inputs = torch.from_numpy(shown.pixels.transpose(0, 3, 1, 2)).float()
labels = torch.from_numpy(shown.labels)
optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
for epoch in range(6):
    for batch in torch.randperm(len(inputs)).split(100):
        loss = sum(nn.functional.cross_entropy(logits, labels[batch]) for logits in network(inputs[batch]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"epoch {epoch}: loss of the three exits {loss.item():.2f}")

# %% [markdown]
# ## What it costs, and how often it is right
#
# Measured on this machine, which plays the server. The device is one on which the whole network takes 40 ms: our choice, said in the table. Measure a real one with `cutlayer profile measure mine:network`
# on it.

# %%
server = measure.measure(network, runs=30, device_name="this-machine")
whole_s = sum(layer.time.cpu.mean_s for layer in server.layers) + server.heads[-1].time.cpu.mean_s
device = derived.slower(server, "my-device", 0.04 / whole_s, "our choice: a device on which the whole network takes 40 ms")
counted = accuracy.measure(network, held_out)
plans = PlanTable.build(device, server, counted)
(folder / "plans.json").write_bytes(plans.encode())
print(f"the whole network takes {1e3 * whole_s:.2f} ms here; {len(plans)} plans")

# %% [markdown]
# Every tensor was really encoded and decoded for this figure. Does a coarse tensor cost answers? The bars are 95 % intervals; where they overlap, a thousand images cannot tell.

# %%
figure, axis = plt.subplots(figsize=(8, 3.8), layout="constrained")
kinds = {
    "on the device": None,
    "cut behind layer 1, 2 bits": (1, 2),
    "cut behind layer 1, 4 bits": (1, 4),
    "cut behind layer 1, 8 bits": (1, 8),
}
for place, (kind, cut) in enumerate(kinds.items()):
    for exit_ in range(len(network.depths)):
        plan = plans.device_only(exit_) if cut is None else plans.index(exit_, *cut)
        right = round(plans.accuracy[plan] * len(held_out))
        low, high = wilson(right, len(held_out))
        error = [[100 * (right / len(held_out) - low)], [100 * (high - right / len(held_out))]]
        label = kind if exit_ == 0 else None
        axis.bar(exit_ + 0.2 * place, 100 * right / len(held_out), 0.18, yerr=error, color=f"C{place}", label=label, capsize=2)
axis.set_xticks([0.3, 1.3, 2.3], ["0", "1", "2"])
axis.set(xlabel="exit that answers", ylabel="right answers (%)", ylim=(0, 115))
axis.legend(frameon=False, fontsize="small", loc="upper left", ncols=2)
plt.show()

# %% [markdown]
# ## Your trace
#
# A CSV with a column of times and one of rates, the unit at the end of each name. Two drives: one to train on, one to be judged on, so that nothing is learned by heart.

# %%
generator = fitted.load("lte")  # <- your drives here: write drive-a.csv and drive-b.csv instead
for seed, name in enumerate(("drive-a", "drive-b")):
    rates_bps = 4 * generator.draw(np.random.default_rng(seed), slots=6_000, slot_s=0.1)  # four times the fitted rate: our choice
    lines = [f"{0.1 * step:.1f},{rate / 1e6:.4f}" for step, rate in enumerate(rates_bps)]
    (folder / f"{name}.csv").write_text("t_s,ul_mbps\n" + "\n".join(lines) + "\n")

figure, axes = plt.subplots(2, 1, figsize=(9, 4), sharex=True, sharey=True, layout="constrained")
for axis, name in zip(axes, ("drive-a", "drive-b"), strict=True):
    times_s, rates_mbps = np.loadtxt(folder / f"{name}.csv", delimiter=",", skiprows=1, unpack=True)
    axis.semilogy(times_s, rates_mbps, linewidth=0.6)
    axis.set(ylabel="uplink (Mb/s)", title=name, ylim=(0.01, 100))
axes[-1].set_xlabel("time (s)")
plt.show()

# %% [markdown]
# ## The world of the two
#
# A scenario file: a camera of 15 images a second, an answer within 60 ms or it counts against you, another program that takes two of three time slices now and then. Paths begin at the file.

# %%
(folder / "mine.toml").write_text("""
base = "camera"
plans = "plans.json"
[objective]
deadline_s = 0.06
[arrivals]
kind = "periodic"
period_s = 0.0667
jitter = 0.1
[channel]
kind = "trace"
files = ["drive-a.csv"]
""")
scenario = scenarios.make(str(folder / "mine.toml"))
judged = dataclasses.replace(scenario, channel=replay([folder / "drive-b.csv"]))
print(scenario.inputs)

# %% [markdown]
# ## Train, and judge on the other drive

# %%
run = train.train(scenario, "ppo", seed=0, folder=folder / "ppo", steps=120_000)
policies = {
    "device-only": baselines.RULES["device-only"](scenario, 0),
    "best-static": baselines.best_static(scenario, TUNING),
    "greedy-ewma": baselines.greedy_ewma(scenario),
    "ppo": evaluate.Learned(export.network(export.load_run(folder / "ppo")[0])),
}
episodes = range(HELD_OUT, HELD_OUT + 12)
results = {name: evaluate.evaluate(judged, policy, episodes) for name, policy in policies.items()}
results["clairvoyant"] = evaluate.evaluate_clairvoyant(judged, episodes, list(results.values()))

# %% [markdown]
# Means over episodes, with a 95 % bootstrap interval over them. All policies met the same episodes, so differences are surer than the bars look.

# %%
rng = np.random.default_rng(0)
figure, axis = plt.subplots(figsize=(8, 3.2), layout="constrained")
for place, (name, result) in enumerate(results.items()):
    reward = result.reward.mean(axis=1)
    low, high = np.percentile(rng.choice(reward, (2_000, len(reward))).mean(axis=1), [2.5, 97.5])
    mean = reward.mean()
    axis.barh(place, mean, xerr=[[mean - low], [high - mean]], color="#0072B2" if name == "ppo" else "#999999", capsize=3)
    print(f"{name:12} reward {mean:6.3f}   late {result.late.mean():6.2%}   right {result.accuracy.mean():.3f}")
axis.set_yticks(range(len(results)), list(results))
axis.invert_yaxis()
axis.axvline(0, color="black", linewidth=0.8)
axis.set(xlabel="mean reward a request (accuracy in time, −1 when late)", title="On the drive that nobody was trained on")
plt.show()

# %% [markdown]
# ## What to try next
#
# - Your files in the two marked places. `docs/measure.md` has the commands for two real machines, `docs/add-a-model.md` for networks with branches inside.
# - `cutlayer channel fit drive-a.csv --generator all` tells which link generator is like your drives, and in which numbers it is not.
# - Is there anything to win? Print the score: `cutlayer evaluate --scenario mine.toml --trace drive-b.csv --policy runs/mine`. Tighten the deadline, or let the device be slower, and watch it change.
# - Many of these at once, in a table: notebook 4. On the device: notebook 5.

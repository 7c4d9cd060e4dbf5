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
# # 2. Train PPO and SAC-d, and see what they learned
#
# A scenario is a world: a table of plans, a link, a device that other programs slow, an edge server that others use, and an objective. This notebook trains two policies in one of them, judges them
# beside rules that were not learned, and looks at *when* they choose what. The trainings are short ones, so that the notebook is done in a minute; the figures it prints are those of this run, not
# the project's results. Nothing is read from the network: the link is a generator.

# %%
import tempfile
from pathlib import Path

import gymnasium as gym
import matplotlib.pyplot as plt
import numpy as np

import cutlayer.envs  # noqa: F401 - registers the environments
from cutlayer.agents import baselines, evaluate, export, train
from cutlayer.agents.episodes import HELD_OUT, TUNING
from cutlayer.envs import scenarios
from cutlayer.runtime import features

runs = Path(tempfile.mkdtemp())

# %% [markdown]
# ## The world
#
# `urllc-ge`: a link that is either good or blocked, requests that come at random, little time, and a late answer costs three. When the link was good a moment ago, may it be trusted? A policy sees what
# the device knows: its last transfers and their age, what waits, how slow the device last was.

# %%
scenario = scenarios.make("urllc-ge")
print(scenarios.claim("urllc-ge"))
print(f"deadline {1e3 * scenario.objective.deadline_s:.0f} ms, {len(scenario.plans)} plans, {features.size(scenario.blocks)} features")

env = gym.make("cutlayer/Offload-v0", scenario=scenario, engine="kernel")
observation, info = env.reset(seed=1)
for plan in (scenario.plans.device_only(0), scenario.plans.index(4, 0, 8), scenario.plans.index(4, 1, 4)):
    observation, reward, terminated, truncated, info = env.step(plan)
    record = info["record"]
    print(f"{scenario.plans.name(plan):9} answered after {1e3 * (record['finish_s'] - record['arrival_s']):5.1f} ms, reward {reward:5.2f}")

# %% [markdown]
# It is a Gymnasium environment like any other: `PPO("MlpPolicy", env)` of Stable-Baselines3 works on it. `train.train` does the same in 128 compiled lanes, keeps the best state on validation
# episodes, and can be interrupted; `cutlayer train --scenario urllc-ge --algo ppo -o runs/mine` is that as a command.

# %%
STEPS = {"ppo": 150_000, "sac-d": 10_000}  # the recipes have 1,000,000 and 64,000
for algorithm, steps in STEPS.items():
    run = train.train(scenario, algorithm, seed=0, folder=runs / algorithm, steps=steps)
    print(
        f"{algorithm:6} {run['steps']} requests in {run['learning_cpu_s']:.0f} CPU-s; best on validation episodes: {run['best']['reward_mean']:.3f}"
    )

# %% [markdown]
# PPO needs many requests and little time for each; SAC-d learns from each request several times over. So compare them by requests *and* by seconds.

# %%
figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), sharey=True, layout="constrained")
for algorithm, colour in (("ppo", "#0072B2"), ("sac-d", "#D55E00")):
    steps, cpu_s, reward = np.loadtxt(runs / algorithm / "validation.csv", delimiter=",", skiprows=1, unpack=True)
    axes[0].plot(steps, reward, "o-", markersize=3, color=colour, label=algorithm)
    axes[1].plot(cpu_s, reward, "o-", markersize=3, color=colour, label=algorithm)
axes[0].set(xscale="log", xlabel="requests learned from", ylabel="mean reward on validation episodes")
axes[1].set(xlabel="CPU time of learning (s)")
axes[1].legend(frameon=False)
figure.suptitle("Twenty looks at the validation episodes, one seed each", fontsize="medium")
plt.show()

# %% [markdown]
# ## Judged on episodes that nobody has seen
#
# Beside them: the best single plan (found by replaying each on tuning episodes), a greedy rule that believes its smoothed estimate of the link, and a clairvoyant that searches the true future. All meet
# the same episodes.

# %%
episodes = range(HELD_OUT, HELD_OUT + 15)
learned = {algorithm: export.network(export.load_run(runs / algorithm)[0]) for algorithm in STEPS}
policies = {
    "best-static": baselines.best_static(scenario, TUNING),
    "greedy-ewma": baselines.greedy_ewma(scenario),
    **{algorithm: evaluate.Learned(network) for algorithm, network in learned.items()},
}
results = {name: evaluate.evaluate(scenario, policy, episodes) for name, policy in policies.items()}
results["clairvoyant"] = evaluate.evaluate_clairvoyant(scenario, episodes, list(results.values()))

print(f"{'policy':12}{'reward':>8}{'right':>8}{'late':>8}{'p50 ms':>8}{'p99 ms':>8}")
for name, result in results.items():
    p50_ms, p99_ms = 1e3 * np.percentile(result.latency_s, [50, 99])
    print(f"{name:12}{result.reward.mean():8.3f}{result.accuracy.mean():8.3f}{result.late.mean():8.2%}{p50_ms:8.1f}{p99_ms:8.1f}")

# %% [markdown]
# The reward says who is best, the distribution of latencies says how. Every step to the right of the deadline is an answer that came too late.

# %%
figure, axis = plt.subplots(figsize=(8, 4), layout="constrained")
colours = {"best-static": "#999999", "greedy-ewma": "#E69F00", "ppo": "#0072B2", "sac-d": "#D55E00", "clairvoyant": "#000000"}
for name, result in results.items():
    latency_ms = np.sort(1e3 * result.latency_s.ravel())
    axis.plot(latency_ms, 1 - np.arange(len(latency_ms)) / len(latency_ms), color=colours[name], label=name)
deadline_ms = 1e3 * scenario.objective.deadline_s
axis.axvline(deadline_ms, color="black", linestyle="--", linewidth=1)
axis.text(deadline_ms, 1.15, " deadline", va="bottom", fontsize="small")
axis.set(xscale="log", yscale="log", ylim=(1e-3, 1.1), xlabel="latency (ms)", ylabel="share of requests that take longer")
axis.set_xticks([5, 10, 20, 50, 100], ["5", "10", "20", "50", "100"])
axis.minorticks_off()
axis.legend(frameon=False)
plt.show()

# %% [markdown]
# ## What they learned
#
# First, which plans they take. `local` sends nothing, `raw` sends the image; `e4 p1 4b` cuts behind the first layer and sends 4 bits a value to the last exit.

# %%
counts = {name: np.bincount(result.plans.ravel(), minlength=len(scenario.plans)) / result.plans.size for name, result in results.items()}
common = np.argsort(-np.max(list(counts.values()), axis=0))[:7]
shades = plt.colormaps["tab10"](np.arange(len(common)))

figure, axis = plt.subplots(figsize=(9, 3.2), layout="constrained")
left = np.zeros(len(counts))
for plan, shade in zip(common, shades, strict=True):
    share = np.array([100 * count[plan] for count in counts.values()])
    axis.barh(list(counts), share, left=left, color=shade, label=scenario.plans.name(plan))
    left += share
axis.barh(list(counts), 100 - left, left=left, color="#dddddd", label="all others")
axis.set(xlabel="share of requests (%)", xlim=(0, 100))
axis.invert_yaxis()
axis.legend(frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
plt.show()

# %% [markdown]
# Then, when. What tells a policy that plans from a rule that believes is what it does when its last reading is *old*. So each request is put down by what the last transfer showed, a good link or a
# blocked one, and by how long ago that was. A policy that never sends has no such reading, and no curve.

# %%
RATE, AGE = 14, 15  # of the last transfer: places in the observation, whose table is the environment's docstring
between_bps = np.sqrt(scenario.channel.good_bps * scenario.channel.bad_bps)


class Watched:
    """A policy that remembers what it saw and did."""

    def __init__(self, policy):
        self.policy, self.seen = policy, []

    def begin(self):
        self.policy.begin()

    def act(self, view):
        plan, observation = self.policy.act(view), view.observation()
        self.seen.append((observation[RATE] > features.scaled_rate(between_bps), observation[AGE], scenario.plans.offloads[plan]))
        return plan


watched = {name: Watched(policies[name]) for name in ("greedy-ewma", "ppo", "sac-d")}
for policy in watched.values():
    evaluate.evaluate(scenario, policy, episodes)

# %%
edges_s = np.array([0.0, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4])
figure, axes = plt.subplots(1, 2, figsize=(10, 3.8), sharey=True, layout="constrained")
for axis, good, title in ((axes[0], True, "the last transfer met a good link"), (axes[1], False, "the last transfer met a blocked link")):
    for name, policy in watched.items():
        fast, scaled_age, sent = (np.array(column) for column in zip(*policy.seen, strict=True))
        known = (fast == good) & (scaled_age < 1)  # 1: nothing was ever sent
        age_s = features.HALF_AGE_S * scaled_age[known] / (1 - scaled_age[known])
        count, _ = np.histogram(age_s, edges_s)
        offloaded, _ = np.histogram(age_s, edges_s, weights=sent[known].astype(float))
        enough = count >= 20  # a share of fewer requests says little
        middle_s = np.sqrt(edges_s[1:] * np.maximum(edges_s[:-1], 0.025))
        axis.plot(middle_s[enough], 100 * offloaded[enough] / count[enough], "o-", color=colours[name], label=name)
    axis.set(xscale="log", xlabel="age of that reading (s)", title=title)
    axis.set_xticks([0.05, 0.1, 0.2, 0.5, 1, 2, 5], ["0.05", "0.1", "0.2", "0.5", "1", "2", "5"])
axes[0].set(ylabel="requests sent to the edge (%)", ylim=(-5, 105))
axes[1].legend(frameon=False)
plt.show()

# %% [markdown]
# A rule believes the last reading whatever its age, or forgets it on a schedule. A learned policy has met the link thousands of times: it knows how long a good stretch lasts, and when a blocked one is worth another try.
# Whether yours has learned that in so few requests, the curves tell.
#
# ## What to try next
#
# - The recipes' own numbers: leave `steps` out (PPO then learns from a million requests in a few minutes). Five seeds before you claim anything.
# - `bayes-greedy`, the rule to beat: `baselines.RULES["bayes-greedy"](scenario, 0)` fits a filter to the link and tunes its prices (half a minute).
# - Another world: `scenarios.names()` lists them, `docs/reference/scenarios` describes them once `make docs` has run. In `bursty-deadline` each request costs the next; in `paper-linear` there is almost nothing to learn.
# - `myopic-ppo` learns the plan that is best for this request alone. What PPO has more is what planning adds.
# - Your own network and link: notebook 3.

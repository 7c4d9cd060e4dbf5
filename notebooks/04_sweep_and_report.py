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
# # 4. Sweep and report
#
# One run answers one question of one world. A paper wants to know how the answer moves: with the round trip, with the deadline, from seed to seed. This notebook writes a grid file, makes its runs on every core, reads
# the table, adds a learner, and ends with a page and with figures for a paper. Every number in them carries the `run.json` that says how it was made.

# %%
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import polars as pl
from IPython.display import SVG

folder = Path(tempfile.mkdtemp())


def cutlayer(command):
    """Run a command as in a shell: in a notebook that was started elsewhere it may not be on the PATH."""
    print(f"$ cutlayer {command}")
    done = subprocess.run([sys.executable, "-m", "cutlayer.cli", *command.split()], check=False, capture_output=True, text=True)
    print(done.stdout, done.stderr, sep="")
    assert done.returncode == 0, f"exit code {done.returncode}"


# %% [markdown]
# ## A grid
#
# Under `[grid]` every combination is run; `[fixed]` is the same in each. A key is an option of `cutlayer evaluate` or `train`, a field of the scenario as a scenario file has it, `learner.` and a field of its
# recipe, or `plan_factor.` and a column of the plan table: `"plan_factor.device_s" = [1, 2, 4]` makes the device slower. Ranges and seeded samples are written as `{ range = … }` and `{ sample = … }`.
#
# The question here: from which round trip on is it no use to ask the edge?

# %%
(folder / "grid.toml").write_text("""
[fixed]
scenario = "urllc-ge"
episodes = 10

[grid]
policy = ["device-only", "best-static", "greedy-ewma"]
seed = [0, 1, 2]                              # other held-out episodes
"path.rtt_s" = [0.002, 0.006, 0.010, 0.014]   # seconds
""")
cutlayer(f"sweep {folder}/grid.toml -o {folder}/sweep --jobs 2")

# %% [markdown]
# The same command again makes what is missing, and nothing else: a run is named by the hash of its inputs, so one that was cut off, or a grid with a value more, costs only what is new.

# %%
cutlayer(f"sweep {folder}/grid.toml -o {folder}/sweep --jobs 2")

# %% [markdown]
# ## The table
#
# One row a run in `results.parquet`, the unit in each column's name.

# %%
table = pl.read_parquet(folder / "sweep" / "results.parquet")
print(table.select("policy", "seed", "path.rtt_s", "reward_mean", "miss_rate", "latency_p99_s", "accuracy").head(6))
means = (
    table.group_by("policy", "path.rtt_s").agg(pl.col("reward_mean").mean(), pl.col("reward_mean").std().alias("spread")).sort("path.rtt_s")
)

# %%
figure, axis = plt.subplots(figsize=(7, 3.8), layout="constrained")
for policy, colour in (("device-only", "#999999"), ("best-static", "#0072B2"), ("greedy-ewma", "#E69F00")):
    one = means.filter(pl.col("policy") == policy)
    axis.errorbar(1e3 * one["path.rtt_s"], one["reward_mean"], one["spread"], fmt="o-", capsize=3, color=colour, label=policy)
axis.set(
    xlabel="round trip to the edge (ms)", ylabel="mean reward a request", title="urllc-ge: mean and standard deviation over three seeds"
)
axis.legend(frameon=False)
plt.show()

# %% [markdown]
# ## With a learner
#
# Where a policy is an algorithm it is trained first, once for each seed. The trainings here are short ones, two seeds; leave `steps` out for the recipe's number, and take five seeds before you believe a difference. `block` names the
# held-out episodes: with one block every seed is judged on the same ones, and so are the rules and the clairvoyant beside them, which have a grid of their own because nothing is trained there.

# %%
(folder / "learned.toml").write_text("""
[fixed]
scenario = "urllc-ge"
episodes = 10
block = 0
steps = 60000

[grid]
policy = ["ppo"]
seed = [0, 1]
""")
(folder / "rules.toml").write_text("""
[fixed]
scenario = "urllc-ge"
episodes = 10
block = 0
seed = 0

[grid]
policy = ["device-only", "best-static", "greedy-ewma", "clairvoyant"]
""")
for name in ("learned", "rules"):
    cutlayer(f"sweep {folder}/{name}.toml -o {folder}/{name} --jobs 2")

# %% [markdown]
# ## The report
#
# Both folders together make one self-contained page, with scores and their intervals, learning curves, latencies against the deadline, and which knobs were used when; figures as SVG and PDF and the table as LaTeX and CSV beside it. `--no-maps` leaves
# out the policy map, which takes most of the time: leave it in when you have a minute.

# %%
cutlayer(f"report {folder}/learned {folder}/rules -o {folder}/report.html --figures {folder}/figures --no-maps")
for path in sorted((folder / "figures").iterdir()):
    print(path.name)

# %% [markdown]
# Open `report.html` in a browser. Its learning curves, as they would stand in a paper:

# %%
SVG(filename=next(iter(sorted((folder / "figures").glob("*learning*.svg")))))

# %% [markdown]
# ## What to try next
#
# - `cutlayer sweep grid.toml -o DIR --dry-run` tells how many runs there are and how long they would take. `[sample]` draws some of a grid that is too large.
# - `--ray auto` makes the same runs on a Ray cluster, with the same table; `docs/cluster.md` goes from one machine to many.
# - `cutlayer tune` searches hyper-parameters, of learners and of `belief-greedy` with the same budget.
# - Sweep your own world: `scenario = "mine.toml"` from notebook 3.

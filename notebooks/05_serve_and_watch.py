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
# # 5. Export a policy, serve it, and watch the daemon
#
# What runs on the device is not the training: it is a file without code, and a small process that answers each request with a plan and says who decided. This notebook trains a policy for a minute, exports it,
# starts the daemon, plays a device that asks it, takes the edge server away, and reads what an operator would read.

# %%
import http.client
import json
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import msgspec
import numpy as np

from cutlayer.agents import device_agent, export, train
from cutlayer.agents.episodes import HELD_OUT
from cutlayer.envs import scenarios
from cutlayer.envs.streams import draw
from cutlayer.runtime.client import Client

folder = Path(tempfile.mkdtemp())

# %% [markdown]
# ## Train and export
#
# A bundle holds the network as numbers, the plan table, the features, the range that each feature had in training, and decisions of the trained network that are replayed at every load. Numpy is all that it needs to
# decide.

# %%
scenario = scenarios.make("urllc-ge")
train.train(scenario, "ppo", seed=0, folder=folder / "run", steps=60_000)
bundle = export.export(folder / "run", folder / "policy.cutlayer")
print(f"{(folder / 'policy.cutlayer').stat().st_size} bytes for {len(bundle.plans)} plans of scenario {bundle.scenario}")

# %% [markdown]
# ## Start the daemon
#
# On a device this is `cutlayerd --config cutlayerd.toml` under systemd. Here it is a child process with a socket in a temporary folder; `clock = "clients"` lets it take the time from its client, so that a simulated
# world can be played to it. What it prints are lines of JSON about its own life, never about a decision.

# %%
command = [sys.executable, "-m", "cutlayer.runtime.daemon", "--bundle", str(folder / "policy.cutlayer"), "--clock", "clients"]
command += ["--socket", str(folder / "cutlayerd.sock"), "--http", "127.0.0.1:0"]  # port 0: any free one
daemon = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
for line in daemon.stdout:
    print(line, end="")
    ready = json.loads(line)
    if ready["event"] == "ready":
        break

# %% [markdown]
# ## Ask for a plan
#
# One line of JSON each way. `step` says who decided: the policy, or a rung of the fallback ladder.

# %%
client = Client(folder / "cutlayerd.sock")
print(client.call(b'{"op":"decide","id":1000000,"at_s":0.0}').decode())

# %% [markdown]
# ## Play a device to it
#
# Now a whole episode. `device_agent.drive` is a device in a simulated world: it asks before each request, and reports what became of it when a real device would know. After two thirds of the episode the edge
# goes away: from then on the device says with every request that it has no connection.


# %%
class Device:
    """Hands the simulated device's messages to the daemon; without a connection once the edge is gone."""

    def __init__(self, gone_s):
        self.gone_s = gone_s

    def decide(self, at_s, request):
        return client.ask(msgspec.structs.replace(request, edge_reachable=bool(at_s < self.gone_s)), at_s)

    def progress(self, at_s, progress):
        client.progress(progress, at_s)

    def report(self, at_s, outcome):
        client.report(outcome, at_s)


streams = draw(scenario, HELD_OUT)
gone_s = 2 / 3 * streams.arrival_s[scenario.requests - 1]
played = list(device_agent.drive(scenario, streams, Device(gone_s)))

# %%
places = [str(decision.step) if not decision.reason else f"{decision.step} ({decision.reason})" for decision, _ in played]
at_s = np.array([record.arrival_s for _, record in played])
latency_ms = np.array([1e3 * record.latency_s for _, record in played])

figure, (upper, lower) = plt.subplots(2, 1, figsize=(9, 5), sharex=True, height_ratios=(2, 1), layout="constrained")
for index, place in enumerate(dict.fromkeys(places)):
    mine = np.array([one == place for one in places])
    upper.scatter(at_s[mine], latency_ms[mine], s=14, color=f"C{index}", label=f"{place}: {mine.sum()}")
upper.axhline(1e3 * scenario.objective.deadline_s, color="black", linestyle="--", linewidth=1, label="deadline")
upper.set(yscale="log", ylabel="latency (ms)", title="One episode, each request by who decided it")
upper.set_yticks([5, 10, 20, 50], ["5", "10", "20", "50"])
upper.minorticks_off()
upper.legend(frameon=False, fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
slots_s = streams.slot_s * np.arange(len(streams.rate_bps))
lower.step(slots_s, streams.rate_bps / 1e6, where="post", color="#555555", linewidth=1)
lower.set(xlabel="time of the episode (s)", ylabel="uplink (Mb/s)", xlim=(0, at_s[-1]), ylim=(0, None))
for axis in (upper, lower):
    axis.axvspan(gone_s, at_s[-1], color="#D55E00", alpha=0.12, linewidth=0)
lower.text(gone_s, 0.5, " no edge", transform=lower.get_xaxis_transform(), fontsize="small")
plt.show()

# %% [markdown]
# In the shaded part nothing was sent, and every decision there has its reason. That is the ladder at work: policy, rule, last good plan, safe plan on the device. `deadline-infeasible` means that
# by all that was known no plan could be in time any more, so the fastest one on the device answered and kept nobody waiting.
#
# ## What an operator reads
#
# `/readyz` for whoever starts and stops it, `/metrics` for Prometheus. Each reason for a fallback is a counter of its own, so an alert can tell a lost edge from a broken policy.

# %%
host, _, port = ready["http"].rpartition(":")
connection = http.client.HTTPConnection(host, int(port), timeout=5)
for path in ("/readyz", "/metrics"):
    connection.request("GET", path)
    answer = connection.getresponse()
    text = answer.read().decode()
    print(path, answer.status)
    counted = [line for line in text.splitlines() if line.startswith("cutlayer_") and "_bucket" not in line and not line.endswith(" 0.0")]
    print("\n".join(f"  {line}" for line in counted))
connection.close()

# %% [markdown]
# The same over the socket, for a script:

# %%
status = client.status()
print({key: status[key] for key in ("decisions", "reports", "steps", "reasons") if key in status})

# %% [markdown]
# ## Stop it
#
# SIGTERM takes no new client, answers what was asked, and ends with 0. SIGHUP would have read configuration and bundle anew, all or nothing.

# %%
client.__exit__()
daemon.send_signal(signal.SIGTERM)
rest, _ = daemon.communicate(timeout=30)
print(rest, "exit code", daemon.returncode)

# %% [markdown]
# ## What to try next
#
# - `cutlayerd --print-defaults` writes a configuration file with every setting and what it is for; `docs/daemon.md` has clients in Python and C, and the unit for systemd.
# - A new policy need not decide at once: `mode = "shadow"` lets it decide without being obeyed, `"canary"` gives it a share and takes it back when it does worse (`docs/fallbacks.md`).
# - Break it on purpose: report nothing for ten simulated seconds, or start it with a bundle of another scenario, and look for the reason in `/metrics`.
# - With `trace_path` it keeps its decisions; `cutlayer replay` shows what another policy would have done.
# - Real split inference beside it: `cutlayer profile graphs alexnet -o graphs`, `cutlayer-edge --graphs graphs`, `docs/protocol.md`.

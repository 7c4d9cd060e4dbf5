# noqa: INP001 - a script, no module
"""What the row `edge-unheard` is worth: reward of every policy that ships with it and without it, in equal worlds.

`python docs/figures/unheard.py` prints a line for each, as docs/fallbacks.md tells; trace-driven ones on the drives that are judged.
"""

from __future__ import annotations

import numpy as np

from cutlayer.agents import device_agent, inputs, shipped
from cutlayer.envs import scenarios
from cutlayer.envs.streams import draw
from cutlayer.runtime import bundle as bundles
from cutlayer.runtime.controller import Controller, Settings

EPISODES = range(9_200_000, 9_200_100)  # nobody's training, tuning or validation
NEVER = Settings(unheard_requests=10**9)

for name in shipped.names():
    bundle, world = bundles.load(shipped.find(name)), inputs.on_drives(scenarios.make(name), "test")
    gains, asked = [], 0
    for one in EPISODES:
        streams, rewards = draw(world, one), []
        for settings in (Settings(), NEVER):
            controller = Controller(bundle, settings=settings)
            records = [record for _, record in device_agent.drive(world, streams, controller)]
            columns = (np.array([getattr(record, what) for record in records]) for what in ("latency_s", "accuracy", "energy_j"))
            due_s = None if streams.deadline_s is None else streams.deadline_s[: len(records)]
            rewards.append(world.objective.reward(*columns, due_s).mean())
            asked += controller.counts.reasons["edge-unheard"]
        gains.append(rewards[0] - rewards[1])
    half = 1.96 * np.std(gains, ddof=1) / len(gains) ** 0.5
    share = asked / (len(EPISODES) * world.requests)
    print(f"{name}: {np.mean(gains):+.4f} reward with the row (95 % within {half:.4f}), which took {share:.2%} of the requests")

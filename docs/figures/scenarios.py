# noqa: INP001 - a script, no module
"""Prints the table of `docs/simulator.md`: what the simplest policies get in every scenario that ships.

python docs/figures/scenarios.py
"""

from __future__ import annotations

import numpy as np

from cutlayer.agents import baselines, evaluate
from cutlayer.envs import kernel, scenarios
from cutlayer.envs.streams import draw

EPISODES = range(500, 540)  # outside what tuning, training and testing use


def row(name: str) -> str:
    """In-time share and mean reward: whole network on the device, the most accurate early offload, the best single plan, greedy."""
    scenario = scenarios.make(name)
    plans, deadline_s = scenario.plans, scenario.objective.deadline_s
    share, worth = np.zeros(len(plans)), np.zeros(len(plans))
    for episode in EPISODES:
        streams = draw(scenario, episode)
        for plan in range(len(plans)):
            rows = kernel.run(scenario, streams, np.full(scenario.requests, plan))
            latency = rows[:, kernel.R_FINISH] - rows[:, kernel.R_ARRIVAL]
            share[plan] += (latency <= deadline_s).mean() / len(EPISODES)
            worth[plan] += scenario.objective.reward(latency, rows[:, kernel.R_ACCURACY], rows[:, kernel.R_ENERGY]).mean() / len(EPISODES)
    last = np.flatnonzero(plans.exit == plans.exit.max())
    early = last[(plans.partition[last] == plans.partition.min()) & plans.offloads[last]]
    edge, best = int(early[plans.accuracy[early].argmax()]), int(worth.argmax())
    cells = [f"{share[plan]:.0%} / {worth[plan]:.2f}" for plan in (plans.device_only(), edge, best)]
    greedy = evaluate.evaluate(scenario, baselines.greedy_ewma(scenario), EPISODES)
    cells[2] = f"{plans.name(best)}: {cells[2]}"
    cells.append(f"{(greedy.latency_s <= deadline_s).mean():.0%} / {greedy.reward.mean():.2f}")
    return f"| `{name}` | {1e3 * deadline_s:.0f} ms | {' | '.join(cells)} |"


if __name__ == "__main__":
    print("| scenario | deadline | device-only | edge-only | best single plan | greedy-ewma |\n|---|---|---|---|---|---|")
    for known in scenarios.names():
        print(row(known), flush=True)

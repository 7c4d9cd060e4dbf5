"""The Gymnasium environment."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, SupportsFloat

import gymnasium as gym
import numpy as np

from cutlayer.envs import rendering, scenarios
from cutlayer.envs.simulation import EngineName, Simulation
from cutlayer.envs.streams import draw
from cutlayer.profiles.cost import of_deadline, reward
from cutlayer.runtime import features

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cutlayer.envs.record import Record
    from cutlayer.envs.spec import Scenario


class OffloadEnv(gym.Env["NDArray[np.float32]", np.int64]):
    """One device, one uplink, one edge server: choose exit, partition point and bit width for every request.

    ## Description
    Requests arrive; each is decided at its arrival and then runs through device, uplink and edge in order (`envs.reference`
    is the specification). The device is slowed by other programs, the uplink's rate changes, the edge serves others too.

    ## Action space
    `Discrete(len(scenario.plans))`: index into the plan table, the list of all valid (exit, partition, bits).
    `scenario.plans.name(a)` tells what an action means.

    ## Observation space
    `Box(-1, 4, (32,), float32)`, longer where the scenario has more to show; all of it is known to the device at the time, and
    scales are fixed by the scenario. *Deadline* as a scale is the objective's.

    | index | meaning | unit before scaling | scale |
    |---|---|---|---|
    | 0 | device work decided and not finished | s, nominal | device-only time of the last exit |
    | 1 | time that the running device work runs | s | deadline |
    | 2 | requests in flight | 1 | 8 |
    | 3 | bytes not acknowledged | byte | largest payload |
    | 4 | a transfer runs | 0 or 1 | 1 |
    | 5 | its rate so far | b/s | log10, 8 kb/s to 1 Gb/s on -1 to 1 |
    | 6 | its age | s | deadline |
    | 7, 8 | last two gaps between requests | s | deadline |
    | 9, 10 | slow-down of the last finished device work, its age | 1, s | natural logarithm; age |
    | 11, 12 | wait at the edge of the last reply, its age | s | deadline; age |
    | 13 | rate, exponentially weighted | b/s | as index 5 |
    | 14 + 3i, 15 + 3i, 16 + 3i | rate, age and duration of the i-th last transfer, i = 0..5 | b/s, s, s | as 5; age; deadline |

    Behind these come, in this order, what only some worlds have (`scenario.blocks` says which, `runtime.features.table` lists all):

    | world with | meaning | unit before scaling | scale |
    |---|---|---|---|
    | `deadlines` | time that the present request has | s | deadline |
    | `thermal` | temperature as the last device work began | degrees C | `throttle_c` to `limit_c` on 0 to 1 |
    | `battery` | charge as the last device work began | J | `capacity_j` |
    | either | age of what was sensed | s | age |
    | segments to load | one each: it is the one that will lie ready when the request's turn comes | 0 or 1 | 1 |
    | `edge.broadcast_s` | how long a job would have waited at the edge, by its last broadcast; age of that | s | deadline; age |

    Age is scaled to age / (age + 0.5 s), 1 where nothing was measured yet. Every value is clipped to the bounds.

    ## Rewards
    The request's worth by the scenario's objective (`profiles.cost.Objective`), at once: what becomes of a request does not
    depend on later decisions.

    ## Starting state
    Idle device, link and edge; no readings. `reset(seed=...)` seeds the episode; a reset without seed goes on in the stream.

    ## Episode end
    Truncated after `scenario.requests` requests; it never terminates.

    ## Info
    `record`: what became of the request just decided, the fields of `cutlayer.envs.record.Record` as plain values, so that
    `Record(**info["record"])` is the typed record; `late`: whether it missed its deadline (its own, where they differ). After a reset
    `episode`: its number.

    ## Arguments
    scenario: name from `cutlayer.envs.scenarios`, path of a scenario file, or a `Scenario`. engine: "simpy" or "kernel", equal
    records. render_mode: None, "ansi" (one line a request) or "rgb_array" (link, queues and the last requests; needs pillow).

    ## Version history
    v0: first version.
    """

    metadata: dict[str, Any] = {"render_modes": ["ansi", "rgb_array"], "render_fps": 20}  # noqa: RUF012 - the type that gymnasium declares

    def __init__(self, scenario: str | Scenario = "camera", engine: EngineName = "simpy", render_mode: str | None = None) -> None:
        self.scenario = scenarios.make(scenario) if isinstance(scenario, str) else scenario
        self.engine: EngineName = engine
        self.render_mode = render_mode
        self.action_space = gym.spaces.Discrete(len(self.scenario.plans))
        self.observation_space = gym.spaces.Box(features.LOW, features.HIGH, (features.size(self.scenario.blocks),), np.float32)
        self._simulation: Simulation | None = None
        self._records: deque[tuple[Record, float]] = deque(maxlen=rendering.SHOWN)  # each with its deadline

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Begin an episode; `options={"episode": k}` names it outright, as evaluation does."""
        super().reset(seed=seed)
        episode = (options or {}).get("episode")
        if episode is None:
            episode = int(self.np_random.integers(2**62))
        self._simulation = Simulation(self.scenario, draw(self.scenario, episode), self.engine)
        self._records.clear()
        return self._simulation.observation(), {"episode": episode}

    def step(self, action: np.int64) -> tuple[NDArray[np.float32], SupportsFloat, bool, bool, dict[str, Any]]:
        """Decide the present request."""
        assert self._simulation is not None, "call reset before step"
        assert self.action_space.contains(action), f"action {action!r} is none of the {len(self.scenario.plans)} plans"
        deadline_s = self._simulation.deadline_s
        record = self._simulation.decide(int(action))
        self._records.append((record, deadline_s))
        worth = reward(record.latency_s, record.accuracy, record.energy_j, *of_deadline(self.scenario.objective.numbers(), deadline_s))
        # Plain values: a vector environment makes a column of each.
        info = {"record": {**record._asdict(), "status": int(record.status)}, "late": record.latency_s > deadline_s}
        return self._simulation.observation(), float(worth), False, self._simulation.done, info

    def action_masks(self) -> NDArray[np.bool_]:
        """MaskablePPO's mask: every plan can always be chosen, for the list holds nothing else."""
        return np.ones(len(self.scenario.plans), np.bool_)

    def render(self) -> str | NDArray[np.uint8] | None:
        """The last decision as `render_mode` asks for it."""
        if self.render_mode == "rgb_array":
            assert self._simulation is not None, "call reset before render"
            return rendering.picture(self._simulation, self._records)
        if self.render_mode != "ansi":
            return None
        return rendering.line(self._records[-1][0], self.scenario.plans) if self._records else "no request decided yet"

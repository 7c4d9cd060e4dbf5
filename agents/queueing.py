"""The simulated edge is a queue that theory knows: mean waits beside the formulas of Pollaczek and Khinchine and of Erlang.

Requests reach the edge as soon as they arrive: the device takes nothing and the link a nanosecond. Each case is one long
episode of the compiled engine; the same cases run in `make test` at a smaller size.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from cutlayer.envs import kernel
from cutlayer.envs.channels import Constant
from cutlayer.envs.spec import Edge, Scenario
from cutlayer.envs.streams import Streams
from cutlayer.envs.workload import Poisson
from cutlayer.profiles.cost import Path, deadline
from cutlayer.profiles.plans import PlanTable
from cutlayer.profiles.rows import PlanRow

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

LOADS = (0.5, 0.8)
MEAN_S = 0.01  # of a service; any will do
LINK_BPS = 8e9  # one byte in a nanosecond


def world(
    edge_s: Sequence[float],
    arrival_s: NDArray[np.float64],
    jobs: tuple[NDArray[np.float64], NDArray[np.float64]],
    servers: int = 1,
) -> tuple[Scenario, Streams]:
    """A world in which request k only waits and works at the edge; plan i works edge_s[i] there."""
    rows = tuple(
        PlanRow(
            exit=0, partition=0, bits=8, device_s=0.0, encode_s=0.0, decode_s=0.0, edge_s=work_s, payload_bytes=1, wire_bytes=1,
            accuracy=1.0, device_j=0.0, fallback_exit=0, fallback_s=0.0, fallback_accuracy=0.0, fallback_j=0.0,
        )
        for work_s in edge_s
    )  # fmt: skip
    scenario = Scenario(
        name="queue", plans=PlanTable("none", "none", "none", (0,), rows), channel=Constant(LINK_BPS), arrivals=Poisson(1.0),
        objective=deadline(1e9), path=Path(rtt_s=0.0, reply_bytes=0, fixed_s=0.0), requests=len(arrival_s) - 1, edge=Edge(servers=servers),
    )  # fmt: skip
    return scenario, Streams(1.0, arrival_s, np.array([LINK_BPS]), np.ones(1), *jobs)


def poisson(rng: np.random.Generator, rate_per_s: float, count: int) -> NDArray[np.float64]:
    """Times of `count` arrivals that know nothing of each other."""
    return np.cumsum(rng.exponential(1.0 / rate_per_s, count))


def pollaczek_khinchine(rate_per_s: float, mean_s: float, second_moment: float) -> float:
    """Mean wait of M/G/1."""
    return rate_per_s * second_moment / (2.0 * (1.0 - rate_per_s * mean_s))


def erlang(rate_per_s: float, mean_s: float, servers: int) -> float:
    """Mean wait of M/M/c, by Erlang's C."""
    offered = rate_per_s * mean_s
    below = sum(offered**k / math.factorial(k) for k in range(servers))
    full = offered**servers / math.factorial(servers) / (1.0 - offered / servers)
    return full / (below + full) * mean_s / (servers - offered)


def own_waits(rng: np.random.Generator, load: float, edge_s: Sequence[float], chances: Sequence[float], count: int) -> tuple[float, float]:
    """Mean wait of requests whose work is one of `edge_s`, measured and by theory; and nobody else is there."""
    mean_s, second = float(np.dot(edge_s, chances)), float(np.dot(np.square(edge_s), chances))
    scenario, streams = world(edge_s, poisson(rng, load / mean_s, count + 1), (np.zeros(0), np.zeros(0)))
    rows = kernel.run(scenario, streams, rng.choice(len(edge_s), count, p=chances))
    return float(rows[:, kernel.R_EDGE_WAIT].mean()), pollaczek_khinchine(load / mean_s, mean_s, second)


def waits_behind_jobs(rng: np.random.Generator, load: float, servers: int, count: int) -> tuple[float, float]:
    """Mean wait of requests without work of their own behind jobs of exponential work, measured and by theory (M/M/c)."""
    rate = load * servers / MEAN_S
    arrival_s = poisson(rng, rate, count)
    jobs = arrival_s, rng.exponential(MEAN_S, count)
    asks = np.sort(rng.uniform(0.0, arrival_s[-1], count + 1))
    scenario, streams = world([0.0], asks, jobs, servers)
    rows = kernel.run(scenario, streams, np.zeros(count, np.int64))
    return float(rows[:, kernel.R_EDGE_WAIT].mean()), erlang(rate, MEAN_S, servers)


def little(rng: np.random.Generator, load: float, count: int) -> tuple[float, float]:
    """Mean number at the edge, counted at random times, and arrival rate times mean time there: equal by Little's law."""
    scenario, streams = world([MEAN_S], poisson(rng, load / MEAN_S, count + 1), (np.zeros(0), np.zeros(0)))
    rows = kernel.run(scenario, streams, np.zeros(count, np.int64))
    came, left = rows[:, kernel.R_ARRIVAL], rows[:, kernel.R_FINISH]
    at = rng.uniform(0.0, came[-1], count)
    counted = np.searchsorted(came, at, side="right") - np.searchsorted(left, at, side="right")
    return float(counted.mean()), float(count / came[-1] * (left - came).mean())


def errors(count: int, seed: int = 0) -> dict[str, float]:
    """Relative error of each case at each load, over `count` requests a case."""
    rng = np.random.default_rng(seed)
    found: dict[str, float] = {}
    for load in LOADS:
        cases = {
            "M/M/1": waits_behind_jobs(rng, load, 1, count),
            "M/M/3": waits_behind_jobs(rng, load, 3, count),
            "M/D/1": own_waits(rng, load, [MEAN_S], [1.0], count),
            # Nine of ten short, one long: the squared coefficient of variation is 2.2.
            "M/G/1": own_waits(rng, load, [0.5 * MEAN_S, 5.5 * MEAN_S], [0.9, 0.1], count),
            "Little": little(rng, load, count),
        }
        found |= {f"{name} at load {load}": measured / theory - 1.0 for name, (measured, theory) in cases.items()}
    return found

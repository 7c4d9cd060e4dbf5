"""Judge policies on the same episodes: mean reward, latency, misses with their interval, accuracy, energy, knobs used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from cutlayer.agents import oracle, states
from cutlayer.envs import kernel
from cutlayer.envs.batch import Bank, Lanes
from cutlayer.envs.simulation import EngineName, Simulation
from cutlayer.envs.streams import deadlines, draw
from cutlayer.profiles.stats import wilson

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from cutlayer.envs.simulation import View
    from cutlayer.envs.spec import Scenario
    from cutlayer.envs.streams import Streams
    from cutlayer.runtime.policy import Mlp

# From so many decisions on, lanes side by side are faster than one episode after the other: compiling them takes 6 s, and a network's
# decision 4 us in place of 19 us (CPU time, EPYC at 2.25 GHz).
SIDE_BY_SIDE_FROM = 400_000
LANES = 512  # our choice: the streams of so many episodes fit in a few tens of megabytes
FEWEST_MISSES = 10  # our choice: a share of fewer counts is not known to a third of itself
# Logits of many observations at once differ from those of each alone in the last bits; nearer than this the device's own way decides.
NEAR = 1e-4


class Policy(Protocol):
    """Anything that decides from what the device knows."""

    def begin(self) -> None:
        """A new episode begins: forget the last one."""
        ...

    def act(self, view: View) -> int:
        """Index of a plan."""
        ...


@runtime_checkable
class Foreseeing(Protocol):
    """A policy that is no rival: it is told the future of each episode before it begins."""

    def foresee(self, streams: Streams) -> None:
        """The future of the episode that begins next."""
        ...


@runtime_checkable
class Observing(Protocol):
    """A policy that needs nothing but the observation of this moment, and decides many at once as it decides each alone."""

    def act_on(self, observations: NDArray[np.float32]) -> NDArray[np.int64]:
        """Plans (n,) for observations (n, features)."""
        ...


@dataclass(frozen=True, slots=True)
class Learned:
    """A network's best plan on the observation: the numpy network that ships."""

    network: Mlp

    def begin(self) -> None:
        """Remembers nothing."""

    def act(self, view: View) -> int:
        """The plan."""
        return int(self.network.logits(view.observation()).argmax())

    def act_on(self, observations: NDArray[np.float32]) -> NDArray[np.int64]:
        """See `Observing`."""
        logits = states.logits(self.network, observations)
        plans: NDArray[np.int64] = logits.argmax(axis=1)
        second, best = np.partition(logits, -2, axis=1)[:, -2:].T if logits.shape[1] > 1 else (logits[:, 0] - 1.0, logits[:, 0])
        for i in np.flatnonzero(best - second < NEAR * np.maximum(1.0, np.abs(best))):
            plans[i] = self.network.logits(observations[i]).argmax()
        return plans


@dataclass(frozen=True, slots=True)
class Result:
    """Every request of every episode, in columns of shape (episodes, requests); deadline_s where requests have their own."""

    scenario: Scenario
    plans: NDArray[np.int64]
    latency_s: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    energy_j: NDArray[np.float64]
    deadline_s: NDArray[np.float64] | None = None

    @property
    def reward(self) -> NDArray[np.float64]:
        """Worth of each request."""
        return self.scenario.objective.reward(self.latency_s, self.accuracy, self.energy_j, self.deadline_s)

    @property
    def late(self) -> NDArray[np.bool_]:
        """Whether each request was answered past its deadline."""
        missed: NDArray[np.bool_] = self.latency_s > (self.scenario.objective.deadline_s if self.deadline_s is None else self.deadline_s)
        return missed

    def summary(self) -> dict[str, Any]:
        """The figures that other programs read, by their keys in the contract of `--json`."""
        plans, misses = self.scenario.plans, int(self.late.sum())
        p50, p95, p99 = (float(x) for x in np.percentile(self.latency_s, [50, 95, 99]))
        return {
            "reward_mean": float(self.reward.mean()),
            "latency_p50_s": p50,
            "latency_p95_s": p95,
            "latency_p99_s": p99,
            "requests": self.plans.size,
            "misses": misses,
            "miss_rate": misses / self.plans.size,
            "miss_ci95": list(wilson(misses, self.plans.size)),
            "accuracy": float(self.accuracy.mean()),
            "energy_j": float(self.energy_j.mean()),
            "share": {
                "exit": _share(plans.exit[self.plans]),
                "partition": _share(plans.partition[self.plans]),
                "bits": _share(plans.bits[self.plans]),
            },
        }


def _share(values: NDArray[np.int64]) -> dict[str, float]:
    found, counts = np.unique(values, return_counts=True)
    return {str(value): float(count / values.size) for value, count in zip(found, counts, strict=True)}


def resolved(summary: dict[str, Any]) -> dict[str, Any]:
    """The summary without a miss rate that so few misses cannot tell: then it is None and `miss_note` says why; the interval stays."""
    misses, requests, bound = summary["misses"], summary["requests"], summary["miss_ci95"][1]
    if misses >= FEWEST_MISSES:
        return {**summary, "miss_note": None}
    note = f"{misses} misses in {requests} requests are too few to tell a rate from; it is below {bound:.2g} (Wilson, 95 %)"
    return {**summary, "miss_rate": None, "miss_note": note}


def evaluate(
    scenario: Scenario,
    policy: Policy,
    episodes: Sequence[int],
    engine: EngineName = "kernel",
    report: Callable[[float], None] = lambda _share: None,
) -> Result:
    """Let `policy` decide every request of `episodes`; how it is run changes nothing but the time it takes."""
    if engine == "kernel" and isinstance(policy, Observing) and len(episodes) * scenario.requests >= SIDE_BY_SIDE_FROM:
        return side_by_side(scenario, policy, episodes, report)
    return one_by_one(scenario, policy, episodes, engine, report)


def one_by_one(
    scenario: Scenario,
    policy: Policy,
    episodes: Sequence[int],
    engine: EngineName = "kernel",
    report: Callable[[float], None] = lambda _share: None,
) -> Result:
    """Any policy, one episode after the other, on either engine."""
    shape = (len(episodes), scenario.requests)
    plans = np.empty(shape, np.int64)
    latency, accuracy, energy, due = (np.empty(shape) for _ in range(4))
    for i, episode in enumerate(episodes):
        streams = draw(scenario, episode)
        world, due[i] = Simulation(scenario, streams, engine), deadlines(scenario, streams)
        if isinstance(policy, Foreseeing):
            policy.foresee(streams)
        policy.begin()
        while not world.done:
            k, record = world.request, world.decide(policy.act(world))
            plans[i, k], latency[i, k] = record.plan, record.latency_s
            accuracy[i, k], energy[i, k] = record.accuracy, record.energy_j
        report((i + 1) / len(episodes))
    return Result(scenario, plans, latency, accuracy, energy, None if scenario.deadlines is None else due)


def side_by_side(
    scenario: Scenario, policy: Observing, episodes: Sequence[int], report: Callable[[float], None] = lambda _share: None
) -> Result:
    """A policy that needs the observation only, in many lanes at once on the compiled engine."""
    shape = (len(episodes), scenario.requests)
    plans = np.empty(shape, np.int64)
    latency, accuracy, energy, due = (np.empty(shape) for _ in range(4))
    for first in range(0, len(episodes), LANES):
        some = slice(first, min(first + LANES, len(episodes)))
        drawn = [draw(scenario, episode) for episode in episodes[some]]
        due[some] = [deadlines(scenario, streams) for streams in drawn]
        own = np.arange(len(drawn))
        lanes = Lanes(scenario, Bank.stack(scenario, drawn), len(drawn))
        lanes.reset(own)
        for k in range(scenario.requests):
            plans[some, k] = policy.act_on(lanes.observations)
            lanes.step(plans[some, k], own)
            rows = lanes.rows(np.full(len(drawn), k))
            latency[some, k] = rows[:, kernel.R_FINISH] - rows[:, kernel.R_ARRIVAL]
            accuracy[some, k], energy[some, k] = rows[:, kernel.R_ACCURACY], rows[:, kernel.R_ENERGY]
        report(some.stop / len(episodes))
    return Result(scenario, plans, latency, accuracy, energy, None if scenario.deadlines is None else due)


def evaluate_clairvoyant(
    scenario: Scenario,
    episodes: Sequence[int],
    others: Sequence[Result] = (),
    engine: EngineName = "kernel",
    report: Callable[[float], None] = lambda _share: None,
) -> Result:
    """The clairvoyant's result; in an episode where another policy did better, that one's (it is a feasible plan too)."""
    return improved(evaluate(scenario, oracle.ORACLES["clairvoyant"](scenario), episodes, engine, report), others)


def improved(result: Result, others: Sequence[Result]) -> Result:
    """The best of several results on the same episodes, episode by episode; the first of equals."""
    everything = (result, *others)
    best = np.argmax([one.reward.sum(axis=1) for one in everything], axis=0)

    def chosen(column: str) -> NDArray[Any]:
        return np.array([getattr(everything[which], column)[i] for i, which in enumerate(best)])

    return Result(result.scenario, chosen("plans"), chosen("latency_s"), chosen("accuracy"), chosen("energy_j"), result.deadline_s)

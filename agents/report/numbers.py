"""The numbers behind each panel and each row of the table, taken from runs and requests; nothing here draws."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cutlayer.agents import judge, score
from cutlayer.agents.evaluate import FEWEST_MISSES
from cutlayer.agents.report import played

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from cutlayer.agents.report.gather import Trained
    from cutlayer.agents.report.played import Requests, Section
    from cutlayer.agents.standings import Standing, Standings

BINS = 8  # our choice: of equal counts; 1,000 requests in each of 40 episodes' 8,000


@dataclass(frozen=True, slots=True)
class Row:
    """A policy's line in the table: of its median seed; SI units. miss_rate is None where so few misses tell no rate."""

    policy: str
    kind: str
    seeds: int
    score: float | None
    score_low: float | None
    score_high: float | None
    score_worst: float | None
    reward_mean: float
    miss_rate: float | None
    miss_low: float
    miss_high: float
    latency_p50_s: float
    latency_p95_s: float
    latency_p99_s: float
    accuracy: float
    energy_j: float


def rows(stood: Standings) -> list[Row]:
    """The table, best first."""
    return sorted((_row(stood, one) for one in stood.policies.values()), key=lambda row: (-row.reward_mean, row.policy))


def _row(stood: Standings, one: Standing) -> Row:
    figures, found = one.run.figures, one.score
    low, high = found.interval or (None, None)
    return Row(
        one.run.policy,
        played.kind_of(one.run.policy),
        one.seeds,
        found.value,
        low,
        high,
        one.worst,
        float(stood.rewards(one).mean()),
        figures["miss_rate"] if figures["misses"] >= FEWEST_MISSES else None,
        figures["miss_ci95"][0],
        figures["miss_ci95"][1],
        figures["latency_p50_s"],
        figures["latency_p95_s"],
        figures["latency_p99_s"],
        figures["accuracy"],
        figures["energy_j"],
    )


def headline(stood: Standings) -> str:
    """What won, by how much, and how sure that is, in a sentence."""
    learners, rules = played.ranked(stood, "learner"), played.ranked(stood, "rule")
    scale = stood.policies.get(judge.CLAIRVOYANT)
    if scale is not None and scale.score.value is None:
        return f"Nothing to choose here: {_unheaded(scale.score.note)}."
    if not learners and not rules:
        return f"Only {next(iter(stood.policies))} was run: there is nothing to hold against it."
    if not learners or not rules:
        best = (learners or rules)[0]
        own = best.run.policy == best.score.simple
        reached = f"at {signed(best.run.mean)} of mean reward" + (", the score's 0" if own else f" with {_score_words(best)}")
        return f"{best.run.policy} is the best of what was run, {reached}; {_no_rival(learners)}."
    learner, rule = learners[0], rules[0]
    apart, low, high = score.difference(stood.rewards(learner), stood.rewards(rule), stood.over)
    interval = f"{signed(apart)} [{signed(low)}, {signed(high)}] of mean reward"
    reach, of_rule = (f"It reaches {_score_words(one)}" if one.score.value is not None else "No score was given" for one in (learner, rule))
    if low > 0.0:
        return f"{learner.run.policy} beats every rule: {interval} above {rule.run.policy}, the best of them. {reach}."
    if high < 0.0:
        return f"{rule.run.policy}, a rule, wins: {learner.run.policy}, the best learner, is at {interval} against it. {of_rule}."
    return f"{learner.run.policy} and {rule.run.policy}, the best rule, are not told apart: {interval}. {reach}."


def _unheaded(note: str | None) -> str:
    return (note or "no score").removeprefix("no headroom: ")


def _no_rival(learners: Sequence[Standing]) -> str:
    return "no rule was run beside it" if learners else "no learner was run beside it"


def _score_words(one: Standing) -> str:
    if one.score.value is None:
        return "no score"
    ends = "" if one.score.interval is None else f" [{_percent(one.score.interval[0])}, {_percent(one.score.interval[1])}]"
    return f"{_percent(one.score.value)} %{ends} of what a clairvoyant gains over {one.score.simple}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f}".replace("-", "−")


def signed(value: float) -> str:
    """With its sign, a true minus, to the places that the intervals of rewards deserve."""
    return f"{value:+.4f}".replace("-", "−")


@dataclass(frozen=True, slots=True)
class Gap:
    """Mean reward that a policy leaves to the clairvoyant, with its interval."""

    policy: str
    mean: float
    low: float
    high: float


def gaps(stood: Standings) -> list[Gap]:
    """Of every policy but the clairvoyant, the smallest first."""
    found = [
        Gap(name, *score.difference(stood.top, stood.rewards(one), stood.over))
        for name, one in stood.policies.items()
        if name != judge.CLAIRVOYANT
    ]
    return sorted(found, key=lambda gap: (gap.mean, gap.policy))


@dataclass(frozen=True, slots=True)
class Curves:
    """The looks of all seeds of one learner: requests learned from, and mean reward of each seed at each look, (seeds, looks)."""

    name: str
    steps: NDArray[np.float64]
    reward: NDArray[np.float64]

    @property
    def median(self) -> NDArray[np.float64]:
        """Over seeds."""
        found: NDArray[np.float64] = np.median(self.reward, axis=0)
        return found


def curves(trained: Sequence[Trained]) -> list[Curves]:
    """Of every learner; where seeds looked at different times, each is read at the times of the first, up to where all have come."""
    of: dict[str, list[Trained]] = {}
    for one in trained:
        if len(one.curve) > 1:
            of.setdefault(one.name, []).append(one)
    found = []
    for name, group in of.items():
        reached = min(one.curve[-1].steps for one in group)
        steps = np.array([look.steps for look in group[0].curve if look.steps <= reached], float)
        seeds = [np.interp(steps, [look.steps for look in one.curve], [look.reward_mean for look in one.curve]) for one in group]
        if len(steps) > 1:
            found.append(Curves(name, steps, np.array(seeds)))
    return sorted(found, key=lambda one: (-one.median[-1], one.name))


def edges(condition: NDArray[np.float64]) -> NDArray[np.float64]:
    """Edges of at most `BINS` bins of about equal counts; a value that many requests met fills a bin of its own."""
    found: NDArray[np.float64] = np.unique(np.quantile(condition, np.linspace(0.0, 1.0, BINS + 1)))
    return found


def usage(requests: Requests, of_plan: NDArray[np.int64], condition: NDArray[np.float64], at: NDArray[np.float64]) -> NDArray[np.float64]:
    """How often each kind of plan was chosen while a condition lay between two edges: (kinds, bins), each bin adds up to 1.

    of_plan (plans,) has the kind of every plan; a bin that no request fell into is all zero.
    """
    chosen = of_plan[requests.result.plans].ravel()
    where = np.clip(np.searchsorted(at, condition.ravel(), side="right") - 1, 0, len(at) - 2)
    counts = np.zeros((int(of_plan.max()) + 1, len(at) - 1))
    np.add.at(counts, (chosen, where), 1.0)
    total = counts.sum(axis=0)
    share: NDArray[np.float64] = counts / np.where(total > 0, total, 1.0)
    return share


def latencies(requests: Requests) -> tuple[NDArray[np.float64], bool]:
    """Latencies in order, in seconds; or as shares of each request's own deadline, where these differ (then True)."""
    result = requests.result
    if result.deadline_s is None:
        return np.sort(result.latency_s.ravel()), False
    return np.sort((result.latency_s / result.deadline_s).ravel()), True


def in_time(requests: Requests) -> float:
    """Share of requests that were answered by their deadline."""
    return float(1.0 - requests.result.late.mean())


def order(section: Section) -> list[str]:
    """Policies whose requests are at hand, in the order of the panels: learners, rules, who knows the future."""
    return [name for name in played.shown(section.stood) if name in section.requests]

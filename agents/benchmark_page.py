"""The benchmark's page: Markdown from the runs of a folder, no figure by hand, verdicts in words drawn from the same numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cutlayer.agents import evaluate, score, standings, worlds
from cutlayer.agents.benchmark import CAUSAL, OUTAGE_SHARE
from cutlayer.agents.worlds import DRIFTING, WORLDS
from cutlayer.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from cutlayer.agents.score import Score
    from cutlayer.agents.standings import Run, Standing, Standings

SPREAD = 0.10  # of the score, that the worst seed may lie under the median one: the project's bar for what ships
CERTAIN = 0.05  # of a rank test

HEAD = """# Benchmark

What each policy reaches on each world, beside everything it has to be held against. Drawn by `make benchmark` from the runs of its
folder; no figure here is written by hand.

*Score*: 0 is the best of device-only, edge-only, best-static, greedy-last and greedy-ewma on the same episodes; 1 is the clairvoyant, a
search on the true future, in each episode improved to the best that any run reached (its latencies and knobs are the search's own).
*Causal share*: the same with 1 at what a planner on an exact filter reaches without knowing the future, where the world's laws allow
one. *Apart*: mean reward less that of {rival}. Of learners, and of rules that are tuned with a seed, the median seed stands here; the
best rule and the best learner of a world are those with the highest mean on these episodes.

Brackets are 95 % intervals: bootstrap over whole episodes, of all policies together, or over whole drives where a world replays
{fewest} or more; of misses Wilson's, which takes requests for independent. With fewer than {misses} misses no rate is given, only what
it is below. [What was tried](tried.md) where no learner wins has a page of its own.
"""
OVERVIEW = f"""## In short

| world | headroom | 0 is | best rule | best learner | {standings.RIVAL} | in words |
|---|---|---|---|---|---|---|
"""
TABLE = """| policy | seeds | score | causal share | reward | apart | missed | p50, p95, p99 ms | accuracy | mJ |
|---|---|---|---|---|---|---|---|---|---|
"""
KNOBS = """## Without a knob

What the clairvoyant loses in mean reward where one knob is held at its best value, chosen on these very episodes: one exit; no cut inside
the network; one bit width for every tensor. A search is a lower bound, so a loss is an upper one.

| world | exit | partition | bits |
|---|---|---|---|
"""
CLAIM = """## The papers' claim

On a link and a device load that both drift, a joint choice is to lie between the oracle and {device-only, edge-only, one static plan}, and
bits and exit are to fall as the rate falls.
"""
TRENDS = """| policy | exit: rank correlation with the rate | p | bits | p |
|---|---|---|---|---|
"""
SHIFTED = """
Plans are shifted against rates in a circle within each episode; p counts shifts that correlate as much. Bits are 0 where nothing is sent.
"""


def page(folder: Path) -> str:
    """The whole page; worlds whose references are not there yet are left out, and named at its end.

    Raises:
        ConfigError: no runs, one that cannot be read, or no world with references.
    """
    found = standings.load(folder)
    stood, missing = [], []
    for name in sorted(found, key=lambda name: (WORLDS.index(name) if name in WORLDS else len(WORLDS), name)):
        try:
            stood.append(standings.stand(found[name]))
        except ConfigError as error:
            missing.append(str(error))
    if not stood:
        raise ConfigError("; ".join(missing))
    runs = [run for of in found.values() for run in of]
    parts = [
        HEAD.format(rival=f"`{standings.RIVAL}`", fewest=score.FEWEST_DRIVES, misses=evaluate.FEWEST_MISSES),
        _overview(stood),
        *(_world(one) for one in stood),
        _knobs(stood),
        _claim(stood),
        "\n".join(f"Left out: {line}." for line in missing),
        _made(runs),
    ]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def _made(runs: list[Run]) -> str:
    """Commits, days, machines and commands."""
    days = sorted(run.made_at[:10] for run in runs)
    commits, cpus, commands = (
        sorted(of) for of in ({r.commit for r in runs}, {str(r.machine.get("cpu")) for r in runs}, {r.command for r in runs})
    )
    how = f"{len(runs)} runs, {days[0]} to {days[-1]}, on {', '.join(cpus)}, at commit {', '.join(commits)}:"
    return "\n".join(["## How it was made", "", how, "", *(f"    {command}" for command in commands)])


def _overview(stood: list[Standings]) -> str:
    return OVERVIEW + "\n".join(_line(one) for one in stood)


def _line(one: Standings) -> str:
    """A world's row in the overview."""
    scale, rival = one.scale, one.policies.get(standings.RIVAL)
    return _cells(
        f"[{one.world}](#{_anchor(one.world)})",
        f"{scale.headroom:.1%}",
        scale.simple,
        _named(one.of_kind("rule")),
        _named(one.of_kind("learner")),
        _value(rival.score) if rival else "",
        verdict(one),
    )


def _cells(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _anchor(title: str) -> str:
    return title.replace("+", "")


def _named(ranked: list[Standing]) -> str:
    return f"{ranked[0].run.policy} {_value(ranked[0].score)}" if ranked else ""


def _value(found: Score) -> str:
    return "" if found.value is None else f"{found.value:.2f}"


def verdict(one: Standings) -> str:
    """Who wins, in plain words: the best learner against the best rule, by their paired difference."""
    learners, rules = one.of_kind("learner"), one.of_kind("rule")
    if not learners or not rules:
        return ""
    learner, rule = learners[0].run, rules[0].run
    if learners[0].score.value is None:
        return "nothing to gain beyond a simple rule"
    apart, low, high = score.difference(one.rewards(learners[0]), one.rewards(rules[0]), one.over)
    said = f"{apart:+.4f} [{low:+.4f}, {high:+.4f}]"
    if low > 0.0:
        return f"{learner.policy} lies above every rule; above {rule.policy}, the best, by {said}"
    if high < 0.0:
        return f"**{rule.policy} wins**: {learner.policy}, the best learner, is {said} of it"
    return f"**{rule.policy} ties** with {learner.policy}, the best learner: {said}"


def _world(one: Standings) -> str:
    run, scale, claim = one.any_run, one.scale, worlds.claim(one.world)
    ends = f"0 is {scale.simple} at {scale.simple_value:.4f}, 1 the clairvoyant at {scale.top_value:.4f}: headroom {scale.headroom:.1%}."
    if scale.value is None:
        ends += f" **{scale.note}.**"
    said = [claim] if claim else []
    said += [f"{len(run.rewards)} episodes; link: {run.inputs or 'generated'}. Intervals {one.over.words()}.", ends]
    rows = [_row(standing) for kind in ("rule", "learner", "oracle") for standing in one.of_kind(kind)]
    return "\n\n".join([f"## {one.world}", *said, TABLE + "\n".join(rows), "\n".join(_notes(one))])


def _row(standing: Standing) -> str:
    run, figures = standing.run, evaluate.resolved(standing.run.figures)
    low, high = figures["miss_ci95"]
    missed = f"< {high:.2%}" if figures["miss_rate"] is None else f"{figures['miss_rate']:.2%} [{low:.2%}, {high:.2%}]"
    apart = "" if standing.apart is None else f"{standing.apart[0]:+.4f} [{standing.apart[1]:+.4f}, {standing.apart[2]:+.4f}]"
    times = ", ".join(f"{1e3 * figures[f'latency_{p}_s']:.1f}" for p in ("p50", "p95", "p99"))
    worst = "" if standing.worst is None else f", worst {standing.worst:.2f}"
    share = "" if standing.share is None else _scored(standing.share)
    reward = standing.score.top_value if run.policy == "clairvoyant" else run.mean
    return _cells(
        run.policy,
        str(standing.seeds),
        _scored(standing.score) + worst,
        share,
        f"{reward:.4f}",
        apart,
        missed,
        times,
        f"{figures['accuracy']:.4f}",
        f"{1e3 * figures['energy_j']:.1f}",
    )


def _scored(found: Score) -> str:
    if found.value is None:
        return "no headroom"
    return f"{found.value:.2f}" if found.interval is None else f"{found.value:.2f} [{found.interval[0]:.2f}, {found.interval[1]:.2f}]"


def _notes(one: Standings) -> list[str]:
    """What the table does not show: seeds that collapsed, episodes with outages, runs of another world."""
    notes = [
        f"- The worst seed of {standing.run.policy} lies {standing.score.value - standing.worst:.2f} under its median one."
        for standing in one.of_kind("learner")
        if standing.worst is not None and standing.score.value is not None and standing.worst < standing.score.value - SPREAD
    ]
    outage = np.array(one.any_run.outage)
    if one.over.drives and outage.any() and not outage.all():
        best = [standing for kind in ("rule", "learner", "oracle") for standing in one.of_kind(kind)[:2]]
        said = [
            f"{standing.run.policy} {one.rewards(standing)[outage].mean():.3f} and {one.rewards(standing)[~outage].mean():.3f}"
            for standing in best
        ]
        which = f"- In the {outage.sum()} episodes with outages for over {OUTAGE_SHARE:.0%} of their time and in the others: "
        notes.append(f"{which}{', '.join(said)}.")
    if one.stale:
        notes.append(f"- Left out, for their world has changed since: {', '.join(one.stale)}.")
    return notes


def _knobs(stood: list[Standings]) -> str:
    """What the clairvoyant loses without each knob."""
    rows = [_cells(one.world, *(_loss(one, knob) for knob in ("exit=", "uncut", "bits="))) for one in stood if one.held]
    return KNOBS + "\n".join(rows) if rows else ""


def _loss(one: Standings, knob: str) -> str:
    """The loss with a knob held at its best value, and that value."""
    held = {name: rewards for name, rewards in one.held.items() if name.startswith(knob)}
    if not held:
        return ""
    name = max(held, key=lambda value: held[value].mean())
    loss, low, high = score.difference(one.top, held[name], one.over)
    return f"{loss:.4f} [{low:.4f}, {high:.4f}] at {name.replace('=', ' ')}"


def _claim(stood: list[Standings]) -> str:
    """The claim of the joint-optimisation papers, as far as it can be put: who is above whom, and whether the knobs follow the link."""
    drifting = next((one for one in stood if one.world == DRIFTING), None)
    if drifting is None:
        return ""
    simple = [drifting.policies[name] for name in ("device-only", "edge-only", "best-static") if name in drifting.policies]
    said = []
    for learner in drifting.of_kind("learner"):
        apart = {one.run.policy: score.difference(drifting.rewards(learner), drifting.rewards(one), drifting.over) for one in simple}
        under = [name for name, (_, low, _) in apart.items() if low <= 0.0]
        holds = f"not surely above {', '.join(under)}" if under else "above all three"
        said.append(f"- {learner.run.policy}: {holds}; score {_scored(learner.score)}.")
    rows = [
        _cells(one.run.policy, *(cell for knob in ("exit", "bits") for cell in _trend(one.run.trend[knob])))
        for one in [*drifting.of_kind("learner"), *drifting.of_kind("oracle")]
        if one.run.policy != CAUSAL
    ]
    return "\n".join([CLAIM, *said, "", TRENDS + "\n".join(rows), SHIFTED])


def _trend(found: dict[str, float]) -> tuple[str, str]:
    sure = "" if found["p"] <= CERTAIN else " (not told from chance)"
    return f"{found['rho']:+.2f}{sure}", f"{found['p']:.3f}"

"""Prices and margins by seeded random search on tuning episodes, the same budget for either rule.

A trial plays all tuning episodes in compiled code. The first trials are spread over the whole box, the later ones change a few numbers of
the best one found; so a run is repeated exactly by its seed.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from msgspec.structs import replace

from cutlayer.agents.bayes import fit
from cutlayer.agents.bayes.compiled import Compiled
from cutlayer.agents.episodes import TUNING
from cutlayer.envs.batch import Bank
from cutlayer.runtime.filters import Aging, Arrivals
from cutlayer.runtime.priced import Parameters, Priced, Prices

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from cutlayer.envs.simulation import View
    from cutlayer.envs.spec import Scenario

Kind = Literal["belief-greedy", "bayes-greedy"]

TRIALS = 120  # our choice: 120 trials on 40 episodes cost 5 to 30 CPU-seconds
SPREAD = 0.4  # share of trials over the whole box; the others search near the best one
CHANGED = 0.3  # chance that a number is changed near the best one
NEAR = (0.25, 0.05)  # deviation of such a change, of the box's width: falls from the first to the last trial
FIRST = 10  # episodes after which a trial may be given up
BEHIND = 2.0  # standard errors that it must be behind by then
_OFF = 0.15  # share of a price's range that means none


@dataclass(frozen=True, slots=True)
class Axis:
    """One number to tune: from `low` to `high` on a logarithmic scale; `price`: or 0. `start` is the place of trial 0, from 0 to 1."""

    low: float
    high: float
    start: float
    price: bool = False

    def value(self, place: float) -> float:
        """The number at a place from 0 to 1."""
        if self.price:
            if place < _OFF:
                return 0.0
            place = (place - _OFF) / (1.0 - _OFF)
        return float(self.low * (self.high / self.low) ** place)


def _factor(width: float) -> Axis:
    """A factor on a fitted number, 1 in the middle."""
    return Axis(1.0 / width, width, 0.5)


# Ranges are our choice: a price at its upper end rules out whatever it is put on.
DEVICE_PRICE = Axis(0.05, 50.0, 0.0, price=True)  # per second: 20 ms of work at 5 cost 0.1
BACKLOG = Axis(0.1, 30.0, 0.0, price=True)
BYTE_PRICE = Axis(1e-8, 3e-5, 0.0, price=True)  # 10 kB at 1e-5 cost 0.1
SAFETY = Axis(0.005, 0.3, 0.0, price=True)
JOULE_PRICE = Axis(0.05, 50.0, 0.0, price=True)
COLD = Axis(0.01, 1.0, 1.0)


def bayes_axes(fitted: Parameters, scenario: Scenario) -> dict[str, Axis]:
    """What is tuned about the Bayes greedy: shadow prices, a margin, and factors on what was fitted."""
    axes = {
        "device_s": DEVICE_PRICE, "backlog": BACKLOG, "byte": BYTE_PRICE, "probe": Axis(1e-3, 1.0, 0.0, price=True), "safety": SAFETY,
    }  # fmt: skip
    if fitted.arrivals.calm_per_s != fitted.arrivals.burst_per_s:
        axes["burst"] = Axis(0.1, 30.0, 0.0, price=True)
    if max(fitted.link.sd) > 0.0:
        axes |= {"median": _factor(2.0), "spread": _factor(3.0), "memory": _factor(4.0)}
    if fitted.link.block > 0.0:
        axes["block"] = _factor(4.0)
    return axes | _axes_of(scenario)


def belief_axes(fitted: Parameters, scenario: Scenario) -> dict[str, Axis]:
    """What is tuned about the belief greedy: how readings age, margins, and shadow prices."""
    axes = {
        "prior": _factor(8.0), "rate_memory": Axis(0.05, 20.0, 0.5), "newest": Axis(0.01, 1.0, 0.0, price=True),
        "running": Axis(0.01, 1.0, 0.0, price=True), "caution": Axis(0.02, 2.0, 0.5, price=True),
        "old_caution": Axis(0.02, 3.0, 0.5, price=True), "safety": SAFETY,
        "device_s": DEVICE_PRICE, "backlog": BACKLOG, "byte": BYTE_PRICE,
    }  # fmt: skip
    if fitted.link.told:
        del axes["newest"], axes["running"]  # the rate itself is known
    if fitted.device.busy != fitted.device.calm:
        axes |= {"slow": Axis(0.7, 2.0, 0.34), "slow_memory": _factor(4.0)}
    if max(fitted.edge.waits_s) > 0.0:
        axes["wait_memory"] = _factor(8.0)
    return axes | _axes_of(scenario)


def _axes_of(scenario: Scenario) -> dict[str, Axis]:
    axes: dict[str, Axis] = {}
    if scenario.battery is not None:
        axes |= {"joule": JOULE_PRICE, "charge": Axis(0.01, 3.0, 0.0, price=True)}
    if scenario.memory is not None:
        axes["cold"] = COLD
    return axes


def bayes(fitted: Parameters, scenario: Scenario, found: dict[str, float]) -> Parameters:
    """The fitted model with what a trial found."""
    link = fitted.link
    median, spread, memory = (found.get(name, 1.0) for name in ("median", "spread", "memory"))
    # What differs between drives is not stretched: it has no memory to speak of.
    link = replace(
        link,
        median_bps=link.median_bps * median,
        sd=(link.sd[0], link.sd[1] * spread, link.sd[2] * spread),
        memory_s=(link.memory_s[0], link.memory_s[1] * memory, link.memory_s[2] * memory),
        block=min(link.block * found.get("block", 1.0), 0.5),
    )
    return replace(fitted, link=link, prices=_prices(scenario, found), loads=_loads(fitted, scenario, found))


def belief(fitted: Parameters, scenario: Scenario, found: dict[str, float]) -> Parameters:
    """The aged rate with what a trial found."""
    aging = Aging(
        fitted.link.median_bps * found["prior"], found["rate_memory"], found.get("newest", 0.0), found.get("running", 0.0),
        found["caution"], found["old_caution"],
    )  # fmt: skip
    device = replace(fitted.device, memory_s=fitted.device.memory_s * found.get("slow_memory", 1.0))
    edge = replace(fitted.edge, memory_s=fitted.edge.memory_s * found.get("wait_memory", 1.0))
    return replace(
        fitted, aging=aging, arrivals=Arrivals(), device=device, edge=edge, prices=_prices(scenario, found),
        loads=_loads(fitted, scenario, found),
    )  # fmt: skip


def _prices(scenario: Scenario, found: dict[str, float]) -> Prices:
    joule = found.get("joule", 0.0)
    full_j = 1.0 if scenario.battery is None else scenario.battery.capacity_j
    return Prices(
        device_s=found["device_s"],
        backlog=found["backlog"],
        burst=found.get("burst", 0.0),
        byte=found["byte"],
        joule=joule,
        charge_j=joule * found.get("charge", 0.0) / full_j,
        probe=found.get("probe", 0.0),
        safety=found["safety"],
        slow=found.get("slow", 1.0),
    )


def _loads(fitted: Parameters, scenario: Scenario, found: dict[str, float]) -> object:
    return fit.loads_of(scenario, found["cold"]) if "cold" in found else fitted.loads


def search(
    play: Callable[[dict[str, float], NDArray[np.int64]], NDArray[np.float64]],
    episodes: int,
    axes: dict[str, Axis],
    seed: int,
    trials: int = TRIALS,
) -> tuple[dict[str, float], float]:
    """The best point of a seeded random search and its mean reward; ties go to the earlier one.

    `play` gives the mean reward of each of the named episodes. A trial that is clearly behind the best one after the first few
    episodes, each compared with the same one, plays no more of them.
    """
    rng = np.random.default_rng(seed)
    names = list(axes)
    early, late = np.arange(min(FIRST, episodes)), np.arange(min(FIRST, episodes), episodes)

    def values(places: NDArray[np.float64]) -> dict[str, float]:
        return {name: axes[name].value(float(place)) for name, place in zip(names, places, strict=True)}

    best = np.array([axes[name].start for name in names])
    rewards = np.concatenate([play(values(best), early), play(values(best), late)])
    for trial in range(1, trials):
        if trial < SPREAD * trials:
            places = rng.uniform(size=len(names))
        else:
            done = (trial - SPREAD * trials) / (trials - SPREAD * trials)
            changed = rng.uniform(size=len(names)) < CHANGED
            changed[rng.integers(len(names))] = True
            step = NEAR[0] * (NEAR[1] / NEAR[0]) ** done
            places = np.clip(best + changed * rng.normal(0.0, step, len(names)), 0.0, 1.0)
        point = values(places)
        first = play(point, early)
        behind = rewards[early] - first
        if behind.mean() > BEHIND * behind.std() / math.sqrt(len(early)):
            continue
        found = np.concatenate([first, play(point, late)])
        if found.mean() > rewards.mean():
            best, rewards = places, found
    return values(best), float(rewards.mean())


@dataclass(frozen=True, slots=True)
class Tuned:
    """A tuned rule as a policy: what `Priced` decides from the view's readings. `parameters` travel in a bundle."""

    parameters: Parameters
    tuning_reward: float
    rule: Priced

    def begin(self) -> None:
        """Forget the last episode."""
        self.rule.begin()

    def act(self, view: View) -> int:
        """The plan."""
        return self.rule.choose(view.readings, view.now_s, view.acked_bytes())[0]


_CACHE: dict[tuple[str, int, Kind, int], tuple[Parameters, float]] = {}


def tuned(scenario: Scenario, seed: int, kind: Kind, trials: int = TRIALS, episodes: Sequence[int] = TUNING) -> Tuned:
    """The rule fitted and tuned on `episodes` of a training scenario; found once for each scenario, seed and kind in a process."""
    bank = Bank.draw(scenario, episodes)
    key = (_digest(scenario, bank), seed, kind, trials)
    if key not in _CACHE:
        fitted = fit.parameters(scenario, episodes)
        axes, build = (bayes_axes(fitted, scenario), bayes) if kind == "bayes-greedy" else (belief_axes(fitted, scenario), belief)
        played = Compiled(scenario, bank)
        found, most = search(lambda point, some: played.play(build(fitted, scenario, point), some), len(bank), axes, seed, trials)
        _CACHE[key] = (build(fitted, scenario, found), most)
    parameters, most = _CACHE[key]
    return Tuned(parameters, most, Priced(scenario.plans, scenario.path, scenario.objective, parameters))


def _digest(scenario: Scenario, bank: Bank) -> str:
    """Of all that a tuned rule depends on: plans, path, objective, margin, and the episodes themselves."""
    of = hashlib.sha256(scenario.plans.digest().encode())
    of.update(repr((scenario.path, scenario.objective, scenario.cancel_margin_s, scenario.link, scenario.edge)).encode())
    extra = () if bank.extra is None else tuple(bank.extra)
    for array in (bank.arrivals, bank.table, bank.parameters, bank.rate, bank.slow_down, bank.job_arrival, bank.job_work, *extra):
        of.update(np.ascontiguousarray(array).tobytes())
    return of.hexdigest()

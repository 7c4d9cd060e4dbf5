"""The causal bound: what a planner reaches that knows the world's laws exactly, but of its future only what its telemetry tells.

At each request the best few plans by the priced one-step rule are tried on the same sampled futures: the link from the filter's
posterior, the arrivals from theirs. In each future the rule goes on for a few requests with its filter updated by what it would see
there. A step counts with its expected reward under the belief that it is taken with, not with what that future makes of it: misses
are rare and dear, and raw sums of them drown the difference of two plans in noise. The plan with the highest mean sum is taken.

It is one step of policy improvement on a rule that is near the best, no proof of optimality. `told` is a relaxation: the planner is
told the present state of the link exactly at each request; no policy that is not told can be expected above the best one that is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cutlayer.agents.bayes import compiled, tuning
from cutlayer.agents.bayes.fit import LEVEL_SD, SURE_SD
from cutlayer.agents.bayes.rollouts import plan_episodes
from cutlayer.agents.episodes import TUNING
from cutlayer.agents.evaluate import Result
from cutlayer.envs.batch import Bank
from cutlayer.envs.channels import Cellular, GilbertElliott
from cutlayer.envs.workload import Bursty, EdgeJobs, Poisson, SlowDown
from cutlayer.errors import ConfigError
from cutlayer.runtime import telemetry as tm
from cutlayer.runtime.filters import Arrivals, Link
from cutlayer.runtime.priced import Edge, Parameters

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from cutlayer.envs.spec import Scenario

# Futures for each decision, and requests that the rule goes on for: our choice, 8 to 12 ms a decision.
SAMPLES, HORIZON = 64, 6
PRICES = ("device_s", "backlog", "burst", "byte", "probe", "safety")  # what is tuned on top of an exact model


class Planner:
    """Plans episodes of a scenario whose laws are known; `samples` 0 is the priced rule with the exact filter.

    Raises:
        ConfigError: the scenario has something that the planner's world lacks.
    """

    def __init__(self, scenario: Scenario, episodes: Sequence[int]) -> None:
        self.scenario, self.parameters = scenario, exact(scenario)
        self.bank = Bank.draw(scenario, episodes)
        self._played = compiled.Compiled(scenario, self.bank)

    def play(
        self,
        parameters: Parameters,
        *,
        told: bool = False,
        samples: int = 0,
        horizon: int = 5,
        seed: int = 0,
        episodes: NDArray[np.int64] | None = None,
    ) -> NDArray[np.float64]:
        """Mean reward of each of the given episodes of the bank, of all unless given."""
        scenario, bank, played = self.scenario, self.bank, self._played
        chosen = np.arange(len(bank)) if episodes is None else episodes
        rewards = np.empty(len(bank))
        plan_episodes(
            told, samples, horizon, seed, np.array(parameters.numbers(scenario.path, scenario.objective)), played.sizes,
            compiled.loads_table(parameters, len(bank.table)), played.order, played.rank, scenario.objective.numbers(), chosen,
            bank.arrivals, bank.table, bank.parameters, bank.rate, bank.carried, bank.slow_down, bank.job_arrival, bank.job_work,
            bank.job_bound, np.zeros(tm.SIZE), played.rows, played.plans, played.latency_s, played.accuracy, played.energy_j, rewards,
        )  # fmt: skip
        return rewards[chosen]

    def result(self) -> Result:
        """What the last `play` of all episodes did."""
        played = self._played
        return Result(self.scenario, played.plans, played.latency_s, played.accuracy, played.energy_j)


def exact(scenario: Scenario) -> Parameters:
    """The laws of a scenario as the filter knows them, prices of zero.

    Raises:
        ConfigError: they are not of the kind that the filter is exact for.
    """
    channel, arrivals, slot_s = scenario.channel, scenario.arrivals, scenario.slot_s

    def must(holds: bool, what: str) -> None:  # noqa: FBT001 - a claim
        if not holds:
            raise ConfigError(f"no causal bound for {scenario.name}: {what}")

    must(scenario.plain and not scenario.link.rate_told and scenario.link.loss == 0.0, "its world has more than link, device and edge")
    must(isinstance(scenario.slow_down, SlowDown) and scenario.slow_down.busy_share == 0.0, "its device slows down")
    must(isinstance(scenario.edge_jobs, EdgeJobs) and scenario.edge_jobs.rate_per_s == 0.0, "its edge has other work")
    if isinstance(channel, GilbertElliott):
        unblock, share = min(1.0, slot_s / channel.bad_s), channel.bad_s / (channel.good_s + channel.bad_s)
        link = Link(
            channel.good_bps, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), SURE_SD, min(1.0, unblock * share / (1.0 - share)), unblock,
            max(channel.bad_bps, tm.SLOWEST_BPS), LEVEL_SD, slot_s,
        )  # fmt: skip
    else:
        must(isinstance(channel, Cellular) and channel.drive_spread == channel.outage_share == 0.0, "its link is of another kind")
        assert isinstance(channel, Cellular)
        link = Link(channel.median_bps, (0.0, channel.spread, 0.0), (1.0, channel.decorrelation_s, 1.0), SURE_SD, step_s=slot_s)
    if isinstance(arrivals, Bursty) and len(arrivals.rates_per_s) == 2:
        (calm, burst), (calm_s, burst_s) = arrivals.rates_per_s, arrivals.stays_s
        come = Arrivals(calm, burst, calm_s, burst_s)
    else:
        must(isinstance(arrivals, Poisson), "its arrivals are of another kind")
        assert isinstance(arrivals, Poisson)
        come = Arrivals(arrivals.rate_per_s, arrivals.rate_per_s)
    platform = scenario.edge.platform
    return Parameters(link, scenario.cancel_margin_s, come, edge=Edge(work_factor=platform.work_factor, request_s=platform.request_s))


def priced(
    scenario: Scenario, seed: int, *, told: bool = False, trials: int = tuning.TRIALS, episodes: Sequence[int] = TUNING
) -> Parameters:
    """The exact model with prices tuned on `episodes`; where `told`, for a device that knows the present state of the link."""
    planner = Planner(scenario, episodes)
    axes = {name: axis for name, axis in tuning.bayes_axes(planner.parameters, scenario).items() if name in PRICES}

    def with_prices(found: dict[str, float]) -> Parameters:
        return tuning.bayes(planner.parameters, scenario, found)

    found, _ = tuning.search(
        lambda point, some: planner.play(with_prices(point), told=told, episodes=some), len(planner.bank), axes, seed, trials
    )
    return with_prices(found)


def causal(
    scenario: Scenario, episodes: Sequence[int], seed: int = 0, *, told: bool = False, samples: int = SAMPLES, horizon: int = HORIZON
) -> Result:
    """The planner's result on `episodes`, its rule tuned on the tuning episodes.

    Raises:
        ConfigError: the scenario's laws are not of the kind that the filter is exact for.
    """
    planner = Planner(scenario, episodes)
    planner.play(priced(scenario, seed, told=told), told=told, samples=samples, horizon=horizon, seed=seed)
    return planner.result()

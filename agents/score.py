"""How much of what could be gained a policy gains, and how sure that is.

    score = (J - J_simple) / (J_top - J_simple)        J: mean reward of a request, on the same episodes for all

0 is the best of the simple policies, chosen on these very episodes: the policy is not flattered. 1 is the clairvoyant; or, as a second
score, what a causal policy can reach. Where the gap is under 1 % of the simple value there is nothing to score.

Intervals are bootstrap percentiles (Efron 1979) over whole episodes, of all policies together, because what one episode is like moves
every policy on it; where a scenario replays measured drives, over whole drives, for two episodes of one drive are not two drives.
"""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cutlayer.envs.channels import Trace
from cutlayer.envs.streams import draw

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from cutlayer.envs.spec import Scenario

SIMPLE = ("device-only", "edge-only", "best-static", "greedy-last", "greedy-ewma")
HEADROOM = 0.01  # share of the simple value: under it scores are noise (our study: gaps of 0.3 and 0.8 % gave scores from -31 to 97 %)
RESAMPLES = 4_000  # the ends of a 95 % interval then rest on 100 of them
SEED = 20_260  # our choice: the same interval every time
# With fewer drives, resampling them says nothing: of four, one resample in 64 holds a single drive.
FEWEST_DRIVES = 5


@dataclass(frozen=True, slots=True)
class Units:
    """What is resampled: `of` holds the number of each episode's unit, 0 to count - 1. drives: how many drives were replayed, 0: none."""

    of: NDArray[np.int64]
    count: int
    drives: int = 0

    @property
    def kind(self) -> str:
        """`drive` or `episode`."""
        return "drive" if self.count == self.drives and self.drives >= FEWEST_DRIVES else "episode"

    def words(self) -> str:
        """What an interval over them speaks of."""
        if self.kind == "drive":
            return f"over {self.count} drives"
        if self.drives:
            drives = "1 drive" if self.drives == 1 else f"{self.drives} drives"
            return f"over {self.count} episodes of {drives}: it says nothing of other drives"
        return f"over {self.count} episodes"


def episodes(count: int) -> Units:
    """Every episode by itself."""
    return Units(np.arange(count), count)


def units(replayed: Sequence[str] | None, count: int) -> Units:
    """What to resample of `count` episodes: the drives that they replay (`drives`), where these are enough; else the episodes."""
    if replayed is None:
        return episodes(count)
    found, of = np.unique(replayed, return_inverse=True)
    if len(found) < FEWEST_DRIVES:
        return dataclasses.replace(episodes(count), drives=len(found))
    return Units(of, len(found), len(found))


def drives(scenario: Scenario, seeds: Sequence[int]) -> list[str] | None:
    """The drive that each episode replays; None where the link is generated."""
    if not isinstance(scenario.channel, Trace):
        return None
    asked = _Asked(scenario.channel, [])
    watched = dataclasses.replace(scenario, channel=asked)
    for seed in seeds:
        draw(watched, seed)
    return asked.names


@dataclass(frozen=True, slots=True)
class _Asked:
    """A trace that notes which drive it is asked to replay: the first thing that it draws."""

    trace: Trace
    names: list[str]

    def draw(self, rng: np.random.Generator, slots: int, slot_s: float) -> NDArray[np.float64]:
        """See `Channel`."""
        self.names.append(self.trace.names[copy.deepcopy(rng).integers(len(self.trace.names))])
        return self.trace.draw(rng, slots, slot_s)


@dataclass(frozen=True, slots=True)
class Score:
    """value and its 95 % interval, None where there is no headroom (`note` says so); headroom is the gap relative to |simple value|.

    simple names the policy that is 0, simple_value and top_value are the mean rewards that are 0 and 1.
    """

    value: float | None
    interval: tuple[float, float] | None
    headroom: float
    simple: str
    simple_value: float
    top_value: float
    note: str | None = None


def score(policy: NDArray[np.float64], simple: Mapping[str, NDArray[np.float64]], top: NDArray[np.float64], over: Units) -> Score:
    """Score of a policy by mean rewards of each episode, shape (episodes,), of it, of the simple policies and of what is 1."""
    columns = np.stack([policy, top, *simple.values()], axis=1)
    means = columns.mean(axis=0)
    best = int(np.argmax(means[2:]))
    zero, one = float(means[2 + best]), float(means[1])
    gap = one - zero
    headroom = gap / abs(zero) if zero else float(np.sign(gap) * np.inf if gap else 0.0)
    name = list(simple)[best]
    if headroom < HEADROOM:
        note = f"no headroom: the gap of {gap:.4f} to {one:.4f} is under {HEADROOM:.0%} of what {name} reaches"
        return Score(None, None, headroom, name, zero, one, note)
    drawn = resampled(columns, over)
    zeros = drawn[:, 2:].max(axis=1)
    gaps = drawn[:, 1] - zeros
    value = float((means[0] - zero) / gap)
    if np.quantile(gaps, 0.025) <= 0.0:
        return Score(value, None, headroom, name, zero, one, "no interval: these episodes do not tell the gap itself from nothing")
    ratios = (drawn[:, 0] - zeros)[gaps > 0.0] / gaps[gaps > 0.0]
    return Score(value, interval(ratios), headroom, name, zero, one)


def difference(one: NDArray[np.float64], other: NDArray[np.float64], over: Units) -> tuple[float, float, float]:
    """Mean of `one - other`, rewards of the same episodes, and its 95 % interval."""
    apart = (one - other)[:, None]
    return (float(apart.mean()), *interval(resampled(apart, over)[:, 0]))


def resampled(columns: NDArray[np.float64], over: Units) -> NDArray[np.float64]:
    """Means over episodes of each column, (resamples, columns), for units drawn with replacement."""
    sums = np.zeros((over.count, columns.shape[1]))
    np.add.at(sums, over.of, columns)
    sizes = np.bincount(over.of, minlength=over.count)
    counts = np.random.default_rng(SEED).multinomial(over.count, np.full(over.count, 1.0 / over.count), size=RESAMPLES)
    means: NDArray[np.float64] = (counts @ sums) / (counts @ sizes)[:, None]
    return means


def interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """The middle 95 % of resampled values."""
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)

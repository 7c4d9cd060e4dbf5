"""Who decides: a new policy (the candidate) or what decided before (the incumbent), and what numbers move one to the other's place.

    off       the incumbent decides; the candidate is not asked
    shadow    the incumbent decides; the candidate is asked and what it would have done is told
    canary    the candidate decides a share of blocks of requests; a trial compares the two and ends in active, off or shadow
    active    the candidate decides

A trial judges at fixed numbers of requests, each twice the last, on shares of misses and mean latencies of blocks that alternate in
time. Whose turn it is follows from the number of the request alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import msgspec
import numpy as np

from cutlayer.profiles.stats import wilson

if TYPE_CHECKING:
    from cutlayer.runtime.messages import Arm

GOLDEN = 0.6180339887498949  # multiples of the golden ratio, modulo 1, fill it evenly and hardly fall into step with a workload
Finding = Literal["running", "promote", "roll-back", "undecided"]


class Terms(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The numbers of a trial. All are our choice; the reason stands beside each."""

    share: float = 0.1  # of the blocks the candidate decides: nine in ten requests do not know of the trial
    block: int = 20  # requests in a row by one side: two thirds of a second of a camera, longer than its queues remember
    first_look: int = 100  # requests of the candidate, five blocks: a candidate that misses everything is found here
    looks: int = 8  # so the last is at 12,800: 6.25 % of misses in place of 5 are found in nine trials of ten
    alarm: float = 0.01  # chance that an equal candidate is ever rolled back, all looks and both measures together
    sure_blocks: int = 20  # with fewer, each block counts as one request: how alike its requests are cannot be told yet
    miss_margin: float = 0.005  # promoted only if surely less than this share worse, ...
    miss_share: float = 0.25  # ... and this share of the incumbent's own misses
    latency_share: float = 0.1  # promoted if surely less than this share slower, rolled back if surely more than that

    def __post_init__(self) -> None:
        shares = {name: getattr(self, name) for name in ("share", "alarm")}
        wrong = {name: value for name, value in shares.items() if not 0.0 < value < 1.0}
        counts = {name: getattr(self, name) for name in ("block", "first_look", "looks", "sure_blocks")}
        wrong |= {name: value for name, value in counts.items() if not 1 <= value <= 1_000_000}
        margins = {name: getattr(self, name) for name in ("miss_margin", "miss_share", "latency_share")}
        wrong |= {name: value for name, value in margins.items() if not 0.0 <= value < math.inf}
        if wrong:
            name, value = wrong.popitem()
            raise ValueError(f"{name} of the trial is {value}; shares lie between 0 and 1, counts are 1 or more, margins 0 or more")

    def arm(self, block: int) -> Arm:
        """Whose turn a block is."""
        return "candidate" if (block + 1) * GOLDEN % 1.0 < self.share else "incumbent"

    def look(self, number: int) -> int:
        """Requests of the candidate at which it is judged for the time `number`, from 0 on."""
        return self.first_look << number

    @property
    def z(self) -> float:
        """Deviate of every bound: the alarm is shared out evenly among looks and measures (Bonferroni), one-sided."""
        from statistics import NormalDist

        return NormalDist().inv_cdf(1.0 - self.alarm / (2 * self.looks))


@dataclass(slots=True)
class Tally:
    """Outcomes of one side: requests, misses and summed latency of each block."""

    requests: list[int] = field(default_factory=list)
    late: list[int] = field(default_factory=list)
    latency_s: list[float] = field(default_factory=list)
    total: int = 0
    _places: dict[int, int] = field(default_factory=dict)

    def add(self, block: int, latency_s: float, *, late: bool) -> None:
        """One request of a block; blocks may end in any order."""
        place = self._places.setdefault(block, len(self._places))
        if place == len(self.requests):
            self.requests.append(0)
            self.late.append(0)
            self.latency_s.append(0.0)
        self.requests[place] += 1
        self.late[place] += late
        self.latency_s[place] += latency_s
        self.total += 1


class Bounds(msgspec.Struct, frozen=True):
    """A difference, candidate minus incumbent, between its bounds."""

    low: float
    middle: float
    high: float


class Verdict(msgspec.Struct, frozen=True):
    """What a look found: how many requests each side had, misses (shares) and mean latencies, and their differences."""

    finding: Finding
    candidate: int
    incumbent: int
    candidate_misses: float
    incumbent_misses: float
    candidate_latency_s: float
    incumbent_latency_s: float
    misses: Bounds
    latency_s: Bounds


class Trial:
    """A candidate against an incumbent, until a verdict."""

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        self.candidate, self.incumbent = Tally(), Tally()
        self._look = 0

    def add(self, arm: Arm, block: int, latency_s: float, *, late: bool) -> Verdict | None:
        """Take in one outcome; the verdict where it is time for a look. Latencies come clipped, so that one outage is not all."""
        tally = self.candidate if arm == "candidate" else self.incumbent
        tally.add(block, latency_s, late=late)
        if self._look == self.terms.looks or self.candidate.total < self.terms.look(self._look) or not self.incumbent.total:
            return None
        self._look += 1
        return judge(self.candidate, self.incumbent, self.terms, last=self._look == self.terms.looks)


def judge(candidate: Tally, incumbent: Tally, terms: Terms, *, last: bool) -> Verdict:
    """What is sure by now.

    Rolled back where misses are surely more, or the latency surely more than its margin higher; promoted where both are surely
    within their margins; undecided after the last look.
    """
    z = terms.z
    alike = design_effect(candidate, incumbent, terms)
    ours, theirs = sum(candidate.late) / candidate.total, sum(incumbent.late) / incumbent.total
    misses = newcombe(ours, candidate.total / alike, theirs, incumbent.total / alike, z)
    latency = welch(candidate, incumbent, z, terms.sure_blocks)
    our_s, their_s = sum(candidate.latency_s) / candidate.total, sum(incumbent.latency_s) / incumbent.total
    slower_s = terms.latency_share * their_s
    if misses.low > 0.0 or latency.low > slower_s:
        finding: Finding = "roll-back"
    elif misses.high < terms.miss_margin + terms.miss_share * theirs and latency.high < slower_s:
        finding = "promote"
    else:
        finding = "undecided" if last else "running"
    return Verdict(finding, candidate.total, incumbent.total, ours, theirs, our_s, their_s, misses, latency)


def design_effect(candidate: Tally, incumbent: Tally, terms: Terms) -> float:
    """By how much requests of one block are alike: so many of them tell as much as one that stands alone (Rao and Scott 1992).

    The variance of a side's miss share between its blocks, over that of independent requests; the greater of the two sides', at
    least 1, at most a block.
    """
    if min(len(candidate.requests), len(incumbent.requests)) < terms.sure_blocks:
        return float(terms.block)
    found = 1.0
    for tally in (candidate, incumbent):
        requests, late = np.array(tally.requests), np.array(tally.late)
        blocks, share = len(requests), late.sum() / requests.sum()
        if 0.0 < share < 1.0:
            between = blocks / (blocks - 1) * ((late - share * requests) ** 2).sum() / requests.sum() ** 2
            found = max(found, between / (share * (1.0 - share) / requests.sum()))
    return float(min(found, terms.block))


def newcombe(ours: float, our_n: float, theirs: float, their_n: float, z: float) -> Bounds:
    """Difference of two shares (Newcombe 1998, method 10: from Wilson's intervals of the two)."""
    our_low, our_high = wilson(ours * our_n, our_n, z)
    their_low, their_high = wilson(theirs * their_n, their_n, z)
    apart = ours - theirs
    low = apart - math.hypot(ours - our_low, their_high - theirs)
    return Bounds(low, apart, apart + math.hypot(our_high - ours, theirs - their_low))


def welch(candidate: Tally, incumbent: Tally, z: float, sure_blocks: int) -> Bounds:
    """Difference of two mean latencies in seconds, from the means of blocks; unbounded while there are too few of them."""
    sides = [np.array(tally.latency_s) / np.array(tally.requests) for tally in (candidate, incumbent)]
    apart = float(sides[0].mean() - sides[1].mean())
    if min(map(len, sides)) < max(2, sure_blocks):
        return Bounds(-math.inf, apart, math.inf)
    half = z * math.sqrt(sum(side.var(ddof=1) / len(side) for side in sides))
    return Bounds(apart - half, apart, apart + half)

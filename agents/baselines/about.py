"""Whose rule each baseline is, what it decides from, and what is left out: documentation is drawn from this table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class About:
    """authors, venue and year of the paper (empty and 0 for a yardstick of no paper); the rest is of the rule as it is here."""

    authors: str
    venue: str
    year: int
    decides_from: str
    tuned: str
    left_out: str


def _yardstick(decides_from: str, tuned: str = "nothing") -> About:
    return About("", "", 0, decides_from, tuned, "nothing")


_ESTIMATE = "smoothed rate, work and bytes that wait ahead, last slow-down, last wait at the edge"
_NEUROSURGEON = "Kang, Hauswald, Gao, Rovinski, Mudge, Mars, Tang"
_FORGET = "age at which a rate is forgotten"

ABOUT: Mapping[str, About] = {
    "device-only": _yardstick("nothing: the last exit, on the device"),
    "edge-only": _yardstick("nothing: the last exit, on the edge"),
    "random": _yardstick("nothing: any plan"),
    "best-static": _yardstick("nothing: one plan", "the plan, by exact replay of every plan on every tuning episode"),
    "greedy-last": About(
        _NEUROSURGEON, "ASPLOS", 2017, f"rate of the last transfer, and else as greedy-ewma: {_ESTIMATE}", "nothing",
        "its regression models: the measured table takes their place; it minimises latency or energy, here worth is maximised",
    ),
    "greedy-ewma": About(
        _NEUROSURGEON, "ASPLOS", 2017, _ESTIMATE, "nothing",
        "its regression models: the measured table takes their place; it minimises latency or energy, here worth is maximised",
    ),
    "edgent-static": About(
        "Li, Zeng, Zhou, Chen", "IEEE TWC", 2020, _ESTIMATE, f"latency asked for, one width for all tensors, {_FORGET}",
        "its regression models; it knows the rate only, here also what waits; nothing meets the deadline: the fastest plan instead of none",
    ),
    "edgent-dynamic": About(
        "Li, Zeng, Zhou, Chen", "IEEE TWC", 2020, "state of the rate's history by Bayesian change-point detection (Adams, MacKay 2007)",
        f"latency asked for, one width for all tensors, chance of a change, {_FORGET}; its map is made on the tuning episodes",
        "its reward of accuracy and throughput within the deadline: the map is made for the scenario's objective; as there, it knows "
        "of no queue and no slow-down",
    ),
    "dyno": About(
        "Almeida, Laskaridis, Venieris, Leontiadis, Lane", "ACM TECS", 2022, _ESTIMATE,
        f"accuracy floor, depth of the one network that is deployed, {_FORGET}",
        "precision that varies within a tensor; goals other than latency (throughput, server cost); it has no exits",
    ),
    "spinn": About(
        "Laskaridis, Venieris, Almeida, Leontiadis, Lane", "MobiCom", 2020,
        f"{_ESTIMATE}, but for the slow-down its scaling factor; shares of exits at each threshold, from recorded images",
        f"latency asked for, weight of a new measurement in the scaling factor, {_FORGET}",
        "half faithful: an image that stops early is charged the mean accuracy of its exit over all images, not that of the sure ones "
        "(at a threshold of 0.8, 0.804 for the true 0.866); heads passed on the way are free; no lossless stage; a wait at the edge "
        "is added, where it scales the edge's time by a factor; it does not call off what the edge still computes",
    ),
    "dynamic-split": About(
        "Bakhtiarnia, Milosevic, Zhang, Bajovic, Iosifidis", "ICASSP", 2023, _ESTIMATE,
        f"one width for all tensors, depth of the one network that is deployed, {_FORGET}",
        "batch size, which is one; it has no exits and sends floats",
    ),
    "ans": About(
        "Zhang, Chen, Xu", "WWW", 2021,
        "answers to its own transfers, regressed on bytes to send (queued ones too) and nominal work at the edge; work that waits on the "
        "device, last slow-down",
        "latency asked for, optimism, memory; 1 for the memory is the paper; then it learns on through the episodes",
        "seven counts of layers and operations as context of the edge's work; key frames; it minimises delay, here worth is maximised",
    ),
    "belief-greedy": About(
        "", "", 0, "a rate that fades to the usual one with its age, slow-down, wait at the edge, backlog",
        "a dozen numbers by random search: how fast readings fade, a margin of risk, prices on device time, bytes and joules", "nothing",
    ),
    "bayes-greedy": About(
        "", "", 0, "a filter over the link's states fitted to training episodes, and as belief-greedy",
        "three prices and the filter's spread, memory and median by random search", "requests after this one, but for the prices",
    ),
}  # fmt: skip

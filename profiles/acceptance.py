"""Whether tables measured on this machine can be trusted: parts must add up to the network in one piece.

Two bars, both on CPU time:

    additive    layers and heads timed in the chain, against the whole network                     5 %   (torch)
    pair        prefix and suffix, against the network in one piece, cuts of over a millisecond    10 %   (both backends)

A suffix is timed directly behind its prefix, as `cutlayer.profiles.measure` says: the pair and the network in one piece start
from idle once each. What is left of a difference is what the cut itself costs, such as a fusion that it breaks. On a shared
server core every network of the zoo is within both bars with both backends: layers -5.0 to +1.7 %, pairs -3.6 to +4.7 %.

Linux shares a core between sessions, not between processes, so `nice` alone does little on a machine that others use. In a
session of its own with a high share (root), wall over CPU time was 1.00 to 1.01 beside two trainings, instead of 2 to 6:

    setsid -w sh -c 'echo -15 > /proc/self/autogroup; cutlayer profile acceptance'
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cutlayer.errors import ProfileError
from cutlayer.profiles import zoo

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cutlayer.profiles.schema import ModelProfile
    from cutlayer.profiles.zoo import MultiExit

ADDITIVE = 0.05  # in-chain profiles were additive within 4 % on seven networks, isolated layers up to 28 % off
PAIR = 0.10  # pairs of graphs were within 5 % of the whole on ResNet-18 and most cuts of MobileNetV2
NOISY_RATIO = 1.15  # wall over CPU median above which a table was measured on a busy machine
PAIR_FROM_S = 1e-3  # a choice: a network below a millisecond costs little more than the calls that run it
MODELS = tuple(zoo.names())
BACKENDS = ("torch", "onnxruntime")
SEED = 1  # of the weights: fresh ones cost the same as trained ones


def noise(profile: ModelProfile) -> float:
    """Wall over CPU median of the whole network; 1 on a machine that did nothing else."""
    return profile.whole.wall.p50_s / profile.whole.cpu.p50_s


def noisy(profile: ModelProfile) -> bool:
    """Whether the machine was too busy while the table was measured; its CPU times are then less trustworthy too."""
    return noise(profile) > NOISY_RATIO


def refuse_noisy(profile: ModelProfile) -> None:
    """Let only a table pass that was measured on a quiet machine.

    Raises:
        ProfileError: it is `noisy`.
    """
    if noisy(profile):
        where = profile.provenance
        raise ProfileError(
            f"wall over CPU time is {noise(profile):.2f} in the table of {profile.model} on {where.machine} (limit {NOISY_RATIO}, load "
            f"average {where.load_average}); measure again when the machine is quiet"
        )


def additive_error(profile: ModelProfile) -> float:
    """Relative error of the summed chain against the whole network in one piece, CPU means.

    It judges layers timed in the chain; where they are differences of prefixes, it is what the heads cost as graphs of their own.
    """
    parts = sum(cost.time.cpu.mean_s for cost in (*profile.layers, *profile.heads))
    return parts / profile.whole.cpu.mean_s - 1.0


def _pairs(profile: ModelProfile) -> dict[tuple[int, int], tuple[float, float]]:
    """By (cut, exit), where the profile has all three: prefix and suffix together, and in one piece; CPU medians, seconds."""
    prefix = {cost.cut: cost.time.cpu.p50_s for cost in profile.prefixes}
    suffix = {(cost.cut, cost.exit): cost.time.cpu.p50_s for cost in profile.suffixes}
    return {
        (cut, e): (prefix[cut] + rest, suffix[0, e])
        for (cut, e), rest in suffix.items()
        if e is not None and cut in prefix and (0, e) in suffix
    }  # fmt: skip


def pair_errors(profile: ModelProfile) -> dict[tuple[int, int], float]:
    """Relative error of prefix and suffix together against the network in one piece, CPU medians, by (cut, exit).

    Of exits that cost over a millisecond in one piece.
    """
    return {key: pair / whole - 1.0 for key, (pair, whole) in _pairs(profile).items() if whole > PAIR_FROM_S}


def pair_error(profile: ModelProfile) -> float:
    """The entry of `pair_errors` that is furthest from 0; 0 where there is none."""
    return max(pair_errors(profile).values(), key=abs, default=0.0)


@dataclass(frozen=True, slots=True)
class Result:
    """One network with one backend; times in seconds.

    additive is None where the backend runs no layer by itself; pairs is how many cuts cost enough to be judged.
    """

    model: str
    backend: str
    runs: int
    whole_s: float
    noise: float
    additive: float | None
    pairs: int
    pair: float

    @property
    def within(self) -> bool:
        """Whether both bars hold."""
        return abs(self.additive or 0.0) <= ADDITIVE and abs(self.pair) <= PAIR


def judge(profile: ModelProfile) -> Result:
    """The figures of one profile that has prefixes and suffixes."""
    return Result(
        model=profile.model,
        backend=profile.provenance.backend,
        runs=profile.whole.cpu.n,
        whole_s=profile.whole.cpu.p50_s,
        noise=noise(profile),
        additive=additive_error(profile) if profile.layer_times == "in-chain" else None,
        pairs=len(pair_errors(profile)),
        pair=pair_error(profile),
    )


def check(
    models: Sequence[str] = MODELS,
    backends: Sequence[str] = BACKENDS,
    *,
    runs: int = 40,
    attempts: int = 3,
    progress: Callable[[float], None] | None = None,
) -> list[Result]:
    """Measure every network with every backend here; again, up to `attempts` times, while the machine is busy or a bar is missed.

    The best attempt counts: other work can only add to a time. At 40 runs a network takes less than a minute on a core of a
    server; VGG-16 takes ten minutes at 10 runs, 2 GB of memory and 9 GB of the folder for temporary files.

    Raises:
        ConfigError: no such network, or a package is missing.
    """
    results: list[Result] = []
    jobs = [(model, backend) for model in models for backend in backends]
    for done, (model, backend) in enumerate(jobs):
        network = zoo.build(model, seed=SEED)
        tried: list[Result] = []
        for _ in range(attempts):
            profile = _measure(network, backend, runs)
            tried.append(judge(profile))
            if not noisy(profile) and tried[-1].within:
                break
        results.append(min(tried, key=_distance))
        if progress is not None:
            progress((done + 1) / len(jobs))
    return results


def _measure(network: MultiExit, backend: str, runs: int) -> ModelProfile:
    from cutlayer.profiles import measure, measure_onnx

    if backend == "torch":
        return measure.measure(network, runs=runs, device_name="this-machine", ground_truth=True)
    return measure_onnx.measure(network, runs=runs, device_name="this-machine")


def _distance(result: Result) -> tuple[bool, bool, float]:
    """Of two attempts the one on the quieter machine, then the better one, is the smaller."""
    busy = result.noise > NOISY_RATIO
    return busy, not result.within, abs(result.additive or 0.0) / ADDITIVE + abs(result.pair) / PAIR


def text(results: Sequence[Result]) -> str:
    """The results as a table for a terminal."""
    lines = [f"{'network':<13}{'backend':<13}{'whole ms':>9}{'wall/CPU':>9}{'layers':>9}{'cuts':>6}{'pair':>9}"]
    for one in results:
        pair = f"{100 * one.pair:+.1f} %" if one.pairs else "-"
        additive = "-" if one.additive is None else f"{100 * one.additive:+.1f} %"
        lines.append(
            f"{one.model:<13}{one.backend:<13}{1e3 * one.whole_s:>9.3f}{one.noise:>9.2f}{additive:>9}{one.pairs:>6}{pair:>9}"
            f"  {'within' if one.within else 'OUTSIDE'}"
        )
    return "\n".join(lines)

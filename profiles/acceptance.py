"""Whether tables measured on this machine can be trusted: parts must add up to the network in one piece.

Two bars, both on CPU time:

    additive    layers and heads timed in the chain, against the whole network                     5 %   (torch)
    pair        prefix and suffix, against the network in one piece, cuts of over a millisecond    10 %   (both backends)

The halves of a pair start after an idle gap each, as on a device and a server, the network in one piece once. So a pair
costs one cold start of the caches more (`waking_s`, 0.1 to 0.3 ms on a server core). It is real and belongs into a
profile, but of a network of one to three milliseconds it is more than 10 %. A result therefore also says by how much the
slowest pair exceeds the whole beyond it: that would be a network which the cut makes slower, such as a fusion it breaks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from cutlayer.profiles import measure, zoo

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cutlayer.profiles.schema import ModelProfile
    from cutlayer.profiles.zoo import MultiExit

ADDITIVE = 0.05  # in-chain profiles were additive within 4 % on seven networks, isolated layers up to 28 % off
PAIR = 0.10  # pairs of graphs were within 5 % of the whole on ResNet-18 and most cuts of MobileNetV2
MODELS = ("alexnet", "resnet20", "resnet8", "mobilenetv2", "resnet18")
BACKENDS = ("torch", "onnxruntime")
SEED = 1  # of the weights: fresh ones cost the same as trained ones

Verdict = Literal["within", "but for waking", "outside"]


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
    waking_s: float
    pair_less_waking: float

    @property
    def verdict(self) -> Verdict:
        """Whether both bars hold, or would if starting were free."""
        if self.additive is not None and abs(self.additive) > ADDITIVE:
            return "outside"
        if abs(self.pair) <= PAIR:
            return "within"
        return "but for waking" if self.pair > 0 and self.pair_less_waking <= PAIR else "outside"


def judge(profile: ModelProfile) -> Result:
    """The figures of one profile that has prefixes and suffixes."""
    extra_s = measure.waking_s(profile)
    return Result(
        model=profile.model,
        backend=profile.provenance.backend,
        runs=profile.whole.cpu.n,
        whole_s=profile.whole.cpu.p50_s,
        noise=measure.noise(profile),
        additive=measure.additive_error(profile) if profile.layer_times == "in-chain" else None,
        pairs=len(measure.pair_errors(profile)),
        pair=measure.pair_error(profile),
        waking_s=extra_s,
        pair_less_waking=max(measure.pair_errors(profile, extra_s).values(), default=0.0),
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

    The best attempt counts: other work can only add to a time. About a minute each at 40 runs on a core of a server.

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
            if not measure.noisy(profile) and tried[-1].verdict == "within":
                break
        results.append(min(tried, key=_distance))
        if progress is not None:
            progress((done + 1) / len(jobs))
    return results


def _measure(network: MultiExit, backend: str, runs: int) -> ModelProfile:
    if backend == "torch":
        return measure.measure(network, runs=runs, device_name="this-machine", ground_truth=True)
    from cutlayer.profiles import measure_onnx

    return measure_onnx.measure(network, runs=runs, device_name="this-machine")


def _distance(result: Result) -> tuple[bool, int, float]:
    """Of two attempts the one on the quieter machine, then the better one, is the smaller."""
    busy = result.noise > measure.NOISY_RATIO
    return (
        busy,
        ("within", "but for waking", "outside").index(result.verdict),
        abs(result.additive or 0.0) / ADDITIVE + abs(result.pair) / PAIR,
    )


def text(results: Sequence[Result]) -> str:
    """The results as a table for a terminal."""
    lines = [
        f"{'network':<13}{'backend':<13}{'whole ms':>9}{'wall/CPU':>9}{'layers':>9}{'pair':>9}{'waking ms':>11}{'pair less':>11}  verdict"
    ]
    for one in results:
        pair, less = (f"{100 * share:+.1f} %" if one.pairs else "-" for share in (one.pair, one.pair_less_waking))
        additive = "-" if one.additive is None else f"{100 * one.additive:+.1f} %"
        lines.append(
            f"{one.model:<13}{one.backend:<13}{1e3 * one.whole_s:>9.3f}{one.noise:>9.2f}{additive:>9}{pair:>9}"
            f"{1e3 * one.waking_s:>11.3f}{less:>11}  {one.verdict}"
        )
    return "\n".join(lines)

"""How fast a sweep evaluates: the same runs on one process and on two, processes already warm, by wall clock and by CPU time."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutlayer.agents import runs as manifests
from cutlayer.agents.sweep import job, plan
from cutlayer.agents.sweep.grid import Grid
from cutlayer.agents.sweep.work import attempt, world_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cutlayer.agents.sweep.plan import Run
    from cutlayer.agents.sweep.work import Outcome

EPISODES = 50  # of 200 requests: 10,000 decisions a run
SCENARIO, POLICY = "urllc-ge", "greedy-ewma"  # our choice: a rule that reckons every plan anew, dearer than a network or a fixed plan
WARM = 2  # runs for each process before the clock starts: it loads its libraries and compiles in the first


def run(runs: int, report: Callable[[float], None] = lambda _share: None) -> dict[str, Any]:
    """Wall seconds of `runs` runs on one and on two processes, runs a second on two, and CPU seconds of a run."""
    walls = {jobs: _wall_s(jobs, runs, _half(report, jobs - 1)) for jobs in (1, 2)}
    (first, *_) = _runs(range(2))
    with tempfile.TemporaryDirectory() as folder:
        cpu_s = [outcome.record["cpu_s"] for outcome in (attempt(first, Path(folder)) for _ in range(4)) if outcome.record is not None]
    wall_1_s, wall_2_s = walls[1], walls[2]
    return {
        "runs": runs,
        "decisions_per_run": EPISODES * 200,
        "wall_1_s": wall_1_s,
        "wall_2_s": wall_2_s,
        "speedup": wall_1_s / wall_2_s,
        "runs_per_s": runs / wall_2_s,
        "cpu_s_per_run": min(cpu_s),
        "run": manifests.manifest(world_of(first.world).judged, {"runs": runs}, policy=POLICY),
    }


def _half(report: Callable[[float], None], before: int) -> Callable[[float], None]:
    return lambda share: report((before + share) / 2)


def _runs(seeds: range) -> list[Run]:
    fixed = {"scenario": SCENARIO, "policy": POLICY, "episodes": EPISODES, "requests": 200}
    return plan.runs(Grid(Path("bench.toml"), fixed, {"seed": list(seeds)}))


def _wall_s(jobs: int, count: int, report: Callable[[float], None]) -> float:
    """From the end of the warm-up to the last result."""
    warm, began_s = WARM * jobs, 0.0
    with tempfile.TemporaryDirectory() as folder:
        ended: Iterator[tuple[Run, Outcome]] = job.on_this_machine(jobs)(_runs(range(warm + count)), lambda run: Path(folder) / run.key)
        for done, _ in enumerate(ended, start=1):
            if done == warm:
                began_s = time.monotonic()
            report(done / (warm + count))
        return time.monotonic() - began_s

"""The same runs as tasks of a Ray cluster, whose nodes have cutlayer installed; Ray places them, and runs again what a lost node held.

A run travels whole, its world with it, so that it depends on no file of the node but a bundle or run folder that its policy names. What a
training leaves comes back as bytes.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutlayer.agents.sweep.work import TRAINING, Outcome, attempt
from cutlayer.agents.train import CURVE, MODEL, RUN
from cutlayer.errors import ConfigError
from cutlayer.files import write_atomic

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from cutlayer.agents.sweep.plan import Run

RETRIES = 5  # our choice: nodes that a run may lose; of spot machines one an hour or less is taken away
AHEAD = 4  # tasks handed out for each processor of the cluster: our choice, a node that joins finds work at once
KEPT = (RUN, CURVE, MODEL)  # of a training


def tasks(runs: Sequence[Run], folder: Callable[[Run], Path], address: str) -> Iterator[tuple[Run, Outcome]]:
    """On the cluster at `address` (`auto`: the one that this machine belongs to), as they end; each with what became of it.

    Raises:
        ConfigError: there is no cluster.
    """
    import ray

    _connect(address)
    try:
        task = ray.remote(num_cpus=1, max_retries=RETRIES)(remote)
        worlds: dict[str, Any] = {}
        given: dict[Any, Run] = {}
        left = list(reversed(runs))
        while left or given:
            while left and len(given) < AHEAD * max(1, int(_resources().get("CPU", 1))):
                run = left.pop()
                if run.world_sha256 not in worlds:
                    worlds[run.world_sha256] = ray.put(run.world)
                given[task.remote(dataclasses.replace(run, world=b""), worlds[run.world_sha256])] = run
            (ready,), _ = ray.wait(list(given), num_returns=1)
            run = given.pop(ready)
            yield run, _taken(ready, folder(run))
    finally:
        ray.shutdown()


def _resources() -> dict[str, float]:
    import ray

    found: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]  # Ray's own
    return found


def _connect(address: str) -> None:
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a measurement calls nobody
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f"no Ray cluster at {address} ({reason}); start one with: ray start --head") from error


def remote(run: Run, world: bytes) -> tuple[Outcome, dict[str, bytes]]:
    """What a node does: the run in a folder of its own, and what its training leaves."""
    with tempfile.TemporaryDirectory() as place:
        outcome = attempt(dataclasses.replace(run, world=world), Path(place))
        trained = Path(place) / TRAINING
        kept = {name: (trained / name).read_bytes() for name in KEPT if outcome.record is not None and (trained / name).exists()}
    return outcome, kept


def _taken(ready: Any, folder: Path) -> Outcome:
    """The outcome of a task that ended, its files written here; a task that Ray gave up is a failed run."""
    import ray

    try:
        outcome, kept = ray.get(ready)
    except ray.exceptions.RayError as error:
        return Outcome(None, f"Ray gave it up: {type(error).__name__}: {' '.join(str(error).split())[:300]}")
    for name, content in kept.items():
        write_atomic(folder / TRAINING / name, content)
    found: Outcome = outcome
    return found

"""Runs on processes of this machine, each with one thread, kept for many runs: what numba compiles is paid once in each.

`concurrent.futures` starts and feeds them. What is here beside it: a process that dies (killed for its memory, say) costs its own run at
most, and no process outlives the sweep, however that ends.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from typing import TYPE_CHECKING

from cutlayer.agents.sweep.work import Outcome, attempt

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence
    from pathlib import Path

    from cutlayer.agents.sweep.plan import Run

    Attempt = Callable[[Run, Path], Outcome]
    Pool = Generator[tuple[Run, Outcome], None, list[Run]]

AHEAD = 2  # runs handed out for each process: one that runs and one that waits, so that none idles
DIED = "the process of this run died twice, as one does that is killed for its memory; run it alone, or with fewer jobs"
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


def here(runs: Sequence[Run], folder: Callable[[Run], Path]) -> Iterator[tuple[Run, Outcome]]:
    """One after the other in this process; each with what became of it."""
    for run in runs:
        yield run, attempt(run, folder(run))


def processes(runs: Sequence[Run], folder: Callable[[Run], Path], jobs: int, work: Attempt = attempt) -> Iterator[tuple[Run, Outcome]]:
    """On `jobs` processes, as they end; each with what became of it. `work` is what they call."""
    left = deque(runs)
    while left:
        # A process that dies breaks the pool for all that was handed out; who is to blame is known by dying alone.
        suspects = deque((yield from _pool(left, folder, jobs, AHEAD * jobs, work)))
        for run in (yield from _pool(suspects, folder, 1, 1, work)) if suspects else ():
            yield run, Outcome(None, DIED)
        left.extendleft(reversed(suspects))


def _pool(left: deque[Run], folder: Callable[[Run], Path], jobs: int, ahead: int, work: Attempt) -> Pool:
    """Work through `left` until it is empty or a process dies; return the runs that were then handed out."""
    given: dict[Future[Outcome], Run] = {}
    with workers(jobs) as pool:
        try:
            while left or given:
                while left and len(given) < ahead:
                    run = left[0]  # it stays there should the pool be broken already
                    given[pool.submit(work, run, folder(run))] = run
                    left.popleft()
                for future in wait(given, return_when=FIRST_COMPLETED).done:
                    outcome = future.result()
                    yield given.pop(future), outcome
        except BrokenProcessPool:
            return list(given.values())
    return []


@contextlib.contextmanager
def workers(jobs: int) -> Iterator[ProcessPoolExecutor]:
    """A pool of processes with one thread each; cut off, nobody waits for what they still do."""
    for name in THREADS:
        os.environ.setdefault(name, "1")  # read by a process's libraries as they load
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _begin)
    try:
        yield pool
    except BaseException:  # also an interrupt; it goes on
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _begin() -> None:
    """In each process: an interrupt is the sweep's own business, and where the sweep is gone, so is this."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None, "started by a sweep"

    def end_with_it() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=end_with_it, daemon=True).start()

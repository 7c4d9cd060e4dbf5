"""A whole search: shared among processes, each with a sampler of its own on one study, and concluded."""

from __future__ import annotations

from concurrent.futures import FIRST_EXCEPTION, wait
from typing import TYPE_CHECKING, Any

from cutlayer.agents import tune
from cutlayer.agents.sweep.local import workers
from cutlayer.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from cutlayer.envs.spec import Scenario

LOOK_S = 1.0  # our choice: between two looks at how far the study is, for the progress bar


def trials_of(of: tune.Subject, trials: int | None, decisions: int | None, otherwise: int) -> int:
    """How many trials are asked for, by their number or by what they may take together.

    Raises:
        ConfigError: fewer decisions than one trial takes.
    """
    if decisions is None:
        return otherwise if trials is None else trials
    if decisions < of.decisions:
        raise ConfigError(f"--decisions {decisions} is less than one trial takes, {of.decisions}; give more, or fewer --steps")
    return decisions // of.decisions


def search(
    scenario: Scenario,
    given: str,
    learner: str,
    out: Path,
    *,
    steps: int | None = None,
    trials: int | None = None,
    decisions: int | None = None,
    jobs: int = 1,
    otherwise: int = 20,
    report: Callable[[float], None] = lambda _share: None,
) -> dict[str, Any]:
    """Go on with the search that `out` holds, or begin one, up to the number of trials; what its `run.json` says.

    Raises:
        ConfigError: nothing is to be searched of the learner, or `out` holds another search.
    """
    of = tune.subject(scenario, given, learner, steps)
    goal = trials_of(of, trials, decisions, otherwise)
    name = f"{learner} on {given}" + ("" if steps is None else f", {steps} steps")
    study = tune.open_study(out, name, 0)
    if not study.get_trials(deepcopy=False):
        study.enqueue_trial(of.first())
    done = len(tune.ended(study))
    left = max(0, goal - done)
    # Who goes on must not draw again what was drawn before: a sampler's seed is the number of the first trial that it may make.
    shares = [
        tune.Share(of, out, name, left // jobs + (one < left % jobs), done + one * (left // jobs + 1)) for one in range(min(jobs, left))
    ]
    if len(shares) == 1:
        tune.work(shares[0], lambda count: report(min(1.0, count / goal)))
    elif shares:
        _together(shares, lambda: report(min(1.0, len(tune.ended(study)) / goal)))
    return tune.conclude(scenario, of, study, out, learner)


def _together(shares: list[tune.Share], tell: Callable[[], None]) -> None:
    with workers(len(shares)) as pool:
        under_way = {pool.submit(tune.work, share) for share in shares}
        while under_way:
            done, under_way = wait(under_way, LOOK_S, FIRST_EXCEPTION)
            for one in done:
                one.result()
            tell()

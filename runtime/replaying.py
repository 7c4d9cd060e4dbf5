"""Plays a recorded trace to another policy, or whole to another controller."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cutlayer.errors import ConfigError
from cutlayer.runtime.trace import Decided, Progressed, Trace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cutlayer.runtime.controller import Controller
    from cutlayer.runtime.messages import Decision
    from cutlayer.runtime.policy import Policy


def replay(trace: Trace, policy: Policy, size: int) -> Iterator[tuple[Decided, int]]:
    """What a policy for observations of that size would have chosen, for each recorded decision that some policy was asked for.

    -1 where what it goes by is no number. Both see the same: the world that the recorded plans led to.

    Raises:
        ConfigError: an observation is of another size.
    """
    for event in trace.events:
        if isinstance(event, Decided) and event.observation:
            seen = event.values()
            if len(seen) != size:
                raise ConfigError(f"a decision at {event.at_s} s saw {len(seen)} features, the policy sees {size}; replay its own bundle")
            plan, finite = policy.choose(seen)
            yield event, plan if finite and np.isfinite(seen).all() else -1


def rerun(trace: Trace, controller: Controller) -> Iterator[tuple[Decided, Decision]]:
    """Tell a controller everything that was told the recorded one, and compare what it decides.

    Raises:
        ConfigError: not every decision was recorded.
    """
    if trace.head.every != 1:
        raise ConfigError(f"the trace holds one decision in {trace.head.every}: not all that a controller has to know; record with 1")
    for event in trace.events:
        if isinstance(event, Decided):
            yield event, controller.decide(event.at_s, event.request)
        elif isinstance(event, Progressed):
            controller.progress(event.at_s, event.progress)
        else:
            controller.report(event.at_s, event.outcome)

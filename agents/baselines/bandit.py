"""ANS: learns what the edge takes while it decides (Zhang, Chen, Xu, Autodidactic Neurosurgeon, WWW 2021).

ANS knows the device's part of a cut and nothing else. What follows, transfer and edge, is taken to be linear in a context
of the plan; LinUCB learns it from the answers, optimistic where it knows little, and muLinUCB forces a plan that sends at
regular requests, because one that stays on the device teaches nothing.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np

from cutlayer.agents.baselines import tuning
from cutlayer.agents.baselines.link import believed
from cutlayer.agents.baselines.worth import worth
from cutlayer.runtime import telemetry as tm
from cutlayer.runtime.rules import LONG_S

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from cutlayer.envs.simulation import View
    from cutlayer.envs.spec import Scenario

HORIZON, FORCED_POWER = 200, 0.25  # the paper's code: a plan that sends at every ceil(T^0.25)-th request, T doubled when it is over
FRAME_WEIGHT = 0.2  # the paper's code, for frames that are no key frames; there are no frames here
ALPHAS = (0.0, 0.1, 0.5)  # tuned: optimism, in deadlines; the paper's formula has constants of its testbed
KEPT = (1.0, 0.98, 0.8)  # tuned: share of what was learned that stays when an answer comes; 1 is the paper
MOST_PENDING = 64  # our choice: what was sent longer ago is forgotten
CONTEXT = 3


class Linear:
    """Ridge regression of a delay on a context, one answer after the other; the older an answer, the less it counts.

    A = sum of kept^age x x' + I, b = sum of kept^age x y (Russac, Vernade, Cappe, NeurIPS 2019); with kept = 1 LinUCB's (Li, Chu,
    Langford, Schapire, WWW 2010).
    """

    def __init__(self, size: int, kept: float = 1.0) -> None:
        self._kept, self._eye = kept, np.eye(size)
        self._a: NDArray[np.float64] = np.eye(size)
        self._b: NDArray[np.float64] = np.zeros(size)
        self.inverse: NDArray[np.floating[Any]] = np.eye(size)
        self.theta: NDArray[np.float64] = np.zeros(size)

    def learn(self, x: NDArray[np.float64], y: float) -> None:
        """One answer."""
        self._a = self._kept * self._a + np.outer(x, x) + (1.0 - self._kept) * self._eye
        self._b = self._kept * self._b + y * x
        self.inverse = np.linalg.inv(self._a)
        self.theta = self.inverse @ self._b

    def mean(self, contexts: NDArray[np.float64]) -> NDArray[np.float64]:
        """Expected delay of each context, shape (contexts,)."""
        return contexts @ self.theta

    def width(self, contexts: NDArray[np.float64]) -> NDArray[np.float64]:
        """How little is known of each context: the root of x' A^-1 x, shape (contexts,)."""
        squares: NDArray[np.float64] = ((contexts @ self.inverse) * contexts).sum(axis=1)
        return np.sqrt(np.maximum(squares, 0.0))


class Ans:
    """The plan of highest worth at optimistic delays; goes on learning through the episodes.

    Context of a plan: bytes that the link has to carry until it is sent (those queued too), its nominal work at the edge,
    and 1; each over its largest. Learned: from the end of the device's work to the answer, as the device clocks it for the
    latest transfer; for one that was given up, what it would have taken at its rate. In the paper the context has seven counts of
    layers and operations for the work at the edge, and the aim is delay; here it is worth.
    """

    def __init__(self, scenario: Scenario, part: float, alpha: float, kept: float) -> None:
        """Asked for an answer after `part` of the deadline; `alpha` is the optimism, `kept` the memory of `Linear`."""
        plans, self._unit_s = scenario.plans, scenario.objective.deadline_s
        self._scenario, self._plans, self._part = scenario, plans, part
        self._work_s = plans.device_s + plans.encode_s
        self._edge_s = plans.edge_s + plans.decode_s
        self._sends = np.flatnonzero(plans.offloads)
        self._most_bytes, self._most_s = max(plans.wire_bytes.max(), 1.0), max(self._edge_s.max(), tm.MIN_WORK_S)
        self._longest = scenario.objective.timeout_deadlines
        self._alpha = alpha * math.sqrt(1.0 - FRAME_WEIGHT)
        self.model = Linear(CONTEXT, kept)
        self._requests, self._horizon = 0, HORIZON
        self.begin()

    def begin(self) -> None:
        """Nothing is on its way; what was learned stays."""
        self._pending: deque[int] = deque(maxlen=MOST_PENDING)
        self._heard_s = tm.NEVER

    def contexts(self, plans: NDArray[np.int64] | slice, queued_bytes: float) -> NDArray[np.float64]:
        """What the delay of each of these plans is linear in, shape (plans, CONTEXT)."""
        wire, edge = self._plans.wire_bytes[plans], self._edge_s[plans]
        return np.column_stack([(wire + queued_bytes) / self._most_bytes, edge / self._most_s, np.ones(len(wire))])

    def act(self, view: View) -> int:
        """The plan."""
        self._hear(view.readings)
        self._requests += 1
        if self._requests > self._horizon:
            self._horizon *= 2
        now = believed(view)
        device_end = (now.backlog_s + self._work_s) * now.slow_down
        contexts = self.contexts(slice(None), now.queued_bytes)
        beyond = self.model.mean(contexts) - self._alpha * self.model.width(contexts)
        latency = device_end + self._plans.offloads * np.maximum(beyond, 0.0) * self._unit_s
        paid = worth(self._scenario, latency, now.rate_bps, self._part * view.deadline_s)
        plan = int(paid.argmax())
        if self._requests % math.ceil(self._horizon**FORCED_POWER) == 0 and len(self._sends):
            plan = int(self._sends[paid[self._sends].argmax()])
        if self._plans.offloads[plan]:
            self._pending.append(plan)
        return plan

    def _hear(self, readings: Sequence[float]) -> None:
        """Learn from the latest transfer, if it is new. Earlier ones that came with it have lost their answers' times."""
        end_s, took_s = readings[tm.RING + 1], min(LONG_S, max(0.0, readings[tm.RING + 2]))
        if end_s in (self._heard_s, tm.NEVER):
            return
        self._heard_s = end_s
        sent = 10.0 ** min(12.0, max(0.0, readings[tm.RING])) * took_s / 8.0
        wire = [self._plans.rows[plan].wire_bytes for plan in self._pending]
        whole = next((i for i, size in enumerate(wire) if math.isclose(size, sent, rel_tol=1e-6)), None)
        if whole is not None:
            plan, delay_s = self._taken(whole), took_s + readings[tm.EDGE_WAIT_AT] - end_s
        else:
            begun = next((i for i, size in enumerate(wire) if size > sent), None)
            if begun is None:
                return
            plan, delay_s = self._taken(begun), took_s * wire[begun] / max(sent, 1.0)
        delay = min(self._longest, max(0.0, delay_s / self._unit_s))
        self.model.learn(self.contexts(np.array([plan]), 0.0)[0], delay)

    def _taken(self, place: int) -> int:
        """The pending plan at that place; those before it were never sent, or are not known one by one."""
        for _ in range(place):
            self._pending.popleft()
        return self._pending.popleft()


def ans(scenario: Scenario, episodes: Sequence[int]) -> Ans:
    """The rule with its latency requirement, optimism and memory tuned; it has learned from `episodes` when it is handed over."""
    settings = itertools.product(tuning.REQUIREMENTS, ALPHAS, KEPT)
    return tuning.best(scenario, [Ans(scenario, part, alpha, kept) for part, alpha, kept in settings], episodes)

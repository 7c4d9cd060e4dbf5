"""Every rule is tuned with the same budget: a race over the tuning episodes, the better part of the field going on.

Successive halving (Karnin, Koren, Somekh, ICML 2013; Jamieson, Talwalkar, AISTATS 2016): many candidates play few episodes,
few play all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np

from cutlayer.agents.evaluate import evaluate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cutlayer.agents.evaluate import Policy
    from cutlayer.envs.spec import Scenario

Candidate = TypeVar("Candidate", bound="Policy")

# Episodes that a round plays, and candidates that stay. Our choice: the widest field, of some 300, then takes under 10 CPU-seconds.
ROUNDS = ((4, 16), (12, 4), (40, 1))
# Tuned where a paper leaves the latency that is asked for to its user: in deadlines. Below 1 it is a margin for what the rule does not
# know. Our choice: equal steps of the logarithm, and a last one at which all plans are late and the fastest is taken.
REQUIREMENTS = (1.0, 0.7, 0.5, 0.35, 0.25, 0.18, 0.1)


def best(scenario: Scenario, candidates: Sequence[Candidate], episodes: Sequence[int]) -> Candidate:
    """The candidate with the highest mean reward; ties go to the earlier one.

    One that learns or draws goes on from round to round; all that are compared have played the same episodes.
    """
    field = list(candidates)
    for played, stay in ROUNDS:
        if len(field) > 1:
            rewards = [float(evaluate(scenario, one, episodes[:played]).reward.mean()) for one in field]
            field = [field[i] for i in np.argsort(-np.array(rewards), kind="stable")[:stay]]
    return field[0]

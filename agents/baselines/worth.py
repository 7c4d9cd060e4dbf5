"""What a rule expects each plan to be worth: the simulator's own formulas on what the rule believes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cutlayer.profiles.cost import expected_energy_j, of_deadline, reward

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from cutlayer.envs.spec import Scenario


# Where every plan is late, or two are as accurate, the sooner answer is better: our choice, far under an image in 5,000 for a second.
SOONER_PER_S = 1e-6


def worth(scenario: Scenario, latency_s: NDArray[np.float64], rate_bps: float, asked_s: float) -> NDArray[np.float64]:
    """Of every plan if it is answered after latency_s and its user asks for asked_s; shape (plans,)."""
    energy = expected_energy_j(scenario.plans, scenario.path, rate_bps)
    paid = reward(latency_s, scenario.plans.accuracy, energy, *of_deadline(scenario.objective.numbers(), asked_s))
    return paid - SOONER_PER_S * latency_s

"""Which of a learner's states is kept: mean reward on episodes that are neither learned from nor reported."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from cutlayer.envs.batch import Bank, Lanes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

    from cutlayer.envs.spec import Scenario


class Trial:
    """Plays a network's best plans on fixed episodes, all at once on the compiled engine: 8,000 requests in about 30 ms.

    The score is that of `evaluate.evaluate` on the same episodes. No random number is drawn, so looking changes no training.
    """

    def __init__(self, scenario: Scenario, episodes: Sequence[int]) -> None:
        self.bank = Bank.draw(scenario, episodes)
        self._scenario = scenario

    @torch.no_grad()
    def score(self, actor: nn.Module) -> float:
        """Mean reward a request of the plans with the largest logit."""
        episodes = np.arange(len(self.bank))
        lanes = Lanes(self._scenario, self.bank, len(episodes))
        lanes.reset(episodes)
        total = np.zeros(len(episodes))
        for _ in range(self._scenario.requests):
            plans = actor(torch.from_numpy(lanes.observations)).argmax(dim=1).numpy()
            lanes.step(plans, episodes)
            total += lanes.rewards
        return float(total.mean()) / self._scenario.requests

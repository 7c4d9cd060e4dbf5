"""A scenario: everything that is fixed about a world, as frozen values without any randomness."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cutlayer.envs.workload import EdgeJobs, SlowDown

if TYPE_CHECKING:
    from cutlayer.envs.channels import Channel
    from cutlayer.envs.workload import Arrivals
    from cutlayer.profiles.cost import Objective, Path
    from cutlayer.profiles.plans import PlanTable


@dataclass(frozen=True, slots=True, eq=False)
class Scenario:
    """Plans, link, edge, workload and objective of one world.

    requests an episode; rates and slow-down are constant within slots of slot_s; a request whose transfer is not done
    give_up_s after its arrival is answered by the device's own exit, and the link is free again.
    """

    name: str
    plans: PlanTable
    channel: Channel
    arrivals: Arrivals
    objective: Objective
    path: Path
    slow_down: SlowDown = SlowDown()  # noqa: RUF009 - frozen itself
    edge_jobs: EdgeJobs = EdgeJobs()  # noqa: RUF009 - frozen itself
    requests: int = 200
    slot_s: float = 0.02
    cancel_margin_s: float = 0.02
    inputs: str = ""

    @property
    def give_up_s(self) -> float:
        """Age of a request at which its transfer is given up: the deadline and the stated margin."""
        return self.objective.deadline_s + self.cancel_margin_s

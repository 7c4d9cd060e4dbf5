"""What a testbed run leaves in its folder for each policy: the records of both worlds, and what the real one met.

Apart from `run`, which loads what runs a policy: a report only reads.
"""

from __future__ import annotations

from typing import Any

import msgspec

from cutlayer.envs.record import Record

KIND = "testbed"  # of the `run.json` beside them
SURVEY = "survey.json"  # what was measured of this machine first


class Side(msgspec.Struct, frozen=True):
    """A policy in both worlds: records of `envs.record`, request by request, and figures of `run.figures`.

    correct: whether each real answer was right; null without real images. late: real work that overran its padding; resets: connections
    given up to free the link. steps: requests by who decided, and why not the policy; faults: by why the edge
    did not answer. made: `runs.origin` of the call that ran it, which may be an earlier one than that of `run.json`.
    """

    policy: str
    label: str
    settings: str
    requests: int
    measured: dict[str, Any]
    simulated: dict[str, Any]
    measured_records: list[Record]
    simulated_records: list[Record]
    correct: list[bool] | None
    late: int
    latest_s: float
    resets: int
    others: float
    slot_late_s: float
    faults: dict[str, int]
    steps: dict[str, int] = {}
    made: dict[str, Any] = {}

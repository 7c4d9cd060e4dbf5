"""Makes the functions that run on the device callable from compiled code; importing this is enough.

They are not written a second time: numba compiles the very functions of `runtime` and `profiles`, where compiled code calls them.
"""

from __future__ import annotations

from typing import Any

from numba.extending import register_jitable

from cutlayer.envs.kernel import composed
from cutlayer.profiles import cost
from cutlayer.runtime import features
from cutlayer.runtime import telemetry as tm

for _function in (
    cost.reward, tm.reset, tm.arrived, tm.decided, tm.device_started, tm.device_ended, tm.device_skipped, tm.sensed,
    tm.send_started, tm.send_ended, tm.sampled, tm.rate_told, tm.edge_waited, tm.finished, tm.backlog_s, features.scaled_rate,
    features.scaled_age, features.encode,
):  # fmt: skip
    register_jitable(_function)

encode: Any = composed(features.encode)  # on arrays, where the plain function takes any sequence

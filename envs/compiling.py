"""Makes the functions that run on the device callable from compiled code; importing this is enough.

They are not written a second time: numba compiles the very functions of `runtime` and `profiles`, where compiled code calls them. Only
the loop that clips has a form for each.
"""

from __future__ import annotations

from typing import Any

from numba.extending import overload, register_jitable

from cutlayer.envs.kernel import composed
from cutlayer.profiles import cost
from cutlayer.runtime import features
from cutlayer.runtime import telemetry as tm

for _function in (
    cost.reward, cost.of_deadline, tm.reset, tm.arrived, tm.due, tm.decided, tm.loads, tm.device_started, tm.device_ended,
    tm.device_skipped, tm.sensed, tm.send_started, tm.send_ended, tm.sampled, tm.rate_told, tm.edge_waited, tm.edge_told, tm.finished,
    tm.backlog_s, features.scaled_rate, features.scaled_age, features.encode_base, features.encode_blocks,
    features.encode,
):  # fmt: skip
    register_jitable(_function)

LOW, HIGH = features.LOW, features.HIGH


@overload(features.clip, inline="always")
def _clip(out: Any, start: int, end: int) -> Any:  # noqa: ARG001 - numba asks for the signature of what it compiles
    """The one exception: branches take a fifth of the compiled encoder's time, min and max none; in plain Python it is the other way."""

    def clip(out: Any, start: int, end: int) -> None:
        for i in range(start, end):
            out[i] = min(max(out[i], LOW), HIGH)

    return clip


encode: Any = composed(features.encode)  # on arrays, where the plain function takes any sequence

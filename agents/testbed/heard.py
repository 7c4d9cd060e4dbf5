"""How a controller in the simulator hears of the edge as the device of a run does.

That device greets the edge over a spare connection again and again, and a transfer that carried nothing is no sign of a lost edge while
greetings come back. The simulator knows of no greetings, so here the link's own future tells whether one would have. Without this the
simulated controller gave up an edge on a slow LTE link, and kept to the device for 44 % of the requests that the real one sent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from cutlayer.agents.testbed.deciding import Here
from cutlayer.profiles.codecs import HEADER_BYTES
from cutlayer.runtime.testbed.device import HEARD_S

if TYPE_CHECKING:
    from cutlayer.envs.streams import Streams
    from cutlayer.runtime.messages import Outcome

GREETING_BYTES = 254  # a SYN, two empty acknowledgements and a header of 48 bytes, each with the 66 to 74 of Ethernet, IP and TCP


@dataclass(frozen=True, slots=True)
class Heard(Here):
    """A controller in this process, told of transfers that carried nothing as `runtime.testbed.device` tells of them."""

    streams: Streams

    def report(self, at_s: float, outcome: Outcome) -> None:
        """See `Decider`."""
        nothing = outcome.edge_wait_s < 0.0 and outcome.send_s > 0.0 and outcome.sent_bytes < HEADER_BYTES
        if nothing and self.streams.carried_bytes(max(0.0, at_s - HEARD_S), at_s) >= GREETING_BYTES:
            outcome = msgspec.structs.replace(outcome, sent_bytes=float(HEADER_BYTES))
        self.controller.report(at_s, outcome)

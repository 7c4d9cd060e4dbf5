"""The controller's numbers, each with its reason."""

from __future__ import annotations

import math

import msgspec

from cutlayer.runtime.modes import Terms


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Times in seconds. A configuration file may hold them: wrong ones are refused here, by name."""

    cancel_margin_s: float = 0.02  # past the deadline until a transfer is cut off: as in the simulator (`envs.spec.Scenario`)
    stale_s: float = 5.0  # decisions without any report: our choice, far beyond any answer's time
    lost_s: float = 10.0  # until a decision without a report is written off: our choice, twice that
    good_s: float = 60.0  # for so long the last good plan is one: our choice, a link is another one after a minute
    budget_s: float = 0.005  # for one answer of a policy or rule: our choice, four times the p99 of a device 20 times as slow as ours
    slow_answers: int = 3  # in a row beyond the budget until it pauses: our choice, one is the system's fault, three are not
    pause_s: float = 1.0  # of what was too slow, doubled with each answer that still is: our choice, ...
    longest_pause_s: float = 60.0  # ... up to this
    edge_failures: int = 5  # requests in a row that nothing came back for, ...
    edge_silence_s: float = 2.0  # ... over at least so long: our choice, radio outages last 0.36 s on average (LTE drives)
    probe_s: float = 0.25  # until a lost edge is tried again, doubled with each try that fails, ...
    longest_probe_s: float = 8.0  # ... up to this: both as the device agent makes a connection anew
    unheard_requests: int = 12  # that a policy keeps on the device in a row, ...
    unheard_s: float = 0.5  # ... over at least so long, and as long again until one goes by the rule, ...
    longest_unheard_s: float = 60.0  # ... which doubles each time, up to this
    trial: Terms = Terms()

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if not isinstance(value, Terms) and not 0 <= value < math.inf:
                raise ValueError(f"{name} is {value}; give a finite number from 0 on")

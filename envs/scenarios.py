"""Named scenarios: each a function that builds one frozen record, with the source of every number beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cutlayer.envs.channels import Cellular, Mixture
from cutlayer.envs.spec import Scenario
from cutlayer.envs.workload import EdgeJobs, Periodic, SlowDown
from cutlayer.errors import ConfigError, nearest
from cutlayer.profiles import builtin
from cutlayer.profiles.cost import Path, deadline

if TYPE_CHECKING:
    from collections.abc import Callable

    from cutlayer.envs.channels import Channel
    from cutlayer.profiles.plans import PlanTable

# Fitted to the LTE uplink drives of mahimahi (Winstein, Sivaraman, Balakrishnan, NSDI 2013; ATT-LTE-driving, ATT-LTE-driving-2016,
# Verizon-LTE-short; 1046 s in 100 ms bins), an outage being under 0.1 Mb/s: geometric mean over drives of each drive's geometric
# mean; deviation of the logarithm about each drive's mean, over all bins; from the drives' mean autocorrelation at 1 s; share and
# mean length of 199 outages; deviation of the drives' log means.
LTE = Cellular(median_bps=1.86e6, spread=0.61, decorrelation_s=0.92, outage_share=0.068, outage_s=0.36, drive_spread=0.86)
# Fitted in the same way to the two 5G-NSA uplink drives of MTU's InSecTT measurements (Cork 2021; Data5G_151221, Data5G_171221;
# 2844 s in 3 s samples, autocorrelation at 3 s); they hold no outage.
NSA = Cellular(median_bps=36.2e6, spread=0.84, decorrelation_s=71.5, drive_spread=0.09)


def plan_table() -> PlanTable:
    """The built-in default: AlexNet, Raspberry-Pi-4-class device, the measured machine as edge."""
    return builtin.table()


GENERATED = "generated: fitted to LTE and 5G-NSA uplink drives"


def camera(plans: PlanTable | None = None, channel: Channel | None = None, inputs: str = GENERATED) -> Scenario:
    """A camera on a vehicle: 30 frames a second over a cellular uplink, an answer within 100 ms or it is worth less than none.

    The device keeps up with its last exit only while nothing else runs on it, and the link carries the raw image only
    on a good stretch of road.
    """
    return Scenario(
        name="camera",
        plans=plans if plans is not None else plan_table(),
        channel=channel if channel is not None else Mixture((LTE, NSA)),
        arrivals=Periodic(period_s=1 / 30, jitter=0.1),  # 30 frames/s: the common rate of video cameras
        objective=deadline(0.1),  # 100 ms at 99.9 %: HD-map class of 3GPP TS 22.261 traffic
        path=Path(rtt_s=0.02),  # median to servers within 50 km: LTE 21 ms, 5G-NSA low band 15 ms (Narayanan et al. 2021)
        slow_down=SlowDown(factor=3.0, busy_share=0.4, busy_s=2.0),  # our choice: a co-tenant that takes two of three time slices
        edge_jobs=EdgeJobs(rate_per_s=60.0, mean_s=0.005),  # our choice: two more cameras like ours, 30 % load
        requests=200,
        inputs=inputs,
    )


SCENARIOS: dict[str, Callable[[], Scenario]] = {"camera": camera}


def names() -> list[str]:
    """Names that `make` knows."""
    return list(SCENARIOS)


def make(name: str) -> Scenario:
    """A scenario by name.

    Raises:
        ConfigError: the name is unknown.
    """
    if name not in SCENARIOS:
        raise ConfigError(f"unknown scenario {name!r}; {nearest(name, names())}known: {', '.join(names())}")
    return SCENARIOS[name]()

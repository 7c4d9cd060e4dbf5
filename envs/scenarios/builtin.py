"""The scenarios that ship: each a function that builds one frozen record, with the source of every number beside it.

Their plan table is measured (`cutlayer profile show`): alone on the device its five exits take 13, 21, 25, 30 and 36 ms and are right in
75, 82, 86, 87 and 88 of 100 images; the raw input is 51 kB on the wire, and the tensor after the first layer 9 kB at 4 bits.
Seven follow a suite that was tried on an invented table, six times as slow; their deadlines are chosen anew, so that they bind: the whole
network on the device is late, or wins nothing, and the best single plan gives away accuracy. "Our choice" marks a number
that stands for no measurement.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from cutlayer.envs.channels import Cellular, GilbertElliott, Mixture, fitted
from cutlayer.envs.spec import Battery, Link, Memory, Scenario, Segments, Thermal
from cutlayer.envs.workload import Bursty, EdgeJobs, EdgeStream, Periodic, Poisson, SlowDown
from cutlayer.profiles import builtin
from cutlayer.profiles.cost import Objective, Path, deadline, linear
from cutlayer.profiles.energy import LTE_UPLINK, MMWAVE_UPLINK, NSA_UPLINK

if TYPE_CHECKING:
    from cutlayer.envs.channels import Channel
    from cutlayer.profiles.plans import PlanTable

# Round trips: medians to servers within 50 km (Narayanan et al., SIGCOMM 2021).
RTT_LTE_S, RTT_NSA_S = 0.021, 0.015
RTT_SITE_S = 0.005  # our choice: a server at the base station, without the way through the core network
CO_TENANT = SlowDown(factor=3.0, busy_share=0.4, busy_s=2.0)  # our choice: a co-tenant that takes two of three time slices
# Our choice: other people's jobs of 5 ms, 20 a second (10 % load) for two seconds on average, then 190 a second (95 %) for one.
HIDDEN_LOAD = EdgeStream(Bursty(rates_per_s=(20.0, 190.0), stays_s=(2.0, 1.0)), mean_s=0.005)

FITTED_LTE = "generated: fitted to an LTE uplink drive (cutlayer channel fit, data/lte.json)"
FITTED_NSA = "generated: fitted to a 5G-NSA uplink drive (cutlayer channel fit, data/5g-nsa.json)"
GENERATED = "generated: fitted to an LTE and a 5G-NSA uplink drive (cutlayer channel fit, data/lte.json and data/5g-nsa.json)"


def plan_table() -> PlanTable:
    """The built-in default: AlexNet, Raspberry-Pi-4-class device, the measured machine as edge."""
    return builtin.table()


def fit(name: str) -> Cellular:
    """The log-normal link fitted to the drives of `fitted.SETS` that policies train on; those they are tested on have no part in it."""
    channel = fitted.load(name)
    assert isinstance(channel, Cellular), f"the first fit of {name} is a {type(channel).__name__}"
    return channel


def camera(plans: PlanTable | None = None, channel: Channel | None = None, inputs: str = GENERATED) -> Scenario:
    """A camera on a vehicle: 30 frames a second over a cellular uplink, an answer within 100 ms or it is worth less than none.

    The device keeps up with its last exit only while nothing else runs on it, and the link carries the raw image only
    on a good stretch of road.
    """
    return Scenario(
        name="camera",
        plans=plans if plans is not None else plan_table(),
        channel=channel if channel is not None else Mixture((fit("lte"), fit("5g-nsa"))),
        arrivals=Periodic(period_s=1 / 30, jitter=0.1),  # 30 frames/s: the common rate of video cameras
        objective=deadline(0.1),  # 100 ms at 99.9 %: HD-map class of 3GPP TS 22.261 traffic
        path=Path(rtt_s=0.02),  # median to servers within 50 km: LTE 21 ms, 5G-NSA low band 15 ms (Narayanan et al. 2021)
        slow_down=CO_TENANT,
        edge_jobs=EdgeJobs(rate_per_s=60.0, mean_s=0.005),  # our choice: two more cameras like ours, 30 % load
        requests=200,
        inputs=inputs,
    )


def privacy() -> Scenario:
    """The camera again, but no plan may send the image: whatever leaves the device has passed a layer of the network."""
    return dataclasses.replace(camera(builtin.table("privacy")), name="privacy")


def paper_linear() -> Scenario:
    """One request at a time, accuracy minus weighted latency: a learner crushes device-only and edge-only, and the best single plan ties.

    The comparison of the offloading papers, as a negative control: a linear price of latency leaves almost nothing to decide.
    """
    return Scenario(
        name="paper-linear",
        plans=plan_table(),
        channel=fit("5g-nsa"),
        arrivals=Periodic(period_s=0.2),  # our choice: slower than any plan, so that no request meets another
        objective=linear(1 / 30),  # 0.2 for each frame time of a 30 Hz camera: our choice, the weight makes exits and offloading close
        path=Path(rtt_s=RTT_SITE_S, radio=NSA_UPLINK),
        link=Link(rate_told=True),  # channel state is given in these papers
        inputs=FITTED_NSA,
    )


def paper_urllc() -> Scenario:
    """One request at a time, 15 ms or it counts against you: only the first exit is fast enough on the device, the rest is the link's.

    A mmWave uplink whose rate changes slowly, so what the last transfer showed still holds.
    """
    return Scenario(
        name="paper-urllc",
        plans=plan_table(),
        # Median: half of the mean of the mmWave uplink runs behind `energy.MMWAVE_UPLINK` (220 Mb/s), our choice for a user who moves.
        # Spread as fitted to 5G-NSA; decorrelation: our choice, 25 requests.
        channel=dataclasses.replace(fit("5g-nsa"), median_bps=110e6, decorrelation_s=5.0),
        arrivals=Periodic(period_s=0.2),  # as in paper-linear
        objective=deadline(0.015),  # our choice: between exit 0 (13 ms) and exit 1 (21 ms) on the device
        path=Path(rtt_s=RTT_SITE_S, radio=MMWAVE_UPLINK),
        link=Link(rate_told=True),  # as in paper-linear
        inputs="generated",
    )


def urllc_ge() -> Scenario:
    """A link that is good or blocked, and a miss that costs three: how far to trust a link that was good a moment ago.

    The uplink is a Gilbert-Elliott channel, the requests know nothing of each other.
    """
    return Scenario(
        name="urllc-ge",
        plans=plan_table(),
        # Stays: our choice, blocked a fifth of the time, each for 15 requests: with shorter ones no rule that is not told the future
        # dares to send. Rates: our choice, the good one carries the raw image in 7 ms, the blocked one a tensor of 2 bits in 4 ms
        # and the image in 49 ms.
        channel=GilbertElliott(good_bps=60e6, bad_bps=8e6, good_s=4.0, bad_s=1.0),
        arrivals=Poisson(rate_per_s=15.0),  # our choice: a tenth of the link at the good rate, a fifth of the device at its first exit
        objective=deadline(0.025, late_penalty=3.0),  # our choice: 25 ms is under the whole network on the device; three for a miss
        path=Path(rtt_s=RTT_SITE_S, radio=NSA_UPLINK),
        inputs="generated",
    )


def bursty_deadline() -> Scenario:
    """Requests in bursts, 60 ms: in a burst neither device nor link carries every request at full depth, so each one costs the next.

    What a request is worth depends on who comes after it; a rule that looks at one request at a time queues them all.
    """
    return Scenario(
        name="bursty-deadline",
        plans=plan_table(),
        channel=dataclasses.replace(fit("lte"), median_bps=10e6, outage_share=0.0),  # memory and spread as fitted; the rest our choice
        # Our choice: a motion detector, 5 requests a second, then 60 for half a second on average: the last exit manages 34.
        arrivals=Bursty(rates_per_s=(5.0, 60.0), stays_s=(1.0, 0.5)),
        objective=deadline(0.06),  # our choice: two requests at the last exit, no more
        path=Path(rtt_s=RTT_LTE_S, radio=LTE_UPLINK),
        inputs="generated",
    )


def hidden_load() -> Scenario:
    """Other people's bursts at the edge, 50 ms: nobody tells the device of the queue until a reply has stood in it."""
    return Scenario(
        name="hidden-load",
        plans=plan_table(),
        channel=Cellular(median_bps=40e6, spread=0.3, decorrelation_s=0.92),  # our choice: a link that is not the question
        arrivals=Poisson(rate_per_s=40.0),  # our choice: more than the last exit manages on the device (34 a second)
        objective=deadline(0.05),  # our choice: twice the way through an idle edge
        path=Path(rtt_s=0.01, radio=NSA_UPLINK),  # our choice: between a server at the base station and one in the region
        edge_jobs=HIDDEN_LOAD,
        inputs="generated",
    )


def battery_harvest() -> Scenario:
    """A solar camera on a capacitor: deep exits in the sun are paid for in the shade, and an empty device answers nobody.

    Late or empty costs 0.5. Charge and harvest count what is left beyond the idle draw of the device.
    """
    return Scenario(
        name="battery-harvest",
        plans=plan_table(),
        channel=fit("lte"),
        arrivals=Poisson(rate_per_s=5.0),  # our choice: 200 requests are 40 s, several turns of sun and shade
        objective=deadline(0.1, late_penalty=0.5),  # deadline as in camera; penalty our choice: less than an answer is worth
        path=Path(rtt_s=RTT_LTE_S, radio=LTE_UPLINK),
        # Charge: 2 F between 5.0 V and 4.7 V hold 2.9 J, forty requests at the last exit; half full at the start: our choice.
        # Sun and shade: our choice; 0.15 W on average is half of what the last exit draws at this rate (0.36 W).
        battery=Battery(capacity_j=2.9, start=0.5, harvest=GilbertElliott(good_bps=0.3, bad_bps=0.02, good_s=6.0, bad_s=6.0)),
        inputs=FITTED_LTE,
    )


# Length in bytes of the graphs that `cutlayer profile graphs alexnet` writes: the device's part of a cut after 1, ... 7 layers, and the
# whole network up to each exit.
PREFIX_BYTES = (94_923, 915_451, 1_801_536, 3_129_996, 4_016_213, 7_164_104, 7_558_691)
EXIT_BYTES = (379_184, 1_420_687, 2_527_966, 3_856_425, 7_569_363)


def graphs(plans: PlanTable, swap_s: float = 0.0) -> Segments:
    """What each plan of the built-in network loads: one graph a cut, one an exit that stays on the device, none where the input is sent."""
    unit = [-1 if row.partition == 0 else row.partition - 1 if row.bits else len(PREFIX_BYTES) + row.exit for row in plans.rows]
    sizes = (*PREFIX_BYTES, *EXIT_BYTES)
    return Segments(
        tuple(unit), tuple(swap_s if own >= 0 else 0.0 for own in unit), tuple(float(sizes[own]) if own >= 0 else 0.0 for own in unit)
    )


def cold_start() -> Scenario:
    """Too little memory for every graph: a plan that was not run lately reads its weights first, up to a quarter of a second.

    What to keep resident is decided by what is run; the link decides how long a graph stays useful.
    """
    plans = plan_table()
    return Scenario(
        name="cold-start",
        plans=plans,
        # Our choice: good and bad for longer than a load takes; the bad rate carries no tensor of an early layer in time.
        channel=GilbertElliott(good_bps=60e6, bad_bps=0.3e6, good_s=3.0, bad_s=3.0),
        arrivals=Poisson(rate_per_s=20.0),  # our choice: a load keeps several requests waiting
        objective=deadline(0.1),  # as in camera: a load of the deeper graphs does not fit in
        path=Path(rtt_s=RTT_NSA_S, radio=NSA_UPLINK),
        slow_down=CO_TENANT,
        segments=graphs(plans),
        # Room: our choice, exit 2 with the first cut, or the two exits before it; never one of the last two exits. A load reads the
        # card at 40 MB/s (our choice, below the 50 MB/s of the Pi 4's UHS-I DDR50 bus) and makes an ONNX Runtime session: 0.8 ms and
        # 0.95 ms a megabyte on the measured machine (median of 7 on each graph), times 7.49 as every time of this device: 6 ms, and
        # 1 / (1 / 40e6 + 7.1e-9) bytes a second.
        memory=Memory(capacity_bytes=3e6, read_bytes_per_s=31e6, init_s=0.006),
        inputs="generated",
    )


def compound() -> Scenario:
    """All at once: outages, bursts, a hidden edge load, a co-tenant, graphs to switch, heat and a price on every joule; 100 ms.

    Hardly a device meets all of it; it tells whether a policy breaks where several things it half knows meet.
    """
    plans = plan_table()
    return Scenario(
        name="compound",
        plans=plans,
        channel=dataclasses.replace(fit("lte"), median_bps=20e6),  # memory, spread and outages as fitted; median our choice
        arrivals=Bursty(rates_per_s=(5.0, 40.0), stays_s=(1.0, 0.5)),  # our choice: a burst fills the device at its last exit
        objective=Objective(0.1, energy_weight=1.0),  # deadline as in camera; price our choice: the last exit costs 0.07 a request
        path=Path(rtt_s=RTT_LTE_S, radio=LTE_UPLINK),
        slow_down=SlowDown(factor=2.0, busy_share=0.3, busy_s=2.0),  # our choice: a co-tenant that takes every other time slice
        edge_jobs=HIDDEN_LOAD,
        segments=graphs(plans, swap_s=0.006),  # all graphs are in memory; making a session ready is what cold-start calls init_s
        # Processor of a Raspberry Pi 4 in air of 27 C: 55 C idle, 66 C with four busy cores (pi-plates.com, THERMOplate measurement);
        # here in a case in the sun, 23 K more. It slows between 80 C and 85 C (Raspberry Pi documentation, frequency management),
        # from 1.5 GHz to 0.6 GHz. Time constant: our choice, so that an episode sees it.
        thermal=Thermal(idle_c=78.0, busy_c=89.0, time_constant_s=20.0, throttle_c=80.0, limit_c=85.0, slowest=2.5),
        inputs="generated",
    )


def lte_uplink() -> Scenario:
    """A real LTE uplink on the road, 120 ms, a miss costs three: measured drives where they are at hand, a fit to them elsewhere.

    Drives to train on and drives to test on are kept apart by name (`agents.drives`).
    """
    return Scenario(
        name="lte-uplink",
        plans=plan_table(),
        channel=fit("lte"),
        arrivals=Poisson(rate_per_s=20.0),  # our choice: six tenths of the device at its last exit
        objective=deadline(0.12, late_penalty=3.0),  # our choice: where outages of this link decide
        path=Path(rtt_s=RTT_LTE_S, radio=LTE_UPLINK),
        slow_down=CO_TENANT,
        inputs=FITTED_LTE,
    )


def nsa_uplink() -> Scenario:
    """A real 5G-NSA uplink on the road, 40 ms, a miss costs three: measured drives where they are at hand, a fit to them elsewhere.

    Drives to train on and drives to test on are kept apart by name (`agents.drives`).
    """
    return Scenario(
        name="nsa-uplink",
        plans=plan_table(),
        channel=fit("5g-nsa"),
        arrivals=Poisson(rate_per_s=30.0),  # our choice: nine tenths of the device at its last exit
        objective=deadline(0.04, late_penalty=3.0),  # our choice: little more than one request at the last exit
        path=Path(rtt_s=RTT_NSA_S, radio=NSA_UPLINK),
        inputs=FITTED_NSA,
    )

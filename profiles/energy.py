"""Power of computing and of sending, where no meter is at hand: cited constants, and labelled as modelled.

Compute energy of a plan is `busy_w` times its CPU seconds. Sending costs `base_w` while the radio is on the air plus
`joules_per_bit` for every bit, a straight line fitted to measured phone power against rate.
"""

from __future__ import annotations

from dataclasses import dataclass

# Mean of energy/time over the 15 device-side rows of the Jetson Nano cut-point table of MAHPPO (Hao et al.,
# arXiv 2205.11854; its env/data.py), 1.48 to 3.03 W: a board of the same class as a Raspberry Pi 4, which has no meter.
DEVICE_BUSY_W = 2.46
DEVICE_ENERGY_METHOD = "modelled: 2.46 W x CPU seconds (Jetson Nano, arXiv 2205.11854)"


@dataclass(frozen=True, slots=True)
class Radio:
    """Sending power in watts = base_w + joules_per_bit x rate."""

    base_w: float
    joules_per_bit: float


# Least squares of whole-phone power against uplink rate, controlled iPerf runs of Narayanan et al. (SIGCOMM 2021), one
# phone, one sample a second: LTE 76.7 mW per Mb/s + 2926 mW (663 samples up to 28 Mb/s), 5G-NSA low band 32.2 mW per Mb/s
# + 3199 mW (255, 46 Mb/s), 5G-NSA mmWave 8.9 mW per Mb/s + 5664 mW (1020, 220 Mb/s); the fits explain 55, 55 and 84 % of
# the variance. 2300 mW of it is the idle phone with its screen (its 32 idle runs average 2357 mW).
LTE_UPLINK = Radio(base_w=0.626, joules_per_bit=76.7e-9)
NSA_UPLINK = Radio(base_w=0.899, joules_per_bit=32.2e-9)
MMWAVE_UPLINK = Radio(base_w=3.364, joules_per_bit=8.9e-9)
IDLE_PHONE_W = 2.3  # taken off the fits above: the phone with its screen on costs it anyway

RADIOS = {"lte": LTE_UPLINK, "5g-nsa-low": NSA_UPLINK, "5g-nsa-mmwave": MMWAVE_UPLINK}

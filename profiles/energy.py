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


# Least squares of whole-phone power against uplink rate, controlled iPerf runs of Narayanan et al. (SIGCOMM 2021):
# LTE 76.7 mW per Mb/s + 2926 mW, 5G-NSA low band 32.2 mW per Mb/s + 3199 mW; 2300 mW of it is the idle phone with its screen.
LTE_UPLINK = Radio(base_w=0.626, joules_per_bit=76.7e-9)
NSA_UPLINK = Radio(base_w=0.899, joules_per_bit=32.2e-9)

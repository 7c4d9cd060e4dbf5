"""Uplink rates over time: generators, replay of measured traces, and generators fitted to measured drives.

A channel gives the rate of every slot of an episode; the rate is constant within a slot.
"""

from cutlayer.envs.channels.chains import on_off
from cutlayer.envs.channels.generators import Cellular, Channel, Constant, GilbertElliott, Markov, Mixture, Rayleigh, Regimes
from cutlayer.envs.channels.kinds import KINDS, build, describe
from cutlayer.envs.channels.traces import Trace, read_mahimahi, read_trace, replay

__all__ = [
    "KINDS",
    "Cellular",
    "Channel",
    "Constant",
    "GilbertElliott",
    "Markov",
    "Mixture",
    "Rayleigh",
    "Regimes",
    "Trace",
    "build",
    "describe",
    "on_off",
    "read_mahimahi",
    "read_trace",
    "replay",
]

"""Measured uplink drives of the trace-driven scenarios, on three sides: to train on, to test on, and of a radio that nobody trains on.

Whole drives stand on one side; where a campaign repeats a route or a city, all drives of it do, so that what is tested is a new place
and not the next lap. The files are those of the folder that `agents.inputs` finds; none is shipped.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sides:
    """Files by side; `of` says who measured those of `train` and `test`, `elsewhere_of` the rest."""

    train: tuple[str, ...]
    test: tuple[str, ...]
    elsewhere: tuple[str, ...]
    of: str
    elsewhere_of: str


def _in(folder: str, *stems: str) -> tuple[str, ...]:
    return tuple(f"{folder}/dev/{stem}.csv" for stem in stems)


def _york(*stems: str) -> tuple[str, ...]:
    return _in("trace_lte_nyumets", *stems)


def _walk(carrier: str, *runs: int) -> tuple[str, ...]:
    return _in("trace_5g_sigcomm21_power", *(f"mn_{carrier}_uplink_run{run}" for run in runs))


def _city(carrier: str, **drives: int) -> tuple[str, ...]:
    return _in("trace_cell_imc23", *(f"{carrier}_{city}_ul_{drive}" for city, count in drives.items() for drive in range(1, count + 1)))


_STANDALONE = _walk("TMobile_SAonly", 20070, 20074, 20078, 20079)
_WALKS = "Narayanan et al., SIGCOMM 2021: walks in Minneapolis, a sample a second"
_MTU = "Munster Technological University, Cork 2021: a sample every 3 s"
DRIVES: dict[str, Sides] = {
    "lte-uplink": Sides(
        train=(
            *_in("trace_lte_mahimahi", "ATT-LTE-driving"),
            *_york("d1_Bus_B57_bus57_1", "d1_Bus_B57_bus57_2", "d1_Bus_M15_M15_1", "d1_Bus_M15_M15_2", "multivariate_MM15"),
            *_york("multivariate_BB16", "multivariate_BB61", "d1_Car_Car_1", "d1_Car_Car_2"),
            *_york("d1_Subway_D_Train_d1", "d1_Subway_D_Train_d2"),
        ),
        test=(
            *_in("trace_lte_mahimahi", "ATT-LTE-driving-2016", "Verizon-LTE-short"),
            *_york("d1_Bus_B62_bus62", "multivariate_BB62", "d1_Bus_NYU_Campus_NYU_Campus_Bus"),
            *_york(*(f"d1_Subway_Q_Train_Q_Train{lap}" for lap in (1, 2, 3))),
        ),
        elsewhere=(*_STANDALONE, *_in("trace_5g_mtu_ul", "Data5G_static4Gonly_110122")),
        of="Winstein et al., NSDI 2013: saturator, bins of 100 ms; Mei et al., PAM 2019: New York, a sample a second, direction not stated",
        elsewhere_of=f"5G standalone in band n71, {_WALKS}; LTE at rest, {_MTU}",
    ),
    "nsa-uplink": Sides(
        train=(
            *_in("trace_5g_mtu_ul", "Data5G_171221"),
            *_walk("TMobile_NSALTE", 20076, 20077),
            *_walk("Verizon_DEFAULT", 15656, 15657, 77),
            *_city("atnt", chic=2, indy=2, lv=2),
            *_city("verizon", chic=2, indy=2, lv=2, omaha=2),
        ),
        test=(
            *_in("trace_5g_mtu_ul", "Data5G_151221"),
            *_walk("TMobile_NSALTE", 20086),
            *_walk("Verizon_DEFAULT", 196, 197),
            *_city("atnt", clev=3, la=1, slc=1),
            *_city("verizon", clev=4, de=1, la=1, slc=1),
        ),
        elsewhere=(*_STANDALONE, *_in("trace_5g_mtu_ul", "Data5G_static5G_070322")),
        of=f"{_MTU}; {_WALKS}; Ghoshal et al., IMC 2023: standing in cities of the US, bins of 100 ms",
        elsewhere_of=f"5G standalone in band n71, {_WALKS}; 5G-NSA at rest, {_MTU}",
    ),
}

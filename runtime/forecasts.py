"""What a belief about the link says of the near future: a forecast made once for a decision, and the chance that bytes get through.

The forecast is a few curves through three times, so that asking it for one plan more costs arithmetic only; it is asked for one plan or
for a column of them by the same formula.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from cutlayer.runtime.filters import (
    AT,
    BLOCK,
    BLOCKED,
    BLOCKED_LOG,
    BLOCKED_SD,
    COVARIANCE,
    DRIFT,
    DRIFTS,
    FORGET_PER_S,
    JUMP_PER_S,
    LEAST_JUMP,
    LOG_RATE,
    SD,
    SHORTEST_S,
    STEP_S,
    UNBLOCK,
)

if TYPE_CHECKING:
    from collections.abc import MutableSequence, Sequence

    from cutlayer.profiles.cost import Number

NEAR_S, PER_S = range(2)  # the time at 0 of the curves, one over their length
CHAIN, JUMPS = 2, 3  # 1 where the link may be blocked, where its drifts jump
B_LOG, B_SD, B_RATE = 4, 5, 6  # what it carries when it is blocked
# Constant, slope and bend of each curve; KNOWN is the part of the variance that is there before anything moves.
MEAN, VARIANCE, KNOWN, JUMPED, BLOCKED_THEN, STILL_OPEN, STILL_BLOCKED = range(7, 28, 3)
FORECAST = 28
# Phi(z) is about 1 / (1 + exp(-(a z + b z^3))) within 1.4e-4: Bowling, Khasawneh, Kaewkuekool and Cho, JIEM 2(1), 2009.
_PHI_A, _PHI_B, _PHI_END = 1.5976, 0.07056, 8.0
_SURE_SD = 1e-9  # of a belief that is certain: below the rounding of any time


def forecast(state: Sequence[float], numbers: Sequence[float], near_s: float, far_s: float, out: MutableSequence[float]) -> None:
    """Write what the shown belief says of the link between two times into `out`, `FORECAST` values.

    Of the mean log rate over a window: its mean and variance, by how far the window's middle and first third lie ahead (right
    to first order in the window's length); the chance that the link is blocked at a time; and the chances that an open or a
    blocked link stays so for as long, at the same place of the curve as that time.
    """
    length_s = max(far_s - near_s, SHORTEST_S)
    out[NEAR_S], out[PER_S] = near_s, 1.0 / length_s
    chain = numbers[BLOCK] > 0.0
    out[CHAIN], out[JUMPS] = 1.0 if chain else 0.0, 1.0 if numbers[JUMP_PER_S] > 0.0 else 0.0
    out[B_LOG], out[B_SD], out[B_RATE] = numbers[BLOCKED_LOG], numbers[BLOCKED_SD], math.exp(numbers[BLOCKED_LOG])
    block_per_s, unblock_per_s, share = 0.0, 0.0, 0.0
    if chain:
        block_per_s = -math.log(1.0 - min(numbers[BLOCK], 0.999)) / numbers[STEP_S]
        unblock_per_s = -math.log(1.0 - min(numbers[UNBLOCK], 0.999)) / numbers[STEP_S]
        share = numbers[BLOCK] / (numbers[BLOCK] + numbers[UNBLOCK])
    for k in range(3):
        lag_s = max(0.0, near_s + 0.5 * k * length_s - state[AT])
        mean, moved, known = numbers[LOG_RATE], 0.0, 0.0
        for i in range(DRIFTS):
            keep = math.exp(-numbers[FORGET_PER_S + i] * lag_s)
            mean += state[DRIFT + i] * keep
            moved += numbers[SD + i] ** 2 * (1.0 - keep * keep)
            for j in range(DRIFTS):
                known += state[COVARIANCE + i * DRIFTS + j] * keep * math.exp(-numbers[FORGET_PER_S + j] * lag_s)
        out[MEAN + k], out[VARIANCE + k], out[KNOWN + k] = mean, known + moved, known
        out[JUMPED + k] = 1.0 - math.exp(-numbers[JUMP_PER_S] * lag_s)
        out[BLOCKED_THEN + k] = share + (state[BLOCKED] - share) * math.exp(-(block_per_s + unblock_per_s) * lag_s)
        out[STILL_OPEN + k] = math.exp(-0.5 * k * block_per_s * length_s)
        out[STILL_BLOCKED + k] = math.exp(-0.5 * k * unblock_per_s * length_s)
    for curve in range(MEAN, FORECAST, 3):
        at_0, at_half, at_1 = out[curve], out[curve + 1], out[curve + 2]
        out[curve + 1] = 4.0 * at_half - 3.0 * at_0 - at_1
        out[curve + 2] = 2.0 * at_0 - 4.0 * at_half + 2.0 * at_1


def along(ahead: Sequence[float], curve: int, place: Number) -> Number:
    """Value of one of the forecast's curves at a place from 0 to 1."""
    value: Number = ahead[curve] + place * (ahead[curve + 1] + place * ahead[curve + 2])
    return value


def phi(z: Number) -> Number:
    """Distribution function of the normal distribution."""
    z = np.minimum(np.maximum(z, -_PHI_END), _PHI_END)
    chance: Number = 1.0 / (1.0 + np.exp(-z * (_PHI_A + _PHI_B * z * z)))
    return chance


def in_time(ahead: Sequence[float], start_s: Number, end_s: Number, wire_bytes: Number) -> Number:
    """Chance that the link carries so many bytes (above 0) between two times, by a forecast; on floats or arrays.

    Open all the time: a log-normal, or two of them where drifts jump: they stood still, or all that moves did so in jumps. Open for a
    part of it: every part is as likely (one change of the chain, at any time), so the chance is E[(1 - need / rate)+], which is
    Black and Scholes' formula. Blocked all the time: what a blocked link carries.
    """
    window_s = np.maximum(end_s - start_s, SHORTEST_S)
    log_need = np.log(8.0 * wire_bytes / window_s)
    start = np.minimum(np.maximum((start_s - ahead[NEAR_S]) * ahead[PER_S], 0.0), 1.0)
    length = np.minimum(window_s * ahead[PER_S], 1.0)
    mean = along(ahead, MEAN, np.minimum(start + length / 2.0, 1.0))
    third = np.minimum(start + length / 3.0, 1.0)
    variance = np.maximum(along(ahead, VARIANCE, third), 0.0)
    sd = np.sqrt(variance) + _SURE_SD
    open_all: Number
    if ahead[JUMPS] > 0.0:
        known = np.minimum(np.maximum(along(ahead, KNOWN, third), 0.0), variance)
        jumped = np.minimum(np.maximum(along(ahead, JUMPED, third), LEAST_JUMP), 1.0)
        moved_sd = np.sqrt(known + (variance - known) / jumped) + _SURE_SD
        stayed = phi((mean - log_need) / (np.sqrt(known) + _SURE_SD))
        open_all = stayed + jumped * (phi((mean - log_need) / moved_sd) - stayed)
    else:
        open_all = phi((mean - log_need) / sd)
    if ahead[CHAIN] == 0.0:
        return open_all
    need = np.exp(log_need)
    beyond = np.maximum(need - ahead[B_RATE], 1e-9 * need) / np.maximum(1.0 - np.exp(ahead[B_LOG] - mean), 1e-3)
    away = (mean - np.log(beyond)) / sd
    # The exponent's bound only keeps it finite: far beyond the mean the difference is below 0 and cut.
    short = np.exp(np.minimum(np.log(beyond) - mean + 0.5 * sd * sd, 50.0)) * phi(away - sd)
    open_part = np.minimum(np.maximum(phi(away) - short, 0.0), 1.0)
    blocked_all = phi((ahead[B_LOG] - log_need) / ahead[B_SD])
    blocked = along(ahead, BLOCKED_THEN, start)
    still_open, still_blocked = along(ahead, STILL_OPEN, length), along(ahead, STILL_BLOCKED, length)
    chance: Number = (1.0 - blocked) * (still_open * open_all + (1.0 - still_open) * open_part) + blocked * (
        still_blocked * blocked_all + (1.0 - still_blocked) * open_part
    )
    return chance


# What compiled code calls of this file.
FUNCTIONS = (forecast, along, phi, in_time)

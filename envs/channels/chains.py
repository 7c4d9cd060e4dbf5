"""What generators are made of: Markov chains and autoregressions, walked with a generator handed in, always from their steady state."""

from __future__ import annotations

import math
from bisect import bisect_right
from typing import TYPE_CHECKING

import numpy as np

from cutlayer.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Matrix = tuple[tuple[float, ...], ...]

# Rows of a matrix that somebody typed add up to one within this.
_ROW_GRAIN = 1e-6
# Singular values below this are zero: a chain of a hundred states with stays of an hour at 20 ms keeps its gap above it.
_RANK_GRAIN = 1e-9


def positive(what: str, **values: float) -> None:
    """ConfigError that names the value, unless all are finite and above 0."""
    for name, value in values.items():
        if not (math.isfinite(value) and value > 0):
            raise ConfigError(f"{what}: {name} is {value}; give a finite number above 0")


def not_negative(what: str, **values: float) -> None:
    """ConfigError that names the value, unless all are finite and at least 0."""
    for name, value in values.items():
        if not (math.isfinite(value) and value >= 0):
            raise ConfigError(f"{what}: {name} is {value}; give a finite number from 0 on")


def check_transitions(what: str, transitions: Matrix, states: int) -> None:
    """ConfigError unless `transitions` is a row-stochastic matrix of that many states with a single steady state."""
    if len(transitions) != states or any(len(row) != states for row in transitions):
        shape = "x".join(sorted({str(len(transitions)), *(str(len(row)) for row in transitions)}))
        raise ConfigError(f"{what}: transitions is {shape} for {states} states; give one row and one column a state")
    for i, row in enumerate(transitions):
        if not all(0.0 <= chance <= 1.0 for chance in row) or abs(sum(row) - 1.0) > _ROW_GRAIN:
            raise ConfigError(f"{what}: row {i} of transitions is {list(row)}, adding up to {sum(row):g}; give chances that add up to 1")
    singular = np.linalg.svd(np.array(transitions) - np.eye(states), compute_uv=False)
    if int((singular < _RANK_GRAIN).sum()) > 1:
        raise ConfigError(f"{what}: the states fall into parts that never meet: no share of time is defined; let them reach each other")


def stationary(transitions: Matrix) -> NDArray[np.float64]:
    """Share of time in each state: the solution of `share @ transitions = share` that adds up to one."""
    states = len(transitions)
    balance = np.vstack([np.array(transitions).T - np.eye(states), np.ones(states)])
    share: NDArray[np.float64] = np.linalg.lstsq(balance, np.append(np.zeros(states), 1.0), rcond=None)[0]
    return np.clip(share, 0.0, 1.0)


def walk(rng: np.random.Generator, transitions: Matrix, steps: int) -> NDArray[np.int64]:
    """States of a Markov chain, shape (steps,), the first from its steady state."""
    last = len(transitions) - 1
    draws: list[float] = rng.uniform(size=steps).tolist()
    edges = [np.cumsum(row).tolist() for row in transitions]
    path = np.empty(steps, np.int64)
    row = np.cumsum(stationary(transitions)).tolist()
    for i, draw in enumerate(draws):
        state = min(bisect_right(row, draw), last)
        path[i], row = state, edges[state]
    return path


def autoregression(noise: NDArray[np.float64], rho: float) -> NDArray[np.float64]:
    """AR(1) of unit variance from white `noise`: correlation rho^k at lag k, the first value from its steady state."""
    fresh = math.sqrt(1 - rho * rho)
    values: list[float] = noise.tolist()
    x = values[0]
    for i in range(1, len(values)):
        x = rho * x + fresh * values[i]
        values[i] = x
    return np.array(values)


def step_of_slot(rng: np.random.Generator, slots: int, slot_s: float, step_s: float) -> NDArray[np.int64]:
    """Index of the step that each slot begins in: steps last step_s, and the first slot begins anywhere in step 0."""
    return (rng.uniform() + np.arange(slots) * (slot_s / step_s)).astype(np.int64)


def on_off(rng: np.random.Generator, slots: int, slot_s: float, share: float, mean_s: float) -> NDArray[np.bool_]:
    """Which slots are 'on' in a two-state Markov chain that is on `share` of the time for `mean_s` on average."""
    leave = min(1.0, slot_s / mean_s)
    enter = min(1.0, leave * share / (1.0 - share))
    draws: list[float] = rng.uniform(size=slots).tolist()
    on = np.empty(slots, np.bool_)
    state = bool(rng.uniform() < share)
    for i, draw in enumerate(draws):
        state = draw >= leave if state else draw < enter
        on[i] = state
    return on

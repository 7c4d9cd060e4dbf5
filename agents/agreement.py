"""Do two forms of one policy decide alike? Where they may not, by how much rounding may move a logit is known beforehand.

float32 sums depend on their order, and every library has its own tanh. So the two largest logits may change places where they are
closer than rounding can tell; everywhere else two forms that differ are not the same policy. With u = 2^-24, a sum of k products
taken in any order is off by at most k u / (1 - k u) times the sum of their magnitudes (Higham, "Accuracy and Stability of Numerical
Algorithms", 2nd ed., 2002, section 3.1). What a layer's inputs are off passes through the magnitudes of its weights, and through
the activation by its steepest slope nearby.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cutlayer.runtime import features

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cutlayer.runtime.policy import Mlp, Policy

UNIT = 2.0**-24  # half the distance from 1 to the next float32
TANH_ERROR = 5e-7  # absolute, of any tanh here: numpy, torch, ONNX Runtime and the generated C stay below 3e-7 (tests measure them)


@dataclass(frozen=True, slots=True)
class Agreement:
    """How the plans of two forms compare.

    close: observations whose best logits are nearer than rounding can tell; differ_close: those of them where the plans differ;
    differ: where they differ and must not. gap: the widest distance between the logits of two plans that differ.
    """

    observations: int
    close: int
    differ_close: int
    differ: int
    gap: float


class Exact:
    """Logits (n, plans) of observations in double precision, and by how much float32 may be off from each."""

    def __init__(self, policy: Mlp, observations: NDArray[np.float32]) -> None:
        x, off = observations.astype(np.float64), np.zeros((1, 1))
        for i, (weight, bias) in enumerate(policy.layers):
            w, magnitude = weight.T.astype(np.float64), np.abs(weight.T).astype(np.float64)
            k = (len(w) + 1) * UNIT
            # The rounded sum is of the float32 inputs, whose magnitudes are the exact ones' and what they are off.
            off = np.broadcast_to(off, x.shape) @ magnitude + k / (1.0 - k) * ((np.abs(x) + off) @ magnitude + np.abs(bias))
            x = x @ w + bias
            if i < len(policy.layers) - 1:
                x, off = _activated(x, off, policy)
        self.logits, self.off = x, off

    def compare(self, ours: NDArray[np.int64], theirs: NDArray[np.int64]) -> Agreement:
        """Hold the plans (n,) of two forms against each other."""
        rows = np.arange(len(self.logits))
        best = self.logits.argmax(axis=1)
        # Plans that rounding can make the best.
        possible = self.logits + self.off >= (self.logits[rows, best] - self.off[rows, best])[:, None]
        apart = ours != theirs
        allowed = possible[rows, ours] & possible[rows, theirs]
        gap = np.abs(self.logits[rows, ours] - self.logits[rows, theirs])[apart]
        close, differ_close, differ = (int(mask.sum()) for mask in (possible.sum(axis=1) > 1, apart & allowed, apart & ~allowed))
        return Agreement(len(rows), close, differ_close, differ, float(gap.max(initial=0.0)))


def _activated(x: NDArray[np.float64], off: NDArray[np.float64], policy: Mlp) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if policy.activation == "relu":
        return np.maximum(x, 0.0), off
    nearest = np.tanh(np.maximum(np.abs(x) - off, 0.0))
    return np.tanh(x), off * (1.0 - nearest**2) + TANH_ERROR


def observations(inputs: int, count: int, seed: int = 0) -> NDArray[np.float32]:
    """Random observations and odd ones, (count, inputs): corners and faces of the range, one feature at a time, zeros of both signs,
    the smallest numbers, and neighbours that differ by one unit in the last place.
    """
    rng = np.random.default_rng(seed)
    low, high = np.float32(features.LOW), np.float32(features.HIGH)
    some = count // 16
    corners = rng.choice([low, high], (some, inputs))
    faces = rng.uniform(low, high, (some, inputs))
    faces[rng.random(faces.shape) < 0.5] = 0.0
    single = np.concatenate([np.diag(np.full(inputs, value)) for value in (low, high, 1.0, 1e-38, 1e-45)])
    flat = np.array([np.full(inputs, value) for value in (low, high, 0.0, -0.0, 1.0, 1e-38, -1e-38, 1e-45, -1e-45)])
    near = np.repeat(rng.uniform(low, high, (some // 2, inputs)).astype(np.float32), 2, axis=0)
    near[1::2] = np.nextafter(near[1::2], high)
    odd = np.concatenate([corners, faces, single, flat, near]).astype(np.float32)[:count]
    return np.concatenate([odd, rng.uniform(low, high, (count - len(odd), inputs)).astype(np.float32)])


def plans(policy: Policy, observations: NDArray[np.float32]) -> NDArray[np.int64]:
    """What a form decides, one observation after the other, as on a device."""
    return np.array([policy.choose(one)[0] for one in observations])

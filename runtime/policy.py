"""The learned policy as it is deployed: a small multilayer perceptron in numpy, observation to plan."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

Activation = Literal["tanh", "relu"]


class Mlp:
    """Layers of weights (outputs, inputs) and biases (outputs,), the activation between them; the plan is the largest logit."""

    def __init__(self, layers: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]], activation: Activation) -> None:
        self.layers = [(np.ascontiguousarray(w, np.float32), np.ascontiguousarray(b, np.float32)) for w, b in layers]
        self.activation: Activation = activation
        self._buffers = [np.empty(len(b), np.float32) for _, b in self.layers]

    @property
    def inputs(self) -> int:
        """Length of the observation."""
        return int(self.layers[0][0].shape[1])

    @property
    def outputs(self) -> int:
        """Number of plans."""
        return int(self.layers[-1][0].shape[0])

    def logits(self, observation: NDArray[np.float32]) -> NDArray[np.float32]:
        """Preference of every plan; the array is reused by the next call."""
        x = observation
        last = len(self.layers) - 1
        for i, ((weight, bias), out) in enumerate(zip(self.layers, self._buffers, strict=True)):
            np.dot(weight, x, out=out)
            out += bias
            if i < last:
                if self.activation == "tanh":
                    np.tanh(out, out=out)
                else:
                    np.maximum(out, 0.0, out=out)
            x = out
        return x

"""What decides on a device: anything that maps an observation to a plan. Three forms of one learned policy.

    Mlp         the network itself in numpy; the default
    OnnxPolicy  the same network in ONNX Runtime, for devices that have it anyway
    Tree        a decision tree distilled from it: a few comparisons, and a rule that can be read

A fourth, generated C, needs no Python (`cutlayer export --c`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, Protocol

import msgspec
import numpy as np

from cutlayer.errors import BundleError
from cutlayer.runtime import onnx_graph

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

Activation = Literal["tanh", "relu"]
Form = Literal["numpy", "onnxruntime", "tree"]


class Policy(Protocol):
    """Decides from an observation, float32 of shape (features,)."""

    def choose(self, observation: NDArray[np.float32]) -> tuple[int, bool]:
        """The plan, and whether what chose it was finite; where not, the plan means nothing."""
        ...


class Mlp:
    """Layers of weights (outputs, inputs) and biases (outputs,), the activation between them; the plan is the largest logit."""

    def __init__(self, layers: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]], activation: Activation) -> None:
        self.layers = [(np.ascontiguousarray(w, np.float32), np.ascontiguousarray(b, np.float32)) for w, b in layers]
        self.activation: Activation = activation
        # Calls into numpy are what a small network costs. A bias is the weight of an input that is always 1, so that a layer is one
        # product and one activation, and every array is made once.
        steps = []
        source = np.ones(self.inputs + 1, np.float32)
        self._input = source[:-1]
        for weight, bias in self.layers:
            joined = np.concatenate([weight, bias[:, None]], axis=1)
            target = np.ones(len(bias) + 1, np.float32)
            steps.append((joined.dot, source, target[:-1]))
            source = target
        *self._hidden, self._last = steps
        self._zeros = [np.zeros_like(target) for _, _, target in self._hidden]  # a scalar would be made an array at each call

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
        self._input[:] = observation
        if self.activation == "tanh":
            for dot, source, target in self._hidden:
                np.tanh(dot(source, target), out=target)
        else:
            for (dot, source, target), zeros in zip(self._hidden, self._zeros, strict=True):
                np.maximum(dot(source, target), zeros, out=target)
        dot, source, target = self._last
        return dot(source, target)

    def choose(self, observation: NDArray[np.float32]) -> tuple[int, bool]:
        """See `Policy`."""
        return _best(self.logits(observation))


class OnnxPolicy:
    """A network in ONNX Runtime, as the graph that it makes.

    Raises:
        BundleError: ONNX Runtime is not installed or cannot run it.
    """

    def __init__(self, policy: Mlp, where: str) -> None:
        try:
            import onnxruntime  # an extra: a device that decides in numpy does without
        except ModuleNotFoundError as error:
            raise BundleError(f"cannot run {where} in ONNX Runtime, which is not installed: pip install 'cutlayer[daemon]'") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1  # a second thread waits more than it works
        options.log_severity_level = 3  # errors; they are raised too
        try:
            self._session = onnxruntime.InferenceSession(onnx_graph.graph(policy), options, providers=["CPUExecutionProvider"])
            # Bound once to arrays that stay: half the cost of handing them over at each call.
            self._input, self._logits = (np.zeros((1, size), np.float32) for size in (policy.inputs, policy.outputs))
            self._row: NDArray[np.float32] = self._input[0]
            self._out: NDArray[np.float32] = self._logits[0]
            self._binding = self._session.io_binding()
            self._binding.bind_input("observation", "cpu", 0, np.float32, self._input.shape, self._input.ctypes.data)
            self._binding.bind_output("logits", "cpu", 0, np.float32, self._logits.shape, self._logits.ctypes.data)
            self._session.run_with_iobinding(self._binding)
        except Exception as error:  # ONNX Runtime's own exceptions have no common base below it
            reason = str(error).splitlines()[0]
            raise BundleError(f"ONNX Runtime cannot run the graph of {where} ({reason}); decide in numpy instead") from error

    def logits(self, observation: NDArray[np.float32]) -> NDArray[np.float32]:
        """Preference of every plan; the array is reused by the next call."""
        self._row[:] = observation
        self._session.run_with_iobinding(self._binding)
        return self._out

    def choose(self, observation: NDArray[np.float32]) -> tuple[int, bool]:
        """See `Policy`."""
        return _best(self.logits(observation))


class Tree(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A decision tree, one entry a node, the first the root; a node comes before those below it.

    An inner node asks whether `feature` is at most `threshold`: if so it goes on at `yes`, else at `no`. At a leaf `feature` is -1
    and `plan` the answer.
    """

    feature: tuple[int, ...]
    threshold: tuple[float, ...]
    yes: tuple[int, ...]
    no: tuple[int, ...]
    plan: tuple[int, ...]

    def choose(self, observation: NDArray[np.float32]) -> tuple[int, bool]:
        """See `Policy`; a feature that is no number falsifies the answer only where the path asks for it."""
        values = observation.tolist()
        feature, threshold, yes, no = self.feature, self.threshold, self.yes, self.no
        node, asked = 0, feature[0]
        while asked >= 0:
            value = values[asked]
            if value <= threshold[node]:
                node = yes[node]
            elif value > threshold[node]:
                node = no[node]
            else:
                return self.plan[node], False
            asked = feature[node]
        return self.plan[node], True

    def check(self, inputs: int, outputs: int, where: str) -> None:
        """Refuse a tree that does not end, or asks for what there is not.

        Raises:
            BundleError: it is no tree from so many features to so many plans.
        """
        size = len(self.feature)
        if not size or any(len(column) != size for column in (self.threshold, self.yes, self.no, self.plan)):
            raise BundleError(f"tree of {where} has columns of different lengths; export it anew")
        for node, asked in enumerate(self.feature):
            # Children come later, so that every path ends.
            inner = 0 <= asked < inputs and node < self.yes[node] < size and node < self.no[node] < size
            fits = inner and math.isfinite(self.threshold[node]) if asked != -1 else 0 <= self.plan[node] < outputs
            if not fits:
                raise BundleError(f"node {node} of the tree of {where} makes no sense; export it anew")


def _best(logits: NDArray[np.float32]) -> tuple[int, bool]:
    plan = int(logits.argmax())
    # argmax of an array with a NaN is the NaN's place, so the one value tells of all.
    return plan, math.isfinite(logits.item(plan))

"""Whether every exit was right about each labelled image, and how sure it was: enough to replay any rule that stops by confidence.

Recorded by `cutlayer profile traces` (`cutlayer.profiles.accuracy.record`), read with numpy alone. A file is an `.npz` of

    correct     (images, exits)    bool: the class of the greatest logit is the image's
    confidence  (images, exits)    float16: greatest share of the softmax, so a value near 1 is known to 0.0005
    provenance  JSON text          `TraceOrigin`

Labels and answers are not kept: the labels are the data set's, not ours to pass on, and no rule needs them.
"""

from __future__ import annotations

import io
import os
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from cutlayer.errors import ConfigError, ProfileError
from cutlayer.files import write_atomic
from cutlayer.profiles.load import BUILT_IN
from cutlayer.profiles.schema import Table
from cutlayer.profiles.stats import wilson

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

TRACE_FORMAT = 1
BINS = 15  # of the calibration error, as in Guo, Pleiss, Sun and Weinberger, On Calibration of Modern Neural Networks (2017)
REMAKE = "record it anew with: cutlayer profile traces"


class TraceOrigin(Table, frozen=True):
    """Which network was recorded on which images, where, when and by what command."""

    format: int
    model: str
    weights_sha256: str
    source: str
    images: int
    classes: int
    cpu: str
    backend: str
    backend_version: str
    date: str
    command: str


@dataclass(frozen=True, slots=True, eq=False)
class Stopped:
    """What a rule that stops by confidence would have done.

    exit is the one that answers each image, shape (images,); share the part of the images that each exit answers, shape
    (exits,); accuracy the part that is right, between low and high in 95 of 100 such samples (Wilson).
    """

    exit: NDArray[np.int64]
    share: NDArray[np.float64]
    accuracy: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, eq=False)
class Traces:
    """Right or wrong, and confidences, as in the file; shapes stand above."""

    correct: NDArray[np.bool_]
    confidence: NDArray[np.float16]
    origin: TraceOrigin

    def __post_init__(self) -> None:
        for column in (self.correct, self.confidence):
            column.setflags(write=False)

    def __len__(self) -> int:
        return len(self.correct)

    @property
    def exits(self) -> int:
        """How many the network has."""
        return int(self.correct.shape[1])

    def stop(self, thresholds: Sequence[float]) -> Stopped:
        """Let each image be answered by the first exit whose confidence reaches its threshold, and by the last one if none does.

        One threshold for every exit but the last; infinity closes an exit.

        Raises:
            ConfigError: there are more or fewer thresholds, or one is NaN.
        """
        limits = np.array([*thresholds, -np.inf], np.float64)
        if len(limits) != self.exits or np.isnan(limits).any():
            raise ConfigError(
                f"thresholds {list(thresholds)} for {self.origin.model}; give {self.exits - 1} numbers, one for every exit but the last"
            )
        exit_ = (self.confidence >= limits).argmax(1)
        right = int(self.correct[np.arange(len(self)), exit_].sum())
        share = np.bincount(exit_, minlength=self.exits) / len(self)
        return Stopped(exit_, share, right / len(self), *wilson(right, len(self)))

    def calibration_error(self, exit_: int) -> float:
        """Mean distance between how sure the exit is and how often it is right, over `BINS` equal bins of confidence."""
        sure = self.confidence[:, exit_].astype(np.float64)
        of_bin = np.minimum((sure * BINS).astype(np.int64), BINS - 1)
        return float(np.abs(np.bincount(of_bin, sure - self.correct[:, exit_], BINS)).sum()) / len(self)


def save(traces: Traces, path: Path) -> None:
    """Write the traces, whole or not at all; equal traces give equal bytes."""
    out = io.BytesIO()
    np.savez_compressed(
        out,
        correct=traces.correct,
        confidence=traces.confidence,
        provenance=np.array(msgspec.json.encode(traces.origin).decode()),
    )
    write_atomic(path, out.getvalue())


def load(name_or_path: str | Path) -> Traces:
    """The traces in a file, or those that ship for the network of that name, checked.

    Raises:
        ProfileError: there are none, the file is damaged, or it says what cannot be.
    """
    path = _find(name_or_path)
    try:
        # Opened here: numpy leaves a file open that turns out to be no archive. Without pickle a file can hold no code.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            correct, confidence = archive["correct"], archive["confidence"]
            origin = msgspec.json.decode(str(archive["provenance"]), type=TraceOrigin)
    except _UNREADABLE as error:
        raise ProfileError(f"{path} holds no whole traces ({error}); copy it again, or {REMAKE}") from error
    if origin.format != TRACE_FORMAT:
        raise ProfileError(f"{path} has format {origin.format}, this cutlayer reads {TRACE_FORMAT}; {REMAKE}")
    fault = _fault(correct, confidence, origin)
    if fault:
        raise ProfileError(f"{fault} in {path}; {REMAKE}")
    return Traces(correct, confidence, origin)


def summary(traces: Traces) -> dict[str, Any]:
    """Of each exit: how often it is right, with a 95 % interval, how sure it is, and how far the two lie apart."""
    exits = []
    for exit_ in range(traces.exits):
        right = int(traces.correct[:, exit_].sum())
        low, high = wilson(right, len(traces))
        sure = float(traces.confidence[:, exit_].astype(np.float64).mean())
        exits.append(
            {
                "exit": exit_, "accuracy": right / len(traces), "low": low, "high": high,
                "confidence_mean": sure, "calibration_error": traces.calibration_error(exit_),
            }
        )  # fmt: skip
    return {"model": traces.origin.model, "source": traces.origin.source, "images": len(traces), "exits": exits}


def text(traces: Traces) -> str:
    """The summary for a terminal."""
    lines = [f"{len(traces)} images of {traces.origin.source}; accuracy with its 95 % interval (Wilson)"]
    lines += [
        f"exit {one['exit']}  {one['accuracy']:.4f}  [{one['low']:.4f}, {one['high']:.4f}]  mean confidence {one['confidence_mean']:.4f}  "
        f"calibration error {one['calibration_error']:.4f}"
        for one in summary(traces)["exits"]
    ]
    return "\n".join(lines)


# What numpy, zipfile and msgspec raise for bytes that are no such archive, or a damaged one.
_UNREADABLE = (
    OSError, EOFError, KeyError, TypeError, ValueError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error, msgspec.MsgspecError,
)  # fmt: skip


def _find(name_or_path: str | Path) -> Path:
    for candidate in (Path(name_or_path), BUILT_IN / f"{name_or_path}-traces.npz"):
        # A name too long for a file exists nowhere; Path.exists raises for it before Python 3.12.
        if os.path.isfile(candidate):  # noqa: PTH113 - it never raises
            return candidate
    known = ", ".join(sorted(file.name.removesuffix("-traces.npz") for file in BUILT_IN.glob("*-traces.npz")))
    raise ProfileError(f"no traces {str(name_or_path)!r}; give the path of an .npz file or a network's name: {known}")


def _fault(correct: NDArray[Any], confidence: NDArray[Any], origin: TraceOrigin) -> str:
    """What is wrong with the columns of a file, or nothing."""
    if correct.dtype != np.bool_ or confidence.dtype != np.float16:
        return f"columns of types {correct.dtype} and {confidence.dtype}"
    if correct.ndim != 2 or not correct.size or correct.shape != confidence.shape or len(correct) != origin.images:
        return f"{origin.images} images and columns of shapes {correct.shape}, {confidence.shape}"
    if origin.classes < 2:
        return f"a choice among {origin.classes} classes"
    # The greatest of so many shares is at least their mean; half a step of float16 below it may be rounding.
    possible = (confidence >= np.float16((1 - 2**-10) / origin.classes)) & (confidence <= 1)  # false for NaN too
    if not possible.all():
        return f"confidence {confidence[~possible][0]} of {origin.classes} classes"
    return ""

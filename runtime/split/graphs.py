"""A folder of graphs made by `cutlayer.profiles.graphs.export`, opened for running.

Each graph is read, compared with its checksum and handed to ONNX Runtime when it is first needed, or by `warm_up`. One
thread, because a device shares its cores and the profiles are those of one thread. A graph that is also run on batches is opened twice:
for one tensor at a time the runtime knows every shape beforehand. Needs the extra `daemon`.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import threading
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np

from cutlayer.errors import ConfigError
from cutlayer.profiles.graphs import (
    BATCH,
    MANIFEST,
    PIXELS,
    SCHEMA_VERSION,
    Manifest,
    cut_name,
    kept_depth,
    logits_name,
    prefix_name,
    signatures,
    suffix_name,
)
from cutlayer.runtime.split.protocol import MODEL_BYTES, Shapes

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from numpy.typing import NDArray

WARM_UPS = 3  # runs of a fresh session: the first allocates, the second still differs by page faults
_LARGEST_TENSOR = 1 << 26  # elements, 256 MiB in float32: a shape beyond it is a damaged manifest
_ANEW = "export the graphs anew"


class Graphs:
    """The graphs of one network. Tensors go in and come out without the batch axis, float32.

    Raises, from every method that may load a graph:
        ConfigError: the folder or a file in it is missing, truncated, altered or of another version, or ONNX Runtime is missing.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = _read_manifest(folder)
        self.shapes = Shapes(
            model=bytes.fromhex(self.manifest.weights_sha256)[:MODEL_BYTES],
            depths=self.manifest.depths,
            cuts=self.manifest.cut_shapes,
            classes=self.manifest.classes,
        )
        self._sessions: dict[str, Any] = {}  # for one tensor
        self._for_batches: dict[str, Any] = {}
        self._loading = threading.Lock()

    def prefix(self, partition: int, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """The tensor after the first `partition` layers of `x`, of shape `shapes.cuts[partition]`."""
        return self.prefix_and_kept(partition, x)[0]

    def prefix_and_kept(self, partition: int, x: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """As `prefix`, and the tensor that the deepest exit passed so far reads (the same one where the cut is at an exit)."""
        cut, *kept = self._session(prefix_name(partition)).run(None, {PIXELS: x[None]})
        return cut[0], (kept[0] if kept else cut)[0]

    def suffix(self, partition: int, exit_: int, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits (classes,) of `exit_` from the tensor after `partition` layers; partition 0 is the whole network."""
        (logits,) = self._session(suffix_name(partition, exit_)).run(None, {cut_name(partition): x[None]})
        out: NDArray[np.float32] = logits[0]
        return out

    def suffixes(self, partition: int, exit_: int, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """As `suffix`, of several tensors (n, ...) in one run: logits (n, classes)."""
        (logits,) = self._batch_session(suffix_name(partition, exit_)).run(None, {cut_name(partition): x})
        out: NDArray[np.float32] = logits
        return out

    def warm_up_batches(self, size: int) -> None:
        """As `warm_up` of the edge, for `suffixes` of so many tensors."""
        for exit_, depth in enumerate(self.shapes.depths):
            for partition in range(depth + 1):
                x = np.zeros((size, *self.shapes.cuts[partition]), np.float32)
                for _ in range(WARM_UPS):
                    self.suffixes(partition, exit_, x)

    def warm_up(self, side: Literal["device", "edge"]) -> None:
        """Load every graph that this side may be asked to run, and run it a few times: no request then pays for it."""
        depths = self.shapes.depths
        if side == "edge":
            for exit_, depth in enumerate(depths):
                self._warm(lambda x, p, e=exit_: self.suffix(p, e, x), range(depth + 1))
            return
        self._warm(lambda x, p: self.prefix(p, x), range(1, depths[-1] + 1), source=0)
        for exit_, depth in enumerate(depths):
            self._warm(lambda x, p, e=exit_: self.suffix(p, e, x), (0, depth))
        # Cuts before the first exit are finished to that exit when the edge does not answer.
        self._warm(lambda x, p: self.suffix(p, 0, x), range(1, depths[0]))

    def _warm(self, run: Any, partitions: Iterable[int], source: int | None = None) -> None:
        for partition in partitions:
            x = np.zeros(self.shapes.cuts[partition if source is None else source], np.float32)
            for _ in range(WARM_UPS):
                run(x, partition)

    def _session(self, name: str) -> Any:
        return self._opened(self._sessions, name, 1)

    def _batch_session(self, name: str) -> Any:
        return self._opened(self._for_batches, name, BATCH)

    def _opened(self, sessions: dict[str, Any], name: str, batch: int | str) -> Any:
        session = sessions.get(name)
        if session is None:
            with self._loading:
                session = sessions.get(name)
                if session is None:
                    session = sessions[name] = self._load(name, batch)
        return session

    def _load(self, name: str, batch: int | str) -> Any:
        try:
            import onnxruntime
        except ImportError as error:
            raise ConfigError(f"running graphs needs the package {error.name}; install it with: pip install 'cutlayer[daemon]'") from error
        path = self.folder / name
        try:
            data = path.read_bytes()
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {error.strerror}; {_ANEW}") from error
        if hashlib.sha256(data).hexdigest() != self.manifest.files[name]:
            raise ConfigError(f"{path} ({len(data)} bytes) is not what {MANIFEST} lists: truncated or altered; {_ANEW}")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors only: its hints on shapes are for who builds the runtime
        if isinstance(batch, int):
            options.add_free_dimension_override_by_name(BATCH, batch)
        try:
            # From the bytes that were checked: the file may change in between.
            session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its classes have no other common base
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ConfigError(f"onnxruntime {onnxruntime.__version__} cannot load {path}: {reason}; {_ANEW} or update it") from error
        self._check_signature(name, session, batch)
        return session

    def _check_signature(self, name: str, session: Any, batch: int | str) -> None:
        """Names and shapes of a graph are those of the manifest: a wrong pair ends here, not in the middle of a request."""
        source, targets = signatures(self.shapes.depths)[name]
        shape_of = {cut_name(p): (batch, *shape) for p, shape in enumerate(self.shapes.cuts)}
        shape_of |= {logits_name(e): (batch, self.shapes.classes) for e in range(len(self.shapes.depths))}
        found = [(value.name, tuple(value.shape)) for value in (*session.get_inputs(), *session.get_outputs())]
        wanted = [(tensor, shape_of[tensor]) for tensor in (source, *targets)]
        if found != wanted:
            raise ConfigError(f"{self.folder / name} maps {found}, {MANIFEST} promises {wanted}; {_ANEW}")


def _read_manifest(folder: Path) -> Manifest:
    path = folder / MANIFEST
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}; give the folder that the graphs were exported to") from error
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path} does not describe graphs: {error}; {_ANEW}") from error
    except msgspec.DecodeError as error:
        raise ConfigError(f"{path} is not whole JSON: {error}; {_ANEW}") from error
    if manifest.schema_version != SCHEMA_VERSION:
        raise ConfigError(f"{path} has schema version {manifest.schema_version}, this cutlayer reads {SCHEMA_VERSION}; {_ANEW}")
    for fault in _faults(manifest):
        raise ConfigError(f"{path} {fault}; {_ANEW}")
    return manifest


def _faults(manifest: Manifest) -> Iterable[str]:
    depths, cuts = manifest.depths, manifest.cut_shapes
    if not depths or depths[0] < 1 or any(a >= b for a, b in itertools.pairwise(depths)):
        yield f"has depths {depths}, which must rise from at least 1"
        return
    if len(depths) > 255 or depths[-1] > 255:
        yield f"has {len(depths)} exits and {depths[-1]} layers; a frame numbers them with one byte"
        return
    if len(cuts) != depths[-1] + 1 or cuts[0] != manifest.input_shape:
        yield f"has {len(cuts)} cut shapes beginning with {cuts[:1]}; {depths[-1] + 1} are needed, the first {manifest.input_shape}"
    for shape in (*cuts, (manifest.classes,)):
        if not shape or min(shape) < 1 or math.prod(shape) > _LARGEST_TENSOR:
            yield f"has a tensor of shape {shape}"
    if len(manifest.weights_sha256) != 64 or set(manifest.weights_sha256) - set("0123456789abcdef"):
        yield f"has weights_sha256 {manifest.weights_sha256!r}"
    if missing := sorted(signatures(depths).keys() - manifest.files.keys()):
        yield f"lists no {missing[0]}"


def resumable(shapes: Shapes, partition: int) -> tuple[int, int]:
    """(exit, depth) at which the device can answer by itself after `partition` layers.

    That is the deepest exit whose trunk is computed; where there is none, exit 0 from where the device stands.
    """
    depth = kept_depth(shapes.depths, partition)
    return (shapes.depths.index(depth), depth) if depth in shapes.depths else (0, partition)

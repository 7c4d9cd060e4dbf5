"""An exported policy: one zip file with everything that deciding needs, checked before it is believed.

    manifest.json        versions, names, sha256 of the other parts
    plans.json           the plan table
    features.json        the table of features the policy was trained on
    weights.safetensors  layer0.weight, layer0.bias, ...
    golden.json          observations with the plans that the trainer's own network chose for them

Loading reads no pickle and runs no code; sizes are checked before anything is unpacked; a bundle whose features, plans
or golden decisions differ from what this cutlayer computes is refused.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import math
import struct
import zipfile
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from cutlayer.errors import BundleError, ProfileError
from cutlayer.files import write_atomic
from cutlayer.profiles.cost import Objective, Path
from cutlayer.profiles.plans import PlanTable
from cutlayer.runtime import features
from cutlayer.runtime.policy import Activation, Mlp

if TYPE_CHECKING:
    import pathlib

    from numpy.typing import NDArray

VERSION = 1
PARTS = ("plans.json", "features.json", "weights.safetensors", "golden.json")
MOST_BYTES = 8 << 20  # of one part unpacked; the largest real one, a plan table, is well under 1 MB
GOLDEN = 32
# What zipfile and zlib raise on damaged archives.
UNREADABLE = (OSError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, OverflowError, struct.error)


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a bundle is, and what its parts must hash to."""

    bundle_version: int
    cutlayer_version: str
    scenario: str
    algorithm: str
    activation: Activation
    objective: Objective
    path: Path
    plans_sha256: str
    trained: dict[str, str | int | float]
    parts: dict[str, str]


class Golden(msgspec.Struct, frozen=True):
    """Observations and the plans the trained network chose."""

    observations: list[list[float]]
    plans: list[int]


@dataclass(frozen=True, slots=True)
class Bundle:
    """A policy with the plan table, path and objective it was trained for."""

    scenario: str
    algorithm: str
    plans: PlanTable
    path: Path
    objective: Objective
    policy: Mlp
    golden: Golden
    trained: dict[str, str | int | float]

    def save(self, file: pathlib.Path, cutlayer_version: str) -> None:
        """Write the bundle, whole or not at all."""
        parts = {
            "plans.json": self.plans.encode(),
            "features.json": feature_table(),
            "weights.safetensors": _pack_weights(self.policy),
            "golden.json": msgspec.json.encode(self.golden),
        }
        manifest = Manifest(
            bundle_version=VERSION,
            cutlayer_version=cutlayer_version,
            scenario=self.scenario,
            algorithm=self.algorithm,
            activation=self.policy.activation,
            objective=self.objective,
            path=self.path,
            plans_sha256=self.plans.digest(),
            trained=self.trained,
            parts={name: hashlib.sha256(data).hexdigest() for name, data in parts.items()},
        )
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in {"manifest.json": msgspec.json.format(msgspec.json.encode(manifest), indent=1), **parts}.items():
                # A fixed date, so that equal policies give equal files.
                archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data, zipfile.ZIP_DEFLATED)
        write_atomic(file, buffer.getvalue())


def load(file: pathlib.Path) -> Bundle:
    """Read and check a bundle.

    Raises:
        BundleError: it is missing, truncated, altered, of another version, or does not decide as it was trained to.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            manifest = msgspec.json.decode(_part(archive, "manifest.json", file), type=Manifest)
            parts = {name: _part(archive, name, file) for name in PARTS}
    except FileNotFoundError as error:
        raise BundleError(f"no bundle at {file}; make one with: cutlayer export RUN -o {file}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BundleError(f"manifest of {file} is not as it should be ({error}); export it with this cutlayer") from error
    except UNREADABLE as error:
        raise BundleError(f"{file} is no whole bundle ({error}); copy or export it again") from error
    if manifest.bundle_version != VERSION:
        raise BundleError(f"{file} has bundle version {manifest.bundle_version}, this cutlayer reads {VERSION}; export it anew")
    for name, data in parts.items():
        if hashlib.sha256(data).hexdigest() != manifest.parts.get(name):
            raise BundleError(f"{name} of {file} does not have the sha256 its manifest states; copy or export it again")
    if parts["features.json"] != feature_table():
        raise BundleError(f"{file} was trained on other features than this cutlayer computes; train and export it anew")
    try:
        plans = PlanTable.decode(parts["plans.json"], f"plans.json of {file}")
        golden = msgspec.json.decode(parts["golden.json"], type=Golden)
    except ProfileError as error:
        raise BundleError(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BundleError(f"golden.json of {file} is not as it should be ({error}); export it anew") from error
    _check_sense(manifest, file)
    policy = _unpack_weights(parts["weights.safetensors"], manifest.activation, file)
    if (policy.inputs, policy.outputs) != (features.SIZE, len(plans)):
        raise BundleError(f"policy of {file} maps {policy.inputs} features to {policy.outputs} plans, not {features.SIZE} to {len(plans)}")
    bundle = Bundle(
        manifest.scenario, manifest.algorithm, plans, manifest.path, manifest.objective, policy, golden, manifest.trained
    )  # fmt: skip
    _self_test(bundle, file)
    return bundle


def feature_table() -> bytes:
    """The features as JSON, in order; part of what a policy is bound to."""
    rows = [
        {"index": i, "name": f.name, "unit": f.unit, "scale": f.scale, "low": features.LOW, "high": features.HIGH}
        for i, f in enumerate(features.FEATURES)
    ]
    return json.dumps(rows, indent=1).encode()


def _part(archive: zipfile.ZipFile, name: str, file: pathlib.Path) -> bytes:
    try:
        info = archive.getinfo(name)
    except KeyError:
        raise BundleError(f"{file} lacks {name}; export it again") from None
    if info.file_size > MOST_BYTES:
        raise BundleError(f"{name} of {file} would unpack to {info.file_size} bytes, at most {MOST_BYTES} are read; this is no policy")
    with archive.open(info) as part:
        data = part.read(MOST_BYTES + 1)
    if len(data) != info.file_size:
        raise BundleError(f"{name} of {file} is not of the length it states; copy or export it again")
    return data


def _check_sense(manifest: Manifest, file: pathlib.Path) -> None:
    numbers = {f"objective.{name}": getattr(manifest.objective, name) for name in ("deadline_s", "timeout_deadlines")}
    numbers |= {"path.downlink_bps": manifest.path.downlink_bps}
    rest = {f"objective.{name}": getattr(manifest.objective, name) for name in ("late_penalty", "latency_weight", "energy_weight")}
    rest |= {f"path.{name}": getattr(manifest.path, name) for name in ("rtt_s", "reply_bytes", "fixed_s")}
    rest |= {f"path.radio.{name}": getattr(manifest.path.radio, name) for name in ("base_w", "joules_per_bit")}
    for name, value in (numbers | rest).items():
        if not math.isfinite(value) or value < 0 or (name in numbers and value == 0):
            raise BundleError(f"{name} {value} in the manifest of {file} makes no sense; train and export it anew")


def _self_test(bundle: Bundle, file: pathlib.Path) -> None:
    golden = bundle.golden
    if not golden.plans or len(golden.plans) != len(golden.observations):
        raise BundleError(f"{file} has no golden decisions to check it by; export it anew")
    for observation, plan in zip(golden.observations, golden.plans, strict=True):
        fits = len(observation) == bundle.policy.inputs and max(map(abs, observation)) <= max(-features.LOW, features.HIGH)
        if not fits or int(np.argmax(bundle.policy.logits(np.array(observation, np.float32)))) != plan:
            raise BundleError(f"{file} does not decide as its trainer did (golden decision {plan}); export it anew on a like machine")


def _pack_weights(policy: Mlp) -> bytes:
    """The safetensors layout: length of the header (8 bytes, little endian), a JSON header, raw tensors.

    Written here because a device has numpy only; a test reads it with the safetensors library.
    """
    header: dict[str, dict[str, object]] = {}
    body = b""
    for i, pair in enumerate(policy.layers):
        for name, array in zip(("weight", "bias"), pair, strict=True):
            data = array.astype("<f4").tobytes()
            header[f"layer{i}.{name}"] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [len(body), len(body) + len(data)]}
            body += data
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + body


class _Tensor(msgspec.Struct, frozen=True):
    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


def _unpack_weights(data: bytes, activation: Activation, file: pathlib.Path) -> Mlp:
    try:
        (length,) = struct.unpack_from("<Q", data)
        header = msgspec.json.decode(data[8 : 8 + length], type=dict[str, _Tensor])
        body = memoryview(data)[8 + length :]
        arrays: dict[str, NDArray[np.float32]] = {}
        for name, tensor in header.items():
            start, end = tensor.data_offsets
            if tensor.dtype != "F32" or not 0 <= start <= end <= len(body):
                raise BundleError(f"tensor {name} of {file} is no float32 inside the file; export it anew")
            arrays[name] = np.frombuffer(body[start:end], "<f4").reshape(tensor.shape)
        layers = [(arrays[f"layer{i}.weight"], arrays[f"layer{i}.bias"]) for i in range(len(arrays) // 2)]
        if any((w.ndim, b.ndim) != (2, 1) for w, b in layers):
            raise BundleError(f"weights of {file} are no matrices with a bias each; export it anew")
        chained = all(a[0].shape[0] == b[0].shape[1] for a, b in itertools.pairwise(layers))
        if not layers or not chained or any(w.shape[0] != b.shape[0] for w, b in layers):
            raise BundleError(f"weights of {file} do not fit each other; export it anew")
    except (struct.error, msgspec.DecodeError, KeyError, ValueError, IndexError) as error:
        raise BundleError(f"weights of {file} cannot be read ({error}); export it anew") from error
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise BundleError(f"weights of {file} hold values that are not finite; train it anew")
    return Mlp(layers, activation)

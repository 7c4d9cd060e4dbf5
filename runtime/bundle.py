"""An exported policy: one zip file with everything that deciding needs, checked before it is believed.

    manifest.json        versions, names, sha256 of the other parts
    plans.json           the plan table
    features.json        the table of features the policy was trained on, with units and scales
    weights.safetensors  layer0.weight, layer0.bias, ...
    policy.onnx          the same network as an ONNX graph
    golden.json          observations with the plans that the trainer's own network chose for them

and, where its maker gave them,

    ranges.json          what each feature was in training
    tree.json            a decision tree distilled from the network
    bayes.json           parameters of the rule that decides where the network may not
    manifest.sig         Ed25519 signature over manifest.json

Loading reads no pickle and runs no code; sizes are checked before anything is unpacked; a bundle whose features, plans, graph
or golden decisions differ from what this cutlayer computes is refused. docs/bundle.md tells others how to read one.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import msgspec
import numpy as np

from cutlayer.errors import BundleError, ProfileError
from cutlayer.profiles.cost import Objective, Path
from cutlayer.profiles.plans import PlanTable
from cutlayer.runtime import bundle_archive, bundle_signing, bundle_weights, features, onnx_graph, telemetry
from cutlayer.runtime.features import BASE, Blocks
from cutlayer.runtime.guard import Ranges
from cutlayer.runtime.policy import Activation, Form, Mlp, OnnxPolicy, Policy, Tree
from cutlayer.runtime.priced import Parameters, Priced

if TYPE_CHECKING:
    import pathlib

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

VERSION = 2  # 1 had neither graph nor optional parts; nothing reads it
MANIFEST, SIGNATURE = "manifest.json", "manifest.sig"
PLANS, FEATURES, WEIGHTS, ONNX, GOLDEN_PAIRS = PARTS = ("plans.json", "features.json", "weights.safetensors", "policy.onnx", "golden.json")
RANGES, TREE, BAYES = OPTIONAL = ("ranges.json", "tree.json", "bayes.json")
GOLDEN = 32
MOST_UNITS = 1000  # segments of one device; our choice: a network of a thousand cuts
_T = TypeVar("_T")
DECODE_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class _Version(msgspec.Struct, frozen=True):
    bundle_version: int


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a bundle is, and what its parts must hash to. distilled: how the tree was made, and how much worse it decides."""

    bundle_version: int
    cutlayer_version: str
    scenario: str
    algorithm: str
    activation: Activation
    objective: Objective
    path: Path
    blocks: Blocks
    plans_sha256: str
    trained: dict[str, str | int | float]
    distilled: dict[str, str | int | float]
    parts: dict[str, str]


class Golden(msgspec.Struct, frozen=True):
    """Observations and the plans the trained network chose."""

    observations: list[list[float]]
    plans: list[int]


@dataclass(frozen=True, slots=True)
class Bundle:
    """A policy with the plan table, path and objective it was trained for; the rest is there where its maker gave it."""

    scenario: str
    algorithm: str
    plans: PlanTable
    path: Path
    objective: Objective
    policy: Mlp
    golden: Golden
    trained: dict[str, str | int | float]
    blocks: Blocks = BASE
    ranges: Ranges | None = None
    tree: Tree | None = None
    bayes: Parameters | None = None
    distilled: dict[str, str | int | float] = field(default_factory=dict)

    def form(self, name: Form, where: str = "the bundle") -> Policy:
        """The policy in one of its forms; ONNX Runtime has to make the golden decisions too.

        Raises:
            BundleError: the bundle does not hold that form, or it decides otherwise.
        """
        if name == "numpy":
            return self.policy
        if name == "tree":
            if self.tree is None:
                raise BundleError(f"{where} holds no tree; export it with --tree")
            return self.tree
        runs = OnnxPolicy(self.policy, where)
        _replay(self.golden, runs, where)
        return runs

    def save(self, file: pathlib.Path, cutlayer_version: str, key: Ed25519PrivateKey | None = None) -> None:
        """Write the bundle, whole or not at all, signed where a key is given."""
        parts = {
            PLANS: self.plans.encode(),
            FEATURES: feature_table(self.blocks),
            WEIGHTS: bundle_weights.pack(self.policy),
            ONNX: onnx_graph.graph(self.policy),
            GOLDEN_PAIRS: msgspec.json.encode(self.golden),
        }
        given = {RANGES: self.ranges, TREE: self.tree, BAYES: self.bayes}
        parts |= {name: msgspec.json.encode(part) for name, part in given.items() if part is not None}
        manifest = Manifest(
            bundle_version=VERSION,
            cutlayer_version=cutlayer_version,
            scenario=self.scenario,
            algorithm=self.algorithm,
            activation=self.policy.activation,
            objective=self.objective,
            path=self.path,
            blocks=self.blocks,
            plans_sha256=self.plans.digest(),
            trained=self.trained,
            distilled=self.distilled,
            parts={name: hashlib.sha256(data).hexdigest() for name, data in parts.items()},
        )
        stated = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
        signature = {} if key is None else {SIGNATURE: key.sign(stated)}
        bundle_archive.write(file, {MANIFEST: stated, **signature, **parts})


def load(file: pathlib.Path, key: Ed25519PublicKey | None = None) -> Bundle:
    """Read and check a bundle; with a key (`bundle_signing.public_key`), only one that its owner signed.

    Raises:
        BundleError: it is missing, truncated, altered, of another version, not signed as it has to be, or does not decide as it
            was trained to.
    """
    parts = bundle_archive.read(file, (MANIFEST,), (SIGNATURE, *PARTS, *OPTIONAL))
    stated, signature = parts.pop(MANIFEST), parts.pop(SIGNATURE, None)
    if key is not None:
        bundle_signing.verify(stated, signature, key, file)
    manifest = _manifest(stated, file)
    _check_parts(manifest, parts, file)
    _check_sense(manifest, file)
    if parts[FEATURES] != feature_table(manifest.blocks):
        raise BundleError(f"{file} was trained on other features than this cutlayer computes; train and export it anew")
    try:
        plans = PlanTable.decode(parts[PLANS], f"{PLANS} of {file}")
    except ProfileError as error:
        raise BundleError(str(error)) from error
    policy = bundle_weights.unpack(parts[WEIGHTS], manifest.activation, str(file))
    size = features.size(manifest.blocks)
    if (policy.inputs, policy.outputs) != (size, len(plans)):
        raise BundleError(f"policy of {file} maps {policy.inputs} features to {policy.outputs} plans, not {size} to {len(plans)}")
    if parts[ONNX] != onnx_graph.graph(policy):
        raise BundleError(f"{ONNX} of {file} is not the graph of {WEIGHTS}; export it anew")
    golden = _golden(parts[GOLDEN_PAIRS], size, file)
    _replay(golden, policy, str(file))
    return Bundle(
        manifest.scenario,
        manifest.algorithm,
        plans,
        manifest.path,
        manifest.objective,
        policy,
        golden,
        manifest.trained,
        manifest.blocks,
        ranges=_ranges(parts.get(RANGES), size, file),
        tree=_tree(parts.get(TREE), size, len(plans), file),
        bayes=_bayes(parts.get(BAYES), plans, manifest, file),
        distilled=manifest.distilled,
    )


def feature_table(blocks: Blocks = BASE) -> bytes:
    """The features as JSON, in order; part of what a policy is bound to."""
    rows = [
        {"index": i, "name": f.name, "unit": f.unit, "scale": f.scale, "low": features.LOW, "high": features.HIGH}
        for i, f in enumerate(features.table(blocks))
    ]
    return msgspec.json.format(msgspec.json.encode(rows), indent=1)


def _manifest(data: bytes, file: pathlib.Path) -> Manifest:
    try:
        version = msgspec.json.decode(data, type=_Version).bundle_version
        if version != VERSION:
            raise BundleError(f"{file} has bundle version {version}, this cutlayer reads {VERSION}; export its run again")
        return msgspec.json.decode(data, type=Manifest)
    except DECODE_ERRORS as error:
        raise BundleError(f"manifest of {file} is not as it should be ({error}); export it with this cutlayer") from error


def _check_parts(manifest: Manifest, parts: dict[str, bytes], file: pathlib.Path) -> None:
    for name in dict.fromkeys((*PARTS, *manifest.parts)):
        if name not in parts:
            raise BundleError(f"{file} lacks {name}; export it again")
    for name, data in parts.items():
        if hashlib.sha256(data).hexdigest() != manifest.parts.get(name):
            raise BundleError(f"{name} of {file} does not have the sha256 its manifest states; copy or export it again")


def _check_sense(manifest: Manifest, file: pathlib.Path) -> None:
    numbers = {f"objective.{name}": getattr(manifest.objective, name) for name in ("deadline_s", "timeout_deadlines")}
    numbers |= {"path.downlink_bps": manifest.path.downlink_bps}
    rest = {f"objective.{name}": getattr(manifest.objective, name) for name in ("late_penalty", "latency_weight", "energy_weight")}
    rest |= {f"path.{name}": getattr(manifest.path, name) for name in ("rtt_s", "reply_bytes", "fixed_s")}
    rest |= {f"path.radio.{name}": getattr(manifest.path.radio, name) for name in ("base_w", "joules_per_bit")}
    for name, value in (numbers | rest).items():
        if not math.isfinite(value) or value < 0 or (name in numbers and value == 0):
            raise BundleError(f"{name} {value} in the manifest of {file} makes no sense; train and export it anew")
    if not 0 <= manifest.blocks.units <= MOST_UNITS:
        raise BundleError(f"blocks.units {manifest.blocks.units} in the manifest of {file} makes no sense; train and export it anew")


def _decoded(data: bytes, kind: type[_T], name: str, file: pathlib.Path) -> _T:
    try:
        return msgspec.json.decode(data, type=kind)
    except DECODE_ERRORS as error:
        raise BundleError(f"{name} of {file} is not as it should be ({error}); export it anew") from error


def _golden(data: bytes, size: int, file: pathlib.Path) -> Golden:
    golden = _decoded(data, Golden, GOLDEN_PAIRS, file)
    if not golden.plans or len(golden.plans) != len(golden.observations):
        raise BundleError(f"{file} has no golden decisions to check it by; export it anew")
    bound = max(-features.LOW, features.HIGH)
    if any(len(one) != size or max(map(abs, one)) > bound for one in golden.observations):
        raise BundleError(f"golden decisions of {file} are not on {size} features from {features.LOW} to {features.HIGH}; export it anew")
    return golden


def _replay(golden: Golden, policy: Policy, where: str) -> None:
    for observation, plan in zip(golden.observations, golden.plans, strict=True):
        if policy.choose(np.array(observation, np.float32)) != (plan, True):
            raise BundleError(f"{where} does not decide as its trainer did (golden decision {plan}); export it anew on a like machine")


def _tree(data: bytes | None, size: int, plans: int, file: pathlib.Path) -> Tree | None:
    if data is None:
        return None
    tree = _decoded(data, Tree, TREE, file)
    tree.check(size, plans, str(file))
    return tree


def _ranges(data: bytes | None, size: int, file: pathlib.Path) -> Ranges | None:
    if data is None:
        return None
    ranges = _decoded(data, Ranges, RANGES, file)
    ranges.check(size, str(file))
    return ranges


def _bayes(data: bytes | None, plans: PlanTable, manifest: Manifest, file: pathlib.Path) -> Parameters | None:
    """Parameters of a rule that has decided once: what makes no sense shows at the first request."""
    if data is None:
        return None
    parameters = _decoded(data, Parameters, BAYES, file)
    loads = parameters.loads
    makes_sense = loads is None or (
        len(loads.unit) == len(loads.load_s) == len(plans)
        and all(-1 <= unit < MOST_UNITS for unit in loads.unit)
        and all(load_s >= 0.0 for load_s in loads.load_s)
    )
    try:
        with np.errstate(all="ignore"):  # what it comes to is looked at
            rule = Priced(plans, manifest.path, manifest.objective, parameters)
            plan, *expected = rule.choose(telemetry.fresh(), 0.0, 0.0)
        makes_sense &= 0 <= plan < len(plans) and all(map(math.isfinite, expected))
    except (ArithmeticError, ValueError, IndexError):
        makes_sense = False
    if not makes_sense:
        raise BundleError(f"{BAYES} of {file} holds parameters that make no sense; fit and export it anew")
    return parameters

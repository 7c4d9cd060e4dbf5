"""A bundle with every part there is, and tools to take bundles apart and to forge them."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import zipfile

import pytest

from cutlayer.errors import BundleError
from cutlayer.profiles.cost import Path, energy
from cutlayer.runtime import bundle, bundle_weights, features, onnx_graph
from cutlayer.runtime.bundle import MANIFEST
from cutlayer.runtime.filters import Link
from cutlayer.runtime.guard import Ranges
from cutlayer.runtime.policy import Tree
from cutlayer.runtime.priced import Parameters

TREE = Tree((3, -1, 5, -1, -1), (0.25, 0.0, -0.5, 0.0, 0.0), (1, 0, 3, 0, 0), (2, 0, 4, 0, 0), (0, 7, 0, 1, 2))


@pytest.fixture(scope="session")
def make_whole(make_bundle):
    """A bundle with every part there is."""

    def make():
        least = make_bundle(path=Path(rtt_s=0.025), objective=energy(0.12), algorithm="ppo")
        return dataclasses.replace(
            least,
            ranges=Ranges((-0.5,) * features.SIZE, (1.5,) * features.SIZE),
            tree=TREE,
            bayes=Parameters(Link(5e6, (0.5, 0.2, 0.0), (10.0, 0.5, 1.0)), cancel_margin_s=0.02),
            distilled={"leaves": 3, "fidelity": 0.5},
        )

    return make


@pytest.fixture(scope="session")
def made(make_whole):
    return make_whole()


@pytest.fixture(scope="session")
def file(made, tmp_path_factory):
    """A good bundle; not to be written to."""
    path = tmp_path_factory.mktemp("bundle") / "good.cutlayer"
    made.save(path, "1.2.3")
    return path


@pytest.fixture(scope="session")
def data(file):
    return file.read_bytes()


@pytest.fixture
def refused(tmp_path):
    """Load bytes as a bundle and hand back the one line by which it is refused."""

    def run(content):
        path = tmp_path / "bad.cutlayer"
        path.write_bytes(content)
        with pytest.raises(BundleError) as caught:
            bundle.load(path)
        message = str(caught.value)
        assert str(path) in message, "names the place"
        assert "\n" not in message
        return message

    return run


def _unzip(data):
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _rezip(parts):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, part in parts.items():
            archive.writestr(name, part)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def unzip():
    """The parts of a bundle by name."""
    return _unzip


@pytest.fixture(scope="session")
def rezip():
    """A bundle of parts."""
    return _rezip


@pytest.fixture(scope="session")
def resealed():
    """The bundle with some parts changed by functions, hashed anew: only what the parts say can give it away."""

    def run(data, changes, **manifest):
        parts = _unzip(data)
        stated = json.loads(parts[MANIFEST])
        for name, change in changes.items():
            parts[name] = change(parts[name])
            stated["parts"][name] = hashlib.sha256(parts[name]).hexdigest()
        parts[MANIFEST] = json.dumps(stated | manifest).encode()
        return _rezip(parts)

    return run


@pytest.fixture(scope="session")
def reforged(resealed):
    """The bundle with weights and graph of another policy."""

    def run(data, policy, **manifest):
        parts = {"weights.safetensors": bundle_weights.pack(policy), "policy.onnx": onnx_graph.graph(policy)}
        return resealed(data, {name: lambda _, part=part: part for name, part in parts.items()}, **manifest)

    return run


@pytest.fixture(scope="session")
def as_json():
    """A function of parsed JSON as one of its bytes."""

    def make(change):
        def run(part):
            value = json.loads(part)
            return json.dumps(change(value) or value).encode()

        return run

    return make

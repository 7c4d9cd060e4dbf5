"""Weights from a file: all of them into the network, or one line that says which does not fit."""

from __future__ import annotations

import importlib
import sys

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from cutlayer.errors import ConfigError
from cutlayer.profiles import cuts, weights, zoo

MINE = """
from torch import nn


class Mine(nn.Module):
    input_shape = (3, 8, 8)

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3)
        self.end = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 2))
        self.exits = {"one": nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))}

    def forward(self, x):
        return self.end(self.two(self.one(x).relu()).relu())


def build():
    return Mine()
"""


def state(network):
    return {key: value.clone() for key, value in network.state_dict().items()}


def half(tensors):
    return {key: (value.half() if value.is_floating_point() else value).contiguous() for key, value in tensors.items()}


@pytest.fixture
def trained():
    """ResNet-8 whose weights are float16 values, as training writes them."""
    network = zoo.build("resnet8", seed=5)
    network.load_state_dict({key: value.float() if value.is_floating_point() else value for key, value in half(state(network)).items()})
    return network


@pytest.fixture
def file(trained, tmp_path):
    save_file(half(state(trained)), tmp_path / "mine.safetensors", metadata={"network": "resnet8", "dtype": "float16"})
    return tmp_path / "mine.safetensors"


def test_a_zoo_network_gets_all_its_weights_from_the_file(trained, file):
    network = cuts.resolve("resnet8", file)
    assert zoo.weights_digest(network) == zoo.weights_digest(trained) != zoo.weights_digest(zoo.build("resnet8", seed=0))
    assert not network.training
    assert next(iter(network.parameters())).dtype == torch.float32


def test_what_a_file_shipped_as_is_the_same_network(tmp_path):
    shipped = zoo.WEIGHTS / "alexnet.safetensors"
    assert zoo.weights_digest(cuts.resolve("alexnet", shipped)) == zoo.weights_digest(zoo.build("alexnet"))


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A module of the user's own, in the current folder, and the weights for it."""
    (tmp_path / "users_weights.py").write_text(MINE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "users_weights", raising=False)
    made = importlib.import_module("users_weights").build()
    generator = torch.Generator().manual_seed(3)
    tensors = {key: torch.rand(value.shape, generator=generator) for key, value in made.state_dict().items()}
    tensors |= {f"exits.one.{key}": torch.rand(value.shape, generator=generator) for key, value in made.exits["one"].state_dict().items()}
    return tensors


def test_a_module_of_the_users_own_gets_them_heads_in_a_plain_dict_included(mine, tmp_path):
    save_file(mine, tmp_path / "mine.safetensors")
    network = cuts.resolve("users_weights:build", tmp_path / "mine.safetensors")
    assert len(network.heads) == 2
    held = list(network.state_dict().values())
    for key, value in mine.items():
        assert any(value.shape == other.shape and torch.equal(value, other) for other in held), key


def test_heads_that_the_file_leaves_out_do_not_stay_random(mine, tmp_path):
    save_file({key: value for key, value in mine.items() if not key.startswith("exits.")}, tmp_path / "mine.safetensors")
    with pytest.raises(ConfigError, match=r"does not fit users_weights:build: exits.one.2.weight is missing and 1 more; give the weights"):
        cuts.resolve("users_weights:build", tmp_path / "mine.safetensors")


def test_a_head_that_is_also_an_attribute_is_asked_for_once():
    network = nn.Module()
    network.head = nn.Linear(2, 2)
    network.exits = {"one": network.head}
    assert sorted(weights._tensors(network)) == ["head.bias", "head.weight"]


def broken(change):
    """A file of ResNet-8 with that change to its tensors."""

    def write(path, tensors):
        tensors = dict(tensors)
        change(tensors)
        save_file(tensors, path)

    return write


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (lambda path, tensors: save_file(tensors, path, metadata={"network": "resnet20"}), "holds the weights of resnet20, not of resnet8"),
        (
            broken(lambda tensors: tensors.pop("layers.0.0.weight", None) or tensors.popitem()),
            "is missing; give the weights of this network",
        ),
        (broken(lambda tensors: tensors.update(extra=torch.ones(2))), "extra is no weight of it; give the weights of this network"),
        (
            broken(lambda tensors: tensors.update({k: v[:1].clone() for k, v in tensors.items() if v.dim() == 4})),
            r"is 1x\S+, not \d+x\S+ and",
        ),
        (
            broken(lambda tensors: next(v for v in tensors.values() if v.dim() == 4).fill_(float("nan"))),
            "holds a number that is not finite",
        ),
        (lambda path, _: path.write_bytes(b""), "is no whole safetensors file"),
        (lambda path, _: path.write_bytes(b"PK\x03\x04" * 9), "is no whole safetensors file"),
        (lambda path, tensors: (save_file(tensors, path), path.write_bytes(path.read_bytes()[:-50])), "is no whole safetensors file"),
        (lambda path, _: path.mkdir(), "cannot read weights .*: Is a directory; check the path"),
        (lambda _path, _: None, "cannot read weights .*: No such file or directory; check the path"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line_and_nothing_is_loaded(trained, tmp_path, write, said):
    path = tmp_path / "bad.safetensors"
    write(path, half(state(trained)))
    network = zoo.build("resnet8", seed=9)
    before = zoo.weights_digest(network)
    with pytest.raises(ConfigError, match=said) as caught:
        weights.load(network, path, "resnet8")
    assert "\n" not in str(caught.value)
    assert "bad.safetensors" in str(caught.value)
    assert zoo.weights_digest(network) == before

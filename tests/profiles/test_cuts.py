"""Cuts are found in the graph: at every block boundary, never inside a block, and the chain computes what the network does."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn
from torch.nn import functional

from cutlayer.errors import ConfigError
from cutlayer.profiles import cuts, zoo
from cutlayer.profiles.zoo.parts import Standardise

SHAPE = (3, 16, 16)


class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        return functional.relu(self.second(functional.relu(self.norm(self.first(x)))) + x)


class Residual(nn.Module):
    """Stem, two residual blocks, pooling and a classifier."""

    input_shape = SHAPE

    def __init__(self):
        super().__init__()
        self.standardise = Standardise()
        self.stem = nn.Conv2d(3, 8, 3, stride=2)
        self.blocks = nn.Sequential(Block(8), Block(8))
        self.last = nn.Linear(8, 10)

    def forward(self, x):
        x = self.blocks(self.stem(self.standardise(x)))
        return self.last(x.mean((2, 3)).view(x.size(0), -1))


class BranchesOnShape(Residual):
    def forward(self, x):
        if x.shape[1] != 3:
            raise ValueError("three channels")
        return super().forward(x)


class Optional(Residual):
    def forward(self, x, mask=None, *, scale=1.0):
        return super().forward(x * scale if mask is None else x * mask)


class BranchesOnValues(Residual):
    def forward(self, x):
        return super().forward(x if x.sum() > 0 else -x)


class Draws(Residual):
    def forward(self, x):
        return super().forward(x) + torch.rand(1, 10)


class TwoInputs(Residual):
    def forward(self, x, y):
        return super().forward(x + y)


class PutsOutMore(Residual):
    def forward(self, x):
        return {"logits": super().forward(x)}


def head(channels=8, classes=10):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


def made(kind=Residual):
    torch.manual_seed(4)
    return kind().eval()


def pixels(shape=SHAPE):
    return torch.randint(0, 256, (1, *shape), generator=torch.Generator().manual_seed(5)).float()


def plain(network):
    """A zoo network up to its last exit as a module that declares nothing."""
    return nn.Sequential(*network.layers, network.heads[-1]).eval()


@torch.no_grad()
def tensors(layers, x):
    out = []
    for layer in layers:
        x = layer(x)
        out.append(x)
    return out


def places(network, found):
    """For every layer of `network`, which layer of `found` ends with the same tensor, bit for bit, whatever its axes."""
    x = pixels(network.input_shape)
    ends = [tensor.flatten() for tensor in tensors(found.layers, x)]
    return [
        next((i for i, end in enumerate(ends) if torch.equal(end, hand.flatten())), None) for hand in tensors(network.layers, x)
    ]  # fmt: skip


def same_logits(a, b, shape):
    with torch.no_grad():
        return torch.equal(a(pixels(shape))[-1], b(pixels(shape))[-1])


def test_alexnet_is_cut_where_its_layers_were_declared():
    network = zoo.build("alexnet", seed=1).eval()
    chained = cuts.chain(plain(network), input_shape=network.input_shape)
    assert places(network, chained) == list(range(7))
    assert chained.depths == (7,)
    assert same_logits(network, chained, network.input_shape)


def test_a_residual_network_is_cut_between_its_blocks_alone():
    traced = cuts.trace(made(), SHAPE)
    after = [cuts._label(traced.nodes[i]) for i in traced.cuts()]
    # Not after the mean: the batch size is read from the map behind it, so two values are live.
    block = ["add in blocks.0", "relu_1 in blocks.0", "add_1 in blocks.1", "relu_3 in blocks.1"]
    assert after == ["sub in standardise", "mul in standardise", "stem", *block, "view"]
    chained = cuts.chain(made())
    assert chained.layer_names == ("stem", "blocks.0", "blocks.1")
    assert chained.depths == (3,)


@pytest.mark.parametrize("kind", [Residual, BranchesOnShape])
def test_a_cut_inside_a_block_is_refused_with_the_tensors_that_are_live_there(kind):
    with pytest.raises(
        ConfigError, match=r"cannot cut after 'blocks\.1\.norm': 2 values are live there \(.*blocks\.0.*, .*blocks\.1\.norm\)"
    ):
        cuts.chain(made(kind), cuts=["stem", "blocks.1.norm"])


@pytest.mark.parametrize(("kind", "reader"), [(Residual, "torch.fx"), (Optional, "torch.fx"), (BranchesOnShape, "torch.export")])
def test_the_chain_gives_the_bits_of_the_network(kind, reader):
    network = made(kind)
    chained = cuts.chain(network)
    assert cuts.trace(network, SHAPE).reader == reader
    assert chained.layer_names == ("stem", "blocks.0", "blocks.1")
    with torch.no_grad():
        assert torch.equal(chained(pixels())[0], network(pixels()))
    assert next(chained.parameters()) is next(network.parameters())


def test_resnet18_is_cut_at_its_blocks_and_behind_the_pooling():
    network = zoo.build("resnet18")
    chained = cuts.chain(plain(network), input_shape=network.input_shape)
    # The last block's 25,088 values are pooled before they are sent: 512.
    assert places(network, chained) == [0, 1, 2, 3, 4, 5, 6, 7, None]
    assert [tuple(x.shape) for x in tensors(chained.layers, pixels(network.input_shape))][-1] == (1, 512)
    assert same_logits(network, chained, network.input_shape)
    as_declared = cuts.chain(plain(network), input_shape=network.input_shape, cuts=[str(i) for i in range(9)])
    assert places(network, as_declared) == list(range(9))


def test_mobilenetv2_is_cut_at_its_blocks_and_inside_those_that_do_not_add():
    network = zoo.build("mobilenetv2")
    chained = cuts.chain(plain(network), input_shape=network.input_shape)
    found = places(network, chained)
    assert found[:-1] == sorted(place for place in found if place is not None)  # every block boundary, in order
    assert found[-1] is None  # as in ResNet-18, the last cut lies behind the pooling
    # 7 of 17 blocks do not add: one has two convolutions and six have three, each a layer.
    assert len(chained.layers) == 19 + 1 + 6 * 2
    assert same_logits(network, chained, network.input_shape)
    as_declared = cuts.chain(plain(network), input_shape=network.input_shape, cuts=[str(i) for i in range(19)])
    assert places(network, as_declared) == list(range(19))


def test_a_network_that_declares_all_is_taken_as_it_is():
    network = zoo.build("resnet8", seed=1)
    assert cuts.chain(network) is network


def test_exits_attach_after_their_submodules_and_join_the_state():
    network = made()
    network.exits = {"blocks.0": head(), "stem": head()}
    chained = cuts.chain(network)
    assert chained.depths == (1, 2, 3)
    x = pixels()
    with torch.no_grad():
        early = chained(x)
        assert torch.equal(early[1], network.exits["blocks.0"](network.blocks[0](network.stem(network.standardise(x)))))
        assert torch.equal(early[2], network(x))
    assert "heads.0.2.weight" in chained.state_dict()
    assert len(zoo.weights_digest(chained)) == 64


@pytest.mark.parametrize(
    ("network", "options", "words"),
    [
        (BranchesOnValues, {}, "cannot read the graph of BranchesOnValues .*torch.fx.*torch.export"),
        (Draws, {}, "other logits than in one piece"),
        (TwoInputs, {}, r"needs the inputs \['x', 'y'\]"),
        (PutsOutMore, {}, "not one tensor of logits"),
        (Residual, {"input_shape": (3, 16)}, "is not \\(channels, height, width\\)"),
        (Residual, {"input_shape": (5, 16, 16)}, "does not run on one image"),
        (Residual, {"cuts": ["block.0"]}, "did you mean 'blocks.0'"),
        (Residual, {"cuts": ["last"]}, "'last' ends the network"),
        (Residual, {"cuts": []}, "cannot be cut"),
        (Residual, {"exits": [head()]}, "give a dict from submodule to head"),
        (Residual, {"exits": {"blocks.0.first": head()}}, "cannot cut after 'blocks.0.first'"),
        (Residual, {"exits": {"blocks.0": nn.Linear(3, 10)}}, "the head after 'blocks.0' does not run"),
        (Residual, {"exits": {"blocks.0": head(classes=7)}}, r"puts out \(1, 7\) for one image; \(1, 10\) is needed"),
        (Residual, {"exits": {"blocks.0": nn.Sequential(nn.Hardswish(inplace=True), *head())}}, "changes its input in place"),
    ],
)
def test_what_cannot_be_cut_is_refused_with_the_reason(network, options, words):
    with pytest.raises(ConfigError, match=words):
        cuts.chain(made(network), **options)


USERS = """
import torch
from torch import nn

def build():
    torch.manual_seed(1)
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5))
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU(), *head)
    net.input_shape = (3, 12, 12)
    return net

def fails():
    raise RuntimeError("no weights")

number = 3
"""


@pytest.fixture
def users(tmp_path, monkeypatch):
    """A folder with a user's module, to which the command changes."""
    (tmp_path / "users_networks.py").write_text(USERS)
    (tmp_path / "users_broken.py").write_text("import users_missing\n")
    monkeypatch.chdir(tmp_path)
    yield
    for name in ("users_networks", "users_broken"):
        sys.modules.pop(name, None)


def test_a_users_function_is_found_in_the_current_directory(users):
    before = list(sys.path)
    network = cuts.resolve("users_networks:build")
    assert (network.name, network.input_shape, network.classes) == ("users_networks:build", (3, 12, 12), 5)
    assert network.depths == (2,)
    assert sys.path == before


def test_a_zoo_name_resolves_to_the_zoo():
    assert cuts.resolve("resnet18").name == "resnet18"


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("alexnt", "did you mean 'alexnet'"),
        ("users_nowhere:build", "no module 'users_nowhere' in the current directory"),
        ("users_broken:build", "needs users_missing, which is not installed"),
        ("users_networks:biuld", "has no function 'biuld'; it has: build, fails"),
        ("users_networks:number", "has no function 'number'"),
        ("users_networks:fails", "RuntimeError: no weights"),
        ("os:getcwd", "returned str; it must return a torch.nn.Module"),
        (":build", "':build' names no function"),
    ],
)
def test_a_spec_that_names_no_network_is_refused(users, spec, words):
    with pytest.raises(ConfigError, match=words):
        cuts.resolve(spec)

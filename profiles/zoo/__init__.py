"""Multi-exit networks that ship with cutlayer, by name.

A network is any `torch.nn.Module` that follows `MultiExit`:

    layers       trunk layers in order; exactly one tensor is live between two of them
    heads        one classifier per exit, shallowest first
    depths       depths[e] = number of trunk layers before head e, strictly increasing
    input_shape  (channels, height, width) of the float32 input, pixel values 0..255

`forward(x)` returns the logits of every exit, shallowest first. With this, a partition point `p` of exit `e`
is a cut of the chain `layers[:depths[e]] + [heads[e]]`.

The networks in `LATENCY_ONLY` have random weights: what they cost is measured, how often they are right is not. They
standardise their input with the constants of the others, which cost the same.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from cutlayer.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor, nn

WEIGHTS = Path(__file__).parent / "weights"


class MultiExit(Protocol):
    """What the profiler, the accuracy measurement and the exporter read of a network."""

    name: str
    layers: nn.ModuleList
    heads: nn.ModuleList
    input_shape: tuple[int, int, int]
    classes: int

    @property
    def depths(self) -> Sequence[int]:
        """Trunk layers before each head."""
        ...

    @property
    def layer_names(self) -> Sequence[str]:
        """Name of each trunk layer."""
        ...

    def __call__(self, x: Tensor) -> list[Tensor]:
        """Logits (batch, classes) of every exit, shallowest first."""
        ...

    def eval(self) -> nn.Module:
        """Fix batch norm and dropout, as `torch.nn.Module.eval` does."""
        ...


def _alexnet() -> MultiExit:
    from cutlayer.profiles.zoo.alexnet import AlexNet

    return AlexNet()


def _resnet20() -> MultiExit:
    from cutlayer.profiles.zoo.resnet import resnet20

    return resnet20()


def _resnet8() -> MultiExit:
    from cutlayer.profiles.zoo.resnet import resnet8

    return resnet8()


def _mobilenetv2() -> MultiExit:
    from cutlayer.profiles.zoo.mobilenet import MobileNetV2

    return MobileNetV2()


def _resnet18() -> MultiExit:
    from cutlayer.profiles.zoo.resnet18 import ResNet18

    return ResNet18()


def _vgg16() -> MultiExit:
    from cutlayer.profiles.zoo.vgg import VGG16

    return VGG16()


NETWORKS: dict[str, Callable[[], MultiExit]] = {
    "alexnet": _alexnet,
    "resnet20": _resnet20,
    "resnet8": _resnet8,
    "mobilenetv2": _mobilenetv2,
    "resnet18": _resnet18,
    "vgg16": _vgg16,
}
LATENCY_ONLY = ("mobilenetv2", "resnet18", "vgg16")  # ImageNet networks: no weights are shipped, and accuracy is not measured
LATENCY_SEED = 0  # any fixed one: the tables of one network made on two machines are then of the same weights


def names() -> list[str]:
    """Names that `build` knows."""
    return list(NETWORKS)


def trained() -> list[str]:
    """Those whose weights ship."""
    return [name for name in NETWORKS if (WEIGHTS / f"{name}.safetensors").exists()]


def build(name: str, *, seed: int | None = None) -> MultiExit:
    """A network by name: with its shipped weights, or freshly initialised from `seed`.

    Networks in `LATENCY_ONLY` are always freshly initialised, without `seed` from `LATENCY_SEED`.

    Raises:
        ConfigError: the name is unknown, or no weights are shipped for it.
    """
    import torch
    from safetensors.torch import load_file

    if name not in names():
        raise ConfigError(f"unknown network {name!r}; the zoo has: {', '.join(names())}")
    if seed is not None:
        torch.manual_seed(seed)
        return NETWORKS[name]()
    if name in LATENCY_ONLY:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(LATENCY_SEED)
            network = NETWORKS[name]()
        network.eval()
        return network
    network = NETWORKS[name]()
    path = WEIGHTS / f"{name}.safetensors"
    if not path.exists():
        raise ConfigError(f"no weights for {name!r} at {path}; make them with: cutlayer profile train {name}")
    assert isinstance(network, torch.nn.Module)
    state = {key: value.float() if value.is_floating_point() else value for key, value in load_file(path).items()}
    network.load_state_dict(state)
    network.eval()
    return network


def weights_digest(network: MultiExit) -> str:
    """sha256 over the names and float32 values of all weights: tables, graphs and policies of one network share it."""
    import hashlib

    import torch

    assert isinstance(network, torch.nn.Module)
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().float().contiguous().numpy().tobytes())
    return digest.hexdigest()

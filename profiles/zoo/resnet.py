"""Residual networks for 32 x 32 pixels with early exits, cut at block boundaries only.

ResNet-20 is He et al.'s (2016) CIFAR-10 network: a stem and three stages of three basic blocks with 16, 32 and 64
channels. ResNet-8 is the image-classification network of MLPerf Tiny (Banbury et al. 2021): one block a stage. A block is one
layer of the chain: inside it two tensors are live, the sum's two sides, so it cannot be cut for the price of one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn import functional

from cutlayer.profiles.zoo.parts import Standardise

if TYPE_CHECKING:
    from collections.abc import Sequence


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which is a 1x1 convolution where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs))
        same = stride == 1 and inputs == outputs
        self.shortcut: nn.Module = (
            nn.Identity() if same else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        )

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.second(self.first(x)) + self.shortcut(x))


def pooled_head(channels: int, classes: int) -> nn.Sequential:
    """Global average pooling and one linear layer, as the original network ends."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


def early_head(channels: int, classes: int) -> nn.Sequential:
    """Early exit: one strided convolution to 64 channels first, because shallow features do not pool into classes."""
    convolution = nn.Conv2d(channels, 64, 3, 2, 1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(64), nn.ReLU(), *pooled_head(64, classes))


class CifarResNet(nn.Module):
    """Stem and three stages of `blocks` basic blocks; early exits after the layers in `early`. Follows `MultiExit`."""

    input_shape = (3, 32, 32)

    def __init__(self, name: str, blocks: int, early: Sequence[int], classes: int = 10) -> None:
        super().__init__()
        self.name = name
        self.classes = classes
        layers: list[nn.Module] = [nn.Sequential(Standardise(), nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())]
        names, widths, width = ["stem"], [16], 16
        for stage, channels in enumerate((16, 32, 64), start=1):
            for block in range(blocks):
                layers.append(BasicBlock(width, channels, 2 if stage > 1 and block == 0 else 1))
                names.append(f"block{stage}.{block + 1}")
                width = channels
                widths.append(width)
        self.layers = nn.ModuleList(layers)
        self.layer_names = tuple(names)
        self.depths = (*early, len(layers))
        heads = [early_head(widths[depth - 1], classes) for depth in early]
        self.heads = nn.ModuleList([*heads, pooled_head(width, classes)])

    def forward(self, x: Tensor) -> list[Tensor]:
        logits: list[Tensor] = []
        for depth, layer in enumerate(self.layers, start=1):
            x = layer(x)
            if depth in self.depths:
                logits.append(self.heads[self.depths.index(depth)](x))
        return logits


def resnet20() -> CifarResNet:
    """ResNet-20 with exits after the first and second stage and at the end."""
    return CifarResNet("resnet20", blocks=3, early=(4, 7))


def resnet8() -> CifarResNet:
    """ResNet-8 of MLPerf Tiny with one early exit after the second stage."""
    return CifarResNet("resnet8", blocks=1, early=(3,))

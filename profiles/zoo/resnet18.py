"""ResNet-18 for 224 x 224 pixels, with random weights: to time, not to classify.

He et al. (2016), with the shortcut convolutions of their option B: a stem with its max pooling, four stages of two basic
blocks, and a classifier as the only exit. A block is one layer of the chain: inside it two tensors are live.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from cutlayer.profiles.zoo.parts import Standardise
from cutlayer.profiles.zoo.resnet import BasicBlock, pooled_head

if TYPE_CHECKING:
    from torch import Tensor

WIDTHS = (64, 128, 256, 512)  # channels of the stages, table 1 of He et al. (2016)
BLOCKS = 2  # a stage, same table


class ResNet18(nn.Module):
    """One-exit ResNet-18; follows `cutlayer.profiles.zoo.MultiExit`.

    Input (batch, 3, 224, 224) float32 with pixel values 0..255; output a list of one (batch, classes) tensor of logits.
    """

    name = "resnet18"
    input_shape = (3, 224, 224)

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.classes = classes
        width = WIDTHS[0]
        convolution = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        stem = nn.Sequential(Standardise(), convolution, nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        layers: list[nn.Module] = [stem]
        names = ["stem"]
        for stage, channels in enumerate(WIDTHS, start=1):
            for block in range(BLOCKS):
                layers.append(BasicBlock(width, channels, 2 if stage > 1 and block == 0 else 1))
                names.append(f"block{stage}.{block + 1}")
                width = channels
        self.layers = nn.ModuleList(layers)
        self.layer_names = tuple(names)
        self.depths = (len(layers),)
        self.heads = nn.ModuleList([pooled_head(width, classes)])
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")  # He et al. (2015)

    def forward(self, x: Tensor) -> list[Tensor]:
        for layer in self.layers:
            x = layer(x)
        return [self.heads[0](x)]

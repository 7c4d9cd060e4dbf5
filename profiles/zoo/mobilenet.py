"""MobileNetV2 for 224 x 224 pixels, with random weights: to time, not to classify.

Sandler et al. (2018), width 1.0: a stem, 17 inverted residual blocks, one 1x1 convolution, and a classifier as the only
exit. A block is one layer of the chain. Where it adds its input to its output two tensors are live inside it; where it
does not it could be cut inside as well (`cutlayer.profiles.cuts` finds those places), but the tensor there is up to six
times as wide as at its ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from cutlayer.profiles.zoo.parts import Standardise

if TYPE_CHECKING:
    from torch import Tensor

# Rows (expansion, channels, blocks, stride of the first block) of table 2 of Sandler et al. (2018).
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
STEM, LAST = 32, 1280  # channels before and after the blocks, same table


def convolution(inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1, activate: bool = True) -> nn.Sequential:
    """Convolution, batch norm and, unless it is a linear bottleneck, ReLU6."""
    parts: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*parts, nn.ReLU6()) if activate else nn.Sequential(*parts)


class InvertedResidual(nn.Module):
    """Widen by 1x1, filter each channel by 3x3, narrow by 1x1; plus the input where the shapes agree."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        widen = [convolution(inputs, hidden, 1)] if expansion > 1 else []
        self.branch = nn.Sequential(
            *widen, convolution(hidden, hidden, 3, stride=stride, groups=hidden), convolution(hidden, outputs, 1, activate=False)
        )
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.branch(x)
        return x + out if self.adds else out


class MobileNetV2(nn.Module):
    """One-exit MobileNetV2; follows `cutlayer.profiles.zoo.MultiExit`.

    Input (batch, 3, 224, 224) float32 with pixel values 0..255; output a list of one (batch, classes) tensor of logits.
    """

    name = "mobilenetv2"
    input_shape = (3, 224, 224)

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.classes = classes
        layers: list[nn.Module] = [nn.Sequential(Standardise(), convolution(3, STEM, 3, stride=2))]
        names, width = ["stem"], STEM
        for stage, (expansion, channels, blocks, stride) in enumerate(STAGES, start=1):
            for block in range(blocks):
                layers.append(InvertedResidual(width, channels, expansion, stride if block == 0 else 1))
                names.append(f"block{stage}.{block + 1}")
                width = channels
        layers.append(convolution(width, LAST, 1))
        self.layers = nn.ModuleList(layers)
        self.layer_names = (*names, "last")
        self.depths = (len(layers),)
        self.heads = nn.ModuleList([nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(LAST, classes))])
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                # He et al. (2015); with torch's default the values fade over 50 layers, and tiny floats are slow to compute with.
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> list[Tensor]:
        for layer in self.layers:
            x = layer(x)
        return [self.heads[0](x)]

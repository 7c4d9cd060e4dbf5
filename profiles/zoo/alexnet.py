"""Five-exit AlexNet with batch norm and a narrow classifier, for 128 x 128 pixels.

The trunk is AlexNet's (Krizhevsky, Sutskever, Hinton 2012: five convolutions, the first 11x11 with stride 4,
overlapping 3x3/2 max pooling after the first, second and fifth, then fully connected layers), with the channel
counts lowered so that the weights in float16 stay under 6 MB. Exits follow BranchyNet (Teerapittayanon, McDanel,
Kung 2016): a small convolutional head on an early feature map. Each convolution is one layer with its batch norm,
ReLU and pooling: cutting between them would send a larger tensor for no saving on the device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from cutlayer.profiles.zoo.parts import Standardise

if TYPE_CHECKING:
    from torch import Tensor


def convolution(inputs: int, outputs: int, kernel: int, *, stride: int = 1, pool: bool = False) -> list[nn.Module]:
    """Convolution, batch norm, ReLU and, if asked, AlexNet's overlapping 3x3/2 max pooling."""
    padding = 4 if kernel == 11 else kernel // 2  # 11x11 with stride 4 on 128 px then gives 32x32
    parts: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=padding, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    ]
    return [*parts, nn.MaxPool2d(3, stride=2, padding=1)] if pool else parts


def head(inputs: int, size: int, classes: int) -> nn.Sequential:
    """Exit head: a strided 3x3 convolution to 96 channels, pooling to 4x4, one linear layer."""
    stride = 2
    pooled = nn.AvgPool2d(size // stride // 4) if size // stride > 4 else nn.Identity()
    return nn.Sequential(*convolution(inputs, 96, 3, stride=stride), pooled, nn.Flatten(), nn.Linear(96 * 4 * 4, classes))


class AlexNet(nn.Module):
    """Multi-exit AlexNet; follows `cutlayer.profiles.zoo.MultiExit`.

    Input (batch, 3, 128, 128) float32 with pixel values 0..255; output one (batch, classes) tensor of logits an exit.
    """

    name = "alexnet"
    input_shape = (3, 128, 128)
    depths = (1, 2, 3, 4, 7)
    layer_names = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7")

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.classes = classes
        self.layers = nn.ModuleList(
            [
                nn.Sequential(Standardise(), *convolution(3, 64, 11, stride=4, pool=True)),  # 64 x 16 x 16
                nn.Sequential(*convolution(64, 128, 5, pool=True)),  # 128 x 8 x 8
                nn.Sequential(*convolution(128, 192, 3)),  # 192 x 8 x 8
                nn.Sequential(*convolution(192, 192, 3)),  # 192 x 8 x 8
                nn.Sequential(*convolution(192, 128, 3, pool=True)),  # 128 x 4 x 4
                nn.Sequential(nn.Flatten(), nn.Dropout(0.4), nn.Linear(2048, 384, bias=False), nn.BatchNorm1d(384), nn.ReLU()),
                nn.Sequential(nn.Dropout(0.4), nn.Linear(384, 256, bias=False), nn.BatchNorm1d(256), nn.ReLU()),
            ]
        )
        self.heads = nn.ModuleList(
            [head(64, 16, classes), head(128, 8, classes), head(192, 8, classes), head(192, 8, classes), nn.Linear(256, classes)]
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        logits: list[Tensor] = []
        for depth, layer in enumerate(self.layers, start=1):
            x = layer(x)
            if depth in self.depths:
                logits.append(self.heads[self.depths.index(depth)](x))
        return logits

"""VGG-16 for 224 x 224 pixels, with random weights: to time, not to classify.

Simonyan and Zisserman (2015), configuration D: thirteen 3x3 convolutions, five max poolings, three fully connected
layers, no batch norm. Each convolution is one layer with its ReLU and pooling. 90 % of the 553 MB of float32 weights lie
in the first two fully connected layers: cold starts, not compute, decide where this network is worth cutting.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from cutlayer.profiles.zoo.parts import Standardise

if TYPE_CHECKING:
    from torch import Tensor

STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))  # channels; table 1, column D
HIDDEN = 4096  # of the fully connected layers, same table


class VGG16(nn.Module):
    """One-exit VGG-16; follows `cutlayer.profiles.zoo.MultiExit`.

    Input (batch, 3, 224, 224) float32 with pixel values 0..255; output a list of one (batch, classes) tensor of logits.
    """

    name = "vgg16"
    input_shape = (3, 224, 224)

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.classes = classes
        layers: list[nn.Module] = []
        names: list[str] = []
        width = 3
        for stage, channels in enumerate(STAGES, start=1):
            for index, outputs in enumerate(channels, start=1):
                before: list[nn.Module] = [] if layers else [Standardise()]
                pool: list[nn.Module] = [nn.MaxPool2d(2)] if index == len(channels) else []
                layers.append(nn.Sequential(*before, nn.Conv2d(width, outputs, 3, padding=1), nn.ReLU(), *pool))
                names.append(f"conv{stage}.{index}")
                width = outputs
        size = self.input_shape[1] // 2 ** len(STAGES)
        layers.append(nn.Sequential(nn.Flatten(), nn.Linear(width * size * size, HIDDEN), nn.ReLU(), nn.Dropout()))
        layers.append(nn.Sequential(nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Dropout()))
        self.layers = nn.ModuleList(layers)
        self.layer_names = (*names, "fc6", "fc7")
        self.depths = (len(layers),)
        self.heads = nn.ModuleList([nn.Linear(HIDDEN, classes)])
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")  # He et al. (2015)

    def forward(self, x: Tensor) -> list[Tensor]:
        for layer in self.layers:
            x = layer(x)
        return [self.heads[0](x)]

"""Parts that several networks of the zoo share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

# Channel means and standard deviations of CIFAR-10 on the 0..255 scale: the commonly published
# (0.4914, 0.4822, 0.4465) and (0.2470, 0.2435, 0.2616), times 255.
MEAN = (125.3, 123.0, 113.9)
STD = (63.0, 62.1, 66.7)


class Standardise(nn.Module):
    """Map pixel values 0..255 to zero mean and unit variance; constants, exported as a part of layer 1."""

    mean: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN).reshape(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", 1 / torch.tensor(STD).reshape(1, 3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) * self.scale

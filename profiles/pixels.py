"""What a network is timed on: real images, or random ones that are as smooth and as coloured as real ones.

The kernels of a network do not care what they hold, a lossless stage does: its time and its bytes follow what it finds. Noise
is the wrong thing to time it on. Against 500 images of CIFAR-10, enlarged to 128 pixels, the tensors after layers 1 to 5 of
AlexNet at 2, 4 and 8 bits are behind zstd, over two sets of weights (the second ships),

    of uniform noise            0.32 to 1.49 and 0.54 to 1.40 times as long, 0.86 and 0.90 in the mean
    of 32 images of `natural`   0.86 to 1.25 and 0.88 to 1.26 times as long, 1.07 and 1.10 in the mean

Fourier amplitudes of photos fall with the frequency (Field, JOSA A 4, 1987); the constants are those of the 5,000 test images
of CIFAR-10 as JPEGs of quality 75 at their 32 pixels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cutlayer.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from cutlayer.profiles.images import ImageSet

COUNT = 32  # images that the runs take in turn: a choice, so that the mean of a lossless stage is known to a few per cent
MEAN, SPREAD = 121.0, 32.0  # mean of all pixel values, and how far the means of single images lie apart
CONTRAST = 54.0  # standard deviation of the pixel values inside an image, the mean over images
SLOPE = 1.6  # amplitudes fall with this power of the frequency: 1.58 as they are, 1.64 under a Hann window
OWN = 0.3  # of a channel's amplitude is its own, the rest of all: two channels then correlate by 0.91 (0.87 to 0.94)


def natural(shape: tuple[int, int, int], count: int = COUNT, seed: int = 0) -> list[NDArray[np.uint8]]:
    """Random images of that shape, (channels, height, width), with the spectrum of photos; equal seeds give equal images."""
    rng = np.random.default_rng(seed)
    channels, height, width = shape
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf  # the mean is drawn by itself
    images = []
    for _ in range(count):
        shared, own = rng.normal(size=(1, height, width)), rng.normal(size=(channels, height, width))
        noise = np.sqrt(1.0 - OWN**2) * shared + OWN * own
        smooth = np.fft.irfft2(np.fft.rfft2(noise) / frequency**SLOPE, (height, width))
        pixels = rng.normal(MEAN, SPREAD) + CONTRAST * smooth / max(float(smooth.std()), 1e-12)
        images.append(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))
    return images


def of(images: ImageSet, shape: tuple[int, int, int]) -> list[NDArray[np.uint8]]:
    """Real images as inputs of that shape.

    Raises:
        ConfigError: the network does not read square RGB images.
    """
    channels, height, width = shape
    if channels != 3 or height != width:
        raise ConfigError(f"images from {images.source} are square RGB, the network reads {shape}; measure it without images")
    return list(np.ascontiguousarray(images.resized(height).transpose(0, 3, 1, 2)))

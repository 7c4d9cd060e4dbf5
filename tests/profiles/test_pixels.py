"""Random images have the spectrum and the colours of photos, so that a lossless stage is timed on what it will meet."""

from __future__ import annotations

import numpy as np
import pytest

from cutlayer.errors import ConfigError
from cutlayer.profiles import images, pixels

SHAPE = (3, 64, 64)


@pytest.fixture(scope="module")
def made():
    return np.array(pixels.natural(SHAPE, 200, seed=1), np.float64)


def test_they_are_pixels_of_that_shape_and_repeat_by_seed():
    one, again, other = (pixels.natural(SHAPE, 3, seed=seed) for seed in (4, 4, 5))
    assert all((image.shape, image.dtype) == (SHAPE, np.uint8) for image in one)
    assert all(np.array_equal(a, b) for a, b in zip(one, again, strict=True))
    assert not np.array_equal(one[0], other[0])
    assert not np.array_equal(one[0], one[1])


def test_amplitudes_fall_with_the_frequency_as_stated(made):
    grey = made.mean(axis=1)
    power = (np.abs(np.fft.rfft2(grey)) ** 2).mean(axis=0)
    frequency = np.hypot(np.fft.fftfreq(64)[:, None], np.fft.rfftfreq(64)[None])
    middle = (frequency > 0.03) & (frequency < 0.3)  # above, clipping and rounding to whole values are seen
    slope = np.polyfit(np.log(frequency[middle]), np.log(power[middle]), 1)[0]
    assert slope == pytest.approx(-2 * pixels.SLOPE, abs=0.2)


def test_brightness_contrast_and_colours_are_as_stated(made):
    assert made.mean() == pytest.approx(pixels.MEAN, abs=8)
    assert made.std(axis=(1, 2, 3)).mean() == pytest.approx(pixels.CONTRAST, rel=0.1)  # clipping takes some
    flat = made.reshape(200, 3, -1)
    red_green = np.mean([np.corrcoef(image)[0, 1] for image in flat])
    assert red_green == pytest.approx(1 - pixels.OWN**2, abs=0.05)


@pytest.mark.parametrize("shape", [(1, 5, 7), (3, 1, 1), (4, 32, 16)])
def test_any_shape_will_do(shape):
    assert [image.shape for image in pixels.natural(shape, 2)] == [shape] * 2


def test_real_images_are_taken_at_the_size_of_the_network():
    found = images.generated(3, 1)
    taken = pixels.of(found, (3, 16, 16))
    assert [(image.shape, image.dtype) for image in taken] == [((3, 16, 16), np.uint8)] * 3
    np.testing.assert_array_equal(taken[1], found.resized(16)[1].transpose(2, 0, 1))
    for shape in ((1, 16, 16), (3, 16, 32)):
        with pytest.raises(ConfigError, match=r"generated are square RGB, the network reads .*; measure it without images"):
            pixels.of(found, shape)


def test_behind_zstd_tensors_are_about_as_long_as_those_of_real_images(data_dir):
    """Of AlexNet after layers 1 to 5, where a lossless stage is of use; noise is up to 3 times off."""
    torch, zstandard = pytest.importorskip("torch"), pytest.importorskip("zstandard")
    from cutlayer.profiles import codecs, zoo

    network, packer = zoo.build("alexnet"), zstandard.ZstdCompressor(level=1)
    real = pixels.of(images.load(data_dir / "cifar10_jpegq75/test_public.npz", 64), network.input_shape)

    def lengths(inputs):
        x, found = torch.from_numpy(np.array(inputs)).float(), []
        with torch.inference_mode():
            for layer in network.layers[:5]:
                x = layer(x)
                found += [[len(packer.compress(codecs.encode(one.numpy(), bits).data)) for one in x] for bits in (2, 4, 8)]
        return np.mean(found, axis=1)

    ratio = lengths(pixels.natural(network.input_shape)) / lengths(real)
    assert 0.7 < ratio.min() < ratio.max() < 1.4
    assert ratio.mean() == pytest.approx(1.0, abs=0.15)

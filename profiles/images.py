"""Labelled images: from a folder of class folders, from an archive of JPEGs, or generated.

Needs Pillow for the first two (extra `profile`). Pixels are uint8, height x width x channel, RGB.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cutlayer.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}


@dataclass(frozen=True, slots=True)
class ImageSet:
    """Images of one size with their classes.

    pixels (n, height, width, 3) uint8; labels (n,) int64, indices into class_names; source says where they came from.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    source: str

    def __len__(self) -> int:
        return len(self.labels)

    def head(self, count: int) -> ImageSet:
        """The first `count` images."""
        return ImageSet(self.pixels[:count], self.labels[:count], self.class_names, self.source)

    def resized(self, size: int) -> NDArray[np.uint8]:
        """All pixels at `size` x `size`, bilinear: what a camera of that resolution would hand to the network."""
        if self.pixels.shape[1:3] == (size, size):
            return self.pixels
        from PIL import Image

        out = np.empty((len(self), size, size, 3), np.uint8)
        for index, image in enumerate(self.pixels):
            out[index] = np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR))
        return out


def load(path: Path, limit: int | None = None) -> ImageSet:
    """Read images from `path`: a folder with one sub-folder a class, or an `.npz` of JPEG tails behind one header.

    The archive has the keys header, data, offsets, labels and class_names: image i is the JPEG
    `header + data[offsets[i]:offsets[i + 1]]`. At most `limit` images are read, in the archive's order, or spread evenly
    over the classes of a folder.

    Raises:
        ConfigError: nothing is there, a key is missing, or an image cannot be decoded.
    """
    if not path.exists():
        raise ConfigError(f"no images at {path}; give a folder of class folders or an .npz of JPEGs")
    if limit is not None and limit < 1:
        raise ConfigError(f"limit {limit} leaves no image of {path}; give 1 or more")
    if path.suffix == ".npz":
        return _load_archive(path, limit)
    if not path.is_dir():
        raise ConfigError(f"{path} is one file; give a folder of class folders or an .npz of JPEGs")
    return _load_folder(path, limit)


def _decode(data: bytes, where: str, size: tuple[int, int] | None) -> NDArray[np.uint8]:
    from PIL import Image

    try:
        image = Image.open(io.BytesIO(data)).convert("RGB")
    except OSError as error:
        raise ConfigError(f"{where} is not an image: {error}; remove it or replace it") from error
    return np.asarray(image if size is None or image.size == size else image.resize(size, Image.Resampling.BILINEAR))


def _load_archive(path: Path, limit: int | None) -> ImageSet:
    try:
        # Opened here: numpy leaves a file open that turns out to be no archive.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            header, data = archive["header"].tobytes(), archive["data"].tobytes()
            offsets, labels = archive["offsets"], archive["labels"].astype(np.int64)
            class_names = tuple(str(name) for name in archive["class_names"])
    except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        keys = "header, data, offsets, labels, class_names"
        raise ConfigError(f"{path} is not an archive of JPEGs ({error}); its keys are {keys}") from error
    fits = len(offsets) == len(labels) + 1 and len(labels) > 0 and labels.min() >= 0 and labels.max() < len(class_names)
    if not fits:
        raise ConfigError(
            f"{path} has {len(labels)} labels, {len(offsets)} offsets and {len(class_names)} classes, which do not fit; make it again"
        )
    count = len(labels) if limit is None else min(limit, len(labels))
    images = [_decode(header + data[offsets[i] : offsets[i + 1]], f"image {i} of {path}", None) for i in range(count)]
    return ImageSet(np.stack(images), labels[:count], class_names, f"{path.parent.name}/{path.name}")


def _load_folder(path: Path, limit: int | None) -> ImageSet:
    folders = sorted(folder for folder in path.iterdir() if folder.is_dir())
    if not folders:
        raise ConfigError(f"{path} holds no class folders; put each class's images into a folder of its own")
    files = [(file, label) for label, folder in enumerate(folders) for file in sorted(folder.iterdir())]
    files = [(file, label) for file, label in files if file.suffix.lower() in SUFFIXES]
    if not files:
        raise ConfigError(f"no image under {path} ends in {', '.join(sorted(SUFFIXES))}")
    if limit is not None and limit < len(files):
        files = [files[i] for i in np.linspace(0, len(files) - 1, limit).astype(int)]
    first = _decode(files[0][0].read_bytes(), str(files[0][0]), None)
    size = (first.shape[1], first.shape[0])
    images = [_decode(file.read_bytes(), str(file), size) for file, _ in files]
    labels = np.array([label for _, label in files], np.int64)
    return ImageSet(np.stack(images), labels, tuple(folder.name for folder in folders), path.name)


def generated(count: int, seed: int, *, size: int = 32, classes: int = 10) -> ImageSet:
    """Smooth random colour fields with random labels: stand-ins where no image is at hand. Accuracy on them means nothing."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 8, 8, 3)).astype(np.float64)
    at = np.linspace(0, 7, size)
    low = np.minimum(at.astype(int), 6)
    weight = (at - low)[:, None]
    rows = coarse[:, low] * (1 - weight[None, :, None]) + coarse[:, low + 1] * weight[None, :, None]
    pixels = rows[:, :, low] * (1 - weight[None, None]) + rows[:, :, low + 1] * weight[None, None]
    labels = rng.integers(0, classes, count)
    return ImageSet(pixels.astype(np.uint8), labels.astype(np.int64), tuple(f"class{i}" for i in range(classes)), "generated")

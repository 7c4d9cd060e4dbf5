"""Labelled images from folders and archives: pixels as Pillow decodes them, and one clear line for what is no image."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from cutlayer.errors import ConfigError
from cutlayer.profiles import images


def picture(seed, size=(8, 6)):
    """A smooth (height, width, 3) picture, so that JPEG keeps it nearly as it is."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (2, 2, 3), dtype=np.uint8))
    return np.asarray(small.resize(size, Image.Resampling.BILINEAR))


def jpeg(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=95)
    return file.getvalue()


@pytest.fixture
def folder(tmp_path):
    """Three images of cats, two of dogs, and what else lies about in folders."""
    for name, seeds in (("cat", (1, 2, 3)), ("dog", (4, 5))):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for seed in seeds:
            Image.fromarray(picture(seed)).save(tmp_path / "photos" / name / f"{seed}.png")
    (tmp_path / "photos" / "cat" / "notes.txt").write_text("not an image", encoding="utf-8")
    (tmp_path / "photos" / "README").write_text("not a class", encoding="utf-8")
    return tmp_path / "photos"


def test_a_folder_of_class_folders(folder):
    got = images.load(folder)
    assert len(got) == 5
    assert got.class_names == ("cat", "dog")
    assert got.labels.tolist() == [0, 0, 0, 1, 1]
    assert got.labels.dtype == np.int64
    assert got.source == "photos"
    np.testing.assert_array_equal(got.pixels, [picture(seed) for seed in (1, 2, 3, 4, 5)])


def test_images_of_other_sizes_and_kinds_become_like_the_first(folder):
    Image.fromarray(picture(9, (20, 10))).save(folder / "dog" / "large.BMP")
    Image.fromarray(picture(8)[..., 0]).save(folder / "dog" / "grey.webp", lossless=True)
    Image.fromarray(np.dstack([picture(7), np.full((6, 8), 9, np.uint8)])).save(folder / "dog" / "transparent.png")
    got = images.load(folder)
    assert got.pixels.shape == (8, 6, 8, 3)
    grey = got.pixels[5]
    np.testing.assert_array_equal(grey[..., 0], grey[..., 1])


def test_a_limit_takes_of_every_class_of_a_folder(folder):
    assert images.load(folder, 2).labels.tolist() == [0, 1]
    assert images.load(folder, 4).labels.tolist() == [0, 0, 0, 1]
    assert len(images.load(folder, 5)) == len(images.load(folder, 99)) == 5


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_without_any_image_is_refused(folder, archive, limit):
    for path in (folder, archive()):
        with pytest.raises(ConfigError):
            images.load(path, limit)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("garbage", b"not a picture"),
        ("empty", b""),
        ("truncated jpeg", jpeg(picture(1))[:-40]),
        ("header alone", jpeg(picture(1))[:20]),
    ],
)
def test_a_bad_image_is_named(folder, name, data):
    (folder / "cat" / f"{name}.jpg").write_bytes(data)
    with pytest.raises(ConfigError, match=rf"cat.{name}\.jpg is not an image: .*; remove it or replace it"):
        images.load(folder)


def test_a_png_cut_anywhere_is_refused_or_read(folder):
    data = (folder / "cat" / "1.png").read_bytes()
    for end in range(0, len(data), 3):
        (folder / "cat" / "1.png").write_bytes(data[:end])
        try:
            images.load(folder)
        except ConfigError as error:
            assert "1.png is not an image" in str(error)  # noqa: PT017 - some cuts leave all pixels whole
    (folder / "cat" / "1.png").write_bytes(data)
    assert len(images.load(folder)) == 5


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no class folders; put"):
        images.load(tmp_path)
    (tmp_path / "cat").mkdir()
    with pytest.raises(ConfigError, match=r"no image under .* ends in .*\.png"):
        images.load(tmp_path)


def test_nothing_there_is_said(tmp_path):
    for name in ("photos", "photos.npz"):
        with pytest.raises(ConfigError, match=rf"no images at .*{name}; give a folder of class folders or an \.npz"):
            images.load(tmp_path / name)


def test_a_single_photo_is_no_set(folder):
    with pytest.raises(ConfigError, match=r"1\.png"):
        images.load(folder / "cat" / "1.png")


# --- archives


@pytest.fixture
def archive(tmp_path):
    """Write an archive of four JPEGs behind their common header.

    Keys given are changed: to a value, by a function of the old one, or, with None, left out.
    """

    def write(**changes):
        whole = [jpeg(picture(seed)) for seed in (1, 2, 3, 4)]
        header = whole[0][: next(i for i, bytes_ in enumerate(zip(*whole, strict=False)) if len(set(bytes_)) > 1)]
        assert len(header) > 100
        tails = [data[len(header) :] for data in whole]
        keys = {
            "header": np.frombuffer(header, np.uint8),
            "data": np.frombuffer(b"".join(tails), np.uint8),
            "offsets": np.cumsum([0, *map(len, tails)]),
            "labels": np.array([1, 0, 2, 1], np.uint8),
            "class_names": np.array(["ant", "bee", "cow"]),
        }
        keys |= {name: change(keys[name]) if callable(change) else change for name, change in changes.items()}
        path = tmp_path / "made" / "small.npz"
        path.parent.mkdir(exist_ok=True)
        np.savez(path, **{name: value for name, value in keys.items() if value is not None})
        return path

    return write


def test_an_archive_made_by_hand(archive):
    got = images.load(archive())
    assert got.class_names == ("ant", "bee", "cow")
    assert got.labels.tolist() == [1, 0, 2, 1]
    assert got.labels.dtype == np.int64
    assert got.source == "made/small.npz"
    expected = [np.asarray(Image.open(io.BytesIO(jpeg(picture(seed))))) for seed in (1, 2, 3, 4)]
    np.testing.assert_array_equal(got.pixels, expected)


def test_a_limit_takes_the_first_of_an_archive(archive):
    assert images.load(archive(), 3).labels.tolist() == [1, 0, 2]
    assert len(images.load(archive(), 99)) == 4


@pytest.mark.parametrize("key", ["header", "data", "offsets", "labels", "class_names"])
def test_an_archive_that_lacks_a_key_is_refused(archive, key):
    with pytest.raises(ConfigError, match=rf"small\.npz is not an archive of JPEGs \(.*{key}.*\); its keys are header"):
        images.load(archive(**{key: None}))


@pytest.mark.parametrize(
    "changes",
    [
        {"offsets": lambda offsets: offsets[:-1]},
        {"header": np.zeros(4, np.uint8)},
        {"labels": np.array(["a", "b", "c", "d"])},
        {"labels": np.array([1, 0, 3, 1])},
        {"labels": np.array([], np.int64)},
        {"class_names": np.array([{"a": 1}], object)},
    ],
    ids=["few offsets", "no jpeg", "labels are words", "label without a class", "no image", "pickled"],
)
def test_an_archive_that_does_not_fit_itself_is_refused(archive, changes):
    with pytest.raises(ConfigError, match=r"small\.npz"):
        images.load(archive(**changes))


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9, 0.99])
def test_a_truncated_archive_is_refused(archive, share):
    path = archive()
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ConfigError, match=r"small\.npz is not an archive"):
        images.load(path)


def test_another_file_under_that_name_is_refused(archive):
    path = archive()
    path.write_bytes(b"label,file\n0,cat.png\n")
    with pytest.raises(ConfigError, match=r"small\.npz is not an archive"):
        images.load(path)


# --- generated, and what a set can do


def test_generated_images_are_the_same_every_time():
    one, two, other = images.generated(5, 3), images.generated(5, 3), images.generated(5, 4)
    np.testing.assert_array_equal(one.pixels, two.pixels)
    np.testing.assert_array_equal(one.labels, two.labels)
    assert (one.pixels != other.pixels).any()
    assert (one.pixels.shape, one.pixels.dtype) == ((5, 32, 32, 3), np.uint8)
    assert one.source == "generated"


def test_generated_images_have_the_size_and_classes_asked_for():
    got = images.generated(200, 0, size=20, classes=3)
    assert got.pixels.shape == (200, 20, 20, 3)
    assert set(got.labels.tolist()) == {0, 1, 2}
    assert got.class_names == ("class0", "class1", "class2")


def test_the_head_of_a_set_keeps_pixels_and_labels_together():
    whole = images.generated(6, 1)
    head = whole.head(2)
    assert len(head) == 2
    np.testing.assert_array_equal(head.pixels, whole.pixels[:2])
    np.testing.assert_array_equal(head.labels, whole.labels[:2])
    assert (head.class_names, head.source) == (whole.class_names, whole.source)


def test_resizing_is_pillows_and_leaves_images_of_that_size_alone():
    got = images.generated(2, 1)
    assert got.resized(32) is got.pixels
    large = got.resized(48)
    assert (large.shape, large.dtype) == ((2, 48, 48, 3), np.uint8)
    expected = np.asarray(Image.fromarray(got.pixels[1]).resize((48, 48), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(large[1], expected)

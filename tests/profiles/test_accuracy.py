"""Measured accuracy: the batched count equals a slow obvious one, and exact plans share the unsplit network's count."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from cutlayer.errors import ConfigError
from cutlayer.profiles import accuracy, codecs, images, zoo
from cutlayer.profiles.stats import wilson

COUNT = 12


@pytest.fixture(scope="module")
def labelled(network):
    """Generated images, labelled as the network's last exit sees them, every third one wrongly: so counts have something to say."""
    found = images.generated(COUNT, 5, size=128)
    labels = logits(network, found)[-1].argmax(1)
    labels[::3] = (labels[::3] + 1) % 10
    return dataclasses.replace(found, labels=labels)


@torch.inference_mode()
def logits(network, image_set):
    x = torch.from_numpy(image_set.pixels.transpose(0, 3, 1, 2).copy()).float()
    return [value.numpy() for value in network(x)]


@pytest.fixture(scope="module")
def table(network, labelled):
    before = accuracy.BATCH
    accuracy.BATCH = 5  # so that the last batch is not full
    try:
        return accuracy.measure(network, labelled)
    finally:
        accuracy.BATCH = before


@pytest.fixture(scope="module")
def correct(table):
    return {(plan.exit, plan.partition, plan.bits): plan.correct for plan in table.plans}


def test_every_plan_is_counted_once(table, correct, network):
    expected = {
        (exit_, partition, bits)
        for exit_, depth in enumerate(network.depths)
        for partition in range(depth + 2)
        for bits in ((8,) if partition == 0 else (0,) if partition > depth else codecs.BITS)
    }
    assert set(correct) == expected
    assert len(table.plans) == len(expected)
    assert all(0 <= count <= COUNT for count in correct.values())


def test_what_is_sent_exactly_is_right_as_often_as_the_unsplit_network(network, labelled, correct):
    for exit_, (depth, values) in enumerate(zip(network.depths, logits(network, labelled), strict=True)):
        unsplit = int((values.argmax(1) == labelled.labels).sum())
        assert correct[exit_, 0, 8] == correct[exit_, depth + 1, 0] == unsplit
        for partition in range(1, depth + 1):
            assert correct[exit_, partition, 32] == unsplit
    assert correct[4, 0, 8] == COUNT - len(range(0, COUNT, 3))


@torch.inference_mode()
def slowly(network, image_set, exit_, cut, bits):
    """One image after the other: layers up to the cut, the codec, the other layers, the head."""
    right = 0
    for pixels, label in zip(image_set.pixels, image_set.labels, strict=True):
        x = torch.from_numpy(pixels.transpose(2, 0, 1).copy()).float()[None]
        for layer in network.layers[:cut]:
            x = layer(x)
        sent = codecs.encode(x[0].numpy(), bits)
        x = torch.from_numpy(codecs.decode(sent.data, sent.bits, sent.lo, sent.scale, tuple(x.shape)))
        for layer in network.layers[cut : network.depths[exit_]]:
            x = layer(x)
        right += int(network.heads[exit_](x).argmax(1)[0] == label)
    return right


@pytest.mark.parametrize("cut", [2, 5])
@pytest.mark.parametrize("bits", [2, 4])
def test_counts_equal_a_slow_obvious_loop(network, labelled, correct, cut, bits):
    for exit_, depth in enumerate(network.depths):
        if depth >= cut:
            assert correct[exit_, cut, bits] == slowly(network, labelled, exit_, cut, bits), f"exit {exit_}"


def test_low_bits_change_some_answers(correct):
    """Otherwise the comparison above compares nothing."""
    assert len({correct[4, cut, bits] for cut in range(1, 8) for bits in codecs.BITS}) > 1


def test_images_of_another_size_are_resized_as_a_camera_would_hand_them_over(network):
    small = images.generated(3, 6)
    large = dataclasses.replace(small, pixels=small.resized(128))
    assert accuracy.measure(network, small).plans == accuracy.measure(network, large).plans


def test_the_table_says_what_was_measured_on_what(table, network, labelled):
    assert (table.model, table.weights_sha256) == ("alexnet", zoo.weights_digest(network))
    assert (table.images, table.source) == (COUNT, labelled.source)
    assert (table.provenance.kind, table.provenance.backend) == ("measured", "torch")


def test_progress_ends_at_one(network):
    told = []
    accuracy.measure(network, images.generated(2, 1, size=128), told.append)
    assert told == [1.0]


@pytest.mark.parametrize("classes", [2, 9, 11])
def test_images_of_other_classes_are_refused(network, classes):
    with pytest.raises(ConfigError, match=rf"2 images of {classes} classes from generated; alexnet has 10; give images"):
        accuracy.measure(network, images.generated(2, 1, classes=classes))


def test_no_images_are_refused(network):
    with pytest.raises(ConfigError, match="0 images"):
        accuracy.measure(network, images.generated(2, 1).head(0))


# --- intervals and the summary


@pytest.mark.parametrize(
    ("count", "n", "low", "high"),
    [
        # Newcombe, Statistics in Medicine 17 (1998), table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (20, 20, 0.8389, 1.0),
    ],
)
def test_wilson_known_answers(count, n, low, high):
    assert wilson(count, n) == pytest.approx((low, high), abs=5e-5)


def test_wilson_of_nothing_is_everything():
    assert wilson(0, 0) == (0.0, 1.0)


def test_wilson_stays_in_bounds_around_the_share():
    for n in (1, 3, 50, 5000):
        for count in {0, 1, n // 2, n - 1, n}:
            low, high = wilson(count, n)
            assert 0.0 <= low <= count / n <= high <= 1.0
            mirrored = wilson(n - count, n)
            assert (1 - mirrored[1], 1 - mirrored[0]) == pytest.approx((low, high))


def test_the_summary_by_hand(accuracy_table):
    got = accuracy.summary(accuracy_table)
    assert (got["model"], got["source"], got["images"]) == ("tiny", "a test", 1000)
    for found, right in zip(got["exits"], (600, 800), strict=True):
        low, high = wilson(right, 1000)
        assert found == {"exit": 0 if right == 600 else 1, "accuracy": right / 1000, "low": low, "high": high}
    assert got["bits"] == {
        "2": {"1": 0.7, "2": 0.6, "3": 0.5, "4": 0.4},
        "4": {"1": 0.78, "2": 0.76, "3": 0.74, "4": 0.72},
        "8": {"1": 0.798, "2": 0.796, "3": 0.794, "4": 0.792},
        "16": dict.fromkeys("1234", 0.8),
        "32": dict.fromkeys("1234", 0.8),
    }


def test_the_summary_of_a_measured_table_is_json(table):
    import json

    got = json.loads(json.dumps(accuracy.summary(table)))
    assert len(got["exits"]) == 5
    assert np.isclose(got["bits"]["32"]["3"], got["exits"][4]["accuracy"])

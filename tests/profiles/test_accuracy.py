"""Measured accuracy: the batched count equals a slow obvious one, whatever the codec, and exact plans share the unsplit network's count."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
import torch

from cutlayer.errors import ConfigError
from cutlayer.profiles import accuracy, codecs, images, load, zoo
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
def slowly(network, image_set, exit_, cut, bits, codec):
    """One image after the other: layers up to the cut, the codec, the other layers, the head."""
    right = 0
    for pixels, label in zip(image_set.pixels, image_set.labels, strict=True):
        x = torch.from_numpy(pixels.transpose(2, 0, 1).copy()).float()[None]
        for layer in network.layers[:cut]:
            x = layer(x)
        sent = codec.encode(x[0].numpy(), cut, bits)
        x = torch.from_numpy(codec.decode(sent, cut, tuple(x.shape[1:])))[None]
        for layer in network.layers[cut : network.depths[exit_]]:
            x = layer(x)
        right += int(network.heads[exit_](x).argmax(1)[0] == label)
    return right


@pytest.mark.parametrize("cut", [2, 5])
@pytest.mark.parametrize("bits", [2, 4])
def test_counts_equal_a_slow_obvious_loop(network, labelled, correct, cut, bits):
    for exit_, depth in enumerate(network.depths):
        if depth >= cut:
            assert correct[exit_, cut, bits] == slowly(network, labelled, exit_, cut, bits, codecs.Affine()), f"exit {exit_}"


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
    accuracy.measure(network, images.generated(2, 1, size=128), progress=told.append)
    assert told == [1.0]


@pytest.mark.parametrize("classes", [2, 9, 11])
def test_images_of_other_classes_are_refused(network, classes):
    with pytest.raises(ConfigError, match=rf"2 images of {classes} classes from generated; alexnet has 10; give images"):
        accuracy.measure(network, images.generated(2, 1, classes=classes))


def test_no_images_are_refused(network):
    with pytest.raises(ConfigError, match="0 images"):
        accuracy.measure(network, images.generated(2, 1).head(0))


# --- other codecs


class Half:
    """A lossy codec of its own at cut 2 alone: every other value, at 8 bits. Trained, as a bottleneck is."""

    name = "half2"
    units = (SimpleNamespace(name="half2", cut=2, sha256="ab" * 32, payload_bytes=128 * 8 * 8 // 2),)

    def widths(self, cut):
        return (8,) if cut == 2 else ()

    def encode(self, x, cut, bits):
        return codecs.encode(x.reshape(-1)[::2], bits)

    def decode(self, sent, cut, shape):
        half = codecs.decode(sent.data, sent.bits, sent.lo, sent.scale, (int(np.prod(shape)) // 2,))
        return np.repeat(half, 2).reshape(shape)


class Weighed(codecs.Zstd):
    """Zstd that notes what it sent."""

    def __init__(self):
        super().__init__()
        self.sent = {}

    def encode(self, x, cut, bits):
        made = super().encode(x, cut, bits)
        self.sent.setdefault((cut, bits), []).append(made.data)
        return made


@pytest.fixture(scope="module")
def weighed():
    return Weighed()


@pytest.fixture(scope="module")
def of_all(network, labelled, weighed):
    """Measured with a lossless stage and with a lossy codec at one cut."""
    return accuracy.measure(network, labelled, (codecs.Affine(), weighed, Half()))


@pytest.fixture(scope="module")
def coded(of_all):
    return {(plan.exit, plan.partition, plan.bits, plan.codec): plan.correct for plan in of_all.plans}


def test_every_codec_is_counted_where_it_serves_and_the_exact_plans_once(of_all, coded, network):
    assert len(coded) == len(of_all.plans)
    sent = [key for key in coded if key[2] and key[1]]
    expected = [
        (exit_, cut, bits, name)
        for exit_, depth in enumerate(network.depths)
        for cut in range(1, depth + 1)
        for bits in codecs.BITS
        for name in ("affine", *(("zstd",) if bits in codecs.ZSTD_BITS else ()), *(("half2",) if (cut, bits) == (2, 8) else ()))
    ]
    assert sent == expected
    assert {key[3] for key in coded if key not in sent} == {"affine"}


def test_affine_is_counted_the_same_beside_others(table, of_all):
    assert [plan for plan in of_all.plans if plan.codec == "affine"] == list(table.plans)


def test_a_lossy_codec_is_counted_as_a_slow_obvious_loop_counts_it(network, labelled, coded):
    got = [coded[exit_, 2, 8, "half2"] for exit_ in range(1, 5)]
    assert got == [slowly(network, labelled, exit_, 2, 8, Half()) for exit_ in range(1, 5)]
    assert got != [coded[exit_, 2, 8, "affine"] for exit_ in range(1, 5)], "else it might be the other's count"


def test_a_lossless_stage_costs_no_run_of_the_network_and_no_answer(network, labelled, coded, monkeypatch):
    for (exit_, cut, bits, codec), right in coded.items():
        if codec == "zstd":
            assert right == coded[exit_, cut, bits, "affine"]
    runs, chain = [], accuracy._chain
    monkeypatch.setattr(accuracy, "_chain", lambda network, cut, x: runs.append(cut) or chain(network, cut, x))
    few = labelled.head(2)
    for sending in ((codecs.Affine(),), (codecs.Affine(), codecs.Zstd()), (codecs.Zstd(), codecs.Affine(), codecs.Zstd())):
        runs.clear()
        accuracy.measure(network, few, sending)
        # Once whole, and for every cut once at each width that loses something; 32 bits lose nothing.
        assert runs == [0, *(cut for cut in range(1, 8) for _ in (2, 4, 8, 16))]


def test_a_codec_that_only_calls_itself_lossless_is_counted_by_what_it_does(network, labelled):
    class Lossy(codecs.Zstd):
        def decode(self, sent, cut, shape):
            return np.zeros(shape, np.float32)

    got = accuracy.measure(network, labelled, (codecs.Affine(), Lossy()))
    right = {(plan.exit, plan.partition, plan.bits, plan.codec): plan.correct for plan in got.plans}
    blind = slowly(network, labelled, 4, 1, 8, Lossy())
    assert right[4, 1, 8, "zstd"] == blind != right[4, 1, 8, "affine"]


def test_payloads_are_the_lengths_of_what_was_sent(of_all, weighed):
    found = {(size.cut, size.bits): size.sizes for size in of_all.payloads if size.codec == "zstd"}
    assert set(found) == set(weighed.sent)
    for cell, sent in weighed.sent.items():
        lengths = sorted(len(data) for data in sent)
        assert found[cell].n == len(lengths) == COUNT
        assert found[cell].mean_bytes == pytest.approx(sum(lengths) / COUNT)
        assert found[cell].std_bytes == pytest.approx(np.std(lengths))
        assert found[cell].p50_bytes == pytest.approx((lengths[5] + lengths[6]) / 2)
        assert lengths[-2] <= found[cell].p95_bytes <= found[cell].p99_bytes <= lengths[-1]
    assert any(sizes.std_bytes > 0 for sizes in found.values())


def test_a_length_that_is_known_beforehand_is_not_tabled(table, of_all):
    assert table.payloads == ()
    assert {size.codec for size in of_all.payloads} == {"zstd"}


def test_a_length_that_is_not_what_the_bottleneck_states_is_tabled(network, labelled):
    class Wrong(Half):
        units = (SimpleNamespace(name="half2", cut=2, sha256="ab" * 32, payload_bytes=7),)

    (size,) = accuracy.measure(network, labelled.head(2), (Wrong(),)).payloads
    assert (size.cut, size.bits, size.codec) == (2, 8, "half2")
    assert (size.sizes.mean_bytes, size.sizes.std_bytes, size.sizes.n) == (4096, 0, 2)


def test_the_weights_of_every_bottleneck_are_named(table, of_all):
    assert table.units == {}
    assert of_all.units == {"half2@2": "ab" * 32}


def test_a_table_of_all_codecs_is_written_and_read(of_all, tmp_path):
    load.save(of_all, tmp_path / "accuracy.json")
    assert load.accuracy(tmp_path / "accuracy.json") == of_all


SHIPPED = sorted(file.stem for file in load.BUILT_IN.glob("*-accuracy.json"))


@pytest.mark.parametrize("name", SHIPPED)
def test_in_a_shipped_table_zstd_changes_no_answer_and_every_payload_is_weighed(name):
    shipped = load.accuracy(name)
    right = {(plan.exit, plan.partition, plan.bits, plan.codec): plan.correct for plan in shipped.plans}
    packed = {key for key in right if key[3] == "zstd"}
    assert all(right[key] == right[*key[:3], "affine"] for key in packed)
    assert {(size.cut, size.bits) for size in shipped.payloads if size.codec == "zstd"} == {key[1:3] for key in packed}
    for size in shipped.payloads:
        sizes = size.sizes
        assert sizes.n == shipped.images
        assert 0 < sizes.p50_bytes <= sizes.p95_bytes <= sizes.p99_bytes


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


def test_every_plan_has_its_interval_in_the_summary(accuracy_table, of_all):
    for table in (accuracy_table, of_all):
        got = accuracy.summary(table)["plans"]
        assert len(got) == len(table.plans)
        for found, plan in zip(got, table.plans, strict=True):
            low, high = wilson(plan.correct, table.images)
            assert found == {
                "exit": plan.exit, "partition": plan.partition, "bits": plan.bits, "codec": plan.codec,
                "accuracy": plan.correct / table.images, "low": low, "high": high,
            }  # fmt: skip


def test_the_text_shows_an_interval_with_every_accuracy(of_all):
    first, *exits = accuracy.text(of_all).splitlines()
    assert first.startswith(f"{COUNT} images of generated")
    middle = exits.index("last exit, by partition point, bits and codec:")
    last = [plan for plan in of_all.plans if plan.exit == 4 and plan.bits and plan.partition]
    shown = [*(plan for plan in of_all.plans if plan.bits == 0), None, *last]
    assert len(exits) == len(shown)
    for index, (line, plan) in enumerate(zip(exits, shown, strict=True)):
        if index != middle:
            low, high = wilson(plan.correct, COUNT)
            assert f"{plan.correct / COUNT:.4f}  [{low:.4f}, {high:.4f}]" in line
            assert ("bytes (p95" in line) == (plan.codec == "zstd")


def test_the_summary_of_a_measured_table_is_json(table, of_all):
    got = json.loads(json.dumps(accuracy.summary(table)))
    assert len(got["exits"]) == 5
    assert np.isclose(got["bits"]["32"]["3"], got["exits"][4]["accuracy"])
    got = json.loads(json.dumps(accuracy.summary(of_all)))
    assert got["payloads"] == list(msgspec.to_builtins(of_all.payloads))
    assert got["units"] == of_all.units

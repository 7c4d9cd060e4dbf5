"""Traces of every exit: recorded as a slow loop sees them, replayed as a slow rule stops, and believed only when they are whole."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cutlayer.errors import ConfigError, ProfileError
from cutlayer.profiles import accuracy, images, load, traces, zoo
from cutlayer.profiles.stats import wilson

SHIPPED = sorted(file.name.removesuffix("-traces.npz") for file in load.BUILT_IN.glob("*-traces.npz"))


def origin(count, classes):
    return traces.TraceOrigin(
        format=traces.TRACE_FORMAT, model="tiny", weights_sha256="ab" * 32, source="a test", images=count, classes=classes,
        cpu="a processor", backend="torch", backend_version="2", date="2026-01-02", command="cutlayer profile traces tiny",
    )  # fmt: skip


def made(label, predicted, confidence, classes=10):
    label, predicted = np.array(label), np.array(predicted)
    return traces.Traces(predicted == label[:, None], np.array(confidence, np.float16), origin(len(label), classes))


@pytest.fixture
def five():
    """Five images, three exits; confidences that float16 holds exactly."""
    return made(
        label=[0, 1, 2, 3, 4],
        predicted=[[0, 0, 0], [9, 1, 1], [9, 9, 2], [3, 9, 3], [9, 9, 9]],
        confidence=[[0.9375, 0.9375, 0.9375], [0.5, 0.75, 0.9375], [0.75, 0.5, 0.9375], [0.25, 0.875, 0.5], [0.25, 0.25, 0.25]],
    )


# --- replaying a rule


@pytest.mark.parametrize(
    ("thresholds", "exits", "right"),
    [
        ((0.0, 0.0), [0, 0, 0, 0, 0], 2),
        ((0.75, 0.75), [0, 1, 0, 1, 2], 2),  # a threshold that is just reached stops
        ((0.76, 0.75), [0, 1, 2, 1, 2], 3),
        ((0.76, 0.9), [0, 2, 2, 2, 2], 4),
        ((np.inf, 0.8), [1, 2, 2, 1, 2], 3),
        ((np.inf, np.inf), [2, 2, 2, 2, 2], 4),
    ],
)
def test_known_answers_of_a_rule(five, thresholds, exits, right):
    got = five.stop(thresholds)
    assert got.exit.tolist() == exits
    assert got.share.tolist() == [exits.count(exit_) / 5 for exit_ in range(3)]
    assert got.accuracy == right / 5
    assert (got.low, got.high) == wilson(right, 5)


@st.composite
def recorded(draw):
    count, exits, classes = draw(st.integers(1, 30)), draw(st.integers(1, 5)), draw(st.integers(2, 300))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    return made(
        rng.integers(0, classes, count), rng.integers(0, classes, (count, exits)), rng.uniform(1 / classes, 1, (count, exits)), classes
    )


@given(of=recorded(), data=st.data())
def test_a_rule_stops_where_a_slow_obvious_one_stops(of, data):
    thresholds = data.draw(st.lists(st.floats(0, 1.1), min_size=of.exits - 1, max_size=of.exits - 1))
    chosen, right = [], 0
    for image in range(len(of)):
        exit_ = 0
        while exit_ < of.exits - 1 and float(of.confidence[image, exit_]) < thresholds[exit_]:
            exit_ += 1
        chosen.append(exit_)
        right += bool(of.correct[image, exit_])
    got = of.stop(thresholds)
    assert got.exit.tolist() == chosen
    assert got.accuracy == right / len(of)
    assert got.share.sum() == pytest.approx(1)
    # Whoever asks for more confidence answers no image earlier.
    assert (of.stop([threshold + 0.1 for threshold in thresholds]).exit >= got.exit).all()


@pytest.mark.parametrize("thresholds", [(), (0.5,), (0.5, 0.5, 0.5), (0.5, np.nan)])
def test_a_rule_that_means_nothing_is_refused(five, thresholds):
    with pytest.raises(ConfigError, match=r"thresholds \[.*\] for tiny; give 2 numbers, one for every exit but the last"):
        five.stop(thresholds)


def test_known_calibration_errors():
    """Sure of 0.75 and right 3 times of 4: no error. Sure of 1 and right once of 4: 0.75. In two bins the gaps do not cancel."""
    of = made(
        label=[0, 0, 0, 0], predicted=[[0, 0, 1], [0, 1, 1], [0, 1, 0], [1, 1, 0]],
        confidence=[[0.75, 1, 1], [0.75, 1, 1], [0.75, 1, 0.5], [0.75, 1, 0.5]],
    )  # fmt: skip
    assert [of.calibration_error(exit_) for exit_ in range(3)] == [0, 0.75, 0.75]


# --- files


def test_what_is_saved_is_read_and_equal_traces_are_equal_bytes(five, tmp_path):
    traces.save(five, tmp_path / "one.npz")
    traces.save(five, tmp_path / "two.npz")
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    assert_equal(traces.load(tmp_path / "one.npz"), five)
    assert_equal(traces.load(str(tmp_path / "one.npz")), five)


def assert_equal(one, other):
    for name in ("correct", "confidence"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert one.confidence.dtype == np.float16
    assert one.origin == other.origin


@given(of=recorded())
def test_whatever_can_be_recorded_can_be_read(of, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "recorded.npz"
    traces.save(of, path)
    assert_equal(traces.load(path), of)


def test_a_stranger_reads_it_with_numpy_alone(five, tmp_path):
    traces.save(five, tmp_path / "one.npz")
    with np.load(tmp_path / "one.npz", allow_pickle=False) as archive:
        assert set(archive) == {"correct", "confidence", "provenance"}  # no label: those belong to the data set
        said = json.loads(str(archive["provenance"]))
        assert archive["confidence"].shape == (5, 3)
    assert {"model", "weights_sha256", "source", "images", "date", "command"} <= set(said)
    assert said["images"] == 5


def test_what_was_read_cannot_be_changed(five, tmp_path):
    traces.save(five, tmp_path / "one.npz")
    for of in (five, traces.load(tmp_path / "one.npz")):
        with pytest.raises(ValueError, match="read-only"):
            of.correct[0, 0] = False


def test_a_simulator_needs_no_torch_to_read_them(tmp_path):
    code = "import sys, cutlayer.profiles.traces; sys.exit('torch' in sys.modules or 'zstandard' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False).returncode == 0


def broken(of, path, **changed):
    """The file with some of its entries replaced; None leaves one out."""
    traces.save(of, path)
    with np.load(path) as archive:
        entries = {key: changed.get(key, archive[key]) for key in archive}
    np.savez(path, **{key: value for key, value in entries.items() if value is not None})


def said(of, **changed):
    return {"provenance": np.array(json.dumps({**msgspec.structs.asdict(of.origin), **changed}))}


CORRECT = np.zeros((5, 3), np.bool_)
FAULTS = {
    "no verdicts": ({"correct": None}, "holds no whole traces"),
    "no provenance": ({"provenance": None}, "holds no whole traces"),
    "code in it": ({"correct": np.array([{}, 1, 2, 3, 4], object)}, "holds no whole traces"),
    "no JSON": ({"provenance": np.array("{")}, "holds no whole traces"),
    "numbers as text": ({"confidence": np.full((5, 3), "0.5")}, "columns of types"),
    "confidence in float64": ({"confidence": np.full((5, 3), 0.5)}, "columns of types"),
    "correct as numbers": ({"correct": np.ones((5, 3), np.uint8)}, "columns of types"),
    "an exit less": ({"correct": CORRECT[:, :2]}, r"5 images and columns of shapes \(5, 2\), \(5, 3\)"),
    "an image less": ({"correct": CORRECT[:4]}, "columns of shapes"),
    "an image less in both": ({"correct": CORRECT[:4], "confidence": np.full((4, 3), 0.5, np.float16)}, "5 images and columns of shapes"),
    "verdicts in a row": ({"correct": CORRECT.ravel()}, "columns of shapes"),
    "more than sure": ({"confidence": np.full((5, 3), 1.001, np.float16)}, r"confidence 1\.00\d* of 10 classes"),
    "less sure than by chance": ({"confidence": np.full((5, 3), 0.099, np.float16)}, r"confidence 0\.09\d* of 10 classes"),
    "not a number": ({"confidence": np.full((5, 3), np.nan, np.float16)}, "confidence nan of 10 classes"),
}


@pytest.mark.parametrize(("changed", "said_so"), FAULTS.values(), ids=FAULTS)
def test_a_file_that_cannot_be_is_refused_in_one_line(five, tmp_path, changed, said_so):
    path = tmp_path / "one.npz"
    broken(five, path, **changed)
    assert_refused(path, said_so)


def assert_refused(path, said_so):
    with pytest.raises(ProfileError, match=said_so) as caught:
        traces.load(path)
    message = str(caught.value)
    assert str(path) in message
    assert "cutlayer profile traces" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("changed", "said_so"),
    [
        ({"format": 2}, f"has format 2, this cutlayer reads {traces.TRACE_FORMAT}"),
        ({"images": 6}, "6 images and columns of shapes"),
        ({"classes": 0}, "a choice among 0 classes"),
        ({"classes": 1}, "a choice among 1 classes"),
        ({"images": "5"}, "holds no whole traces"),
        ({"more": 1}, "holds no whole traces"),
    ],
)
def test_a_provenance_that_does_not_fit_is_refused(five, tmp_path, changed, said_so):
    broken(five, tmp_path / "one.npz", **said(five, **changed))
    assert_refused(tmp_path / "one.npz", said_so)


def test_no_images_are_refused(five, tmp_path):
    broken(five, tmp_path / "one.npz", correct=CORRECT[:0], confidence=np.zeros((0, 3), np.float16), **said(five, images=0))
    assert_refused(tmp_path / "one.npz", "0 images and columns of shapes")


@pytest.mark.parametrize("content", [b"", b"PK", b"label,confidence\n", b"\x93NUMPY\x01\x00"])
def test_what_is_no_archive_is_refused(tmp_path, content):
    (tmp_path / "one.npz").write_bytes(content)
    assert_refused(tmp_path / "one.npz", "holds no whole traces")


def test_a_single_array_is_refused(tmp_path):
    np.save(tmp_path / "one.npy", np.zeros(3))
    assert_refused(tmp_path / "one.npy", "holds no whole traces")


@given(share=st.floats(0, 1, exclude_max=True), place=st.floats(0, 1, exclude_max=True), byte=st.integers(1, 255))
def test_a_damaged_file_is_refused_or_reads_the_same(tmp_path_factory, share, place, byte):
    of = made([0, 1, 2], [[0, 1], [1, 1], [2, 0]], [[0.5, 0.75], [0.5, 1], [0.25, 0.5]])
    path = tmp_path_factory.getbasetemp() / "damaged.npz"
    traces.save(of, path)
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[int(place * len(whole))] ^= byte
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ProfileError):
        traces.load(path)
    path.write_bytes(bytes(flipped))
    try:
        got = traces.load(path)
    except ProfileError:
        return
    assert_equal(got, of)


def test_a_name_that_nothing_ships_for_is_refused_with_those_that_do():
    with pytest.raises(ProfileError, match=r"no traces 'alexnett'; give the path of an \.npz file or a network's name: ") as caught:
        traces.load("alexnett")
    assert all(name in str(caught.value) for name in SHIPPED)
    with pytest.raises(ProfileError, match="no traces"):
        traces.load("x" * 5000)


# --- recording


@pytest.fixture(scope="module")
def labelled(network):
    """Seven images, labelled as the third exit sees them, one wrongly."""
    found = images.generated(7, 3, size=128)
    with torch.inference_mode():
        labels = network(torch.from_numpy(found.pixels.transpose(0, 3, 1, 2).copy()).float())[2].argmax(1).numpy()
    labels[1] = (labels[1] + 1) % 10
    return dataclasses.replace(found, labels=labels)


@torch.inference_mode()
def test_a_recording_equals_a_slow_obvious_loop(network, labelled, monkeypatch):
    monkeypatch.setattr(accuracy, "BATCH", 3)  # so that the last batch is not full
    got = accuracy.record(network, labelled)
    for image, (pixels, label) in enumerate(zip(labelled.pixels, labelled.labels, strict=True)):
        for exit_, logits in enumerate(network(torch.from_numpy(pixels.transpose(2, 0, 1).copy()).float()[None])):
            powers = np.exp(logits[0].double().numpy())
            assert got.correct[image, exit_] == (powers.argmax() == label)
            assert got.confidence[image, exit_] == pytest.approx(powers.max() / powers.sum(), rel=2**-10)
    assert got.correct[:, 2].sum() == 6
    assert (got.origin.model, got.origin.weights_sha256) == ("alexnet", zoo.weights_digest(network))
    assert (got.origin.images, got.origin.source, got.origin.classes) == (7, "generated", 10)


def test_a_recording_is_right_as_often_as_the_accuracy_table_counts(network, labelled):
    table = accuracy.measure(network, labelled)
    whole = {plan.exit: plan.correct for plan in table.plans if plan.bits == 0}
    assert accuracy.record(network, labelled).correct.sum(0).tolist() == [whole[exit_] for exit_ in range(5)]


def test_recording_leaves_the_images_alone(network, labelled):
    told = []
    accuracy.record(network, labelled, told.append)
    assert labelled.labels.flags.writeable
    assert told[-1] == 1.0


def test_other_classes_and_random_weights_are_not_recorded(network):
    with pytest.raises(ConfigError, match="2 images of 9 classes"):
        accuracy.record(network, images.generated(2, 1, classes=9))


def test_the_summary_says_what_the_columns_say(five):
    got = json.loads(json.dumps(traces.summary(five)))
    assert (got["model"], got["source"], got["images"]) == ("tiny", "a test", 5)
    for exit_, (found, right) in enumerate(zip(got["exits"], (2, 2, 4), strict=True)):
        low, high = wilson(right, 5)
        assert found == {
            "exit": exit_, "accuracy": right / 5, "low": low, "high": high, "calibration_error": five.calibration_error(exit_),
            "confidence_mean": pytest.approx(float(five.confidence[:, exit_].astype(float).mean())),
        }  # fmt: skip
        assert f"{right / 5:.4f}  [{low:.4f}, {high:.4f}]" in traces.text(five).splitlines()[1 + exit_]


# --- what ships


@pytest.fixture(params=SHIPPED)
def shipped(request):
    return traces.load(request.param)


def test_the_default_network_ships_with_traces():
    assert "alexnet" in SHIPPED


def test_shipped_traces_are_right_exactly_as_often_as_the_shipped_table_counts(shipped):
    table = load.accuracy(f"{shipped.origin.model}-accuracy")
    kept = (table.model, table.weights_sha256, table.source, table.images)
    assert kept == (shipped.origin.model, shipped.origin.weights_sha256, shipped.origin.source, len(shipped))
    counted = {plan.exit: plan.correct for plan in table.plans if plan.bits == 0}
    assert shipped.correct.sum(0).tolist() == [counted[exit_] for exit_ in range(shipped.exits)]


def test_shipped_traces_are_of_the_shipped_weights(shipped):
    assert shipped.origin.weights_sha256 == zoo.weights_digest(zoo.build(shipped.origin.model))


def test_shipped_confidence_tells_right_from_wrong(shipped):
    for exit_ in range(shipped.exits):
        right, sure = shipped.correct[:, exit_], shipped.confidence[:, exit_].astype(float)
        assert sure[right].mean() > sure[~right].mean() + 0.1
    # And so a rule that stops by it does better than as many stops by chance.
    got = shipped.stop([0.9] * (shipped.exits - 1))
    by_chance = float(got.share @ shipped.correct.mean(0))
    assert got.low > by_chance


def test_shipped_traces_are_recorded_again_from_the_same_images(shipped, data_dir):
    found = images.load(data_dir / Path(shipped.origin.source), limit=50)
    again = accuracy.record(zoo.build(shipped.origin.model), found)
    # Another processor adds in another order: float32 differs in its last bits, and so may a close call.
    np.testing.assert_allclose(again.confidence.astype(float), shipped.confidence[:50].astype(float), atol=0.005)
    assert (again.correct != shipped.correct[:50]).sum() <= 1

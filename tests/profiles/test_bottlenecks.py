"""Bottlenecks: the backbone is never touched, what travels has the stated length, a file is whole and of its backbone or refused."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import nn

from cutlayer.errors import ConfigError, PeerError
from cutlayer.profiles import bottlenecks, codecs, images, zoo
from cutlayer.profiles import load as tables
from cutlayer.profiles.zoo import bottleneck_training as training

RECIPE = training.Recipe(images=48, distil_epochs=2, tune_epochs=1, batch=16, seed=3)
NAMES = ("ae2", "bottle3")
CUTS = (1, 2)
SHAPES = {1: (6, 16, 16), 2: (8, 8, 8)}
CODES = {("ae2", 1): (2, 16, 16), ("ae2", 2): (2, 8, 8), ("bottle3", 1): (3, 8, 8), ("bottle3", 2): (3, 8, 8)}


class Tiny(nn.Module):
    """Three layers with batch norm and dropout, which training must leave alone; follows `MultiExit`."""

    name = "tiny"
    input_shape = (3, 16, 16)
    depths = (2, 3)
    layer_names = ("one", "two", "three")
    classes = 10

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(
            [
                nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU()),
                nn.Sequential(nn.Conv2d(6, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU()),
                nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(512, 16), nn.BatchNorm1d(16), nn.ReLU()),
            ]
        )
        self.heads = nn.ModuleList([nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)), nn.Linear(16, 10)])

    def forward(self, x):
        x = self.layers[1](self.layers[0](x))
        return [self.heads[0](x), self.heads[1](self.layers[2](x))]


def tiny(seed=1):
    torch.manual_seed(seed)
    network = Tiny()
    network(torch.rand(8, *Tiny.input_shape) * 255)  # statistics of batch norm as of these pixels
    return network.eval()


@pytest.fixture(scope="module")
def photos():
    return images.generated(60, 2, size=16)


def quiet(*_):
    """Told of progress."""


@pytest.fixture(scope="module")
def made(photos, tmp_path_factory):
    """A network, what its weights were before, the folder of its units, and the units."""
    network, folder = tiny(), tmp_path_factory.mktemp("units")
    before = zoo.weights_digest(network)
    return network, before, folder, training.train(network, photos, folder, CUTS, NAMES, RECIPE, quiet)


@pytest.fixture
def network(made):
    return made[0]


@pytest.fixture
def units(made):
    return made[3]


def tensor(cut, seed=0):
    return np.random.default_rng(seed).random(SHAPES[cut], np.float32)


# --- what travels


def test_a_unit_for_every_name_and_cut(made):
    _, _, folder, units = made
    assert [(unit.name, unit.cut) for unit in units] == [(name, cut) for cut in CUTS for name in NAMES]
    assert {(unit.name, unit.cut): (unit.shape, unit.code_shape) for unit in units} == {
        key: (SHAPES[key[1]], code) for key, code in CODES.items()
    }
    assert len(list(folder.iterdir())) == len(units) == len({unit.sha256 for unit in units})


def test_a_code_has_the_stated_length_and_comes_back_in_the_tensors_shape(network, units):
    for unit in units:
        codec = bottlenecks.Bottleneck(unit, network)
        x = tensor(unit.cut)
        sent = codec.encode(x, unit.cut, 8)
        assert len(sent.data) == codecs.payload_bytes(int(np.prod(CODES[unit.name, unit.cut])), 8) == unit.payload_bytes < x.size
        got = codec.decode(sent, unit.cut, x.shape)
        assert (got.shape, got.dtype) == (x.shape, np.float32)
        assert got.min() >= 0, "the tensor ends in a ReLU"
        got += 1.0  # it is the reader's own
        assert codec.widths(unit.cut) == (8,)
        assert codec.widths(3 - unit.cut) == codec.widths(0) == ()


@given(x=hnp.arrays(np.float32, SHAPES[2], elements=st.floats(0, 100, width=32)))
def test_any_tensor_can_be_sent(made, x):
    network, _, _, units = made
    for codec in (bottlenecks.Bottleneck(unit, network) for unit in units if unit.cut == 2):
        got = codec.decode(codec.encode(x, 2, 8), 2, x.shape)
        assert got.shape == x.shape
        assert np.isfinite(got).all()


def convolved(x, weight, bias, stride=1):
    """The obvious way, in float64."""
    pad = weight.shape[2] // 2
    x = np.pad(x.astype(np.float64), ((0, 0), (pad, pad), (pad, pad)))
    rows, columns = (range(0, side - 2 * pad, stride) for side in x.shape[1:])
    size = weight.shape[2]
    out = [[[(x[:, r : r + size, c : c + size] * kernel).sum() for c in columns] for r in rows] for kernel in weight.astype(np.float64)]
    return np.array(out) + bias[:, None, None]


def test_a_unit_is_its_convolutions(network, units):
    """Encoder, quantisation and decoder worked out slowly from the numbers of the file."""
    from safetensors.numpy import load_file

    unit = next(unit for unit in units if (unit.name, unit.cut) == ("bottle3", 1))
    w = load_file(unit.file)
    x = tensor(1)
    code = np.maximum(convolved(x, w["encoder.0.weight"], w["encoder.0.bias"], stride=2), 0)
    step = (code.max() - code.min()) / 255
    read = np.floor((code - code.min()) / step + 0.5) * step + code.min()
    wide = read.repeat(2, 1).repeat(2, 2)
    inner = np.maximum(convolved(wide, w["decoder.1.weight"], w["decoder.1.bias"]), 0)
    expected = np.maximum(convolved(inner, w["decoder.3.weight"], w["decoder.3.bias"]), 0)
    codec = bottlenecks.Bottleneck(unit, network)
    sent = codec.encode(x, 1, 8)
    np.testing.assert_allclose(sent.scale, step, rtol=1e-4)
    # A value beside the edge of a level may fall on its other side.
    assert np.abs(codec.decode(sent, 1, x.shape) - expected).max() < 0.05 * expected.max()
    assert np.abs(codec.decode(sent, 1, x.shape) - expected).mean() < 1e-3 * expected.max()


def test_a_bottleneck_that_keeps_every_channel_is_quantisation_alone(network, tmp_path):
    halves = bottlenecks.build("ae", SHAPES[2], SHAPES[2], floor=True)
    for half in halves:
        nn.init.dirac_(half[0].weight)
        nn.init.zeros_(half[0].bias)
    (unit,) = bottlenecks.load(bottlenecks.save(tmp_path, network, "ae", 2, SHAPES[2], halves, SHAPES[2], {}), network)
    x = tensor(2)
    codec = bottlenecks.Bottleneck(unit, network)
    assert codec.encode(x, 2, 8) == codecs.encode(x, 8)
    sent = codecs.encode(x, 8)
    np.testing.assert_array_equal(codec.decode(sent, 2, x.shape), codecs.decode(sent.data, 8, sent.lo, sent.scale, x.shape))


def test_a_view_and_a_frozen_array_are_sent_as_their_copy(network, units):
    codec = bottlenecks.Bottleneck(units[0], network)
    x = tensor(1).transpose(0, 2, 1)
    frozen = x.copy()
    frozen.flags.writeable = False
    assert codec.encode(x, 1, 8) == codec.encode(x.copy(), 1, 8) == codec.encode(frozen, 1, 8)


@pytest.mark.parametrize(("bits", "shape", "cut"), [(4, SHAPES[1], 1), (8, SHAPES[2], 1), (8, SHAPES[1], 2)])
def test_a_frame_that_is_not_the_units_is_refused(network, units, bits, shape, cut):
    codec = bottlenecks.Bottleneck(units[0], network)
    sent = dataclasses.replace(codec.encode(tensor(1), 1, 8), bits=bits)
    with pytest.raises(PeerError, match="ae2 at cut 1"):
        codec.decode(sent, cut, shape)


def test_a_payload_of_another_length_is_refused(network, units):
    codec = bottlenecks.Bottleneck(units[0], network)
    sent = codec.encode(tensor(1), 1, 8)
    with pytest.raises(PeerError, match="511 bytes at 8 bits"):
        codec.decode(dataclasses.replace(sent, data=sent.data[:-1]), 1, SHAPES[1])


def test_units_of_one_name_are_one_codec(network, units):
    found = bottlenecks.codecs_of(network, units)
    assert [codec.name for codec in found] == list(NAMES)
    for codec in found:
        assert [codec.widths(cut) for cut in range(4)] == [(), (8,), (8,), ()]
        for unit in codec.units:
            alone, x = bottlenecks.Bottleneck(unit, network), tensor(unit.cut)
            sent = codec.encode(x, unit.cut, 8)
            assert sent == alone.encode(x, unit.cut, 8)
            np.testing.assert_array_equal(codec.decode(sent, unit.cut, x.shape), alone.decode(sent, unit.cut, x.shape))


# --- files


def test_a_swap_reads_the_file_again(network, units, tmp_path):
    one, other = (unit.file.read_bytes() for unit in units[:2])
    file = tmp_path / "unit.safetensors"
    file.write_bytes(one)
    (unit,) = bottlenecks.load(file, network)
    first, again = unit.swap(), unit.swap()
    assert all(torch.equal(a, b) for a, b in zip(first[0].parameters(), again[0].parameters(), strict=True))
    assert first[0][0].weight.data_ptr() != again[0][0].weight.data_ptr()
    assert all(value.dtype == torch.float32 for half in first for value in half.parameters())
    file.write_bytes(other)
    assert unit.swap()[0][0].weight.shape == (3, 6, 3, 3)
    file.unlink()
    with pytest.raises(ConfigError, match=r"unit\.safetensors is no whole bottleneck"):
        unit.swap()


def test_weights_are_float16_and_their_bytes_are_counted(units):
    from safetensors.torch import load_file

    for unit in units:
        weights = load_file(unit.file)
        assert {value.dtype for value in weights.values()} == {torch.float16}
        assert unit.encoder_bytes == sum(2 * value.numel() for key, value in weights.items() if key.startswith("encoder."))
        assert unit.encoder_bytes + unit.decoder_bytes == sum(2 * value.numel() for value in weights.values())


def test_units_of_another_backbone_are_refused_in_one_line(made):
    _, _, folder, units = made
    other = tiny(seed=2)
    for refused in (lambda: bottlenecks.load(folder, other), lambda: bottlenecks.Bottleneck(units[0], other)):
        with pytest.raises(ConfigError) as caught:
            refused()
        said = str(caught.value)
        assert "\n" not in said
        assert str(units[0].file) in said
        assert zoo.weights_digest(other)[:12] in said
        assert "cutlayer profile bottlenecks tiny" in said


def test_units_that_ship_are_those_of_the_weights_at_hand(made, tmp_path, monkeypatch):
    network, _, folder, units = made
    monkeypatch.setattr(zoo, "WEIGHTS", tmp_path)
    assert bottlenecks.units(network) == bottlenecks.codecs_of(network) == []
    bottlenecks.shipped("tiny").symlink_to(folder)
    assert [unit.sha256 for unit in bottlenecks.units(network)] == [unit.sha256 for unit in units]
    assert [codec.name for codec in bottlenecks.codecs_of(network)] == list(NAMES)
    assert bottlenecks.units(tiny(seed=2)) == []


def test_a_folder_without_units_is_refused(network, tmp_path):
    with pytest.raises(ConfigError, match=r"no bottleneck in .*; make some with: cutlayer profile bottlenecks tiny"):
        bottlenecks.load(tmp_path, network)


def edited(data, change):
    """The file with another header, of the same or another length."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    unit = json.loads(header["__metadata__"]["unit"])
    header["__metadata__"]["unit"] = json.dumps(change(unit) or unit)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def flipped(data):
    return data[:-5] + bytes([data[-5] ^ 1]) + data[-4:]


DAMAGES = {
    "nothing": lambda _: b"",
    "half": lambda data: data[: len(data) // 2],
    "all but a byte": lambda data: data[:-1],
    "a bit": flipped,
    "no file of weights": lambda _: b"\x00" * 64,
    "no header": lambda data: data.replace(b'"__metadata__"', b'"__metadato__"'),
    "no kind": lambda data: edited(data, lambda unit: unit.pop("kind")),
    "another kind": lambda data: edited(data, lambda unit: unit.update(kind="conv")),
    "another cut": lambda data: edited(data, lambda unit: unit.update(cut=2)),
    "another tensor": lambda data: edited(data, lambda unit: unit.update(shape=[7, 16, 16])),
    "no places": lambda data: edited(data, lambda unit: unit.update(code_shape=[2, 0, 16])),
    "no channels": lambda data: edited(data, lambda unit: unit.update(channels=0, code_shape=[0, 16, 16])),
    "a field more": lambda data: edited(data, lambda unit: unit.update(colour="red")),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_is_refused_in_one_line(network, units, tmp_path, damage):
    file = tmp_path / "ae2-cut1.safetensors"
    file.write_bytes(damage(units[0].file.read_bytes()))
    with pytest.raises(ConfigError, match=r"ae2-cut1\.safetensors is no whole bottleneck \(.*make it anew") as caught:
        bottlenecks.load(tmp_path, network)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [name for name in zoo.trained() if bottlenecks.shipped(name).is_dir()])
def test_shipped_units_are_small_and_belong_to_the_shipped_backbone(name):
    files = list(bottlenecks.shipped(name).glob("*.safetensors"))
    units = bottlenecks.units(zoo.build(name))
    assert len(units) == len(files), "train them anew: they are of another backbone"
    assert {(unit.name, unit.cut) for unit in units} == {
        (kind, cut) for cut in training.SHIPPED[name][0] for kind in training.SHIPPED[name][1]
    }
    assert sum(file.stat().st_size for file in files) < 1e6
    assert all(unit.payload_bytes < np.prod(unit.shape) for unit in units)


# --- training


def test_training_leaves_the_backbone_as_it_was(made):
    network, before, _, units = made
    assert zoo.weights_digest(network) == before == units[0].header.weights_sha256
    assert not network.training


def state(module):
    return {key: value.clone() for key, value in module.state_dict().items()}


def same(one, other):
    return all(torch.equal(one[key], other[key]) for key in one)


def test_each_stage_moves_what_it_says(network, photos):
    teacher = training.teacher_of(network, photos, 1, torch.device("cpu"))
    halves = [training._normalised(half) for half in bottlenecks.build("bottle", SHAPES[1], CODES["bottle3", 1], floor=True)]
    assert sum(isinstance(module, nn.BatchNorm2d) for half in halves for module in half) == 2
    tail, fresh = state(teacher.tail), [state(half) for half in halves]
    training.distil(teacher, *halves, RECIPE, quiet)
    distilled = [state(half) for half in halves]
    assert not any(same(one, other) for one, other in zip(fresh, distilled, strict=True))
    training.tune(teacher, *halves, RECIPE, quiet)
    assert same(state(halves[0]), distilled[0]), "the encoder is frozen, its batch norm too"
    assert not same(state(halves[1]), distilled[1])
    assert same(state(teacher.tail), tail)


def test_folding_batch_norm_changes_no_value():
    torch.manual_seed(1)
    encoder, _ = bottlenecks.build("bottle", SHAPES[1], CODES["bottle3", 1], floor=True)
    half = training._normalised(encoder)
    for _ in range(3):
        half(torch.rand(8, *SHAPES[1]) * 5)
    x = torch.rand(2, *SHAPES[1])
    expected = half.eval()(x)
    folded = training._folded(half)
    assert [type(module) for module in folded] == [nn.Conv2d, nn.ReLU]
    torch.testing.assert_close(folded(x), expected, rtol=1e-4, atol=1e-5)


def test_a_resumed_training_gives_the_same_files(made, photos, tmp_path):
    network, _, folder, _ = made
    training.train(network, photos, tmp_path, (2,), NAMES[1:], RECIPE, quiet)
    (first,) = tmp_path.iterdir()
    kept = first.stat()
    training.train(network, photos, tmp_path, CUTS, NAMES, RECIPE, quiet)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {file.name: file.read_bytes() for file in folder.iterdir()}
    assert (first.stat().st_ino, first.stat().st_mtime_ns) == (kept.st_ino, kept.st_mtime_ns), "what is there is left alone"


def test_units_of_another_training_or_backbone_in_the_folder_are_refused(made, photos):
    network, _, folder, units = made
    with pytest.raises(ConfigError, match=r"ae2-cut1\.safetensors was trained with .*'seed': 3.*; remove it or choose another folder"):
        training.train(network, photos, folder, CUTS, NAMES, dataclasses.replace(RECIPE, seed=4), quiet)
    with pytest.raises(ConfigError, match=r"ae2-cut1\.safetensors was trained for tiny with weights"):
        training.train(tiny(seed=2), photos, folder, CUTS, NAMES, RECIPE, quiet)
    assert [unit.sha256 for unit in bottlenecks.load(folder, network)] == [unit.sha256 for unit in units]


def test_progress_rises_to_one(network, photos, tmp_path):
    told = []
    training.train(network, photos, tmp_path, (2,), ("ae1", "ae2"), dataclasses.replace(RECIPE, batch=1), lambda *said: told.append(said))
    shares = [share for _, share in told]
    assert shares == sorted(shares)
    assert len(shares) > 10
    assert shares[-1] == 1.0
    assert [line for line, _ in told if line.endswith("done")] == ["ae1 at cut 2 is done", "ae2 at cut 2 is done"]


def test_an_autoencoder_of_the_tensors_rank_gives_it_back_and_a_smaller_one_cannot(photos):
    """The tensor is a linear map of three channels: known answers are 0 error from 3, and that of the principal components from 1."""
    network = tiny()
    network.layers[0] = nn.Conv2d(3, 6, 1)
    with torch.no_grad():
        network.layers[0].weight.mul_(0.02)
        network.layers[0].bias.copy_(-127 * network.layers[0].weight.sum((1, 2, 3)))
    teacher = training.teacher_of(network, photos, 1, torch.device("cpu"))
    x = teacher.tensors.float()
    flat = x.permute(0, 2, 3, 1).reshape(-1, 6).double()
    apart = flat - flat.mean(0)
    lost = torch.linalg.svdvals(apart).square()[1:].sum() / apart.square().sum()
    errors = {}
    for channels in (1, 3):
        recipe = dataclasses.replace(RECIPE, distil_epochs=60, distil_rate=2e-2)
        encoder, decoder = training.fit(teacher, "ae", channels, 5, dataclasses.replace(recipe, tune_rate=1e-9), quiet)
        assert not any(isinstance(module, nn.ReLU) for module in decoder), "the tensor has negative values"
        made = decoder(training.coarse(encoder(x), 8)).detach()
        errors[channels] = float((made - x).square().sum() / apart.square().sum())
    assert lost * 0.99 < errors[1] < lost * 1.5
    assert errors[3] < 0.02 < lost


def test_the_reported_accuracy_is_that_of_the_codec(network, units, photos):
    """Counted in batches; here once more, an image at a time, through what travels."""
    rows = training.accuracy(network, units, photos, quiet)
    assert [(row["unit"], row["cut"]) for row in rows] == [(unit.name, unit.cut) for unit in units]
    pixels = torch.from_numpy(photos.pixels).permute(0, 3, 1, 2).float()
    with torch.inference_mode():
        for row, unit in zip(rows, units, strict=True):
            codec = bottlenecks.Bottleneck(unit, network)
            right = np.zeros((2, 2), int)
            for x, label in zip(pixels, photos.labels, strict=True):
                whole = x[None]
                for layer in network.layers[: unit.cut]:
                    whole = layer(whole)
                image = whole[0].numpy()
                read = torch.from_numpy(codec.decode(codec.encode(image, unit.cut, 8), unit.cut, image.shape))[None]
                for way, y in enumerate((read, whole)):
                    for depth in range(unit.cut, 4):
                        y = network.layers[depth - 1](y) if depth > unit.cut else y
                        if depth in network.depths:
                            exit_ = network.depths.index(depth)
                            right[way, exit_] += int(network.heads[exit_](y).argmax() == label)
            assert [e["exit"] for e in row["exits"]] == [0, 1]
            assert np.abs(np.array([[e["accuracy"], e["without"]] for e in row["exits"]]).T * 60 - right).max() <= 1
            assert all(e["low"] <= e["accuracy"] <= e["high"] for e in row["exits"])


# --- requests


def test_what_is_asked_for():
    for name, ships in training.SHIPPED.items():
        assert training.asked(zoo.build(name, seed=1), None, None) == ships
    assert training.asked(tiny(), "1", None) == ((1,), training.BOTTLES)
    assert training.asked(tiny(), "2,1", "bottle4,ae1") == ((2, 1), ("bottle4", "ae1"))


@pytest.mark.parametrize(
    ("cuts", "names", "said"),
    [
        (None, None, "none of the zoo's bottlenecks is for tiny; name the cuts, of 1,2"),
        ("1,3", None, "no bottleneck of tiny at cut 3; a feature map with layers behind it is at 1,2"),
        ("0", None, "at cut 0"),
        ("one", None, "at cut one"),
        ("1", "bottel6", r"no bottleneck 'bottel6'; did you mean 'bottle6'\?"),
        ("1", "ae0", "no bottleneck 'ae0'"),
        ("1", "ae12,", "no bottleneck ''"),
    ],
)
def test_a_request_that_cannot_be_met_is_refused(cuts, names, said):
    with pytest.raises(ConfigError, match=said):
        training.asked(tiny(), cuts, names)


def test_too_few_images_or_other_classes_are_refused(network, photos, tmp_path):
    with pytest.raises(ConfigError, match="15 images of 10 classes from generated; training takes at least 16 of tiny's 10 classes"):
        training.train(network, photos.head(15), tmp_path, CUTS, NAMES, RECIPE, quiet)
    with pytest.raises(ConfigError, match="of 4 classes"):
        training.train(network, images.generated(60, 2, size=16, classes=4), tmp_path, CUTS, NAMES, RECIPE, quiet)
    assert not list(tmp_path.iterdir())


def test_odd_maps_are_not_halved():
    assert training.code_shape("bottle", 3, (8, 16, 16)) == (3, 8, 8)
    assert training.code_shape("bottle", 3, (8, 13, 13)) == (3, 13, 13)
    assert training.code_shape("bottle", 3, (8, 8, 8)) == (3, 8, 8)
    assert training.code_shape("ae", 3, (8, 16, 16)) == (3, 16, 16)


@pytest.mark.parametrize(("name", "cuts"), [("alexnet", 3), ("resnet20", 1)])
def test_wider_codes_are_right_more_often_on_held_out_images(name, cuts):
    """3 <= 6 <= 9 <= 12 channels at every exit behind every cut, on the images of the shipped table."""
    counts: dict[tuple[int, int], dict[int, int]] = {}
    for plan in tables.accuracy(f"{name}-accuracy").plans:
        if plan.codec.startswith("bottle"):
            counts.setdefault((plan.partition, plan.exit), {})[int(plan.codec.removeprefix("bottle"))] = plan.correct
    assert len({partition for partition, _ in counts}) == cuts
    for right in counts.values():
        assert sorted(right) == [3, 6, 9, 12]
        assert [right[channels] for channels in sorted(right)] == sorted(right.values())

"""The zoo: networks follow one protocol, weights that ship are small and good, training can be interrupted without a trace."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from cutlayer.errors import ConfigError
from cutlayer.profiles import codecs, images, zoo
from cutlayer.profiles.zoo import train

HELD_OUT = "cifar10_jpegq75/test_public.npz"


@pytest.fixture(params=[name for name in zoo.names() if name not in zoo.LATENCY_ONLY])
def fresh(request):
    return zoo.build(request.param, seed=1).eval()


def test_a_network_follows_the_protocol(fresh):
    assert fresh.name in zoo.names()
    assert len(fresh.layers) == len(fresh.layer_names) == len(set(fresh.layer_names))
    assert len(fresh.heads) == len(fresh.depths)
    assert list(fresh.depths) == sorted(set(fresh.depths))
    assert 1 <= fresh.depths[0] <= fresh.depths[-1] == len(fresh.layers)
    channels, height, width = fresh.input_shape
    assert channels == 3
    assert height == width


def test_alexnet_takes_more_than_the_smallest_images():
    assert zoo.build("alexnet").input_shape == (3, 128, 128)


@torch.inference_mode()
def test_forward_gives_every_exits_logits(fresh):
    x = torch.rand(2, *fresh.input_shape) * 255
    logits = fresh(x)
    assert [tuple(value.shape) for value in logits] == [(2, fresh.classes)] * len(fresh.depths)
    assert all(torch.isfinite(value).all() for value in logits)


@torch.inference_mode()
def test_forward_is_the_chain_of_layers_and_heads(fresh):
    x = y = torch.rand(2, *fresh.input_shape) * 255
    found = []
    for depth, layer in enumerate(fresh.layers, start=1):
        y = layer(y)
        assert isinstance(y, torch.Tensor), "one tensor is live between two layers"
        if depth in fresh.depths:
            found.append(fresh.heads[len(found)](y))
    for whole, chained in zip(fresh(x), found, strict=True):
        assert torch.equal(whole, chained)


def test_the_seed_decides_the_weights():
    one, two, other = (zoo.weights_digest(zoo.build("alexnet", seed=seed)) for seed in (1, 1, 2))
    assert one == two != other
    assert len(one) == 64


def test_an_unknown_name_is_refused_with_those_that_exist():
    with pytest.raises(ConfigError, match="unknown network 'alexnett'; the zoo has: alexnet"):
        zoo.build("alexnett")


def test_missing_weights_name_the_command_that_makes_them(monkeypatch, tmp_path):
    monkeypatch.setattr(zoo, "WEIGHTS", tmp_path)
    with pytest.raises(ConfigError, match=r"no weights for 'alexnet' at .*; make them with: cutlayer profile train alexnet"):
        zoo.build("alexnet")


def test_the_digest_sees_every_value():
    network = zoo.build("alexnet", seed=1)
    before = zoo.weights_digest(network)
    with torch.no_grad():
        network.heads[-1].bias[3] += 1e-6
    assert zoo.weights_digest(network) != before


# --- weights that ship


@pytest.mark.parametrize("name", zoo.trained())
def test_weights_are_small_and_load(name):
    path = zoo.WEIGHTS / f"{name}.safetensors"
    assert path.stat().st_size < 6e6
    with safe_open(path, "pt") as file:
        assert file.metadata()["dtype"] == "float16"
    assert all(value.dtype == torch.float16 for value in load_file(path).values() if value.is_floating_point())
    network = zoo.build(name)
    assert not network.training
    assert all(value.dtype == torch.float32 for value in network.parameters())
    assert all(torch.isfinite(value).all() for value in network.state_dict().values())


def test_deeper_exits_are_better_on_held_out_images(data_dir):
    held_out = images.load(data_dir / HELD_OUT, 1_000)
    exits = train.accuracy(zoo.build("alexnet"), held_out, torch.device("cpu"))
    assert exits == sorted(exits)
    assert exits[-1] >= 0.75


# --- training


@pytest.fixture(scope="module")
def photos():
    return images.generated(70, 2)


_FINISHES = tuple(dataclasses.replace(finish, epochs=1) for finish in train.recipe_for("alexnet").finishes)
RECIPE = dataclasses.replace(train.recipe_for("alexnet"), epochs=1, finishes=_FINISHES, batch=32, seed=5)
EPOCHS = 4


class Interrupted(Exception):  # noqa: N818 - it is no error
    pass


def state(checkpoint):
    return torch.load(checkpoint, map_location="cpu", weights_only=True)


@pytest.fixture(scope="module")
def uninterrupted(photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    told = []
    exits = train.train("alexnet", photos, photos.head(20), folder / "alexnet.pt", RECIPE, lambda *what: told.append(what))
    return folder / "alexnet.pt", exits, told


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(photos, tmp_path, uninterrupted):
    checkpoint = tmp_path / "alexnet.pt"

    def pull_the_plug(line, share):
        if "took" in line:
            raise Interrupted

    for epoch in range(1, EPOCHS):
        with pytest.raises(Interrupted):
            train.train("alexnet", photos, None, checkpoint, RECIPE, pull_the_plug)
        assert state(checkpoint)["epoch"] == epoch
        torch.manual_seed(12345)  # whatever happened in between
    train.train("alexnet", photos, None, checkpoint, RECIPE, lambda *_: None)
    whole, resumed = state(uninterrupted[0]), state(checkpoint)
    assert whole["epoch"] == resumed["epoch"] == EPOCHS
    for name, value in whole["network"].items():
        assert torch.equal(value, resumed["network"][name]), name
    for number, kept in whole["optimiser"]["state"].items():
        assert torch.equal(kept["momentum_buffer"], resumed["optimiser"]["state"][number]["momentum_buffer"])
    assert [path.name for path in tmp_path.iterdir()] == ["alexnet.pt"]


def test_training_changes_the_weights_and_tells_how_far_it_is(uninterrupted):
    checkpoint, exits, told = uninterrupted
    fresh = zoo.build("alexnet", seed=RECIPE.seed).state_dict()
    trained = state(checkpoint)["network"]
    assert set(trained) == set(fresh)
    assert not any(torch.equal(fresh[name], trained[name]) for name in fresh if name.endswith("weight"))
    shares = [share for _, share in told]
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert told[-1][0].startswith(f"epoch {EPOCHS}/{EPOCHS}")
    assert len(exits) == 5
    assert all(0 <= share <= 1 for share in exits)


def test_a_finished_run_is_only_judged_again(photos, uninterrupted):
    checkpoint, exits, _ = uninterrupted
    before = checkpoint.read_bytes()
    assert train.train("alexnet", photos, photos.head(20), checkpoint, RECIPE, lambda *_: None) == exits
    assert checkpoint.read_bytes() == before


@pytest.mark.parametrize("bits", [2, 4])
def test_training_sees_what_the_codec_sends(bits):
    x = torch.from_numpy(np.random.default_rng(bits).normal(size=(3, 4, 5, 5)).astype(np.float32)).relu()
    x[1] = 0.7  # a range of nothing
    seen = train.coarse(x, bits).numpy()
    for image, got in zip(x.numpy(), seen, strict=True):
        sent = codecs.encode(image, bits)
        np.testing.assert_allclose(got, codecs.decode(sent.data, bits, sent.lo, sent.scale, image.shape), rtol=1e-5, atol=1e-6)


def test_only_exits_behind_a_coarse_cut_see_it():
    network = zoo.build("alexnet", seed=1)
    network.eval()
    x = torch.randint(0, 256, (2, *network.input_shape)).float()
    exact = network(x)
    through = train.logits_through(network, x, 2, 2)
    same = [torch.equal(a, b) for a, b in zip(exact, through, strict=True)]
    assert same == [True, False, False, False, False]
    assert all(torch.equal(a, b) for a, b in zip(exact, train.logits_through(network, x, 0, 2), strict=True))


@pytest.fixture(scope="module")
def by_epoch(photos, tmp_path_factory):
    """The weights after each epoch of the run."""
    checkpoint = tmp_path_factory.mktemp("epochs") / "alexnet.pt"
    kept = []

    def keep(line, share):
        if "took" in line:
            kept.append({name: value.clone() for name, value in state(checkpoint)["network"].items()})

    train.train("alexnet", photos, None, checkpoint, RECIPE, keep)
    return kept


def changed(before, after):
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


def statistics(name):
    return "running" in name or "num_batches" in name


def test_statistics_stay_while_cuts_are_coarse(by_epoch):
    assert any(map(statistics, changed(by_epoch[0], by_epoch[1])))
    coarse = changed(by_epoch[1], by_epoch[2])
    assert coarse == {name for name in by_epoch[0] if not statistics(name)}


def test_the_last_finish_leaves_the_shared_trunk_alone(by_epoch):
    moved = changed(by_epoch[2], by_epoch[3])
    assert moved == {
        name for name in by_epoch[0] if name.startswith(("layers.4", "layers.5", "layers.6", "heads.4")) and not statistics(name)
    }


def test_a_network_for_latency_has_no_recipe():
    with pytest.raises(ConfigError, match=r"mobilenetv2.*alexnet, resnet20, resnet8"):
        train.recipe_for("mobilenetv2")


def test_too_few_images_for_one_batch_are_refused(photos, tmp_path):
    with pytest.raises(ConfigError, match="10 images"):
        train.train("alexnet", photos.head(10), None, tmp_path / "alexnet.pt", RECIPE, lambda *_: None)


def test_a_checkpoint_of_another_length_of_training_is_refused(photos, uninterrupted):
    """The learning rate follows one curve over all epochs: another number of them is another run."""
    checkpoint, _, _ = uninterrupted
    with pytest.raises(ConfigError, match="epochs"):
        train.train("alexnet", photos, None, checkpoint, dataclasses.replace(RECIPE, epochs=3), lambda *_: None)


def test_a_recipe_that_gains_a_finish_goes_on_with_it(photos, tmp_path, uninterrupted):
    """And ends where one ends that had it from the first."""
    checkpoint = tmp_path / "alexnet.pt"
    for finishes in (_FINISHES[:1], _FINISHES):
        train.train("alexnet", photos, None, checkpoint, dataclasses.replace(RECIPE, finishes=finishes), lambda *_: None)
    whole = state(uninterrupted[0])["network"]
    assert all(torch.equal(value, whole[name]) for name, value in state(checkpoint)["network"].items())
    with pytest.raises(ConfigError, match="epochs"):
        train.train("alexnet", photos, None, checkpoint, dataclasses.replace(RECIPE, finishes=_FINISHES[:1]), lambda *_: None)


def test_a_damaged_checkpoint_is_refused(photos, tmp_path):
    checkpoint = tmp_path / "alexnet.pt"
    checkpoint.write_bytes(b"not a checkpoint")
    with pytest.raises(ConfigError, match=r"alexnet\.pt"):
        train.train("alexnet", photos, None, checkpoint, RECIPE, lambda *_: None)


def test_an_epoch_is_the_same_batches_every_time(photos):
    def epoch(number, recipe=RECIPE):
        return [(x.numpy(), labels.numpy()) for x, labels in train.batches(photos, recipe, number, 40)]

    one, two, other = epoch(0), epoch(0), epoch(1)
    assert len(one) == 2
    assert one[0][0].shape == (32, 3, 40, 40)
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a[0], b[0])
        np.testing.assert_array_equal(a[1], b[1])
    assert (one[0][0] != other[0][0]).any()
    seen = np.concatenate([labels for _, labels in one])
    assert len(seen) == 64


def test_augmented_images_are_images_of_the_same_size(photos):
    pixels = torch.from_numpy(photos.pixels).permute(0, 3, 1, 2)
    rng = torch.Generator().manual_seed(1)
    made = train.augmented(pixels, RECIPE, 0.5, rng)
    assert (made.shape, made.dtype) == (pixels.shape, torch.uint8)
    assert not torch.equal(made, pixels)
    # Without shift and erasure an image is itself or its mirror image.
    plain = train.augmented(pixels, dataclasses.replace(RECIPE, shift=0), 0.0, rng)
    kept = [torch.equal(a, b) for a, b in zip(plain, pixels, strict=True)]
    mirrored = [torch.equal(a, b.flip(-1)) for a, b in zip(plain, pixels, strict=True)]
    assert all(a or b for a, b in zip(kept, mirrored, strict=True))
    assert any(kept)
    assert any(mirrored)


def test_early_epochs_see_windows_and_later_ones_whole_images(photos):
    recipe = dataclasses.replace(RECIPE, epochs=2, crop=24, cropped_epochs=1)
    sides = [next(iter(train.batches(photos, recipe, epoch, 32)))[0].shape[-1] for epoch in (0, 1)]
    assert sides == [24, 32]
    pixels = torch.from_numpy(photos.pixels[:20]).permute(0, 3, 1, 2)
    windows = train.cropped(pixels, 24, torch.Generator().manual_seed(1))
    places = set()
    for window, image in zip(windows, pixels, strict=True):
        found = [(y, x) for y in range(9) for x in range(9) if torch.equal(window, image[:, y : y + 24, x : x + 24])]
        assert found
        places.add(found[0])
    assert len(places) > 5


def test_saved_weights_are_float16_and_build_the_network(uninterrupted, tmp_path, monkeypatch):
    path = train.save_weights(uninterrupted[0], "alexnet", tmp_path)
    assert path == tmp_path / "alexnet.safetensors"
    assert [file.name for file in tmp_path.iterdir()] == ["alexnet.safetensors"]
    trained = state(uninterrupted[0])["network"]
    for name, value in load_file(path).items():
        assert value.dtype == (torch.float16 if trained[name].is_floating_point() else trained[name].dtype)
        assert torch.equal(value, trained[name].to(value.dtype))
    monkeypatch.setattr(zoo, "WEIGHTS", tmp_path)
    built = zoo.build("alexnet").state_dict()
    torch.testing.assert_close(built, {name: value.to(built[name].dtype) for name, value in load_file(path).items()})

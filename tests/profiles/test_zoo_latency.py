"""The latency-only networks are the published ones, and nothing takes their random answers for accuracy."""

from __future__ import annotations

import pytest
import torch

from cutlayer.errors import ConfigError
from cutlayer.profiles import accuracy, images, zoo

PUBLISHED = {"mobilenetv2": 3_504_872, "resnet18": 11_689_512, "vgg16": 138_357_544}  # parameters with 1000 classes
LAYERS = {"mobilenetv2": 19, "resnet18": 9, "vgg16": 15}


def on_meta(name):
    """The network without memory for its weights: VGG-16 has 553 MB of them."""
    with torch.device("meta"):
        return zoo.NETWORKS[name]()


@pytest.mark.parametrize("name", zoo.LATENCY_ONLY)
def test_a_network_has_the_published_number_of_parameters(name):
    assert sum(weight.numel() for weight in on_meta(name).parameters()) == PUBLISHED[name]


@pytest.mark.parametrize("name", zoo.LATENCY_ONLY)
def test_a_network_follows_the_protocol_with_one_exit(name):
    network = on_meta(name)
    (logits,) = network(torch.zeros(1, *network.input_shape, device="meta"))
    assert network.name == name
    assert network.input_shape == (3, 224, 224)
    assert logits.shape == (1, network.classes) == (1, 1000)
    assert network.depths == (len(network.layers),) == (LAYERS[name],)
    assert len(set(network.layer_names)) == len(network.layers)
    assert len(network.heads) == 1


@pytest.mark.parametrize("name", ["mobilenetv2", "resnet18"])
def test_values_neither_fade_nor_blow_up_through_the_layers(name):
    network = zoo.build(name)
    x = torch.randint(0, 256, (1, *network.input_shape), generator=torch.Generator().manual_seed(1)).float()
    with torch.inference_mode():
        for layer in network.layers:
            x = layer(x)
            assert 0.05 < float(x.std()) < 50  # tiny floats are slow to compute with, and would falsify every time
    assert not network.training


def test_weights_are_the_same_on_every_machine_and_leave_the_global_generator_alone():
    torch.manual_seed(7)
    before = torch.get_rng_state()
    digests = {zoo.weights_digest(zoo.build("mobilenetv2")) for _ in range(2)}
    assert len(digests) == 1
    assert torch.equal(torch.get_rng_state(), before)
    assert zoo.weights_digest(zoo.build("mobilenetv2", seed=5)) not in digests


@pytest.mark.parametrize("measure", [accuracy.measure, accuracy.measure_jpeg])
def test_accuracy_of_random_weights_is_refused(measure):
    with pytest.raises(ConfigError, match=r"resnet18 has random weights.*not measured.*alexnet"):
        measure(on_meta("resnet18"), images.generated(2, seed=1, classes=1000))


def test_every_network_is_either_trained_or_latency_only():
    assert set(zoo.LATENCY_ONLY) < set(zoo.names())
    assert {"alexnet", "resnet20", "resnet8"} == set(zoo.names()) - set(zoo.LATENCY_ONLY)

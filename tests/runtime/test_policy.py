"""The network in numpy is torch's network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from cutlayer.runtime import features
from cutlayer.runtime.policy import Mlp

OBSERVATIONS = 10_000


def twin(policy):
    """The same network in torch."""
    parts = []
    for weight, bias in policy.layers:
        layer = nn.Linear(weight.shape[1], weight.shape[0])
        layer.weight.data, layer.bias.data = torch.from_numpy(weight.copy()), torch.from_numpy(bias.copy())
        parts += [layer, nn.Tanh() if policy.activation == "tanh" else nn.ReLU()]
    return nn.Sequential(*parts[:-1])


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_it_equals_torch(make_policy, activation):
    policy = make_policy(95, activation=activation, hidden=64)
    observations = np.random.default_rng(3).uniform(features.LOW, features.HIGH, (OBSERVATIONS, features.SIZE)).astype(np.float32)
    with torch.inference_mode():
        expected = twin(policy)(torch.from_numpy(observations)).numpy()
    got = np.array([policy.logits(one).copy() for one in observations])
    np.testing.assert_allclose(got, expected, atol=1e-5)
    # Where the two best plans differ by less than rounding, either is right.
    best = np.sort(expected, axis=1)
    clear = best[:, -1] - best[:, -2] > 1e-5
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(got[clear].argmax(1), expected[clear].argmax(1))
    assert len(set(got.argmax(1).tolist())) > 10, "the comparison is of many plans"


def test_an_answer_by_hand():
    layers = [
        (np.array([[1.0, -1.0], [2.0, 0.5]]), np.array([0.5, -3.0])),
        (np.array([[1.0, 1.0], [-1.0, 2.0], [0.0, 0.0]]), np.arange(3.0)),
    ]
    x = np.array([1.0, 2.0], np.float32)  # hidden: -0.5 and 0.0
    np.testing.assert_allclose(Mlp(layers, "relu").logits(x), [0.0, 1.0, 2.0])
    np.testing.assert_allclose(Mlp(layers, "tanh").logits(x), [np.tanh(-0.5), 1.0 - np.tanh(-0.5), 2.0], rtol=1e-6)


def test_it_knows_its_size(make_policy):
    policy = make_policy(17)
    assert (policy.inputs, policy.outputs) == (features.SIZE, 17)
    assert policy.logits(np.zeros(features.SIZE, np.float32)).shape == (17,)


def test_a_single_layer_has_no_activation():
    policy = Mlp([(np.eye(3), np.array([-1.0, 0.0, 1.0]))], "relu")
    np.testing.assert_array_equal(policy.logits(np.array([-5.0, 0.0, 5.0], np.float32)), [-6.0, 0.0, 6.0])


def test_weights_are_copied_into_float32_and_the_observation_is_left_alone(make_policy):
    policy = make_policy(5)
    assert all(array.dtype == np.float32 and array.flags.c_contiguous for pair in policy.layers for array in pair)
    x = np.ones(features.SIZE, np.float32)
    policy.logits(x)
    np.testing.assert_array_equal(x, 1.0)


def test_a_nan_is_seen_in_the_logits(make_policy):
    """The controller looks at the largest logit alone: argmax must find the NaN."""
    policy = make_policy(5)
    for i in range(features.SIZE):
        x = np.zeros(features.SIZE, np.float32)
        x[i] = np.nan
        logits = policy.logits(x)
        assert not np.isfinite(logits[logits.argmax()])

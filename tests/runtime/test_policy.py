"""The network in numpy is torch's network, ONNX Runtime's is the same, and a tree answers as it is drawn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from cutlayer.errors import BundleError
from cutlayer.runtime import features
from cutlayer.runtime import policy as policies
from cutlayer.runtime.policy import Mlp, OnnxPolicy, Tree

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


def test_it_chooses_the_largest_logit_and_says_whether_it_is_finite(make_policy):
    policy = make_policy(7)
    for one in np.random.default_rng(8).uniform(-1, 4, (50, features.SIZE)).astype(np.float32):
        plan, finite = policy.choose(one)
        assert (plan, finite) == (int(policy.logits(one).argmax()), True)
        assert type(plan) is int
    x = np.zeros(features.SIZE, np.float32)
    x[3] = np.nan
    assert policy.choose(x)[1] is False
    infinite = Mlp([(np.zeros((2, 1)), np.array([0.0, 3e38])), (np.array([[1.0, 1.0], [0.0, 2.0]]), np.zeros(2))], "relu")
    with np.errstate(over="ignore"):
        assert infinite.choose(np.zeros(1, np.float32)) == (1, False)


def test_equal_logits_give_the_first_plan_in_every_form():
    policy = Mlp([(np.zeros((5, 4)), np.array([0.0, 1.0, 1.0, 1.0, 0.5]))], "tanh")
    for form in (policy, OnnxPolicy(policy, "it")):
        assert form.choose(np.ones(4, np.float32)) == (1, True)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("hidden", [1, 64, 200])
def test_onnx_runtime_gives_the_same_logits(make_policy, activation, hidden):
    policy = make_policy(95, activation=activation, hidden=hidden)
    other = OnnxPolicy(policy, "it")
    for one in np.random.default_rng(9).uniform(-1, 4, (200, features.SIZE)).astype(np.float32):
        np.testing.assert_allclose(other.logits(one), policy.logits(one), atol=1e-5)
    one[0] = np.nan
    assert other.choose(one)[1] is False


def test_what_onnx_runtime_cannot_run_is_told_in_one_line(make_policy, monkeypatch):
    monkeypatch.setattr(policies.onnx_graph, "graph", lambda _: b"no graph")
    with pytest.raises(BundleError, match=r"ONNX Runtime cannot run the graph of it \(.*\); decide in numpy instead") as caught:
        OnnxPolicy(make_policy(5), "it")
    assert "\n" not in str(caught.value)


#         0: x2 <= 0.5
#        /            \
#   1: plan 3     2: x0 <= -0.25
#                  /          \
#             3: plan 1    4: plan 0
BY_HAND = Tree((2, -1, 0, -1, -1), (0.5, 0.0, -0.25, 0.0, 0.0), (1, 0, 3, 0, 0), (2, 0, 4, 0, 0), (0, 3, 0, 1, 0))


@pytest.mark.parametrize(
    ("values", "plan"),
    [
        ((0, 0, 0.5), 3),
        ((-1, 0, 0.5), 3),
        ((0, 0, np.nextafter(np.float32(0.5), np.float32(1))), 0),
        ((-0.25, 9, 0.6), 1),
        ((-0.24, 9, 4), 0),
    ],
)
def test_a_tree_by_hand(values, plan):
    assert BY_HAND.choose(np.array(values, np.float32)) == (plan, True)


def test_a_tree_says_where_a_feature_that_it_asks_for_is_no_number():
    nan = np.nan
    assert BY_HAND.choose(np.array([nan, nan, 0.0], np.float32)) == (3, True)
    assert BY_HAND.choose(np.array([0.0, 0.0, nan], np.float32))[1] is False
    assert BY_HAND.choose(np.array([nan, 0.0, 1.0], np.float32))[1] is False


def test_a_tree_of_one_leaf_always_says_the_same():
    assert Tree((-1,), (0.0,), (0,), (0,), (4,)).choose(np.full(3, np.nan, np.float32)) == (4, True)

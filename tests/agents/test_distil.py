"""A tree distilled from a network: scikit-learn's own answers, a known tree found again, and a loss that is measured where it says."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.tree import DecisionTreeClassifier

from cutlayer.agents import distil, states
from cutlayer.agents.episodes import TUNING, VALIDATION
from cutlayer.agents.evaluate import evaluate
from cutlayer.runtime import bundle, features
from cutlayer.runtime.policy import Mlp, Tree

RECIPE = distil.Recipe(leaves=16, rounds=2, episodes=4)


def step_network(size, questions, plans):
    """A network that is a tree: plan i + 1 of the last question i, (feature, threshold), that holds (feature > threshold), else plan 0.

    A hidden unit is a steep tanh of one feature; a later question outweighs all before it, and a plan without a question never wins.
    """
    hidden, steep = np.zeros((len(questions), size)), 200.0
    bias = np.zeros(len(questions))
    for i, (feature, threshold) in enumerate(questions):
        hidden[i, feature], bias[i] = steep, -steep * threshold
    logits = np.zeros((plans, len(questions)))
    never = np.arange(plans) > len(questions)
    for i in range(len(questions)):
        logits[i + 1, i] = 2.0**i
    return Mlp([(hidden, bias), (logits, np.where(never, -1.0, 0.0))], "tanh")


@pytest.fixture(scope="module")
def teacher(small):
    """Prefers by what waits on the device and by the slow-down last measured."""
    return step_network(features.SIZE, [(0, 0.3), (9, 0.5)], len(small.plans))


@pytest.fixture(scope="module")
def tree(teacher, small):
    return distil.distil(teacher, small, RECIPE)


def test_a_converted_tree_answers_as_scikit_learn_does():
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 4, (4_000, 6)).astype(np.float32)
    y = (3 * (x[:, 0] > 0.5) + 5 * (x[:, 1] * x[:, 2] > 1) + 7 * (x[:, 3] > 2)).astype(np.int64)
    for leaves in (2, 17, 300):
        fitted = DecisionTreeClassifier(max_leaf_nodes=leaves, random_state=0).fit(x[:2_000], y[:2_000])
        tree = distil.converted(fitted)
        tree.check(6, 16, "it")
        expected = fitted.predict(x)
        np.testing.assert_array_equal([tree.choose(one)[0] for one in x[:500]], expected[:500])
        np.testing.assert_array_equal(distil.many(tree)(x), expected)
        assert sum(feature == -1 for feature in tree.feature) <= leaves


def test_values_on_a_threshold_go_the_same_way():
    x = np.array([[0.1], [0.2], [0.3], [0.4]], np.float32)
    fitted = DecisionTreeClassifier(random_state=0).fit(x, [0, 1, 0, 1])
    tree = distil.converted(fitted)
    beside = np.array([t for node in fitted.tree_.threshold for t in (node, np.nextafter(np.float32(node), np.float32(9)))], np.float32)[
        :, None
    ]
    np.testing.assert_array_equal(distil.many(tree)(beside), fitted.predict(beside))
    np.testing.assert_array_equal([tree.choose(one)[0] for one in beside], fitted.predict(beside))


def test_a_question_with_one_answer_is_left_out():
    """A classifier may split further where both sides have the same plan in the end."""
    x = np.array([[0.0], [1.0], [2.0], [3.0]], np.float32)
    fitted = DecisionTreeClassifier(random_state=0).fit(x, [4, 4, 4, 4])
    assert distil.converted(fitted) == Tree((-1,), (0.0,), (0,), (0,), (4,))
    weighted = DecisionTreeClassifier(random_state=0).fit(np.repeat(x, 2, axis=0), [0, 1] * 4, sample_weight=[3, 1, 3, 2, 3, 1, 2, 1])
    assert distil.converted(weighted) == Tree((-1,), (0.0,), (0,), (0,), (0,))
    assert distil.depth(distil.converted(weighted)) == 0


def test_a_known_tree_is_found_again():
    """Its questions, and thresholds as near as the observations lie."""
    teacher = step_network(4, [(1, 0.5), (3, 1.5)], 3)
    rng = np.random.default_rng(1)
    tree = distil._fit(teacher, rng.uniform(-1, 4, (4_000, 4)).astype(np.float32), distil.Recipe(leaves=16))
    asked = {(feature, round(threshold, 1)) for feature, threshold in zip(tree.feature, tree.threshold, strict=True) if feature >= 0}
    assert {(1, 0.5), (3, 1.5)} <= asked
    assert {feature for feature, _ in asked} == {1, 3}
    fresh = rng.uniform(-1, 4, (4_000, 4)).astype(np.float32)
    assert (distil.many(tree)(fresh) == distil.best_plans(teacher)(fresh)).mean() > 0.995


def test_in_a_world_it_is_as_good_as_the_network(tree, teacher, small):
    assert set(tree.plan) == {0, 1, 2}
    found = distil.judged(tree, teacher, small)
    assert found["fidelity"] > 0.99
    assert abs(found["reward_loss"]) < 0.01
    assert found["reward_loss_low"] <= found["reward_loss"] <= found["reward_loss_high"]


def test_what_is_lost_is_what_evaluation_finds(tree, teacher, small):
    """One request after the other on the validation episodes, in the form that ships."""

    class Shipped:
        def __init__(self, policy):
            self.policy = policy

        def begin(self):
            pass

        def act(self, view):
            return self.policy.choose(view.observation())[0]

    found = distil.judged(tree, teacher, small)
    network, tree_itself = (evaluate(small, Shipped(policy), VALIDATION).reward.mean() for policy in (teacher, tree))
    assert found["reward_network"] == pytest.approx(network, rel=1e-6)
    assert found["reward_tree"] == pytest.approx(tree_itself, rel=1e-6)
    assert found["reward_loss"] == pytest.approx(network - tree_itself, abs=1e-6)
    assert found["episodes"] == len(VALIDATION)


def test_a_tree_that_is_wrong_everywhere_says_so(teacher, small):
    constant = Tree((-1,), (0.0,), (0,), (0,), (len(small.plans) - 1,))
    found = distil.judged(constant, teacher, small)
    played = states.visit(small, VALIDATION, distil.many(constant))
    alike = distil.best_plans(teacher)(played.flat()) == len(small.plans) - 1
    assert found["fidelity"] == alike.mean() < 0.5
    assert (found["leaves"], found["depth"]) == (1, 0)


def test_no_episode_that_is_fitted_to_is_judged_on(teacher, small, monkeypatch):
    played = []
    visit = states.visit

    def watched(scenario, episodes, choose):
        played.append(episodes)
        return visit(scenario, episodes, choose)

    monkeypatch.setattr(states, "visit", watched)
    distil.distil(teacher, small, RECIPE)
    fitted, chosen = played[0::2], played[1::2]
    assert len(fitted) == len(chosen) == RECIPE.rounds
    assert all(episodes == TUNING for episodes in chosen)
    drawn = {seed for episodes in fitted for seed in episodes}
    assert len(drawn) == RECIPE.rounds * RECIPE.episodes, "new ones in each round"
    assert not drawn & {*TUNING, *VALIDATION}


def test_equal_seeds_give_equal_trees(tree, teacher, small):
    assert distil.distil(teacher, small, RECIPE) == tree


def test_states_where_plans_differ_more_weigh_more():
    """One leaf for two kinds of states, one of them rare but dear: its plan wins."""
    teacher = Mlp([(np.array([[-1.0], [100.0]]), np.array([0.5, -50.0]))], "relu")  # plan 1 from 0.5 on, ever more clearly
    observations = np.array([[0.4]] * 3 + [[3.0]], np.float32)
    stump = distil._fit(teacher, observations, distil.Recipe(leaves=2))
    assert [stump.choose(one)[0] for one in observations[[0, 3]]] == [0, 1]
    flat = np.zeros((4, 1), np.float32)
    flat[3] = 1e-30  # no threshold in float32 features tells them apart
    leaf = distil._fit(Mlp([(np.array([[-1e30], [1e33]]), np.array([0.5, -50.0]))], "relu"), flat, distil.Recipe(leaves=2))
    assert leaf.choose(flat[0])[0] == 1


def test_a_bundle_carries_the_tree_and_what_it_loses(teacher, small, tmp_path):
    from cutlayer.runtime.bundle import Bundle, Golden

    golden = Golden([[0.0] * features.SIZE], [teacher.choose(np.zeros(features.SIZE, np.float32))[0]])
    plain = Bundle("small", "none", small.plans, small.path, small.objective, teacher, golden, {})
    told = []
    made = distil.with_tree(plain, small, RECIPE, told.append)
    made.save(tmp_path / "policy.cutlayer", "0")
    loaded = bundle.load(tmp_path / "policy.cutlayer")
    assert loaded.tree == made.tree
    assert loaded.distilled == made.distilled
    assert {"leaves", "rounds", "seed", "fidelity", "reward_loss", "reward_loss_low", "reward_loss_high"} <= set(loaded.distilled)
    assert told == [0.5, 1.0]

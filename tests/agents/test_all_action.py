"""The all-action learner where the answer is known, and its promises: exact gradient, targets, determinism, resuming, save and load."""

from __future__ import annotations

import dataclasses
import io
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from cutlayer.agents import evaluate
from cutlayer.agents.all_action import RECIPES, AllAction, AllActionRecipe, choose, load_actor, make, policy_loss
from cutlayer.agents.all_action_visits import UNGUIDED, Share, Visits
from cutlayer.agents.bayes import tuning
from cutlayer.agents.resumable import digest
from cutlayer.agents.validation import Trial
from cutlayer.envs import scenarios
from cutlayer.envs.batch import Bank
from cutlayer.envs.branching import BranchingLanes
from cutlayer.envs.channels import Constant
from cutlayer.envs.spec import Scenario
from cutlayer.errors import ConfigError
from cutlayer.profiles import cost
from cutlayer.profiles.energy import Radio
from cutlayer.profiles.plans import PlanRow, PlanTable

QUICK = AllActionRecipe(steps=1_024, lanes=16, updates=2, batch=64, replay=512, bank=24)


def recipe(**changes):
    return dataclasses.replace(QUICK, **changes)


# --- a problem with a known answer ---


@dataclass(frozen=True)
class Threes:
    """Requests in threes: the second comes 20 ms after the first, the third 200 ms later, and 200 ms later the next three."""

    def draw(self, rng, count):
        gaps = np.resize([0.2, 0.02, 0.2], count)
        return np.cumsum(np.roll(gaps, rng.integers(3)))


def plan(**constants):
    row = {
        "exit": 1, "partition": 3, "bits": 0, "device_s": 0.0, "encode_s": 0.0, "decode_s": 0.0, "edge_s": 0.0, "payload_bytes": 0,
        "wire_bytes": 0, "accuracy": 0.8, "device_j": 0.0,
        "fallback_exit": 0, "fallback_s": 0.0, "fallback_accuracy": 0.0, "fallback_j": 0.0,
    }  # fmt: skip
    return PlanRow(**(row | constants))


@pytest.fixture(scope="module")
def threes():
    """100 ms each. Deep takes 90, shallow 40: deep for the first makes the second late whatever it does, so only the third may go deep.

    Offloading takes 1 s: always late.
    """
    rows = (
        plan(exit=0, device_s=0.04, accuracy=0.7),
        plan(device_s=0.09, accuracy=0.9),
        plan(partition=0, bits=8, payload_bytes=1000, wire_bytes=1000, accuracy=0.95),
    )
    path = cost.Path(rtt_s=0.0, reply_bytes=0, fixed_s=0.0, radio=Radio(0.0, 0.0))
    return Scenario(
        "threes", PlanTable("net", "device", "edge", (1, 2), rows), Constant(8e3), Threes(), cost.deadline(0.1), path, requests=30
    )


@pytest.mark.parametrize(("gamma", "reward"), [(0.8, (0.7 + 0.7 + 0.9) / 3), (0.0, (0.9 - 1.0 + 0.9) / 3)])
def test_it_finds_the_plan_that_is_best_for_whoever_comes_next(threes, gamma, reward):
    """With a discount of 0 it does what is best for each request alone, and pays for it; else it leaves room for the second."""
    settings = AllActionRecipe(steps=12_288, lanes=32, gamma=gamma, updates=8, batch=128, replay=2_048, bank=128, average=0.05)
    model = AllAction(threes, settings, seed=0)
    model.learn()
    bank = range(100, 104)
    assert Trial(threes, bank).score(model.actor()) == pytest.approx(reward, abs=0.05)  # an episode may begin or end within a three


# --- the formulas ---


def test_the_gradient_is_that_of_the_expectation_written_out():
    """Of a policy over known worths: analytically, and by finite differences of its expectation and entropy in double precision."""
    rng = np.random.default_rng(0)
    logits, worth, weight = rng.normal(size=(5, 4)), rng.normal(size=(5, 4)) * 3, 0.3

    def objective(values):
        p = np.exp(values) / np.exp(values).sum(1, keepdims=True)
        return ((p * worth).sum(1) - weight * (p * np.log(p)).sum(1)).mean()

    numeric = np.zeros_like(logits)
    for at in np.ndindex(logits.shape):
        step = np.zeros_like(logits)
        step[at] = 1e-5
        numeric[at] = (objective(logits + step) - objective(logits - step)) / 2e-5

    given = torch.tensor(logits, requires_grad=True)
    loss, own, entropy = policy_loss(given, torch.tensor(worth), weight)
    loss.backward()
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(-given.grad.numpy(), numeric, rtol=1e-6, atol=1e-9)
    spread = -(p * np.log(p)).sum(1, keepdims=True)
    expected = p * (worth - (p * worth).sum(1, keepdims=True)) - weight * p * (np.log(p) + spread)
    np.testing.assert_allclose(-given.grad.numpy(), expected / len(logits), rtol=1e-9)
    np.testing.assert_allclose(own, (p * worth).sum(1))
    assert entropy == pytest.approx(spread.mean())


def test_a_plan_that_is_out_of_the_question_gives_no_nan():
    logits = torch.tensor([[0.0, -1e4]], requires_grad=True)
    loss, _, _ = policy_loss(logits, torch.tensor([[1.0, 5.0]]), 0.1)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


class Always(nn.Module):
    """The same row of numbers whatever is seen."""

    def __init__(self, *values):
        super().__init__()
        self.values = torch.tensor(values)

    def forward(self, seen):
        return self.values.expand(*seen.shape[:-1], len(self.values))


def test_worth_is_reward_and_discounted_value_at_the_end_of_an_episode_too(threes):
    """With a policy that cannot but go shallow the rewards of every plan are those of lanes that did the same."""
    settings = recipe(lanes=1, rollout=90, bank=4, gamma=0.5)
    visits = Visits(threes, settings, np.random.default_rng(3))
    shallow = Always(0.0, -1e9, -1e9)
    seen, worth, shown = visits.collect(shallow, Always(7.0), Share(0.0, 0.0))
    assert (shown == UNGUIDED).all()
    first = visits.state()["first"]
    lanes = BranchingLanes(threes, Bank.draw(threes, range(first, first + 4)), 1)
    lanes.reset(np.array([0]))
    for k in range(90):  # three episodes
        lanes.branch()
        np.testing.assert_array_equal(seen[k], lanes.observations[0])
        np.testing.assert_allclose(worth[k], lanes.branch_rewards[0] + 0.5 * 7.0, rtol=1e-6)
        lanes.step(np.array([0]), np.array([(k + 1) // 30]))


# --- where it goes ---


def test_no_episode_is_begun_twice_and_lanes_do_not_end_together(threes):
    """Told apart by their first observations' bank and place: each bank has seeds of its own, each lane its own episode."""
    visits, begun, ends = Visits(threes, recipe(), np.random.default_rng(0)), [], []
    policy, value = Always(0.0, 0.0, 0.0), Always(0.0)
    for _ in range(60):
        visits.collect(policy, value, Share(0.0, 0.0))
        bank = visits.state()["bank"]
        lanes = visits._lanes
        begun += [(bank, episode) for episode in lanes.episodes[lanes.requests < 8]]  # within the last 8 steps of each lane
        ends.append(int((lanes.requests < 8).sum()))
    assert len(begun) > 2 * QUICK.bank
    assert len(set(begun)) == len(begun)
    assert {bank for bank, _ in begun} >= {0, 1, 2}
    assert max(ends) < QUICK.lanes


def test_forced_stretches_only_offload_and_take_their_share(threes):
    visits, taken = Visits(threes, recipe(lanes=64, bank=1_024), np.random.default_rng(0)), []
    policy = Always(3.0, 3.0, -3.0)  # would hardly ever send
    visits.collect(policy, Always(0.0), Share(0.4, 0.0))
    step = visits._lanes.step

    def noted(plans, following):
        taken.append((visits._forced.copy(), plans.copy()))
        step(plans, following)

    visits._lanes.step = noted
    for _ in range(40):
        visits.collect(policy, Always(0.0), Share(0.4, 0.0))
    forced, plans = (np.array(column) for column in zip(*taken, strict=True))
    assert (plans[forced] == 2).all()
    assert (plans[~forced] == 2).mean() < 0.01
    assert forced.mean() == pytest.approx(0.4, abs=0.06)
    begun = (forced[1:] & ~forced[:-1]).sum()
    assert forced[1:].sum() / begun == pytest.approx(QUICK.forced_requests, rel=0.2)


def test_a_guide_decides_whole_episodes_as_it_would_by_itself(small, guide):
    """What it shows is what was done, what the rule does alone in that episode; it decides its share of the episodes."""
    settings = recipe(lanes=32, rollout=1, bank=96)
    visits, done = Visits(small, settings, np.random.default_rng(2), guide.parameters), []
    any_plan = Always(*[0.0] * len(small.plans))
    visits.collect(any_plan, Always(0.0), Share(0.3, 0.5))
    bank, step = visits.state()["bank"], visits._lanes.step
    visits._lanes.step = lambda plans, following: (done.append(plans.copy()), step(plans, following))
    alone = evaluate.evaluate(small, guide, range(visits.state()["first"], visits.state()["first"] + 96)).plans
    guided = 0
    for _ in range(small.requests):
        episodes, requests, led = visits._lanes.episodes, visits._lanes.requests, visits._guided.copy()
        shown = visits.collect(any_plan, Always(0.0), Share(0.3, 0.5)).shown
        assert visits.state()["bank"] == bank
        np.testing.assert_array_equal(shown[led], alone[episodes[led], requests[led]])
        np.testing.assert_array_equal(done[-1][led], shown[led])
        assert (shown[~led] == UNGUIDED).all()
        guided += led.sum()
    assert guided / (32 * small.requests) == pytest.approx(0.5, abs=0.15)


def test_imitating_alone_ends_near_the_guide(small, guide):
    """With a weight beside which rewards are nothing, the network decides as the guide in most states of the guide's episodes."""
    model = AllAction(small, recipe(steps=8_192, updates=8, guided=1.0, imitate=1e4, entropy=1e-3), seed=0)
    shown = model._visits.collect(model.policy, model.slow_value, Share(0.0, 1.0))
    before = (model.predict(shown.seen, deterministic=True)[0] == shown.shown).mean()
    model.learn()
    after = (model.predict(shown.seen, deterministic=True)[0] == shown.shown).mean()
    assert after > max(0.8, before + 0.2)


# --- promises ---


@pytest.fixture(scope="module")
def guide(small):
    return tuning.tuned(small, 0, "bayes-greedy")


def finished(scenario, settings, seed):
    model = AllAction(scenario, settings, seed)
    model.learn()
    return model


def test_equal_seeds_learn_alike_and_others_differ(small):
    before = torch.get_rng_state()
    one, same, other = (digest(finished(small, recipe(forced=0.3), seed).state()) for seed in (0, 0, 1))
    assert one == same
    assert one != other
    assert torch.equal(torch.get_rng_state(), before), "the global generator is left alone"


@pytest.mark.parametrize("stop_at", [0, 3, 7])
def test_a_resumed_training_ends_as_one_that_never_stopped(small, stop_at):
    """Through a file, at a time when the replay is not full, and when it is; into a learner that was used for something else."""
    settings = recipe(forced=0.3, guided=0.5, imitate=0.5, steps=1_280)
    whole, kept, rounds = AllAction(small, settings, 5), io.BytesIO(), 0

    def between():
        nonlocal rounds
        if rounds == stop_at:
            torch.save(whole.state(), kept)
        rounds += 1

    whole.learn(between)
    kept.seek(0)
    resumed = AllAction(small, settings, 5)
    resumed.restore(torch.load(kept, weights_only=True))
    assert resumed.steps == stop_at * 128
    resumed.learn()
    assert digest(resumed.state()) == digest(whole.state())


def test_a_saved_learner_acts_as_before_and_ships_as_a_plain_network(small, tmp_path):
    model = finished(small, recipe(), 0)
    model.save(tmp_path / "model.zip")
    loaded, actor = AllAction.load(tmp_path / "model.zip", small), load_actor(tmp_path / "model.zip")
    assert [type(layer) for layer in actor] == [nn.Linear, nn.Tanh, nn.Linear, nn.Tanh, nn.Linear]
    seen = np.random.default_rng(0).uniform(-1, 1, (50, model.actor()[0].in_features)).astype(np.float32)
    plans, state = model.predict(seen, deterministic=True)
    assert state is None
    np.testing.assert_array_equal(loaded.predict(seen, deterministic=True)[0], plans)
    np.testing.assert_array_equal(actor(torch.from_numpy(seen)).argmax(1), plans)
    assert [int(model.predict(one, deterministic=True)[0]) for one in seen] == plans.tolist()
    assert loaded.recipe == model.recipe


def test_drawn_plans_follow_the_policy(small):
    model = AllAction(small, recipe(), 0)
    with torch.no_grad():
        model.average[-1].weight *= 0.0
        model.average[-1].bias[:] = torch.log(torch.tensor([0.5, 0.3, 0.1, 0.05, 0.03, 0.02]))
    plans, _ = model.predict(np.zeros((20_000, model.average[0].in_features)))
    np.testing.assert_allclose(np.bincount(plans, minlength=6) / 20_000, [0.5, 0.3, 0.1, 0.05, 0.03, 0.02], atol=0.015)


def test_another_scenario_and_an_engine_without_copies_are_refused(small, tmp_path):
    model = AllAction(small, recipe(), 0)
    model.save(tmp_path / "model.zip")
    with pytest.raises(ConfigError, match="trained on other plans or features than camera has"):
        AllAction.load(tmp_path / "model.zip", scenarios.make("camera"))
    with pytest.raises(ConfigError, match="simpy engine cannot make"):
        make(QUICK, small, 0, "simpy")


def test_recipes_name_scenarios_that_exist_and_settings_that_do():
    assert set(RECIPES) <= set(scenarios.names())
    for name in scenarios.names():
        assert isinstance(choose(name), AllActionRecipe)

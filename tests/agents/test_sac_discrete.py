"""SAC-d on problems whose answer is known, and its promises: determinism, save and load, finite numbers, clear refusals."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3.common.buffers import NStepReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn

from cutlayer.agents.sac_discrete import SACDiscrete, SACDiscretePolicy, log_probabilities
from cutlayer.envs.vector_env import BatchedVecEnv
from cutlayer.errors import ConfigError

torch.set_num_threads(1)  # two threads on small matrices are many times slower than one

END = -1
FAST = {"learning_starts": 64, "batch_size": 64, "buffer_size": 4096, "learning_rate": 5e-3, "policy_kwargs": {"net_arch": [32]}}


class Table(gym.Env):
    """A finite decision process: reward[s, a], next_state[s, a] (END terminates), the state seen as one-hot.

    `risk[s, a]` is the probability that the reward is −3 instead. Episodes start uniformly in `starts`.
    """

    def __init__(self, reward, next_state, starts=(0,), risk=0.0):
        self.reward, self.next_state = np.array(reward, float), np.array(next_state)
        self.starts, self.risk = starts, np.broadcast_to(risk, self.reward.shape)
        states, actions = self.reward.shape
        self.observation_space = gym.spaces.Box(0, 1, (states,), np.float32)
        self.action_space = gym.spaces.Discrete(actions)

    def _see(self, state):
        return np.eye(len(self.reward), dtype=np.float32)[state]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state = int(self.np_random.choice(self.starts))
        return self._see(self.state), {}

    def step(self, action):
        at = self.state, int(action)
        reward = -3.0 if self.np_random.random() < self.risk[at] else self.reward[at]
        self.state = int(self.next_state[at])
        return self._see(max(self.state, 0)), float(reward), self.state == END, False, {}


def bandit(reward=None, risk=0.0):
    """A contextual bandit: every episode is one decision. By default six contexts, each with one action that pays."""
    reward = np.eye(6) if reward is None else np.array(reward, float)
    return Table(reward, np.full(reward.shape, END), starts=range(len(reward)), risk=risk)


def vec(make, n_envs=8):
    return DummyVecEnv([make] * n_envs)


def q_values(model, states):
    """Mean of both critics: (states, actions)."""
    with torch.no_grad():
        return model.policy.critic(torch.eye(states)).mean(dim=0).numpy()


def probabilities(model, states):
    with torch.no_grad():
        return log_probabilities(model.policy.actor(torch.eye(states))).exp().numpy()


# --- problems with a known answer ---


@pytest.mark.parametrize("critic_target", ["min", "mean"])
def test_a_contextual_bandit_is_solved(critic_target):
    model = SACDiscrete("MlpPolicy", vec(bandit), critic_target=critic_target, seed=0, **FAST).learn(4_000)
    actions, _ = model.predict(np.eye(6, dtype=np.float32), deterministic=True)
    assert actions.tolist() == list(range(6))
    assert np.abs(q_values(model, 6) - np.eye(6)).max() < 0.2


@pytest.mark.parametrize(("gamma", "best", "q_start"), [(0.9, 1, [1.0, 1.8]), (0.3, 0, [1.0, 0.6])])
def test_the_discount_decides_between_now_and_later(gamma, best, q_start):
    # From state 0, action 0 pays 1 and leads to a poor state, action 1 pays nothing and leads to where action 1 pays 2.
    def make():
        return Table(reward=[[1, 0], [0, 0], [0, 2]], next_state=[[1, 2], [END, END], [END, END]])

    model = SACDiscrete("MlpPolicy", vec(make), gamma=gamma, ent_coef=0.02, entropy_in_target=False, tau=0.05, seed=1, **FAST).learn(8_000)
    q = q_values(model, 3)
    assert q[0] == pytest.approx(q_start, abs=0.1)
    assert q[2] == pytest.approx([0, 2], abs=0.1)
    assert model.predict(np.eye(3, dtype=np.float32)[0], deterministic=True)[0] == best


@pytest.mark.parametrize(("truncated", "value"), [(True, 1 / (1 - 0.8)), (False, 1 / (1 - 0.8 * 0.9))])
def test_a_time_limit_is_bootstrapped_and_an_end_is_not(truncated, value):
    # Reward 1 for ever, cut at 10 steps: worth 5. Ended at 10 steps, which the observation does not show: nine of ten steps go on.
    class Ends(gym.Wrapper):
        def step(self, action):
            observation, reward, _, cut, info = self.env.step(action)
            return observation, reward, cut, False, info

    def make():
        env = gym.wrappers.TimeLimit(Table([[1, 1]], [[0, 0]]), 10)
        return env if truncated else Ends(env)

    model = SACDiscrete("MlpPolicy", vec(make), gamma=0.8, entropy_in_target=False, tau=0.05, seed=0, **FAST).learn(6_000)
    assert q_values(model, 1) == pytest.approx(np.full((1, 2), value), abs=0.35)


def test_at_a_fixed_temperature_the_policy_is_the_softmax_of_q():
    rewards = np.array([[0.0, 0.5, 1.0]])
    model = SACDiscrete("MlpPolicy", vec(lambda: bandit(rewards)), ent_coef=0.5, seed=0, **FAST).learn(4_000)
    soft = np.exp(rewards / 0.5)
    assert probabilities(model, 1) == pytest.approx(soft / soft.sum(), abs=0.03)


def test_the_temperature_holds_the_entropy_at_its_target():
    fraction = 0.6
    model = SACDiscrete("MlpPolicy", vec(bandit), target_entropy_start=fraction, target_entropy_end=fraction, seed=0, **FAST).learn(6_000)
    p = probabilities(model, 6)
    entropy = -(p * np.log(p)).sum(axis=1).mean()
    assert entropy == pytest.approx(fraction * np.log(6), abs=0.15)


def test_a_rare_penalty_keeps_its_full_weight():
    # Action 0 pays 1 but costs 3 in one of ten cases: mean 0.6. A Huber loss of width 1 would value it at 0.89 and prefer it to 0.75.
    model = SACDiscrete("MlpPolicy", vec(lambda: bandit([[1.0, 0.75]], risk=[[0.1, 0.0]])), ent_coef=0.5, seed=0, **FAST).learn(6_000)
    assert q_values(model, 1)[0] == pytest.approx([0.6, 0.75], abs=0.12)
    assert model.predict(np.ones(1, np.float32), deterministic=True)[0] == 1


# --- the formulas ---


def numpy_mlp(weights, biases, x):
    for index, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        x = x @ weight + bias
        if index < len(weights) - 1:
            x = np.tanh(x)
    return x


@pytest.mark.parametrize("critic_target", ["min", "mean"])
@pytest.mark.parametrize("entropy_in_target", [True, False])
def test_the_critic_target_is_the_formula(critic_target, entropy_in_target):
    gamma, ent_coef = 0.7, 0.3
    model = SACDiscrete(
        "MlpPolicy", vec(bandit, 1), gamma=gamma, critic_target=critic_target, entropy_in_target=entropy_in_target, seed=0, buffer_size=8
    )
    policy = model.policy
    with torch.no_grad():
        for parameter in policy.critic_target.parameters():  # so that a mix-up of slow and learned critics shows
            parameter.normal_(std=0.5)
    rng = np.random.default_rng(5)
    following, rewards, dones = rng.normal(size=(3, 6)), np.array([1.0, -3.0, 0.5]), np.array([0.0, 1.0, 0.0])
    tensors = [torch.tensor(array, dtype=torch.float32) for array in (np.zeros((3, 6)), following, dones[:, None], rewards[:, None])]
    batch = ReplayBufferSamples(tensors[0], torch.zeros(3, 1, dtype=torch.int64), *tensors[1:])

    layers = [layer for layer in policy.actor if isinstance(layer, nn.Linear)]
    logits = numpy_mlp([x.weight.detach().numpy().T for x in layers], [x.bias.detach().numpy() for x in layers], following)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    weights, biases = ([x.detach().numpy() for x in group] for group in (policy.critic_target.weights, policy.critic_target.biases))
    one, two = (numpy_mlp([w[i] for w in weights], [b[i, 0] for b in biases], following) for i in (0, 1))
    value = np.minimum(one, two) if critic_target == "min" else (one + two) / 2
    if entropy_in_target:
        value -= ent_coef * np.log(p)
    expected = rewards + gamma * (1 - dones) * (p * value).sum(axis=1)

    target = model.td_target(batch, torch.tensor(ent_coef))
    assert target.shape == (3, 1)
    assert target[:, 0].numpy() == pytest.approx(expected, rel=1e-5)
    assert target[1, 0] == -3.0  # nothing follows an end

    n_step = batch._replace(discounts=torch.full((3, 1), gamma**2))
    assert model.td_target(n_step, torch.tensor(ent_coef))[:, 0].numpy() == pytest.approx(rewards + gamma * (expected - rewards), rel=1e-5)


def test_the_target_entropy_falls_linearly():
    model = SACDiscrete("MlpPolicy", vec(bandit, 1), target_entropy_start=0.3, target_entropy_end=0.1)
    for remaining, fraction in [(1.0, 0.3), (0.5, 0.2), (0.0, 0.1), (-0.01, 0.1)]:  # the last vector step may overshoot
        model._current_progress_remaining = remaining
        assert model.target_entropy() == pytest.approx(fraction * np.log(6))


@pytest.mark.parametrize("n_envs", [1, 8, 12, 32])
def test_one_update_for_eight_transitions_whatever_the_number_of_envs(n_envs, monkeypatch):
    model = SACDiscrete("MlpPolicy", vec(bandit, n_envs), learning_starts=0)
    updates = []
    monkeypatch.setattr(model, "train", lambda gradient_steps, batch_size: updates.append(gradient_steps))
    model.learn(480)
    assert sum(updates) == 480 / 8


def test_given_train_freq_and_gradient_steps_are_kept():
    model = SACDiscrete("MlpPolicy", vec(bandit), train_freq=3, gradient_steps=2)
    assert (model.train_freq.frequency, model.gradient_steps) == (3, 2)


# --- numbers stay finite ---


@pytest.mark.parametrize("huge", [1e4, 1e30, float("inf")])
def test_log_probabilities_of_extreme_and_masked_logits_are_finite(huge):
    logits = torch.tensor([[0.0, -huge, 1.0, -huge]], requires_grad=True)
    log_p = log_probabilities(logits)
    p = log_p.exp()
    loss = (p * (0.5 * log_p - torch.arange(4.0))).sum()
    loss.backward()
    assert torch.isfinite(log_p).all()
    assert p[0, 1] == p[0, 3] == 0
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()
    assert logits.grad[0, [1, 3]].abs().max() == 0


def test_training_from_extreme_logits_gives_no_nan():
    model = SACDiscrete("MlpPolicy", vec(bandit), seed=0, **FAST)
    with torch.no_grad():
        model.actor[-1].bias.copy_(torch.tensor([1e4, -1e4, 0, 1e4, -1e4, 5e3]))
    model.learn(400)
    assert model._n_updates > 0
    assert np.isfinite(model.policy.parameters_to_vector()).all()
    assert model.predict(np.zeros(6, np.float32))[0] in range(6)


def test_an_action_masked_by_its_logit_is_never_taken_and_all_else_is_learned():
    """A bias of minus infinity masks an action for good: here the one that pays in context 2, where others are left to choose from."""
    model = SACDiscrete("MlpPolicy", vec(bandit), seed=0, **FAST)
    with torch.no_grad():
        model.actor[-1].bias[2] = -torch.inf
    model.learn(4_000)
    assert model.actor[-1].bias[2] == -torch.inf
    drawn, _ = model.predict(np.repeat(np.eye(6, dtype=np.float32), 100, axis=0), deterministic=False)
    assert 2 not in drawn
    taken = model.replay_buffer.actions[64 // 8 : model.replay_buffer.pos]  # after the random ones of the warm-up
    assert not (taken == 2).any()
    finite = {name for name, value in model.policy.named_parameters() if torch.isfinite(value).all()}
    assert finite == {name for name, _ in model.policy.named_parameters()} - {"actor.2.bias"}
    best, _ = model.predict(np.eye(6, dtype=np.float32), deterministic=True)
    assert [plan for context, plan in enumerate(best.tolist()) if context != 2] == [0, 1, 3, 4, 5]


# --- the face of a Stable-Baselines3 algorithm ---


def test_equal_seeds_give_equal_parameters_and_others_do_not():
    def run(seed):
        return SACDiscrete("MlpPolicy", vec(bandit), seed=seed, **FAST).learn(600).policy.parameters_to_vector()

    first = run(3)
    assert np.array_equal(first, run(3))
    assert not np.array_equal(first, run(4))


def test_a_saved_model_acts_and_learns_on(tmp_path):
    model = SACDiscrete("MlpPolicy", vec(bandit), seed=0, **FAST).learn(800)
    model.save(tmp_path / "model.zip")
    seen = np.random.default_rng(0).uniform(size=(200, 6)).astype(np.float32)
    actions, _ = model.predict(seen, deterministic=True)

    loaded = SACDiscrete.load(tmp_path / "model.zip")  # without an env: acts
    assert np.array_equal(loaded.predict(seen, deterministic=True)[0], actions)
    assert np.array_equal(loaded.policy.parameters_to_vector(), model.policy.parameters_to_vector())
    assert loaded.policy.optimizer.state_dict()["state"][0]["step"] == model._n_updates

    resumed = SACDiscrete.load(tmp_path / "model.zip", env=vec(bandit, 32))  # with another number of envs: the pair follows
    assert (resumed.train_freq.frequency, resumed.gradient_steps) == (1, 4)
    resumed.learn(320, reset_num_timesteps=False)
    assert resumed.num_timesteps == 1120
    assert resumed._n_updates > model._n_updates

    model.policy.save(tmp_path / "policy.pt")
    policy = SACDiscretePolicy.load(tmp_path / "policy.pt", device="cpu")
    assert np.array_equal(policy.predict(seen, deterministic=True)[0], actions)


@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU])
def test_the_actor_is_a_plain_mlp_and_predict_is_its_argmax(activation):
    model = SACDiscrete("MlpPolicy", vec(bandit), policy_kwargs={"activation_fn": activation}, seed=0)
    actor = model.policy.actor
    assert [type(layer) for layer in actor] == [nn.Linear, activation, nn.Linear, activation, nn.Linear]
    assert [layer.out_features for layer in actor if isinstance(layer, nn.Linear)] == [64, 64, 6]
    seen = np.random.default_rng(0).uniform(size=(50, 6)).astype(np.float32)
    assert np.array_equal(model.predict(seen, deterministic=True)[0], actor(torch.from_numpy(seen)).argmax(dim=1).numpy())
    assert isinstance(model.policy.critic.activation, activation)
    drawn, _ = model.predict(np.repeat(seen[:1], 400, axis=0), deterministic=False)
    assert set(drawn.tolist()) == set(range(6))  # near uniform at the start


def test_callbacks_are_called_and_the_logger_sees_the_keys():
    class Collect(KVWriter):
        def __init__(self):
            self.seen = {}

        def write(self, key_values, key_excluded, step=0):
            self.seen |= key_values

    class Stop(BaseCallback):
        def _on_step(self):
            return self.num_timesteps < 400

    collect = Collect()
    model = SACDiscrete("MlpPolicy", vec(bandit), seed=0, **FAST)
    model.set_logger(Logger(folder=None, output_formats=[collect]))
    model.learn(10_000, callback=Stop())
    assert model.num_timesteps == 400
    names = "actor_loss critic_loss ent_coef ent_coef_loss entropy target_entropy q_mean learning_rate n_updates"
    assert {f"train/{name}" for name in names.split()} <= collect.seen.keys()
    assert all(np.isfinite(value) for key, value in collect.seen.items() if key.startswith("train/"))


def test_it_learns_in_compiled_lanes_and_logs_for_tensorboard(small, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="tensorboard is not installed")
    model = SACDiscrete("MlpPolicy", BatchedVecEnv(small, 4, episodes=8), tensorboard_log=str(tmp_path), seed=0, **FAST).learn(800)
    assert model._n_updates == (800 - 64) / 8
    assert len(model.ep_info_buffer) > 0  # whole episodes were seen, so their returns are logged
    log = accumulator.EventAccumulator(str(tmp_path / "SACDiscrete_1")).Reload()
    assert {"train/critic_loss", "train/ent_coef", "train/target_entropy", "rollout/ep_rew_mean"} <= set(log.Tags()["scalars"])


@pytest.mark.parametrize("wrap", [lambda env: env, lambda env: VecNormalize(env, norm_reward=True)])
def test_wrapped_vector_envs_and_n_step_replay_are_taken(wrap):
    env = wrap(vec(bandit, 3))
    kwargs = {"replay_buffer_class": NStepReplayBuffer, "replay_buffer_kwargs": {"n_steps": 2, "gamma": 0.6}}
    model = SACDiscrete("MlpPolicy", env, ent_coef=0.0, seed=0, **kwargs, **FAST).learn(240)
    assert np.isfinite(q_values(model, 6)).all()
    env.close()


# --- refusals ---


class Spaces(gym.Env):
    def __init__(self, observation_space, action_space):
        self.observation_space, self.action_space = observation_space, action_space


FLAT = gym.spaces.Box(0, 1, (4,), np.float32)


@pytest.mark.parametrize(
    ("observation_space", "action_space", "said"),
    [
        (FLAT, gym.spaces.Box(-1, 1, (2,), np.float32), r"action space Box\(.*takes Discrete\(n\) from 0; wrap the env"),
        (FLAT, gym.spaces.MultiDiscrete([3, 4]), "action space MultiDiscrete"),
        (FLAT, gym.spaces.Discrete(3, start=1), "action space Discrete"),
        (gym.spaces.Box(0, 1, (4, 2), np.float32), gym.spaces.Discrete(3), "observation space Box.*FlattenObservation"),
        (gym.spaces.Discrete(5), gym.spaces.Discrete(3), "observation space Discrete"),
    ],
)
def test_unfit_spaces_are_refused(observation_space, action_space, said):
    with pytest.raises(ConfigError, match=said):
        SACDiscrete("MlpPolicy", Spaces(observation_space, action_space))


@pytest.mark.parametrize(
    ("setting", "value"),
    [("critic_target", "max"), ("ent_coef", "often"), ("ent_coef", "auto_0"), ("ent_coef", -1.0), ("update_ratio", 0.0)],
)
def test_unfit_settings_are_refused_by_name_and_value(setting, value):
    with pytest.raises(ConfigError, match=f"{setting} '?{value}"):
        SACDiscrete("MlpPolicy", vec(bandit), **{setting: value})

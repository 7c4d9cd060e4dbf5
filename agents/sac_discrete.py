"""SAC-d: soft actor-critic over a flat list of actions, as a Stable-Baselines3 algorithm.

    actor   observation ─ MLP ─> logits (A)              π(a|s) = softmax
    critics observation ─ 2 MLPs ─> Q₁, Q₂ (A each)      every action at once, so expectations over actions are sums, not samples

Sources, named at the lines that realise them:

    [SAC]     Haarnoja et al. 2018, arXiv 1812.05905: maximum-entropy objective, twin critics, learned temperature (eq. 18)
    [SACD]    Christodoulou 2019, arXiv 1910.07207: exact expectation over discrete actions (eq. 10 value, 11 temperature, 12 policy)
    [SD-SAC]  Zhou et al. 2022, arXiv 2209.10081: the minimum of two critics underestimates with discrete actions; take their mean.
              Its entropy penalty and Q-clip are not built here.
    [DEC]     Asad et al. 2025, arXiv 2509.09838: entropy in the actor's objective need not be in the critic's target
    [SAC-d]   arXiv 2201.02968: discrete SAC that picks exit, partition and bits together; only the abstract could be had, so the
              method is reproduced, not its figures

**How many updates.** SB3 counts `train_freq` in steps of the *vector* env: with n envs one such step yields n transitions, and
`gradient_steps` updates follow every `train_freq` of them, so updates per transition = gradient_steps / (train_freq · n). Leave both
out and they are derived from `update_ratio` (default 1/8), exactly and anew for every number of envs:

    n_envs           1   8   12   32   128
    train_freq       8   1    2    1     1
    gradient_steps   1   1    3    4    16
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, cast

import torch
from gymnasium import spaces
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.torch_layers import create_mlp, get_actor_critic_arch
from torch import nn
from torch.nn import functional

from cutlayer.errors import ConfigError

if TYPE_CHECKING:
    from stable_baselines3.common.buffers import ReplayBuffer
    from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, PyTorchObs, ReplayBufferSamples, Schedule

# Log-probabilities are cut off here: exp gives an exact 0 and 0 · LOG_P_MIN = 0, where 0 · (−∞) would be NaN (a masked action's logit).
LOG_P_MIN = -1e8


def log_probabilities(logits: torch.Tensor) -> torch.Tensor:
    """Logarithms of π, of every action, finite for any logits of which one in each row is finite.

    Logits and result: (batch, A). The shift by the row's largest logit inside log_softmax keeps 1e4 and beyond from overflowing; the
    cut at LOG_P_MIN also passes no gradient to an action of logit −∞.
    """
    return functional.log_softmax(logits, dim=1).clamp_min(LOG_P_MIN)


class TwinCritic(nn.Module):
    """Two independent Q networks in one batched product per layer: one call costs less than two.

    Input (batch, features), output (2, batch, A). Weights are (2, in, out), the transpose of nn.Linear's, and start as nn.Linear's do.
    """

    def __init__(self, features: int, actions: int, net_arch: list[int], activation_fn: type[nn.Module]) -> None:
        super().__init__()
        nets = [[layer for layer in create_mlp(features, actions, net_arch) if isinstance(layer, nn.Linear)] for _ in range(2)]
        pairs = list(zip(*nets, strict=True))
        self.weights = nn.ParameterList([torch.stack([layer.weight.detach().T for layer in pair]) for pair in pairs])
        self.biases = nn.ParameterList([torch.stack([layer.bias.detach()[None] for layer in pair]) for pair in pairs])
        self.activation = activation_fn()

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        hidden = observations.expand(2, -1, -1)
        *inner, (weight, bias) = zip(self.weights, self.biases, strict=True)
        for inner_weight, inner_bias in inner:
            hidden = self.activation(torch.baddbmm(inner_bias, hidden, inner_weight))
        return torch.baddbmm(bias, hidden, weight)


class SACDiscretePolicy(BasePolicy):
    """Actor, twin critics, their slow copies, the temperature and one optimiser over all that learns.

    `actor` is a plain nn.Sequential (Linear, activation, Linear, activation, Linear) from observation to logits: export reads it as it is.
    `net_arch` is a list for all networks or {"pi": [...], "qf": [...]}; `activation_fn` serves all. Optimiser settings other than the
    learning rate go through `optimizer_class` and `optimizer_kwargs`; Adam is fused by default (measured: 63 µs a step instead of 230).
    """

    action_space: spaces.Discrete

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        *,
        net_arch: list[int] | dict[str, list[int]] | None = None,
        activation_fn: type[nn.Module] = nn.Tanh,
        optimizer_class: type[torch.optim.Optimizer] = torch.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
    ) -> None:
        if optimizer_kwargs is None:
            optimizer_kwargs = {"fused": True} if optimizer_class is torch.optim.Adam else {}
        super().__init__(observation_space, action_space, optimizer_class=optimizer_class, optimizer_kwargs=optimizer_kwargs)
        self.net_arch: list[int] | dict[str, list[int]] = [64, 64] if net_arch is None else net_arch
        self.activation_fn = activation_fn
        pi_arch, qf_arch = get_actor_critic_arch(self.net_arch)
        features, actions = cast("tuple[int, ...]", observation_space.shape)[0], int(self.action_space.n)
        self.actor = nn.Sequential(*create_mlp(features, actions, pi_arch, activation_fn))
        self.critic = TwinCritic(features, actions, qf_arch, activation_fn)
        self.critic_target = TwinCritic(features, actions, qf_arch, activation_fn).requires_grad_(requires_grad=False)
        self.critic_target.load_state_dict(self.critic.state_dict())
        # log α rather than α is learned, so that α stays positive; here, so that parameters and optimiser travel together.
        self.log_ent_coef = nn.Parameter(torch.zeros(()))
        # Adam treats every coordinate alone: one optimiser over disjoint losses equals one for each.
        learned = [*self.actor.parameters(), *self.critic.parameters(), self.log_ent_coef]
        self.optimizer = optimizer_class(learned, lr=lr_schedule(1), **optimizer_kwargs)  # type: ignore[call-arg] # Optimizer itself has no lr

    def forward(self, observation: PyTorchObs, deterministic: bool = False) -> torch.Tensor:  # noqa: FBT001, FBT002 # SB3's signature
        return self._predict(observation, deterministic)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> torch.Tensor:  # noqa: FBT001, FBT002 # SB3's signature
        """The most probable action, or one drawn from π: (batch,) of int64."""
        assert isinstance(observation, torch.Tensor)
        logits: torch.Tensor = self.actor(observation.float())
        if deterministic:
            return logits.argmax(dim=1)
        return torch.multinomial(log_probabilities(logits).exp(), 1).squeeze(1)

    def update_target(self, tau: float) -> None:
        """Move the slow critics by the share `tau` of the way to the learned ones ([SAC], exponential moving average of the weights)."""
        with torch.no_grad():
            for slow, learned in zip(self.critic_target.parameters(), self.critic.parameters(), strict=True):
                slow.lerp_(learned, tau)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {
            "observation_space": self.observation_space,
            "action_space": self.action_space,
            "lr_schedule": self._dummy_schedule,  # a policy loaded alone acts, it does not learn
            "net_arch": self.net_arch,
            "activation_fn": self.activation_fn,
            "optimizer_class": self.optimizer_class,
            "optimizer_kwargs": self.optimizer_kwargs,
        }


class SACDiscrete(OffPolicyAlgorithm):
    """Soft actor-critic for a Discrete action, by exact expectations, with defaults for about 100 actions on one CPU thread.

    `SACDiscrete("MlpPolicy", env).learn(100_000)`; `predict(..., deterministic=True)` is the argmax. Any VecEnv. A time limit
    (`TimeLimit.truncated` in info) is bootstrapped, since SB3's replay buffer clears `done` for it; a termination is not.

    Arguments beyond SB3's, and defaults with a reason (figures from our runs on offloading problems with 82 to 110 actions):

    - `gamma` 0.6: a decision touches the next few requests only; with 0.97 noise buries the advantage. Choose it on validation traces.
    - `update_ratio` 1/8 updates per transition, unless `train_freq` or `gradient_steps` is given: see the module's docstring.
    - `critic_target` "mean" ([SD-SAC]) or "min" ([SAC]) of the two critics, in the target and in the actor's objective alike.
    - `entropy_in_target`: whether the critic's target counts future entropy as reward ([SAC], True) or only the actor does ([DEC], False).
    - `ent_coef`: "auto", "auto_0.1" (learned, starting at 0.1), or a fixed number, in units of reward per nat. Learned, it moves by a
      factor of at most about e^learning_rate an update: the entropy trails its target in runs of under some 10,000 updates. A start below
      0.1 of the reward's scale risks an early collapse.
    - `target_entropy_start`, `target_entropy_end`: fractions of log A, met on average over states, annealed linearly over the training.
      [SACD]'s constant 0.98 is far too random for so many actions; 0.3 to 0.02 served 82 actions well.
    - `huber_delta`: TD errors beyond it count linearly. Keep it above the spread of rewards: at 1, a reward of 1 that is −3 in one of ten
      cases is valued at 0.89 instead of its mean 0.6, and risks are taken that do not pay.

    Raises ConfigError for unfit spaces or settings.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"MlpPolicy": SACDiscretePolicy}
    policy: SACDiscretePolicy
    replay_buffer: ReplayBuffer

    def __init__(
        self,
        policy: str | type[SACDiscretePolicy],
        env: GymEnv | str,
        *,
        learning_rate: float | Schedule = 1e-3,
        buffer_size: int = 200_000,
        learning_starts: int = 1_000,
        batch_size: int = 256,
        tau: float = 0.01,
        gamma: float = 0.6,
        update_ratio: float = 0.125,
        train_freq: int | tuple[int, str] | None = None,
        gradient_steps: int | None = None,
        critic_target: Literal["min", "mean"] = "mean",
        entropy_in_target: bool = True,
        ent_coef: float | str = "auto_0.1",
        target_entropy_start: float = 0.3,
        target_entropy_end: float = 0.02,
        huber_delta: float = 10.0,
        replay_buffer_class: type[ReplayBuffer] | None = None,
        replay_buffer_kwargs: dict[str, Any] | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: torch.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        super().__init__(
            policy,
            env,
            learning_rate,
            buffer_size=buffer_size,
            learning_starts=learning_starts,
            batch_size=batch_size,
            tau=tau,
            gamma=gamma,
            train_freq=1 if train_freq is None else train_freq,
            gradient_steps=1 if gradient_steps is None else gradient_steps,
            replay_buffer_class=replay_buffer_class,
            replay_buffer_kwargs=replay_buffer_kwargs,
            policy_kwargs=policy_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            device=device,
            seed=seed,
            sde_support=False,
            support_multi_env=True,
        )
        # None once the caller has set the pair; otherwise the pair follows the number of envs, also that of a later load().
        self.update_ratio = update_ratio if train_freq is None and gradient_steps is None else None
        self.critic_target = critic_target
        self.entropy_in_target = entropy_in_target
        self.ent_coef = ent_coef
        self.target_entropy_start = target_entropy_start
        self.target_entropy_end = target_entropy_end
        self.huber_delta = huber_delta
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        _check_spaces(self.observation_space, self.action_space)
        if self.critic_target not in ("min", "mean"):
            raise ConfigError(f'critic_target {self.critic_target!r} of SACDiscrete is unknown; give "min" or "mean"')
        initial, learned = _parse_ent_coef(self.ent_coef)
        if self.update_ratio is not None:
            if not 1e-3 <= self.update_ratio <= 1e3:
                raise ConfigError(f"update_ratio {self.update_ratio!r} of SACDiscrete is no count of updates per transition; try 0.125")
            per_step = Fraction(self.update_ratio).limit_denominator(1000) * self.n_envs
            self.train_freq, self.gradient_steps = per_step.denominator, per_step.numerator
        super()._setup_model()
        self.policy.log_ent_coef.requires_grad_(learned)
        self.policy.log_ent_coef.data.fill_(initial).log_()
        self.actor = self.policy.actor

    def target_entropy(self) -> float:
        """The entropy in nats that the temperature now steers for: log A times a fraction that falls linearly with progress."""
        remaining = min(max(self._current_progress_remaining, 0.0), 1.0)
        fraction = self.target_entropy_end + (self.target_entropy_start - self.target_entropy_end) * remaining
        return fraction * math.log(int(cast("spaces.Discrete", self.action_space).n))

    def train(self, gradient_steps: int, batch_size: int = 256) -> None:
        """Do `gradient_steps` (at least 1) updates of critics, actor and temperature, each on `batch_size` replayed transitions."""
        policy = self.policy
        self._update_learning_rate(policy.optimizer)
        target_entropy = self.target_entropy()
        for _ in range(gradient_steps):
            batch = self.replay_buffer.sample(batch_size, env=self._vec_normalize_env)
            observations = batch.observations.float()
            ent_coef = policy.log_ent_coef.detach().exp()

            # Critics: Huber where [SAC] squares (eq. 5), from the taken action's Q to the target; mean over both critics and the batch.
            q_values = policy.critic(observations)
            taken = q_values.gather(2, batch.actions.long().expand(2, -1, -1))
            target = self.td_target(batch, ent_coef)
            critic_loss = functional.huber_loss(taken, target.expand_as(taken), delta=self.huber_delta)

            # Actor: Σₐ π (α log π − Q), [SACD] eq. 12. Q is of before this update, since its row is at hand.
            log_p = log_probabilities(policy.actor(observations))
            p = log_p.exp()
            actor_loss = (p * (ent_coef * log_p - self._combine(q_values.detach()))).sum(dim=1).mean()

            # Temperature: [SACD] eq. 11 in log α ([SAC] eq. 18 with the entropy exact): falls while the entropy is above its target.
            entropy = -(p * log_p).detach().sum(dim=1).mean()
            ent_coef_loss = policy.log_ent_coef * (entropy - target_entropy)

            loss = critic_loss + actor_loss  # disjoint parameters: one backward pass serves all
            if policy.log_ent_coef.requires_grad:
                loss = loss + ent_coef_loss
            policy.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call] # torch leaves it untyped
            policy.optimizer.step()
            policy.update_target(self.tau)

        self._n_updates += gradient_steps
        # Of the last update: a mean over all would cost a copy out of torch for each.
        self.logger.record("train/actor_loss", actor_loss.item())
        self.logger.record("train/critic_loss", critic_loss.item())
        self.logger.record("train/q_mean", taken.detach().mean().item())
        self.logger.record("train/entropy", entropy.item())
        self.logger.record("train/target_entropy", target_entropy)
        self.logger.record("train/ent_coef", ent_coef.item())
        if policy.log_ent_coef.requires_grad:
            self.logger.record("train/ent_coef_loss", ent_coef_loss.item())
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")

    @torch.no_grad()
    def td_target(self, batch: ReplayBufferSamples, ent_coef: torch.Tensor) -> torch.Tensor:
        """What Q should be: r + γ (1 − done) Σₐ π(a|s') (Q̄(s',a) − α log π(a|s')): (batch, 1), in the unit of the reward.

        [SACD] eq. 10 for the sum; the entropy term drops out with `entropy_in_target=False` ([DEC]). Q̄ are the slow critics. `done` is
        already 0 where a time limit cut the episode. With SB3's n-step buffer γ is its γⁿ of each row.
        """
        next_observations = batch.next_observations.float()
        log_p = log_probabilities(self.policy.actor(next_observations))
        value = self._combine(self.policy.critic_target(next_observations))
        if self.entropy_in_target:
            value = value - ent_coef * log_p
        discounts = getattr(batch, "discounts", None)  # the field came with SB3 2.7
        expected = (log_p.exp() * value).sum(dim=1, keepdim=True)
        return batch.rewards + (1 - batch.dones) * (self.gamma if discounts is None else discounts) * expected

    def _combine(self, q_values: torch.Tensor) -> torch.Tensor:
        """(2, batch, A) to (batch, A): minimum ([SAC], against overestimation) or mean ([SD-SAC], against underestimation)."""
        return q_values.amin(dim=0) if self.critic_target == "min" else q_values.mean(dim=0)

    def learn(  # SB3's signature
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 4,
        tb_log_name: str = "SACDiscrete",
        reset_num_timesteps: bool = True,  # noqa: FBT001, FBT002 # SB3's signature
        progress_bar: bool = False,  # noqa: FBT001, FBT002 # as above
    ) -> Self:
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "actor"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "policy.optimizer"], []


def _check_spaces(observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> None:
    """Refuse what the networks cannot take."""
    if not isinstance(action_space, spaces.Discrete) or action_space.start != 0:
        raise ConfigError(f"action space {action_space} of the env: SACDiscrete takes Discrete(n) from 0; wrap the env (Box: SB3's SAC)")
    if not isinstance(observation_space, spaces.Box) or len(observation_space.shape) != 1:
        raise ConfigError(f"observation space {observation_space} of the env: SACDiscrete takes a flat Box; use FlattenObservation")


def _parse_ent_coef(ent_coef: float | str) -> tuple[float, bool]:
    """(initial value, whether it is learned) of "auto", "auto_VALUE" or a number."""
    text = str(ent_coef)
    learned = text.startswith("auto")
    try:
        value = float((text.removeprefix("auto").removeprefix("_") or "1") if learned else text)
    except ValueError:
        value = math.nan
    if not (0 < value < math.inf or (value == 0 and not learned)):
        raise ConfigError(f'ent_coef {ent_coef!r} of SACDiscrete must be "auto", "auto_VALUE" with VALUE above 0, or a number from 0 up')
    return value, learned

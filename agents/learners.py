"""The algorithms that `cutlayer train` knows, in one table; what has the face of `Trainee` can join it.

To add one: give its recipe a field `steps`, its class the members of `Trainee`, and a line to `LEARNERS`. Progress, validation, the best
state, checkpoints, resuming and `run.json` are then `agents.train`'s work.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, cast

from stable_baselines3 import DQN, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import LinearSchedule
from torch import nn

from cutlayer.agents import all_action, recipes, resumable
from cutlayer.agents.sac_discrete import SACDiscrete
from cutlayer.envs.vector_env import BatchedVecEnv

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.logger import Logger

    from cutlayer.envs.simulation import EngineName
    from cutlayer.envs.spec import Scenario


class Trainee(Protocol):
    """A learner on its scenario, with its recipe and seed. Its generators are its own or the global ones, which `train` keeps."""

    @property
    def steps(self) -> int:
        """Requests learned from so far."""
        ...

    def learn(self, between: Callable[[], None], logger: Logger) -> None:
        """Go on until the recipe's steps are done; call `between` before every round of collecting and learning.

        Only there are `state`, `actor` and `save` called.
        """
        ...

    def actor(self) -> nn.Sequential:
        """Observation to one logit a plan, linear layers and one kind of activation: what would ship now. Read at once, never kept."""
        ...

    def save(self, file: Path) -> None:
        """Write what `Learner.load` reads."""
        ...

    def state(self) -> dict[str, Any]:
        """Everything that what is still to come depends on, as tensors, plain values, lists, tuples and dicts of them."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Be, newly made, as at `state`."""
        ...


@dataclass(frozen=True, slots=True)
class Learner:
    """How an algorithm is trained, made and read again.

    recipe: scenario's name to a frozen dataclass with a field `steps`. make: (recipe, scenario, seed, engine) to a trainee. load: a saved
    file to its actor.
    """

    recipe: Callable[[str], Any]
    make: Callable[[Any, Scenario, int, EngineName], Trainee]
    load: Callable[[Path], nn.Sequential]


def actor(model: BaseAlgorithm) -> nn.Sequential:
    """The part of a Stable-Baselines3 model that decides; of DQN the Q-values, whose largest is the plan too."""
    if isinstance(model, SACDiscrete):
        return model.policy.actor
    if isinstance(model, DQN):
        return model.q_net.q_net
    policy: Any = model.policy  # PPO's and MaskablePPO's have these two parts
    return nn.Sequential(*policy.mlp_extractor.policy_net, policy.action_net)


class Rounds(BaseCallback):
    """Calls back before every round of collecting and learning."""

    def __init__(self, between: Callable[[], None]) -> None:
        super().__init__()
        self._between = between

    def _on_rollout_start(self) -> None:
        self._between()

    def _on_step(self) -> bool:
        return True


class AnnealedEntropy(BaseCallback):
    """Lowers PPO's entropy bonus with the learning rate; Stable-Baselines3 has no schedule for it."""

    def __init__(self, entropy: float, steps: int) -> None:
        super().__init__()
        self._entropy, self._steps = entropy, steps

    def _on_step(self) -> bool:
        left = 1.0 - self.num_timesteps / self._steps
        cast("PPO", self.model).ent_coef = self._entropy * max(0.05, left)
        return True


class Sb3:
    """A Stable-Baselines3 algorithm as a `Trainee`."""

    def __init__(self, model: BaseAlgorithm, steps: int, callbacks: Sequence[BaseCallback] = ()) -> None:
        self.model = model
        self._goal, self._callbacks = steps, callbacks

    @property
    def steps(self) -> int:
        """See `Trainee`."""
        return self.model.num_timesteps

    def learn(self, between: Callable[[], None], logger: Logger) -> None:
        """See `Trainee`."""
        self.model.set_logger(logger)
        # With reset_num_timesteps left out SB3 would begin the world anew; without it, it adds what is done to what it is told.
        left = self._goal - self.steps
        if left > 0:
            self.model.learn(left, callback=[Rounds(between), *self._callbacks], reset_num_timesteps=False)

    def actor(self) -> nn.Sequential:
        """See `Trainee`."""
        return actor(self.model)

    def save(self, file: Path) -> None:
        """See `Trainee`."""
        self.model.save(file)

    def state(self) -> dict[str, Any]:
        """See `Trainee`."""
        return resumable.state(self.model)

    def restore(self, state: dict[str, Any]) -> None:
        """See `Trainee`."""
        resumable.restore(self.model, state)


def world(recipe: recipes.Recipe, scenario: Scenario, seed: int, engine: EngineName) -> BatchedVecEnv | resumable.EnvsOneByOne:
    """Many episodes side by side: in compiled lanes, or environments on the reference engine one by one."""
    if engine == "kernel":
        return BatchedVecEnv(scenario, recipe.lanes, seed, recipe.episodes)
    return resumable.EnvsOneByOne(scenario, recipe.lanes, engine)


def _ppo(recipe: recipes.Ppo, scenario: Scenario, seed: int, engine: EngineName, kind: Callable[..., BaseAlgorithm] = PPO) -> Sb3:
    model = kind(
        "MlpPolicy",
        world(recipe, scenario, seed, engine),
        learning_rate=LinearSchedule(recipe.learning_rate, 0.0, 1.0),
        n_steps=recipe.rollout,
        batch_size=recipe.batch,
        n_epochs=recipe.epochs,
        gamma=recipe.gamma,
        gae_lambda=recipe.gae_lambda,
        ent_coef=recipe.entropy,
        policy_kwargs={
            "net_arch": {"pi": list(recipe.hidden), "vf": list(recipe.hidden)},
            "activation_fn": nn.Tanh,
            "optimizer_kwargs": {"eps": 1e-5, "fused": True},  # SB3's epsilon; one call for all weights
        },
        seed=seed,
        device="cpu",
    )
    return Sb3(model, recipe.steps, [AnnealedEntropy(recipe.entropy, recipe.steps)])


def _maskable_ppo(recipe: recipes.Ppo, scenario: Scenario, seed: int, engine: EngineName) -> Sb3:
    from sb3_contrib import MaskablePPO

    return _ppo(recipe, scenario, seed, engine, MaskablePPO)


def _dqn(recipe: recipes.Dqn, scenario: Scenario, seed: int, engine: EngineName) -> Sb3:
    model = DQN(
        "MlpPolicy",
        world(recipe, scenario, seed, engine),
        learning_rate=LinearSchedule(recipe.learning_rate, 0.0, 1.0),
        buffer_size=recipe.replay,
        learning_starts=recipe.warm_up,
        batch_size=recipe.batch,
        gamma=recipe.gamma,
        train_freq=1,
        gradient_steps=recipe.updates,
        target_update_interval=recipe.target_interval,
        exploration_fraction=recipe.exploring,
        exploration_final_eps=recipe.random_plans,
        policy_kwargs={"net_arch": list(recipe.hidden)},
        seed=seed,
        device="cpu",
    )
    return Sb3(model, recipe.steps)


def _sac_d(recipe: recipes.SacD, scenario: Scenario, seed: int, engine: EngineName) -> Sb3:
    model = SACDiscrete(
        "MlpPolicy",
        world(recipe, scenario, seed, engine),
        learning_rate=LinearSchedule(recipe.learning_rate, 0.0, 1.0),
        learning_starts=recipe.warm_up,
        batch_size=recipe.batch,
        gamma=recipe.gamma,
        update_ratio=recipe.update_ratio,
        policy_kwargs={"net_arch": list(recipe.hidden)},
        seed=seed,
        device="cpu",
    )
    return Sb3(model, recipe.steps)


def _load(kind: type[BaseAlgorithm], file: Path) -> nn.Sequential:
    return actor(kind.load(file, device="cpu"))


def _load_maskable_ppo(file: Path) -> nn.Sequential:
    from sb3_contrib import MaskablePPO

    return _load(MaskablePPO, file)


LEARNERS: dict[str, Learner] = {
    "ppo": Learner(partial(recipes.choose, "ppo"), _ppo, partial(_load, PPO)),
    "myopic-ppo": Learner(partial(recipes.choose, "myopic-ppo"), _ppo, partial(_load, PPO)),
    "maskable-ppo": Learner(partial(recipes.choose, "maskable-ppo"), _maskable_ppo, _load_maskable_ppo),
    "dqn": Learner(partial(recipes.choose, "dqn"), _dqn, partial(_load, DQN)),
    "sac-d": Learner(partial(recipes.choose, "sac-d"), _sac_d, partial(_load, SACDiscrete)),
    "all-action": Learner(all_action.choose, all_action.make, all_action.load_actor),
}

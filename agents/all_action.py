"""All-action policy gradient: at each visited state the simulator tells what every plan brings in one and the same future.

    policy   observation ─ MLP ─> logits (plans)     π = softmax; its slow average is what acts in the end and ships
    value    observation ─ MLP ─> V                  of what follows under π; a slow copy V̄ makes the targets
    worth    y_a = r_a + γ V̄(o'_a)                   of every plan a, from copies of the world (`envs.branching`)
    loss     −Σ_a π(a|o) (y_a − Σ_b π(b|o) y_b) − w H(π)      and V regressed on Σ_a π(a|o) y_a

The sum over plans is the all-action policy gradient (Sutton, Singh, McAllester 2001, "Comparing policy-gradient algorithms"; expected
policy gradients, Ciosek and Whiteson 2018, arXiv 1706.05374); there a critic guesses what the plans not taken are worth, here that is
simulated.
What noise is left is the future itself, and it is the same for all plans. As the sum is exact, states may come from any behaviour: a
replay and stretches of forced offloading need no importance weights.

The gradient of a plan's logit is proportional to its probability, so a policy that has collapsed stays so. The weight w of the entropy
therefore starts at the scale of the rewards' spread, where a late answer is all that counts, and falls by orders of magnitude while the
network learns ever finer differences. The end of an episode is a time limit, which the observation does not show, so V̄ follows it as it
follows any step.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from cutlayer.agents import recipes
from cutlayer.agents.all_action_visits import UNGUIDED, Share, Visits
from cutlayer.agents.bayes import tuning
from cutlayer.agents.resumable import arrays, tensors
from cutlayer.envs import scenarios
from cutlayer.errors import ConfigError
from cutlayer.runtime import features

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from stable_baselines3.common.logger import Logger

    from cutlayer.envs.simulation import EngineName
    from cutlayer.envs.spec import Scenario


@dataclass(frozen=True, slots=True)
class AllActionRecipe(recipes.Recipe):
    """Settings of the learner; `steps` counts visited states, each with the worth of all its plans.

    Chosen on validation episodes, one seed each, 80,000 states. An entropy weight that starts at 0.2 instead of 1 left nsa-uplink at
    the best static plan (0.688; 0.830 from 1 on), with forced offloading and without; a rate of 1e-3 instead of 3e-3 left
    bursty-deadline at 0.80 after 150,000 states (0.805 after 80,000).
    """

    steps: int = 200_000
    lanes: int = 128
    gamma: float = 0.8
    rollout: int = 8  # steps a lane between rounds of updates
    updates: int = 12
    batch: int = 512
    replay: int = 16_384  # states; older ones hold the worth under a policy that is no more
    learning_rate: float = 3e-3  # falls in a straight line to
    last_rate: float = 6e-5
    entropy: float = 1.0  # its weight, reward a nat; falls geometrically to
    last_entropy: float = 0.002
    follow: float = 0.02  # share of its way that the slow value goes at an update
    average: float = 0.01  # and the average policy; at 0.003 it lags 30,000 states behind
    grad_norm: float = 1.0  # of each network
    forced: float = 0.0  # share of requests that must be offloaded; falls in a straight line to
    last_forced: float = 0.0
    forced_requests: float = 15.0  # mean length of such a stretch
    guided: float = 0.0  # share of episodes that the tuned Bayes greedy decides; falls in a straight line to
    last_guided: float = 0.0
    imitate: float = 0.0  # weight of the cross entropy to its plans there, reward a nat; falls in a straight line to
    last_imitate: float = 0.0
    bank: int = 512  # episodes drawn at a time, each begun once
    hidden: tuple[int, ...] = (64, 64)  # tanh, as in every network that ships
    value_hidden: tuple[int, ...] = (64, 64)  # it sees every plan's next observation: two thirds of the time of a visit


# Half the episodes, and at the end a third, are the Bayes greedy's; the entropy needs to lead nowhere then, and starts low.
GUIDED = {"guided": 0.5, "last_guided": 0.3, "entropy": 0.1, "last_entropy": 0.0003}
# What differs by scenario. The discount is matched to how far a decision reaches. Figures: best validation reward, one seed.
RECIPES: Mapping[str, Mapping[str, Any]] = {
    "urllc-ge": {"gamma": 0.6},
    # What there is to gain is finer than an entropy weight of 0.002, and what is sent tells of the link: 0.8266 after 200,000 states with a
    # last weight of 0.0003 and a discount of 0.8, 0.8236 with none, 0.8295 so; the Bayes greedy has 0.8277.
    "paper-urllc": {"gamma": 0.9, "steps": 500_000, "last_entropy": 0.0002},
    # 0.8117 as the default, 0.8125 with a last entropy weight of 0.0003, 0.8154 so; the Bayes greedy has 0.8192.
    "bursty-deadline": {"gamma": 0.9, "steps": 500_000, "last_entropy": 0.0002},
    # A device that is loaded to its limit: without a guide the queue grows and no way leads back. 0.336 as the default, 0.461 with this
    # discount, 0.597 so; the Bayes greedy has 0.604.
    "privacy": {"gamma": 0.95, **GUIDED, "imitate": 1.0, "last_imitate": 1.0},
    # Charge spent now is missed hundreds of requests later. 0.557 with this discount alone, 0.696 so; the Bayes greedy has 0.696.
    "battery-harvest": {"gamma": 0.95, **GUIDED, "imitate": 1.0, "last_imitate": 0.1},
    # On training drives that were left out, three folds, 120 episodes, 200,000 states: 0.784 in the second fold with forced offloading
    # instead of a guide; 0.806 and 0.818 in the second and third so; the Bayes greedy has 0.815 and 0.826 there.
    "lte-uplink": {"gamma": 0.95, "steps": 400_000, **GUIDED, "last_entropy": 0.0005, "imitate": 0.1, "last_imitate": 0.03},
    # 0.826 after 200,000 states, 0.821 with forced offloading, 0.831 so; the Bayes greedy has 0.825.
    "nsa-uplink": {"gamma": 0.9, "steps": 400_000},
    "compound": {"gamma": 0.9},
}


def choose(scenario: str) -> AllActionRecipe:
    """The recipe for a scenario by name; unknown scenarios take the recipe as it is."""
    return dataclasses.replace(AllActionRecipe(), **RECIPES.get(scenario, {}))


def policy_loss(logits: torch.Tensor, worth: torch.Tensor, entropy: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(loss, worth of the policy itself in each state, its mean entropy) from logits and worth of every plan, (states, plans).

    The policy's own worth is taken off as a constant: the gradient is the same without, its rounding is not.
    """
    log_p = functional.log_softmax(logits, dim=1)
    p = log_p.exp()
    own = (p.detach() * worth).sum(dim=1)
    gain = (p * (worth - own[:, None])).sum(dim=1).mean()
    spread = -(p * log_p).sum(dim=1).mean()
    return -gain - entropy * spread, own, spread.detach()


class AllAction:
    """The learner on its scenario; it is an `agents.learners.Trainee`.

    Only a scenario can be learnt, not any environment: the world must be able to copy itself. On one thread equal seeds give equal weights,
    and what is restored from `state` learns on as if it had never stopped.

    `AllAction("urllc-ge", seed=1, gamma=0.5).learn()`, then `predict`, `save`, and `load` to act.

    recipe: that of the scenario unless given; changes: settings of it by name.
    """

    def __init__(self, scenario: str | Scenario, recipe: AllActionRecipe | None = None, seed: int = 0, **changes: Any) -> None:
        self.scenario = scenarios.make(scenario) if isinstance(scenario, str) else scenario
        self.recipe = dataclasses.replace(choose(self.scenario.name) if recipe is None else recipe, **changes)
        self.seed = seed
        self.steps = 0
        self._rng = np.random.default_rng(seed)
        guide = tuning.tuned(self.scenario, 0, "bayes-greedy").parameters if self.recipe.guided > 0.0 else None
        self._visits = Visits(self.scenario, self.recipe, self._rng, guide)
        seen, plans = features.size(self.scenario.blocks), len(self.scenario.plans)
        with torch.random.fork_rng(devices=[]):  # the global generator is somebody else's
            torch.manual_seed(seed)
            self.policy = mlp([seen, *self.recipe.hidden, plans], nn.Tanh)
            self.value = mlp([seen, *self.recipe.value_hidden, 1], nn.ReLU)
        with torch.no_grad():  # begin with all plans nearly alike
            for parameter in self.policy[-1].parameters():
                parameter.mul_(0.01)
        self.average = copy.deepcopy(self.policy).requires_grad_(requires_grad=False)
        self.slow_value = copy.deepcopy(self.value).requires_grad_(requires_grad=False)
        learned = [*self.policy.parameters(), *self.value.parameters()]
        self._optimizer = torch.optim.Adam(learned, lr=self.recipe.learning_rate, fused=True)
        self._seen = np.zeros((self.recipe.replay, seen), np.float32)
        self._worth = np.zeros((self.recipe.replay, plans), np.float32)
        self._shown = np.full(self.recipe.replay, UNGUIDED)

    def learn(self, between: Callable[[], object] = lambda: None, logger: Logger | None = None) -> None:
        """Go on until the recipe's steps are done; `between` is called before every round of visiting and learning."""
        recipe = self.recipe
        while self.steps < recipe.steps:
            between()
            done = self.steps / recipe.steps
            self._visit(Share(_fallen(recipe.forced, recipe.last_forced, done), _fallen(recipe.guided, recipe.last_guided, done)))
            figures = self._update(done)
            if logger is not None:
                for name, value in figures.items():
                    logger.record(f"train/{name}", value)

    def actor(self) -> nn.Sequential:
        """What decides and ships: the average policy."""
        return self.average

    @torch.inference_mode()
    def predict(
        self,
        observation: NDArray[np.float32],
        state: None = None,
        episode_start: NDArray[np.bool_] | None = None,  # noqa: ARG002 - the signature of Stable-Baselines3
        deterministic: bool = False,  # noqa: FBT001, FBT002 - as above
    ) -> tuple[NDArray[np.int64], None]:
        """Plans for one observation or several: the best, or drawn from the policy. `state` is handed back as it came."""
        logits = self.average(torch.from_numpy(np.asarray(observation, np.float32))).numpy()
        if not deterministic:
            logits = logits + self._rng.gumbel(size=logits.shape)
        return logits.argmax(axis=-1), state

    def save(self, file: Path) -> None:
        """Write what acts, and the recipe: tensors and plain values."""
        recipe = dataclasses.asdict(self.recipe)
        torch.save({"scenario": self.scenario.name, "seed": self.seed, "recipe": recipe, "actor": self.average.state_dict()}, file)

    @classmethod
    def load(cls, file: Path, scenario: Scenario | None = None) -> Self:
        """A learner that acts as the saved one; to learn on from where one stopped, `restore` its `state`.

        scenario: what it was trained on, where that has no name or was changed.

        Raises:
            ConfigError: the scenario has other plans or features.
        """
        kept = torch.load(file, weights_only=True)
        model = cls(kept["scenario"] if scenario is None else scenario, AllActionRecipe(**kept["recipe"]), kept["seed"])
        actor = load_actor(file)
        try:
            for network in (model.policy, model.average):
                network.load_state_dict(actor.state_dict())
        except RuntimeError as error:
            raise ConfigError(
                f"{file} was trained on other plans or features than {model.scenario.name} has; hand over its scenario, or train anew"
            ) from error
        return model

    def state(self) -> dict[str, Any]:
        """Everything that the rest of the training depends on."""
        filled = min(self.steps, self.recipe.replay)
        return {
            "steps": self.steps,
            "networks": {name: getattr(self, name).state_dict() for name in _NETWORKS},
            "optimizer": self._optimizer.state_dict(),
            "generator": self._rng.bit_generator.state,
            "visits": tensors(self._visits.state()),
            "replay": tensors({"seen": self._seen[:filled], "worth": self._worth[:filled], "shown": self._shown[:filled]}),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Be, newly made of the same scenario, recipe and seed, as at `state`."""
        self.steps = state["steps"]
        for name in _NETWORKS:
            getattr(self, name).load_state_dict(state["networks"][name])
        self._optimizer.load_state_dict(state["optimizer"])
        self._rng.bit_generator.state = state["generator"]
        self._visits.restore(arrays(state["visits"]))
        replay = arrays(state["replay"])
        for own, name in ((self._seen, "seen"), (self._worth, "worth"), (self._shown, "shown")):
            own[: len(replay[name])] = replay[name]

    def _visit(self, share: Share) -> None:
        visited = self._visits.collect(self.policy, self.slow_value, share)
        at = (self.steps + np.arange(len(visited.seen))) % self.recipe.replay
        self._seen[at], self._worth[at], self._shown[at] = visited
        self.steps += len(visited.seen)

    def _update(self, done: float) -> dict[str, float]:
        """Some minibatches of the replay; the figures of the last one."""
        recipe = self.recipe
        entropy = recipe.entropy * (recipe.last_entropy / recipe.entropy) ** done
        for group in self._optimizer.param_groups:
            group["lr"] = _fallen(recipe.learning_rate, recipe.last_rate, done)
        filled = min(self.steps, recipe.replay)
        for _ in range(recipe.updates):
            drawn = self._rng.integers(filled, size=recipe.batch)
            seen, worth = torch.from_numpy(self._seen[drawn]), torch.from_numpy(self._worth[drawn])
            logits = self.policy(seen)
            loss, own, spread = policy_loss(logits, worth, entropy)
            if recipe.imitate > 0.0:
                shown = torch.from_numpy(self._shown[drawn])
                apart = functional.cross_entropy(logits, shown, ignore_index=UNGUIDED, reduction="sum") / recipe.batch
                loss = loss + _fallen(recipe.imitate, recipe.last_imitate, done) * apart
            value_loss = functional.mse_loss(self.value(seen).squeeze(1), own)
            self._optimizer.zero_grad()
            (loss + value_loss).backward()  # type: ignore[no-untyped-call] # torch leaves it untyped; no weight is in both
            for network in (self.policy, self.value):
                nn.utils.clip_grad_norm_(network.parameters(), recipe.grad_norm)
            self._optimizer.step()
            _follow(self.slow_value, self.value, recipe.follow)
            _follow(self.average, self.policy, recipe.average)
        found = {"entropy": spread, "value_loss": value_loss, "worth_mean": own.mean()}
        return {"entropy_weight": entropy, **{name: value.item() for name, value in found.items()}}


_NETWORKS = ("policy", "value", "average", "slow_value")


def mlp(sizes: list[int], activation: type[nn.Module]) -> nn.Sequential:
    """Linear layers of these sizes, input first, with the activation between them."""
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), activation()]
    return nn.Sequential(*layers[:-1])


def _fallen(first: float, last: float, done: float) -> float:
    """On the straight line between them."""
    return first + (last - first) * done


@torch.no_grad()
def _follow(slow: nn.Module, learned: nn.Module, share: float) -> None:
    for one, other in zip(slow.parameters(), learned.parameters(), strict=True):
        one.lerp_(other, share)


def make(recipe: AllActionRecipe, scenario: Scenario, seed: int, engine: EngineName) -> AllAction:
    """The learner as `agents.learners` makes them.

    Raises:
        ConfigError: the engine cannot copy its world.
    """
    if engine != "kernel":
        raise ConfigError(f"all-action needs copies of the world, which the {engine} engine cannot make; take --engine kernel")
    return AllAction(scenario, recipe, seed)


def load_actor(file: Path) -> nn.Sequential:
    """What `AllAction.save` wrote, as the network that decides."""
    weights = torch.load(file, weights_only=True)["actor"]
    layers = [weight for name, weight in weights.items() if name.endswith("weight")]
    actor = mlp([layers[0].shape[1], *(len(weight) for weight in layers)], nn.Tanh)
    actor.load_state_dict(weights)
    return actor.requires_grad_(requires_grad=False)

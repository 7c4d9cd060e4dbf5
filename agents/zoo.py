"""Settings for RL Baselines3 Zoo: PPO and DQN as `cutlayer train` runs them, on every registered environment with discrete actions.

    pip install rl_zoo3 requests     (rl_zoo3 2.9.2 forgets to name the second)
    python -m rl_zoo3.train --algo ppo --env cutlayer/Offload-v0 --gym-packages cutlayer.envs --conf-file cutlayer.agents.zoo

`--env-kwargs "scenario:'urllc-ge'" "engine:'kernel'" --hyperparams gamma:0.6` takes another scenario, the compiled engine and the
discount that goes with the scenario. `hyperparams/ppo.yml` and `hyperparams/dqn.yml` say the same in the zoo's own format, with what
differs by scenario below it; `python -m cutlayer.agents.zoo DIR` writes them from the recipes. The zoo has no schedule for the entropy
bonus, so it stays where `cutlayer train` begins.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cutlayer.agents import recipes

if TYPE_CHECKING:
    from collections.abc import Callable

FLAT, HEADS = "cutlayer/Offload-v0", "cutlayer/OffloadMultiDiscrete-v0"


def _ppo(recipe: recipes.Ppo) -> dict[str, Any]:
    return {
        "policy": "MlpPolicy",
        "n_timesteps": recipe.steps,
        "n_envs": recipe.lanes,
        "n_steps": recipe.rollout,
        "batch_size": recipe.batch,
        "n_epochs": recipe.epochs,
        "learning_rate": f"lin_{recipe.learning_rate}",
        "gamma": recipe.gamma,
        "gae_lambda": recipe.gae_lambda,
        "ent_coef": recipe.entropy,
        "policy_kwargs": {"net_arch": {"pi": list(recipe.hidden), "vf": list(recipe.hidden)}},
    }


def _dqn(recipe: recipes.Dqn) -> dict[str, Any]:
    return {
        "policy": "MlpPolicy",
        "n_timesteps": recipe.steps,
        "n_envs": recipe.lanes,
        "learning_rate": f"lin_{recipe.learning_rate}",
        "buffer_size": recipe.replay,
        "learning_starts": recipe.warm_up,
        "batch_size": recipe.batch,
        "gamma": recipe.gamma,
        "train_freq": 1,
        "gradient_steps": recipe.updates,
        "target_update_interval": recipe.target_interval,
        "exploration_fraction": recipe.exploring,
        "exploration_final_eps": recipe.random_plans,
        "policy_kwargs": {"net_arch": list(recipe.hidden)},
    }


# The zoo's names of what it can train; it has no SAC-d and no masks.
SETTINGS: dict[str, tuple[Callable[[Any], dict[str, Any]], tuple[str, ...]]] = {"ppo": (_ppo, (FLAT, HEADS)), "dqn": (_dqn, (FLAT,))}
hyperparams = {name: _ppo(recipes.Ppo()) for name in SETTINGS["ppo"][1]}


def text(algorithm: str) -> str:
    """The YAML file of an algorithm: the environments, then the scenarios that differ from them."""
    recipe, by_scenario = recipes.RECIPES[algorithm]
    settings, (first, *others) = SETTINGS[algorithm]
    plain = settings(recipe)
    lines = [
        "# Written by `python -m cutlayer.agents.zoo agents/hyperparams` from agents/recipes.py.",
        f"{first}: &plain",
        *(f"  {key}: {_flow(value)}" for key, value in plain.items()),
        *(f"{name}:\n  <<: *plain" for name in others),
        "# By scenario; the zoo looks for names of environments only, so give what differs by --hyperparams.",
    ]
    for scenario in by_scenario:
        own = settings(recipes.choose(algorithm, scenario))
        lines += [f"{scenario}:\n  <<: *plain", *(f"  {key}: {_flow(own[key])}" for key in own if own[key] != plain[key])]
    return "\n".join(lines) + "\n"


def _flow(value: Any) -> str:
    """A value on one line of YAML."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(one)}" for key, one in value.items()) + "}"
    return str(value)


if __name__ == "__main__":
    for name in SETTINGS:
        (Path(sys.argv[1]) / f"{name}.yml").write_text(text(name), encoding="utf-8")

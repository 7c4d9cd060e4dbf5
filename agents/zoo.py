"""Settings for RL Baselines3 Zoo: PPO as `cutlayer train` runs it, on every registered environment with discrete actions.

    pip install rl_zoo3 requests     (rl_zoo3 2.9.2 forgets to name the second)
    python -m rl_zoo3.train --algo ppo --env cutlayer/Offload-v0 --gym-packages cutlayer.envs --conf-file cutlayer.agents.zoo

`--env-kwargs "scenario:'urllc-ge'" "engine:'kernel'"` takes another scenario and the compiled engine. The zoo has no schedule for the
entropy bonus, so it stays where `cutlayer train` begins.
"""

from __future__ import annotations

from typing import Any

from cutlayer.agents import recipes

_PPO = recipes.Ppo()
_SETTINGS: dict[str, Any] = {
    "policy": "MlpPolicy",
    "n_timesteps": _PPO.steps,
    "n_envs": _PPO.lanes,
    "n_steps": _PPO.rollout,
    "batch_size": _PPO.batch,
    "n_epochs": _PPO.epochs,
    "learning_rate": f"lin_{_PPO.learning_rate}",
    "gamma": _PPO.gamma,
    "gae_lambda": _PPO.gae_lambda,
    "ent_coef": _PPO.entropy,
    "policy_kwargs": {"net_arch": {"pi": list(_PPO.hidden), "vf": list(_PPO.hidden)}},
}
hyperparams = {name: dict(_SETTINGS) for name in ("cutlayer/Offload-v0", "cutlayer/OffloadMultiDiscrete-v0")}

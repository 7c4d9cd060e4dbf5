"""A policy by name: a baseline, the path of a bundle, or a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cutlayer.agents import baselines, evaluate, export
from cutlayer.errors import ConfigError
from cutlayer.runtime import bundle

if TYPE_CHECKING:
    from cutlayer.agents.evaluate import Policy
    from cutlayer.envs.spec import Scenario


def make(scenario: Scenario, name: str, seed: int) -> Policy:
    """The policy; rules are tuned on `scenario`, which is to hold training drives only.

    Raises:
        ConfigError: no such policy, or one for another plan table.
    """
    if name in baselines.RULES:
        return baselines.RULES[name](scenario, seed)
    path = Path(name)
    if path.is_dir():
        model, manifest = export.load_run(path)
        if manifest["plans_sha256"] != scenario.plans.digest():
            raise ConfigError(f"{path} was trained on another plan table than {scenario.name} has; train it anew")
        return evaluate.Learned(export.network(model))
    if path.exists():
        loaded = bundle.load(path)
        if loaded.plans.digest() != scenario.plans.digest():
            raise ConfigError(f"{path} was exported for another plan table than {scenario.name} has; export it anew")
        return evaluate.Learned(loaded.policy)
    known = ", ".join([*baselines.RULES, "clairvoyant"])
    raise ConfigError(f"unknown policy {name!r}; give a bundle, a run folder or one of: {known}")

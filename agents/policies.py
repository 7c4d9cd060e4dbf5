"""A policy by name: a baseline, an oracle, what ships for the scenario, the path of a bundle, or a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cutlayer.agents import baselines, evaluate, export, oracle, shipped
from cutlayer.errors import ConfigError, nearest
from cutlayer.runtime import bundle, features

if TYPE_CHECKING:
    from cutlayer.agents.evaluate import Policy
    from cutlayer.envs.spec import Scenario
    from cutlayer.runtime.policy import Mlp

BEST_LEARNED = "best-learned"


def names() -> list[str]:
    """Names that `make` knows; it takes paths too."""
    return [*baselines.RULES, *oracle.ORACLES, BEST_LEARNED]


def make(scenario: Scenario, name: str, seed: int) -> Policy:
    """The policy; rules are tuned on `scenario`, which is to hold training drives only.

    Raises:
        ConfigError: no such policy, or one for another plan table or other features.
    """
    if name in baselines.RULES:
        return baselines.RULES[name](scenario, seed)
    if name in oracle.ORACLES:
        return oracle.ORACLES[name](scenario)
    path = shipped.find(scenario.name) if name == BEST_LEARNED else Path(name)
    if path.is_dir():
        actor, manifest = export.load_run(path)
        return _fitting(scenario, export.network(actor), str(manifest["plans_sha256"]), f"{path} was trained", "train it anew")
    if path.exists():
        loaded = bundle.load(path)
        return _fitting(scenario, loaded.policy, loaded.plans.digest(), f"{path} was exported", "export it anew")
    raise ConfigError(f"unknown policy {name!r}; {nearest(name, names())}give a bundle, a run folder or one of: {', '.join(names())}")


def _fitting(scenario: Scenario, network: Mlp, plans_sha256: str, was_made: str, mend: str) -> Policy:
    """The network as a policy, where it is one for this scenario's plans and features."""
    if plans_sha256 != scenario.plans.digest():
        raise ConfigError(f"{was_made} for another plan table than {scenario.name} has; {mend}")
    size = features.size(scenario.blocks)
    if network.inputs != size:
        raise ConfigError(f"{was_made} for {network.inputs} features and {scenario.name} has {size}; {mend}")
    return evaluate.Learned(network)

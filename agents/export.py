"""From a trained model to a bundle that needs no training stack."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import torch
from stable_baselines3 import PPO
from torch import nn

from cutlayer import __version__
from cutlayer.agents.sac_discrete import SACDiscrete
from cutlayer.agents.train import MODEL, RUN
from cutlayer.envs import scenarios
from cutlayer.errors import ConfigError
from cutlayer.runtime import features
from cutlayer.runtime.bundle import GOLDEN, Bundle, Golden
from cutlayer.runtime.policy import Activation, Mlp

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from cutlayer.envs.spec import Scenario


KINDS: dict[str, type[PPO | SACDiscrete]] = {"ppo": PPO, "sac-d": SACDiscrete}


def actor(model: PPO | SACDiscrete) -> nn.Sequential:
    """The part of a model that decides: observation to one logit a plan."""
    if isinstance(model, PPO):
        return nn.Sequential(*model.policy.mlp_extractor.policy_net, model.policy.action_net)
    return model.policy.actor


def network(model: PPO | SACDiscrete) -> Mlp:
    """The actor as the numpy network that ships."""
    modules = list(actor(model))
    linear = [module for module in modules if isinstance(module, nn.Linear)]
    activation: Activation = "relu" if any(isinstance(module, nn.ReLU) for module in modules) else "tanh"
    return Mlp([(layer.weight.detach().numpy().copy(), layer.bias.detach().numpy().copy()) for layer in linear], activation)


@torch.inference_mode()
def torch_plans(model: PPO | SACDiscrete, observations: NDArray[np.float32]) -> NDArray[np.int64]:
    """What the trained network itself chooses; shape (n, features) to (n,)."""
    chosen: NDArray[np.int64] = actor(model)(torch.from_numpy(observations)).argmax(1).numpy()
    return chosen


def bundle(scenario: Scenario, algorithm: str, model: PPO | SACDiscrete, trained: dict[str, str | int | float]) -> Bundle:
    """Everything that deciding needs, with golden decisions by the trained network itself."""
    rng = np.random.default_rng(0)
    observations = rng.uniform(features.LOW, features.HIGH, (4 * GOLDEN, features.SIZE)).astype(np.float32)
    with torch.inference_mode():
        logits = actor(model)(torch.from_numpy(observations)).numpy()
    # A golden pair must not hang on the last bit: keep those whose best plan is clearly best.
    best = np.sort(logits, axis=1)
    clear = np.argsort(-(best[:, -1] - best[:, -2]), kind="stable")[:GOLDEN]
    golden = Golden(observations[clear].tolist(), logits[clear].argmax(1).tolist())
    return Bundle(scenario.name, algorithm, scenario.plans, scenario.path, scenario.objective, network(model), golden, trained)


def load_run(folder: Path) -> tuple[PPO | SACDiscrete, dict[str, object]]:
    """Model and manifest of a run folder.

    Raises:
        ConfigError: it is no run folder, or a part of it is missing or damaged.
    """
    try:
        manifest: dict[str, object] = msgspec.json.decode((folder / RUN).read_bytes(), type=dict[str, object])
        missing = [key for key in ("scenario", "plans_sha256", "commit", "date", "inputs") if key not in manifest]
        if missing:
            raise KeyError(f"{RUN} lacks {', '.join(missing)}")
        kind: type[PPO | SACDiscrete] = KINDS[str(manifest["algorithm"])]
        model = kind.load(folder / MODEL, device="cpu")
    except (OSError, KeyError, ValueError, RuntimeError, msgspec.DecodeError, zipfile.BadZipFile) as error:
        make = f"cutlayer train --scenario camera --algo ppo -o {folder}"
        raise ConfigError(f"{folder} is no run folder ({error}); make one with: {make}") from error
    return model, manifest


def export(folder: Path, file: Path, scenario: Scenario | None = None) -> Bundle:
    """Write the bundle of a run folder; the scenario is found by the name in its `run.json` unless it is given.

    Raises:
        ConfigError: no run folder, or it was trained on other plans than the scenario has now.
    """
    model, manifest = load_run(folder)
    scenario = scenario if scenario is not None else scenarios.make(str(manifest["scenario"]))
    if manifest["plans_sha256"] != scenario.plans.digest():
        raise ConfigError(f"{folder} was trained on another plan table than {scenario.name} has now; train it anew")
    trained: dict[str, str | int | float] = {key: str(manifest[key]) for key in ("commit", "date", "inputs")}
    made = bundle(scenario, str(manifest["algorithm"]), model, trained)
    made.save(file, __version__)
    return made

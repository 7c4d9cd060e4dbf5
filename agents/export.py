"""From a trained network to a bundle that needs no training stack, checked on the way: every form of the policy decides alike."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING

import msgspec
import numpy as np
import torch
from torch import nn

from cutlayer import __version__
from cutlayer.agents import agreement, inputs, states
from cutlayer.agents.learners import LEARNERS
from cutlayer.agents.train import MODEL, RUN
from cutlayer.envs import scenarios
from cutlayer.errors import BundleError, ConfigError
from cutlayer.runtime import features
from cutlayer.runtime.bundle import GOLDEN, Bundle, Golden
from cutlayer.runtime.guard import Ranges
from cutlayer.runtime.policy import Activation, Mlp, OnnxPolicy, Policy

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from cutlayer.envs.spec import Scenario

CHECKED = 10_000  # observations on which every form has to agree before a bundle is written; a test takes 100,000
EPISODES = 64  # of training, whose states give the ranges: 12,800 requests of most scenarios
EXPLORING = 0.1  # share of them with any plan: our choice; training explored too, and a careful policy sees little of the world
ACTIVATIONS: dict[type[nn.Module], Activation] = {nn.Tanh: "tanh", nn.ReLU: "relu"}


def network(actor: nn.Sequential) -> Mlp:
    """An actor as the numpy network that ships.

    Raises:
        BundleError: it holds other layers than linear ones with one kind of activation between them.
    """
    modules = list(actor)
    linear = [module for module in modules[::2] if isinstance(module, nn.Linear)]
    between = {type(module) for module in modules[1::2]}
    if 2 * len(linear) - 1 != len(modules) or not between <= set(ACTIVATIONS) or len(between) > 1:
        found = ", ".join(type(module).__name__ for module in modules)
        raise BundleError(f"cannot export a network of ({found}): only linear layers with tanh or relu between them ship")
    layers = [(layer.weight.detach().numpy().copy(), layer.bias.detach().numpy().copy()) for layer in linear]
    return Mlp(layers, ACTIVATIONS[between.pop()] if between else "tanh")


@torch.inference_mode()
def torch_plans(actor: nn.Sequential, observations: NDArray[np.float32]) -> NDArray[np.int64]:
    """What the trained network itself chooses; shape (n, features) to (n,)."""
    chosen: NDArray[np.int64] = actor(torch.from_numpy(observations)).argmax(1).numpy()
    return chosen


def bundle(scenario: Scenario, algorithm: str, actor: nn.Sequential, trained: dict[str, str | int | float]) -> Bundle:
    """Everything that deciding needs, with golden decisions by the trained network itself.

    Raises:
        BundleError: the network is none that ships, or a form of it decides otherwise.
    """
    policy = network(actor)
    seen = _states(policy, scenario)
    check(actor, policy, np.concatenate([seen[:CHECKED], agreement.observations(policy.inputs, CHECKED)]))
    return Bundle(
        scenario.name,
        algorithm,
        scenario.plans,
        scenario.path,
        scenario.objective,
        policy,
        _golden(actor, np.concatenate([seen[: 2 * GOLDEN], agreement.observations(policy.inputs, 8 * GOLDEN)])),
        trained,
        scenario.blocks,
        ranges=Ranges.seen(seen),
    )


def check(actor: nn.Sequential, policy: Mlp, observations: NDArray[np.float32]) -> list[agreement.Agreement]:
    """Hold numpy and ONNX Runtime against torch; how they compare, in this order.

    Raises:
        BundleError: one decides otherwise, and rounding does not explain it.
    """
    exact, trained = agreement.Exact(policy, observations), torch_plans(actor, observations)
    found = []
    forms: dict[str, Policy] = {"numpy": policy, "ONNX Runtime": OnnxPolicy(policy, "the policy")}
    for name, form in forms.items():
        one = exact.compare(trained, agreement.plans(form, observations))
        if one.differ:
            raise BundleError(f"{name} decides {one.differ} of {one.observations} observations otherwise than torch; report this as a bug")
        found.append(one)
    return found


def _states(policy: Mlp, scenario: Scenario) -> NDArray[np.float32]:
    """Observations of training episodes, on training drives where there are any, in random order."""
    rng = np.random.default_rng(0)
    visited = states.visit(
        inputs.on_drives(scenario, "train"), states.training_episodes(rng, EPISODES), states.exploring(policy, EXPLORING, rng)
    )
    return rng.permutation(visited.flat())


def _golden(actor: nn.Sequential, candidates: NDArray[np.float32]) -> Golden:
    """The clearest decision for each plan, then the clearest of the rest."""
    with torch.inference_mode():
        logits = actor(torch.from_numpy(candidates)).numpy()
    plans, ordered = logits.argmax(axis=1), np.sort(logits, axis=1)
    margin = ordered[:, -1] - ordered[:, -2]
    # A golden pair must not hang on the last bit: the less clear half of all decisions is left out.
    clear = np.argsort(-margin, kind="stable")[: len(margin) // 2]
    _, firsts = np.unique(plans[clear], return_index=True)
    chosen = clear[[*np.sort(firsts), *np.delete(np.arange(len(clear)), firsts)]][:GOLDEN]
    return Golden(candidates[chosen].tolist(), plans[chosen].tolist())


def load_run(folder: Path) -> tuple[nn.Sequential, dict[str, object]]:
    """The actor and the manifest of a run folder.

    Raises:
        ConfigError: it is no run folder, or a part of it is missing or damaged.
    """
    try:
        manifest: dict[str, object] = msgspec.json.decode((folder / RUN).read_bytes(), type=dict[str, object])
        missing = [key for key in ("scenario", "plans_sha256", "commit", "date", "inputs") if key not in manifest]
        if missing:
            raise KeyError(f"{RUN} lacks {', '.join(missing)}")
        actor = LEARNERS[str(manifest["algorithm"])].load(folder / MODEL)
    except (OSError, KeyError, ValueError, RuntimeError, msgspec.DecodeError, zipfile.BadZipFile) as error:
        make = f"cutlayer train --scenario camera --algo ppo -o {folder}"
        raise ConfigError(f"{folder} is no run folder ({error}); make one with: {make}") from error
    return actor, manifest


def make(folder: Path, scenario: Scenario | None = None) -> tuple[Bundle, Scenario]:
    """The bundle of a run folder, and its scenario: found by the name in `run.json` unless it is given.

    Raises:
        ConfigError: no run folder, its run is not finished, or it was trained on other plans than the scenario has now.
    """
    actor, manifest = load_run(folder)
    scenario = scenario if scenario is not None else scenarios.make(str(manifest["scenario"]))
    if not manifest.get("finished", True):
        raise ConfigError(f"the run in {folder} is not finished; give the command that began it again")
    if manifest["plans_sha256"] != scenario.plans.digest():
        raise ConfigError(f"{folder} was trained on another plan table than {scenario.name} has now; train it anew")
    size = features.size(scenario.blocks)
    if network(actor).inputs != size:
        raise ConfigError(f"{folder} was trained on {network(actor).inputs} features, {scenario.name} has {size} now; train it anew")
    trained: dict[str, str | int | float] = {key: str(manifest[key]) for key in ("commit", "date", "inputs")}
    return bundle(scenario, str(manifest["algorithm"]), actor, trained), scenario


def export(folder: Path, file: Path, scenario: Scenario | None = None) -> Bundle:
    """Write the bundle of a run folder, as `make` makes it."""
    made, _ = make(folder, scenario)
    made.save(file, __version__)
    return made

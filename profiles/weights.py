"""Weights of a network from a safetensors file, all of them or none: what is missing, left over or of another shape is refused.

The file holds the `state_dict` of the module in any float type (`cutlayer profile train` writes float16). Heads that a module
declares in a plain dict `exits` are not in its `state_dict`; they are read as `exits.NAME.` and the key in the head.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from cutlayer.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn


@torch.no_grad()
def load(module: nn.Module, path: Path, name: str) -> None:
    """Put the weights of that file into `module`, which is called `name`.

    Raises:
        ConfigError: the file is missing or damaged, holds the weights of another network, or a number that is not finite.
    """
    given, of = _read(path)
    if of not in (None, name):
        raise ConfigError(f"{path} holds the weights of {of}, not of {name}; give the file of {name}")
    wanted = _tensors(module)
    problems = [f"{key} is missing" for key in wanted if key not in given]
    problems += [f"{key} is no weight of it" for key in given if key not in wanted]
    problems += [
        f"{key} is {_shape(given[key])}, not {_shape(value)}"
        for key, value in wanted.items()
        if key in given and given[key].shape != value.shape
    ]
    if problems:
        more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
        raise ConfigError(f"{path} does not fit {name}: {problems[0]}{more}; give the weights of this network")
    for key, value in given.items():
        if not torch.isfinite(value).all():
            raise ConfigError(f"{key} in {path} holds a number that is not finite; train the network anew")
    for key, value in wanted.items():
        value.copy_(given[key])


def _read(path: Path) -> tuple[dict[str, Tensor], str | None]:
    """The tensors of the file, and the network that its header names."""
    from safetensors import SafetensorError, safe_open

    try:
        with path.open("rb"):  # safetensors says no word of why a file cannot be opened
            pass
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, (file.metadata() or {}).get("network")  # noqa: SIM118 - no mapping
    except OSError as error:
        raise ConfigError(f"cannot read weights {path}: {error.strerror}; check the path and its permissions") from error
    except SafetensorError as error:
        raise ConfigError(f"{path} is no whole safetensors file ({error}); copy it again, or write it with safetensors.torch") from error


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """What the file has to hold, by key; the tensors are the module's own."""
    found = dict(module.state_dict())
    exits = getattr(module, "exits", None)
    known = {value.data_ptr() for value in found.values()}
    if isinstance(exits, Mapping):
        for name, head in exits.items():
            own = {key: value for key, value in head.state_dict().items() if value.data_ptr() not in known}
            found |= {f"exits.{name}.{key}": value for key, value in own.items()}
    return found


def _shape(value: Tensor) -> str:
    return "x".join(map(str, value.shape)) or "a number"

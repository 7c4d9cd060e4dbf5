"""Train a zoo network on labelled images: seeded, resumable, on a GPU when there is one.

Images are augmented at their own size (shifted crop, mirror, one erased square) and then upsampled to the network's
input, so that an epoch reads little memory. All exits are trained at once with a weighted sum of cross-entropies
(BranchyNet, Teerapittayanon et al. 2016). The last epoch is kept; no checkpoint is chosen on the held-out images.
"""

from __future__ import annotations

import pickle
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional

from cutlayer.errors import ConfigError
from cutlayer.profiles.zoo import WEIGHTS, MultiExit, build

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from cutlayer.profiles.images import ImageSet

# Later exits weigh more: the trunk serves them, the shallow heads adapt to it. While finishing, the early ones only hold on.
EXIT_WEIGHTS = {"alexnet": (0.3, 0.4, 0.5, 0.6, 1.0), "resnet20": (0.3, 0.4, 1.0), "resnet8": (0.3, 1.0)}


@dataclass(frozen=True, slots=True)
class Recipe:
    """One-cycle SGD with Nesterov momentum; the values are those customary for batch-normalised CIFAR-10 networks.

    Then `finish_epochs` at a low rate without erased squares, nearly all weight on the last exit: without them it ended no
    better than the exit before it.
    """

    epochs: int = 24
    finish_epochs: int = 4
    finish_rate: float = 0.01
    finish_weight: float = 0.1  # of every exit but the last
    batch: int = 256
    peak_rate: float = 0.15
    momentum: float = 0.9
    weight_decay: float = 5e-4
    shift: int = 4  # pixels of 32
    erase: int = 8  # side of the erased square, pixels of 32
    seed: int = 1


def augmented(pixels: torch.Tensor, recipe: Recipe, erased_share: float, rng: torch.Generator) -> torch.Tensor:
    """Shift by reflection, mirror half, erase a square of a share of the images; uint8 (n, 3, h, w) in and out."""
    n, _, height, width = pixels.shape
    padded = functional.pad(pixels.float(), [recipe.shift] * 4, mode="reflect")
    dy, dx = (torch.randint(0, 2 * recipe.shift + 1, (n, 1, 1), generator=rng) for _ in range(2))
    mirror = torch.rand(n, 1, 1, generator=rng) < 0.5
    columns = torch.arange(width)[None, None, :]
    columns = torch.where(mirror, width - 1 - columns, columns) + dx
    rows = torch.arange(height)[None, :, None] + dy
    out = padded.permute(0, 2, 3, 1)[torch.arange(n)[:, None, None], rows, columns]
    top, left = (torch.randint(0, side - recipe.erase + 1, (n, 1, 1), generator=rng) for side in (height, width))
    y, x = torch.arange(height)[None, :, None], torch.arange(width)[None, None, :]
    erased = (y >= top) & (y < top + recipe.erase) & (x >= left) & (x < left + recipe.erase)
    erased &= torch.rand(n, 1, 1, generator=rng) < erased_share
    out[erased] = 128.0
    return out.permute(0, 3, 1, 2).to(torch.uint8)


def upsampled(pixels: torch.Tensor, size: int) -> torch.Tensor:
    """float32 (n, 3, size, size) with whole pixel values 0..255, channels last in memory."""
    x = functional.interpolate(pixels.float(), size=(size, size), mode="bilinear", align_corners=False)
    return x.round_().contiguous(memory_format=torch.channels_last)


def batches(images: ImageSet, recipe: Recipe, epoch: int, size: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The batches of one epoch; they depend on (seed, epoch) alone, so that a resumed run repeats an uninterrupted one."""
    rng = torch.Generator().manual_seed(recipe.seed * 100_003 + epoch)
    order = torch.randperm(len(images), generator=rng)
    pixels, labels = torch.from_numpy(images.pixels).permute(0, 3, 1, 2), torch.from_numpy(images.labels)
    for start in range(0, len(images) - recipe.batch + 1, recipe.batch):
        chosen = order[start : start + recipe.batch]
        erased_share = 0.5 if epoch < recipe.epochs else 0.0
        yield upsampled(augmented(pixels[chosen], recipe, erased_share, rng), size), labels[chosen]


@torch.inference_mode()
def accuracy(network: MultiExit, images: ImageSet, device: torch.device, batch: int = 250) -> list[float]:
    """Share of right answers at each exit."""
    network.eval()
    pixels = torch.from_numpy(images.pixels).permute(0, 3, 1, 2)
    right = np.zeros(len(network.depths))
    for start in range(0, len(images), batch):
        x = upsampled(pixels[start : start + batch], network.input_shape[1]).to(device)
        labels = torch.from_numpy(images.labels[start : start + batch]).to(device)
        right += [int((logits.argmax(1) == labels).sum()) for logits in network(x)]
    return list(right / len(images))


def train(
    name: str,
    images: ImageSet,
    held_out: ImageSet | None,
    checkpoint: Path,
    recipe: Recipe,
    report: Callable[[str, float], None],
) -> list[float]:
    """Train network `name` from scratch, or go on from `checkpoint`; return the held-out accuracy of each exit.

    `report(line, share_done)` is called after every 20 batches and every epoch. The weights are left in `checkpoint`;
    `save_weights` makes the file that ships.

    Raises:
        ConfigError: too few images for one batch, or the checkpoint is damaged or of another length of training.
    """
    if name not in EXIT_WEIGHTS:
        raise ConfigError(f"no recipe to train {name!r}; there is one for: {', '.join(EXIT_WEIGHTS)}")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = build(name, seed=recipe.seed)
    assert isinstance(network, torch.nn.Module)
    network.to(device)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs for intersections
    steps = len(images) // recipe.batch
    if steps == 0:
        raise ConfigError(f"{len(images)} images from {images.source} do not fill one batch of {recipe.batch}; give more images")
    optimiser = torch.optim.SGD(
        network.parameters(), lr=recipe.peak_rate, momentum=recipe.momentum, weight_decay=recipe.weight_decay, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe.peak_rate, total_steps=recipe.epochs * steps, pct_start=0.2)
    first = 0
    if checkpoint.exists():
        state = _resume(checkpoint, device)
        if state["steps"] != [recipe.epochs, recipe.finish_epochs, steps]:
            raise ConfigError(
                f"{checkpoint} was begun with [epochs, finishing epochs, batches] {state['steps']}, not "
                f"{[recipe.epochs, recipe.finish_epochs, steps]}; go on with the same, or choose another folder"
            )
        network.load_state_dict(state["network"])
        optimiser.load_state_dict(state["optimiser"])
        schedule.load_state_dict(state["schedule"])
        first = state["epoch"]
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    held: list[float] = []
    total = recipe.epochs + recipe.finish_epochs
    for epoch in range(first, total):
        finishing = epoch >= recipe.epochs
        weights = EXIT_WEIGHTS[name] if not finishing else (*[recipe.finish_weight] * (len(network.depths) - 1), 1.0)
        # Dropout draws from the global generator: seed it by epoch, so that a resumed run repeats an uninterrupted one.
        torch.manual_seed(recipe.seed * 7_919 + epoch)
        network.train()
        start = time.monotonic()
        for step, (x, labels) in enumerate(batches(images, recipe, epoch, network.input_shape[1])):
            with torch.autocast(device.type, torch.bfloat16):
                logits = network(x.to(device))
            target = labels.to(device)
            weighted = zip(weights, logits, strict=True)
            loss = sum(weight * functional.cross_entropy(one.float(), target) for weight, one in weighted)
            assert isinstance(loss, torch.Tensor)
            if finishing:
                left = 1.0 - (epoch - recipe.epochs + step / steps) / recipe.finish_epochs
                for group in optimiser.param_groups:
                    group["lr"], group["momentum"] = recipe.finish_rate * left, recipe.momentum
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves backward untyped
            optimiser.step()
            if not finishing:
                schedule.step()
            if step % 20 == 19:
                report(f"epoch {epoch + 1}/{total} loss {loss.item():.3f}", (epoch + (step + 1) / steps) / total)
        state = {"network": network.state_dict(), "optimiser": optimiser.state_dict(), "schedule": schedule.state_dict()}
        temporary = checkpoint.with_suffix(".tmp")
        torch.save(state | {"epoch": epoch + 1, "steps": [recipe.epochs, recipe.finish_epochs, steps]}, temporary)
        temporary.replace(checkpoint)
        held = accuracy(network, held_out, device) if held_out is not None else []
        shown = " ".join(f"{value:.4f}" for value in held)
        took = f"took {time.monotonic() - start:.0f} s, held-out exits {shown}"
        report(f"epoch {epoch + 1}/{total} {took}", (epoch + 1) / total)
    return held or (accuracy(network, held_out, device) if held_out is not None else [])


def _resume(checkpoint: Path, device: torch.device) -> dict[str, Any]:
    try:
        state: dict[str, Any] = torch.load(checkpoint, map_location=device, weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        first = str(error).splitlines()[0]
        raise ConfigError(f"{checkpoint} is no whole checkpoint ({first}); remove it to begin anew") from error
    return state


def save_weights(checkpoint: Path, name: str, folder: Path = WEIGHTS) -> Path:
    """Write the network of a checkpoint as float16 safetensors under the zoo's weights; return the file."""
    from safetensors.torch import save

    from cutlayer.files import write_atomic

    network = torch.load(checkpoint, map_location="cpu", weights_only=True)["network"]
    half = {key: (value.half() if value.is_floating_point() else value).contiguous() for key, value in network.items()}
    path = folder / f"{name}.safetensors"
    write_atomic(path, save(half, metadata={"network": name, "dtype": "float16"}))
    return path

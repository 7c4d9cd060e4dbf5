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
from cutlayer.profiles import codecs
from cutlayer.profiles.zoo import WEIGHTS, MultiExit, build

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from cutlayer.profiles.images import ImageSet


@dataclass(frozen=True, slots=True)
class Finish:
    """Epochs at a rate that falls to 0, without erased squares, after the one cycle of a `Recipe`.

    In each batch a random cut among the first `coarse_cuts` (or none) travels at COARSE_BITS: a network that never saw so
    coarse a tensor loses over a quarter of its answers to it. Batch norm then keeps its statistics. Layers before `first_layer`, and
    the heads on them, stay as they are.
    """

    epochs: int
    exit_weights: tuple[float, ...]
    coarse_cuts: int = 0
    first_layer: int = 0
    rate: float = 0.01  # at its beginning: a fifteenth of AlexNet's peak


@dataclass(frozen=True, slots=True)
class Recipe:
    """SGD with Nesterov momentum, one cycle and then `finishes`; values are customary for batch-normalised CIFAR-10 networks."""

    exit_weights: tuple[float, ...]  # later exits weigh more: the trunk serves them, the shallow heads adapt to it
    finishes: tuple[Finish, ...] = ()
    epochs: int = 24
    batch: int = 256
    peak_rate: float = 0.15
    momentum: float = 0.9
    weight_decay: float = 5e-4
    shift: int = 4  # pixels of 32
    erase: int = 8  # side of the erased square, pixels of 32
    erased_share: float = 0.5  # of the images of the cycle
    crop: int = 24  # side of the window that the first `cropped_epochs` see, pixels of 32: 0.6 of the time, and less to overfit
    cropped_epochs: int = 0
    seed: int = 1

    @property
    def stages(self) -> tuple[int, ...]:
        """Epochs of the cycle and of each finish."""
        return (self.epochs, *(finish.epochs for finish in self.finishes))

    def stage(self, epoch: int) -> tuple[Finish | None, int]:
        """The finish an epoch lies in, none for the cycle, and how many epochs of it have passed."""
        into = epoch - self.epochs
        if into < 0:
            return None, epoch
        for finish in self.finishes:
            if into < finish.epochs:
                return finish, into
            into -= finish.epochs
        raise IndexError(f"epoch {epoch} of {sum(self.stages)}")


COARSE_BITS = 2  # at 4 bits and more a network that never saw it loses nothing
# The residual networks are 20 to 40 times smaller: they underfit before they overfit, want more steps and fewer erased squares, and
# their last exit is ahead of the others without finishing.
RECIPES = {
    "alexnet": Recipe(
        (0.3, 0.4, 0.5, 0.6, 1.0),
        finishes=(
            # Without this the last exit ended no better than the one before it; the others only have to hold on.
            Finish(4, (0.1, 0.1, 0.1, 0.1, 1.0)),
            Finish(4, (0.3, 0.4, 0.5, 0.6, 1.0), coarse_cuts=3),
            # The trunk that the others share is left to them, and the last exit makes the best of it.
            Finish(2, (0.0, 0.0, 0.0, 0.0, 1.0), coarse_cuts=3, first_layer=4),
        ),
    ),
    # 28 epochs with heavier early exits ended at 0.92 of the training images and 0.86 of the others.
    "resnet20": Recipe((0.15, 0.3, 1.0), epochs=72, batch=128, peak_rate=0.1, erased_share=0.25, cropped_epochs=44),
    # 36 epochs with AlexNet's decay and shift ended at 0.85 of the training images and 0.82 of the others: too little of everything.
    # The cycle alone ended at 0.839, and so did a finish of 16 epochs at the low rate: it takes a second descent from a high one.
    "resnet8": Recipe(
        (0.2, 1.0), (Finish(40, (0.1, 1.0), rate=0.1),), epochs=96, batch=128, peak_rate=0.2, weight_decay=1e-4, shift=3, erased_share=0.0
    ),
}


def recipe_for(name: str) -> Recipe:
    """How a zoo network is trained.

    Raises:
        ConfigError: it is not: unknown, or shipped for its latency alone.
    """
    if name not in RECIPES:
        raise ConfigError(f"no recipe to train {name!r}; there is one for: {', '.join(RECIPES)}")
    return RECIPES[name]


def cropped(pixels: torch.Tensor, side: int, rng: torch.Generator) -> torch.Tensor:
    """A random window of every image; uint8 (n, 3, h, w) to (n, 3, side, side)."""
    n, _, height, width = pixels.shape
    rows = torch.arange(side)[None, :, None] + torch.randint(0, height - side + 1, (n, 1, 1), generator=rng)
    columns = torch.arange(side)[None, None, :] + torch.randint(0, width - side + 1, (n, 1, 1), generator=rng)
    return pixels.permute(0, 2, 3, 1)[torch.arange(n)[:, None, None], rows, columns].permute(0, 3, 1, 2)


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


def coarse(x: torch.Tensor, bits: int) -> torch.Tensor:
    """What `codecs` makes of every image's tensor at `bits` bits, differentiable: rounding passes the gradient on.

    The gradient also reaches the largest and smallest value through the step, as in Esser et al. (2020): a network can learn
    to be without outliers, which stretch it.
    """
    flat = x.flatten(1).float()
    lo, hi = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
    scale = ((hi - lo) / ((1 << bits) - 1)).clamp_min(codecs.SMALLEST_STEP)
    levels = (flat - lo) / scale
    rounded = levels + (torch.floor(levels + 0.5) - levels).detach()
    return (rounded * scale + lo).view_as(x)


def logits_through(network: MultiExit, x: torch.Tensor, cut: int, bits: int) -> list[torch.Tensor]:
    """Logits of every exit with the tensor after `cut` layers sent at `bits` bits; cut 0 sends nothing."""
    out: list[torch.Tensor] = []
    for depth, layer in enumerate(network.layers, start=1):
        x = layer(x)
        if depth == cut:
            x = coarse(x, bits)
        if depth in network.depths:
            out.append(network.heads[list(network.depths).index(depth)](x))
    return out


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
        erased_share = recipe.erased_share if epoch < recipe.epochs else 0.0
        if epoch < recipe.cropped_epochs:
            windows = cropped(pixels[chosen], recipe.crop, rng)
            x = upsampled(augmented(windows, recipe, erased_share, rng), size * recipe.crop // pixels.shape[-1])
        else:
            x = upsampled(augmented(pixels[chosen], recipe, erased_share, rng), size)
        yield x, labels[chosen]


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

    A recipe that was given more finishes since goes on with them.

    `report(line, share_done)` is called after every 20 batches and every epoch. The weights are left in `checkpoint`;
    `save_weights` makes the file that ships.

    Raises:
        ConfigError: too few images for one batch, or the checkpoint is damaged or of another length of training.
    """
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
        *stages, batches_each = state["steps"]
        if batches_each != steps or tuple(stages) != recipe.stages[: len(stages)]:
            raise ConfigError(
                f"{checkpoint} was begun with [epochs of each stage, batches] {state['steps']}, not {[*recipe.stages, steps]}; "
                "go on with the same, or choose another folder"
            )
        network.load_state_dict(state["network"])
        optimiser.load_state_dict(state["optimiser"])
        schedule.load_state_dict(state["schedule"])
        first = state["epoch"]
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    held: list[float] = []
    total = sum(recipe.stages)
    for epoch in range(first, total):
        finish, into = recipe.stage(epoch)
        # Dropout draws from the global generator: seeded by epoch, so that a resumed run repeats an uninterrupted one.
        torch.manual_seed(recipe.seed * 7_919 + epoch)
        rng = np.random.default_rng((recipe.seed, epoch))
        network.train()
        if finish is not None:
            _prepare(network, finish)
        start = time.monotonic()
        for step, (x, labels) in enumerate(batches(images, recipe, epoch, network.input_shape[1])):
            with torch.autocast(device.type, torch.bfloat16):
                cut = 0 if finish is None else int(rng.integers(0, finish.coarse_cuts + 1))
                logits = logits_through(network, x.to(device), cut, COARSE_BITS)
            target = labels.to(device)
            weighted = zip(recipe.exit_weights if finish is None else finish.exit_weights, logits, strict=True)
            loss = sum(weight * functional.cross_entropy(one.float(), target) for weight, one in weighted)
            assert isinstance(loss, torch.Tensor)
            if finish is not None:
                left = 1.0 - (into + step / steps) / finish.epochs
                for group in optimiser.param_groups:
                    group["lr"], group["momentum"] = finish.rate * left, recipe.momentum
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves backward untyped
            optimiser.step()
            if finish is None:
                schedule.step()
            if step % 20 == 19:
                report(f"epoch {epoch + 1}/{total} loss {loss.item():.3f}", (epoch + (step + 1) / steps) / total)
        state = {"network": network.state_dict(), "optimiser": optimiser.state_dict(), "schedule": schedule.state_dict()}
        temporary = checkpoint.with_suffix(".tmp")
        torch.save(state | {"epoch": epoch + 1, "steps": [*recipe.stages, steps]}, temporary)
        temporary.replace(checkpoint)
        held = accuracy(network, held_out, device) if held_out is not None else []
        shown = " ".join(f"{value:.4f}" for value in held)
        took = f"took {time.monotonic() - start:.0f} s, held-out exits {shown}"
        report(f"epoch {epoch + 1}/{total} {took}", (epoch + 1) / total)
    return held or (accuracy(network, held_out, device) if held_out is not None else [])


def _prepare(network: MultiExit, finish: Finish) -> None:
    """Fix what a finish does not train: early layers and their heads, and the statistics where cuts are coarse."""
    fixed = [*network.layers[: finish.first_layer]]
    fixed += [head for head, depth in zip(network.heads, network.depths, strict=True) if depth <= finish.first_layer]
    for module in fixed:
        module.eval()
        module.requires_grad_(False)
    # Those of coarse and of exact tensors differ, and most tensors that will come are exact.
    for module in network.modules() if finish.coarse_cuts else ():  # type: ignore[attr-defined]  # a MultiExit is a torch module
        if isinstance(module, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)):
            module.eval()


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

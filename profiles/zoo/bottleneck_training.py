"""Train bottlenecks for a network that stays as it is: seeded, resumable by unit, on a GPU when there is one.

BottleFit's two stages (Matsubara et al. 2022). First encoder and decoder learn together to give the frozen backbone its
own tensor back, at the cut and after the next layer. Then the encoder is frozen too, and the decoder learns what the
backbone says of the whole tensor: its softened logits at every exit behind the cut, and a little of the labels. The code
is quantised to 8 bits in both, as it travels.

The tensor at the cut and the logits are computed once for each cut; what comes before the cut never runs again.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from cutlayer.errors import ConfigError, nearest
from cutlayer.profiles import bottlenecks
from cutlayer.profiles.stats import wilson
from cutlayer.profiles.zoo.train import coarse, upsampled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from cutlayer.profiles.bottlenecks import Halves, Kind, Shape, Unit
    from cutlayer.profiles.images import ImageSet
    from cutlayer.profiles.zoo import MultiExit

BOTTLES = ("bottle3", "bottle6", "bottle9", "bottle12")  # BottleFit's widths
# Which units ship, and at which cuts. AlexNet: the three earliest. ResNet-20: after its second stage; after the first, codes of
# 12 channels would be as long as its input, 3,072 bytes. The autoencoder keeps all places, so there it gets half the channels.
SHIPPED = {"alexnet": ((1, 2, 3), ("ae12", *BOTTLES)), "resnet20": ((7,), ("ae6", *BOTTLES))}
# A `bottle` halves larger maps. AlexNet's cut 1, 768 bytes, 2,000 held-out images, trained on 8,000: 12 channels of 8x8 places are
# right in 86.2 % (the backbone alone in 87.3), 3 channels of 16x16 in 81.9 %.
SIDE = 8
CHUNK = 250  # images at a time where nothing is learned


@dataclass(frozen=True, slots=True)
class Recipe:
    """Adam under one cycle of the rate, in each stage."""

    images: int = 16_000  # the first so many of those given; the units are small, more of them only take longer
    distil_epochs: int = 4
    tune_epochs: int = 2
    batch: int = 32
    distil_rate: float = 5e-3
    tune_rate: float = 2e-3
    temperature: float = 2.0
    label_weight: float = 0.1  # of the labels' cross-entropy beside the teacher's
    seed: int = 1


class Tail(nn.Module):
    """A frozen copy of the backbone behind a cut: its logits from the tensor at the cut."""

    def __init__(self, network: MultiExit, cut: int) -> None:
        super().__init__()
        depths = list(network.depths)
        self.layers = nn.ModuleList(copy.deepcopy(list(network.layers)[cut:]))
        self.heads = nn.ModuleDict({str(d - cut): copy.deepcopy(network.heads[e]) for e, d in enumerate(depths) if d >= cut})
        self.exits = [e for e, depth in enumerate(depths) if depth >= cut]
        self.requires_grad_(requires_grad=False)
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, exits, classes) from (batch, channels, height, width)."""
        logits = [self.heads["0"](x)] if "0" in self.heads else []
        for depth, layer in enumerate(self.layers, start=1):
            x = layer(x)
            if str(depth) in self.heads:
                logits.append(self.heads[str(depth)](x))
        return torch.stack(logits, 1)


@dataclass(frozen=True, eq=False)
class Teacher:
    """What the backbone makes of every image at one cut, on the CPU: its tensor and the next layer's in float16, and its logits."""

    tail: Tail
    tensors: torch.Tensor
    nexts: torch.Tensor
    logits: torch.Tensor
    labels: torch.Tensor
    device: torch.device

    @property
    def shape(self) -> Shape:
        """(channels, height, width) of the tensor."""
        return cast("Shape", tuple(self.tensors.shape[1:]))


@torch.no_grad()
def teacher_of(network: MultiExit, images: ImageSet, cut: int, device: torch.device) -> Teacher:
    """Run the network over all images and keep what it makes of them at `cut`."""
    tail = Tail(network, cut).to(device)
    kept: list[tuple[torch.Tensor, ...]] = []
    for x, labels in _at(network, images, cut):
        x = x.to(device)
        kept.append((x.half().cpu(), tail.layers[0](x).half().cpu(), tail(x).cpu(), labels))
    tensors, nexts, logits, labels = (torch.cat(column) for column in zip(*kept, strict=True))
    return Teacher(tail, tensors, nexts, logits, labels, device)


def _at(network: MultiExit, images: ImageSet, cut: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The tensors after `cut` layers, float32, and the labels, a chunk at a time."""
    network.eval()
    pixels = torch.from_numpy(images.pixels).permute(0, 3, 1, 2)
    for start in range(0, len(images), CHUNK):
        x = upsampled(pixels[start : start + CHUNK], network.input_shape[1])
        for layer in list(network.layers)[:cut]:
            x = layer(x)
        yield x, torch.from_numpy(images.labels[start : start + CHUNK])


def code_shape(kind: Kind, channels: int, shape: Shape) -> Shape:
    """(channels, height, width) of what is sent for a tensor of `shape`."""
    _, height, width = shape
    halved = kind == "bottle" and min(height, width) > SIDE and height % 2 == width % 2 == 0
    return (channels, height // 2, width // 2) if halved else (channels, height, width)


def fit(teacher: Teacher, kind: Kind, channels: int, seed: int, recipe: Recipe, report: Callable[[float], None]) -> Halves:
    """Encoder and decoder of one unit, trained, as they are deployed; `report` is told the share done."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        floor = bool(teacher.tensors.min() >= 0)
        plain = bottlenecks.build(kind, teacher.shape, code_shape(kind, channels, teacher.shape), floor=floor)
        halves = _normalised(plain[0]).to(teacher.device), _normalised(plain[1]).to(teacher.device)
        steps = (recipe.distil_epochs + recipe.tune_epochs) * (len(teacher.labels) // recipe.batch)
        done = 0

        def tick() -> None:
            nonlocal done
            done += 1
            if done % 20 == 0:
                report(done / steps)

        distil(teacher, *halves, recipe, tick)
        tune(teacher, *halves, recipe, tick)
    return _folded(halves[0].cpu()), _folded(halves[1].cpu())


def distil(teacher: Teacher, encoder: nn.Sequential, decoder: nn.Sequential, recipe: Recipe, tick: Callable[[], None]) -> None:
    """Stage 1: both halves learn the teacher's tensors, each error over the variance of what it is held against."""
    follow = teacher.tail.layers[0]
    scales = [float(x[:CHUNK].float().var()) for x in (teacher.tensors, teacher.nexts)]
    encoder.train()
    decoder.train()

    def loss(chosen: torch.Tensor) -> torch.Tensor:
        here, there = (x[chosen].to(teacher.device).float() for x in (teacher.tensors, teacher.nexts))
        made = decoder(coarse(encoder(here), bottlenecks.BITS))
        return functional.mse_loss(made.float(), here) / scales[0] + functional.mse_loss(follow(made).float(), there) / scales[1]

    _descend(teacher, [*encoder.parameters(), *decoder.parameters()], recipe.distil_rate, recipe.distil_epochs, recipe.batch, loss, tick)


def tune(teacher: Teacher, encoder: nn.Sequential, decoder: nn.Sequential, recipe: Recipe, tick: Callable[[], None]) -> None:
    """Stage 2: the decoder alone learns the teacher's logits and the labels, through the frozen backbone."""
    encoder.eval()
    decoder.train()
    codes = _codes(teacher, encoder)

    def loss(chosen: torch.Tensor) -> torch.Tensor:
        logits = teacher.tail(decoder(codes[chosen].to(teacher.device))).float()
        soft, sure = ((x / recipe.temperature).log_softmax(-1) for x in (logits, teacher.logits[chosen].to(teacher.device)))
        labels = teacher.labels[chosen].to(teacher.device).repeat_interleave(logits.shape[1])
        apart = functional.kl_div(soft, sure, reduction="none", log_target=True).sum(-1).mean() * recipe.temperature**2
        return apart + recipe.label_weight * functional.cross_entropy(logits.flatten(0, 1), labels)

    _descend(teacher, list(decoder.parameters()), recipe.tune_rate, recipe.tune_epochs, recipe.batch, loss, tick)


@torch.no_grad()
def _codes(teacher: Teacher, encoder: nn.Sequential) -> torch.Tensor:
    """What the frozen encoder sends for every image, as it is read at the other end."""
    chunks = (chunk.to(teacher.device).float() for chunk in torch.split(teacher.tensors, CHUNK))
    return torch.cat([coarse(encoder(chunk), bottlenecks.BITS).cpu() for chunk in chunks])


def _descend(
    teacher: Teacher, parameters: list[nn.Parameter], rate: float, epochs: int, batch: int,
    loss: Callable[[torch.Tensor], torch.Tensor], tick: Callable[[], None],
) -> None:  # fmt: skip
    steps = len(teacher.labels) // batch
    optimiser = torch.optim.Adam(parameters, rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=epochs * steps, pct_start=0.1)
    for _ in range(epochs):
        for chosen in torch.split(torch.randperm(len(teacher.labels))[: steps * batch], batch):
            with torch.autocast(teacher.device.type, torch.bfloat16):
                value = loss(chosen)
            optimiser.zero_grad(set_to_none=True)
            value.backward()  # type: ignore[no-untyped-call]  # torch leaves backward untyped
            optimiser.step()
            schedule.step()
            tick()


def _normalised(half: nn.Sequential) -> nn.Sequential:
    """With batch norm after every 3x3 convolution, for training."""
    parts: list[nn.Module] = []
    for module in half:
        parts.append(module)
        if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
            parts.append(nn.BatchNorm2d(module.out_channels))
    return nn.Sequential(*parts)


def _folded(half: nn.Sequential) -> nn.Sequential:
    """The same with every batch norm inside the convolution before it."""
    parts: list[nn.Module] = []
    for module in half.eval():
        if isinstance(module, nn.BatchNorm2d):
            parts[-1] = fuse_conv_bn_eval(cast("nn.Conv2d", parts[-1]), module)
        else:
            parts.append(module)
    return nn.Sequential(*parts)


def asked(network: MultiExit, cuts: str | None, names: str | None) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """The cuts and units of two lists with commas, checked; without a list, those that ship, and for another network BottleFit's widths.

    Raises:
        ConfigError: a name is none, no cut is named for a network without units of its own, or no feature map crosses at one of them.
    """
    usual, kinds = SHIPPED.get(network.name, ((), BOTTLES))
    chosen = tuple(names.split(",")) if names else kinds
    for name in chosen:
        parsed(name)
    maps = [str(cut) for cut, shape in enumerate(_shapes(network)[:-1], start=1) if len(shape) == 3]
    places = cuts.split(",") if cuts else [str(cut) for cut in usual]
    if not places:
        raise ConfigError(f"none of the zoo's bottlenecks is for {network.name}; name the cuts, of {','.join(maps)}")
    if wrong := [place for place in places if place not in maps]:
        raise ConfigError(f"no bottleneck of {network.name} at cut {wrong[0]}; a feature map with layers behind it is at {','.join(maps)}")
    return tuple(map(int, places)), chosen


def parsed(name: str) -> tuple[Kind, int]:
    """Kind and channels of a unit's name.

    Raises:
        ConfigError: it is none.
    """
    found = re.fullmatch(rf"({'|'.join(bottlenecks.KINDS)})([1-9]\d*)", name)
    if found is None:
        raise ConfigError(f"no bottleneck {name!r}; {nearest(name, BOTTLES)}give a kind and its channels, such as ae12 or bottle6")
    return cast("Kind", found[1]), int(found[2])


@torch.no_grad()
def _shapes(network: MultiExit) -> list[tuple[int, ...]]:
    network.eval()
    x, shapes = torch.zeros(1, *network.input_shape), []
    for layer in network.layers:
        x = layer(x)
        shapes.append(tuple(x.shape[1:]))
    return shapes


def train(
    network: MultiExit, images: ImageSet, folder: Path, cuts: Sequence[int], names: Sequence[str], recipe: Recipe,
    report: Callable[[str, float], None],
) -> list[Unit]:  # fmt: skip
    """Train every named unit at every cut and write each into `folder` once it is done; return them all.

    A unit that is there already is left alone. `report(line, share_done)` is called after every 20 batches and every unit.

    Raises:
        ConfigError: the images are too few or have other classes, or a unit in the folder is damaged, of another backbone or of
            another recipe.
    """
    images = images.head(recipe.images)
    if len(images) < recipe.batch or len(images.class_names) != network.classes:
        raise ConfigError(
            f"{len(images)} images of {len(images.class_names)} classes from {images.source}; training takes at least {recipe.batch} of "
            f"{network.name}'s {network.classes} classes"
        )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    training = dataclasses.asdict(recipe) | {"source": images.source, "images": len(images)}
    total = len(cuts) * len(names)
    made: list[Unit] = []
    for cut in cuts:
        teacher = None
        for name in names:
            path = bottlenecks.path_of(folder, name, cut)
            if not path.exists():
                teacher = teacher or teacher_of(network, images, cut, device)
                kind, channels = parsed(name)
                halves = fit(teacher, kind, channels, _seed(recipe, name, cut), recipe, _tell(report, name, cut, len(made), total))
                bottlenecks.save(folder, network, kind, cut, teacher.shape, halves, code_shape(kind, channels, teacher.shape), training)
            made += bottlenecks.load(path, network)
            if made[-1].header.training != training:
                raise ConfigError(f"{path} was trained with {made[-1].header.training}, not {training}; remove it or choose another folder")
            report(f"{name} at cut {cut} is done", len(made) / total)
    return made


def _tell(report: Callable[[str, float], None], name: str, cut: int, before: int, total: int) -> Callable[[float], None]:
    return lambda share: report(f"{name} at cut {cut}", (before + share) / total)


def _seed(recipe: Recipe, name: str, cut: int) -> int:
    """Of one unit, so that it does not depend on which were trained before it."""
    return int.from_bytes(hashlib.sha256(f"{recipe.seed} {name} {cut}".encode()).digest()[:4], "little")


@torch.no_grad()
def accuracy(network: MultiExit, units: Sequence[Unit], images: ImageSet, tell: Callable[[float], None]) -> list[dict[str, Any]]:
    """What every unit sends, and how often each exit behind it is right on `images`, with and without it."""
    rows = []
    for index, cut in enumerate(sorted({unit.cut for unit in units})):
        here = [unit for unit in units if unit.cut == cut]
        halves = [unit.swap() for unit in here]
        tail = Tail(network, cut)
        right = torch.zeros(len(here) + 1, len(tail.exits), dtype=torch.int64)
        for done, (x, labels) in enumerate(_at(network, images, cut)):
            seen = [x, *(decoder(coarse(encoder(x), bottlenecks.BITS)) for encoder, decoder in halves)]
            right += torch.stack([(tail(y).argmax(-1) == labels[:, None]).sum(0) for y in seen])
            tell((index + done * CHUNK / len(images)) / len({unit.cut for unit in units}))
        rows += [_row(unit, tail.exits, right[i + 1].tolist(), right[0].tolist(), len(images)) for i, unit in enumerate(here)]
    tell(1.0)
    return rows


def _row(unit: Unit, exits: Sequence[int], right: Sequence[int], without: Sequence[int], n: int) -> dict[str, Any]:
    shares = [
        {"exit": e, "accuracy": hits / n, "low": wilson(hits, n)[0], "high": wilson(hits, n)[1], "without": whole / n}
        for e, hits, whole in zip(exits, right, without, strict=True)
    ]
    return {"unit": unit.name, "cut": unit.cut, "payload_bytes": unit.payload_bytes, "exits": shares}

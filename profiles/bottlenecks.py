"""Trained bottlenecks: small networks around a cut that send fewer channels, swapped in and out while the backbone stays.

A unit has an encoder, which the device runs after its last layer, and a decoder, which the edge runs before its first.
What travels is the encoder's output, quantised to 8 bits like any other tensor. Two kinds:

    ae12       1x1 convolutions: 12 linear combinations of the channels at every place, and back (an autoencoder)
    bottle12   BottleFit's shape (Matsubara et al. 2022): 3x3 convolutions, which see a place's neighbours, and a ReLU before sending

One file is one unit: float16 safetensors, batch norm folded into the convolutions, with a header that names the backbone it
was trained for. They are made by `cutlayer profile bottlenecks`.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as parse
from safetensors.torch import save as pack
from torch import nn

from cutlayer.errors import ConfigError, PeerError
from cutlayer.files import write_atomic
from cutlayer.profiles import codecs, zoo

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from cutlayer.profiles.codecs import Encoded, TensorCodec
    from cutlayer.profiles.zoo import MultiExit

BITS = 8  # of a value of the code, as in BottleFit
HIDDEN = 128  # channels inside the decoder of a `bottle`: 64 cost up to 0.7 points of accuracy at AlexNet's second cut
STRIDES = (1, 2)  # a code has the tensor's places, or every second of a row and of a column
KINDS = ("ae", "bottle")

Kind = Literal["ae", "bottle"]
Shape = tuple[int, int, int]
Halves = tuple[nn.Sequential, nn.Sequential]  # encoder and decoder


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a unit's file says of it, beside its weights.

    shape is (channels, height, width) of the backbone's tensor after `cut` layers, code_shape that of what is sent; floor says
    whether the tensor has no negative value (it ends in a ReLU), so that the decoder's has none. weights_sha256 is the
    backbone's `zoo.weights_digest`, sha256 that of all the rest and of the unit's own weights; training says how it was made.
    """

    network: str
    weights_sha256: str
    kind: Kind
    channels: int
    cut: int
    shape: Shape
    code_shape: Shape
    floor: bool
    sha256: str
    training: dict[str, Any]

    @property
    def name(self) -> str:
        """Kind and channels: the name of the codec."""
        return f"{self.kind}{self.channels}"


@dataclass(frozen=True, slots=True)
class Unit:
    """One bottleneck at one cut, known but not loaded; `swap` loads it."""

    file: Path
    header: Header
    encoder_bytes: int  # of the float16 weights
    decoder_bytes: int

    @property
    def name(self) -> str:
        """Kind and channels: units of one name at several cuts are one codec."""
        return self.header.name

    @property
    def cut(self) -> int:
        """Trunk layers before it."""
        return self.header.cut

    @property
    def channels(self) -> int:
        """Channels that are sent."""
        return self.header.channels

    @property
    def shape(self) -> Shape:
        """(channels, height, width) of the backbone's tensor."""
        return self.header.shape

    @property
    def code_shape(self) -> Shape:
        """(channels, height, width) of what is sent."""
        return self.header.code_shape

    @property
    def sha256(self) -> str:
        """Digest of its weights and of what is known of it."""
        return self.header.sha256

    @property
    def payload_bytes(self) -> int:
        """What it sends for one image."""
        return codecs.payload_bytes(math.prod(self.code_shape), BITS)

    def swap(self) -> Halves:
        """Encoder and decoder, read from the file and initialised anew: a change to this unit costs this.

        Raises:
            ConfigError: the file is gone or damaged.
        """
        _, weights, halves = _read(self.file)
        for half, prefix in zip(halves, PREFIXES, strict=True):
            half.load_state_dict({key: weights[f"{prefix}{key}"].float() for key in half.state_dict()}, assign=True)
            half.requires_grad_(requires_grad=False).eval()
        return halves


PREFIXES = ("encoder.", "decoder.")


def build(kind: Kind, shape: Shape, code_shape: Shape, *, floor: bool, device: str = "cpu") -> Halves:
    """Encoder and decoder of that kind with fresh weights, as they are deployed: without batch norm."""
    inputs, channels, stride = shape[0], code_shape[0], shape[1] // code_shape[1]
    end: list[nn.Module] = [nn.ReLU()] if floor else []
    if kind == "ae":
        encoder: list[nn.Module] = [nn.Conv2d(inputs, channels, 1, device=device)]
        return nn.Sequential(*encoder), nn.Sequential(nn.Conv2d(channels, inputs, 1, device=device), *end)
    encoder = [nn.Conv2d(inputs, channels, 3, stride, 1, device=device), nn.ReLU()]
    wider: list[nn.Module] = [nn.Upsample(scale_factor=stride)] if stride > 1 else []
    decoder = [*wider, nn.Conv2d(channels, HIDDEN, 3, padding=1, device=device), nn.ReLU(), nn.Conv2d(HIDDEN, inputs, 1, device=device)]
    return nn.Sequential(*encoder), nn.Sequential(*decoder, *end)


class Bottleneck:
    """One unit as the codec of its cut; follows `TensorCodec`. The unit is swapped in when it is made."""

    def __init__(self, unit: Unit, network: MultiExit) -> None:
        """Swap in `unit`.

        Raises:
            ConfigError: it was trained for another backbone than `network`, or its file is damaged.
        """
        _check(unit, network.name, zoo.weights_digest(network))
        self.name = unit.name
        self.unit = unit
        self.encoder, self.decoder = unit.swap()

    @property
    def units(self) -> tuple[Unit, ...]:
        """What serves it."""
        return (self.unit,)

    def widths(self, cut: int) -> tuple[int, ...]:
        return (BITS,) if cut == self.unit.cut else ()

    @torch.inference_mode()
    def encode(self, x: NDArray[np.float32], cut: int, bits: int) -> Encoded:
        assert bits in self.widths(cut)
        code = self.encoder(torch.from_numpy(np.require(x, np.float32, ("C", "W")))[None])
        return codecs.encode(code.numpy(), bits)

    @torch.inference_mode()
    def decode(self, sent: Encoded, cut: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
        if sent.bits not in self.widths(cut) or shape != self.unit.shape:
            raise PeerError(f"{self.name} at cut {self.unit.cut} makes {self.unit.shape} of {BITS} bits, not {shape} of {sent.bits}")
        code = codecs.decode(sent.data, sent.bits, sent.lo, sent.scale, self.unit.code_shape)
        out: NDArray[np.float32] = self.decoder(torch.from_numpy(code)[None])[0].numpy()
        return out


class Family:
    """Units of one name at several cuts as one codec; follows `TensorCodec`."""

    def __init__(self, members: Sequence[Bottleneck]) -> None:
        self.name = members[0].name
        self._at = {member.unit.cut: member for member in members}

    @property
    def units(self) -> tuple[Unit, ...]:
        """What serves it, by cut."""
        return tuple(self._at[cut].unit for cut in sorted(self._at))

    def widths(self, cut: int) -> tuple[int, ...]:
        return self._at[cut].widths(cut) if cut in self._at else ()

    def encode(self, x: NDArray[np.float32], cut: int, bits: int) -> Encoded:
        return self._at[cut].encode(x, cut, bits)

    def decode(self, sent: Encoded, cut: int, shape: tuple[int, ...]) -> NDArray[np.float32]:
        return self._at[cut].decode(sent, cut, shape)


def units(network: MultiExit) -> list[Unit]:
    """Those that ship for this network with these weights, by cut and size; none for other weights or another network."""
    folder = shipped(network.name)
    if not folder.is_dir():
        return []
    digest = zoo.weights_digest(network)
    return [unit for unit in _all(folder) if unit.header.weights_sha256 == digest]


def shipped(name: str) -> Path:
    """The folder of the units that ship for the network of that name."""
    return zoo.WEIGHTS / f"{name}-bottlenecks"


def load(path: Path, network: MultiExit) -> list[Unit]:
    """The unit in one file, or all in a folder, by cut and size.

    Raises:
        ConfigError: there is none, or one is damaged or was trained for another backbone.
    """
    found = _all(path) if path.is_dir() else [_open(path)]
    if not found:
        raise ConfigError(f"no bottleneck in {path}; make some with: cutlayer profile bottlenecks {network.name} -o {path}")
    digest = zoo.weights_digest(network)
    for unit in found:
        _check(unit, network.name, digest)
    return found


def codecs_of(network: MultiExit, chosen: Sequence[Unit] | None = None) -> list[TensorCodec]:
    """One codec for each name among `chosen` units, or those that ship; loaded, and of this network's weights.

    Raises:
        ConfigError: one is damaged or was trained for another backbone.
    """
    members = [Bottleneck(unit, network) for unit in (units(network) if chosen is None else chosen)]
    by_name: dict[str, list[Bottleneck]] = {}
    for member in members:
        by_name.setdefault(member.name, []).append(member)
    return [Family(of_name) for of_name in by_name.values()]


def path_of(folder: Path, name: str, cut: int) -> Path:
    """Where a unit lies in a folder."""
    return folder / f"{name}-cut{cut}.safetensors"


def save(
    folder: Path, network: MultiExit, kind: Kind, cut: int, shape: Shape, halves: Halves,
    code_shape: Shape, training: Mapping[str, Any],
) -> Path:  # fmt: skip
    """Write one unit whole, in float16; return the file."""
    weights = {
        f"{prefix}{key}": value.detach().half().contiguous()
        for half, prefix in zip(halves, PREFIXES, strict=True)
        for key, value in half.state_dict().items()
    }
    header = Header(
        network=network.name, weights_sha256=zoo.weights_digest(network), kind=kind, channels=code_shape[0], cut=cut, shape=shape,
        code_shape=code_shape, floor=isinstance(halves[1][-1], nn.ReLU), sha256="", training=dict(training),
    )  # fmt: skip
    header = msgspec.structs.replace(header, sha256=_digest(header, weights))
    path = path_of(folder, header.name, cut)
    write_atomic(path, pack(weights, metadata={"unit": msgspec.json.encode(header).decode()}))
    return path


def _all(folder: Path) -> list[Unit]:
    found = [_open(file) for file in sorted(folder.glob("*.safetensors"))]
    return sorted(found, key=lambda unit: (unit.cut, unit.header.kind, unit.channels))


def _open(file: Path) -> Unit:
    header, weights, _ = _read(file)
    sizes = [sum(value.nbytes for key, value in weights.items() if key.startswith(prefix)) for prefix in PREFIXES]
    return Unit(file, header, *sizes)


def _read(file: Path) -> tuple[Header, dict[str, torch.Tensor], Halves]:
    """A unit's header, its float16 weights, and the empty modules that they fit; whatever a stranger could have broken is checked."""
    try:
        data = file.read_bytes()
        length = int.from_bytes(data[:8], "little")
        header = msgspec.json.decode(msgspec.json.decode(data[8 : 8 + length])["__metadata__"]["unit"], type=Header)
        weights = parse(data)
        halves = _fitting(header, weights)
        if header.sha256 != _digest(header, weights):
            raise ValueError("it is not what its sha256 names")
    except (OSError, KeyError, TypeError, ValueError, RuntimeError, msgspec.MsgspecError, SafetensorError) as error:
        raise ConfigError(f"{file} is no whole bottleneck ({error}); make it anew with: cutlayer profile bottlenecks") from error
    return header, weights, halves


def _fitting(header: Header, weights: Mapping[str, torch.Tensor]) -> Halves:
    """Modules without values, of the shapes that the header claims and the weights have."""
    sides = [(header.shape[1] // stride, header.shape[2] // stride) for stride in STRIDES]
    if header.channels < 1 or header.code_shape[0] != header.channels or header.code_shape[1:] not in sides:
        raise ValueError(f"{header.name} does not make {header.code_shape} of {header.shape}")
    halves = build(header.kind, header.shape, header.code_shape, floor=header.floor, device="meta")
    expected = {
        f"{prefix}{key}": value.shape
        for half, prefix in zip(halves, PREFIXES, strict=True)
        for key, value in half.state_dict().items()
    }  # fmt: skip
    if {key: value.shape for key, value in weights.items()} != expected:
        raise ValueError(f"its weights do not make a {header.name} for a tensor of shape {header.shape}")
    return halves


def _digest(header: Header, weights: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256(msgspec.json.encode(msgspec.structs.replace(header, sha256="")))
    for name, value in sorted(weights.items()):
        digest.update(name.encode())
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _check(unit: Unit, name: str, digest: str) -> None:
    header = unit.header
    if (header.network, header.weights_sha256) != (name, digest):
        raise ConfigError(
            f"{unit.file} was trained for {header.network} with weights {header.weights_sha256[:12]}, not for {name} with {digest[:12]}; "
            f"train one with: cutlayer profile bottlenecks {name}"
        )

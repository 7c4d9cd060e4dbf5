"""A multi-exit network as ONNX graphs: one for every prefix the device can run, one for every suffix the edge can run.

A folder of graphs holds, for a trunk of L layers and exits e of depth depths[e],

    prefix_{p}.onnx      p = 1..L             pixels -> the tensor after p layers
    suffix_{p}_{e}.onnx  p = 0..depths[e]     the tensor after p layers -> logits of exit e; p = 0 is the whole network
    graphs.json          `Manifest`           written last: a folder with it is whole

Two graphs a cut, because a chain of one-layer graphs loses the fusions across layers (up to 31 % on MobileNetV2).
A prefix that ends between two exits also puts out the tensor that the deepest exit passed so far reads (`kept_depth`):
it is at hand anyway, and lets the device answer by itself when the edge does not. Tensors are float32; their first axis is free and called
`BATCH`: who opens a graph for one image fixes it to 1, so that the runtime knows all shapes beforehand. It is 1 from the start where the
network itself takes one image at a time, as one does that `cutlayer.profiles.cuts` had to read by `torch.export`.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from cutlayer.errors import ConfigError
from cutlayer.files import write_atomic
from cutlayer.profiles import zoo

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from onnx import ModelProto
    from torch import Tensor
    from torch.nn import Module

    from cutlayer.profiles.zoo import MultiExit

SCHEMA_VERSION = 1
MANIFEST = "graphs.json"
OPSET = 18  # what torch's exporter emits by itself; any other number adds a conversion. ONNX Runtime reads it since 1.14
PIXELS = "pixels"
BATCH = "batch"


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a folder of graphs holds.

    cut_shapes[p] is the shape of the tensor after p layers without the batch axis, cut_shapes[0] the input's;
    files maps each graph's name to the sha256 of its bytes.
    """

    schema_version: int
    model: str
    weights_sha256: str
    input_shape: tuple[int, int, int]
    depths: tuple[int, ...]
    classes: int
    cut_shapes: tuple[tuple[int, ...], ...]
    exporter: str
    files: dict[str, str]


def prefix_name(partition: int) -> str:
    """File of the graph that runs the first `partition` layers."""
    return f"prefix_{partition}.onnx"


def suffix_name(partition: int, exit_: int) -> str:
    """File of the graph that runs from after `partition` layers to the logits of `exit_`."""
    return f"suffix_{partition}_{exit_}.onnx"


def cut_name(partition: int) -> str:
    """Name, inside the graphs, of the tensor after `partition` layers."""
    return PIXELS if partition == 0 else f"cut_{partition}"


def logits_name(exit_: int) -> str:
    """Name, inside the graphs, of the logits of `exit_`."""
    return f"logits_{exit_}"


def kept_depth(depths: Sequence[int], partition: int) -> int:
    """Depth of the deepest exit among the first `partition` layers; `partition` itself where there is none."""
    return max((depth for depth in depths if depth <= partition), default=partition)


def signatures(depths: Sequence[int]) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Every file of a folder with the names of its input and its outputs."""
    graphs: dict[str, tuple[str, tuple[str, ...]]] = {}
    for partition in range(1, depths[-1] + 1):
        outputs = dict.fromkeys((cut_name(partition), cut_name(kept_depth(depths, partition))))  # without duplicate, in order
        graphs[prefix_name(partition)] = (PIXELS, tuple(outputs))
    for exit_, depth in enumerate(depths):
        for partition in range(depth + 1):
            graphs[suffix_name(partition, exit_)] = (cut_name(partition), (logits_name(exit_),))
    return graphs


def export(network: MultiExit, folder: Path) -> None:
    """Write the graphs of `network` to `folder`, whole or not at all; an earlier export there is replaced.

    The network is left in eval mode. Needs the extra `profile`.

    Raises:
        ConfigError: `folder` holds something else than an export, cannot be written, or a package is missing.
    """
    if folder.exists() and not (folder / MANIFEST).exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} exists and holds no {MANIFEST}; give an empty or new folder")
    network.eval()
    whole, cut_shapes, exporter = _whole_graph(network)
    temporary: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        manifest = Manifest(
            schema_version=SCHEMA_VERSION,
            model=network.name,
            weights_sha256=zoo.weights_digest(network),
            input_shape=network.input_shape,
            depths=tuple(network.depths),
            classes=network.classes,
            cut_shapes=cut_shapes,
            exporter=exporter,
            files=_write_graphs(whole, network.depths, temporary),
        )
        write_atomic(temporary / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n")
        temporary.chmod(0o755)  # mkdtemp makes it private; an edge server may run as another user
        _put_in_place(temporary, folder)
    except OSError as error:
        raise ConfigError(f"cannot write {folder}: {error.strerror}; make room or choose another folder") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _whole_graph(network: MultiExit) -> tuple[ModelProto, tuple[tuple[int, ...], ...], str]:
    """The network exported once, every cut and every exit's logits a named output; the cuts' shapes; who exported."""
    try:
        import onnx
        import onnxscript  # noqa: F401  (asked for here, so that its absence is reported like the others)
        import torch
        from torch import nn
    except ImportError as error:
        raise ConfigError(f"exporting graphs needs the package {error.name}; install it with: pip install 'cutlayer[profile]'") from error

    depths = tuple(network.depths)

    class Exposed(nn.Module):
        """The network with every cut tensor among its outputs."""

        def __init__(self) -> None:
            super().__init__()
            self.layers, self.heads = network.layers, network.heads

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            cuts, logits = [], []
            for depth, layer in enumerate(self.layers, start=1):
                x = layer(x)
                cuts.append(x)
                if depth in depths:
                    logits.append(self.heads[depths.index(depth)](x))
            return (*cuts, *logits)

    exposed, pixels = Exposed().eval(), torch.zeros(1, *network.input_shape)
    names = [cut_name(partition) for partition in range(1, depths[-1] + 1)] + [logits_name(exit_) for exit_ in range(len(depths))]
    with _quiet(), torch.no_grad():
        several = _takes_several(exposed, torch.cat([pixels, pixels]))
        cut_shapes = (network.input_shape, *(tuple(cut.shape[1:]) for cut in exposed(pixels)[: depths[-1]]))
        program = torch.onnx.export(
            exposed,
            (torch.cat([pixels, pixels]) if several else pixels,),  # of one the exporter would take that it is always one
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim(BATCH)},) if several else None,
            external_data=False,
            input_names=[PIXELS],
            output_names=names,
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None  # only the exporter that writes to a file returns nothing
    whole: ModelProto = program.model_proto
    return whole, cut_shapes, f"torch {torch.__version__}, onnx {onnx.__version__}, opset {OPSET}"


def _takes_several(exposed: Module, two: Tensor) -> bool:
    """Whether every tensor that comes out has as many rows as went in."""
    try:
        return all(len(out) == len(two) for out in exposed(two))
    except Exception:  # noqa: BLE001 - a graph that was read with one image says in many ways that it takes no other number
        return False


def _write_graphs(whole: ModelProto, depths: Sequence[int], folder: Path) -> dict[str, str]:
    """Cut `whole` into the graphs of `signatures(depths)`; returns the sha256 of each file."""
    import onnx
    from onnx.utils import Extractor

    for node in whole.graph.node:
        # The exporter notes the source file of each node: a path of this machine, of no use to who runs the graph.
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
    for value in whole.graph.value_info:
        value.ClearField("metadata_props")
    extractor = Extractor(whole)
    digests: dict[str, str] = {}
    for name, (source, targets) in signatures(depths).items():
        graph = extractor.extract_model([source], list(targets))
        onnx.checker.check_model(graph)
        data = graph.SerializeToString()
        digests[name] = hashlib.sha256(data).hexdigest()
        (folder / name).write_bytes(data)
    return digests


def _put_in_place(temporary: Path, folder: Path) -> None:
    """Rename `temporary` to `folder`; between the two renames an earlier export is away, never half there."""
    if folder.exists() and any(folder.iterdir()):
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as old:
            folder.rename(Path(old) / "old")
            temporary.rename(folder)
    else:
        temporary.replace(folder)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's chatter away.

    It logs that torchvision's operators are left out (no network here uses one) and warns of deprecations between torch's
    own parts, which nobody who calls `export` can mend.
    """
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)

"""Where a network can be cut: found in its graph, for any `torch.nn.Module`, not declared by hand.

A network can be cut where exactly one tensor is live: computed, and still read by what comes later. Inside a residual
block two are, so a cut there would send two tensors; it is refused by name. Weights and constants are on both sides and
do not count. `chain` makes a `cutlayer.profiles.zoo.MultiExit` of a network, with one layer between two cuts:

    class Mine(nn.Module):
        input_shape = (3, 96, 96)                     # channels, height, width; the pixel values that come in are 0..255

        def __init__(self):
            ...
            self.exits = {"stage1": head1, "stage2.4": head2}   # optional: after which submodule's output a head attaches

        def forward(self, x):                         # the last exit alone; one tensor in, logits (batch, classes) out
            ...

A head maps the output of its submodule to logits (batch, classes). A module that has all that `MultiExit` asks for is
taken as it is. The graph is read by `torch.fx`, and where that fails (control flow on shapes) by `torch.export`.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import inspect
import io
import itertools
import logging
import math
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, fx, nn

from cutlayer.errors import ConfigError, nearest
from cutlayer.profiles import weights, zoo

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cutlayer.profiles.zoo import MultiExit

TOLERANCE = 1e-5  # largest difference of a logit after cutting, of the largest logit; the same operations in the same order give 0

FX, EXPORT = "torch.fx", "torch.export"  # who reads a graph, in the order they are tried


@dataclass(frozen=True, eq=False)
class Trace:
    """What a network computes, in the order of execution.

    nodes are the operations that depend on the input and that the output depends on; live[i] are those whose value is
    still read after nodes[i] has run; shapes holds the shape of every tensor for one image. `reader` says what read the graph.
    """

    module: fx.GraphModule
    reader: str
    source: fx.Node
    nodes: tuple[fx.Node, ...]
    live: tuple[tuple[fx.Node, ...], ...]
    shapes: Mapping[fx.Node, tuple[int, ...]]

    def cuts(self) -> list[int]:
        """Every i such that nodes[i] holds the only tensor that is live after it, the output left out."""
        return [i for i, live in enumerate(self.live[:-1]) if len(live) == 1 and self.nodes[i] in self.shapes]

    def after(self, name: str) -> int:
        """The cut after the output of submodule `name`.

        Raises:
            ConfigError: no such submodule runs, it ends the network, or more than one tensor is live there.
        """
        found = [i for i, node in enumerate(self.nodes) if name in _paths(node)]
        if not found:
            known = list(dict.fromkeys(path for node in self.nodes for path in _paths(node)))
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known[:12])}"
            raise ConfigError(f"no submodule {name!r} computes anything in this network; {hint}")
        place = found[-1]
        if place == len(self.nodes) - 1:
            raise ConfigError(f"{name!r} ends the network: after it nothing is left to run; name a submodule before it")
        if place not in self.cuts():
            tensors = ", ".join(_label(node) for node in self.live[place])
            before, later = ([i for i in self.cuts() if (i < place) is side] for side in (True, False))
            ends = [_label(self.nodes[i]) for i in (*before[-1:], *later[:1])]
            mend = f"the nearest cuts are after {' and after '.join(ends)}" if ends else "this network has no cut"
            raise ConfigError(f"cannot cut after {name!r}: {len(self.live[place])} values are live there ({tensors}), not one; {mend}")
        return place

    def layers(self) -> list[int]:
        """The cuts worth having: of those between two weighted operations the one with the smallest tensor, the last of equals.

        A weighted operation is a convolution, a matrix product or what else has a weight of two axes or more. Batch norm,
        activations, pooling and reshaping stay with the one before them, so that they can be fused with it and the device
        sends the smaller tensor.
        """
        done = 0
        best: dict[int, int] = {}
        cuts = set(self.cuts())
        for i in range(len(self.nodes)):
            done += self.weighted(i)
            if i in cuts and done and (done not in best or self._size(i) <= self._size(best[done])):
                best[done] = i
        best.pop(done, None)  # after the last of them only the end of the head is left
        return list(best.values())

    def pieces(self) -> list[range]:
        """The operations between two cuts, which only run together."""
        bounds = [0, *(i + 1 for i in self.cuts()), len(self.nodes)]
        return [range(first, last) for first, last in itertools.pairwise(bounds)]

    def _size(self, i: int) -> int:
        return math.prod(self.shapes[self.nodes[i]])

    def weighted(self, i: int) -> bool:
        """Whether nodes[i] has a weight of two axes or more."""
        node = self.nodes[i]
        if node.op == "call_module":
            return any(weight.dim() >= 2 for weight in self.module.get_submodule(str(node.target)).parameters())
        weights = [_attribute(self.module, str(other.target)) for other in node.all_input_nodes if other.op == "get_attr"]
        return any(isinstance(weight, nn.Parameter) and weight.dim() >= 2 for weight in weights)


def _attribute(module: nn.Module, path: str) -> object:
    owner, _, name = path.rpartition(".")
    return getattr(module.get_submodule(owner), name)


def _paths(node: fx.Node) -> list[str]:
    """Submodules that the operation is part of, outermost first."""
    return [path for path, _ in node.meta.get("nn_module_stack", {}).values() if path]


def _label(node: fx.Node) -> str:
    """Name of a value for people: the submodule that puts it out, or the operation and where it stands."""
    if node.op == "placeholder":
        return f"the input {node.name}"
    if node.op == "call_module":
        return str(node.target)
    return f"{node.name} in {_paths(node)[-1]}" if _paths(node) else node.name


class _Shapes(fx.Interpreter):
    """Runs a graph and notes the shape of every tensor, without the batch axis."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.shapes: dict[fx.Node, tuple[int, ...]] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor):
            self.shapes[n] = tuple(value.shape[1:])
        return value


@torch.no_grad()
def trace(module: nn.Module, input_shape: tuple[int, int, int]) -> Trace:
    """Read the graph of `module`, which is left in eval mode; `input_shape` is (channels, height, width).

    Raises:
        ConfigError: it takes more than one input, puts out more than one tensor, or neither reader can follow it.
    """
    module.eval()
    rest = _defaults(module)
    pixels = _pixels(module, input_shape)
    try:
        module(pixels)
    except Exception as error:
        raise ConfigError(
            f"{type(module).__name__} does not run on one image of shape {input_shape} ({_first_line(error)}); "
            "mend its forward or its input_shape"
        ) from error
    graph, reader = _read(module, pixels, rest)
    source = next(node for node in graph.graph.nodes if node.op == "placeholder")
    end = graph.graph.output_node().args[0]
    if isinstance(end, tuple | list) and len(end) == 1:
        end = end[0]
    if not isinstance(end, fx.Node):
        raise ConfigError(
            f"{type(module).__name__} puts out {type(end).__name__}, not one tensor of logits; declare its early exits as `exits` instead"
        )
    depends, needed = {source}, {end}
    for node in graph.graph.nodes:
        if depends.intersection(node.all_input_nodes):
            depends.add(node)
    for node in reversed(graph.graph.nodes):
        if node in needed:
            needed.update(node.all_input_nodes)
    nodes = tuple(node for node in graph.graph.nodes if node in depends and node in needed and node is not source)
    if not nodes:
        raise ConfigError(f"the output of {type(module).__name__} does not depend on its input; nothing can be cut")
    last = {value: i for i, node in enumerate(nodes) for value in node.all_input_nodes if value in depends} | {end: len(nodes)}
    live = tuple(tuple(value for value in (source, *nodes[: i + 1]) if last[value] > i) for i in range(len(nodes)))
    runner = _Shapes(graph)
    runner.run(pixels, *(rest.values() if reader == FX else ()))
    return Trace(graph, reader, source, nodes, live, runner.shapes)


def _pixels(module: nn.Module, input_shape: tuple[int, int, int], seed: int | None = None) -> Tensor:
    """One image on the device of the weights: zeros, or pixel values drawn from `seed`."""
    weight = next(iter(module.parameters()), None)
    where = torch.device("cpu") if weight is None else weight.device
    if seed is None:
        return torch.zeros(1, *input_shape, device=where)
    return torch.randint(0, 256, (1, *input_shape), generator=torch.Generator().manual_seed(seed)).float().to(where)


def _defaults(module: nn.Module) -> dict[str, object]:
    """The inputs behind the first with their defaults, which stay as they are."""
    parameters = inspect.signature(module.forward).parameters.values()
    empty = inspect.Parameter.empty
    needed = [p.name for p in parameters if p.default is empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if len(needed) != 1:
        raise ConfigError(f"{type(module).__name__}.forward needs the inputs {needed}; give a network of one input, the pixels")
    return {p.name: p.default for p in parameters if p.default is not empty}


def _read(module: nn.Module, pixels: Tensor, rest: dict[str, object]) -> tuple[fx.GraphModule, str]:
    """The graph, and who read it."""
    try:
        return fx.symbolic_trace(module, concrete_args=rest or None), FX
    except Exception as error:  # noqa: BLE001 - it runs the user's forward, which may raise anything
        by_fx = error
    try:
        with _quiet():
            exported = torch.export.export(module, (pixels,)).module()
    except Exception as error:
        reasons = " · ".join(f"{who}: {_first_line(why)}" for who, why in ((FX, by_fx), (EXPORT, error)))
        raise ConfigError(
            f"cannot read the graph of {type(module).__name__} ({reasons}); take control flow on values out of forward, or give "
            "layers and heads as cutlayer.profiles.zoo.MultiExit does"
        ) from error
    assert isinstance(exported, fx.GraphModule)
    return exported, EXPORT


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}".rstrip(": ")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep what the exporter logs, prints and warns away: where it fails, its error says all."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


class Chained(nn.Module):
    """A network cut into layers; follows `cutlayer.profiles.zoo.MultiExit`. The weights are those of the original, not copies."""

    def __init__(
        self,
        name: str,
        layers: Mapping[str, nn.Module],
        heads: Sequence[nn.Module],
        depths: Sequence[int],
        input_shape: tuple[int, int, int],
        classes: int,
    ) -> None:
        super().__init__()
        self.name, self.input_shape, self.classes = name, input_shape, classes
        self.depths, self.layer_names = tuple(depths), tuple(layers)
        self.layers, self.heads = nn.ModuleList(layers.values()), nn.ModuleList(heads)

    def forward(self, x: Tensor) -> list[Tensor]:
        logits: list[Tensor] = []
        for depth, layer in enumerate(self.layers, start=1):
            x = layer(x)
            if depth in self.depths:
                logits.append(self.heads[self.depths.index(depth)](x))
        return logits


def chain(
    module: nn.Module,
    *,
    exits: Mapping[str, nn.Module] | None = None,
    cuts: Sequence[str] | None = None,
    input_shape: tuple[int, int, int] | None = None,
    name: str | None = None,
) -> MultiExit:
    """A network as a chain of layers with exits; left in eval mode. What is not given is read from the module.

    Layers end at `Trace.layers()`, or after the submodules that `cuts` names, and wherever an exit attaches. The last
    exit's head is what comes after the last cut. On a random image the chain must give the logits of the original.

    Raises:
        ConfigError: it cannot be read or cut, a head does not fit, or the chain computes something else.
    """
    if is_multi_exit(module):
        return cast("MultiExit", module)
    shape = input_shape or getattr(module, "input_shape", None)
    if not (isinstance(shape, tuple) and len(shape) == 3 and all(isinstance(side, int) and side > 0 for side in shape)):
        raise ConfigError(f"input_shape {shape!r} of {type(module).__name__} is not (channels, height, width); declare it on the module")
    declared = getattr(module, "exits", {}) if exits is None else exits
    if not isinstance(declared, Mapping | nn.ModuleDict):
        raise ConfigError(f"exits of {type(module).__name__} is {type(declared).__name__}; give a dict from submodule to head")
    traced = trace(module, shape)
    attached = sorted((traced.after(submodule), submodule, head) for submodule, head in declared.items())
    places = traced.layers() if cuts is None else [traced.after(submodule) for submodule in cuts]
    places = sorted({*places, *(place for place, _, _ in attached)})
    if not places:
        raise ConfigError(f"{type(module).__name__} has no place between two weighted operations with one live tensor; it cannot be cut")
    parts = [_part(traced, first, last) for first, last in zip([-1, *places], [*places, len(traced.nodes) - 1], strict=True)]
    names = _names(traced, places)
    label = name or getattr(module, "name", None) or type(module).__name__
    depths = [*(places.index(place) + 1 for place, _, _ in attached), len(places)]
    if len(set(depths)) < len(depths):
        raise ConfigError(f"two exits of {label} read the same tensor (depths {depths}); leave one of them")
    heads = [*(head.eval() for _, _, head in attached), parts[-1]]
    out = traced.shapes[traced.nodes[-1]]
    if len(out) != 1:
        raise ConfigError(f"{label} puts out a tensor of shape {('batch', *out)}; logits (batch, classes) are needed")
    made = Chained(label, dict(zip(names, parts[:-1], strict=True)), heads, depths, shape, out[0]).eval()
    _check(module, made, [submodule for _, submodule, _ in attached])
    return cast("MultiExit", made)


def is_multi_exit(module: object) -> bool:
    """Whether a module has all that `cutlayer.profiles.zoo.MultiExit` asks for."""
    wanted = ("name", "layers", "heads", "input_shape", "classes", "depths", "layer_names")
    return isinstance(module, nn.Module) and all(hasattr(module, attribute) for attribute in wanted)


def _part(traced: Trace, first: int, last: int) -> fx.GraphModule:
    """The operations after cut `first` up to and with `last` as a module of one input; constants are taken along."""
    graph = fx.Graph()
    source = traced.source if first < 0 else traced.nodes[first]
    copies = {source: graph.placeholder("x")}

    def copied(node: fx.Node) -> fx.Node:
        if node not in copies:
            if node.op == "placeholder":
                raise ConfigError(f"the network reads its input {node.name} beside the pixels; give a network of one input")
            copies[node] = graph.node_copy(node, copied)
        return copies[node]

    for node in traced.nodes[first + 1 : last + 1]:
        copied(node)
    graph.output(copies[traced.nodes[last]])
    return fx.GraphModule(traced.module, graph)


def _names(traced: Trace, places: Sequence[int]) -> list[str]:
    """A name for every layer: the submodule that holds its weighted operations and what cannot be cut from them; numbered where twice."""
    names: list[str] = []
    pieces = traced.pieces()
    for first, last in zip([-1, *places], places, strict=False):
        inside = [piece for piece in pieces if first < piece[0] <= last]
        weighted = [piece for piece in inside if any(map(traced.weighted, piece))] or inside
        paths = [_paths(traced.nodes[i]) for piece in weighted for i in piece]
        common = [path for path in paths[0] if all(path in others for others in paths)]
        name = (common or paths[0] or [f"layer{len(names) + 1}"])[-1]
        names.append(name if name not in names else f"{name}#{len(names) + 1}")
    return names


@torch.no_grad()
def _check(module: nn.Module, made: Chained, attached: Sequence[str]) -> None:
    """Refuse a chain that computes something else than its module, and heads that do not fit."""
    x = whole_in = _pixels(module, made.input_shape, seed=0)
    logits: list[Tensor] = []
    for depth, (layer, label) in enumerate(zip(made.layers, made.layer_names, strict=True), start=1):
        x = _apart(layer, x, f"layer {label!r}")
        if depth in made.depths:
            at = made.depths.index(depth)
            name = f"the head after {attached[at]!r}" if at < len(attached) else "the end of the network"
            logits.append(_apart(made.heads[at], x, name))
            if tuple(logits[at].shape) != (1, made.classes):
                raise ConfigError(f"{name} puts out {tuple(logits[at].shape)} for one image; (1, {made.classes}) is needed, as at the end")
    if x.is_meta:
        return
    whole = module(whole_in)
    whole = whole[0] if isinstance(whole, tuple | list) else whole
    if not float((logits[-1] - whole).abs().max()) <= TOLERANCE * max(1.0, float(whole.abs().max())):
        raise ConfigError(
            f"{made.name} cut into layers gives other logits than in one piece; it draws random numbers or changes a tensor in place"
        )


def _apart(part: nn.Module, x: Tensor, name: str) -> Tensor:
    """Run a part on a tensor that it must leave as it is: a head and the next layer, or a codec, read the same one."""
    given = x.clone()
    try:
        out: Tensor = part(x)
    except RuntimeError as error:
        shape = tuple(x.shape[1:])
        raise ConfigError(f"{name} does not run on a tensor of shape {shape} ({_first_line(error)}); give one that fits") from error
    if not x.is_meta and not torch.equal(given, x):
        raise ConfigError(f"{name} changes its input in place, which is read elsewhere; set inplace=False in its first operation")
    return out


def resolve(spec: str, weights_file: Path | None = None) -> MultiExit:
    """A network by name: one of the zoo, or `module:function` of the user's own, imported from the current directory.

    The function takes nothing and returns a module for `chain`, or one that follows `MultiExit`. The weights are those of the
    file (`cutlayer.profiles.weights`), or those that ship, or those that the function gave it.

    Raises:
        ConfigError: no such network, module or function, or it fails or returns something else, or the file does not fit.
    """
    path, colon, attribute = spec.partition(":")
    if not colon:
        if spec not in zoo.names():
            raise ConfigError(
                f"no network {spec!r}; {nearest(spec, zoo.names())}give one of {', '.join(zoo.names())}, or module:function of your own"
            )
        if weights_file is None:
            return zoo.build(spec)
        built = zoo.build(spec, seed=zoo.LATENCY_SEED)  # every weight is replaced
        assert isinstance(built, nn.Module)
        weights.load(built, weights_file, spec)
        built.eval()
        return built
    if not path or not attribute:
        raise ConfigError(f"{spec!r} names no function; write module:function, such as networks:build for build() in networks.py")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        made = _call(spec, path, attribute)
    finally:
        sys.path.remove(here)
    if not isinstance(made, nn.Module):
        raise ConfigError(f"{spec} returned {type(made).__name__}; it must return a torch.nn.Module")
    made.eval()
    own_name = getattr(made, "name", None)
    if weights_file is not None:
        weights.load(made, weights_file, own_name if isinstance(own_name, str) else spec)
    return chain(made, name=None if isinstance(own_name, str) else spec)


def _call(spec: str, path: str, attribute: str) -> object:
    try:
        importlib.invalidate_caches()
        found: object = importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{path}.".startswith(f"{error.name}."):
            raise ConfigError(f"{spec}: importing {path} needs {error.name}, which is not installed") from error
        raise ConfigError(f"{spec}: no module {path!r} in the current directory or installed; check its name") from error
    except Exception as error:
        raise ConfigError(f"{spec}: importing {path} failed with {_first_line(error)}") from error
    function = getattr(found, attribute, None)
    if not callable(function):
        offered = [name for name, value in vars(found).items() if callable(value) and not name.startswith("_")]
        raise ConfigError(f"{spec}: {path} has no function {attribute!r}; it has: {', '.join(offered[:12]) or 'none'}")
    try:
        return function()
    except Exception as error:
        raise ConfigError(f"{spec}: {attribute}() failed with {_first_line(error)}") from error

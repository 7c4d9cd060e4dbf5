"""Who may import whom: one identity per module, a light runtime, and imports that run one way."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

# Lowest first: a part imports itself and what stands before it.
LAYERS = ("base", "profiles", "runtime", "envs", "agents", "cli")
FOLDERS = LAYERS[1:-1]

# Modules directly under src/cutlayer.
LAYER_OF = {
    "__init__": "base",
    "errors": "base",
    "files": "base",
    "options": "base",
    "bench_cli": "cli",
    "benchmark_cli": "cli",
    "channel_cli": "cli",
    "evaluate_cli": "cli",
    "export_cli": "cli",
    "testbed_cli": "cli",
    "train_cli": "cli",
    "sweep_cli": "cli",
    "tune_cli": "cli",
    "measure_cli": "cli",
    "plan_cli": "cli",
    "profile_cli": "cli",
    "replay_cli": "cli",
    "report_cli": "cli",
    "cli": "cli",
}

# Libraries of training and simulation; a device has none of them.
HEAVY = ("torch", "gymnasium", "simpy", "stable_baselines3", "matplotlib", "numba")

# The two ends of the data plane run graphs; everything else of the runtime loads onnxruntime when it is used, if ever.
RUNS_GRAPHS = ("cutlayer.runtime.split.device", "cutlayer.runtime.split.edge")


def _sources(root: Path) -> dict[str, Path]:
    """Module name to file, for every module of the package."""
    files = {f"cutlayer.{path.stem}": path for path in (root / "src" / "cutlayer").glob("*.py")}
    for folder in FOLDERS:
        files |= {".".join(("cutlayer", *path.relative_to(root).with_suffix("").parts)): path for path in (root / folder).rglob("*.py")}
    return {name.removesuffix(".__init__"): path for name, path in sorted(files.items())}


def _importable(root: Path) -> list[str]:
    """All modules but scripts, which act when they are imported."""
    return [name for name in _sources(root) if not name.endswith(".__main__")]


def _run(code: str, cwd: Path):
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_each_module_exists_once_even_from_the_repository_root(root):
    """From the root `import envs` would work by accident, and a class would exist twice."""
    code = f"""
import importlib, json, sys
assert sys.path[0] == ""  # the trap is open: the current directory can be imported from
for name in {_importable(root)!r}:
    importlib.import_module(name)
print(json.dumps(sorted(set({FOLDERS!r}) & {{name.partition(".")[0] for name in sys.modules}})))
"""
    doubled = _run(code, cwd=root)
    assert not doubled, f"imported as top-level packages: {doubled}; import cutlayer.{doubled[0]}, never the folder"


def test_the_runtime_loads_no_library_of_training_or_simulation(root, tmp_path):
    """A device holds numpy and msgspec, and onnxruntime if it runs its share of the network."""
    names = [name for name in _importable(root) if name.startswith("cutlayer.runtime") and name not in RUNS_GRAPHS]
    brought = _run(_watch(names, (*HEAVY, "onnxruntime")), cwd=tmp_path)
    assert not brought, f"loaded on import (module: libraries): {brought}; import them inside the function that needs them"


def test_the_ends_of_the_data_plane_load_no_library_of_training_or_simulation(root, tmp_path):
    names = [name for name in RUNS_GRAPHS if name in _sources(root)]
    brought = _run(_watch(names, HEAVY), cwd=tmp_path)
    assert not brought, f"loaded on import (module: libraries): {brought}"


def _watch(names: list[str], banned: tuple[str, ...]) -> str:
    return f"""
import importlib, json, sys
brought = {{}}
for name in {names!r}:
    before = set(sys.modules)
    importlib.import_module(name)
    if new := sorted((set(sys.modules) - before) & set({banned!r})):
        brought[name] = new
print(json.dumps(brought))
"""


def test_every_module_of_the_package_root_has_a_layer(root):
    unknown = sorted({path.stem for path in (root / "src" / "cutlayer").glob("*.py")} - set(LAYER_OF))
    assert not unknown, f"src/cutlayer: {unknown} stand in no layer; name them in LAYER_OF of this file and in pyproject.toml, only-include"


def test_imports_run_one_way(root):
    """Those inside functions and under TYPE_CHECKING count too: the direction is about knowledge, not about load time."""
    against = []
    for name, path in _sources(root).items():
        own = LAYERS.index(_layer(name))
        for line, target in _imports(ast.parse(path.read_text(encoding="utf-8"))):
            if LAYERS.index(_layer(target)) > own:
                against.append(f"{path.relative_to(root)}:{line}: {_layer(name)} imports {target}")
    assert not against, f"imports run {' <- '.join(LAYERS)}, and these do not:\n" + "\n".join(against)


@pytest.mark.parametrize(
    ("code", "targets"),
    [
        ("import cutlayer.envs.spec", ["cutlayer.envs.spec"]),
        ("def f():\n    from cutlayer.agents import oracle", ["cutlayer.agents"]),
        ("from cutlayer import __version__, agents", ["cutlayer.__version__", "cutlayer.agents"]),
        ("import importlib\nimportlib.import_module('cutlayer.cli')", ["cutlayer.cli"]),
        ("import numpy, cutlayers", []),
    ],
)
def test_every_way_to_import_is_seen(code, targets):
    assert [target for _, target in _imports(ast.parse(code))] == targets


def _layer(module: str) -> str:
    part = [*module.split("."), "__init__"][1]
    if part in FOLDERS:
        return part
    return LAYER_OF.get(part, "base")  # else a name of cutlayer/__init__.py


def _imports(tree: ast.AST) -> list[tuple[int, str]]:
    """(line, module) of every import of this package."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import; name the module in full"
            names = [f"cutlayer.{alias.name}" for alias in node.names] if node.module == "cutlayer" else [node.module or ""]
            found += [(node.lineno, name) for name in names]
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in {"import_module", "__import__"}:
            found += [(node.lineno, str(arg.value)) for arg in node.args[:1] if isinstance(arg, ast.Constant)]
    return [(line, name) for line, name in found if name.split(".")[0] == "cutlayer"]

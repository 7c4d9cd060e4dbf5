"""What is published: every file in the wheel, every version pinned, one version number, no path of somebody's machine."""

from __future__ import annotations

import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import cutlayer

FOLDERS = ("agents", "envs", "profiles", "runtime")

# Needed by a CUDA build of torch alone, which pins them itself; constraints.txt is made with the CPU build.
ACCELERATOR = re.compile(r"(nvidia|cuda|triton|pytorch-triton)\b")

# What a device needs to decide; imported below from the wheel alone, with numpy and msgspec and nothing else.
DECIDES = {
    "profiles": ("schema", "load", "plans", "codecs", "energy", "traces"),
    "runtime": ("telemetry", "features", "policy", "bundle", "controller"),
}


@pytest.fixture(scope="module")
def project(root):
    """The parsed pyproject.toml."""
    return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def versions(root):
    """Name to requirement, of constraints.txt."""
    lines = [line.partition("#")[0].strip() for line in (root / "constraints.txt").read_text(encoding="utf-8").splitlines()]
    found = [Requirement(line) for line in lines if line]
    assert len({canonicalize_name(pin.name) for pin in found}) == len(found), "constraints.txt names a distribution twice"
    return {canonicalize_name(pin.name): pin for pin in found}


@pytest.fixture(scope="module")
def committed(root):
    """Files git tracks, with those it would (new, not ignored); in a clean checkout the two are the same."""
    if not (root / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a git checkout: there is no list of files to compare with")
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    return sorted(name for name in set(listing.split("\0")) - {""} if (root / name).is_file())


@pytest.fixture(scope="module")
def wheels(root, tmp_path_factory):
    """The wheel built from the checkout and the wheel built from the sdist, without a network."""
    out = tmp_path_factory.mktemp("dist")
    _hatchling(root, "-t", "sdist", "-t", "wheel", "-d", str(out / "direct"))
    with tarfile.open(next((out / "direct").glob("*.tar.gz"))) as archive:
        # The filter came with 3.11.4; from 3.14 on it is the default.
        archive.extractall(out / "sdist", **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))  # noqa: S202 - our own archive
    _hatchling(next((out / "sdist").iterdir()), "-t", "wheel", "-d", str(out / "from_sdist"))
    return {kind: next((out / kind).glob("*.whl")) for kind in ("direct", "from_sdist")}


def _hatchling(source: Path, *options: str) -> None:
    done = subprocess.run([sys.executable, "-m", "hatchling", "build", *options], cwd=source, check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"hatchling build {' '.join(options)} failed:\n{done.stdout}{done.stderr}"


def _members(wheel: Path) -> set[str]:
    names = zipfile.ZipFile(wheel).namelist()
    assert len(names) == len(set(names)), f"{wheel.name} holds a name twice"
    return {name for name in names if ".dist-info/" not in name}


@pytest.mark.parametrize("kind", ["direct", "from_sdist"])
def test_wheel_holds_exactly_the_committed_files(kind, wheels, committed):
    """A layout that hatchling misreads gives a wheel without the four folders, and a message of success."""
    expected = {f"cutlayer/{name}" for name in committed if name.split("/")[0] in FOLDERS}
    expected |= {name.removeprefix("src/") for name in committed if name.startswith("src/cutlayer/")}
    got = _members(wheels[kind])
    missing, surplus = sorted(expected - got), sorted(got - expected)
    assert not missing, f"not in the wheel: {missing}; a new file of src/cutlayer is named in pyproject.toml, tool.hatch, only-include"
    assert not surplus, f"in the wheel but not in git: {surplus}"
    assert {name.split("/")[1] for name in got} > set(FOLDERS)


def test_the_wheel_alone_decides_with_numpy_and_msgspec(wheels, tmp_path):
    """No source tree, no torch, no other dependency: what a device installs by `pip install cutlayer` is enough."""
    zipfile.ZipFile(wheels["direct"]).extractall(tmp_path / "site")  # noqa: S202 - our own archive
    got = _members(wheels["direct"])
    names = [f"cutlayer.{folder}.{name}" for folder, found in DECIDES.items() for name in found]
    names = ["cutlayer.runtime", *(name for name in names if f"{name.replace('.', '/')}.py" in got)]
    code = f"""
import importlib, importlib.abc, json, sys

class OnlyNumpyAndMsgspec(importlib.abc.MetaPathFinder):
    allowed = sys.stdlib_module_names | {{"numpy", "msgspec", "cutlayer"}}

    def find_spec(self, fullname, path=None, target=None):
        if fullname.partition(".")[0] not in self.allowed:
            raise ModuleNotFoundError(f"{{fullname}} is no part of the base install (numpy, msgspec)", name=fullname)

sys.meta_path.insert(0, OnlyNumpyAndMsgspec())
sys.path.insert(0, {str(tmp_path / "site")!r})
print(json.dumps([importlib.import_module(name).__file__ for name in {names!r}]))
"""
    # -I: neither the current directory nor PYTHONPATH can lend a module.
    done = subprocess.run([sys.executable, "-I", "-c", code], cwd=tmp_path, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(file.startswith(str(tmp_path)) for file in json.loads(done.stdout)), "the source tree was imported, not the wheel"


def test_pins_are_exact_and_name_no_place(versions):
    """One version each, no local version, no address: the same file serves every machine."""
    for pin in versions.values():
        assert pin.url is None, f"constraints.txt: {pin} names an address"
        assert [spec.operator for spec in pin.specifier] == ["=="], f"constraints.txt: {pin} is not one exact version"
        assert "+" not in str(pin.specifier), f"constraints.txt: {pin} has a local version, which other machines lack"


def test_every_direct_dependency_is_pinned_to_a_version_it_allows(project, versions):
    for requirement in _direct(project):
        name = canonicalize_name(requirement.name)
        assert name in versions, f"pyproject.toml asks for {requirement}, constraints.txt has no line {name}==VERSION"
        version = _version(versions[name])
        assert requirement.specifier.contains(version), f"pyproject.toml asks for {requirement}, constraints.txt pins {version}"


def test_every_transitive_dependency_is_pinned(project, versions):
    """Follows what the installed distributions ask for, on this machine's Python and platform."""
    todo = [(requirement, "pyproject.toml") for requirement in _direct(project)]
    seen = set()
    while todo:
        requirement, asked_by = todo.pop()
        name = canonicalize_name(requirement.name)
        if ACCELERATOR.match(name):
            continue
        assert name in versions, f"{asked_by} asks for {requirement}, constraints.txt has no line {name}==VERSION"
        key = (name, frozenset(requirement.extras))
        if key in seen:
            continue
        seen.add(key)
        for line in importlib.metadata.requires(name) or []:
            needed = Requirement(line)
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in ("", *requirement.extras)):
                todo.append((needed, name))


def test_the_changelog_and_the_package_agree_on_the_version(root):
    headings = re.findall(r"^## \[?([^\s\]]+)", (root / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert headings, "CHANGELOG.md has no heading `## VERSION - DATE`"
    version = cutlayer.__version__
    assert headings[0] == version, f"CHANGELOG.md opens with {headings[0]}, src/cutlayer/__init__.py says {version}"


def test_no_file_names_a_path_of_a_machine(root, committed):
    """Neither this checkout's place nor a home folder: such a path is wrong for everybody else."""
    shared = {Path(name) for name in ("/", "/home", "/opt", "/srv", "/tmp", "/var/tmp", "/usr/src")}  # noqa: S108 - left out, not used
    places = [re.escape(str(place)) + r"(?![\w-])" for place in {root, Path.home()} - shared]
    places += [re.escape(str(root.parent)) + "/" for _ in {root.parent} - shared]
    pattern = re.compile(r"(?<![\w.~-])(?:" + "|".join([*places, r"/(?:(?:home|Users)/\w+|root)/\w", r"[A-Z]:\\Users\\\w"]) + ")")
    found = []
    for name in committed:
        try:
            text = (root / name).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # weights and images
        found += [f"{name}:{number}: {line.strip()[:120]}" for number, line in enumerate(text.splitlines(), 1) if pattern.search(line)]
    assert not found, "a path of one machine:\n" + "\n".join(found)


def _direct(project) -> list[Requirement]:
    """Every requirement named in pyproject.toml, the build's own among them; less this project's own extras."""
    table = project["project"]
    lines = [*project["build-system"]["requires"], *table["dependencies"]]
    lines += [line for extra in table["optional-dependencies"].values() for line in extra]
    return [found for line in lines if (found := Requirement(line)).name != table["name"]]


def _version(pin: Requirement) -> str:
    return next(iter(pin.specifier)).version

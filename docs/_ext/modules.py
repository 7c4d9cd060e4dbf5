# noqa: INP001 - found through sys.path by conf.py
"""Draws a page for each module that others may import, and lets autodoc read our docstrings, which are Markdown.

A docstring opens with a claim; tables, code between backticks and indented blocks are Markdown's. `Raises:` becomes a list.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import pkgutil
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import drawn
from docutils.utils import new_document
from myst_parser.config.main import MdParserConfig
from myst_parser.mdit_to_docutils.sphinx_ import SphinxRenderer
from myst_parser.parsers.mdit import create_md_parser
from sphinx.addnodes import pending_xref
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.docutils import SphinxDirective
from sphinx.util.nodes import make_refnode

import cutlayer

if TYPE_CHECKING:
    from docutils import nodes
    from sphinx.application import Sphinx

GROUPS = {
    "errors": "What goes wrong, in two families: what the user can mend, and what a peer did.",
    "profiles": "What a layer costs: tables, measuring, codecs, the plan table, the networks.",
    "runtime": "What a device runs: telemetry, features, policy, bundle, controller, daemon, split inference.",
    "envs": "The simulator: scenarios, streams, engines, Gymnasium environments.",
    "agents": "Baselines, learners, evaluation, export.",
}
SECTIONS = ("Raises:", "Returns:", "Args:")


def modules(group: str) -> list[str]:
    """Full names of the public modules of a group, packages before what is in them."""
    top = importlib.import_module(f"cutlayer.{group}")
    inner = pkgutil.walk_packages(top.__path__, f"{top.__name__}.") if hasattr(top, "__path__") else ()
    return sorted(
        name for name in [top.__name__, *(found.name for found in inner)] if not any(part.startswith("_") for part in name.split("."))
    )


def _source(name: str) -> Path:
    path = Path(cutlayer.__path__[0], *name.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def claim(name: str) -> str:
    """The first sentence of a module, read without importing it."""
    return (ast.get_docstring(ast.parse(_source(name).read_text(encoding="utf-8"))) or "").split("\n\n")[0]


def page(name: str) -> str:
    """The page of a module."""
    options = "   :members:\n   :ignore-module-all:"
    return f"# {name.removeprefix('cutlayer.')}\n\n```{{eval-rst}}\n.. automodule:: {name}\n{options}\n```\n"


def pages() -> dict[str, str]:
    """Every page by its file."""
    made, head = {}, ["(modules)=", "# Modules", "", "Public names with shapes, units, errors and sources, from the docstrings."]
    head += ["Imports run one way: `profiles`, `runtime`, `envs`, `agents`. Seconds, bytes, bits per second, joules and watts throughout."]
    for group, text in GROUPS.items():
        listed = modules(group)
        head += ["", f"## {group}", "", text, "", "| module | |", "|---|---|"]
        head += [drawn.row(f"[`{name.removeprefix('cutlayer.')}`]({name}.md)", claim(name)) for name in listed]
        head += ["", "```{toctree}", ":hidden:", "", *listed, "```"]
        made |= {f"{name}.md": page(name) for name in listed}
    return {**made, "index.md": "\n".join([*head, ""])}


class Docstring(SphinxDirective):
    """`.. docstring::` parses its content as Markdown."""

    has_content: ClassVar[bool] = True

    def run(self) -> list[nodes.Node]:
        """The content's nodes."""
        part = new_document(self.env.docname, self.state.document.settings)
        part.reporter = self.state.document.reporter
        parser = create_md_parser(MdParserConfig(gfm_only=True), SphinxRenderer)
        parser.options["document"] = part
        parser.render(markdown(list(self.content)))
        return part.children


def markdown(lines: list[str]) -> str:
    """A docstring as whole Markdown: headings as bold lines, since they can open no section there, and `Raises:` as a list."""
    out, section = [], ""
    for line in lines:
        words = line.strip()
        if words in SECTIONS:
            section = words
            out += ["", f"**{words.removesuffix(':')}**", ""]
        elif section and line.startswith("    ") and not line.startswith("     "):
            name, colon, rest = words.partition(":")
            out.append(f"- `{name}`:{rest}" if colon and " " not in name else f"  {words}")
        elif section and words:
            out += [f"  {words}"] if line.startswith(" ") else ["", line]
            section = section if line.startswith(" ") else ""
        elif line.startswith("#"):
            out += [f"**{line.lstrip('# ')}**", ""]
        else:
            out.append(line)
    return "\n".join(out)


def _wrap(_app: Sphinx, _what: str, _name: str, _obj: Any, _options: Any, lines: list[str]) -> None:
    """Hand the docstring over to the directive."""
    text = list(lines)
    lines[:] = [".. docstring::", "", *(f"   {line}" for line in text), ""] if any(text) else []


class ResolveAnnotations(SphinxPostTransform):
    """Links the names in signatures as the module itself would find them: by its imports, those for type checkers too.

    What is imported from another library, or is an alias that no page shows, stays text: no inventory of other libraries can be fetched
    where these pages are built. A name that the module does not have is left to Sphinx, which stops the build.
    """

    default_priority = 5  # before Sphinx looks for names that end alike

    def run(self, **_more: Any) -> None:
        """Over all names of one page."""
        for node in list(self.document.findall(pending_xref)):
            if node.get("refdomain") == "py":
                made = self._made(node)
                if made is not None:
                    node.replace_self(made)

    def _made(self, node: pending_xref) -> nodes.Node | None:
        found = re.match(r"[\w.]+", node["reftarget"])
        if found is None:
            return None
        objects, content = self.env.domains.python_domain.objects, node[0].deepcopy()
        target = full_name(found[0], node.get("py:module") or "")
        if target in objects:
            entry = objects[target]
            return make_refnode(self.app.builder, self.env.current_document.docname, entry.docname, entry.node_id, content, target)
        return content if not target.startswith("cutlayer.") or exists(target) else None


@cache
def names(module: str) -> dict[str, str]:
    """What each name that a module imports or gives stands for, in full; imports for type checkers too."""
    tree = ast.parse(_source(module).read_text(encoding="utf-8"))
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            found |= {one.asname or one.name: f"{node.module}.{one.name}" for one in node.names}
        elif isinstance(node, ast.Import):
            found |= {one.asname or one.name: one.name if one.asname else one.name.partition(".")[0] for one in node.names}
    own = [node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)]
    own += [target.id for node in tree.body if isinstance(node, ast.Assign) for target in node.targets if isinstance(target, ast.Name)]
    return found | {name: f"{module}.{name}" for name in own}


def full_name(name: str, module: str) -> str:
    """A name as `module` writes it, in full; as it is where the module does not know it."""
    if not module.startswith("cutlayer"):
        return name
    head, dot, rest = name.partition(".")
    if head in vars(builtins) or (head == "typing" and rest):
        return f"builtins.{name}"
    return f"{names(module).get(head, head)}{dot}{rest}"


def exists(name: str) -> bool:
    """Whether a module of ours has the name, shown on its page or not."""
    module, _, last = name.rpartition(".")
    try:
        return hasattr(importlib.import_module(module), last)
    except ModuleNotFoundError:
        return False


def complete(module: str) -> None:
    """Give a module the names that it imports for type checkers: msgspec looks for them when a struct is asked for its signature."""
    made = importlib.import_module(module)
    for name, target in names(module).items():
        where, _, last = target.rpartition(".")
        if not hasattr(made, name) and where.startswith("cutlayer.") and exists(target):
            setattr(made, name, getattr(importlib.import_module(where), last))


def _draw(app: Sphinx) -> None:
    drawn.write(Path(app.srcdir) / drawn.REFERENCE / "modules", pages())
    for group in GROUPS:
        for name in modules(group):
            complete(name)


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx calls it."""
    app.add_directive("docstring", Docstring)
    app.connect("builder-inited", _draw)
    app.connect("autodoc-process-docstring", _wrap)
    app.add_post_transform(ResolveAnnotations)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

"""Every page is reachable, its links lead somewhere, and what is drawn from the code is as the code has it now."""

from __future__ import annotations

import argparse
import doctest
import importlib
import importlib.util
import re
import sys

import pytest

from cutlayer import cli
from cutlayer.envs import scenarios

LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
# Pages and labels that are drawn when the pages are built; `make docs` checks links to the rest of them.
DRAWN = {"commands", "modules", "scenario-catalogue"}


@pytest.fixture(scope="module")
def drawing(root):
    """A module of docs/_ext by name, loaded as Sphinx does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(root / "docs/_ext"))
        yield importlib.import_module
        for name in ("drawn", "commands", "catalogue", "modules"):
            sys.modules.pop(name, None)


def script(root, name):
    """A script of docs/figures as a module."""
    spec = importlib.util.spec_from_file_location(name, root / "docs/figures" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look for it there
    spec.loader.exec_module(module)
    del sys.modules[name]
    return module


def slugs(text):
    """Anchors of a page's headings, as GitHub and MyST make them."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#{1,4} (.+)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", re.sub(r"[`*]", "", one)).lower().replace(" ", "-") for one in headings}


def pages(root):
    """Every Markdown file that is part of the project and written by hand."""
    found = [*root.glob("*.md"), *(root / "docs").glob("*.md"), *(root / "notebooks").glob("*.md")]
    assert len(found) > 15
    return found


# --- links


def test_every_link_within_the_project_leads_to_a_file_and_its_heading(root):
    labels = {label for page in pages(root) for label in re.findall(r"^\(([\w-]+)\)=$", page.read_text(encoding="utf-8"), re.MULTILINE)}
    for page in pages(root):
        text = page.read_text(encoding="utf-8")
        for target in LINK.findall(re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)):
            if re.match(r"https?:|mailto:", target):
                continue
            file, _, anchor = target.partition("#")
            other = page if not file else page.parent / file
            assert other.exists(), f"{page.name} links to {target}"
            if anchor and other.suffix == ".md":
                known = slugs(other.read_text(encoding="utf-8")) | labels | DRAWN
                assert anchor in known or anchor.startswith("command-"), f"{page.name} links to {target}"


def test_every_page_is_in_the_index(root):
    index = (root / "docs/index.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^([\w/-]+)$", "\n".join(re.findall(r"```\{toctree\}\n(.*?)```", index, re.DOTALL)), re.MULTILINE))
    written = {page.stem for page in (root / "docs").glob("*.md")} - {"index"}
    assert written <= listed, f"no reader finds {sorted(written - listed)}; name it in docs/index.md"


# --- commands


def leaves(parser, words=()):
    """Every command with its parser, found independently of the pages."""
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not below:
        return {words: parser}
    return {name: one for action in below for word, sub in action.choices.items() for name, one in leaves(sub, (*words, word)).items()}


@pytest.fixture(scope="module")
def command_pages(drawing):
    return drawing("commands").pages()


def test_every_command_has_a_page_with_all_its_options_its_example_and_exit_codes(command_pages):
    found = leaves(cli.parser())
    assert len(found) > 25
    assert set(command_pages) == {f"{'-'.join(words)}.md" for words in found} | {"index.md", "cutlayerd.md", "cutlayer-edge.md"}
    for words, parser in found.items():
        page = command_pages[f"{'-'.join(words)}.md"]
        assert f"# cutlayer {' '.join(words)}\n" in page
        for action in parser._actions:
            assert all(f"`{name}" in page for name in action.option_strings if name not in ("-h", "--help"))
        assert parser.epilog.removeprefix("example: ") in page
        assert "| 2 | " in page
        assert "SUPPRESS" not in page
        assert "None" not in page


def test_a_page_shows_what_its_example_prints(command_pages):
    printed = command_pages["scenarios.md"].split("It prints:")[1]
    assert all(f"\n{name} " in printed for name in scenarios.names())


def test_an_option_reads_as_the_help_tells_it(command_pages):
    page = command_pages["evaluate.md"]
    assert "| `--episodes N` | Default: `40`. |" in page
    assert "| `--engine {simpy,kernel}` | Default: `kernel`. |" in page
    assert re.search(r"^\| `--policy P` \| bundle, .* Has to be given\. \|$", page, re.MULTILINE)
    assert "| `-o FILE`, `--out FILE` | Has to be given. |" in command_pages["export.md"]
    assert "--http ADDRESS" in command_pages["cutlayerd.md"]
    assert "--graphs DIR" in command_pages["cutlayer-edge.md"]


# --- the catalogue, the concepts, the modules


def test_the_catalogue_holds_every_scenario_with_its_claim_and_numbers(drawing):
    page = drawing("catalogue").page()
    assert len(re.findall(r"^\| \[`", page, re.MULTILINE)) == len(scenarios.names())
    for name in scenarios.names():
        one = scenarios.make(name)
        row = next(line for line in page.splitlines() if line.startswith(f"| [`{name}`]"))
        assert scenarios.claim(name) in row
        assert f"| {len(one.plans)} | {one.requests} | {1e3 * one.objective.deadline_s:.0f} ms |" in row
        assert f"| inputs | {one.inputs} |" in page
        assert f"\n## {name}\n" in page
    assert "mixture of ar1-log-normal, ar1-log-normal" in page
    link = scenarios.make("urllc-ge").channel
    assert f"GilbertElliott: good_bps {1e-6 * link.good_bps:g} Mb/s, bad_bps {1e-6 * link.bad_bps:g} Mb/s" in page


def test_the_plans_of_the_concepts_are_those_of_the_table_that_ships(root):
    text = (root / "docs/concepts.md").read_text(encoding="utf-8")
    plans = scenarios.plan_table()
    assert f"These are five of the {len(plans)} plans" in text
    names = [plans.name(plan) for plan in range(len(plans))]
    rows = re.findall(r"^\| `(e\d [^`]+)` \| ([\d.]+) ms \| ([\d,]+) B \| ([\d.]+) ms \| ([\d.]+) % \|$", text, re.MULTILINE)
    assert len(rows) == 5
    for name, device, wire, edge, right in rows:
        row = plans.rows[names.index(name)]
        wanted = (1e3 * (row.device_s + row.encode_s), row.wire_bytes, 1e3 * (row.edge_s + row.decode_s), 100 * row.accuracy)
        assert [device, wire, edge, right] == [f"{wanted[0]:.1f}", f"{wanted[1]:,}", f"{wanted[2]:.1f}", f"{wanted[3]:.1f}"]


def test_the_figure_is_what_its_script_draws_in_both_themes(root):
    way = script(root, "way")
    for name, palette in way.FILES.items():
        assert (root / "docs/figures" / name).read_text(encoding="utf-8") == way.drawn(palette)
    for box in way.BOXES:
        assert 0 < box.x < box.x + box.width < way.WIDTH
        assert 0 < box.y < box.y + way.HIGH < way.HEIGHT


def test_every_module_has_a_page_and_opens_with_a_claim(drawing, root):
    modules = drawing("modules")
    made = modules.pages()
    for group in ("profiles", "runtime", "envs", "agents"):
        for path in (root / group).rglob("*.py"):
            name = ".".join(("cutlayer", *path.relative_to(root).with_suffix("").parts)).removesuffix(".__init__")
            if path.stem == "__main__":
                continue
            assert f"{name}.md" in made, f"{name} has no page"
            assert modules.claim(name), f"{name} says nothing about itself"


SAID = """A claim about `x`.

## Title
Text.

Raises:
    ConfigError: it is wrong, and
        goes on.
    PeerError: damaged."""
MEANT = """A claim about `x`.

**Title**

Text.


**Raises**

- `ConfigError`: it is wrong, and
  goes on.
- `PeerError`: damaged."""


def test_a_docstring_is_read_as_markdown(drawing):
    assert drawing("modules").markdown(SAID.split("\n")) == MEANT


def test_names_in_signatures_are_found_where_their_module_finds_them(drawing):
    modules = drawing("modules")
    assert modules.full_name("Policy", "cutlayer.agents.policies") == "cutlayer.agents.evaluate.Policy"
    assert modules.full_name("Policy", "cutlayer.agents.export") == "cutlayer.runtime.policy.Policy"
    assert modules.full_name("np.float32", "cutlayer.agents.evaluate") == "numpy.float32"
    assert modules.full_name("Unheard", "cutlayer.agents.evaluate") == "Unheard"
    assert modules.exists("cutlayer.profiles.cost.Number")
    assert not modules.exists("cutlayer.profiles.cost.Unheard")


# --- doctests


def test_examples_in_docstrings_give_what_they_say(root):
    """Of every module that has any; with none there is nothing to be wrong."""
    for group in ("profiles", "runtime", "envs", "agents", "src/cutlayer"):
        for path in (root / group).rglob("*.py"):
            if re.search(r"^\s*>>> ", path.read_text(encoding="utf-8"), re.MULTILINE):
                relative = path.relative_to(root / "src/cutlayer" if group == "src/cutlayer" else root).with_suffix("")
                module = importlib.import_module(".".join(("cutlayer", *relative.parts)).removesuffix(".__init__"))
                failed, tried = doctest.testmod(module)
                assert tried > 0
                assert failed == 0, path


def test_what_the_systems_page_says_is_here_is_here(root):
    from cutlayer.agents.baselines import ABOUT, RULES
    from cutlayer.agents.learners import LEARNERS
    from cutlayer.envs.spec import PLATFORMS

    text = (root / "docs/systems.md").read_text(encoding="utf-8")
    for about, name in ((ABOUT[name], name) for name in RULES if ABOUT[name].year):
        assert f"`{name}`" in text, f"{about.authors}: no row names {name}"
        assert about.venue.split()[-1] in text
        assert str(about.year) in text
    here = set(re.findall(r"baselines? `([\w-]+)`|learner `([\w-]+)`|scenarios? `([\w-]+)`", text))
    known = {*RULES, *LEARNERS, *scenarios.names()}
    assert {name for found in here for name in found if name} <= known
    for name in ("hidden-load", "cold-start", "camera", "compound", *(f'"{one}"' for one in PLATFORMS)):
        assert name in text

# noqa: INP001 - read by Sphinx, no module
"""How `make docs` builds the pages: from the Markdown beside this file, and from the code where a page can be drawn from it.

What `_ext` draws goes to `docs/reference`, which is never committed: a page for each command, the catalogue of scenarios, the modules.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

# Importing numba, torch and BLAS for their docstrings must not start a thread for each core.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
sys.path.insert(0, str(Path(__file__).parent / "_ext"))

from cutlayer import __version__  # noqa: E402 - after the environment is set

project = "cutlayer"
copyright = "the cutlayer authors"  # noqa: A001 - the name that Sphinx reads
version = release = __version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "commands", "catalogue", "modules", "worked"]
exclude_patterns = ["_ext", "_static", "figures", "results", "schema", "**.ipynb_checkpoints"]
html_theme = "furo"
html_title = f"cutlayer {__version__}"
html_static_path = ["_static"]
html_css_files = ["wide.css"]
html_theme_options = {"sidebar_hide_name": False}

nb_execution_mode = "off"  # `make notebooks` runs them
myst_heading_anchors = 4  # the deepest heading that a page links to
myst_enable_extensions = ["colon_fence"]

autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False  # what a library says of its own methods is in another markup
autodoc_typehints = "signature"

"""The documentation site: ``python -m sphinx -W --keep-going docs build/docs``."""

import os
import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS))
os.environ.setdefault("JAX_PLATFORMS", "cpu")  # of the notebooks

from extensions.signatures import Unevaluated  # noqa: E402

sys.meta_path.insert(0, Unevaluated)
import score_sde  # noqa: E402

project = "score_sde"
author = "The score_sde developers"
version = release = score_sde.__version__
extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "myst_nb",
    "extensions.mathml",
    "extensions.pages",
    "extensions.links",
    "extensions.signatures",
    "extensions.broken",
]
exclude_patterns = ["build", "_build", "**/.ipynb_checkpoints"]
language = "en"
smartquotes_action = "D"  # dashes alone
highlight_language = "none"  # of blocks that do not name theirs, which are commands
nitpicky = True
nitpick_ignore_regex = [(r"py:.*", r"(?!score_sde\.).*")]  # names of other libraries, whose pages are elsewhere

myst_enable_extensions = ["dollarmath", "deflist", "attrs_inline", "colon_fence"]
myst_heading_anchors = 4
nb_execution_mode = os.environ.get("NOTEBOOKS", "cache")  # force runs all of them, off none
nb_execution_cache_path = str(DOCS.parent / "build" / "notebooks")
nb_execution_raise_on_error = True
nb_execution_timeout = 900  # seconds for a cell, on a machine with much else to do
nb_merge_streams = True

autodoc_member_order = "bysource"
autodoc_default_options = {"show-inheritance": True}
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autosummary_generate = False
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_attr_annotations = False  # signatures have them
viewcode_line_numbers = True

html_theme = "furo"
html_title = "score_sde"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_copy_source = html_show_copyright = False
html_theme_options = {"navigation_with_keys": True}

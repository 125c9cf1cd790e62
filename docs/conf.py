"""The documentation site: ``sphinx-build -W docs docs/_build/html``."""

import os
import re
import warnings
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import sksetsens

project = "sksetsens"
author = "the sksetsens developers"
project_copyright = author
version = release = sksetsens.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.extlinks",
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx_design",
    "sphinx-mathjax-offline",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build"]
default_role = "code"
templates_path = ["_templates"]

# Markdown
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
# References stand at the end of a docstring, whether they are cited or not.
suppress_warnings = ["config.cache", "ref.footnote"]

# Reference
autosummary_generate = True
# What scikit-learn adds for metadata routing is documented there.
_requests = ["fit", "score", "partial_fit", "predict"]
autodoc_default_options = {
    "exclude-members": ", ".join(f"set_{name}_request" for name in _requests)
}
autodoc_typehints = "none"
autodoc_member_order = "bysource"
napoleon_google_docstring = False
napoleon_use_ivar = True
# Attributes that end in an underscore keep it.
strip_signature_backslash = True

# Names of the neighbours become links where SKSETSENS_INTERSPHINX is set: it needs a
# network, and the site builds without one.
intersphinx_mapping = {}
if os.environ.get("SKSETSENS_INTERSPHINX"):
    intersphinx_mapping = {
        "sklearn": ("https://scikit-learn.org/stable", None),
        "skorch": ("https://skorch.readthedocs.io/en/stable", None),
        "torch": ("https://docs.pytorch.org/docs/stable", None),
    }

extlinks = {
    "arxiv": ("https://arxiv.org/abs/%s", "arXiv %s"),
    "doi": ("https://doi.org/%s", "doi %s"),
}

# Gallery
sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "filename_pattern": "/plot_",
    "abort_on_example_error": True,
    "download_all_examples": False,
    "show_memory": False,
    "default_thumb_file": str(Path(__file__).with_name("quickstart.png")),
    "show_signature": False,
    "remove_config_comments": True,
    "within_subsection_order": "FileNameSortKey",
}
warnings.filterwarnings("ignore", message=".*non-interactive.*")

# Pages
html_theme = "pydata_sphinx_theme"
html_title = "sksetsens"
html_static_path = []
html_show_sourcelink = False
html_sidebars = {name: [] for name in ("index", "guide", "questions", "changelog")}
toc_object_entries_show_parents = "hide"
html_theme_options = {
    "show_prev_next": False,
    "show_toc_level": 1,
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
}


def _linked(app, name, source):
    """Names of examples in the pages lead to them."""
    target = r"{ref}`\1 <sphx_glr_auto_examples_\2>`"
    source[0] = re.sub(r"`(examples/(plot_\w+\.py))`", target, source[0])


def setup(app):
    """Sphinx calls this."""
    app.connect("source-read", _linked)

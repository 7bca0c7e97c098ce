"""Configuration of the documentation: ``sphinx-build -W -b html docs docs/_build/html``."""

import doctest
import sys
from pathlib import Path

from sphinx.application import Sphinx

import vmfdist

sys.path.insert(0, str(Path(__file__).parent))

from _gallery import add_run, draw_tiles

project = "vmfdist"
author = "The vmfdist developers"
project_copyright = f"2026, {author}"
version = release = vmfdist.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.doctest",
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = [
    "_build",
    "accuracy_search.rst",  # pages include these
    "accuracy_table.rst",
    "audit_table.rst",
    "performance_parts.rst",
    "performance_table.rst",
    "results_*.rst",
    "guide/posteriors_table.rst",
    "guide/vae_dimensions.rst",
    "examples/GALLERY_HEADER.rst",  # the gallery's first page
]
nitpicky = True
nitpick_ignore = [
    ("py:class", "_size"),  # torch.types._size: torch.Size, a list or a tuple
    ("py:class", "torch.distributed.distributed_c10d.ProcessGroup"),  # documented by another name
]
nitpick_ignore_regex = [("py:.*", r"vmfdist\._.*")]  # private modules have no page

html_theme = "furo"
html_title = f"vmfdist {release}"
html_static_path = ["_static"]
html_css_files = ["custom.css"]

autodoc_default_options = {
    "members": True,
    "member-order": "bysource",
    # what scikit-learn makes for estimators that take weights
    "exclude-members": "set_fit_request, set_partial_fit_request, set_score_request",
}
autodoc_inherit_docstrings = False
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_typehints_format = "short"
autosummary_generate = False  # the tables on the API pages link to entries on the same page
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_custom_sections = ["Shapes"]

# Sphinx's own choice would accept any message of an exception, and 1 for True.
doctest_default_flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE

# Links into other projects' documentation. Their inventories are kept here, cut down to the names
# this documentation uses, so that the build asks nothing of the network and is the same everywhere.
# They are in the plain text format (version 1): one line for each name, its kind and its page.
# ("Tensor" alone is there since Pyro's metaclass hands on a constructor's annotations as strings.)
intersphinx_mapping = {
    "python": ("https://docs.python.org/3/", "inventories/python.txt"),
    "torch": ("https://docs.pytorch.org/docs/stable/", "inventories/torch.txt"),
    "pyro": ("https://docs.pyro.ai/en/stable/", "inventories/pyro.txt"),
}

# A page for each script, made without running it: _gallery.py adds what a recorded run gave.
mathjax4_config = {"output": {"displayOverflow": "linebreak"}}  # on a phone

sphinx_gallery_conf = {
    "examples_dirs": "examples",
    "gallery_dirs": "gallery",
    "ignore_pattern": r"(^|/)_",  # what scripts share
    "within_subsection_order": "_gallery.place",
    "plot_gallery": False,
    "download_all_examples": False,
    "remove_config_comments": True,
    "show_signature": False,
    "write_computation_times": False,
}


def setup(app: Sphinx) -> None:
    """Add the recorded runs to the gallery."""
    app.connect("builder-inited", draw_tiles, priority=900)  # after sphinx-gallery
    app.connect("source-read", add_run)

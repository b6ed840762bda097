"""The documentation site: `make docs` builds it from the pages as the repository shows them.

The source folder is the repository's root, so that a link such as `../recipes/README.md` holds in both places.
"""

import sys
from pathlib import Path

import hf_instructmine


sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "hf-instructmine"
author = "The hf-instructmine authors"
copyright = author
release = version = hf_instructmine.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "docstrings", "names", "options", "repository"]
root_doc = "docs/index"
include_patterns = ["docs/**.md", "recipes/README.md", "CHANGELOG.md", "CONTRIBUTING.md", "notebooks/*.ipynb"]
exclude_patterns = [".venv*", "build", "demo-output", "sweep-output"]

html_theme = "furo"
html_title = f"{project} {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_extra_path = ["_root"]
html_show_sourcelink = False
html_copy_source = False
pygments_style = "friendly"
pygments_dark_style = "github-dark"

myst_heading_anchors = 4
myst_links_external_new_tab = False
nb_execution_mode = "off"  # `make notebooks` runs them; a page shows the outputs that it stored
nb_ipywidgets_js = {}  # which would be loaded from another host

nitpicky = True
add_module_names = False
autodoc_typehints = "none"  # the docstrings tell them, with units and defaults
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
maximum_signature_line_length = 88
toc_object_entries_show_parents = "hide"

"""Settings of the documentation: `make docs` builds it into build/docs."""

project = "Counterpoise"
author = "The Counterpoise developers"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = "Counterpoise"

# Anchors as GitHub gives them: links such as evaluation.md#folds work in both places.
myst_heading_anchors = 3

default_role = "code"  # docstrings write `name`, not ``name``
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False

# Types in signatures name classes of other packages, and some that the reference does not describe.
nitpick_ignore_regex = [("py:.*", ".*")]
suppress_warnings = ["misc.highlighting_failure"]  # blocks of languages that Pygments does not know, such as csv

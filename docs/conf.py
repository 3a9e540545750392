"""Sphinx configuration. Every page that holds code is executed when the site is built; an error in one fails the build."""

import re

import lmm

project = "lmm"
author = "The lmm developers"
project_copyright = "2026, the lmm developers"
release = version = lmm.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
exclude_patterns = ["_build", "jupyter_execute"]

myst_enable_extensions = ["dollarmath", "amsmath", "deflist", "colon_fence"]
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 600
nb_merge_streams = True

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_google_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
python_display_short_literal_types = True

html_theme = "furo"
html_title = f"lmm {release}"


SECTIONS = {"Parameters", "Attributes", "Raises"}
ENTRY = re.compile(r"^(\w[\w, ]*?) : (.*)$")


def one_line_entries(app, what, name, obj, options, lines):
    """Turn ``name : meaning`` of the package's docstrings into numpydoc's name with an indented meaning.

    Numpydoc would read the words after the colon as a type; types are in the signatures here. Properties get an empty
    comment for a first line, because napoleon would take what stands there before a colon for a type.
    """
    out, section = [], None
    for i, line in enumerate(lines):
        if i + 1 < len(lines) and lines[i + 1].strip() and set(lines[i + 1].strip()) == {"-"}:
            section = line.strip()
        entry = ENTRY.match(line)
        out += [entry[1], "    " + entry[2]] if entry and section in SECTIONS else [line]
    lines[:] = ["..", "", *out] if what == "property" else out


def setup(app):
    # before napoleon, which listens with the default priority of 500
    app.connect("autodoc-process-docstring", one_line_entries, priority=400)

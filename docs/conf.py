"""Settings of the documentation. Nothing is fetched from the network at build time."""

import os
import re
import shutil
import sys
from pathlib import Path

from docutils.nodes import SkipNode
from docutils.utils.math import latex2mathml

import sklearn_kd

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # gallery_style.py

project = "sklearn-kd"
author = "the authors of sklearn-kd"
copyright = "the authors of sklearn-kd; BSD-3-Clause"
release = version = sklearn_kd.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
]
templates_path = ["_templates"]
exclude_patterns = ["_build", "_gallery", "gallery_header.rst"]

# Each reference has a target, but those into other packages, whose pages are not here.
nitpicky = True
nitpick_ignore_regex = [
    (r"py:.*", r"(sklearn|torch|skorch|numpy|pandas|onnxruntime|transformers|datasets)\..*"),
    (r"py:class", r".*\bD('s|\[k\]).*"),  # from the docstrings of dict
]

# Copy what one types: no prompts, no output.
copybutton_prompt_text = r">>> |\.\.\. "
copybutton_prompt_is_regexp = True

html_theme = "pydata_sphinx_theme"
html_title = "sklearn-kd"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_show_sourcelink = False
html_logo = html_favicon = "_static/logo.svg"
html_sidebars = {name: [] for name in ("index", "changelog", "getting_started/index")}
html_theme_options = {
    "logo": {"text": "sklearn-kd", "alt_text": "sklearn-kd"},
    "header_links_before_dropdown": 7,
    "navbar_align": "left",
    "navbar_end": ["theme-switcher", "navbar-icon-links"],
    "navigation_depth": 2,
    "show_toc_level": 2,
    "show_nav_level": 1,
    "footer_start": ["copyright"],
    "footer_end": ["version"],
}
# The address of the repository is known to who publishes the pages: it becomes a link in the bar at the top.
if repository := os.environ.get("SKLEARN_KD_REPOSITORY"):
    html_theme_options["icon_links"] = [
        {"name": "Repository", "url": repository, "icon": "fa-brands fa-git-alt", "type": "fontawesome"}
    ]
toc_object_entries_show_parents = "hide"

# The package's docstrings are numpydoc with shapes; types in the signature would repeat them.
autodoc_typehints = "none"
autodoc_preserve_defaults = True
autosummary_generate = True
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False

# The gallery works on copies, without comments that are for tools.
shutil.rmtree(HERE / "_gallery", ignore_errors=True)
(HERE / "_gallery").mkdir()
shutil.copy(HERE / "gallery_header.rst", HERE / "_gallery" / "GALLERY_HEADER.rst")
for script in sorted((HERE.parent / "examples").glob("[0-9]*.py")):
    code = script.read_text(encoding="utf-8")
    code = re.sub(r"  # (?:fmt: skip|noqa: \w+)$", "", code, flags=re.MULTILINE)  # for tools, not for readers
    (HERE / "_gallery" / script.name).write_text(code, encoding="utf-8")
# Pages of scripts that an earlier build had, and that are here no more, would be in no table of contents.
for page in (HERE / "auto_examples").glob("[0-9]*"):
    if not (HERE / "_gallery" / f"{page.name.partition('.')[0]}.py").exists():
        page.unlink()

sphinx_gallery_conf = {
    "examples_dirs": "_gallery",
    "gallery_dirs": "auto_examples",
    "filename_pattern": r"/\d\d_",  # all are run
    "reset_modules": ("matplotlib", "gallery_style.use"),
    "within_subsection_order": "FileNameSortKey",
    "parallel": True,  # as many examples at a time as sphinx-build -j says
    "backreferences_dir": None,
    "download_all_examples": False,
    "remove_config_comments": True,
    "show_signature": False,
    "write_computation_times": False,  # that page would load a script from a CDN
}


def _visit_math(self, node):
    self.body.append(latex2mathml.tex2mathml(node.astext()))
    raise SkipNode


def _visit_math_block(self, node):
    formula = latex2mathml.tex2mathml(node.astext(), as_block=True)
    self.body.append(f'<div class="formula">{formula}</div>\n')
    raise SkipNode


def _without_foreign_links(app, what, name, obj, options, lines):
    """Inherited docstrings link into scikit-learn's guide and glossary, which are not here."""
    lines[:] = [re.sub(r":(?:ref|term):`([^`<]+?)(?: *<[^>]+>)?`", r"\1", line) for line in lines]


_CELL = re.compile(r"(<td>.*?</td>)", re.DOTALL)
_WORD_OF_CODE = re.compile(r'<span class="pre">([^<]{16,})</span>')
_PLACE_TO_BREAK = re.compile(r"(?<=[,/=])(?!\))|(?<=\w\()(?!\))|(?<=[A-Za-z_]\.)(?=[A-Za-z_])|(?<=__)(?=\w)")


def _break_long_code(app, pagename, templatename, context, doctree):
    """Let long code in tables break after a bracket, a comma or a dot, and so never in mid-word."""

    def breakable(word):
        return f'<span class="pre">{_PLACE_TO_BREAK.sub("<wbr>", word[1])}</span>'

    def cell(found):
        return _WORD_OF_CODE.sub(breakable, found[1])

    if "body" in context:
        context["body"] = _CELL.sub(cell, context["body"])


def setup(app):
    """Formulas become MathML, which browsers draw themselves: no script, no font, no LaTeX."""
    app.connect("html-page-context", _break_long_code)
    app.add_html_math_renderer("mathml", (_visit_math, None), (_visit_math_block, None))
    app.connect("autodoc-process-docstring", _without_foreign_links)


html_math_renderer = "mathml"

"""The gallery's scripts run without anything beside them, and read as pages of one kind."""

import ast
import importlib.util
import re
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).parents[2] / "examples").glob("[0-9]*.py"))
# Okabe and Ito's colours: teacher grey, student vermilion, student alone blue, others sky blue first. Then
# shades of grey.
COLORS = {"#d55e00", "#0072b2", "#56b4e9", "#009e73", "#cc79a7", "#e69f00", "#6b7280"}
HIDDEN = re.compile(r"# sphinx_gallery_start_ignore\n.*?# sphinx_gallery_end_ignore\n", re.DOTALL)


@pytest.fixture(params=SCRIPTS, ids=lambda path: path.stem)
def shown(request):
    """The script as its page, its download and its notebook have it."""
    return HIDDEN.sub("", request.param.read_text(encoding="utf-8"))


def is_grey(color):
    return len({color[1:3], color[3:5], color[5:7]}) == 1


def test_all_are_there():
    assert len(SCRIPTS) >= 14
    assert len({path.stem[:2] for path in SCRIPTS}) == len(SCRIPTS)


def test_a_notebook_needs_nothing_beside_it(shown):
    tree = ast.parse(shown)
    imported = {
        name.partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in ([node.module] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names])
    }
    beside = {path.stem for path in SCRIPTS[0].parent.glob("*.py")}
    assert imported and not imported & beside
    assert all(importlib.util.find_spec(name) for name in imported)
    # In a notebook neither is the script's.
    assert not {"__file__", "argv"} & {
        getattr(node, "id", getattr(node, "attr", None)) for node in ast.walk(tree)
    }


def test_words_stand_between_the_blocks(shown):
    assert len(re.findall(r"^# %%\n# \w", shown, re.MULTILINE)) >= 3
    title = ast.get_docstring(ast.parse(shown)).split("\n\n")
    assert len(title) >= 2, "below the title a paragraph that says what the page is about"


def test_a_figure_has_a_title_and_colours_that_all_can_tell_apart(shown):
    """Sphinx-gallery takes the titles for the text that stands for the picture."""
    assert re.search(r"title=|set_title\(|suptitle\(", shown)
    assert not re.findall(r"[\"']C\d[\"']", shown)
    used = {color.lower() for color in re.findall(r"#[0-9a-fA-F]{6}\b", shown)}
    assert {color for color in used - COLORS if not is_grey(color)} == set()

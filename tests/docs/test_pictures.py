"""The pictures of the pages show the numbers of the records, and have a text in their place."""

import importlib
import re

import pytest

from helpers.pages import GUIDE, ROOT, rows_of, words

DOCS = ROOT / "docs"
PAGES = sorted(page for page in DOCS.rglob("*.rst") if "_build" not in page.parts and "auto_examples" not in page.parts)  # fmt: skip


@pytest.fixture
def script(monkeypatch):
    for folder in (DOCS, ROOT / "examples" / "evidence", ROOT / "examples" / "benchmarks"):
        monkeypatch.syspath_prepend(folder)
    return importlib.import_module


def test_the_pictures_of_measurements_are_those_of_the_records(script):
    drawn = script("draw_research").pictures()
    assert len(drawn) == 6
    for name, picture in drawn.items():
        assert (DOCS / "_static" / name).read_text(encoding="utf-8") == picture, "run docs/draw_research.py"


def test_times_and_sizes_of_the_picture_are_those_of_the_table(script):
    research, table = script("draw_research"), rows_of(GUIDE / "side_by_side.rst")
    for name, model in research.accuracy_and_costs().items():
        _, network, *_ = research.MODELS[name]
        for way in research.WAYS:
            one_row, _, size = table[f"{network}, {way}"]
            shown = [f"{value:,.0f} " for value in model[way]]
            assert one_row.startswith(shown[0]) and size.startswith(shown[1]), (name, way)


def test_trainings_and_gains_of_the_picture_are_those_of_the_table(script):
    research, table = script("draw_research"), rows_of(GUIDE / "which_method.rst")
    assert len(research.METHODS) == 9 and "shows nine of the methods" in words(GUIDE / "which_method.rst")
    for method, (trainings, gain, error) in research.costs_and_gains().items():
        if method != "grid":
            shown = f"{gain:+.3f} ± {error:.3f}".replace("-", "−")
            assert [table[method][0], table[method][2]] == [f"{trainings:.1f}", shown], method


def test_the_text_in_place_of_the_comparison_is_so(script):
    summary = script("draw_displays").comparison_of("digits").summary("log_loss")
    assert summary["method"][summary["high"] < 0].tolist() == ["gradient", "linear", "hyperopt"]
    seconds = script("draw_displays").comparison_of("digits").summary("fit_seconds")
    assert seconds["method"][seconds["mean"].argmax()] == "hyperopt"
    assert sorted(summary["method"][summary["mean"].argsort()[:2]]) == ["gradient", "linear"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_every_picture_has_a_text_in_its_place(page):
    lines = page.read_text(encoding="utf-8")
    for found in re.finditer(r"^( *)\.\. (?:image|figure):: (\S+)\n((?:\1   .*\n)*)", lines, re.MULTILINE):
        alt = re.search(r":alt: (.+)", found[3])
        assert alt and len(alt[1]) > 20, f"{found[2]}: say what is seen"


def test_a_picture_for_light_pages_has_one_for_dark_pages():
    for page in PAGES:
        named = re.findall(
            r":: (\S+)-(light|dark)\.svg\n +:class: only-(\w+)\n", page.read_text(encoding="utf-8")
        )
        assert all(paper == only for _, paper, only in named), page
        by_paper = [[name for name, paper, _ in named if paper == wanted] for wanted in ("light", "dark")]
        assert by_paper[0] == by_paper[1], page

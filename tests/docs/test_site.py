"""The first page shows the record's numbers, and every page says what it is for and can be found."""

import importlib.util
import json
import re

import numpy as np
import pytest
from scipy import stats

import sklearn_kd
from helpers.pages import GUIDE, README, ROOT, rows_of
from sklearn_kd.losses import LOSSES, TERMS

DOCS = ROOT / "docs"
PAGES = sorted(page for folder in ("", "guide", "research", "getting_started", "contributing") for page in (DOCS / folder).glob("*.rst"))  # fmt: skip
_spec = importlib.util.spec_from_file_location("draw_landing", DOCS / "draw_landing.py")
draw_landing = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(draw_landing)


def test_the_first_page_has_the_table_of_the_quickstart():
    record = json.loads((ROOT / "examples" / "01_quickstart.json").read_text())
    rows = list(rows_of(DOCS / "index.rst").values())[1:]
    assert len(rows) == len(record["accuracy by seed"])
    for row, of_seeds, (_, us, kilobytes) in zip(
        rows, record["accuracy by seed"].values(), record["accuracy, µs, kB"].values(), strict=True
    ):
        mean = f"{np.mean(of_seeds):.3f} ± {stats.sem(of_seeds):.3f}".replace("0.", ".")
        assert row == [mean, f"{us:,.0f}", f"{kilobytes:,.0f}"]


@pytest.mark.parametrize("name", ["landing-light.svg", "landing-dark.svg"])
def test_the_picture_of_the_first_page_is_that_of_the_record(name):
    drawn = draw_landing.pictures()[name]
    assert (DOCS / "_static" / name).read_text(encoding="utf-8") == drawn, "run docs/draw_landing.py"


def test_the_first_page_counts_the_losses():
    assert len(LOSSES) + len(TERMS) == 14  # "fourteen losses of outputs and layers"


def first_paragraph(page):
    """The paragraph below the title."""
    title = re.search(r"^[^\n]+\n=+\n\n((?:[^\n]+\n)+)", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert title, f"{page}: a title, and below it what the page is for"
    return title[1]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(DOCS)))
def test_every_page_opens_with_what_it_is_for(page):
    said = " ".join(first_paragraph(page).split())
    assert not re.match(r"\.\. |>>> |\* |- |\d+\. |\S+::", said), said
    assert re.match(r"[A-Z`:]", said) and re.search(r"[.?]( |$)", said), said
    sentence = re.split(r"(?<=[a-z)`\"])[.?](?: |$)", said)[0]
    assert len(sentence) < 180, "one short sentence"


@pytest.mark.parametrize(
    "index", [GUIDE / "index.rst", DOCS / "research" / "index.rst"], ids=["guide", "research"]
)
def test_a_list_of_pages_has_a_line_for_each_page(index):
    page = index.read_text(encoding="utf-8")
    listed = re.findall(r"^   (/?[\w/]+)$", page, re.MULTILINE)
    described = re.findall(r"^:doc:`([\w/]+)`\n   \S", page, re.MULTILINE)
    assert listed and sorted(listed) == sorted(described)


def test_the_links_of_readme_lead_somewhere():
    titles = re.findall(r"^#+ (.*)$", README, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
    links = re.findall(r"\]\(([^)]+)\)", README)
    assert len(links) > 20
    for link in links:
        path, _, anchor = link.partition("#")
        assert (ROOT / path).exists() if path else anchor in anchors, link


def public_summaries():
    """The first paragraph of the docstring of each public class and function."""
    for name in sorted(
        page.stem for page in (ROOT / "sklearn_kd").iterdir() if (page / "__init__.py").exists()
    ):
        package = importlib.import_module(f"sklearn_kd.{name}")
        for public in getattr(package, "__all__", ()):
            yield f"{name}.{public}", (getattr(package, public).__doc__ or "").split("\n\n")[0]
    for public in sklearn_kd.__all__:
        yield public, (getattr(sklearn_kd, public).__doc__ or "").split("\n\n")[0]


def test_no_citation_in_a_first_line():
    """The tables of the reference show first lines, where a citation is a link with a name like [R13a8-1]."""
    found = {name: summary for name, summary in public_summaries() if re.search(r"\]_", summary)}
    assert not found
    assert len(dict(public_summaries())) > 50

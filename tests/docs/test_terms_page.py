"""The guide's page on feature terms has the numbers of the record, and the terms of the library."""

import json

import pytest

from helpers.pages import ROOT, rows_of, words
from sklearn_kd.losses import TERMS

PAGE = ROOT / "docs" / "guide" / "terms_of_features.rst"
RECORD = json.loads((ROOT / "examples" / "benchmarks" / "terms.json").read_text())


@pytest.mark.parametrize("name", TERMS)
def test_the_cost_is_that_of_the_record(name):
    median, low, high = RECORD["time"][name]
    memory, parameters = RECORD["memory"][name], RECORD["parameters"][name]
    cells = [f"{median:.2f} ({low:.2f}–{high:.2f})", f"{memory:.2f}", f"{parameters:,}"]
    assert rows_of(PAGE)[f'``"{name}"``'] == cells


def test_the_teachers_pass_is_that_of_the_record():
    median = RECORD["time"]["teacher's forward pass"][0]
    assert f"the teacher's pass, which takes {median:.2f} of it" in words(PAGE)


@pytest.mark.parametrize("name", TERMS)
def test_all_terms_are_listed_with_their_weights(name):
    term = TERMS[name]()
    _, _, weights = rows_of(PAGE)[f'``"{name}"``, :class:`~sklearn_kd.losses.{type(term).__name__}`']
    assert all(f"{getattr(term, weight):g}" in weights for weight in term.weight_names)

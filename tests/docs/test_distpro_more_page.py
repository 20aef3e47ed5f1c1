"""The page on DistPro's further experiments has the tables, sentences and verdicts of the committed runs."""

import importlib
import re

import numpy as np
import pytest

from helpers.pages import GUIDE, README, ROOT, rows_of, words

PAGE = GUIDE / "reproduces_distpro_more.rst"
TABLE = r"^\.\. list-table::\n   :header-rows: 1\n   :class: numbers\n\n(?:   .*\n)+"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "examples" / "paper")
    return importlib.import_module("distpro_more")


@pytest.fixture
def experiments(script):
    return {name: script.Experiment(name) for name in script.NAMES}


def test_every_table_of_the_page_is_that_of_a_record(script, experiments):
    expected = [script.passes_table(experiments)]
    expected += [table for experiment in experiments.values() for table in experiment.tables()]
    found = re.findall(TABLE, PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert found == expected, (
        "put the tables of the scripts, and of distpro_more.py, into the page in their order"
    )


def test_what_the_page_says_in_words_is_so(script, experiments):
    page = words(PAGE)
    for said in script.sentences(experiments):
        assert said in page, f"{said}: put what examples/paper/distpro_more.py prints into the page"


def test_verdicts_are_those_of_the_intervals(script, experiments):
    from _protocol import paired

    found = [paired(*pair) for pair in script.against_equal(experiments)]
    assert not any(of["low"] > 0 for of in found) and "DistPro is nowhere ahead of equal weights" in " ".join(
        README.split()
    )
    assert sum(of["high"] < 0 for of in found) == 1 and len(found) == 10
    rows = rows_of(PAGE)
    _, here, _, why = rows["the process is ahead of equal weights"]
    low, high = (100 * pick(of["mean"] for of in found) for pick in (min, max))
    assert here == f"{low:.2f} to {high:+.2f} at the same sum".replace("-", "−")
    assert why == "Ten comparisons: not separated in nine, behind in one."


def test_numbers_of_the_summary_are_those_of_the_runs(experiments):
    rows = rows_of(PAGE)

    def percent(name, arm, at=(8, 6)):
        return f"{np.mean(100 * experiments[name].of(*at)[arm]):.2f}"

    def of(name, arms, at=(8, 6)):
        return [percent(name, arm, at) for arm in arms]

    normalizations = ("biased_softmax", "softmax", "biased_l1", "l1", "sigmoid")
    first, *others = of("normalizations", normalizations)
    both = [of("networks", ("DistPro, other student's", "DistPro"), (depth, 6)) for depth in (8, 14)]
    gains = [
        float(percent("lengths", "DistPro", (8, n))) - float(percent("lengths", "equal", (8, n)))
        for n in (4, 24)
    ]
    equal = of("connections", ("equal, lower", "equal, all"))
    process = of("connections", ("DistPro, lower, sum of all", "DistPro, all"))
    logits = of("logits", ("DistPro", "DistPro, KD fixed", "DistPro, KD learned"))
    for row, expected in (
        (
            "the biased softmax is the best normalisation",
            f"{first}; the others {min(others)} to {max(others)}",
        ),
        (
            "a process serves another network",
            "ResNet-8 {}, its own {}; ResNet-14 {}, its own {}".format(*both[0], *both[1]),
        ),
        (
            "its gain is largest where the training is short",
            "{:.2f} after 4 epochs, {:.2f} after 24".format(*gains),
        ),
        (
            'the six "lower" pathways do as well as all nine',
            "equal {}, {}; DistPro {}, {}".format(*equal, *process),
        ),
        (
            "logits, pathways and learning add up",
            "DistPro {}; with KD {}; with KD learned {}".format(*logits),
        ),
    ):
        assert rows[row][1] == expected, row


def test_who_leads_at_each_length(experiments):
    """ReviewKD is ahead of all; KD is ahead of the process but after 4 epochs."""
    from _protocol import paired

    for _, epochs in experiments["lengths"].groups:
        of = experiments["lengths"].of(8, epochs)
        ahead = {arm for arm in of if arm != "ReviewKD" and paired(of["ReviewKD"], of[arm])["low"] > 0}
        assert ahead == set(of) - {"ReviewKD"}, epochs
        assert (paired(of["KD"], of["DistPro"])["low"] > 0) == (epochs > 4)

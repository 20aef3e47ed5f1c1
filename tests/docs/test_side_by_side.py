"""What the page on other libraries says in words is so, by the committed runs."""

import importlib
import json

import numpy as np
import pytest

from helpers.pages import GUIDE, README, ROOT, words

PAGE = GUIDE / "side_by_side.rst"
FOLDER = ROOT / "examples" / "benchmarks"
WITH, WITHOUT = True, False
HARD, LABELS = "MLPClassifier 256, hard labels", "MLPClassifier 256, labels"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("side_by_side")


def runs_of(part):
    runs = json.loads((FOLDER / "side_by_side.json").read_text(encoding="utf-8"))["runs"]
    return [run for run in runs if run["setting"].get("part") == part]


@pytest.fixture
def runs():
    """Those that measured accuracy."""
    return runs_of(None)


@pytest.fixture
def means(script, runs):
    """Mean over the data sets of a measure."""

    def means(taught, arm, measure):
        by_task = script.found_by(runs, taught)[arm]
        return np.mean([np.mean([run[measure] for run in of]) for of in by_task.values()])

    return means


@pytest.fixture
def difference(script, runs):
    """Such as "+.059 ± .018", and the numbers of data sets ahead and behind."""

    def difference(taught, one, other):
        found = script.found_by(runs, taught)
        text, counts = script.difference(found[one], found[other])
        return text, [int(part) for part in counts.partition(" of")[0].split(", ")] if "," in counts else None

    return difference


def test_every_cell_has_five_seeds(script, runs):
    for taught in script.TEACHERS:
        found = script.found_by(runs, taught)
        for arm in script.ROWS:
            if arm[0] not in (script.AUTOGLUON, script.DEEPBRIDGE):
                assert [len(found[arm][task]) for task in script.TASKS] == [5] * len(script.TASKS), arm


def test_what_is_said_of_rows_without_labels_is_so(difference):
    page = words(PAGE)
    for meta, said in (
        ("shortlist", "The default is at {} against"),
        ("naive", '``meta="naive"`` at {}'),
        ("linear", '``meta="linear"`` at {}'),
    ):
        text, (ahead, behind) = difference("more rows", (meta, WITH), ("none", WITHOUT))
        assert said.format(text) in page and (ahead, behind) == (8, 0), meta
    assert "on eight of the ten data sets, and behind on none" in page
    for meta, name in (("shortlist", "default"), ("naive", "naive"), ("linear", "linear")):
        text, _ = difference("more rows", (meta, WITHOUT), ("none", WITHOUT))
        assert f"{name} {'is ' if name == 'default' else ''}at {text}" in page
        text, _ = difference("same rows", (meta, WITH), ("none", WITHOUT))
        assert f"{name} {text}" in page


def test_what_is_said_of_hard_labels_is_so(difference, means):
    page = words(PAGE)
    text, (ahead, behind) = difference("more rows", ("shortlist", WITH), (HARD, WITH))
    assert f"it is at {text}, ahead on {ahead} data sets and behind on {behind}" in page
    for meta in ("naive", "linear"):
        text, _ = difference("more rows", (meta, WITH), (HARD, WITH))
        assert f"{meta} by {text.removeprefix('−')}" in page and text.startswith("−")
    arms = [(name, WITH) for name in ("shortlist", HARD, "naive", "linear")]
    losses = [
        [f"{means(taught, arm, 'log loss'):.3f}".removeprefix("0") for arm in arms]
        for taught in ("more rows", "same rows")
    ]
    assert "log loss is {} against {} (naive {}, linear {})".format(*losses[0]) in page
    assert "{} against {} with a teacher of the same rows ({}, {})".format(*losses[1]) in page
    seconds = [f"{means('more rows', arm, 'cpu'):.1f}" for arm in arms]
    assert "A fit takes {} s of CPU time against {} (".format(*seconds) in page
    assert "({2}, {3})".format(*seconds) in page


def test_what_readme_says_of_hard_labels_is_so(difference, means):
    text, _ = difference("more rows", ("shortlist", WITH), (HARD, WITH))
    losses = [means("more rows", arm, "log loss") for arm in (("shortlist", WITH), (HARD, WITH))]
    own, hard = (f"{loss:.3f}".removeprefix("0") for loss in losses)
    said = (
        f"level in accuracy (student {text}), and the student has the better log loss, {own} against {hard}"
    )
    assert said in " ".join(README.split())


def test_what_is_said_of_compiled_forests_is_so():
    page, speeds = words(PAGE), runs_of("speed")
    assert len(speeds) == 7 and "the median over seven of the tables" in page

    def median(name, rows):
        return np.median([run["us"][str(rows)][name] for run in speeds])

    student, forest = "linear + unlabeled", "the teacher"
    one = [median(name, 1) for name in (f"{forest}, ONNX", f"{student}, Python", f"{student}, ONNX")]
    many = [
        median(name, 1000) / 1000 for name in (f"{forest}, ONNX", f"{student}, Python", f"{student}, ONNX")
    ]
    assert (
        "one row in {:.0f} µs, the student in {:.0f} µs in Python and {:.0f} µs in ONNX".format(*one) in page
    )
    assert "{:.0f}, {:.1f} and {:.1f} µs a row".format(*many) in page


def test_what_is_said_of_autogluon_is_so(difference, script, runs):
    found = script.found_by(runs, "more rows")[script.AUTOGLUON, WITH]
    own = [run for of_task in found.values() for run in of_task]
    default, naive, linear = (
        difference("more rows", (meta, WITH), (script.AUTOGLUON, WITH))[0]
        for meta in ("shortlist", "naive", "linear")
    )
    seconds = np.mean([run["cpu"] for run in own])
    one_row = np.median([run["us"]["1"] for run in own]) / 1000
    said = (
        f"on {sum(map(bool, found.values()))} data sets. Against its best student the default is at {default}, "
        f"naive at {naive} and linear at {linear}. Training that student takes {seconds:.0f} s of CPU time in the "
        f"mean, and it answers one row in {one_row:.0f} ms."
    )
    assert said in words(PAGE)

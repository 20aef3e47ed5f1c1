"""The picture of a report shows the report's numbers."""

import pickle
import sys
from itertools import pairwise

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from sklearn.datasets import load_iris, make_friedman1, make_multilabel_classification
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LinearRegression
from sklearn.naive_bayes import GaussianNB

from helpers.settings import single_run
from sklearn_kd import DistilledClassifier, DistilledRegressor, MLPStudent, ReportDisplay, distillation_report
from sklearn_kd.report._fidelity import MOST_NAMED, GroupFidelity
from sklearn_kd.report._panels import N_BINS

matplotlib.use("Agg")

QUICK = single_run({}) | {
    "student__hidden": 8, "max_epochs": 2, "meta": "fixed", "device": "cpu", "random_state": 0, "keep_teacher": True,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def classes():
    """A report on three classes, the student and its test rows."""
    X, y = load_iris(return_X_y=True)
    y = np.array(["a", "b", "c"])[y]
    clf = DistilledClassifier(GaussianNB(), MLPStudent, **QUICK).fit(X[::2], y[::2])
    report = distillation_report(clf, X[1::2], y[1::2], student_alone="train", X_train=X[::2], y_train=y[::2])
    return report, clf, X[1::2], y[1::2]


@pytest.fixture(scope="module")
def numbers():
    """A report on a number, the student and its test rows."""
    X, y = make_friedman1(230, noise=0.5, random_state=0)
    reg = DistilledRegressor(LinearRegression(), MLPStudent, **QUICK).fit(X[:100], y[:100])
    return distillation_report(reg, X[100:], y[100:], timing=False), reg, X[100:], y[100:]


def test_all_panels_show_the_numbers_of_the_report(classes):
    report = classes[0]
    display = ReportDisplay.from_report(report)
    assert display.panels_ == ["time", "size", "calibration", "fidelity"] == list(display.lines_)
    assert len(display.axes_) == 4 and display.figure_ is display.axes_[0].figure
    for panel, cost in (("time", "us_single"), ("size", "n_bytes")):
        for role, model in report.to_dict()["models"].items():
            drawn = display.lines_[panel][role].get_xydata()
            np.testing.assert_array_equal(drawn, [[model[cost], model["accuracy"]]])
    named = [text.get_text() for text in display.figure_.legends[0].get_texts()]
    ece = report.to_dict()["models"]["student"]["ece"]
    assert f"student (ECE {ece:.3f})" in named and len(named) == 3


def test_a_model_has_one_look_in_all_panels(classes):
    lines = ReportDisplay.from_report(classes[0]).lines_
    for role in ("student", "student alone"):
        looks = {(of[role].get_color(), of[role].get_marker()) for of in lines.values()}
        assert len(looks) == 1, role


def test_fidelity_is_the_agreement_among_the_rows_of_a_class(classes):
    report, clf, X, y = classes
    display = ReportDisplay.from_report(report, panels=["fidelity"])
    line = display.lines_["fidelity"]["student"]
    same = clf.predict(X) == clf.teacher_.predict(X)
    np.testing.assert_allclose(line.get_xdata(), [same[y == label].mean() for label in "abc"])
    assert "teacher" not in display.lines_["fidelity"]
    assert [label.get_text() for label in display.axes_[0].get_yticklabels()] == ["a", "b", "c"]


def test_the_reliability_curve_adds_up_to_the_calibration_error(classes):
    report, clf, X, y = classes
    line = ReportDisplay.from_report(report, panels="calibration").lines_["calibration"]["student"]
    proba = clf.predict_proba(X)
    confidence, right = proba.max(axis=1).astype(float), clf.predict(X) == y
    places = np.ceil(confidence * N_BINS).astype(int)
    expected = [
        (confidence[places == k].mean(), right[places == k].mean())
        for k in range(1, N_BINS + 1)
        if (places == k).sum() >= 10
    ]
    assert expected
    np.testing.assert_allclose(line.get_xydata(), expected)


def test_batches_are_drawn_where_they_are_asked_for(classes):
    display = ReportDisplay.from_report(classes[0], panels=["batch"])
    model = classes[0].to_dict()["models"]["student"]
    assert display.lines_["batch"]["student"].get_xdata()[0] == model["us_batch"]


def test_numbers_along_the_teachers_predictions(numbers):
    report, reg, X, _ = numbers
    display = ReportDisplay.from_report(report)
    assert display.panels_ == ["size", "errors", "fidelity"]
    line, of_teacher, said = display.lines_["fidelity"]["student"], reg.teacher_.predict(X), reg.predict(X)
    groups = np.array_split(np.argsort(of_teacher), 10)
    np.testing.assert_allclose(line.get_xdata(), [of_teacher[rows].mean() for rows in groups], rtol=1e-5)
    apart = [(said - of_teacher)[rows].mean() for rows in groups]
    np.testing.assert_allclose(line.get_ydata(), apart, rtol=1e-4, atol=1e-4)
    curve = display.lines_["errors"]["student"]
    assert curve.get_ydata()[50] == 0.5
    assert curve.get_xdata()[50] == pytest.approx(np.median(np.abs(said - numbers[3])), rel=1e-5)


def test_several_numbers_and_several_labels():
    X, y = make_friedman1(150, random_state=0)
    Y = np.c_[y, -2 * y]
    reg = DistilledRegressor(LinearRegression(), MLPStudent, **QUICK).fit(X[:100], Y[:100])
    report = distillation_report(reg, X[100:], Y[100:], timing=False)
    apart = np.sqrt(((reg.predict(X[100:]) - reg.teacher_.predict(X[100:])) ** 2).mean(axis=0))
    line = ReportDisplay.from_report(report).lines_["fidelity"]["student"]
    np.testing.assert_allclose(line.get_xdata(), apart / reg.target_scale_, rtol=1e-4)
    X, Y = make_multilabel_classification(150, 10, n_classes=4, random_state=0)
    clf = DistilledClassifier(RandomForestClassifier(5, random_state=0), MLPStudent, **QUICK)
    report = distillation_report(clf.fit(X[:100], Y[:100]), X[100:], Y[100:], timing=False)
    display = ReportDisplay.from_report(report)
    assert display.panels_ == ["size", "calibration", "fidelity"]
    same = clf.predict(X[100:]) == clf.teacher_.predict(X[100:])
    np.testing.assert_allclose(display.lines_["fidelity"]["student"].get_xdata(), same.mean(axis=0))


def test_many_classes_are_a_sorted_curve():
    n = MOST_NAMED + 1
    same = np.random.default_rng(0).permutation(n)
    found = GroupFidelity.of_shares(range(n), same, np.full(n, n), "class of the row")
    line = GroupFidelity.draw_all(plt.subplots()[1], {"student": found})["student"]
    np.testing.assert_allclose(line.get_ydata(), np.arange(n) / n)


def test_long_names_leave_room_for_the_picture():
    found = GroupFidelity.of_shares(["a$b$", 100 * "c"], np.array([1, 1]), 2, "class of the row")
    ax = plt.subplots()[1]
    GroupFidelity.draw_all(ax, {"student": found})
    assert [label.get_text() for label in ax.get_yticklabels()] == [r"a\$b\$", 23 * "c" + "…"]


def test_a_class_without_rows_is_left_out():
    found = GroupFidelity.of_shares("ab", np.array([1, 0]), np.array([2, 0]), "class of the row")
    assert found.values[0] == 0.5 and np.isnan(found.values[1])
    line = GroupFidelity.draw_all(plt.subplots()[1], {"student": found})["student"]
    assert np.isnan(line.get_xdata()[1])


def test_axes_of_the_user(classes):
    _, axes = plt.subplots(1, 2)
    display = ReportDisplay.from_report(classes[0], panels=["size", "fidelity"], axes=axes)
    assert list(display.axes_) == list(axes) and axes[0].get_legend() is not None
    assert not display.figure_.legends
    one = ReportDisplay.from_report(classes[0], panels="size", axes=axes[0])
    assert list(one.axes_) == [axes[0]]
    with pytest.raises(ValueError, match=r"axes has 2 axes for the 1 panels \['size'\]"):
        ReportDisplay.from_report(classes[0], panels=["size"], axes=axes)


@pytest.mark.parametrize("panel", ["calibration", "errors"])
def test_the_legend_of_a_single_panel_is_not_cut(classes, numbers, panel):
    report = (classes if panel == "calibration" else numbers)[0]
    figure = ReportDisplay.from_report(report, panels=panel).figure_
    figure.canvas.draw()
    place = figure.legends[0].get_window_extent()
    assert place.x0 >= 0 and place.x1 <= figure.bbox.x1


def test_a_peer_of_any_name_is_in_the_legend(classes):
    _, clf, X, y = classes
    peers = {name: GaussianNB().fit(X, y) for name in ("_mine", "$x^{$")}
    report = distillation_report(clf, X, y, peers=peers, timing=False)
    figures = [
        ReportDisplay.from_report(report, panels=panel).figure_
        for panel in ("size", "calibration", "fidelity")
    ]
    for figure in [*figures, report.plot()]:
        figure.canvas.draw()
        named = " ".join(text.get_text() for text in figure.legends[0].get_texts())
        assert "_mine" in named and r"\$x^{\$" in named


def test_twenty_names_do_not_touch():
    n = MOST_NAMED
    found = GroupFidelity.of_shares(
        [f"Ég{k}" for k in range(n)], np.arange(n), np.full(n, n), "class of the row"
    )
    figure, ax = plt.subplots(figsize=(4.5, 3.7), layout="constrained")
    GroupFidelity.draw_all(ax, {"student": found})
    figure.canvas.draw()
    places = [label.get_window_extent() for label in ax.get_yticklabels()]
    assert all(above.y0 > below.y1 for above, below in pairwise(places))


def test_what_a_report_lacks_is_refused(classes, numbers):
    _, _, X, y = classes
    for report, panel, match in [
        (numbers[0], "time", "'time', but the report has no times: make it with timing=True"),
        (numbers[0], "calibration", "'calibration', but the report is about numbers: ask for 'errors'"),
        (classes[0], "errors", "'errors', but the report is about labels: ask for 'calibration'"),
        (classes[0], "sizes", "'sizes', which is not one of .* Did you mean 'size'"),
        (classes[0], ["size", "size"], "'size' 2 times. Give each panel once"),
        (classes[0], [], r"panels=\[\] is empty. Give at least one of \['time'"),
    ]:
        with pytest.raises(ValueError, match=match):
            ReportDisplay.from_report(report, panels=panel)
    with pytest.raises(TypeError, match="panels=3 must be a list of names"):
        ReportDisplay.from_report(classes[0], panels=3)
    with pytest.raises(TypeError, match="must be a DistillationReport: give what distillation_report"):
        ReportDisplay.from_report(classes[0].to_dict())
    alone = DistilledClassifier(None, MLPStudent, meta="none", max_epochs=1).fit(X, y)
    without = distillation_report(alone, X, y, timing=False)
    assert ReportDisplay.from_report(without).panels_ == ["size", "calibration"]
    with pytest.raises(ValueError, match="'fidelity', but the report has no teacher"):
        ReportDisplay.from_report(without, panels=["fidelity"])


def test_reports_that_were_pickled_before_there_was_fidelity(classes):
    again = pickle.loads(pickle.dumps(classes[0]))
    assert ReportDisplay.from_report(again).panels_[-1] == "fidelity"
    del again.__dict__["_fidelity"]
    assert ReportDisplay.from_report(again).panels_ == ["time", "size", "calibration"]


def test_without_matplotlib(classes, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match="ReportDisplay needs matplotlib, which is not installed"):
        ReportDisplay.from_report(classes[0])
    with pytest.raises(ImportError, match="plot needs matplotlib"):
        classes[0].plot()

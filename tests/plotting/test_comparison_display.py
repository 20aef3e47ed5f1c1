"""The picture of a comparison shows its summary."""

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from numpy.lib import recfunctions

from sklearn_kd import ComparisonDisplay, MethodComparison

matplotlib.use("Agg")

METHODS = {"naive": (0.80, 1.0), "better": (0.90, 3.0), "like it": (0.80, 1.001)}


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def comparison():
    rng = np.random.default_rng(0)
    runs = [
        (method, fold, 0, 80, 20, score + noise, 1 - score + noise, seconds, 1)
        for method, (score, seconds) in METHODS.items()
        for fold, noise in enumerate(rng.normal(scale=0.01, size=5))
    ]
    names = ("method", "fold", "seed", "n_train", "n_test", "accuracy", "log_loss", "fit_seconds", "models_in_batch")  # fmt: skip
    kinds = ("U10", int, int, int, int, float, float, float, int)
    return MethodComparison(np.array(runs, dtype=list(zip(names, kinds, strict=True))))


def test_markers_are_at_the_summary(comparison):
    display = ComparisonDisplay.from_comparison(comparison)
    assert display.panels_ == ["differences", "cost"] and len(display.axes_) == 2
    for row in comparison.summary():
        method = row["method"]
        drawn = display.lines_["cost"][method].get_xydata()
        np.testing.assert_allclose(drawn, [[METHODS[method][1], row["mean"]]])
        if method != "naive":
            assert display.lines_["differences"][method].get_xdata()[0] == row["difference"]
    assert list(display.lines_["differences"]) == ["better", "like it"]
    assert "naive (0.8" in display.axes_[0].get_xlabel() and "line: naive" in display.axes_[1].get_ylabel()


def test_bars_are_the_paired_intervals_at_the_level_of_the_baseline(comparison):
    ax = ComparisonDisplay.from_comparison(comparison, panels="cost").axes_[0]
    level = comparison.summary()["mean"][0]
    assert list(ax.lines[0].get_ydata()) == [level, level]
    bars = [line for line in ax.lines[1:] if len(line.get_ydata()) == 2]
    for row, bar in zip(comparison.summary(), bars, strict=True):
        if row["method"] != "naive":
            np.testing.assert_allclose(bar.get_ydata(), [level + row["low"], level + row["high"]])
    assert bars[1].get_linewidth() > bars[2].get_linewidth()


def test_a_method_has_one_look_and_is_filled_where_it_differs(comparison):
    lines = ComparisonDisplay.from_comparison(comparison).lines_
    for method in ("better", "like it"):
        one, other = (lines[panel][method] for panel in ("differences", "cost"))
        assert (one.get_color(), one.get_marker()) == (other.get_color(), other.get_marker())
        for line in (one, other):
            assert (line.get_markerfacecolor() == line.get_color()) == (method == "better")


def test_methods_of_the_same_cost_stand_side_by_side(comparison):
    display = ComparisonDisplay.from_comparison(comparison, panels="cost")
    places = {
        method: line.get_transform().transform((1.0, 0))[0] for method, line in display.lines_["cost"].items()
    }
    at_1 = display.axes_[0].transData.transform((1.0, 0))[0]
    assert places["naive"] < at_1 < places["like it"] and places["better"] == pytest.approx(at_1)


def test_shared_seconds_are_named(comparison):
    runs = comparison.results_.copy()
    label = ComparisonDisplay.from_comparison(comparison, panels="cost").axes_[0].get_xlabel()
    assert "batched" not in label
    runs["models_in_batch"] = 3
    display = ComparisonDisplay.from_comparison(MethodComparison(runs), panels="cost")
    assert "batched runs are shared equally" in display.axes_[0].get_xlabel()


def test_another_measure(comparison):
    display = ComparisonDisplay.from_comparison(comparison, metric="log_loss")
    difference = comparison.summary("log_loss")["difference"][1]
    assert display.lines_["differences"]["better"].get_xdata()[0] == difference < 0
    assert "log loss" in display.axes_[1].get_ylabel()


def test_one_fold_has_no_interval(comparison):
    runs = comparison.results_[comparison.results_["fold"] == 0]
    display = ComparisonDisplay.from_comparison(MethodComparison(runs))
    assert all(np.isfinite(line.get_ydata()).all() for line in display.lines_["cost"].values())
    low, high = display.axes_[1].get_ylim()
    assert low < runs["accuracy"].min() < runs["accuracy"].max() < high


def test_axes_of_the_user(comparison):
    _, axes = plt.subplots(1, 2)
    display = ComparisonDisplay.from_comparison(comparison, axes=axes)
    assert list(display.axes_) == list(axes) and display.figure_ is axes[0].figure
    with pytest.raises(ValueError, match=r"axes has 2 axes for the 1 panels \['cost'\]"):
        ComparisonDisplay.from_comparison(comparison, panels="cost", axes=axes)


def test_unsuited_input_is_refused(comparison):
    with pytest.raises(TypeError, match="must be a MethodComparison: give what compare_methods"):
        ComparisonDisplay.from_comparison(comparison.results_)
    with pytest.raises(ValueError, match=r"metric='accuracies' is not one of .* Did you mean 'accuracy'"):
        ComparisonDisplay.from_comparison(comparison, metric="accuracies")
    with pytest.raises(ValueError, match=r"panels has 'costs', which is not one of .* Did you mean 'cost'"):
        ComparisonDisplay.from_comparison(comparison, panels=["costs"])
    alone = comparison.results_[comparison.results_["method"] == "naive"]
    with pytest.raises(ValueError, match="comparison has the method 'naive' alone"):
        ComparisonDisplay.from_comparison(MethodComparison(alone))


def test_results_without_seconds(comparison):
    untimed = MethodComparison(recfunctions.drop_fields(comparison.results_, "fit_seconds", usemask=False))
    assert ComparisonDisplay.from_comparison(untimed).panels_ == ["differences"]
    with pytest.raises(ValueError, match=r"'cost', but the comparison's results_ have no fit_seconds"):
        ComparisonDisplay.from_comparison(untimed, panels=["cost"])


def renamed(comparison, names):
    """The comparison with other names of its methods, the baseline's first."""
    results = comparison.results_.astype(
        [(field, "U80" if field == "method" else comparison.results_.dtype[field])
         for field in comparison.results_.dtype.names])  # fmt: skip
    for old, new in zip(METHODS, names, strict=True):
        results["method"][comparison.results_["method"] == old] = new
    return MethodComparison(results, names[0])


def test_methods_of_any_name(comparison):
    names = ["the baseline of all these methods", "$x^{$", "_mine"]
    display = ComparisonDisplay.from_comparison(renamed(comparison, names))
    assert list(display.lines_["cost"]) == names
    figures = [display.figure_, renamed(comparison, names).plot().figure]
    for figure in figures:
        figure.canvas.draw()
        label = figure.axes[0].xaxis.label.get_window_extent()
        assert label.x0 >= 0 and label.x1 <= figure.bbox.x1
    legend = [text.get_text() for text in display.axes_[1].get_legend().get_texts()]
    assert legend == ["the baseline of all the…", r"\$x^{\$", " _mine"]


def test_one_method_is_not_drawn(comparison):
    alone = MethodComparison(comparison.results_[comparison.results_["method"] == "naive"])
    with pytest.raises(ValueError, match="'naive' alone: there is no difference to draw"):
        alone.plot()


def test_plot_takes_one_axes(comparison):
    figure, axes = plt.subplots(1, 2)
    assert comparison.plot(ax=axes[0]) is axes[0]
    with pytest.raises(TypeError, match="ax has a Figure, which is not a matplotlib Axes"):
        comparison.plot(ax=figure)
    with pytest.raises(ValueError, match="ax has 2 Axes"):
        comparison.plot(ax=axes)

"""The picture of a path."""

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch.nn.functional as F

from sklearn_kd import MetaparameterPathDisplay, MetaparameterProcess, ProcessDisplay
from sklearn_kd.losses import DistillationLoss, LogitDistillation, Metaparameter
from sklearn_kd.meta._path import path_dtype
from sklearn_kd.meta._space import MetaparameterSpace

matplotlib.use("Agg")


def empty_path(n, **entries):
    return np.zeros(n, dtype=path_dtype(MetaparameterSpace(entries)))


def path(n=10, lambda1=0.5, predicted=()):
    rows = empty_path(n, **LogitDistillation().metaparameters(n_classes=10))
    rows["iteration"], rows["lambda1"], rows["temperature"] = np.arange(n), lambda1, 2.0
    rows["predicted"][list(predicted)] = True
    return rows


def shaded(ax):
    extents = [patch.get_window_extent().transformed(ax.transData.inverted()) for patch in ax.patches]
    return [(round(e.x0, 1), round(e.x1, 1)) for e in extents]


def test_predicted_stretches_are_shaded():
    display = MetaparameterPathDisplay.from_path(path(predicted=(3, 4, 8, 9)))
    for ax in display.axes_:
        assert shaded(ax) == [(2.5, 4.5), (7.5, 9.5)]
    assert "predicted" in display.axes_[1].get_xlabel()
    assert "predicted" not in MetaparameterPathDisplay.from_path(path()).axes_[1].get_xlabel()


def test_a_line_parts_the_search_from_the_retraining():
    searched = path()
    searched["search"][:4] = True
    display = MetaparameterPathDisplay.from_path(searched)
    for ax in display.axes_:
        assert list(ax.lines[-1].get_xdata()) == [3.5, 3.5]
    assert "search" in display.axes_[1].get_xlabel()
    assert len(MetaparameterPathDisplay.from_path(path()).axes_[0].lines) == 1


def test_from_process():
    entries = LogitDistillation().metaparameters(n_classes=10)
    process = MetaparameterProcess({"lambda1": [0.2, 0.4], "temperature": [2.0, 3.0]}, entries)
    display = MetaparameterPathDisplay.from_process(process)
    np.testing.assert_array_equal(display.lines_[0].get_ydata(), [0.2, 0.4])
    assert len(display.axes_[0].lines) == 1
    again = MetaparameterPathDisplay.from_process([process, process], axes=display.axes_)
    assert len(again.axes_[0].lines) == 4


def test_a_process_of_pathways_is_for_the_other_display(make_distpro, images):
    clf = make_distpro(search_epochs=1, max_epochs=1).fit(*images)
    with pytest.raises(TypeError, match=r"which ProcessDisplay draws"):
        MetaparameterPathDisplay.from_estimator(clf)


def test_a_path_without_iterations_is_refused():
    """As that of an estimator whose file was saved with history=False."""
    with pytest.raises(ValueError, match=r"path has no iterations: .*save\(history=False\)"):
        MetaparameterPathDisplay.from_path(path(0))


def test_several_runs_and_their_mean():
    display = MetaparameterPathDisplay.from_path([path(lambda1=0.2), path(lambda1=0.6)], name="both")
    assert len(display.axes_[0].lines) == 3
    np.testing.assert_allclose(display.lines_[0].get_ydata(), 0.4)
    with pytest.raises(ValueError, match="equal length"):
        MetaparameterPathDisplay.from_path([path(3), path(4)])


def test_from_estimator(make, digits, logits):
    clf = make().fit(*digits, teacher_logits=logits)
    display = MetaparameterPathDisplay.from_estimator(clf, name="run", color="red")
    np.testing.assert_array_equal(display.lines_[1].get_ydata(), clf.metaparameter_path_["temperature"])
    assert display.lines_[0].get_color() == "red" and display.figure_ is display.axes_[0].figure
    again = MetaparameterPathDisplay.from_estimator(clf, axes=display.axes_)
    assert again.figure_ is display.figure_


def test_lambda1_and_temperature_keep_their_labels():
    display = MetaparameterPathDisplay.from_path(path())
    assert [ax.get_ylabel() for ax in display.axes_] == ["lambda1\n(weight of the labels)", "temperature T"]
    assert display.axes_[0].get_ylim() == (-0.03, 1.03) != display.axes_[1].get_ylim()


def test_a_temperature_that_hardly_moves_is_drawn_so():
    """Its axis still grows with a run that moves far."""
    still, moved = path(), path()
    still["temperature"], moved["temperature"] = np.linspace(1, 1.01, 10), np.linspace(1, 8, 10)
    display = MetaparameterPathDisplay.from_path(still)
    low, high = display.axes_[1].get_ylim()
    assert low <= 0.755 and high >= 1.255
    display = MetaparameterPathDisplay.from_path(moved, axes=display.axes_)
    assert display.axes_[1].get_ylim()[1] > 8


def test_a_weight_that_hardly_moves_is_drawn_so():
    still = np.zeros(10, dtype=[("iteration", int), ("predicted", bool), ("hint_weight", float)])
    still["iteration"], still["hint_weight"] = np.arange(10), np.linspace(100, 101, 10)
    low, high = MetaparameterPathDisplay.from_path(still).axes_[0].get_ylim()
    assert low <= 51 and high >= 150


class ThreeNumbers(DistillationLoss):
    """A softened term, the labels, and a pull towards even probabilities."""

    def metaparameters(self, n_classes):
        return {
            "alpha": Metaparameter(1.0, bounds=(0, 5)),
            "beta": Metaparameter(0.5, bounds=(0, 5)),
            "temperature": Metaparameter(2.0, bounds=(1, 10), coordinate="log"),
        }

    def loss(self, logits, teacher_logits, labels, *, alpha, beta, temperature):
        soft = F.cross_entropy(
            logits / temperature, (teacher_logits / temperature).softmax(1), reduction="none"
        )
        even = -logits.log_softmax(1).mean(1)
        return F.cross_entropy(logits, labels, reduction="none") + alpha * soft + beta * even


class ByClass(DistillationLoss):
    """A lambda1 for each class."""

    def metaparameters(self, n_classes):
        return {"lambda1": Metaparameter(0.5, shape=(n_classes,), bounds=(0, 1))}

    def loss(self, logits, teacher_logits, labels, *, lambda1):
        soft = F.cross_entropy(logits, teacher_logits.softmax(1), reduction="none")
        share = lambda1[labels]
        return share * F.cross_entropy(logits, labels, reduction="none") + (1 - share) * soft


def test_three_numbers_are_three_panels(make, digits, logits):
    clf = make(loss=ThreeNumbers()).fit(*digits, teacher_logits=logits)
    display = MetaparameterPathDisplay.from_estimator(clf)
    assert [ax.get_ylabel() for ax in display.axes_] == ["alpha", "beta", "temperature T"]
    for ax, line, name in zip(display.axes_, display.lines_, ("alpha", "beta", "temperature"), strict=True):
        assert ax.lines[:] == [line] and np.ptp(line.get_ydata()) > 0
        np.testing.assert_array_equal(line.get_ydata(), clf.metaparameter_path_[name])


def test_an_array_is_thin_lines_and_their_mean(make, digits, logits):
    clf = make(loss=ByClass()).fit(*digits, teacher_logits=logits)
    display = MetaparameterPathDisplay.from_estimator(clf)
    (ax,), (mean,), values = display.axes_, display.lines_, clf.metaparameter_path_["lambda1"]
    assert values.shape == (clf.n_iter_, 10) and np.ptp(values[-1]) > 0
    assert ax.get_ylim() == (-0.03, 1.03)
    np.testing.assert_allclose(mean.get_ydata(), values.mean(axis=1))
    thin = ax.lines[1:]
    np.testing.assert_array_equal([line.get_ydata() for line in thin], values.T)
    assert all(line.get_linewidth() < mean.get_linewidth() for line in thin)
    again = MetaparameterPathDisplay.from_path([clf.metaparameter_path_] * 2)
    assert len(again.axes_[0].lines) == 1 + 2 * 10


def test_what_cannot_be_drawn():
    one, other = empty_path(5, alpha=Metaparameter(1.0)), empty_path(5, alpha=Metaparameter(1.0, shape=(2,)))
    with pytest.raises(ValueError, match="of different metaparameters"):
        MetaparameterPathDisplay.from_path([one, other])
    with pytest.raises(ValueError, match="nothing to draw"):
        MetaparameterPathDisplay.from_path(empty_path(5))
    for given in ("process.npz", [path()], None):
        with pytest.raises(TypeError, match=r"must be a MetaparameterProcess or a list of them"):
            MetaparameterPathDisplay.from_process(given)
    with pytest.raises(ValueError, match="process: path must be one path or several"):
        MetaparameterPathDisplay.from_process([])
    with pytest.raises(TypeError, match=r"got \['str'\]"):
        MetaparameterPathDisplay.from_path("process.npz")
    with pytest.raises(TypeError, match="must be a DistillationProcess"):
        ProcessDisplay.from_process("process.npz")
    axes = MetaparameterPathDisplay.from_path(path()).axes_
    with pytest.raises(ValueError, match=r"axes has 2 axes; the path has the metaparameters \['alpha'\]"):
        MetaparameterPathDisplay.from_path(one, axes=axes)


def test_a_table_without_the_columns_of_a_path_is_refused():
    path = np.zeros(3, dtype=[("iteration", int), ("lambda1", float)])
    before = plt.get_fignums()
    with pytest.raises(TypeError, match="path must be metaparameter_path_ of a fitted estimator"):
        MetaparameterPathDisplay.from_path(path)
    assert plt.get_fignums() == before

"""The picture of a path."""

import matplotlib
import numpy as np
import pytest

from sklearn_kd import MetaparameterPathDisplay
from sklearn_kd.meta._path import PATH_DTYPE

matplotlib.use("Agg")


def path(n=10, lambda1=0.5, predicted=()):
    rows = np.zeros(n, dtype=PATH_DTYPE)
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

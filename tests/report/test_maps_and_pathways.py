"""What reports, comparisons and files of whole models make of maps, and of regressors with pathways."""

import matplotlib
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import KFold

from helpers.networks import ConvNet
from helpers.pages import messages
from helpers.pixels import PixelNet, images_with_maps
from sklearn_kd import (
    DistilledClassifier,
    DistilledRegressor,
    DistProRegressor,
    compare_methods,
    distillation_report,
    export_student,
)

matplotlib.use("Agg")


@pytest.mark.parametrize("kind", [DistilledClassifier, DistilledRegressor])
def test_students_of_maps_are_refused(kind, tmp_path):
    X, y = images_with_maps(n=8)
    y = np.where(y > 2, 0, y).astype(float if kind is DistilledRegressor else int)
    model = kind(None, PixelNet, meta="none", max_epochs=1, device="cpu", random_state=0).fit(X, y)
    for function in (distillation_report, compare_methods):
        with pytest.raises(ValueError, match=messages()["a student of maps in a report"]) as refused:
            function(model, X, y)
        assert str(refused.value).startswith(function.__name__)
    with pytest.raises(ValueError, match=messages()["a student of maps in a file"]):
        export_student(model, tmp_path / "maps.onnx", X)


@pytest.fixture(scope="module")
def ink(images):
    """Images, and how much ink each has, in percent."""
    return images[0], 100 * images[0].mean(axis=(1, 2, 3)).astype(np.float64)


@pytest.fixture(scope="module")
def pathways(ink):
    """f(**params): a DistProRegressor, taught by a wider student of the library."""
    settings = {"max_epochs": 4, "lr": 0.01, "batch_size": 32, "random_state": 0, "device": "cpu"}
    teacher = DistilledRegressor(None, ConvNet, student__width=6, meta="none", **settings).fit(*ink)

    def make(**params):
        quick = settings | {"transforms": ["conv1"], "search_epochs": 1, "max_epochs": 2, "optimizer": "SGD"}
        return DistProRegressor(teacher, ConvNet, **(quick | params))

    return make


def test_a_report_on_pathways_of_numbers(ink, pathways):
    X, y = ink
    reg = pathways(weights="equal").fit(X[:120], y[:120])
    given = {"student_alone": "train", "X_train": X[:120], "y_train": y[:120], "timing": False}
    report = distillation_report(reg, X[120:], y[120:], **given).to_dict()["models"]
    assert list(report) == ["teacher", "student", "student alone"]
    assert report["student"]["r2"] == pytest.approx(reg.score(X[120:], y[120:]))
    assert report["teacher"]["r2"] == pytest.approx(reg.teacher.score(X[120:], y[120:]), rel=1e-4)


def test_pathways_of_numbers_are_compared(ink, pathways):
    X, y = ink
    folds = KFold(2)
    comparison = compare_methods(pathways(), X, y, methods=("equal", "process"), cv=folds, random_state=0)
    rows = comparison.results_[comparison.results_["method"] == "process"]
    for row, (train, test) in zip(rows, folds.split(X), strict=True):
        alone = clone(pathways(weights="process")).set_params(random_state=int(row["random_state"]))
        assert row["r2"] == pytest.approx(alone.fit(X[train], y[train]).score(X[test], y[test]))

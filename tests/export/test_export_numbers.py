"""A fitted regressor in one file of ONNX, with what comes before its student."""

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_diabetes
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from helpers.settings import single_run
from sklearn_kd import DistilledRegressor, MLPStudent, export_student, register_onnx_converter
from sklearn_kd.export._outputs import Comparison, outputs_of

X, Y = load_diabetes(return_X_y=True)
Y = 1e6 + 100 * Y  # which float32 would round


@pytest.fixture
def onnxruntime():
    for package in ("onnx", "onnxscript", "skl2onnx"):
        pytest.importorskip(package, reason=f"needs {package}")
    return pytest.importorskip("onnxruntime", reason="needs onnxruntime")


def regressor(**params):
    quick = {"student__hidden": 8, "max_epochs": 2, "device": "cpu", "random_state": 0}
    return DistilledRegressor(None, MLPStudent, **(single_run(params) | {"meta": "none"} | quick | params))


def predicted(onnxruntime, path, X):
    session = onnxruntime.InferenceSession(path)
    [output] = session.get_outputs()
    assert (output.name, output.type) == ("predictions", "tensor(double)")
    return session.run(None, {"X": X})[0], session.get_modelmeta().custom_metadata_map


def test_a_pipeline_predicts_in_the_units_of_y(onnxruntime, tmp_path):
    """Two targets, each with a mean and a variance, of which the file gives the mean."""
    pipe = make_pipeline(StandardScaler(), regressor(loss="gaussian_nll")).fit(X, np.c_[Y, -Y])
    export_student(pipe, tmp_path / "it.onnx", X)
    found, about = predicted(onnxruntime, tmp_path / "it.onnx", X)
    scale = pipe[-1].target_scale_
    np.testing.assert_allclose(found / scale, pipe.predict(X) / scale, rtol=0, atol=1e-4)
    assert json.loads(about["target_mean"]) == pytest.approx([Y.mean(), -Y.mean()])
    assert json.loads(about["target_scale"]) == scale.tolist() and "classes" not in about


def test_a_table_with_words(onnxruntime, tmp_path):
    pd = pytest.importorskip("pandas", reason="needs pandas")
    table = pd.DataFrame({"n": X[:, 0], "word": np.where(X[:, 1] > 0, "a", "b")})
    reg = regressor(student_preprocessing="auto").fit(table, Y)
    export_student(reg, tmp_path / "it.onnx", table)
    session = onnxruntime.InferenceSession(tmp_path / "it.onnx")
    feed = {name: table[[name]].to_numpy() for name in table}
    np.testing.assert_allclose(session.run(None, feed)[0][:, 0], reg.predict(table), rtol=1e-6)


class Two(nn.Module):
    def __init__(self, n_classes):
        super().__init__()
        self.left, self.right = nn.Linear(4, n_classes), nn.Linear(6, n_classes)

    def forward(self, left, right):
        return self.left(left) + self.right(right)


def test_skl2onnx_takes_a_student_of_several_parts(onnxruntime):
    skl2onnx = pytest.importorskip("skl2onnx")
    from skl2onnx.common.data_types import FloatTensorType

    parts = {"left": X[:, :4].astype(np.float32), "right": X[:, 4:].astype(np.float32)}
    reg = DistilledRegressor(None, Two, meta="none", max_epochs=1, device="cpu", random_state=0)
    reg.fit(parts, Y)
    register_onnx_converter()
    types = [(name, FloatTensorType([None, part.shape[1]])) for name, part in parts.items()]
    graph = skl2onnx.to_onnx(reg, initial_types=types)
    [found] = onnxruntime.InferenceSession(graph.SerializeToString()).run(None, parts)
    np.testing.assert_allclose(found[:, 0], reg.predict(parts), rtol=1e-6)


@pytest.fixture(scope="module")
def fitted():
    return regressor().fit(X, Y)


def test_other_predictions_are_refused_in_the_units_of_a_deviation(fitted):
    expected = fitted.predict(X)
    off = expected[:, None] + 1e-3 * fitted.target_scale_ * (np.arange(len(X)) == 7)[:, None]
    outputs = outputs_of(fitted)
    words = np.zeros(len(X), bool)
    with pytest.raises(
        ValueError, match=r"for row 7 of X the graph returns .* and predict .*differ by 0\.001"
    ):
        outputs.compare([off], expected, Comparison(Path("it.onnx"), 1e-5, words))
    outputs.compare([off], expected, Comparison(Path("it.onnx"), 0.01, words))
    with pytest.raises(
        ValueError, match=r"returns predictions of shape \(442,\), but predict returns \(442, 1\)"
    ):
        outputs.compare([off[:, 0]], expected, Comparison(Path("it.onnx"), 0.01, words))

import json
import pickle
import sys
import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV

from sklearn_kd import CNNStudent, MLPStudent, StandardizedStudent

NAMES = np.array([f"digit {i}" for i in range(10)])


@pytest.fixture
def fitted(make, digits):
    """Distilled from no one, with labels that are words."""
    X, y = digits
    return make(meta="none", max_epochs=5).fit(X, NAMES[y])


class BatchNormStudent(torch.nn.Module):
    """Computes something else in training mode, and has buffers beside its weights."""

    def __init__(self, in_features, n_classes):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(in_features, 16),
            torch.nn.BatchNorm1d(16),
            torch.nn.Dropout(),
            torch.nn.Linear(16, n_classes),
        )

    def forward(self, x):
        return self.layers(x)


class TiedStudent(torch.nn.Module):
    """Two names for one weight."""

    def __init__(self, in_features, n_classes):
        super().__init__()
        self.first = torch.nn.Linear(in_features, in_features)
        self.second = torch.nn.Linear(in_features, in_features)
        self.second.weight = self.first.weight
        self.last = torch.nn.Linear(in_features, n_classes)

    def forward(self, x):
        return self.last(torch.relu(self.second(torch.relu(self.first(x)))))


# --------------------------------------------------------------------------------------
# Files


@pytest.mark.parametrize("student", [MLPStudent, BatchNormStudent, TiedStudent])
def test_safetensors_reload_into_a_fresh_module(student, make, digits, tmp_path):
    safetensors = pytest.importorskip("safetensors.torch", reason="needs safetensors")
    X, y = digits
    clf = make(meta="none", student=student).fit(X, NAMES[y])
    clf.student_.train()
    clf.export_student(tmp_path / "student.safetensors")
    assert clf.student_.training  # left as it was
    width = {"hidden": 32} if student is MLPStudent else {}
    again = StandardizedStudent(student(in_features=64, n_classes=10, **width), n_features=64).eval()
    safetensors.load_model(again, tmp_path / "student.safetensors")
    with torch.no_grad():
        logits = again(torch.from_numpy(X))
    np.testing.assert_allclose(torch.softmax(logits, 1), clf.predict_proba(X), atol=1e-6)
    np.testing.assert_array_equal(clf.classes_[logits.argmax(1)], clf.predict(X))


def test_safetensors_metadata(fitted, tmp_path):
    safetensors = pytest.importorskip("safetensors", reason="needs safetensors")
    fitted.export_student(str(tmp_path / "student.safetensors"))
    with safetensors.safe_open(tmp_path / "student.safetensors", framework="np") as file:
        metadata = file.metadata()
    assert json.loads(metadata["classes"]) == NAMES.tolist()
    assert json.loads(metadata["input_shape"]) == [64]
    assert json.loads(metadata["sklearn_kd_version"])


def onnx_session(path):
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package, reason=f"needs {package}")
    return pytest.importorskip("onnxruntime", reason="needs onnxruntime").InferenceSession(path)


@pytest.mark.parametrize(
    ("student", "shape"), [(MLPStudent, (64,)), (BatchNormStudent, (64,)), (CNNStudent, (1, 8, 8))]
)
def test_onnx_predicts_the_same_for_any_number_of_rows(student, shape, make, digits, tmp_path):
    pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    pytest.importorskip("onnxscript", reason="needs onnxscript")
    X, y = digits[0].reshape(-1, *shape), NAMES[digits[1]]
    clf = make(meta="none", student=student).fit(X, y)
    path = tmp_path / "student.onnx"
    clf.export_student(path)
    assert [file.name for file in tmp_path.iterdir()] == ["student.onnx"]  # weights inside
    session = onnx_session(path)
    classes = np.array(json.loads(session.get_modelmeta().custom_metadata_map["classes"]))
    for rows in (1, 3, 400):
        (logits,) = session.run(["logits"], {"X": X[:rows]})
        np.testing.assert_array_equal(classes[logits.argmax(1)], clf.predict(X[:rows]))
        probabilities = torch.softmax(torch.from_numpy(logits), 1)
        np.testing.assert_allclose(probabilities, clf.predict_proba(X[:rows]), atol=1e-5)


# --------------------------------------------------------------------------------------
# What cannot be written


def test_onnx_is_written_without_a_word(make, digits, tmp_path, caplog):
    """What torch says is about its own future and about packages that no student needs."""
    pytest.importorskip("onnxscript", reason="needs onnxscript")
    fitted = make(meta="none").fit(*digits)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted.export_student(tmp_path / "student.onnx")
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


@pytest.mark.parametrize("name", ["student.pt", "student"])
def test_unknown_suffix(name, fitted, tmp_path):
    with pytest.raises(ValueError, match=r"'\.safetensors' or '\.onnx'"):
        fitted.export_student(tmp_path / name)


def test_folder_that_is_not_there(fitted, tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder"):
        fitted.export_student(tmp_path / "nowhere" / "student.onnx")


def test_unfitted(make, tmp_path):
    with pytest.raises(NotFittedError):
        make().export_student(tmp_path / "student.onnx")


@pytest.mark.parametrize(("suffix", "package"), [(".safetensors", "safetensors"), (".onnx", "onnx")])
def test_missing_package_is_named(suffix, package, fitted, tmp_path, monkeypatch):
    for name in (package, f"{package}.torch"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=rf"{package}.*sklearn-kd\[export\]"):
        fitted.export_student(tmp_path / f"student{suffix}")
    assert not list(tmp_path.iterdir())


def test_labels_that_json_cannot_hold(fitted, tmp_path):
    fitted.classes_ = np.arange(10).astype("datetime64[D]")
    with pytest.raises(TypeError, match="datetime64"):
        fitted.export_student(tmp_path / "student.safetensors")


# --------------------------------------------------------------------------------------
# Without the teacher


class HeavyTeacher(torch.nn.Module):
    """40 MB of weights, which must not be copied."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(64, 10)
        self.ballast = torch.nn.Parameter(torch.zeros(10_000_000))

    def forward(self, x):
        return self.layer(x)

    def __deepcopy__(self, memo):
        raise AssertionError("the teacher was copied")


MB = 1_000_000


def test_network_is_not_in_a_pickle_without_teacher(make, digits):
    X, y = digits
    kept, dropped = (
        make(HeavyTeacher(), meta="fixed", keep_teacher=keep).fit(X, y) for keep in (True, False)
    )
    assert len(pickle.dumps(kept)) > 40 * MB
    assert len(pickle.dumps(dropped)) < 0.2 * MB
    assert dropped.teacher_ is None
    assert isinstance(dropped.teacher, HeavyTeacher)  # this object can be fitted again
    again = pickle.loads(pickle.dumps(dropped))
    assert again.teacher is None
    np.testing.assert_array_equal(again.predict_proba(X), dropped.predict_proba(X))
    with pytest.raises(ValueError, match="teacher=None"):
        again.fit(X, y)


@pytest.mark.parametrize("frozen", [True, False])
def test_fitted_forest_is_not_in_a_pickle_without_teacher(frozen, make, digits):
    X, y = digits
    forest = RandomForestClassifier(100, random_state=0)
    teacher = FrozenEstimator(forest.fit(X, y)) if frozen else forest
    kept, dropped = (make(teacher, meta="fixed", keep_teacher=keep).fit(X, y) for keep in (True, False))
    assert len(pickle.dumps(kept)) > 5 * len(pickle.dumps(dropped))
    again = pickle.loads(pickle.dumps(dropped))
    if frozen:
        assert again.teacher is None
    else:
        np.testing.assert_array_equal(again.fit(X, y).predict_proba(X), dropped.predict_proba(X))


def test_unfitted_pickle_keeps_the_teacher(make, digits, logits):
    """Or a search with ``n_jobs`` could not send it to its workers."""
    clf = make(HeavyTeacher())
    assert isinstance(pickle.loads(pickle.dumps(clf)).teacher, HeavyTeacher)
    fitted = clf.fit(*digits)
    assert isinstance(clone(fitted).teacher, HeavyTeacher)


def test_search_copies_no_large_teacher(make, digits):
    teacher = HeavyTeacher()
    search = GridSearchCV(
        make(teacher, meta="fixed", keep_teacher=True), {"lambda1": [0.2, 0.8]}, cv=3, error_score="raise"
    )
    search.fit(*digits)
    assert clone(search).estimator.teacher is teacher
    assert search.best_estimator_.teacher is teacher
    assert search.best_estimator_.teacher_ is teacher

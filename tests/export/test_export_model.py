"""A fitted model in one file of ONNX, with what comes before its student."""

import json
import sys
import warnings

import numpy as np
import pytest
import torch
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.compose import make_column_transformer
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.impute import SimpleImputer
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from torch.utils.data import TensorDataset

from helpers.pages import messages
from sklearn_kd import CNNStudent, DistilledClassifier, MLPStudent, export_student, register_onnx_converter
from sklearn_kd.export import _export_model
from sklearn_kd.export._onnx_converter import onnx_labels
from sklearn_kd.export._onnx_inputs import inputs_of

NAMES = np.array([f"digit {i}" for i in range(10)])


@pytest.fixture
def onnxruntime():
    for package in ("onnx", "onnxscript", "skl2onnx"):
        pytest.importorskip(package, reason=f"needs {package}")
    return pytest.importorskip("onnxruntime", reason="needs onnxruntime")


@pytest.fixture
def predicted(onnxruntime, tmp_path):
    """f(model, X, given): export without a warning; return what ONNX Runtime says to X, and the session."""

    def run(model, X, given=None):
        path = tmp_path / "model.onnx"
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            export_student(model, path, given)
        assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]
        session = onnxruntime.InferenceSession(path)
        names = [entry.name for entry in session.get_inputs()]
        feed = {name: given.values for name, given in zip(names, inputs_of(X), strict=True)}
        return *session.run(["label", "probabilities"], feed), session

    return run


@pytest.fixture
def scaled(make, digits, once):
    X, y = digits
    return once("scaled", lambda: make_pipeline(StandardScaler(), make(meta="none")).fit(X, y))


def agree(label, probabilities, model, X):
    np.testing.assert_allclose(probabilities, model.predict_proba(X), atol=1e-5)
    np.testing.assert_array_equal(label, model.predict(X))
    assert probabilities.dtype == np.float32


# --------------------------------------------------------------------------------------
# Models


def test_pipeline_of_float64(scaled, digits, predicted):
    X = digits[0].astype(np.float64)
    label, probabilities, session = predicted(scaled, X, X)
    agree(label, probabilities, scaled, X)
    assert label.dtype == np.int64 and session.get_inputs()[0].type == "tensor(double)"
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["classes"]) == list(range(10)) and json.loads(about["columns"]) is None
    assert json.loads(about["input_shape"]) == [64] and json.loads(about["versions"])["sklearn_kd"]


def frame(n=200):
    """A table with words, a missing number, integers and booleans; its labels are words."""
    pd = pytest.importorskip("pandas", reason="needs pandas")
    rng = np.random.default_rng(0)
    X = pd.DataFrame({
        "floor": rng.integers(0, 9, n), "width (cm)": rng.normal(size=n), "height": rng.normal(size=n),
        "kind": rng.choice(["a", "b", "ü"], n), "old": rng.random(n) < 0.5,
    })  # fmt: skip
    y = np.where((X["width (cm)"] > 0) ^ (X["kind"] == "a"), "yes", "no")
    X.loc[3, "height"] = np.nan
    return X, y


def test_frame_with_words_and_missing_numbers(make, predicted):
    """An operator takes float32 alone, and no integers beside it: the file takes the columns as they are."""
    X, y = frame()
    numbers = make_pipeline(SimpleImputer(), StandardScaler())
    columns = make_column_transformer(
        (numbers, ["floor", "width (cm)", "height"]),
        (OneHotEncoder(handle_unknown="ignore"), ["kind"]),
        ("passthrough", ["old"]),
    )
    pipe = make_pipeline(columns, "passthrough", make(meta="none", max_epochs=20)).fit(X, y)
    unseen = X.assign(kind=np.where(X["floor"] > 4, "other", X["kind"]))
    label, probabilities, session = predicted(pipe, unseen, X)
    agree(label, probabilities, pipe, unseen)
    assert set(label) == {"yes", "no"}
    types = [entry.type for entry in session.get_inputs()]
    assert types == [f"tensor({name})" for name in ("int64", "double", "double", "string", "bool")]
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["columns"]) == X.columns.tolist()


@pytest.mark.parametrize("distpro", [False, True])
def test_images_without_rows(distpro, make, make_distpro, images, predicted):
    X, y = images[0], NAMES[images[1]]
    clf = make_distpro(max_epochs=1) if distpro else make(meta="none", student=CNNStudent)
    label, probabilities, _ = predicted(clf.fit(X, y), X)
    agree(label, probabilities, clf, X)


def test_search_and_columns_of_other_scales(make, digits, predicted):
    """Made-up rows are near the rows of the training."""
    X, y = digits[0] * np.logspace(-3, 3, 64, dtype=np.float32) + 1000, digits[1] > 4
    search = GridSearchCV(make(meta="none"), {"lr": [0.1]}, cv=2).fit(X, y)
    label, probabilities, _ = predicted(search, X)
    agree(label, probabilities, search.best_estimator_, X)
    assert label.dtype == np.int64


def test_weights_are_written_as_by_the_method(scaled, tmp_path):
    safetensors = pytest.importorskip("safetensors.torch", reason="needs safetensors")
    for name, write in (
        ("a", lambda path: export_student(scaled[-1], path)),
        ("b", scaled[-1].export_student),
    ):
        write(tmp_path / f"{name}.safetensors")
    written, expected = (safetensors.load_file(tmp_path / f"{name}.safetensors") for name in "ab")
    assert written.keys() == expected.keys()
    assert all(torch.equal(written[name], expected[name]) for name in expected)
    with pytest.raises(ValueError, match=messages()["weights of a Pipeline"]):
        export_student(scaled, tmp_path / "c.safetensors")


# --------------------------------------------------------------------------------------
# skl2onnx's own function, with its options


def test_options_of_skl2onnx(scaled, digits, onnxruntime):
    import skl2onnx

    X, clf = digits[0][:5], scaled[-1]
    register_onnx_converter()

    def run(**options):
        model = skl2onnx.to_onnx(scaled, X[:1], options={id(clf): options})
        return onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"X": X})

    expected = scaled.predict_proba(X)
    label, maps = run()
    np.testing.assert_array_equal(label, scaled.predict(X))
    np.testing.assert_allclose([list(row.values()) for row in maps], expected, atol=1e-5)
    code, logits = run(zipmap=False, raw_scores=True, nocl=True)
    np.testing.assert_array_equal(code, expected.argmax(axis=1))
    np.testing.assert_allclose(torch.softmax(torch.from_numpy(logits), 1), expected, atol=1e-5)


# --------------------------------------------------------------------------------------
# What is refused


class Own(TransformerMixin, BaseEstimator):
    def fit(self, X, y=None):
        return self

    def transform(self, X):
        return np.asarray(X) * 2


@pytest.mark.parametrize(
    ("step", "named"),
    [(Own(), "'columntransformer__own', Own"), (FunctionTransformer(np.log1p), "FunctionTransformer")],
)
def test_step_without_a_converter_is_named(step, named, make, digits, onnxruntime, tmp_path):
    X, y = digits
    columns = make_column_transformer((step, [1, 2]), remainder="passthrough")
    pipe = make_pipeline(columns, make(meta="none", max_epochs=1)).fit(X, y)
    with pytest.raises(ValueError, match=messages()["a step without a converter"]) as refused:
        export_student(pipe, tmp_path / "model.onnx", X)
    assert named in str(refused.value)
    assert not list(tmp_path.iterdir())


class Depends(MLPStudent):
    """Does something else by the values of X."""

    def forward(self, x):
        return super().forward(x) if x.mean() > 100 else super().forward(-x)


class TwoRows(MLPStudent):
    """Written for two rows at a time, it cannot be a graph for any number."""

    def forward(self, x):
        return super().forward(x) if torch.compiler.is_exporting() else super().forward(2 * x)


def test_student_whose_pass_depends_on_values(make, digits, onnxruntime, tmp_path):
    X, y = digits
    clf = make(meta="none", student=Depends, max_epochs=1).fit(X, y)
    with pytest.raises(ValueError, match=messages()["a student that depends on values"]) as refused:
        export_student(clf, tmp_path / "model.onnx", X)
    assert "Student Depends" in str(refused.value) and "data-dependent" in str(refused.value)
    assert not list(tmp_path.iterdir())


def test_file_that_predicts_otherwise_does_not_replace_one(make, digits, onnxruntime, tmp_path):
    X, y = digits
    clf = make(meta="none", student=TwoRows, max_epochs=1).fit(X, y)
    path = tmp_path / "model.onnx"
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match=messages()["a graph whose predictions differ"]):
        export_student(clf, path, X)
    assert path.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


def test_wrong_arguments(scaled, make, digits, tmp_path):
    X, path = digits[0], tmp_path / "model.onnx"
    with pytest.raises(NotFittedError):
        export_student(make_pipeline(StandardScaler(), make()), path)
    with pytest.raises(TypeError, match=messages()["a model that ends in another estimator"]):
        export_student(StandardScaler().fit(X), path)
    with pytest.raises(TypeError, match=r"^path=DistilledClassifier"):
        export_student(path, make())
    with pytest.raises(ValueError, match=r"'\.onnx' or '\.safetensors'"):
        export_student(scaled, tmp_path / "model.pt")
    with pytest.raises(FileNotFoundError, match="no folder"):
        export_student(scaled, tmp_path / "nowhere" / "model.onnx")
    with pytest.raises(TypeError, match="X is a Dataset"):
        export_student(scaled, path, TensorDataset(torch.from_numpy(X)))
    with pytest.raises(ValueError, match="tolerance=-1"):
        export_student(scaled, path, X, tolerance=-1)
    assert not list(tmp_path.iterdir())


def test_rows_are_needed_where_types_are_not_known(make, tmp_path):
    X, y = frame()
    numbers = X[["width (cm)", "floor"]]
    clf = make(meta="none", max_epochs=1).fit(numbers, y)
    pipe = make_pipeline(StandardScaler(), make(meta="none", max_epochs=1)).fit(numbers, y)
    for model in (clf, pipe):
        with pytest.raises(ValueError, match=messages()["columns of unknown types"]):
            export_student(model, tmp_path / "model.onnx")


@pytest.mark.parametrize("package", ["skl2onnx", "onnxscript", "onnx"])
def test_missing_package_is_named(package, scaled, digits, onnxruntime, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"{package}.*sklearn-kd\[export\]"):
        export_student(scaled, tmp_path / "model.onnx", digits[0])
    assert not list(tmp_path.iterdir())


def test_without_onnxruntime_it_is_said_that_nothing_was_checked(
    scaled, digits, onnxruntime, tmp_path, monkeypatch
):
    import onnx

    monkeypatch.setattr(_export_model, "_converted", lambda *args: onnx.ModelProto())
    monkeypatch.setattr(_export_model, "take_given_types", lambda *args: None)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.warns(UserWarning, match=messages()["no ONNX Runtime"]) as found:
        export_student(scaled, tmp_path / "model.onnx", digits[0])
    assert found[0].filename == __file__ and (tmp_path / "model.onnx").exists()


@pytest.mark.parametrize(
    ("classes", "expected"),
    [
        (np.array(["a", "b"]), ["a", "b"]), (np.array([False, True]), [0, 1]), (np.array([1.0, 2.0]), [1, 2]),
        (np.array(["a", "b"], dtype=object), ["a", "b"]),
    ],
)  # fmt: skip
def test_labels(classes, expected):
    assert onnx_labels(classes).tolist() == expected


@pytest.mark.parametrize(
    "classes", [np.array([0.5, 1.5]), np.arange(2).astype("datetime64[D]"), np.array([1, 2**63])]
)
def test_labels_without_a_form(classes):
    with pytest.raises(TypeError, match=messages()["labels without a form in ONNX"]):
        onnx_labels(classes)


def test_inputs():
    pl = pytest.importorskip("polars", reason="needs polars")
    found = inputs_of(pl.DataFrame({"n": [1.0, None], "word": ["a", None], "k": [1, 2]}))
    assert [entry.type_name for entry in found] == [
        f"{name}TensorType" for name in ("Double", "String", "Int64")
    ]
    assert found[1].values.tolist() == [["a"], [""]] and found[0].shape == [None, 1]
    with pytest.raises(TypeError, match=messages()["a column of mixed types"]):
        inputs_of(pl.DataFrame({"mixed": [1.0, "a"]}, schema={"mixed": pl.Object}))
    with pytest.raises(TypeError, match="X has values of datetime64"):
        inputs_of(np.array(["2020-01-01"], dtype="datetime64[D]"))
    with pytest.raises(ValueError, match="no rows"):
        inputs_of(np.zeros((0, 3)))


def test_numbers_beside_words_in_a_list_are_no_words():
    with pytest.raises(TypeError, match="X has dtype object and holds float, str"):
        inputs_of([[1.0, "a"], [2.0, "b"]])
    assert inputs_of([["b", "a"]])[0].type_name == "StringTensorType"


def test_missing_words_are_named_where_a_graph_predicts_otherwise(make, digits, onnxruntime, tmp_path):
    """Such a graph says more than the ways to compute that ONNX Runtime does not know."""
    X, y = np.array([["a", "b", None, "c"] * 30], dtype=object).T, np.tile([0, 1, 0, 1], 30)
    clf = make(meta="none", student_preprocessing=OneHotEncoder(handle_unknown="ignore"), max_epochs=5).fit(
        X, y
    )
    with pytest.raises(ValueError, match=r"for row \d+ of X .*lacks a word, which is the empty string"):
        export_student(clf, tmp_path / "it.onnx", X)


def test_a_graph_that_predicts_otherwise_is_reported_first(scaled, digits, tmp_path, monkeypatch):
    errors = [
        _export_model.NotConvertedError("runs not"),
        _export_model.PredictsOtherwiseError("other numbers"),
    ]
    monkeypatch.setattr(_export_model, "ways_to_compute", lambda inputs: errors)

    def fail(model, error, goal):
        raise error

    monkeypatch.setattr(_export_model, "_file", fail)
    with pytest.raises(ValueError, match="other numbers"):
        export_student(scaled, tmp_path / "it.onnx", digits[0])


def test_steps_of_a_pipeline_in_a_pipeline(scaled):
    steps, clf = _export_model._parts(Pipeline([("outer", FrozenEstimator(scaled))]))
    assert [name for name, _ in steps] == ["outer-standardscaler", "outer-distilledclassifier"]
    assert isinstance(clf, DistilledClassifier)

"""A table with words, categories and missing values, in one file with its student."""

from decimal import Decimal

import numpy as np
import pytest

from sklearn_kd import TablePreprocessing, export_student
from sklearn_kd.export._onnx_inputs import inputs_of

pd = pytest.importorskip("pandas", reason="needs pandas")
for package in ("onnx", "onnxscript", "skl2onnx"):
    pytest.importorskip(package, reason=f"needs {package}")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime")


def table(n=200):
    rng = np.random.default_rng(0)
    X = pd.DataFrame({
        "size (m)": rng.normal(size=n), "rooms": rng.integers(0, 5, n), "old": rng.random(n) < 0.5,
        "word": rng.choice(["x", "y", "r1", "r2"], n, p=[0.5, 0.48, 0.01, 0.01]),
        "number": pd.Categorical(rng.choice([1, 2, 30], n)), "same": 1,
    })  # fmt: skip
    y = np.where((X["size (m)"] > 0) ^ (X["word"] == "x"), "yes", "no")
    X.loc[::7, "size (m)"] = np.nan
    X.loc[::9, "word"] = None
    return X, y


@pytest.mark.filterwarnings("ignore:Columns are left out")
@pytest.mark.parametrize("categories", ["onehot", "ordinal"])
def test_table(categories, make, tmp_path):
    X, y = table()
    prepared = TablePreprocessing(categories=categories)
    clf = make(meta="none", student_preprocessing=prepared, max_epochs=10).fit(X, y)
    export_student(clf, tmp_path / "model.onnx", X)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    unseen = X.assign(word=np.where(X["old"], "unseen", X["word"]))
    for given in (X, unseen):
        names = [entry.name for entry in session.get_inputs()]
        feed = {name: entry.values for name, entry in zip(names, inputs_of(given), strict=True)}
        label, probabilities = session.run(["label", "probabilities"], feed)
        np.testing.assert_allclose(probabilities, clf.predict_proba(given), atol=1e-5)
        np.testing.assert_array_equal(label, clf.predict(given))


def fed(path, X):
    """Return the labels and probabilities of a file for a frame as pandas holds it."""
    session = onnxruntime.InferenceSession(path)
    feed = {given.name: X[[name]].to_numpy() for given, name in zip(session.get_inputs(), X, strict=True)}
    return session.run(["label", "probabilities"], feed)


def words_and_file(make, tmp_path, categories="onehot", word="y"):
    """Return a fit on numbers and words with gaps, the rows, and its file."""
    X, y = table()
    X = X[["size (m)", "word"]]
    X.loc[3::8, "word"] = word
    prepared = TablePreprocessing(categories=categories)
    clf = make(meta="none", student_preprocessing=prepared, max_epochs=5).fit(X, y)
    export_student(clf, tmp_path / "model.onnx", X)
    return clf, X, tmp_path / "model.onnx"


@pytest.mark.parametrize("categories", ["onehot", "ordinal"])
def test_missing_words_as_pandas_holds_them(categories, make, tmp_path):
    clf, X, path = words_and_file(make, tmp_path, categories)
    lacking = X.assign(word=None)
    expected, label = clf.predict_proba(lacking), clf.predict(lacking)
    # Else the test could not tell a missing word from an unknown one.
    assert np.abs(expected - clf.predict_proba(X.assign(word="unseen"))).max() > 1e-3
    for missing in ["", "nan", "NaN", "None", "NaT", "<NA>", np.nan, None, pd.NA, pd.NaT]:
        given = X.assign(word=pd.Series([missing] * len(X), index=X.index, dtype=object))
        found = fed(path, given)
        np.testing.assert_allclose(found[1], expected, atol=1e-5, err_msg=repr(missing))
        np.testing.assert_array_equal(found[0], label)
    for kind in (object, "string", "category"):
        given = X.astype({"word": kind})
        found = fed(path, given)
        np.testing.assert_allclose(found[1], clf.predict_proba(given), atol=1e-5, err_msg=str(kind))
        np.testing.assert_array_equal(found[0], clf.predict(given))


def test_a_learned_category_is_not_missing(make, tmp_path):
    clf, X, path = words_and_file(make, tmp_path, word="None")
    given = X.assign(word="None")
    _, probabilities = fed(path, given)
    np.testing.assert_allclose(probabilities, clf.predict_proba(given), atol=1e-5)
    assert np.abs(probabilities - clf.predict_proba(X.assign(word=None))).max() > 1e-3


def test_objects_that_are_numbers(make, tmp_path):
    """Columns of True and False with gaps, in each type of pandas that holds them, and other numbers."""
    X, _ = table()
    y = np.where(X["old"], "yes", "no")
    gaps = np.arange(len(X)) % 11 == 0
    old = X["old"].astype(object).mask(gaps, np.nan)
    exact = pd.Series([None if out else Decimal(int(v)) for v, out in zip(X["old"], gaps, strict=True)])
    X = pd.DataFrame({
        "size (m)": X["size (m)"], "object": old, "boolean": old.astype("boolean"),
        "category": old.astype("category"), "exact": exact, "none": old.where(~gaps, None),
    })  # fmt: skip
    assert X["none"].dtype == X["exact"].dtype == X["object"].dtype == object
    clf = make(meta="none", student_preprocessing="auto", max_epochs=5).fit(X, y)
    export_student(clf, tmp_path / "model.onnx", X)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    assert {given.type for given in session.get_inputs()} == {"tensor(double)"}
    label, probabilities = fed(tmp_path / "model.onnx", X.astype(float))
    np.testing.assert_allclose(probabilities, clf.predict_proba(X), atol=1e-5)
    np.testing.assert_array_equal(label, clf.predict(X))


def test_a_column_that_is_refused_is_named_with_a_remedy():
    X = pd.DataFrame({"size": [1.0, 2.0], "mixed": pd.Series(["a", 1.0], dtype=object)})
    with pytest.raises(
        TypeError, match=r"column 'mixed' .*before fit, write all values of the column as strings"
    ):
        inputs_of(X)
    X["mixed"] = X["mixed"].astype(str)
    assert [given.type_name for given in inputs_of(X)] == ["DoubleTensorType", "StringTensorType"]
    with pytest.raises(
        TypeError, match=r"column 'none' .*holds missing values.*leave the column out before fit"
    ):
        inputs_of(X.assign(none=pd.Series([None, None], dtype=object)))


def test_empty_string_beside_missing_ones(make, tmp_path):
    X, y = table()
    X["word"] = X["word"].replace("y", "")
    clf = make(meta="none", student_preprocessing=TablePreprocessing(min_rows=1), max_epochs=1)
    with pytest.warns(UserWarning, match="left out"):
        clf.fit(X, y)
    with pytest.raises(ValueError, match="the empty string means a missing one"):
        export_student(clf, tmp_path / "model.onnx", X)


def test_rows_are_needed(make, tmp_path):
    X, y = table()
    clf = make(meta="none", student_preprocessing="auto", max_epochs=1)
    with pytest.warns(UserWarning, match="left out"):
        clf.fit(X, y)
    with pytest.raises(ValueError, match="X is needed"):
        export_student(clf, tmp_path / "model.onnx")

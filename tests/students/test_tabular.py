"""TabularStudent: embeddings of codes beside the numbers."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from sklearn_kd import DistilledClassifier, StandardizedStudent, TablePreprocessing, TabularStudent

CATEGORICAL = {1: 12, 3: 3}


@pytest.fixture(scope="module")
def table():
    """The sign of a number of a large scale, turned by whether a code is even; a constant; another code."""
    rng = np.random.default_rng(0)
    code = rng.integers(12, size=600)
    number = rng.normal(size=600)
    X = np.column_stack([1e4 * number, code, np.ones(600), rng.integers(3, size=600)])
    return X, ((number > 0) == (code % 2 == 0)).astype(int)


@pytest.fixture(scope="module")
def fitted(table):
    params = {"student__categorical": CATEGORICAL, "student__hidden": 32, "lr": 0.01}
    return DistilledClassifier(
        None, TabularStudent, meta="none", max_epochs=20, random_state=0, device="cpu", **params
    ).fit(*table)


def test_it_learns_what_a_code_means(fitted, table):
    assert fitted.score(*table) > 0.95


def test_codes_are_left_as_they_are_by_the_layer(fitted, table):
    student = fitted.student_
    assert isinstance(student, StandardizedStudent)
    rows = torch.tensor(table[0], dtype=torch.float32)
    scaled = student.scaling(rows)
    torch.testing.assert_close(scaled[:, [1, 3]], rows[:, [1, 3]], rtol=0, atol=0)
    assert scaled[:, 0].std() == pytest.approx(1.0, abs=0.1)


def test_what_is_no_code_is_unknown():
    student = TabularStudent(2, 3, {1: 4}, hidden=5)
    row = torch.tensor([[0.5, 0.0]])
    answers = [
        student(row.index_fill(1, torch.tensor(1), value)) for value in (4, 99, -1, 1.5, torch.nan, 1e30)
    ]
    assert all(torch.equal(answer, answers[0]) for answer in answers)
    assert not torch.equal(student(row), answers[0])
    # It starts at zero: as if the column were not there.
    assert not student.embedding.weight[4].any() and student.embedding.weight[:4].any(dim=1).all()


def test_integers_are_looked_up_too():
    student = TabularStudent(3, 2, {0: 7, 2: 3})
    codes = torch.tensor([[3, 100, 2], [6, -5, 0]])
    torch.testing.assert_close(student(codes), student(codes.float()), rtol=0, atol=0)


@pytest.mark.parametrize("categorical", [None, {}])
def test_without_codes_it_is_a_perceptron(categorical):
    student = TabularStudent(3, 2, categorical, hidden=4)
    assert student(torch.ones(5, 3)).shape == (5, 2) and not hasattr(student, "embedding")


@pytest.mark.parametrize(
    "categorical, error",
    [
        ({3: 2}, ValueError),
        ({-1: 2}, ValueError),
        ({0: 0}, ValueError),
        ({0: 2**24 + 1}, ValueError),
        ([2], TypeError),
    ],
)
def test_wrong_columns_and_cardinalities(categorical, error):
    with pytest.raises(error, match="TabularStudent: categorical"):
        TabularStudent(3, 2, categorical)


def test_a_file_holds_it_without_code(fitted, table, tmp_path):
    fitted.save(tmp_path / "clf.safetensors")
    again = DistilledClassifier.load(tmp_path / "clf.safetensors")
    assert again.get_params()["student__categorical"] == CATEGORICAL
    np.testing.assert_array_equal(again.predict_proba(table[0]), fitted.predict_proba(table[0]))


def test_weights_are_exported_for_a_fresh_module(fitted, table, tmp_path):
    load_model = pytest.importorskip("safetensors.torch").load_model
    fitted.export_student(tmp_path / "student.safetensors")
    fresh = StandardizedStudent(TabularStudent(4, 2, CATEGORICAL, 32), n_features=4).eval()
    load_model(fresh, tmp_path / "student.safetensors")
    rows = torch.tensor(table[0], dtype=torch.float32)
    torch.testing.assert_close(fresh(rows), fitted.student_(rows), rtol=0, atol=0)


def test_onnx_of_the_table_as_it_is(fitted, table, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    fitted.export_student(tmp_path / "student.onnx")
    session = runtime.InferenceSession(tmp_path / "student.onnx")
    rows = table[0][:9].astype(np.float32)
    rows[0, 1] = 99  # unknown
    (logits,) = session.run(None, {"X": rows})
    with torch.no_grad():
        torch.testing.assert_close(
            torch.tensor(logits), fitted.student_(torch.tensor(rows)), rtol=1e-4, atol=1e-5
        )
    assert json.loads(session.get_modelmeta().custom_metadata_map["input_shape"]) == [4]


def test_a_student_of_ones_own_names_its_codes(table):
    class Own(nn.Module):
        code_columns = (1, 3)

        def __init__(self, n_classes):
            super().__init__()
            self.embedding, self.linear = nn.Embedding(12, 4), nn.Linear(6, n_classes)

        def forward(self, x):
            assert torch.equal(x[:, 1], x[:, 1].round()) and bool(x[:, 0].abs().max() <= 5)
            return self.linear(torch.cat([self.embedding(x[:, 1].long()), x[:, [0, 2]]], dim=1))

    clf = DistilledClassifier(None, Own, meta="none", max_epochs=2, random_state=0, device="cpu").fit(*table)
    assert clf.student_.scaling.bounds.tolist() == [5, np.inf, 5, np.inf]


@pytest.mark.parametrize("preprocessing", ["auto", TablePreprocessing(categories="ordinal")])
def test_preprocessing_tells_it_the_codes(preprocessing, tmp_path):
    rng = np.random.default_rng(0)
    X = pd.DataFrame({"number": rng.normal(size=400), "word": rng.choice(list("abcdefgh"), 400)})
    y = (X["number"] > 0) == X["word"].isin(list("aceg"))
    X.loc[::9, "word"] = None
    params = {"student_preprocessing": preprocessing, "lr": 0.01, "random_state": 0, "device": "cpu"}
    clf = DistilledClassifier(None, TabularStudent, meta="none", max_epochs=20, **params).fit(
        X[:300], y[:300]
    )
    own = clf.student_.student
    assert own.code_columns == (1,) and own.embedding.num_embeddings == 8 + 2 + 1  # rare, missing; unknown
    assert clf.score(X[300:], y[300:]) > 0.8
    clf.save(tmp_path / "clf.safetensors")
    again = DistilledClassifier.load(tmp_path / "clf.safetensors")
    np.testing.assert_array_equal(again.predict_proba(X), clf.predict_proba(X))
    assert "student__categorical" not in again.get_params()

"""Teachers in ONNX files, as torch and sklearn-onnx write them."""

import builtins
import json
import pickle
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.sparse import csr_matrix
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import MaxAbsScaler, StandardScaler

from sklearn_kd import compare_methods, distillation_report
from sklearn_kd.inputs._data import DistillationData
from sklearn_kd.teachers import OnnxTeacher, _onnx
from sklearn_kd.teachers._registry import make_teacher

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

NAMES = np.array([f"digit {i}" for i in range(10)])
FLOAT, INT64, STRING = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING


@pytest.fixture(scope="module")
def model(digits):
    return LogisticRegression(max_iter=200).fit(digits[0], digits[1])


def written(path, model, *, batch="n", output="softmax", labels=None, zipmap=False, metadata=None):
    """Write the model as ONNX: scores or probabilities, with labels beside them as sklearn-onnx does."""
    n_features, n_classes = model.coef_.shape[1], len(model.classes_)
    weights = [
        numpy_helper.from_array(model.coef_.T.astype(np.float32), "W"),
        numpy_helper.from_array(model.intercept_.astype(np.float32), "b"),
    ]
    nodes = [helper.make_node("Gemm", ["X", "W", "b"], ["logits"])]
    scores = "logits"
    if output == "softmax":
        nodes.append(helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1))
        scores = "probabilities"
    outputs = [helper.make_tensor_value_info(scores, FLOAT, [batch, n_classes])]
    if labels is not None:
        kind = STRING if isinstance(labels[0], str) else INT64
        values = [label.encode() if kind == STRING else label for label in labels]
        weights.append(helper.make_tensor("labels", kind, [n_classes], values))
        nodes.append(helper.make_node("ArgMax", [scores], ["place"], axis=1, keepdims=0))
        nodes.append(helper.make_node("Gather", ["labels", "place"], ["label"]))
        outputs.insert(0, helper.make_tensor_value_info("label", kind, [batch]))
    if zipmap:
        nodes.append(
            helper.make_node("ZipMap", [scores], ["zipped"], domain="ai.onnx.ml", classlabels_strings=zipmap)
        )
        outputs[-1] = helper.make_value_info(
            "zipped", helper.make_sequence_type_proto(
                helper.make_map_type_proto(STRING, helper.make_tensor_type_proto(FLOAT, []))
            )
        )  # fmt: skip
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("X", FLOAT, [batch, n_features])], outputs, weights
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    made = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    if metadata:
        helper.set_model_props(made, metadata)
    onnx.save(made, str(path))
    return str(path)


def logits_of(teacher, X, classes, stated=None):
    wrapped = make_teacher(teacher, stated)
    rows = torch.as_tensor(np.zeros((len(X), 1), np.float32) if hasattr(X, "columns") else X)
    return torch.cat([*wrapped.iter_logits(X, DistillationData(rows), classes, 512)]).numpy()


def test_a_file_equals_its_model(make, digits, model, tmp_path):
    X, y = digits
    path = written(tmp_path / "m.onnx", model)
    expected = make(None, meta="linear").fit(X, y, teacher_logits=model.predict_log_proba(X)).predict_proba(X)
    session = onnxruntime.InferenceSession(path)
    for teacher in (path, Path(path), OnnxTeacher(path), OnnxTeacher(Path(path).read_bytes()), session):
        clf = make(teacher, meta="linear", keep_teacher=True).fit(X, y)
        np.testing.assert_allclose(clf.predict_proba(X), expected, atol=1e-4)
        assert clf.teacher_ is teacher and clone(clf).teacher is teacher
    pickle.loads(pickle.dumps(make(path).fit(X, y)))
    pickle.loads(pickle.dumps(make_teacher(path)))  # to other processes
    compare_methods(make(path), X, y, methods=("none", "naive"), cv=2, random_state=0)


def test_one_input_of_floats_is_asked_about_batches(make, digits, model, tmp_path):
    path = written(tmp_path / "m.onnx", model, output="logits")
    make(path, augment=lambda x: x + 0.01).fit(*digits)


WRITTEN = {
    "labels": {"labels": NAMES.tolist()},
    "zipmap": {"zipmap": NAMES.tolist()},
    "metadata": {"metadata": {"classes": str(NAMES.tolist()).replace("'", '"')}},
}


@pytest.mark.parametrize("what", WRITTEN)
def test_classes_that_the_file_says(what, digits, model, tmp_path):
    X, _ = digits
    path = written(tmp_path / "m.onnx", model, **WRITTEN[what])
    some = NAMES[[7, 2]]
    np.testing.assert_allclose(logits_of(path, X, some), model.predict_log_proba(X)[:, [7, 2]], atol=1e-3)
    with pytest.raises(ValueError, match=r"contradicts teacher m\.onnx, whose classes_"):
        logits_of(path, X, some, NAMES[::-1].tolist())


def test_classes_that_the_user_says(digits, model, tmp_path):
    X, _ = digits
    path = written(tmp_path / "m.onnx", model, labels=list(range(10)))
    some = NAMES[[7, 2]]
    expected = model.predict_log_proba(X)[:, [7, 2]]
    for teacher, stated in ((path, NAMES.tolist()), (OnnxTeacher(path, classes=NAMES), None)):
        np.testing.assert_allclose(logits_of(teacher, X, some, stated), expected, atol=1e-3)
    with pytest.raises(ValueError, match="does not know the class"):
        logits_of(path, X, some)
    path = written(tmp_path / "n.onnx", model, labels=NAMES.tolist())
    with pytest.raises(ValueError, match="which column is which class is not known"):
        logits_of(path, X[:3], NAMES)  # too few rows to see all labels


def test_one_input_for_each_column(model, tmp_path):
    """As sklearn-onnx makes for data frames: numbers and strings, in any order."""
    inputs = [
        helper.make_tensor_value_info(name, kind, ["n", 1])
        for name, kind in (("age", FLOAT), ("town", STRING))
    ]
    nodes = [
        helper.make_node("Concat", ["age", "age"], ["logits"], axis=1),
        helper.make_node("Identity", ["town"], ["echo"]),
    ]
    outputs = [
        helper.make_tensor_value_info("logits", FLOAT, ["n", 2]),
        helper.make_tensor_value_info("echo", STRING, ["n", 1]),
    ]
    graph = helper.make_graph(nodes, "g", inputs, outputs)
    path = str(tmp_path / "m.onnx")
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    frame = pd.DataFrame({"town": ["Ulm", "Bern"], "age": [3, 4]})
    np.testing.assert_array_equal(logits_of(path, frame, np.arange(2)), [[3, 3], [4, 4]])
    with pytest.raises(ValueError, match=r"has 2 inputs, and X has no \['age'\]. Give fit a data frame with"):
        logits_of(path, frame[["town"]], np.arange(2))
    with pytest.raises(ValueError, match="has 2 inputs, and X names no columns"):
        logits_of(path, np.zeros((2, 2), np.float32), np.arange(2))
    frame["age"] = ["three", "four"]
    with pytest.raises(
        ValueError, match=r"its input 'age' takes tensor\(float\), but X cannot be converted to it"
    ):
        logits_of(path, frame, np.arange(2))


def test_wrong_files(make, digits, model, tmp_path, monkeypatch):
    X, y = digits
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    one = written(tmp_path / "one.onnx", model, batch=1)
    small = LogisticRegression(max_iter=200).fit(X[:, :3], y)
    narrow = written(tmp_path / "narrow.onnx", small)
    for teacher, error, match in (
        (str(tmp_path / "none.onnx"), FileNotFoundError, "there is no file"),
        (str(broken), ValueError, "ONNX Runtime cannot load"),
        (OnnxTeacher(3), TypeError, "model of type int must be the path"),
        (one, ValueError, r"takes 1 row\(s\) at a time. Export it with a batch dimension"),
        (narrow, ValueError, r"takes samples of shape \(3,\), and X has samples of shape \(64,\)"),
    ):
        with pytest.raises(error, match=match):
            make(teacher).fit(X, y)

    found = builtins.__import__
    monkeypatch.delitem(sys.modules, "onnxruntime")
    monkeypatch.setattr(
        builtins,
        "__import__",
        lambda name, *a, **k: found("no_such_package" if name == "onnxruntime" else name, *a, **k),
    )
    with pytest.raises(ImportError, match="pip install onnxruntime"):
        make(one).fit(X, y)


def test_what_sklearn_onnx_writes(make, digits, model, tmp_path):
    skl2onnx = pytest.importorskip("skl2onnx")
    X, y = digits
    named = LogisticRegression(max_iter=200).fit(X, NAMES[y])
    for options in (None, {id(named): {"zipmap": False}}):
        path = tmp_path / "m.onnx"
        path.write_bytes(skl2onnx.to_onnx(named, X[:1], options=options).SerializeToString())
        np.testing.assert_allclose(logits_of(path, X, NAMES), named.predict_log_proba(X), atol=1e-3)


def test_a_file_without_answers_or_with_several(digits, model, tmp_path):
    made = onnx.load(written(tmp_path / "m.onnx", model, labels=NAMES.tolist()))
    _, probabilities = made.graph.output
    made.graph.output.remove(probabilities)
    with pytest.raises(ValueError, match="none may be the logits or the probabilities"):
        make_teacher(OnnxTeacher(made.SerializeToString()))
    logits = helper.make_tensor_value_info("logits", FLOAT, ["n", 10])
    made.graph.output.extend([logits, probabilities])  # told apart by their names
    found = logits_of(OnnxTeacher(made.SerializeToString()), digits[0], NAMES)
    np.testing.assert_allclose(found, model.decision_function(digits[0]), atol=1e-4)
    made.graph.node.append(helper.make_node("Neg", ["logits"], ["other_logits"]))
    made.graph.output.append(helper.make_tensor_value_info("other_logits", FLOAT, ["n", 10]))
    made.graph.output.remove(probabilities)
    with pytest.raises(ValueError, match="more than one may be the logits"):
        make_teacher(OnnxTeacher(made.SerializeToString()))


def test_it_sees_x_and_not_what_student_preprocessing_makes(make, digits, model, tmp_path, monkeypatch):
    """Alone and in a list; by the scaled rows its logits would be others."""
    X, y = digits
    path = written(tmp_path / "model.onnx", model)
    settings = {"student_preprocessing": StandardScaler(), "meta": "fixed", "lambda1": 0.0}
    expected = make(None, **settings).fit(X, y, teacher_logits=model.decision_function(X)).predict_proba(X)
    for teacher in (path, [path], [path, lambda X: model.decision_function(X)]):
        clf = make(teacher, **settings).fit(X, y)
        np.testing.assert_allclose(clf.predict_proba(X), expected, atol=1e-3)
    compared = compare_methods(
        make(path, **settings), X, y, methods=["fixed"], baseline="fixed", cv=2, n_seeds=1
    )
    assert compared.results_["accuracy"].mean() > 0.5
    scaled = {**settings, "student_preprocessing": MaxAbsScaler()}
    expected = make(None, **scaled).fit(X, y, teacher_logits=model.decision_function(X)).predict_proba(X)
    monkeypatch.setattr(_onnx, "_DENSE_ROWS", 150)
    clf = make(path, **scaled).fit(csr_matrix(X), y)
    np.testing.assert_allclose(clf.predict_proba(csr_matrix(X)), expected, atol=1e-3)
    row = distillation_report(make(path, **settings).fit(X, y), X, y, timing=False).to_dict()
    assert row["models"]["teacher"]["accuracy"] == model.score(X, y)


@pytest.mark.parametrize("says", ["labels", "metadata"])
def test_stated_classes_in_another_order_than_the_files(says, digits, model, tmp_path):
    X, names = digits[0], NAMES.tolist()
    own = {"labels": names} if says == "labels" else {"metadata": {"classes": json.dumps(names)}}
    path = written(tmp_path / "model.onnx", model, **own)
    with pytest.raises(ValueError, match="are in another order than the classes of the file's columns"):
        logits_of(OnnxTeacher(path, classes=names[::-1]), X, NAMES)
    with pytest.raises(TypeError, match=r"providers='CPU' must be a list of names: \['CPU'\]"):
        logits_of(OnnxTeacher(path, providers="CPU"), X, NAMES)
    with pytest.raises(TypeError, match="OnnxTeacher: classes is a set"):
        logits_of(OnnxTeacher(path, classes=set(names)), X, NAMES)
    with pytest.raises(TypeError, match=r"as sklearn_kd.teachers.OnnxTeacher\(bytes\)"):
        logits_of(Path(path).read_bytes(), X, NAMES)


def test_a_report_on_few_rows_knows_the_labels_that_fit_has_found(make, digits, model, tmp_path):
    X, y = digits
    path = written(tmp_path / "model.onnx", model, labels=NAMES.tolist())
    for keep_teacher in (False, True):
        clf = make(path, keep_teacher=keep_teacher).fit(X, NAMES[y])
        teacher = distillation_report(clf, X[:2], NAMES[y[:2]], timing=False).to_dict()["models"]["teacher"]
        assert teacher["accuracy"] == 1 and teacher["model"] == "model.onnx"
        assert teacher["n_bytes"] == Path(path).stat().st_size

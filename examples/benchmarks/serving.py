"""Measure the time of an answer on a server: a distilled Pipeline, its ONNX file, and its teacher, a forest.

A forest of 300 trees teaches a student of 64 units behind a ``StandardScaler``. Four ways to predict the
probabilities of the same rows take turns, call by call: ``predict_proba`` of the Pipeline, ONNX Runtime with
the file of ``export_student``, ``predict_proba`` of the forest, and ONNX Runtime with skl2onnx's file of the
forest. The results are the smallest, the median and the 99th percentile of the thread's CPU time in
microseconds, for one row and for 1,000; the size of each on disk; and its accuracy on unseen rows. ONNX
Runtime and torch have one thread. ``other_load`` is the load average of the minute before.

Run: python examples/benchmarks/serving.py [--quick] [--table] [--out NAME]
"""

from __future__ import annotations

import os
import pickle
import tempfile
import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import skl2onnx
from _measure import options, read, replace_tables, rst_table, write
from predict import in_turns
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_kd import DistilledClassifier, MLPStudent, export_student

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "serving.rst"
TABLES = {"digits": load_digits, "breast cancer": load_breast_cancer}
N_TREES, N_ROWS = 300, 1000
CALLS = {"one_row": (1, 400), "1000_rows": (N_ROWS, 40)}  # rows, calls
NAMES = {
    "predict_proba": "Pipeline, ``predict_proba``", "onnx": "Pipeline, ONNX Runtime",
    "forest": "forest, ``predict_proba``", "forest_onnx": "forest, ONNX Runtime",
}  # fmt: skip


def main() -> None:
    """Measure, and write the record; or write its table into the page."""
    chosen = options(__doc__)
    if chosen.table:
        replace_tables(PAGE, {"serving 0": table(read(__file__))})
        return
    found = [of_table(name, load, chosen.quick) for name, load in TABLES.items()]
    write({"trees": N_TREES, "tables": found}, __file__, chosen)


def of_table(name: str, load, quick: bool) -> dict:
    """Measure the models of one table."""
    X, y = load(return_X_y=True)
    X = X.astype(np.float32)
    X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.3, stratify=y, random_state=0)
    forest = RandomForestClassifier(N_TREES, random_state=0).fit(X_train, y_train)
    clf = DistilledClassifier(
        FrozenEstimator(forest), MLPStudent, student__hidden=64, meta="fixed", max_epochs=5 if quick else 100,
        device="cpu", random_state=0,
    )  # fmt: skip
    # The forest is fitted on the columns as they are: what it is asked must not be scaled.
    teacher_logits = np.log(np.clip(forest.predict_proba(X_train), 1e-6, 1)).astype(np.float32)
    pipe = make_pipeline(StandardScaler(), clf.set_params(teacher=None))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it need not converge
        pipe.fit(X_train, y_train, distilledclassifier__teacher_logits=teacher_logits)
    ask, sizes = contenders(pipe, forest, X_test)
    row = {"table": name, "other_load": os.getloadavg()[0], "bytes": sizes}
    row["accuracy"] = {key: float((ask[key](X_test).argmax(axis=1) == y_test).mean()) for key in ask}
    many = np.resize(X_test, (N_ROWS, X.shape[1]))
    for part, (n_rows, n_calls) in CALLS.items():
        row[part] = in_turns(ask, many[:n_rows], max(4, n_calls // 50) if quick else n_calls)
    print(row, flush=True)
    return row


def contenders(pipe, forest, X: np.ndarray) -> tuple[dict, dict]:
    """Return functions from rows to probabilities, and the bytes of each on disk."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "student.onnx"
        export_student(pipe, path, X)
        files = {"onnx": path.read_bytes()}
    options = {id(forest): {"zipmap": False}}
    model = skl2onnx.to_onnx(forest, X[:1], options=options, target_opset={"": 20, "ai.onnx.ml": 3})
    files["forest_onnx"] = model.SerializeToString()
    ask = {"predict_proba": pipe.predict_proba, "onnx": session(files["onnx"]),
           "forest": forest.predict_proba, "forest_onnx": session(files["forest_onnx"])}  # fmt: skip
    files |= {"predict_proba": pickle.dumps(pipe), "forest": pickle.dumps(forest)}
    return ask, {key: len(files[key]) for key in ask}


def session(content: bytes):
    """Return a function from rows to probabilities, on one thread."""
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    found = onnxruntime.InferenceSession(content, settings, providers=["CPUExecutionProvider"])
    return lambda rows: found.run(["probabilities"], {"X": rows})[0]


def table(record: dict) -> str:
    """Return the table of the page."""
    header = ["table: model", "accuracy", "one row, µs", "1,000 rows, µs a row", "kB"]
    rows = []
    for found in record["tables"]:
        for key, text in NAMES.items():
            one, many = found["one_row"][key], found["1000_rows"][key]
            rows.append([
                f"{found['table']}: {text}", f"{found['accuracy'][key]:.3f}",
                f"{one['p50']:,.0f} ({one['p99']:,.0f})", f"{many['p50'] / N_ROWS:.2f}",
                f"{found['bytes'][key] / 1000:,.0f}",
            ])  # fmt: skip
    return rst_table(header, rows)


if __name__ == "__main__":
    main()

"""Export: a forest distilled into a file that answers without Python's packages
==============================================================================

A forest of 300 trees is accurate and slow to ask for a single row. A student distilled from it is written
with its preprocessing as one file of ONNX, checked, and timed beside the forest.
"""

import json
import pickle
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime
import pandas as pd
from matplotlib import pyplot as plt
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_kd import DistilledClassifier, MLPStudent, export_student

# %%
# Train
# -----
# The student is the last step of a Pipeline, as it often is. Its teacher, the forest, is fitted on the scaled
# columns.

X, y = load_digits(return_X_y=True)
X = X.astype(np.float32)
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.3, stratify=y, random_state=0)
forest = RandomForestClassifier(n_estimators=300, random_state=0)
student = DistilledClassifier(
    forest, MLPStudent, student__hidden=64, meta="fixed", max_epochs=60, keep_teacher=True, device="cpu",
    random_state=0,
)  # fmt: skip
pipe = make_pipeline(StandardScaler(), student).fit(X_train, y_train)
whole_forest = make_pipeline(pipe[0], pipe[-1].teacher_)

# %%
# Export
# ------
# The rows say which type the input has, float32 here, and are what ONNX Runtime predicts as a check before
# the file is written. Scaling, network, softmax and labels are all in it.

folder = tempfile.TemporaryDirectory()
path = Path(folder.name) / "digits.onnx"
export_student(pipe, path, X_train)

session = onnxruntime.InferenceSession(path)
label, probabilities = session.run(["label", "probabilities"], {"X": X_test})
print(f"labels as those of predict: {bool((label == pipe.predict(X_test)).all())}")
print(f"largest difference of a probability: {abs(probabilities - pipe.predict_proba(X_test)).max():.1e}")
print(f"classes: {json.loads(session.get_modelmeta().custom_metadata_map['classes'])}")

# %%
# Time
# ----
# CPU time of one call, the median of many, on one thread. A server is mostly asked for one row at a time.

settings = onnxruntime.SessionOptions()
settings.intra_op_num_threads = 1
served = onnxruntime.InferenceSession(path, settings)
n_bytes = len(pickle.dumps(make_pipeline(pipe[0], pipe[-1].student_)))  # without teacher and records
models = {
    "forest": (whole_forest.predict_proba, len(pickle.dumps(whole_forest))),
    "student, predict_proba": (pipe.predict_proba, n_bytes),
    "student, ONNX Runtime": (
        lambda rows: served.run(["probabilities"], {"X": rows})[0], path.stat().st_size,
    ),
}  # fmt: skip


def microseconds(ask, rows, n_calls):
    """Return the median time of a call."""
    times = []
    for _ in range(n_calls):
        start = time.thread_time()
        ask(rows)
        times.append(time.thread_time() - start)
    return 1e6 * float(np.median(times))


table = pd.DataFrame({
    name: {
        "accuracy": (ask(X_test).argmax(axis=1) == y_test).mean(),
        "µs, one row": microseconds(ask, X_test[:1], 50),
        "µs a row, of 500": microseconds(ask, X_test[:500], 10) / 500, "kB": size / 1000,
    }
    for name, (ask, size) in models.items()
}).T  # fmt: skip
print(table.to_string(float_format=lambda x: f"{x:.3f}" if x < 1 else f"{x:,.1f}"))

# %%
# Both axes are logarithmic.

figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
for name, row in table.iterrows():
    axes.plot(row["kB"], row["µs, one row"], "o", label=f"{name}: {row['accuracy']:.3f}")
axes.set(xscale="log", yscale="log", xlabel="kB on the disk", ylabel="µs for one row")
axes.legend(title="accuracy on new rows")
plt.show()
folder.cleanup()

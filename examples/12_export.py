"""Export: a forest distilled into a file that answers without Python's packages
==============================================================================

A forest of 300 trees is accurate, and slow where it has to answer for a single row. A student is distilled
from it and written with its preprocessing as one ONNX file. A server needs ONNX Runtime to ask that file,
but neither this library nor scikit-learn nor torch.
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
#
# The student is the last step of a Pipeline, as it often is. Its teacher, the forest, is fitted inside
# ``fit`` on the scaled columns, and kept to be compared below.

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
#
# ``export_student`` writes scaling, network, softmax and labels into one file. It takes the type of the input
# from the rows that it gets, float32 here. Before it writes the file, it compares ONNX Runtime's predictions
# for these rows with the Pipeline's. The output compares them once more, on the test rows.

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
#
# A server is mostly asked for one row at a time. The table has the CPU time of one call on one thread, the
# median of many.

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
# Both axes of the figure are logarithmic: down and to the left is better.

STYLES = {
    "forest": ("s", "#6b7280", (-12, -5), "right"),
    "student, predict_proba": ("o", "#d55e00", (12, -5), "left"),
    "student, ONNX Runtime": ("*", "#d55e00", (12, -5), "left"),
}
figure, axes = plt.subplots(layout="constrained")
for name, (marker, color, shift, side) in STYLES.items():
    place = table.loc[name, "kB"], table.loc[name, "µs, one row"]
    axes.plot(*place, marker, color=color, markersize=14 if marker == "*" else 10)
    axes.annotate(
        f"{name}\naccuracy {table.loc[name, 'accuracy']:.3f}", place, shift, textcoords="offset points",
        ha=side, va="center",
    )  # fmt: skip
axes.set(xscale="log", yscale="log", xlim=(10, 40_000), ylim=(3, 60_000), xlabel="size of the file, kB")
axes.set(ylabel="CPU time for one row, µs", title="A forest as an ONNX file")
plt.show()
folder.cleanup()

# %%
# What it shows
# -------------
#
# The ONNX file answers as the Pipeline does, up to rounding. It is hundreds of times smaller than the
# forest, and answers for a row in less than a hundredth of the time. Most of the time of ``predict_proba``
# goes into Python around the network, which the file does not need. The student is no less accurate than its
# forest on these 540 rows; that is one division of the digits.

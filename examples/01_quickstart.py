"""Quickstart: a forest distilled into a small network
===================================================

Compare six ways to choose the metaparameters by cross-validation inside a Pipeline. The table also shows
how much smaller the student is. The path of the learned metaparameters is saved as a picture beside this
file.
"""

import pickle
import sys
from pathlib import Path

import matplotlib
import pandas as pd
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import StratifiedKFold, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_kd import DistilledClassifier, MetaparameterPathDisplay, MLPStudent

matplotlib.use("Agg")
X, y = load_digits(return_X_y=True)
forest = RandomForestClassifier(n_estimators=100, random_state=0)
folds = StratifiedKFold(5, shuffle=True, random_state=0)


def distilled(meta):
    """Scale, then distil the forest (fitted in each fold, on D_train only) into an MLP."""
    student = DistilledClassifier(forest, MLPStudent, student__hidden=64, meta=meta, random_state=0)
    return make_pipeline(StandardScaler(), student)


rows, models = [], {"the forest itself": forest}
models |= {meta: distilled(meta) for meta in ("none", "naive", "random", "gradient", "linear", "hyperopt")}
for name, model in models.items():
    scores = cross_validate(model, X, y, cv=folds, return_estimator=True)
    accuracy, last = scores["test_score"], scores["estimator"][-1]
    if model is forest:  # a threshold or a leaf's counts per node
        parameters, size = sum(tree.tree_.node_count for tree in last), len(pickle.dumps(last))
    else:
        parameters = sum(w.numel() for w in last[-1].student_.parameters())
        size = len(pickle.dumps(last[-1].student_))
    rows.append({
        "model": name, "accuracy": accuracy.mean(), "sd": accuracy.std(ddof=1),
        "fit seconds": scores["fit_time"].mean(), "parameters": parameters, "kB": size / 1000,
    })  # fmt: skip
    if name == "linear":
        learned = last[-1]
    print(f"{name}: {accuracy.mean():.3f}", file=sys.stderr)

table = pd.DataFrame(rows).set_index("model")
print(table.to_string(float_format=lambda x: f"{x:.3f}" if x < 1 else f"{x:,.1f}"))
picture = Path(sys.argv[0]).with_suffix(".png")
MetaparameterPathDisplay.from_estimator(learned, name="linear").figure_.savefig(picture, dpi=120)
print(f"lambda1 ended at {learned.lambda1_:.2f}, T at {learned.temperature_:.2f}; path: {picture.name}")

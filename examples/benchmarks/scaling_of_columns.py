"""Compare ways of scaling the columns of tables, by the accuracy of a student trained on labels alone.

  as they come      ``standardize=False``
  StandardScaler    before the student, fitted on the training rows
  RobustScaler      the same, limited to ±5
  standardize       ``standardize=True``, the library's own layer

There are two real tables with unscaled columns, and generated ones of 3,000 rows, 20 columns and four
classes, changed as their names say. 30 % of the rows are test rows; split and initial weights differ by seed.
The rule of the layer was chosen on other splits of these tables.

    python examples/benchmarks/scaling_of_columns.py --table    # about 3 minutes

The runs are kept in scaling_of_columns.json beside this file; a script that was stopped resumes. ``--table``
writes the table into docs/guide/students.rst.
"""

from __future__ import annotations

import sys
import warnings
from itertools import product
from pathlib import Path

import numpy as np
from _measure import replace_tables, use_process_settings
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.datasets import load_breast_cancer, load_wine, make_classification
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import RobustScaler, StandardScaler

from sklearn_kd import DistilledClassifier, MLPStudent

sys.path.append(str(Path(__file__).parents[1] / "paper"))
from _protocol import Runs, arguments, list_table, mean_sd

PAGE = Path(__file__).parents[2] / "docs" / "guide" / "students.rst"


def made():
    """Return 20 columns of about unit variance, and four classes."""
    return make_classification(
        3000, 20, n_informative=10, n_classes=4, n_clusters_per_class=2, flip_y=0.05, random_state=0
    )


def outliers():
    """Return the generated table with ±1e6 in 0.2 % of its cells."""
    X, y = made()
    rng = np.random.default_rng(0)
    return np.where(rng.random(X.shape) < 0.002, rng.choice([-1e6, 1e6], X.shape), X), y


def rare():
    """Return the generated table beside 30 uninformative columns of 0 and 1, of which 2 % are 1."""
    X, y = made()
    return np.hstack([X, np.random.default_rng(0).random((len(X), 30)) < 0.02]), y


def counts():
    """Return counts, most of them 0; the logarithms of their expectations are the generated columns."""
    X, y = made()
    return np.random.default_rng(0).poisson(np.exp(0.8 * X - 1.5)).astype(float), y


TABLES = {
    "breast cancer": lambda: load_breast_cancer(return_X_y=True),
    "wine": lambda: load_wine(return_X_y=True),
    "made": made,
    "made, ±1e6 in 0.2 %": outliers,
    "made, exp(2x)": lambda: (np.exp(2 * made()[0]), made()[1]),
    "made, 30 rare binary columns more": rare,
    "sparse counts": counts,
}
AS_IT_IS, LAYER = "as they come", "standardize"
WAYS = {
    AS_IT_IS: lambda: [],
    "StandardScaler": lambda: [StandardScaler()],
    "RobustScaler, ±5": lambda: [RobustScaler(), Limit()],
    LAYER: lambda: [],
}


class Limit(TransformerMixin, BaseEstimator):
    """Limit all values to ±5."""

    def fit(self, X, y=None):
        """Do nothing."""
        return self

    def transform(self, X):
        """Return the values within the limit."""
        return np.clip(X, -5, 5)


def one_run(table, way, seed):
    """Return the accuracy of a student on test rows."""
    X, y = TABLES[table]()
    X, X_test, y, y_test = train_test_split(X, y, test_size=0.3, stratify=y, random_state=seed)
    clf = DistilledClassifier(
        None, MLPStudent, meta="none", standardize=way == LAYER, random_state=seed, device="cpu"
    )
    model = make_pipeline(*WAYS[way](), clf)
    with warnings.catch_warnings():  # the learner says so itself where it learns nothing
        warnings.simplefilter("ignore")
        return {"accuracy": round(float(model.fit(X, y).score(X_test, y_test)), 5)}


def table_of(runs):
    """Return the table: mean ± standard deviation of the accuracy over seeds."""
    found = {}
    for run in runs:
        setting = run["setting"]
        found.setdefault((setting["table"], setting["way"]), []).append(run["accuracy"])
    rows = [[table, *(mean_sd(found[table, way]) for way in WAYS)] for table in TABLES]
    return list_table(["", *WAYS], rows)


def tables(record):
    """Return the table of the documentation, by the mark above it."""
    return {"scaling of columns": table_of(record["runs"])}


def main():
    options = arguments(
        __doc__, __file__, runs=5, length=("epochs", None), quick=(1, 2),
        table={"action": "store_true", "help": "write the table into the documentation"},
    )  # fmt: skip
    use_process_settings()
    runs = Runs.of_script(options, {})
    wanted = [
        {"table": table, "way": way, "seed": seed}
        for seed, table, way in product(range(200, 200 + options.runs), TABLES, WAYS)
    ]
    runs.of(one_run, wanted, options.jobs)
    found = tables({"runs": runs.all()})
    print(*found.values(), sep="\n")
    if options.table:
        replace_tables(PAGE, found)


if __name__ == "__main__":
    main()

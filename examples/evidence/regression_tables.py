"""Compare a network taught by trees on regression tables with the same network alone and with MLPRegressor.

The tables are diabetes, Friedman's three functions (500 rows, noise as below, 2,000 rows for evaluation) and
the logarithm of the price of diamonds (2,000 rows, 8,000 for evaluation), with five seeds of split and
training. The teachers are gradient boosting (HistGradientBoostingRegressor) and a forest of 100 trees, both
with scikit-learn's defaults. The student is an MLP of 64 hidden units. All students have about 800 iterations
of 32 rows, so that more rows do not mean more steps, and otherwise the library's defaults. Nothing is tuned.

The methods are: y alone (meta="none"), and the same with averaged weights; the default, a shortlist of
lambda1, whose student continues after the search or is averaged; the same with a fresh student; the default
with twice as many made-up rows (synthesize=2.0); and hypergradients of lambda1 and of a bound beyond which
the teacher is not followed (meta="linear", loss__teacher_bound=0.5). They are compared with an MLPRegressor
of as many hidden units on standardised X and y: with the students' iterations, batches and rate
("MLPRegressor"), and with its own defaults and early stopping ("MLPRegressor, stopped").

    OMP_NUM_THREADS=1 python examples/evidence/regression_tables.py --diamonds FILE

It prints a table and writes every run, with settings and versions, to regression_tables.json beside this
file. FILE is diamonds.csv of the package plotnine (plotnine/data in its wheel); without it that table is left
out.
"""

import argparse
import json
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import load_diabetes, make_friedman1, make_friedman2, make_friedman3
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import r2_score, root_mean_squared_error
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sklearn_kd import DistilledRegressor, MLPStudent

sys.path.append(str(Path(__file__).parents[1]))
from _provenance import provenance

SEEDS = range(5)
N_ITERATIONS, BATCH_SIZE, N_HIDDEN, SIZE, LR = 800, 32, 64, 2.0, 0.003
FRIEDMAN = {
    "friedman1": (make_friedman1, 1.0),
    "friedman2": (make_friedman2, 125.0),
    "friedman3": (make_friedman3, 0.1),
}
N_ROWS, N_JUDGE = {"diamonds": 2000}, {"diamonds": 8000}
TEACHERS = {"boosting": HistGradientBoostingRegressor, "forest": RandomForestRegressor}
OF_TEACHER = {"forest": {"n_estimators": 100}}
METHODS = {
    "shortlist": {},
    "shortlist, fresh": {"retrain": "fresh"},
    "made-up rows": {"synthesize": SIZE},
    "linear, bounded": {"meta": "linear", "loss__teacher_bound": 0.5},
}
# The default may average the weights; so does the second of these.
ALONE = {"y alone": {}, "y alone, averaged": {"retrain": "average", "search_epochs": None}}
# From the worst to the best.
ORDERED = {
    "cut": ["Fair", "Good", "Very Good", "Premium", "Ideal"],
    "color": list("JIHGFED"),
    "clarity": ["I1", "SI2", "SI1", "VS2", "VS1", "VVS2", "VVS1", "IF"],
}


def rows(name, seed, diamonds):
    """Return (X, X_judge, y, y_judge) of one split."""
    if name == "diabetes":
        return train_test_split(*load_diabetes(return_X_y=True), test_size=0.3, random_state=seed)
    if name in FRIEDMAN:
        make, noise = FRIEDMAN[name]
        X, y = make(2500, noise=noise, random_state=seed)
        return X[:500], X[500:], y[:500], y[500:]
    table = pd.read_csv(diamonds)
    for column, order in ORDERED.items():
        table[column] = table[column].map(order.index)
    X, y = table.drop(columns="price").to_numpy(float), np.log(table["price"].to_numpy(float))
    return train_test_split(X, y, train_size=N_ROWS[name], test_size=N_JUDGE[name], random_state=seed)


def epochs(n_rows):
    return max(1, round(N_ITERATIONS * BATCH_SIZE / n_rows))


def student(X, y, teacher, seed, **params):
    """Fit a student with about as many iterations as the others."""
    n_rows = len(X) * (1 + params.get("synthesize", 0))
    reg = DistilledRegressor(
        teacher, MLPStudent, student__hidden=N_HIDDEN, batch_size=BATCH_SIZE, lr=LR,
        max_epochs=epochs(n_rows), random_state=seed, device="cpu", **params,
    )  # fmt: skip
    return reg.fit(X, y)


def mlp(n_rows, seed, *, stopped):
    """Return scikit-learn's network on standardised X and y."""
    own = {"early_stopping": True, "max_iter": 1000} if stopped else {
        "batch_size": BATCH_SIZE, "learning_rate_init": LR, "max_iter": epochs(n_rows), "alpha": 0.0,
        "n_iter_no_change": 10_000,
    }  # fmt: skip
    net = MLPRegressor(hidden_layer_sizes=(N_HIDDEN,), random_state=seed, **own)
    return TransformedTargetRegressor(make_pipeline(StandardScaler(), net), transformer=StandardScaler())


def run(name, seed, diamonds):
    """Yield a record for each method of one split."""
    X, X_judge, y, y_judge = rows(name, seed, diamonds)

    def record(teacher, method, reg, **further):
        said = reg.predict(X_judge)
        scores = {"r2": float(r2_score(y_judge, said)), "rmse": float(root_mean_squared_error(y_judge, said))}
        return {"table": name, "seed": seed, "teacher": teacher, "method": method} | scores | further

    for stopped, method in ((False, "MLPRegressor"), (True, "MLPRegressor, stopped")):
        yield record("", method, mlp(len(X), seed, stopped=stopped).fit(X, y))
    for method, params in ALONE.items():
        yield record("", method, student(X, y, None, seed, meta="none", **params))
    for kind, make in TEACHERS.items():
        teacher = make(random_state=seed, **OF_TEACHER.get(kind, {}))
        yield record(kind, "the teacher", make(random_state=seed, **OF_TEACHER.get(kind, {})).fit(X, y))
        for method, params in METHODS.items():
            reg = student(X, y, teacher, seed, **params)
            learned = {metaparameter: float(value) for metaparameter, value in reg.metaparameters_.items()}
            yield record(kind, method, reg, **learned)


def summary(runs):
    """Return means and standard deviations over the seeds, and differences to y alone with their errors."""
    frame = pd.DataFrame(runs)
    lines = [f"{'table':10} {'teacher':9} {'method':22} {'R²':>15} {'RMSE':>19} {'R² minus y alone':>18}"]
    alone = frame[frame["method"] == "y alone"].set_index(["table", "seed"])["r2"]
    for (table, teacher, method), own in frame.groupby(["table", "teacher", "method"], sort=False):
        change = own["r2"].to_numpy() - alone.loc[table].loc[own["seed"]].to_numpy()
        error = change.std(ddof=1) / np.sqrt(len(change))
        lines.append(
            f"{table:10} {teacher:9} {method:22} {own['r2'].mean():7.4f} ± {own['r2'].std():.4f} "
            f"{own['rmse'].mean():10.4g} ± {own['rmse'].std():6.3g} {change.mean():+9.4f} ± {error:.4f}"
        )
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--diamonds", metavar="FILE", help="diamonds.csv of plotnine")
    diamonds = parser.parse_args().diamonds
    torch.set_num_threads(1)
    warnings.simplefilter(
        "ignore", ConvergenceWarning
    )  # all have as many steps, whether or not they need more
    tables = ["diabetes", *FRIEDMAN, *([] if diamonds is None else ["diamonds"])]
    began, runs = time.perf_counter(), []
    settings = {"iterations": N_ITERATIONS, "batch_size": BATCH_SIZE, "hidden": N_HIDDEN, "lr": LR}
    for name in tables:
        for seed in SEEDS:
            runs += run(name, seed, diamonds)
        print(summary([found for found in runs if found["table"] == name]), flush=True)
        result = {"seconds": round(time.perf_counter() - began), "settings": settings, "runs": runs}
        path = Path(__file__).with_suffix(".json")
        path.write_text(json.dumps(result | provenance(__file__, pd), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

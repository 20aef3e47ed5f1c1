"""Compare predictors of the path of (lambda1, log T) between hypergradients, on three tables.

The tables are all scaled by standardize=True:

  digits         1,200 of the 1,797 digits, 30 % of the labels outside the test replaced at random
  letter         1,200 of the 20,000 rows of LetterRecognition, labels unchanged
  made           1,200 rows × 30 of make_classification, 3 classes, labels unchanged

40 % of the rows are test rows, and 15 % of the others are D_val. The teacher is a random forest fitted on the
student's rows. The student is an MLP 48-48, trained for 20 epochs (380 iterations) in batches of 32 by SGD
0.05 with momentum 0.9 and max_grad_norm=1, from lambda1 = .5 and T = 4. Metaparameters move by the library's
defaults.

Errors: a fit with meta="gradient" gives a path. Every 5 iterations each predictor is fitted to the last e1 =
10 and predicts the next 10, or 40, within the bounds. The error is the root mean square distance from the
values that the hypergradients led to, over these iterations, relative to that of holding the last values: a
predictor below 1 is better than none. It is computed by metaparameter, over all predictions of a fit and over
those of its first 100 iterations; then come mean and standard error over the fits.

Accuracy: there is a fit with each predictor, with e1 = e2 = 10, and with cycles that grow up to max_e2 = 80.
"share" is the share of iterations with a hypergradient. All run on one thread.

    python examples/evidence/predictors.py --mlbench FOLDER --seeds 5      # some 3 minutes

FOLDER has LetterRecognition.rda of the R package mlbench (the data come from the UCI repository), which the
package pyreadr reads. The script writes predictors.json beside this file after each seed, with settings,
versions and every fit.
"""

import argparse
import functools
import json
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits, make_classification
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel
from sklearn.linear_model import HuberRegressor, Ridge
from sklearn.metrics import log_loss
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, PolynomialFeatures

from sklearn_kd import DistilledClassifier, MLPStudent
from sklearn_kd.losses import LogitDistillation
from sklearn_kd.meta import Linear, MetaparameterPath, MetaparameterSpace, PredictedPath

sys.path.append(str(Path(__file__).parents[1]))
from _provenance import provenance

TABLES = ("digits", "letter", "made")
E1, AHEAD, EVERY, EARLY, MAX_E2 = 10, (10, 40), 5, 100, 80
STUDENT = {"student__hidden": (48, 48), "max_epochs": 20, "batch_size": 32, "optimizer": "SGD", "lr": 0.05}
STUDENT |= {"optimizer__momentum": 0.9, "max_grad_norm": 1.0, "temperature": 4.0, "validation_fraction": 0.15}
STUDENT["search_epochs"] = None


def before_last(t):
    """Shift the feature so that the last gradient iteration is at 0."""
    return t - 1


THROUGH_LAST = make_pipeline(FunctionTransformer(before_last), Ridge(10.0, fit_intercept=False))
PROCESS = GaussianProcessRegressor(ConstantKernel(0.01) * RBF() + WhiteKernel(1e-3), random_state=0)
PREDICTORS = {
    "hold": functools.partial(PredictedPath, None),
    "line, anchored": functools.partial(Linear, form="anchored"),
    "line, values": functools.partial(Linear, form="values"),
    "line, increments": functools.partial(Linear, form="increments"),
    "Huber": functools.partial(PredictedPath, HuberRegressor()),
    "ridge, quadratic": functools.partial(PredictedPath, make_pipeline(PolynomialFeatures(2), Ridge(0.1))),
    "ridge, through last": functools.partial(PredictedPath, THROUGH_LAST),
    "3 nearest": functools.partial(PredictedPath, KNeighborsRegressor(3)),
    "Gaussian process": functools.partial(PredictedPath, PROCESS),
}
METHODS = {
    "none": "none",
    "fixed (.5, 4)": "fixed",
    "gradient": "gradient",
    **{name: make(e1=E1, e2=10) for name, make in PREDICTORS.items()},
    "hold, growing": PredictedPath(None, E1, 10, MAX_E2),
    "hold, e2 = 40": PredictedPath(None, E1, 40),
    "Huber, growing": PredictedPath(HuberRegressor(), E1, 10, MAX_E2),
}


def table(name, mlbench):
    """Return X and y."""
    if name == "digits":
        X, y = load_digits(return_X_y=True)
        return X[:1200], y[:1200]
    if name == "made":
        return make_classification(1200, 30, n_informative=12, n_classes=3, flip_y=0.05, random_state=0)
    import pyreadr

    letters = pyreadr.read_r(str(Path(mlbench) / "LetterRecognition.rda"))["LetterRecognition"]
    letters = letters.sample(1200, random_state=0)
    return letters.drop(columns="lettr").to_numpy(float), letters["lettr"].astype(str).to_numpy()


def draw(name, seed, mlbench):
    """Return X, y and the teacher's logits for the student's rows, and X, y of the test."""
    X, y = table(name, mlbench)
    X, X_test, y, y_test = train_test_split(X, y, test_size=0.4, stratify=y, random_state=seed)
    if name == "digits":
        rng = np.random.default_rng(seed)
        y = np.where(rng.random(len(y)) < 0.3, rng.choice(np.unique(y), len(y)), y)
    forest = RandomForestClassifier(100, min_samples_leaf=3, random_state=seed).fit(X, y)
    return X, y, np.log(forest.predict_proba(X).clip(1e-4)), X_test, y_test


def fitted(meta, seed, X, y, logits):
    clf = DistilledClassifier(None, MLPStudent, meta=meta, random_state=seed, device="cpu", **STUDENT)
    return clf.fit(X, y, teacher_logits=logits)


def prediction_errors(path):
    """Return errors, and their ratios to hold's, by predictor, iterations ahead and part of the fit."""
    space = MetaparameterSpace(LogitDistillation().metaparameters(n_classes=10))
    theta = np.column_stack([path["lambda1"], np.log(path["temperature"])])
    parts = {"all": len(path), "early": EARLY}
    squares = {(name, e2, part): [] for name in PREDICTORS for e2 in AHEAD for part in parts}
    replayed = MetaparameterPath(space, {"lambda1": 0.5, "temperature": 4.0})
    strategies = {name: make(e1=E1, e2=max(AHEAD)) for name, make in PREDICTORS.items()}
    for now, row in enumerate(path, start=1):
        values = torch.tensor([row["lambda1"], row["temperature"]], dtype=torch.float64)
        replayed.record(values, torch.tensor(np.nan))
        if now < E1 or now % EVERY or now + max(AHEAD) > len(path):
            continue
        for name, strategy in strategies.items():
            predicted = replayed.within_bounds(strategy.predict(replayed)).numpy()
            of_each = (predicted - theta[now : now + max(AHEAD)]) ** 2
            for e2 in AHEAD:
                for part in (part for part, until in parts.items() if now <= until):
                    squares[name, e2, part].append(of_each[:e2].mean(axis=0))
    errors = {key: np.sqrt(np.mean(of_key, axis=0)) for key, of_key in squares.items()}
    return [
        {"predictor": name, "ahead": e2, "part": part, "error": error.tolist()}
        | {"relative": (error / errors["hold", e2, part]).tolist()}
        for (name, e2, part), error in errors.items()
    ]


def run(name, seed, mlbench):
    """Return the prediction errors and the fits of one table and seed."""
    X, y, logits, X_test, y_test = draw(name, seed, mlbench)
    errors, fits = [], []
    for method, meta in METHODS.items():
        began = time.process_time()
        clf = fitted(meta, seed, X, y, logits)
        seconds, path = time.process_time() - began, clf.metaparameter_path_
        fits.append(
            {
                "method": method,
                "accuracy": clf.score(X_test, y_test),
                "log loss": log_loss(y_test, clf.predict_proba(X_test), labels=clf.classes_),
                "share": float(np.isfinite(path["val_loss"]).mean()),
                "lambda1": clf.lambda1_,
                "temperature": clf.temperature_,
                "CPU seconds": round(seconds, 2),
            }
        )
        if method == "gradient":
            errors = prediction_errors(path)
    of = {"table": name, "seed": seed}
    return [of | error for error in errors], [of | fit for fit in fits]


def mean_and_error(values):
    values = np.asarray(values, dtype=float)
    return f"{values.mean():7.3f} ± {values.std(ddof=1) / np.sqrt(len(values)):.3f}"


def report(errors, fits):
    for part in ("all", "early"):
        heads = [f"{m}, {n} ahead" for n in AHEAD for m in ("lambda1", "T")]
        print(f"\n{'error / hold, ' + part:20}" + "".join(f"{head:>19}" for head in heads))
        for name in PREDICTORS:
            of = [e for e in errors if (e["predictor"], e["part"]) == (name, part)]
            rows = [np.array([e["relative"] for e in of if e["ahead"] == n]) for n in AHEAD]
            cells = [mean_and_error(of_ahead[:, j]) for of_ahead in rows for j in range(2)]
            print(f"{name:20}" + "".join(f"{cell:>19}" for cell in cells))
    print(f"\n{'accuracy − gradient':20}" + "".join(f"{t:>19}" for t in (*TABLES, "all")) + f"{'share':>8}")
    by_fit = {(f["table"], f["seed"], f["method"]): f for f in fits}
    for method in METHODS:
        own = [f for f in fits if f["method"] == method]
        differences = {
            t: [
                f["accuracy"] - by_fit[f["table"], f["seed"], "gradient"]["accuracy"]
                for f in own
                if t in (f["table"], "all")
            ]
            for t in (*TABLES, "all")
        }
        cells = [mean_and_error(values) for values in differences.values()]
        share = np.mean([f["share"] for f in own])
        print(f"{method:20}" + "".join(f"{cell:>19}" for cell in cells) + f"{share:8.2f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--mlbench", required=True, help="folder of LetterRecognition.rda")
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", ConvergenceWarning)
    code = provenance(__file__)
    began, errors, fits = time.process_time(), [], []
    for seed in range(args.seeds):
        for name in TABLES:
            of_run = run(name, seed, args.mlbench)
            errors += of_run[0]
            fits += of_run[1]
        settings = {"seeds": seed + 1, "e1": E1, "ahead": AHEAD, "every": EVERY, "early": EARLY}
        record = {
            "settings": settings | {"max_e2": MAX_E2, "student": STUDENT, "tables": TABLES},
            **code,
            "CPU seconds": round(time.process_time() - began),
            "errors": errors,
            "fits": fits,
        }
        Path(__file__).with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
    report(errors, fits)


if __name__ == "__main__":
    main()

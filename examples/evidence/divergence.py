"""Check that a diverging fit warns, and that its student still predicts.

The settings are the paper's, whose random baseline diverged in one run of ten at lr = 1: SGD without
momentum, s(T) = 1, on 400 digits that are not scaled (0 to 16), in batches of 16, with a very confident
teacher (logits of 40). The rates go up to 1e30. An MLP and a CNN train for three epochs, by five methods with
five seeds.

    python examples/evidence/divergence.py

It prints the outcomes by rate, and writes divergence.json beside this file. "Not finite" are
students with non-finite weights or probabilities, or non-finite paths of metaparameters. "Unreported" are
fits in which steps were skipped, or that were given up, without one ConvergenceWarning. "False alarms"
are warnings about fits in which no step was skipped.
"""

import json
import sys
import warnings
from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning

from sklearn_kd import CNNStudent, DistilledClassifier, MLPStudent
from sklearn_kd.meta import PAPER_SETTINGS

sys.path.append(str(Path(__file__).parents[1]))
from _provenance import provenance

RATES = (1.0, 3.0, 10.0, 100.0, 1e4, 1e10, 1e30)
METHODS = ("none", "naive", "random", "gradient", "linear")
STUDENTS = {"MLP": MLPStudent, "CNN": CNNStudent}
SEEDS = range(5)
EPOCHS, BATCH_SIZE = 3, 16
COUNTED = ("fits", "given up", "some steps skipped", "not finite", "unreported", "false alarms")


def what_became(student, method, lr, seed):
    """Return the names in ``COUNTED`` that apply to one fit."""
    X, y = load_digits(return_X_y=True)
    X, y = X[:400].astype(np.float32), y[:400]
    logits = 40 * np.eye(10)[y] + np.random.default_rng(0).normal(size=(400, 10))
    X = X if student == "MLP" else X.reshape(-1, 1, 8, 8)
    settings = PAPER_SETTINGS | {"meta": method, "lr": lr, "max_epochs": EPOCHS, "batch_size": BATCH_SIZE}
    clf = DistilledClassifier(None, STUDENTS[student], device="cpu", random_state=seed, **settings)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        clf.fit(X, y, teacher_logits=logits)
    n_said = sum(issubclass(warning.category, ConvergenceWarning) for warning in said)
    given_up = clf.net_.diverged_
    skipped = sum(clf.history_[:, "skipped_steps"]) > 0
    passed_over = sum(clf.history_[:, "skipped_hypergradients"]) > 0
    numbers = [
        clf.predict_proba(X),
        clf.metaparameter_path_["lambda1"],
        clf.metaparameter_path_["temperature"],
    ]
    numbers += [w.numpy() for w in clf.student_.state_dict().values()]
    return {
        "fits": True,
        "given up": given_up,
        "some steps skipped": skipped and not given_up,
        "not finite": not all(np.isfinite(values).all() for values in numbers),
        "unreported": (given_up or skipped) and n_said != 1,
        "false alarms": n_said > 0 and not (given_up or skipped or passed_over),
    }


def main():
    counts = {lr: Counter() for lr in RATES}
    for lr, method, student, seed in product(RATES, METHODS, STUDENTS, SEEDS):
        counts[lr].update({name: int(true) for name, true in what_became(student, method, lr, seed).items()})
    print(f"{'lr':>8}" + "".join(f"{name:>20}" for name in COUNTED))
    for lr, found in counts.items():
        print(f"{lr:8g}" + "".join(f"{found[name]:20d}" for name in COUNTED))
    settings = {"methods": METHODS, "students": list(STUDENTS), "seeds": list(SEEDS)}
    settings |= {"epochs": EPOCHS, "batch_size": BATCH_SIZE}
    record = {
        **provenance(__file__),
        "settings": settings,
        "by lr": {f"{lr:g}": {name: found[name] for name in COUNTED} for lr, found in counts.items()},
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()

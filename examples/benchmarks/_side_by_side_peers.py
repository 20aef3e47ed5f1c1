"""Run one distiller of another library in its own interpreter, for ``side_by_side.py``.

    python _side_by_side_peers.py autogluon ROWS.npz FOUND.npz

ROWS.npz has the teacher's rows, the student's rows and the test rows of a run; FOUND.npz gets the
probabilities of teacher and student for the test rows, and a description as JSON. The script needs nothing
but the library that it runs.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import sys
import tempfile
import time
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd

CALLS = {1: 30, 1000: 10}  # of a prediction, for its time


def autogluon(rows):
    """Fit a forest by AutoGluon, distil it into AutoGluon's students, and return the one it ranks best.

    AutoGluon ranks by its own held-out rows. ``distill`` gets the student's rows, and the rows without
    labels as ``augmentation_data``; without any it makes rows up by its default method.
    """
    from autogluon.tabular import TabularPredictor

    def frame(X, y=None):
        made = pd.DataFrame(X, columns=[f"x{i}" for i in range(X.shape[1])])
        return made if y is None else made.assign(label=y)

    folder = tempfile.mkdtemp()
    predictor = TabularPredictor("label", path=folder, verbosity=0)
    predictor.fit(
        frame(rows["X_teacher"], rows["y_teacher"]), hyperparameters={"RF": {}}, num_cpus=1,
        fit_weighted_ensemble=False, ag_args_fit={"num_gpus": 0},
    )  # fmt: skip
    teacher = predictor.model_best
    began = time.process_time()
    further = {"augmentation_data": frame(rows["X_unlabeled"])} if len(rows["X_unlabeled"]) else {}
    names = predictor.distill(
        frame(rows["X"], rows["y"]), verbosity=0,
        hyperparameters={"GBM": {}, "NN_TORCH": {}}, **further,
    )  # fmt: skip
    seconds = time.process_time() - began
    board = predictor.leaderboard(silent=True).set_index("model").loc[names]
    best = board["score_val"].idxmax()
    predictor.persist([best])
    needed = predictor._trainer.get_minimum_model_set(best)
    size = sum(
        file.stat().st_size
        for model in needed
        for file in (Path(folder) / "models" / model).rglob("*")
        if file.is_file()
    )

    def ask(X, model=best):
        return predictor.predict_proba(frame(X), model=model).to_numpy()

    about = {"version": version("autogluon.tabular"), "student": best, "students": names, "bytes": size}
    return ask, ask(rows["X_test"], teacher), seconds, about


def deepbridge(rows):
    """Fit boosted trees by deepbridge's KnowledgeDistillation, with the teacher's probabilities."""
    from deepbridge.utils.model_registry import ModelType
    from deepbridge_distillation import KnowledgeDistillation

    began = time.process_time()
    student = KnowledgeDistillation.from_probabilities(
        rows["answers"], student_model_type=ModelType.GBM, n_trials=10, random_state=0
    )
    student.fit(rows["X"], rows["y"], verbose=False)
    seconds = time.process_time() - began
    about = {
        "version": version("deepbridge-distillation"),
        "student": "GBM",
        "bytes": len(pickle.dumps(student.student_model)),
    }
    return student.predict_proba, rows["answers_test"], seconds, about


def time_of(ask, X):
    """Return the median CPU time of a call, in microseconds, for one row and for 1,000."""
    found = {}
    for n, calls in CALLS.items():
        some, times = np.resize(X, (n, X.shape[1])), []
        for _ in range(calls + 2):
            began = time.process_time()
            ask(some)
            times.append(time.process_time() - began)
        found[str(n)] = 1e6 * float(np.median(times[2:]))
    return found


def main():
    """Read the rows, run the library, write what it found."""
    library, given, to = sys.argv[1:]
    with np.load(given, allow_pickle=False) as file:
        rows = dict(file)
    warnings.simplefilter("ignore")
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        ask, teacher, seconds, about = {"autogluon": autogluon, "deepbridge": deepbridge}[library](rows)
        probabilities = ask(rows["X_test"])
        about |= {"cpu": seconds, "us": time_of(ask, rows["X_test"])}
    np.savez(to, probabilities=probabilities, teacher=teacher, about=json.dumps(about))


if __name__ == "__main__":
    main()

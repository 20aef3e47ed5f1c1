"""What a type checker knows in a user's script; mypy checks this file, and it can be run.

Every ``type: ignore`` is an error that mypy has to find: one that is not found is reported.
"""

import numpy as np
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from typing_extensions import assert_type

from sklearn_kd import (
    DistillationReport,
    DistilledClassifier,
    DistilledRegressor,
    MLPStudent,
    distillation_report,
)
from sklearn_kd.datasets import fetch_cifar10
from sklearn_kd.meta import Shortlist


def fit_and_judge() -> None:
    X, y = load_digits(return_X_y=True)
    clf = DistilledClassifier(
        RandomForestClassifier(10), MLPStudent, meta=Shortlist(), max_epochs=3, random_state=0
    )
    fitted = assert_type(clf.fit(X[:900], y[:900]), DistilledClassifier)
    labels: np.ndarray = fitted.predict(X[900:])
    assert_type(fitted.score(X[900:], y[900:]), float)
    report = assert_type(distillation_report(fitted, X[900:], y[900:]), DistillationReport)
    print(report.n_samples, labels.shape)


def wrong() -> None:
    DistilledClassifier(None, MLPStudent, max_epochs="many")  # type: ignore[arg-type]
    DistilledRegressor(None, MLPStudent).fit(X=[[0.0]], weights=[1.0])  # type: ignore[call-arg]
    DistilledClassifier(None, MLPStudent).save(3)  # type: ignore[arg-type]
    fetch_cifar10(part="train")  # type: ignore[call-arg]


if __name__ == "__main__":
    fit_and_judge()

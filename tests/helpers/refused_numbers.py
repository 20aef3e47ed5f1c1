"""What a DistilledRegressor refuses, by its row in docs/guide/failures.rst: parameters, and arguments of fit."""

import numpy as np
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression, Ridge
from skorch.callbacks import EpochScoring
from torch import nn

from sklearn_kd.losses import LogitDistillation

N_ROWS = 200


def refused_numbers(X, y):
    """Return what is refused for an X of ten columns and a y of one number per row, N_ROWS each."""
    missing = np.where(np.arange(N_ROWS) == 3, np.nan, y)
    two = np.c_[y, y**2]
    return {
        "targets that are words": ({}, {"y": y.astype(str)}),
        "complex targets": ({}, {"y": y + 1j}),
        "dates as targets": ({}, {"y": y.astype("datetime64[s]")}),
        "targets of differing lengths": ({}, {"y": [[1.0], *([[1.0, 2.0]] * (N_ROWS - 1))]}),
        "targets of another shape": ({}, {"y": y[:, None, None, None]}),
        "no target per row": ({}, {"y": y[:, None][:, :0]}),
        "missing targets": ({}, {"y": missing}),
        "a constant target": ({}, {"y": np.full(N_ROWS, 3.0)}),
        "a constant column of targets": ({}, {"y": np.c_[y, np.ones(N_ROWS)]}),
        "targets that overflow": ({}, {"y": 1e304 * y}),
        "other targets in D_val": ({}, {"X_val": X, "y_val": two}),
        "targets of D_val in other units": ({}, {"X_val": X, "y_val": 1e60 * y}),
        "a single group": ({}, {"groups": np.zeros(N_ROWS)}),
        "a classifier as the teacher of numbers": ({"teacher": LogisticRegression()}, {}),
        "a classifier among the teachers of numbers": ({"teacher": [Ridge(), LogisticRegression()]}, {}),
        "an object that cannot teach numbers": ({"teacher": 3}, {}),
        "a frozen regressor without a fit": ({"teacher": FrozenEstimator(Ridge())}, {}),
        "a regressor that takes one target": ({"teacher": OneTarget()}, {"y": two}),
        "a teacher of other targets": ({"teacher": nn.Linear(10, 3)}, {}),
        "predictions that are far off": ({}, {"teacher_predictions": 1e60 * y}),
        "complex predictions": ({}, {"teacher_predictions": y + 1j}),
        "predictions of other rows": ({}, {"teacher_predictions": y[:9]}),
        "predictions of other targets": ({}, {"teacher_predictions": two}),
        "predictions that are missing": ({}, {"teacher_predictions": missing}),
        "a student without a column": ({"student": nn.Sequential(nn.Linear(10, 1), nn.Flatten(0))}, {}),
        "a scorer of classes": ({"callbacks": EpochScoring("neg_log_loss"), "meta": "fixed"}, {}),
        "a loss of classes": ({"loss": LogitDistillation()}, {}),
        "an unknown loss of numbers": ({"loss": "mse"}, {}),
        "a bound that is out of range": ({"loss__teacher_bound": -1}, {}),
        "an invalid quantile": ({"loss": "quantile", "loss__quantile": 1.5}, {}),
        "a width that is out of range": ({"loss": "huber", "loss__width": 0}, {}),
    }


class OneTarget(Ridge):
    """A regressor that takes one target, as gradient boosting does."""

    def fit(self, X, y, sample_weight=None):
        if np.ndim(y) > 1:
            raise ValueError(f"y should be a 1d array, got an array of shape {np.shape(y)} instead.")
        return super().fit(X, y, sample_weight)

"""Give the scorers of skorch's callbacks labels, not the codes that a net is trained on."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.metrics import check_scoring, r2_score
from skorch.callbacks import Callback, EpochScoring
from skorch.callbacks.scoring import ScoringBase
from skorch.utils import to_numpy

from sklearn_kd._sklearn_compat import metric_of_scorer, with_arguments
from sklearn_kd.inputs._batches import Batch
from sklearn_kd.runtime._devices import reading_is_free
from sklearn_kd.tasks._multilabel import Multilabel
from sklearn_kd.tasks._targets import is_known


def show_labels_to_scorers(callbacks: Iterable[Callback], labels: np.ndarray | None, task: Any) -> None:
    """Give the scorers of initialised callbacks the user's targets, not the net's codes.

    ``labels`` are those of the codes. None: scorers see codes or, for numbers, targets that the task decodes.
    """
    for callback in callbacks:
        if isinstance(callback, ScoringBase) and task.numeric:
            callback.scoring_ = NumberScorer(callback.scoring_, task)
        elif isinstance(callback, ScoringBase) and labels is not None:
            callback.scoring_ = _in_labels(callback.scoring_, labels)


def _in_labels(scoring: Any, labels: np.ndarray) -> Any:
    """Return ``scoring``, wrapped to score labels if it needs them.

    A scorer of scikit-learn that names no class stays as it is: by default, it takes 1 for the positive
    label. It would refuse labels without a 1; among codes, the second class is positive.
    """
    if scoring == "accuracy":
        return scoring
    metric, arguments = (None, {}) if isinstance(scoring, str) else metric_of_scorer(scoring)
    is_sklearns = isinstance(scoring, str) or getattr(metric, "__module__", "").startswith("sklearn.metrics.")
    if is_sklearns and 1 not in labels.tolist():
        if not {"labels", "pos_label"} & set(arguments):
            return scoring
        if "pos_label" not in arguments:
            scoring = with_arguments(scoring, pos_label=None)
    return LabelScorer(scoring, labels)


def r2_scoring() -> tuple[str, EpochScoring]:
    """Return the callback that records R² on D_val as ``valid_r2``."""
    return "valid_r2", EpochScoring(_r2, lower_is_better=False, name="valid_r2")


def _r2(net: Any, X: Any, y: np.ndarray) -> float:
    """Return R² of a net's predictions; NaN for one row, for which it is undefined."""
    return float(r2_score(y, net.predict(X))) if len(y) > 1 else math.nan


def rows_with_labels(callback: Any, told: dict[str, Any]) -> dict[str, Any]:
    """Return what a scorer gets at the end of a batch: the rows with labels or, for images, the pixels.

    A user's ``target_extractor`` gets labels on the host, where skorch has them.
    """
    if callback.on_train != told.get("training") or not isinstance(told.get("batch"), Batch):
        return told
    batch: Batch = told["batch"]
    if batch.targets.label_weight is not None:
        rows, x = is_known(batch.targets.labels).nonzero()[:, 0], batch[0]
        of_pixels = len(batch.targets.labels) != len(x)  # the images stay whole
        batch = batch.map(lambda values: values if of_pixels and values is x else values[rows])
        told = told | {"batch": batch, "y_pred": told["y_pred"][rows]}
    if callback.target_extractor is not to_numpy and not reading_is_free(batch[1]):
        told = told | {"batch": (batch[0], batch[1].cpu())}
    return told


def predicted_labels(net: Any, X: Any) -> np.ndarray:
    """Predict in terms of ``net.classes_``, codes or labels; with several labels, whether each is present."""
    probabilities = net.predict_proba(X)
    if isinstance(net.task, Multilabel):
        return (probabilities > 0.5).astype(np.int8)
    predicted: np.ndarray = net.classes_[probabilities.argmax(axis=1)]
    return predicted


class NumberScorer:
    """A scorer that sees numbers in the units of y, for a net trained on standardised ones.

    Parameters
    ----------
    scoring : str, callable or None
        A callback's ``scoring``, as skorch has processed it.
    task : Task
    """

    def __init__(self, scoring: Any, task: Any):
        self.scoring = scoring
        self.task = task

    def __call__(self, net: Any, X: Any, y: Any) -> Any:
        """Score the net, which predicts in the units of y."""
        y = self.task.decode(y.cpu().numpy() if isinstance(y, torch.Tensor) else np.asarray(y))
        by_name = self.scoring is None or isinstance(self.scoring, str)
        if not by_name and metric_of_scorer(self.scoring)[0] is None:
            return check_scoring(net, self.scoring)(net, X, y)
        # A scorer of scikit-learn would ask a net, which is a classifier, for its classes.
        known = ~np.isnan(y) if y.ndim == 3 else None  # for maps only
        asked = _NumberNet(net, known)
        return check_scoring(asked, self.scoring)(asked, X, y if known is None else y[known])


class _NumberNet(RegressorMixin, BaseEstimator):
    """Show a regression net to scikit-learn's scorers as a fitted regressor.

    Parameters
    ----------
    net : TrainingNet
    known : ndarray of shape (n, H, W) or None, default=None
        The pixels to predict, if the net predicts maps.
    """

    def __init__(self, net: Any, known: np.ndarray | None = None):
        self.net = net
        self.known = known

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def fit(self, X: Any, y: Any = None) -> _NumberNet:
        """Do nothing; check_scoring requires a method ``fit``."""
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Predict rows or known pixels, in the units of y."""
        found: np.ndarray = self.net.predict(X)
        return found if self.known is None else found[self.known]


class LabelScorer:
    """A scorer that sees labels, for a net trained on class codes.

    Parameters
    ----------
    scoring : str, callable or None
        A callback's ``scoring``, as skorch has processed it.
    labels : ndarray of shape (n_classes,)
        The label of each code.
    """

    def __init__(self, scoring: Any, labels: np.ndarray):
        self.scoring = scoring
        self.labels = labels

    def __call__(self, net: Any, X: Any, y: Any) -> Any:
        """Score the net, which predicts labels during the call."""
        codes, net.classes = net.classes, self.labels
        try:
            return check_scoring(net, self.scoring)(net, X, self._labels_of(y))
        finally:
            net.classes = codes

    def _labels_of(self, y: Any) -> Any:
        """Return the labels of codes; the output of a ``target_extractor`` is returned unchanged."""
        codes = y.cpu().numpy() if isinstance(y, torch.Tensor) else y
        is_codes = isinstance(codes, np.ndarray) and codes.ndim == 1 and codes.dtype.kind in "iu"
        return self.labels[codes] if is_codes else y

"""Scorers of skorch's callbacks see labels, not the codes that a net is trained on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from sklearn.metrics import check_scoring
from skorch.callbacks import Callback
from skorch.callbacks.scoring import ScoringBase

from sklearn_kd._sklearn_compat import metric_of_scorer, with_arguments
from sklearn_kd.tasks._multilabel import Multilabel
from sklearn_kd.tasks._targets import are_labelled


def show_labels_to_scorers(callbacks: Iterable[Callback], labels: np.ndarray) -> None:
    """Give the scorers of initialised callbacks ``labels`` in place of the codes the net is trained on."""
    for callback in callbacks:
        if isinstance(callback, ScoringBase):
            callback.scoring_ = _in_labels(callback.scoring_, labels)


def _in_labels(scoring: Any, labels: np.ndarray) -> Any:
    """Return ``scoring``, wrapped to score labels where codes would not do.

    One of scikit-learn's that names no class is left as it is: it knows no label but 1, by default the
    positive one. Where there is no such label it would refuse labels; of codes the second is positive.
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


def rows_with_labels(callback: Any, told: dict[str, Any]) -> dict[str, Any]:
    """Return what a scorer is told at the end of a training batch: its rows that have labels."""
    targets = getattr(told.get("batch"), "targets", None)
    if targets is None or targets.label_weight is None or callback.on_train != told.get("training"):
        return told
    rows = are_labelled(targets.labels).nonzero()[:, 0]
    batch = told["batch"].map(lambda values: values[rows])
    return told | {"batch": batch, "y_pred": told["y_pred"][rows]}


def predicted_labels(net: Any, X: Any) -> np.ndarray:
    """Predict in ``net.classes_``, codes or labels; of several labels, whether each is there."""
    probabilities = net.predict_proba(X)
    if isinstance(net.task, Multilabel):
        return (probabilities > 0.5).astype(np.int8)
    predicted: np.ndarray = net.classes_[probabilities.argmax(axis=1)]
    return predicted


class LabelScorer:
    """A scorer that sees labels, for a net that is trained on class codes.

    Parameters
    ----------
    scoring : str, callable or None
        What skorch made of a callback's ``scoring``.
    labels : ndarray of shape (n_classes,)
        The label of each code.
    """

    def __init__(self, scoring: Any, labels: np.ndarray):
        self.scoring = scoring
        self.labels = labels

    def __call__(self, net: Any, X: Any, y: Any) -> Any:
        """Score the net, which predicts labels meanwhile."""
        codes, net.classes = net.classes, self.labels
        try:
            return check_scoring(net, self.scoring)(net, X, self._labels_of(y))
        finally:
            net.classes = codes

    def _labels_of(self, y: Any) -> Any:
        """Return the labels of codes; what a ``target_extractor`` made of them stays as it is."""
        codes = y.cpu().numpy() if isinstance(y, torch.Tensor) else y
        is_codes = isinstance(codes, np.ndarray) and codes.ndim == 1 and codes.dtype.kind in "iu"
        return self.labels[codes] if is_codes else y

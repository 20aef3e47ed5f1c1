"""skorch's callbacks: scorers are shown labels, and epochs reported to scikit-learn's callbacks."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from sklearn.metrics import check_scoring
from skorch.callbacks import Callback
from skorch.callbacks.scoring import ScoringBase

from sklearn_kd._sklearn_compat import callback_context, metric_of_scorer, with_arguments


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

    def __call__(self, net, X, y):
        """Score the net, which predicts labels meanwhile."""
        codes, net.classes = net.classes, self.labels
        try:
            return check_scoring(net, self.scoring)(net, X, self._labels_of(y))
        finally:
            net.classes = codes

    def _labels_of(self, y):
        """Return the labels of codes; what a ``target_extractor`` made of them stays as it is."""
        codes = y.cpu().numpy() if isinstance(y, torch.Tensor) else y
        is_codes = isinstance(codes, np.ndarray) and codes.ndim == 1 and codes.dtype.kind in "iu"
        return self.labels[codes] if is_codes else y


class FitReport:
    """Reports one fit to the callbacks given to ``set_callbacks``.

    The fit is a task. Its sub-tasks are "teacher", where one has to be asked, and each
    "epoch" of the student.

    Parameters
    ----------
    estimator : DistilledClassifier
        Being fitted.
    X, y, sample_weight
        The rows it was given.
    n_tasks : int
        The most sub-tasks there can be.
    """

    def __init__(self, estimator, X, y, sample_weight, n_tasks: int):
        metadata = None if sample_weight is None else {"sample_weight": sample_weight}
        self._told = {"estimator": estimator, "X": X, "y": y, "metadata": metadata}
        self._root = callback_context(estimator, n_tasks)
        if self._root is not None:
            self._root.call_on_fit_task_begin(**self._told)

    def begin(self, name: str):
        """Begin a new sub-task."""
        return self._root.subcontext(task_name=name).call_on_fit_task_begin(**self._told)

    def end(self, task, fitted=None) -> bool:
        """Report the end of ``task``; return whether a callback asks for the fit to stop.

        ``fitted`` returns the fitted attributes as they are now. It is called only where a
        callback wants to predict.
        """
        return task.call_on_fit_task_end(**self._told, reconstruction_attributes=fitted)

    @contextmanager
    def teacher(self):
        """Report the time in which the teacher is fitted and asked."""
        task = None if self._root is None else self.begin("teacher")
        yield
        if task is not None:
            self.end(task)

    def epochs(self, fitted, name: str = "epoch") -> list:
        """Return the callback that reports a skorch net's epochs; none where nobody listens.

        ``fitted`` takes the net and returns the fitted attributes; ``name`` is what an epoch
        is called.
        """
        return [] if self._root is None else [("report_epochs", ReportEpochs(self, fitted, name))]

    def finish(self) -> None:
        """Report the end of the fit, when the estimator is fitted."""
        if self._root is not None:
            self.end(self._root, fitted=dict)


class ReportEpochs(Callback):
    """skorch's callback that makes each epoch a task of scikit-learn's.

    Parameters
    ----------
    report : FitReport
        Forgotten when training ends, with the data that it holds.
    fitted : callable(net) -> dict
        The fitted attributes as the net stands.
    name : str, default="epoch"
        Of the sub-tasks.
    """

    def __init__(self, report, fitted, name: str = "epoch"):
        self.report = report
        self.fitted = fitted
        self.name = name

    def initialize(self):
        """Reset to the state before the first epoch."""
        self.epoch_ = None
        return self

    def on_epoch_begin(self, net, **kwargs):
        """Begin a task."""
        self.epoch_ = self.report.begin(self.name)

    def on_epoch_end(self, net, **kwargs):
        """End the task, and the training if a callback asks for that."""
        if self._end_epoch(net):
            raise KeyboardInterrupt  # how skorch's callbacks end a fit early

    def on_train_end(self, net, **kwargs):
        """End the epoch that another callback broke off."""
        if self.epoch_ is not None:
            self._end_epoch(net)
        self.report = self.fitted = None

    def _end_epoch(self, net) -> bool:
        epoch, self.epoch_ = self.epoch_, None
        return self.report.end(epoch, fitted=lambda: self.fitted(net.snapshot()))

    def __getstate__(self):
        # A checkpoint in the middle of training takes the net, not who listens to it.
        return vars(self) | {"report": None, "fitted": None, "epoch_": None}

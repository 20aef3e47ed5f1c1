"""Report the epochs of a fit to the callbacks of scikit-learn 1.9."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from skorch.callbacks import Callback

from sklearn_kd._sklearn_compat import callback_context


class FitReport:
    """Report one fit to the callbacks given to ``set_callbacks``.

    The fit is a task. Its sub-tasks are "teacher", if a teacher must predict, and each
    "epoch" of the student.

    Parameters
    ----------
    estimator : DistilledClassifier
        The estimator being fitted.
    X, y, sample_weight
        The arguments of its ``fit``.
    n_tasks : int
        Largest possible number of sub-tasks.
    """

    def __init__(self, estimator: Any, X: Any, y: Any, sample_weight: Any, n_tasks: int) -> None:
        metadata = None if sample_weight is None else {"sample_weight": sample_weight}
        self._told = {"estimator": estimator, "X": X, "y": y, "metadata": metadata}
        self._root = callback_context(estimator, n_tasks)
        if self._root is None:
            self._told = {}  # nobody listens, so hold no data
        else:
            self._root.call_on_fit_task_begin(**self._told)

    def begin(self, name: str) -> Any:
        """Begin a new sub-task."""
        return self._root.subcontext(task_name=name).call_on_fit_task_begin(**self._told)

    def end(self, task: Any, fitted: Any = None) -> bool:
        """Report the end of ``task``; return whether a callback asks for the fit to stop.

        ``fitted`` returns the current fitted attributes. It is only called if a callback wants to
        predict.
        """
        return task.call_on_fit_task_end(**self._told, reconstruction_attributes=fitted)

    @contextmanager
    def teacher(self) -> Iterator[None]:
        """Report the fitting and asking of the teacher as a task."""
        task = None if self._root is None else self.begin("teacher")
        yield
        if task is not None:
            self.end(task)

    def epochs(self, fitted: Any, name: str = "epoch") -> list:
        """Return a list with the callback that reports a skorch net's epochs; empty if nobody listens.

        ``fitted`` takes the net and returns the fitted attributes; ``name`` is the name of an epoch.
        """
        return [] if self._root is None else [("report_epochs", ReportEpochs(self, fitted, name))]

    def finish(self) -> None:
        """Report the end of the fit, once the estimator is fitted."""
        if self._root is not None:
            self.end(self._root, fitted=dict)


class ReportEpochs(Callback):
    """A skorch callback that reports each epoch as a task of scikit-learn.

    Parameters
    ----------
    report : FitReport
        Dropped, with the data that it holds, when training ends.
    fitted : callable(net) -> dict
        Returns the fitted attributes for the present net.
    name : str, default="epoch"
        Name of the sub-tasks.
    """

    def __init__(self, report: Any, fitted: Any, name: str = "epoch") -> None:
        self.report = report
        self.fitted = fitted
        self.name = name

    def initialize(self) -> Any:
        """Reset to the state before the first epoch."""
        self.epoch_ = None
        return self

    def on_epoch_begin(self, net: Any, **kwargs: Any) -> None:
        """Begin a task."""
        self.epoch_ = self.report.begin(self.name)

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        """End the task, and the training if a callback requests it."""
        if self._end_epoch(net):
            raise KeyboardInterrupt  # the way skorch's callbacks end a fit early

    def on_train_end(self, net: Any, **kwargs: Any) -> None:
        """End the epoch that another callback interrupted."""
        if self.epoch_ is not None:
            self._end_epoch(net)
        self.report = self.fitted = None

    def _end_epoch(self, net: Any) -> bool:
        epoch, self.epoch_ = self.epoch_, None
        return self.report.end(epoch, fitted=lambda: self.fitted(net.snapshot()))

    def __getstate__(self) -> dict[str, Any]:
        # A checkpoint during training takes the net, not its listeners.
        return vars(self) | {"report": None, "fitted": None, "epoch_": None}

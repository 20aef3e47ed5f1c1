"""Parameters of a net that predicts with a loaded student and is not trained."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sklearn_kd.estimators._several_labels import output_params
from sklearn_kd.inputs._batches import rows_per_batch
from sklearn_kd.meta import Fixed

if TYPE_CHECKING:
    from sklearn_kd.estimators._classifier import DistilledClassifier
    from sklearn_kd.estimators._distpro import DistProClassifier


def prediction_params(estimator: DistilledClassifier | DistProClassifier) -> dict[str, Any]:
    """Return the parameters of the net that both systems share.

    Parameters
    ----------
    estimator : DistilledClassifier or DistProClassifier
        With its parameters and ``classes_`` set.

    Returns
    -------
    dict
        Parameters of a :class:`~sklearn_kd.training._net.TrainingNet` by name.
    """
    return {
        "strategy": Fixed(),
        "batch_size": rows_per_batch(estimator.batch_size),
        "verbose": 0,
        "task": estimator._task,
        "labels": getattr(estimator, "classes_", None),
        "device": str(estimator._device()),
    } | output_params(estimator._task)

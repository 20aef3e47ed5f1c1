"""Read a loss given as an object or by name."""

from __future__ import annotations

from typing import Any

from sklearn.base import clone

from sklearn_kd.errors._did_you_mean import ByName, did_you_mean
from sklearn_kd.losses._correlation import CorrelationDistillation
from sklearn_kd.losses._decoupled import DecoupledDistillation, NormalizedDistillation
from sklearn_kd.losses._distillation_loss import DistillationLoss
from sklearn_kd.losses._logit_distillation import LogitDistillation
from sklearn_kd.losses._multilabel_distillation import MultilabelDistillation
from sklearn_kd.losses._smoothed import SmoothedDistillation
from sklearn_kd.losses._standardized import StandardizedDistillation
from sklearn_kd.losses._two_temperatures import TwoTemperatureDistillation

# Names of losses with default parameters in ``DistilledClassifier(loss=...)``.
LOSSES: dict[str, type[DistillationLoss]] = ByName(
    {
        "kd": LogitDistillation,
        "dkd": DecoupledDistillation,
        "nkd": NormalizedDistillation,
        "dist": CorrelationDistillation,
        "standardized_kd": StandardizedDistillation,
        "mkd": TwoTemperatureDistillation,
        "smoothed_kd": SmoothedDistillation,
    }
)

# Advice in messages about a loss of torch's.
OWN_LOSS = (
    "Write a subclass of sklearn_kd.losses.DistillationLoss and give an object of it as loss: the guide's "
    "page 'Your own loss' has label smoothing and focal loss. Weights of classes are class_weight."
)

OWN_REGRESSION_LOSS = (
    "Give loss one of the names that it takes, or write a subclass of sklearn_kd.losses.RegressionLoss and "
    "give an object of it."
)


def named_loss(loss: Any) -> DistillationLoss:
    """Return the loss of this name, or a copy of the object.

    Raises
    ------
    ValueError
        If no loss has this name.
    TypeError
        If it is neither a name nor a loss.
    """
    if isinstance(loss, DistillationLoss):
        return clone(loss)
    if isinstance(loss, str):
        if loss in LOSSES:
            return LOSSES[loss]()
        raise ValueError(
            f"loss={loss!r} is not known.{did_you_mean(loss, tuple(LOSSES))} It is one of {list(LOSSES)}, or "
            "a sklearn_kd.losses.DistillationLoss of your own."
        )
    hint = f" Give an object: {loss.__name__}()." if isinstance(loss, type) else ""
    raise TypeError(
        f"loss={str(loss)[:200]} must be one of {list(LOSSES)} or a sklearn_kd.losses.DistillationLoss.{hint}"
    )


def loss_for_labels(loss: DistillationLoss, several: bool, *, by_name: bool) -> DistillationLoss:
    """Return the loss for one label per row, or for several; "kd" has a form for each.

    Parameters
    ----------
    loss : DistillationLoss
    several : bool
        Whether y has several labels.
    by_name : bool
        Whether the loss was given by its name, and the library chooses the form.

    Raises
    ------
    ValueError
        If an object of the other form was given.
    """
    if several and isinstance(loss, tuple(LOSSES.values())):
        if by_name and type(loss) is LogitDistillation:
            return MultilabelDistillation(**loss.get_params(deep=False))
        raise ValueError(
            f"loss={loss!r} is for one label per row, and y has several. Give loss='kd', which chooses by y, "
            "or sklearn_kd.losses.MultilabelDistillation."
        )
    if not several and isinstance(loss, MultilabelDistillation):
        raise ValueError(
            f"loss={loss!r} is for several labels, and y has one label per row. Give loss='kd', which "
            "chooses by y, or sklearn_kd.losses.LogitDistillation."
        )
    return loss

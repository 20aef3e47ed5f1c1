"""Losses of a regressor: the error on y, and the distance from the teacher's predictions with a weight."""

from __future__ import annotations

from numbers import Real
from typing import Any

import torch
from torch import Tensor

from sklearn_kd.errors._did_you_mean import ByName
from sklearn_kd.losses._distillation_loss import DistillationLoss
from sklearn_kd.losses._logit_distillation import LAMBDA1_BOUNDS
from sklearn_kd.meta._space import Metaparameter
from sklearn_kd.tasks._criterion import Criterion, berhu_errors, huber_errors
from sklearn_kd.tasks._targets import is_known, label_weights

# Range of the bound in standard deviations of y. Beyond 4 nearly every row follows the teacher.
TEACHER_BOUND_RANGE = (0.0, 4.0)
WIDTH_RANGE = (0.05, 20.0)
# Width in standard deviations of y over which the teacher's weight goes from 1 to 0. A step would have no
# derivative with respect to the bound.
_SOFTNESS = 0.1


class RegressionLoss(DistillationLoss):
    """Base class of the losses of :class:`~sklearn_kd.DistilledRegressor`.

    The loss of a row is the mean over its targets of

        lambda1 · L(y, f) + (1 − lambda1) · g · L(t, f)

    with y the target, t the teacher's prediction and f the student's output. All are standardised: mean 0
    and standard deviation 1 in the rows given to ``fit``. L is the :meth:`criterion`, which is also the loss
    on D_val. Rows without a target have only the second term.

    g is 1 or, with ``teacher_bound``, a weight between 0 and 1: teacher-bounded regression, after [1]_. The
    teacher counts only if the student's error on y plus the bound exceeds the teacher's error, abs(y − f) +
    bound > abs(y − t). If the student is better than the teacher by more than the bound, it is left alone.
    To make the bound learnable, g is the logistic function of the excess in tenths of a standard deviation.
    No gradient flows through g into the student.

    Write a loss of your own as a subclass with :meth:`criterion`, and with :meth:`errors` if L has its own
    metaparameters.

    Parameters
    ----------
    per_output : bool, default=False
        Whether each target has its own ``lambda1``, shape (n_outputs,), so that the teacher can be trusted
        more for some targets than for others.
    teacher_bound : float or None, default=None
        Initial value of the metaparameter ``teacher_bound``, from 0 to 4 standard deviations of y. None: no
        bound; the teacher always counts.

    References
    ----------
    .. [1] Chen, Choi, Yu, Han, Chandraker. "Learning efficient object detection models with knowledge
       distillation", NeurIPS 2017, Eq. 5. There the second term is the error on y.

    Examples
    --------
    The logarithm of cosh, which is quadratic near 0 and linear beyond:

    >>> import torch
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.linear_model import RidgeCV
    >>> from sklearn_kd import DistilledRegressor, MLPStudent
    >>> from sklearn_kd.losses import RegressionLoss
    >>> class LogCosh(RegressionLoss):
    ...     def errors(self, outputs, targets):
    ...         return torch.log(torch.cosh(outputs - targets))
    >>> reg = DistilledRegressor(RidgeCV(), MLPStudent, loss=LogCosh(), random_state=0)
    >>> X, y = load_diabetes(return_X_y=True)
    >>> reg.fit(X, y).score(X, y) > 0.4
    True
    """

    accepts_unlabeled = True
    has_label_loss = True

    def __init__(self, per_output: bool = False, teacher_bound: float | None = None):
        self.per_output = per_output
        self.teacher_bound = teacher_bound

    def check(self) -> None:
        """Raise ValueError or TypeError if a parameter or the criterion is invalid."""
        if not isinstance(self.per_output, bool):
            raise ValueError(f"per_output={self.per_output!r} must be True or False.")
        if self.teacher_bound is not None:
            _check_number("teacher_bound", self.teacher_bound, TEACHER_BOUND_RANGE, " or None")
        if not isinstance(self.criterion(), Criterion):
            raise TypeError(
                f"criterion of {type(self).__name__} returned {self.criterion()!r}. Return "
                "SquaredError().criterion(), or that of another loss of sklearn_kd.losses."
            )

    def criterion(self) -> Criterion:
        """Return the loss on y, which also judges D_val: here the squared error."""
        return Criterion("squared_error")

    def metaparameters(self, n_classes: int) -> dict[str, Metaparameter]:
        """Return lambda1, whose initial value the estimator sets, and teacher_bound if there is one.

        Parameters
        ----------
        n_classes : int
            Number of the student's outputs.
        """
        n_targets = n_classes // self.criterion().outputs_per_target
        found = {
            "lambda1": Metaparameter(shape=(n_targets,) if self.per_output else (), bounds=LAMBDA1_BOUNDS)
        }
        if self.teacher_bound is not None:
            found["teacher_bound"] = Metaparameter(self.teacher_bound, bounds=TEACHER_BOUND_RANGE)
        return found

    def errors(self, outputs: Tensor, targets: Tensor, **metaparameters: Tensor) -> Tensor:
        """Return L of each target, shape (B, m), here that of :meth:`criterion`.

        Parameters
        ----------
        outputs : Tensor of shape (B, K)
            The student's outputs: K is m, or 2m if the criterion is "gaussian_nll".
        targets : Tensor of shape (B, m)
            Standardised targets: y, or the teacher's predictions.
        **metaparameters : Tensor
            Metaparameters that a subclass adds.
        """
        return self.criterion().errors(outputs, targets)

    def loss(
        self,
        logits: Tensor,
        teacher_logits: Tensor | None,
        labels: Tensor,
        *,
        lambda1: Tensor,
        teacher_bound: Tensor | None = None,
        **metaparameters: Tensor,
    ) -> Tensor:
        """Return the losses of the rows of a batch.

        Parameters
        ----------
        logits : Tensor of shape (B, K)
            The student's outputs.
        teacher_logits : Tensor of shape (B, m) or None
            The teacher's standardised predictions. None: there is no teacher, and only y counts.
        labels : Tensor of shape (B, m)
            Standardised targets; NaN in rows that have none.
        lambda1 : Tensor of shape () or (m,)
            Weight of the error on y.
        teacher_bound : Tensor of shape () or None, default=None
            The bound of the teacher's term. None: no bound.
        **metaparameters : Tensor
            Metaparameters that a subclass adds, for :meth:`errors`.

        Returns
        -------
        Tensor of shape (B,)
        """
        y = labels.nan_to_num()
        of_y = self._checked_errors(logits, y, metaparameters) * label_weights(labels).to(logits)[:, None]
        if teacher_logits is None:
            return of_y.mean(dim=1)
        of_teacher = self._checked_errors(logits, teacher_logits, metaparameters)
        if teacher_bound is not None:
            mean = logits[:, : y.shape[1]].detach()
            excess = (mean - y).abs() + teacher_bound - (teacher_logits - y).abs()
            followed = torch.sigmoid(excess / _SOFTNESS)
            of_teacher = torch.where(is_known(labels)[:, None], followed, 1.0) * of_teacher
        return (lambda1 * of_y + (1 - lambda1) * of_teacher).mean(dim=1)

    def _checked_errors(self, outputs: Tensor, targets: Tensor, metaparameters: dict[str, Tensor]) -> Tensor:
        """Return the errors; refuse another shape, which would be broadcast to wrong errors."""
        found = self.errors(outputs, targets, **metaparameters)
        if found.shape != targets.shape:
            raise ValueError(
                f"errors of {type(self).__name__} returned shape {tuple(found.shape)} for targets of shape "
                f"{tuple(targets.shape)}. Return one error for each target, not their mean."
            )
        return found


class SquaredError(RegressionLoss):
    """The squared error, from y and from the teacher: ``loss="squared_error"``.

    Parameters
    ----------
    per_output, teacher_bound
        As in :class:`RegressionLoss`.

    Examples
    --------
    >>> from sklearn_kd.losses import SquaredError
    >>> sorted(SquaredError(teacher_bound=0.5).metaparameters(1))
    ['lambda1', 'teacher_bound']
    """


class AbsoluteError(RegressionLoss):
    """The absolute error, which estimates the median: ``loss="absolute_error"``.

    Parameters
    ----------
    per_output, teacher_bound
        As in :class:`RegressionLoss`.

    Examples
    --------
    >>> from sklearn_kd.losses import AbsoluteError
    >>> AbsoluteError(per_output=True).metaparameters(3)["lambda1"].shape
    (3,)
    """

    def criterion(self) -> Criterion:
        """Return the absolute error."""
        return Criterion("absolute_error")


class HuberLoss(RegressionLoss):
    """Huber's loss, from y and from the teacher, with a learned width: ``loss="huber"``.

    An error e costs e²/2 up to the width w, and w (e − w/2) beyond it, so that far targets pull no harder.
    The metaparameter ``width`` is learned in its logarithm, from 0.05 to 20 standard deviations of y. D_val
    is judged at the width given here; otherwise the smallest width would seem the best.

    Parameters
    ----------
    width : float, default=1.35
        Initial width, in standard deviations of y.
    per_output, teacher_bound
        As in :class:`RegressionLoss`.

    Examples
    --------
    >>> from sklearn_kd.losses import HuberLoss
    >>> HuberLoss(width=0.5).metaparameters(1)["width"].start
    0.5
    """

    def __init__(self, width: float = 1.35, per_output: bool = False, teacher_bound: float | None = None):
        super().__init__(per_output, teacher_bound)
        self.width = width

    def check(self) -> None:
        """Raise ValueError unless the parameters can be used."""
        super().check()
        _check_number("width", self.width, WIDTH_RANGE)

    def criterion(self) -> Criterion:
        """Return Huber's loss at the given width."""
        return Criterion("huber", float(self.width))

    def metaparameters(self, n_classes: int) -> dict[str, Metaparameter]:
        """Return those of :class:`RegressionLoss`, and width."""
        return super().metaparameters(n_classes) | {"width": _width(self.width)}

    def errors(self, outputs: Tensor, targets: Tensor, **metaparameters: Tensor) -> Tensor:
        """Return Huber's loss of each target at the current ``width``."""
        return huber_errors(outputs, targets, metaparameters["width"])


class BerHuLoss(RegressionLoss):
    """The reverse Huber loss, from y and from the teacher, with a learned width: ``loss="berhu"``.

    An error e costs abs(e) up to the width w, and (e² + w²) / (2w) beyond it, so that far targets pull
    harder than near ones [1]_. The loss is common for depth maps, most of whose errors are small [2]_. The
    metaparameter ``width`` is learned in its logarithm, from 0.05 to 20 standard deviations of y. D_val is
    judged at the width given here; otherwise the largest width would seem the best.

    Parameters
    ----------
    width : float, default=0.2
        Initial width, in standard deviations of y.
    per_output, teacher_bound
        As in :class:`RegressionLoss`.

    References
    ----------
    .. [1] Owen. "A robust hybrid of lasso and ridge regression", Contemporary Mathematics 443, 2007.
    .. [2] Laina, Rupprecht, Belagiannis, Tombari, Navab. "Deeper depth prediction with fully convolutional
       residual networks", 3DV 2016, Eq. 1. There the width is a fifth of the largest error in the batch.

    Examples
    --------
    >>> import torch
    >>> from sklearn_kd.losses import BerHuLoss
    >>> loss = BerHuLoss(width=0.5)
    >>> loss.errors(torch.tensor([0.25, 1.5]), torch.zeros(2), width=torch.tensor(0.5)).tolist()
    [0.25, 2.5]
    """

    def __init__(self, width: float = 0.2, per_output: bool = False, teacher_bound: float | None = None):
        super().__init__(per_output, teacher_bound)
        self.width = width

    def check(self) -> None:
        """Raise ValueError unless the parameters can be used."""
        super().check()
        _check_number("width", self.width, WIDTH_RANGE)

    def criterion(self) -> Criterion:
        """Return the reverse Huber loss at the given width."""
        return Criterion("berhu", float(self.width))

    def metaparameters(self, n_classes: int) -> dict[str, Metaparameter]:
        """Return those of :class:`RegressionLoss`, and width."""
        return super().metaparameters(n_classes) | {"width": _width(self.width)}

    def errors(self, outputs: Tensor, targets: Tensor, **metaparameters: Tensor) -> Tensor:
        """Return the loss of each target at the current ``width``."""
        return berhu_errors(outputs, targets, metaparameters["width"])


class QuantileLoss(RegressionLoss):
    """The pinball loss, which estimates a quantile: ``loss="quantile"``.

    Parameters
    ----------
    quantile : float, default=0.5
        The quantile, above 0 and below 1. The teacher should predict the same one.
    per_output, teacher_bound
        As in :class:`RegressionLoss`.

    Examples
    --------
    Nine in ten targets lie below:

    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.ensemble import HistGradientBoostingRegressor
    >>> from sklearn_kd import DistilledRegressor, MLPStudent
    >>> teacher = HistGradientBoostingRegressor(loss="quantile", quantile=0.9, max_iter=50)
    >>> reg = DistilledRegressor(
    ...     teacher, MLPStudent, loss="quantile", loss__quantile=0.9, random_state=0)
    >>> X, y = load_diabetes(return_X_y=True)
    >>> bool(0.8 < (y <= reg.fit(X, y).predict(X)).mean() < 1)
    True
    """

    def __init__(self, quantile: float = 0.5, per_output: bool = False, teacher_bound: float | None = None):
        super().__init__(per_output, teacher_bound)
        self.quantile = quantile

    def check(self) -> None:
        """Raise ValueError unless the parameters can be used."""
        super().check()
        if not isinstance(self.quantile, Real) or not 0 < self.quantile < 1:
            raise ValueError(f"quantile={self.quantile!r} must be a number above 0 and below 1.")

    def criterion(self) -> Criterion:
        """Return the pinball loss of the quantile."""
        return Criterion("quantile", float(self.quantile))


class GaussianNLL(RegressionLoss):
    """The negative log-likelihood of a normal distribution: ``loss="gaussian_nll"``.

    The student has two outputs for each target: the mean, which is its prediction, and the logarithm of the
    variance, for ``predict(X, return_std=True)``. All means come first. The teacher's term is the same
    likelihood of the teacher's prediction.

    Parameters
    ----------
    per_output, teacher_bound
        As in :class:`RegressionLoss`.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.linear_model import RidgeCV
    >>> from sklearn_kd import DistilledRegressor, MLPStudent
    >>> X, y = load_diabetes(return_X_y=True)
    >>> reg = DistilledRegressor(
    ...     RidgeCV(), MLPStudent, loss="gaussian_nll", max_epochs=10, random_state=0)
    >>> mean, std = reg.fit(X, y).predict(X, return_std=True)
    >>> mean.shape, bool((std > 0).all())
    ((442,), True)
    """

    def criterion(self) -> Criterion:
        """Return the negative log-likelihood."""
        return Criterion("gaussian_nll")


def _width(start: float) -> Metaparameter:
    """Return a loss's width as a metaparameter."""
    return Metaparameter(float(start), bounds=WIDTH_RANGE, coordinate="log")


def _check_number(name: str, value: Any, bounds: tuple[float, float], otherwise: str = "") -> None:
    low, high = bounds
    if not isinstance(value, Real) or isinstance(value, bool) or not low <= float(value) <= high:
        raise ValueError(f"{name}={value!r} must be a number from {low:g} to {high:g}{otherwise}.")


# Names of losses with default parameters in ``DistilledRegressor(loss=...)``.
REGRESSION_LOSSES: dict[str, type[DistillationLoss]] = ByName(
    {
        "squared_error": SquaredError,
        "absolute_error": AbsoluteError,
        "huber": HuberLoss,
        "berhu": BerHuLoss,
        "quantile": QuantileLoss,
        "gaussian_nll": GaussianNLL,
    }
)

"""Use functions of X as teachers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from sklearn.base import BaseEstimator

from sklearn_kd.teachers._adapter import EitherWayAdapter
from sklearn_kd.teachers._class_alignment import ordered_classes
from sklearn_kd.teachers._registry import register_teacher, tell_by_abilities

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

_TAKES = ("array", "tensor")


class FunctionTeacher(BaseEstimator):
    """A function of X that returns logits or probabilities, as a teacher that comes trained.

    A plain function works too: ``teacher=function`` means ``FunctionTeacher(function)``, with the classes in
    the function's attribute ``classes``, if it has one.

    Parameters
    ----------
    function : callable
        Maps rows to an array, tensor or nested list of shape (n_rows, n_columns). If every row holds
        probabilities, their logarithms are the logits.
    classes : array-like of shape (n_columns,) or None, default=None
        The class of each column. None: the estimator's ``teacher_classes``, or else the column names if the
        function returns a data frame. Without either, the labels must be exactly 0 … K−1, and column j is
        class j.
    takes : {"array", "tensor"}, default="array"
        "array": call the function once, with all rows of D_train in the container given to ``fit``.
        "tensor": call it batch by batch, with float32 tensors on the student's device, so that it works with
        ``augment`` and a ``Dataset``.

    See Also
    --------
    register_teacher : For teachers that need more than a function.

    Notes
    -----
    A fit in another process pickles the function with the estimator. A ``lambda`` cannot be pickled: define
    the function at the top level of a module.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_iris
    >>> from sklearn_kd import DistilledClassifier, MLPStudent
    >>> from sklearn_kd.teachers import FunctionTeacher
    >>> X, y = load_iris(return_X_y=True)
    >>> names = np.array(["setosa", "versicolor", "virginica"])
    >>> def rules(X):  # short petals; narrow ones
    ...     return np.c_[3 * (2.5 - X[:, 2]), np.full(len(X), 0.5), 4 * (X[:, 3] - 1.6)]
    >>> clf = DistilledClassifier(
    ...     FunctionTeacher(rules, classes=names), MLPStudent, meta="fixed", lambda1=0.0,
    ...     max_epochs=60, random_state=0)
    >>> clf.fit(X, names[y]).score(X, names[y]) > 0.8
    True
    """

    def __init__(
        self,
        function: Callable[[Any], Any],
        classes: ArrayLike | None = None,
        takes: Literal["array", "tensor"] = "array",
    ):
        self.function = function
        self.classes = classes
        self.takes = takes


@register_teacher(FunctionTeacher)
class FunctionTeacherAdapter(EitherWayAdapter):
    """Adapter of a FunctionTeacher."""

    _source = "the function"
    _no_probabilities = None

    @property
    def _stated(self) -> FunctionTeacher:
        own = self.teacher
        if isinstance(own, FunctionTeacher):
            return own
        return FunctionTeacher(own, classes=getattr(own, "classes", None))  # a plain function

    def check(self) -> None:
        teacher = self._stated
        if not callable(teacher.function) or isinstance(teacher.function, type):
            raise TypeError(
                f"FunctionTeacher: function={teacher.function!r} must be a function of X that returns logits "
                "or probabilities."
            )
        if teacher.takes not in _TAKES:
            raise ValueError(
                f"FunctionTeacher: takes={teacher.takes!r} must be one of {list(_TAKES)}: X in the container "
                "given to fit, or batches of float32 tensors."
            )
        ordered_classes(teacher.classes, "FunctionTeacher: classes")

    def takes_batches(self) -> bool:
        return self._stated.takes == "tensor"

    def column_classes(self) -> Any:
        return self._stated.classes

    def predict_logits(self, X: Any) -> Any:
        return self._stated.function(X)


@tell_by_abilities
class PlainFunctionAdapter(FunctionTeacherAdapter):
    """Adapter of a plain function."""

    @classmethod
    def accepts(cls, teacher: Any) -> bool:
        # An object with a fit, such as a Keras network, may have to be trained first.
        return callable(teacher) and not isinstance(teacher, type) and not hasattr(teacher, "fit")

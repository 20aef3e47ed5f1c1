"""Make the synthetic data of the paper, as in its text or in its notebook."""

from __future__ import annotations

from numbers import Integral, Real

import numpy as np
from sklearn.utils import Bunch, check_random_state

from sklearn_kd._sklearn_compat import Interval, StrOptions, validate_params

# Third column by name, computed from the first two.
THIRD_COLUMNS = {
    "and": lambda x: ((x[:, 0] > 0) & (x[:, 1] > 0)).astype(float),
    "or": lambda x: ((x[:, 0] > 0) | (x[:, 1] > 0)).astype(float),
    "product": lambda x: np.sign(x[:, 0] * x[:, 1]),
}
DESCR = """The synthetic data of "Metaparameter optimization in knowledge distillation", section 4.1.

x1, x2 ~ N(0, 1); the label is 1 where x1 * x2 + delta > 0, delta ~ N(0, {delta}²), and 0 elsewhere.
The third column is {student!r} for the student and {teacher!r} for the teacher.
"""
_rows = [Interval(Integral, 1, None, closed="left")]


@validate_params(
    {
        "n_teacher": _rows,
        "n_train": _rows,
        "n_valid": _rows,
        "n_test": _rows,
        "delta": [Interval(Real, 0, None, closed="left")],
        "student_feature": [StrOptions(set(THIRD_COLUMNS))],
        "teacher_feature": [StrOptions(set(THIRD_COLUMNS))],
        "random_state": ["random_state"],
    },
    prefer_skip_nested_validation=True,
)
def make_metaparameter_synthetic(
    n_teacher: int = 200,
    n_train: int = 15,
    n_valid: int = 15,
    n_test: int = 200,
    *,
    delta: float = 0.5,
    student_feature: str = "and",
    teacher_feature: str = "or",
    random_state: int | np.random.RandomState | None = None,
) -> Bunch:
    """Draw the paper's synthetic classification problem.

    Two features are standard normal; the label is 1 where

        x1 · x2 + delta > 0,  delta ~ N(0, 0.5²),

    and 0 elsewhere. No linear model can use x1 and x2 alone. The third feature is made from their
    signs. Teacher and student may see different third features, so the teacher makes errors:

    ==============================  ===================  ===================
    to follow                       ``student_feature``  ``teacher_feature``
    ==============================  ===================  ===================
    the paper's text                ``"and"``            ``"or"``
    its notebook, naive and random  ``"and"``            ``"and"``
    its notebook, other methods     ``"product"``        ``"and"``
    ==============================  ===================  ===================

    Rows and labels do not depend on these two parameters, so methods can be compared on equal features.

    Parameters
    ----------
    n_teacher : int, default=200
        Number of rows that the teacher is trained on.
    n_train : int, default=15
        Number of rows that the student is trained on.
    n_valid : int, default=15
        Number of rows to learn the metaparameters from. The notebook draws as many and leaves them
        unused: the paper validates on its test rows (``X_val=data.X_test``).
    n_test : int, default=200
        Number of test rows.
    delta : float, default=0.5
        Standard deviation of the noise in the label. The text writes N(0, 0.5); in the notebook 0.5
        is the standard deviation.
    student_feature : {"and", "or", "product"}, default="and"
        The student's third column: 1 where x1 and x2 are both positive, else 0 (``"and"``); 1 where
        at least one of them is, else 0 (``"or"``); or sign(x1 · x2) = ±1, which is the label
        without its noise (``"product"``).
    teacher_feature : {"and", "or", "product"}, default="or"
        The teacher's third column. The text has [sign(x1) + sign(x2) + 0.1 > 0], which is
        ``"or"``; the notebook [sign(x1) + sign(x2) > 0.1], which is ``"and"``.
    random_state : int, RandomState instance or None, default=None
        With 42 and the default sizes and delta, the rows are those of the paper's notebook.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        X_train, X_valid, X_test : ndarray of shape (n_train, 3), (n_valid, 3), (n_test, 3)
            Rows as the student sees them.
        y_train, y_valid, y_test : ndarray of shape (n_train,), (n_valid,), (n_test,)
            Labels 0 and 1.
        X_teacher, y_teacher : ndarray of shape (n_teacher, 3), (n_teacher,)
            Training set of the teacher, as the teacher sees it.
        X_train_teacher, X_valid_teacher, X_test_teacher : ndarray
            Rows of ``X_train``, ``X_valid`` and ``X_test`` as the teacher sees them, to compute its
            logits.
        feature_names : list of str
            Names of the student's columns.
        DESCR : str
            A short description.

    Raises
    ------
    ValueError
        If a size is below 1, ``delta`` is negative or a feature is unknown.

    See Also
    --------
    sklearn_kd.DistilledClassifier : Distil the teacher's logits, given as ``teacher_logits``.

    References
    ----------
    M. Gorpinich, O. Yu. Bakhteev, V. V. Strijov, "Metaparameter optimization in knowledge
    distillation", section 4.1.

    Examples
    --------
    Teacher and student see different features, so the teacher's logits are computed beforehand:

    >>> import numpy as np
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn_kd import DistilledClassifier, MLPStudent
    >>> from sklearn_kd.datasets import make_metaparameter_synthetic
    >>> data = make_metaparameter_synthetic(random_state=0)
    >>> data.X_train.shape, data.X_test.shape
    ((15, 3), (200, 3))
    >>> teacher = LogisticRegression().fit(data.X_teacher, data.y_teacher)
    >>> logits = teacher.predict_log_proba(data.X_train_teacher)
    >>> student = DistilledClassifier(
    ...     None, MLPStudent, student__hidden=(), batch_size=15, max_epochs=50, random_state=0)
    >>> student = student.fit(
    ...     data.X_train, data.y_train, teacher_logits=logits,
    ...     X_val=data.X_valid, y_val=data.y_valid)
    >>> student.predict(data.X_test).shape
    (200,)
    """
    rng = check_random_state(random_state)
    sizes = [n_teacher, n_train, n_valid, n_test]
    x = rng.standard_normal((sum(sizes), 2))
    y = (x[:, 0] * x[:, 1] + delta * rng.standard_normal(len(x)) > 0).astype(np.int64)
    ends = np.cumsum(sizes)[:-1]
    student, teacher = (
        np.split(np.column_stack([x, THIRD_COLUMNS[feature](x)]), ends)
        for feature in (student_feature, teacher_feature)
    )
    y_teacher, y_train, y_valid, y_test = np.split(y, ends)
    return Bunch(
        X_train=student[1],
        y_train=y_train,
        X_valid=student[2],
        y_valid=y_valid,
        X_test=student[3],
        y_test=y_test,
        X_teacher=teacher[0],
        y_teacher=y_teacher,
        X_train_teacher=teacher[1],
        X_valid_teacher=teacher[2],
        X_test_teacher=teacher[3],
        feature_names=["x1", "x2", student_feature],
        DESCR=DESCR.format(delta=delta, student=student_feature, teacher=teacher_feature),
    )

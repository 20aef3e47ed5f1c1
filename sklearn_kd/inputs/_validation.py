"""Check the inputs of ``fit`` and ``predict``: rows, targets and weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import sparse
from sklearn.base import BaseEstimator
from sklearn.utils import column_or_1d
from sklearn.utils.validation import validate_data

from sklearn_kd._sklearn_compat import check_sample_weight
from sklearn_kd.errors._context import error_context
from sklearn_kd.inputs._arrays import from_torch, refuse_path
from sklearn_kd.inputs._integers import (
    KeepsIntegers,
    further_integers,
    integers_alone,
    is_wide,
    wide_integers,
)
from sklearn_kd.inputs._large_arrays import all_finite, is_large, kept_or_float32, shared_tensor
from sklearn_kd.inputs._parts import Parts, are_integers, row_shape_of
from sklearn_kd.inputs._raw_rows import RawRows, checked_raw_rows, transformed
from sklearn_kd.inputs._sample_shape import check_sample_shape, refuse_other_images
from sklearn_kd.inputs._sparse_rows import SparseRows, sparse_rows
from sklearn_kd.inputs._stream_data import BoundStream
from sklearn_kd.inputs._streams import Stream
from sklearn_kd.inputs._structures import (
    check_row_shape,
    is_structure,
    own_labels,
    read_structure,
    some_rows,
)
from sklearn_kd.inputs._torch_datasets import DatasetRows, is_dataset, labeled_rows
from sklearn_kd.inputs._unlabeled import UnlabeledRows
from sklearn_kd.runtime._random_state import preserved_random_state
from sklearn_kd.tasks._labels import missing_among
from sklearn_kd.tasks._task import Task, TaskMaker

Rows = np.ndarray | SparseRows | DatasetRows | RawRows | Parts

_PLAIN_FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


class ValidationRows(NamedTuple):
    """Rows, their encoded targets, and their weights or None."""

    rows: Rows
    codes: np.ndarray
    weight: np.ndarray | None


class Loading(NamedTuple):
    """Settings for reading a Dataset: the device of the fit, and the settings of the DataLoaders."""

    device: torch.device
    train: Mapping[str, Any]
    valid: Mapping[str, Any]


class Continued(NamedTuple):
    """A fit that ``warm_start=True`` continues: its task, and the shape of its samples."""

    task: Task
    sample_shape: tuple[Any, ...]


@dataclass(frozen=True, eq=False)
class ValidatedInputs:
    """All arguments of ``fit``, checked.

    Attributes
    ----------
    X_given : object
        X as given, for a teacher that is fitted on it and for callbacks.
    rows : ndarray of shape (n, ...), SparseRows, DatasetRows, RawRows, or Parts of arrays
        Float32, or another type if they are many; parts keep integers and booleans. RawRows are converted to
        numbers later, by ``student_preprocessing``, which is fitted once D_train is known.
    codes : ndarray of shape (n,) or (n, n_targets)
        Encoded targets.
    weight : ndarray of shape (n,) or None
        Weights of the rows in training and in D_val: ``sample_weight`` times the class weights.
    valid : ValidationRows or None
        The given D_val.
    task : Task
        The kind of target in y.
    teacher_columns : list or None
        ``teacher_classes``, if given: the class of each column of the teacher's logits.
    teacher_logits : ndarray of shape (n, n_outputs), float32, or None
        Given logits, aligned with rows and outputs.
    X_val_given : object, default=None
        X_val as given.
    unlabeled : UnlabeledRows or None, default=None
        ``X_unlabeled``, with the given logits of its rows.
    sample_weight : ndarray of shape (n,) or None
        Weights as given, for the teacher and for callbacks.
    groups : ndarray of shape (n,) or None
        Code of each row's group.
    stream : BoundStream or None, default=None
        X if it is a stream; ``rows`` are then its first rows.
    """

    X_given: Any
    rows: Rows
    codes: np.ndarray
    weight: np.ndarray | None
    valid: ValidationRows | None
    task: Task
    teacher_columns: list | None = None
    teacher_logits: np.ndarray | None = None
    X_val_given: Any = None
    unlabeled: UnlabeledRows | None = None
    sample_weight: np.ndarray | None = None
    groups: np.ndarray | None = None
    stream: BoundStream | None = None

    @property
    def n_rows(self) -> int:
        """Number of rows given to ``fit``, for a stream those of an epoch; a given D_val does not count."""
        n = len(self.rows) if self.stream is None else self.stream.stream.n_rows
        return n + (0 if self.unlabeled is None else len(self.unlabeled))

    @property
    def is_loaded(self) -> bool:
        """True if X is a Dataset, read batch by batch."""
        return isinstance(self.rows, DatasetRows)

    @property
    def sample_shape(self) -> tuple[Any, ...]:
        """Shape of a sample, or the :class:`RowShape` of parts."""
        return tuple(self.rows.shape[1:])

    def given_rows(self, places: np.ndarray) -> Any:
        """Return some rows of X in the form in which X was given."""
        return self.rows[places] if self.is_loaded else some_rows(self.X_given, places)

    def with_numbers(self, transform: Callable[[RawRows], np.ndarray | SparseRows]) -> ValidatedInputs:
        """Return the inputs with all raw rows converted to numbers."""

        def numbers(rows: Rows) -> Rows:
            return transform(rows) if isinstance(rows, RawRows) else rows

        valid, unlabeled = self.valid, self.unlabeled
        return replace(
            self,
            rows=numbers(self.rows),
            valid=None if valid is None else valid._replace(rows=numbers(valid.rows)),
            unlabeled=None if unlabeled is None else replace(unlabeled, rows=numbers(unlabeled.rows)),
        )

    def targets(self, places: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Return the targets of some rows, in the user's labels or units."""
        return self.task.decode(self.codes[places])


# --------------------------------------------------------------------------------------
# Before a fit


def check_same_form(X: Any, X_val: Any, X_unlabeled: Any = None) -> bool:
    """Return True if X is a Dataset or a stream.

    Raises
    ------
    TypeError
        If X_val or X_unlabeled is given in another form.
    """
    loaded = isinstance(X, Stream) or is_dataset(X)
    for name, given in () if isinstance(X, Stream) else (("X_val", X_val), ("X_unlabeled", X_unlabeled)):
        if given is not None and is_dataset(given) != loaded:
            raise TypeError(
                f"X is {'a' if loaded else 'no'} Dataset and {name} is {'no' if loaded else 'a'} Dataset; "
                "give both in one form. torch.utils.data.TensorDataset makes a Dataset of arrays."
            )
    return loaded


def validate_fit_inputs(
    estimator: BaseEstimator,
    X: Any,
    y: Any,
    sample_weight: Any = None,
    X_val: Any = None,
    y_val: Any = None,
    X_unlabeled: Any = None,
    *,
    sample_weight_val: Any = None,
    groups: Any = None,
    task_type: TaskMaker,
    loading: Loading,
    continued: Continued | None = None,
    raw: bool = False,
    keeps_integers: KeepsIntegers | None = None,
) -> ValidatedInputs:
    """Check the data of a fit.

    This sets the estimator's ``n_features_in_`` and, if X has names, ``feature_names_in_``, as
    scikit-learn's ``validate_data`` does.

    Parameters
    ----------
    estimator : BaseEstimator
        Named in messages.
    X, y, sample_weight, X_val, y_val, X_unlabeled, sample_weight_val, groups
        As given to ``fit``.
    task_type : TaskMaker
        Makes the task from y.
    loading : Loading
        Settings for reading Datasets.
    continued : Continued or None, default=None
        The fit that this one continues.
    raw : bool, default=False
        Whether rows stay as given, for ``student_preprocessing`` to convert.
    keeps_integers : callable or None, default=None
        Decides whether a table of integers keeps its type. None: it becomes float32.

    Raises
    ------
    ValueError, TypeError
        If an argument cannot be used. The message names it.
    """
    X_given, rows, targets = _checked_rows(estimator, X, y, task_type, loading, raw)
    if 0 in rows.shape[1:]:
        raise ValueError(f"X has samples of shape {rows.shape[1:]}, without a number in them.")
    weight = _checked_weight(sample_weight, targets)
    task, codes = task_type.from_targets(targets, weight)
    task.check_learnable(codes, weight)
    rows = _with_integers(rows, X if isinstance(X, list) else X_given, task, continued, keeps_integers)
    sample_shape = continued.sample_shape if raw and continued else tuple(rows.shape[1:])
    if continued is not None:
        _check_continues(continued, task, sample_shape)
    valid = _checked_validation_rows(estimator, X_val, y_val, task, sample_shape, loading, raw)
    valid = _weighted_validation_rows(valid, sample_weight_val)
    return ValidatedInputs(
        X_given,
        rows,
        codes,
        weight,
        valid,
        task,
        X_val_given=None if valid is None else _as_given(X_val, valid.rows),
        unlabeled=_checked_unlabeled_rows(estimator, X_unlabeled, rows, sample_shape, loading, raw),
        sample_weight=weight,
        groups=_checked_groups(groups, len(codes)),
    )


def _checked_rows(
    estimator: Any, X: Any, y: Any, task_type: TaskMaker, loading: Loading, raw: bool
) -> tuple[Any, Rows, np.ndarray]:
    """Return X as given, its rows, and the targets."""
    refuse_path(X)
    if is_structure(X):
        if raw:
            raise TypeError(
                f"X is a {type(X).__name__} of several parts, but student_preprocessing takes one table. "
                "Set student_preprocessing=None, or give X as a table."
            )
        return _checked_parts(estimator, X, y, task_type)
    X_given, y = from_torch(X, "X"), from_torch(y, "y")
    if is_dataset(X):
        if raw:
            raise TypeError(
                "X is a Dataset, whose items are numbers: student_preprocessing has nothing to work on. Set "
                "student_preprocessing=None, or give X as a table or an array."
            )
        with preserved_random_state(loading.device, seed=0):
            rows, targets = labeled_rows(X, task_type.check_targets, y, **loading.train)
        vars(estimator).pop("feature_names_in_", None)  # of an earlier fit
        vars(estimator).pop("n_features_in_", None)
        if row_shape_of(rows.shape[1:]) is None:
            estimator.n_features_in_ = rows.shape[1]
        return X_given, rows, targets
    X_rows: Rows
    if raw:
        X_rows = checked_raw_rows(estimator, X_given, "X", reset=True)
    else:
        with error_context("X", X_given):
            X_rows = _numeric_rows(estimator, X_given, reset=True)
    _require_targets(estimator, y)
    targets = task_type.check_targets(y, len(X_rows))
    return _as_given(X_given, X_rows), X_rows, targets


def _require_targets(estimator: Any, y: Any) -> None:
    if y is None:
        raise ValueError(
            f"This {type(estimator).__name__} estimator requires y to be passed, but the target y is "
            "None. Give one target per row of X, or X as a Dataset of pairs (x, target)."
        )


def _checked_parts(estimator: Any, X: Any, y: Any, task_type: TaskMaker) -> tuple[Any, Parts, np.ndarray]:
    """Return X with several parts as given, its rows and the targets; ``n_features_in_`` is not set."""
    rows = read_structure(X)
    y = own_labels(X) if y is None else from_torch(y, "y")
    _require_targets(estimator, y)
    for name in ("n_features_in_", "feature_names_in_"):
        vars(estimator).pop(name, None)  # of an earlier fit
    return X, rows, task_type.check_targets(y, len(rows))


def _with_integers(
    rows: Rows, X: Any, task: Task, continued: Continued | None, keeps_integers: KeepsIntegers | None
) -> Rows:
    """Return rows of integers as integers if the student needs them, and other rows as they are."""
    kept: Rows
    if keeps_integers is None or not isinstance(rows, (np.ndarray, DatasetRows)):
        return rows
    if isinstance(rows, DatasetRows):
        if not is_wide(rows.samples):
            return rows
        kept, codes = rows.with_integers(), rows.with_integers().samples
    else:
        values = wide_integers(X)
        if values is None:
            return rows
        kept, codes = integers_alone(values), integers_alone(values).map(shared_tensor)
    if continued is not None:
        return kept if are_integers(continued.sample_shape) else rows
    return kept if keeps_integers(codes, task.n_outputs) else rows


def _numeric_rows(estimator: Any, X: Any, *, reset: bool) -> np.ndarray | SparseRows:
    """Return rows of finite numbers, checked by scikit-learn: large arrays themselves, else float32.

    With ``reset`` the estimator's features are set, else compared.
    """
    if sparse.issparse(X):
        return sparse_rows(validate_data(estimator, X, accept_sparse="csr", dtype=np.float32, reset=reset))
    rows = validate_data(estimator, X, dtype=None, ensure_all_finite=False, allow_nd=True, reset=reset)
    if isinstance(rows, np.ndarray) and rows.dtype.kind in "fiub" and rows.ndim > 1:
        rows = kept_or_float32(rows)
        if all_finite(rows):
            return rows
    # This converts anything that is not numbers yet, or raises an error that explains.
    return validate_data(estimator, X, dtype=np.float32, allow_nd=True, reset=reset)


def _checked_weight(
    sample_weight: Any, targets: np.ndarray, name: str = "sample_weight"
) -> np.ndarray | None:
    """Return the weights of the rows, float64, or None; ``name`` names them in messages."""
    if sample_weight is None:
        return None
    with error_context(name):
        weight = check_sample_weight(from_torch(sample_weight, name), targets, dtype=np.float64)
    if weight.min() < 0:
        raise ValueError(f"{name} must not be negative.")
    if not weight.any():
        raise ValueError(f"{name} is zero for every row: none is non-zero.")
    return weight


def _weighted_validation_rows(valid: ValidationRows | None, sample_weight_val: Any) -> ValidationRows | None:
    """Return the given D_val with its weights, or None.

    Raises
    ------
    ValueError
        If there are weights but no rows, or the weights cannot be used.
    """
    if sample_weight_val is None:
        return valid
    if valid is None:
        raise ValueError(
            "sample_weight_val are the weights of X_val, which is missing. Give X_val and y_val; rows that "
            "are held out of X have the weights in sample_weight."
        )
    return valid._replace(weight=_checked_weight(sample_weight_val, valid.codes, "sample_weight_val"))


def _checked_groups(groups: Any, n_rows: int) -> np.ndarray | None:
    """Return the code of each row's group, or None.

    Raises
    ------
    ValueError
        If there is not one group for each row.
    TypeError
        If the groups are of several types, which cannot be sorted.
    """
    if groups is None:
        return None
    found = from_torch(groups, "groups")
    if np.ndim(found) != 1 and np.shape(found)[1:] != (1,):
        raise ValueError(
            f"groups must have one entry for each row of X, shape ({n_rows},); got shape {np.shape(found)}."
        )
    with error_context("groups"):
        found = column_or_1d(found)
    if len(found) != n_rows:
        raise ValueError(
            f"groups has {len(found)} entries and X {n_rows} rows; both must have the same number. Give the "
            "group of each row."
        )
    if missing_among(found).any():
        raise ValueError("groups contains NaN or None. Give every row a group, its own if it has no other.")
    try:
        return np.unique(found, return_inverse=True)[1]
    except TypeError as error:
        raise TypeError(
            f"groups are of several types, which cannot be sorted: {error}. Give names of one type."
        ) from error


def _check_continues(continued: Continued, task: Task, sample_shape: tuple[int, ...]) -> None:
    """Refuse to continue with a student of other data."""
    before, now = ((each.outputs_noun, each.output_labels) for each in (continued.task, task))
    same = type(task) is type(continued.task) and now[1].tolist() == before[1].tolist()
    if not same or sample_shape != continued.sample_shape or task.map_shape != continued.task.map_shape:
        raise ValueError(
            f"warm_start=True continues with a student for {' '.join(map(str, before))} and samples of shape "
            f"{continued.sample_shape}{_with_maps(continued.task)}; got {' '.join(map(str, now))} and "
            f"{sample_shape}{_with_maps(task)}. Fit on the same kind of data, or set warm_start=False."
        )


def _with_maps(task: Task) -> str:
    return f" with maps of shape {task.map_shape}" if task.map_shape else ""


def _checked_validation_rows(
    estimator: BaseEstimator,
    X_val: Any,
    y_val: Any,
    task: Task,
    sample_shape: tuple[Any, ...],
    loading: Loading,
    raw: bool,
) -> ValidationRows | None:
    """Return the given D_val, or None."""
    if X_val is None and y_val is None:
        return None
    if X_val is None or (y_val is None and not is_dataset(X_val) and own_labels(X_val) is None):
        missing = "X_val" if X_val is None else "y_val"
        raise ValueError(f"X_val and y_val belong together; {missing} is missing.")
    rows: Rows
    if is_dataset(X_val):
        with preserved_random_state(loading.device, seed=0):
            y_val = from_torch(y_val, "y_val")
            loaded, targets = labeled_rows(X_val, task.check_targets, y_val, "X_val", **loading.valid)
        rows = loaded.with_integers() if are_integers(sample_shape) else loaded
        check_sample_shape(rows, sample_shape, "X_val", estimator)
    elif not is_structure(X_val) and (X_val.shape[0] if sparse.issparse(X_val) else len(X_val)) == 0:
        raise ValueError("D_val is empty: X_val has 0 rows. Give at least one, preferably 100.")
    else:
        rows = validate_further_rows(estimator, X_val, sample_shape, "X_val", raw=raw)
        y_val = own_labels(X_val) if y_val is None else y_val
        targets = task.check_targets(from_torch(y_val, "y_val"), len(rows), "y_val", "X_val")
    return ValidationRows(rows, task.encode(targets, "y_val"), None)


def _checked_unlabeled_rows(
    estimator: BaseEstimator,
    X_unlabeled: Any,
    labeled: Rows,
    sample_shape: tuple[Any, ...],
    loading: Loading,
    raw: bool,
) -> UnlabeledRows | None:
    """Return the given unlabeled rows, or None."""
    if X_unlabeled is None:
        return None
    if is_dataset(X_unlabeled):
        with preserved_random_state(loading.device, seed=0):
            loaded = DatasetRows(X_unlabeled, loading.train.get("collate_fn"), "X_unlabeled")
        loaded = loaded.with_integers() if are_integers(sample_shape) else loaded
        check_sample_shape(loaded, sample_shape, "X_unlabeled", estimator)
        return UnlabeledRows("X_unlabeled", X_unlabeled, loaded)
    given = X_unlabeled if is_structure(X_unlabeled) else from_torch(X_unlabeled, "X_unlabeled")
    if getattr(given, "shape", (1,))[:1] == (0,) or (isinstance(given, list) and not given):
        raise ValueError("X_unlabeled has 0 rows. Give at least one, or leave X_unlabeled out.")
    rows = validate_further_rows(estimator, given, sample_shape, "X_unlabeled", raw=raw)
    if isinstance(rows, SparseRows) != isinstance(labeled, SparseRows):
        forms = ("dense", "sparse") if isinstance(rows, SparseRows) else ("sparse", "dense")
        raise TypeError(f"X is {forms[0]} and X_unlabeled is {forms[1]}. Give both in one form.")
    return UnlabeledRows("X_unlabeled", _as_given(given, rows), rows)


def _as_given(X: Any, rows: Rows) -> Any:
    """Return X in a container whose rows can be indexed."""
    if isinstance(rows, RawRows):
        return rows.X
    if is_structure(X):
        return X
    X = from_torch(X, "X")
    if sparse.issparse(X):
        return X.tocsr()
    return X if hasattr(X, "shape") else rows


# --------------------------------------------------------------------------------------
# Further rows


def validate_further_rows(
    estimator: BaseEstimator, X: Any, sample_shape: tuple[Any, ...], name: str, *, raw: bool
) -> np.ndarray | SparseRows | RawRows | Parts:
    """Check that further rows have the features and sample shape seen in ``fit``, and return them.

    Parameters
    ----------
    estimator : BaseEstimator
        Its ``n_features_in_`` and ``feature_names_in_`` are compared.
    X : array-like, sparse matrix, DataFrame, mapping or tuple of arrays
    sample_shape : tuple of int, or of a RowShape
        Sample shape seen in ``fit``; not compared if ``raw``.
    name : str
        Name of X in messages.
    raw : bool
        Whether rows stay as given, for ``student_preprocessing`` to convert.

    Raises
    ------
    ValueError
        If X has other features, another shape, or values that are not finite.
    """
    if raw:
        return checked_raw_rows(estimator, X, name, reset=False)
    parts, has_parts = row_shape_of(sample_shape), is_structure(X)
    if parts is not None and parts.keys is None and not has_parts:
        return further_integers(estimator, X, parts.parts[0].sizes, name)
    if has_parts != (parts is not None):
        before = f"samples of shape {sample_shape}" if parts is None else f"the parts {parts!r}"
        raise ValueError(
            f"{name} is a {type(X).__name__} of {'parts' if has_parts else 'rows'}, but "
            f"{type(estimator).__name__} was fitted on {before}. Give {name} as X was given to fit."
        )
    if parts is not None:
        return check_row_shape(read_structure(X, name), parts, name, estimator)
    refuse_other_images(X, sample_shape, name, estimator)
    with error_context(name, X):
        rows = _numeric_rows(estimator, from_torch(X, name), reset=False)
    check_sample_shape(rows, sample_shape, name, estimator)
    return rows


def validate_predict_inputs(
    estimator: BaseEstimator, X: Any, sample_shape: tuple[Any, ...], name: str = "X", any_size: bool = False
) -> np.ndarray | SparseRows | Parts:
    """Check that X has the features and sample shape seen in ``fit``; return float32, or X if large.

    The fitted ``student_preprocessing_``, if there is one, converts X to numbers. Parts of X, and integers
    that the student looks up, are returned as :class:`Parts` of arrays.

    Parameters
    ----------
    estimator : BaseEstimator
        Its ``n_features_in_`` and ``feature_names_in_`` are compared.
    X : array-like, mapping or tuple of arrays
    sample_shape : tuple of int, or of a RowShape
        Sample shape seen in ``fit``.
    name : str, default="X"
        Name of X in messages.
    any_size : bool, default=False
        Whether images that ``student_preprocessing_`` makes may have any height and width.

    Raises
    ------
    ValueError
        If X has other features, another shape, or values that are not finite.
    """
    preprocessing = vars(estimator).get("student_preprocessing_")
    if preprocessing is None:
        plain = None if is_large(X) else _plain_rows(estimator, X, sample_shape)
        if plain is not None:
            return plain
    rows = validate_further_rows(estimator, X, sample_shape, name, raw=preprocessing is not None)
    if not isinstance(rows, RawRows):
        return rows
    numbers = transformed(preprocessing, rows)
    if any_size and numbers.ndim == 4:
        sample_shape = sample_shape[0], *numbers.shape[2:]
    check_sample_shape(numbers, sample_shape, f"{name} after student_preprocessing", estimator)
    return numbers


def _plain_rows(estimator: BaseEstimator, X: Any, sample_shape: tuple[Any, ...]) -> np.ndarray | None:
    """Return what ``validate_data`` would return, if X needs no conversion or message; else None.

    X must be a finite float array of the sample shape seen in ``fit``, without feature names.
    ``validate_data`` also tests what else X might be, which takes longer than a small student's prediction
    for a row.
    """
    if type(X) is not np.ndarray or X.dtype not in _PLAIN_FLOATS or not X.size:
        return None
    if X.shape[1:] != sample_shape or "feature_names_in_" in vars(estimator):
        return None
    # Overflow of float32 becomes infinity; infinities of both signs sum to NaN.
    with np.errstate(all="ignore"):
        rows = X.astype(np.float32, copy=False)
        # A sum is finite only if all its terms are.
        return rows if math.isfinite(rows.sum()) else None

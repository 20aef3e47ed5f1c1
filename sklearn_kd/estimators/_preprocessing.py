"""Fit, apply and save ``student_preprocessing``, which converts the rows of a table for the student."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import joblib
import numpy as np
import torch
from scipy import sparse
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.utils import check_array
from sklearn.utils.validation import check_is_fitted

from sklearn_kd.errors._did_you_mean import did_you_mean
from sklearn_kd.estimators._codes import wants_codes
from sklearn_kd.files._values import ContentError
from sklearn_kd.inputs._data import DistillationData
from sklearn_kd.inputs._raw_rows import Preprocessing, RawRows, fit_preprocessing, transformed
from sklearn_kd.inputs._sample_shape import check_sample_shape
from sklearn_kd.inputs._sparse_rows import SparseRows, sparse_rows
from sklearn_kd.inputs._splitting import HoldOut, make_data, split_places
from sklearn_kd.inputs._validation import ValidatedInputs, ValidationRows
from sklearn_kd.preprocessing._form import form_of, table_of
from sklearn_kd.preprocessing._table import TablePreprocessing
from sklearn_kd.runtime._process_group import by_first
from sklearn_kd.runtime._ranks import Ranks

if TYPE_CHECKING:
    from sklearn_kd.estimators._base import BaseDistiller
    from sklearn_kd.estimators._classifier import DistilledClassifier

AUTO = "auto"


def check_preprocessing(preprocessing: Any) -> None:
    """Raise ValueError or TypeError unless ``student_preprocessing`` is a usable value or None."""
    if preprocessing is None or preprocessing == AUTO:
        return
    if isinstance(preprocessing, str):
        raise ValueError(
            f"student_preprocessing={preprocessing!r} is not known.{did_you_mean(preprocessing, [AUTO])} "
            "Give 'auto', a transformer, or None."
        )
    if isinstance(preprocessing, type):
        name = preprocessing.__name__
        raise TypeError(f"student_preprocessing={name} is a class. Give an object: {name}().")
    if not hasattr(preprocessing, "fit") or not hasattr(preprocessing, "transform"):
        raise TypeError(
            f"student_preprocessing={preprocessing!r} is not a transformer: it lacks fit or transform. "
            "Give 'auto', a transformer of scikit-learn, or None."
        )


def takes_raw_rows(estimator: BaseDistiller) -> bool:
    """Return whether a fit leaves the rows of X as given, for ``student_preprocessing``.

    Raises
    ------
    ValueError
        If ``warm_start=True`` continues a fit, and only one of the two has a ``student_preprocessing``.
    """
    is_asked_for = getattr(estimator, "student_preprocessing", None) is not None
    if estimator._continues():
        had = vars(estimator).get("student_preprocessing_") is not None
        if had != is_asked_for:
            raise ValueError(
                f"warm_start=True continues with a student that was fitted {'with' if had else 'without'} "
                f"student_preprocessing; got student_preprocessing={estimator.student_preprocessing!r}. Set "
                "it as in that fit, or set warm_start=False."
            )
    return is_asked_for


def with_preprocessing(
    estimator: DistilledClassifier, inputs: ValidatedInputs, hold_out: HoldOut | None, ranks: Ranks
) -> ValidatedInputs:
    """Return the inputs with numeric rows; set ``student_preprocessing_``, fitted on the rows of D_train.

    Parameters
    ----------
    estimator : BaseDistiller
    inputs : ValidatedInputs
        Returned unchanged if their rows are numeric already.
    hold_out : HoldOut or None
        How D_train is split off.
    ranks : Ranks
        The first rank fits the transformer for all.
    """
    if not isinstance(inputs.rows, RawRows):
        estimator.student_preprocessing_ = None
        return inputs
    if estimator._continues():  # keep the transformer of the first fit, which the student was trained with
        preprocessing = estimator.student_preprocessing_
    else:
        places, _ = split_places(inputs, hold_out)
        rows, y = inputs.rows[places], inputs.targets(places)
        preprocessing = by_first(ranks, lambda: _fitted(estimator, rows, y))
    found = inputs.with_numbers(lambda rows: transformed(preprocessing, rows))
    if found.valid is not None:
        check_sample_shape(
            found.valid.rows, found.sample_shape, "X_val behind student_preprocessing", estimator
        )
    if estimator._continues():
        check_sample_shape(found.rows, estimator._sample_shape, "X behind student_preprocessing", estimator)
    estimator.__dict__.update(student_preprocessing_=preprocessing, _sample_shape=found.sample_shape)
    return found


def _fitted(estimator: BaseDistiller, rows: RawRows, y: np.ndarray) -> Preprocessing:
    """Return a clone of ``student_preprocessing``, fitted on the rows of D_train and their labels."""
    given = estimator.student_preprocessing
    return fit_preprocessing(_automatic(estimator) if isinstance(given, str) else given, rows, y)


def student_data_of(
    estimator: BaseDistiller, X: Any, y: np.ndarray, device: torch.device
) -> Callable[[Any], DistillationData]:
    """Return a function that turns further rows into the data for a student or a network teacher.

    Parameters
    ----------
    estimator : BaseDistiller
        Only ``student_preprocessing`` is used.
    X, y
        Rows of D_train in the user's container, and their labels.
    device : torch.device
    """
    raw = estimator.student_preprocessing is not None
    preprocessing = _fitted(estimator, RawRows(X), y) if raw else None

    def data(rows: Any) -> DistillationData:
        found: np.ndarray | SparseRows
        if preprocessing is not None:
            found = transformed(preprocessing, RawRows(rows))
        elif sparse.issparse(rows):
            found = sparse_rows(rows)
        else:
            found = check_array(rows, dtype=np.float32, allow_nd=True)
        return make_data(ValidationRows(found, np.zeros(len(found), dtype=np.int64), None), 0, device)

    return data


def _automatic(estimator: BaseDistiller) -> TablePreprocessing:
    """Return the transformer that "auto" stands for; it makes codes if the student looks them up."""
    return TablePreprocessing(categories="ordinal") if wants_codes(estimator) else TablePreprocessing()


def described_preprocessing(estimator: BaseDistiller) -> str | None:
    """Return a hash of a frozen transformer's fitted state, from which a checkpoint recognises it."""
    given = getattr(estimator, "student_preprocessing", None)
    return joblib.hash(given.estimator) if isinstance(given, FrozenEstimator) else None


def names_of_columns(estimator: BaseDistiller) -> Sequence[str] | None:
    """Return the names of the student's input columns, or None if they have no names."""
    preprocessing = vars(estimator).get("student_preprocessing_")
    if preprocessing is None:
        return getattr(estimator, "feature_names_in_", None)
    with suppress(Exception):  # a user's transformer need not have them
        return list(preprocessing.get_feature_names_out())
    return None


# --------------------------------------------------------------------------------------
# In a file

_IN_FILE, _NOT_IN_FILE = "student_preprocessing_state", "student_preprocessing_class"


def preprocessing_content(estimator: BaseDistiller) -> dict[str, Any]:
    """Return what a file stores of ``student_preprocessing_``: its fitted state, or only its class."""
    preprocessing = vars(estimator).get("student_preprocessing_")
    if preprocessing is None:
        return {}
    about: dict[str, Any] = {"n_features": getattr(estimator, "n_features_in_", None)}
    if type(preprocessing) is TablePreprocessing:
        return about | {_IN_FILE: form_of(preprocessing)}
    cls = type(preprocessing)
    return about | {_NOT_IN_FILE: f"{cls.__module__}.{cls.__qualname__}", "needed": ["student_preprocessing"]}


def preprocessing_of_content(
    estimator: BaseDistiller, about: Mapping[str, Any], given: Mapping[str, Any]
) -> Any:
    """Return the fitted ``student_preprocessing_`` of a loaded estimator.

    Parameters
    ----------
    estimator : BaseDistiller
        With the fitted attributes that all estimators share.
    about : mapping
        Content of the file.
    given : mapping
        The parameters that the caller of ``load`` gave.

    Raises
    ------
    ContentError
        If the file is invalid, or neither it nor the caller gives a transformer that fits.
    """
    names, n_outputs = getattr(estimator, "feature_names_in_", None), estimator._sample_shape[0]
    if _IN_FILE in about:
        return table_of(about[_IN_FILE], estimator.n_features_in_, names, n_outputs)
    if _NOT_IN_FILE not in about:
        return None
    what = (
        "no student_preprocessing in it: that of the saved estimator, a "
        f"{str(about[_NOT_IN_FILE])[:200]}, cannot be written to a file"
    )
    preprocessing = given.get("student_preprocessing")
    if preprocessing is None or isinstance(preprocessing, str):
        raise ContentError(
            f"{what}. Give load the fitted one, student_preprocessing=clf.student_preprocessing_, which "
            "joblib can write to another file"
        )
    check_preprocessing(preprocessing)
    try:
        check_is_fitted(preprocessing)
    except NotFittedError:
        raise ContentError(
            f"{what}, and the {type(preprocessing).__name__} that load was given is not fitted. Give it "
            "student_preprocessing=clf.student_preprocessing_"
        ) from None
    _check_takes(preprocessing, estimator, what)
    return preprocessing


def _check_takes(preprocessing: Any, estimator: BaseDistiller, what: str) -> None:
    """Refuse a transformer whose input columns are not X's, or whose output columns are not the student's."""
    for attribute in ("n_features_in_", "feature_names_in_"):
        its, needed = getattr(preprocessing, attribute, None), getattr(estimator, attribute, None)
        if its is not None and needed is not None and not np.array_equal(its, needed):
            raise ContentError(f"{what}. The given one has {attribute}={its}, and X had {needed}")
    try:
        n_made = len(preprocessing.get_feature_names_out())
    except Exception:  # not every transformer knows its columns; the first prediction checks them
        return
    if n_made != estimator._sample_shape[0]:
        raise ContentError(
            f"{what}. The given one makes {n_made} columns; the student takes {estimator._sample_shape[0]}"
        )

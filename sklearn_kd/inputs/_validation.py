"""Checks of what is given to ``fit`` and ``predict``: rows, labels and weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.utils.validation import validate_data

from sklearn_kd._sklearn_compat import check_sample_weight
from sklearn_kd.errors._context import error_context
from sklearn_kd.estimators._routed_parameters import RoutingEstimator
from sklearn_kd.inputs._arrays import from_torch
from sklearn_kd.inputs._labels import checked_labels, sorted_classes
from sklearn_kd.inputs._torch_datasets import DatasetRows, is_dataset, labelled_rows
from sklearn_kd.runtime._random_state import preserved_random_state


class CheckedRows(RoutingEstimator):
    """Base of estimators that are given rows; theirs are the device and ``warm_start``."""

    classes_: np.ndarray
    n_features_in_: int
    feature_names_in_: np.ndarray
    _sample_shape: tuple[int, ...]

    def _device(self) -> torch.device:
        raise NotImplementedError

    def _continues(self) -> bool:
        raise NotImplementedError

    def _loader_settings(self, part):
        """Return the loader's settings for "iterator_train" or "iterator_valid"."""
        return {"batch_size": self.batch_size} | self._routed(part)

    def _checked_forms(self, X: Any, X_val: Any) -> bool:
        """Return whether X is a Dataset; refuse X_val in another form."""
        loaded = is_dataset(X)
        if X_val is not None and is_dataset(X_val) != loaded:
            raise TypeError(
                f"X is {'a' if loaded else 'no'} Dataset and X_val is {'no' if loaded else 'a'} Dataset; "
                "give both in one form. torch.utils.data.TensorDataset makes arrays a Dataset."
            )
        return loaded

    def _checked_rows(
        self, X: Any, y: Any, sample_weight: Any
    ) -> tuple[Any, np.ndarray | DatasetRows, np.ndarray, np.ndarray | None]:
        """X as given, its rows (float32 if arrays), class codes, and weights or None.

        Sets ``classes_``.
        """
        X_given, y = from_torch(X, "X"), from_torch(y, "y")
        if is_dataset(X):
            with preserved_random_state(self._device(), seed=0):
                X, y = labelled_rows(X, y, **self._loader_settings("iterator_train"))
            self.n_features_in_ = X.shape[1]
            self.__dict__.pop("feature_names_in_", None)  # of an earlier fit
        else:
            with error_context("X"):
                X = validate_data(self, X_given, dtype=np.float32, allow_nd=True)
            if y is None:
                raise ValueError(
                    f"This {type(self).__name__} estimator requires y to be passed, but the target y is "
                    "None. Give one label per row of X, or X as a Dataset of pairs (x, label)."
                )
            y = checked_labels(y, len(X))
        if 0 in X.shape[1:]:
            raise ValueError(f"X has samples of shape {X.shape[1:]}, without a number in them.")
        classes, codes = sorted_classes(y)
        weight = None
        if sample_weight is not None:
            with error_context("sample_weight"):
                weight = check_sample_weight(from_torch(sample_weight, "sample_weight"), y, dtype=np.float64)
            if weight.min() < 0:
                raise ValueError("sample_weight must not be negative.")
            if not weight.any():
                raise ValueError("sample_weight is zero for every row: none is non-zero.")
        seen = np.unique(codes if weight is None else codes[weight > 0])
        if len(seen) < 2:
            raise ValueError(
                f"y has 1 class ({classes[seen[0]]!r}) in n_samples = {len(X)} rows"
                f"{'' if weight is None else ' of positive weight'}; a classifier needs at "
                "least two classes."
            )
        self._check_continues(classes, X.shape[1:])
        self.classes_, self._sample_shape = classes, X.shape[1:]
        keeps = is_dataset(X_given) or hasattr(X_given, "shape")
        return X_given if keeps else X, X, codes, weight

    def _check_continues(self, classes, sample_shape):
        """Refuse to go on with a student of other data."""
        if self._continues() and (
            not np.array_equal(classes, self.classes_) or sample_shape != self._sample_shape
        ):
            raise ValueError(
                f"warm_start=True goes on with a student for classes {self.classes_} and samples "
                f"of shape {self._sample_shape}; got {classes} and {sample_shape}. Fit on the "
                "same kind of data, or set warm_start=False."
            )

    def _checked_validation_rows(
        self, X_val: Any, y_val: Any
    ) -> tuple[np.ndarray | DatasetRows, np.ndarray, np.ndarray | None] | None:
        """(X, codes, None) of the given D_val, or None."""
        if X_val is None and y_val is None:
            return None
        if X_val is None or (y_val is None and not is_dataset(X_val)):
            missing = "X_val" if X_val is None else "y_val"
            raise ValueError(f"X_val and y_val belong together; {missing} is missing.")
        if is_dataset(X_val):
            with preserved_random_state(self._device(), seed=0):
                settings = self._loader_settings("iterator_valid")
                X, y = labelled_rows(X_val, from_torch(y_val, "y_val"), "X_val", **settings)
            self._check_sample_shape(X, "X_val")
        elif len(X_val) == 0:
            raise ValueError("D_val is empty: X_val has 0 rows. Give at least one, better 100.")
        else:
            X = self._checked_samples(X_val, "X_val")
            y = checked_labels(from_torch(y_val, "y_val"), len(X), "y_val", "X_val")
        with error_context("y_val"):
            unknown = np.setdiff1d(y, self.classes_)
        if len(unknown):
            raise ValueError(
                f"y_val has labels that y has not: {unknown[:5].tolist()}. The classes of y are "
                f"{self.classes_.tolist()[:10]}."
            )
        return X, np.searchsorted(self.classes_, y), None

    def _checked_samples(self, X, name="X"):
        """X as float32, of the shape that ``fit`` saw."""
        with error_context(name):
            X = validate_data(self, from_torch(X, name), dtype=np.float32, allow_nd=True, reset=False)
        self._check_sample_shape(X, name)
        return X

    def _check_sample_shape(self, X, name):
        if X.shape[1:] != self._sample_shape:
            raise ValueError(
                f"{name} has samples of shape {X.shape[1:]}, but {type(self).__name__} was "
                f"fitted on samples of shape {self._sample_shape}."
            )

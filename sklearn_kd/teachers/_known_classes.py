"""The classes that a teacher names by other attributes than ``classes_``, or by the names of its columns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sklearn_kd.inputs._arrays import column_names


def named_classes(teacher: Any, stated: list[Any] | None, classes: np.ndarray) -> Any:
    """Return the classes of a teacher's columns, or None if it does not know them.

    ``classes_`` count in any case. The names in ``labels`` (SetFit) and ``id2label`` (transformers) are
    often placeholders, such as LABEL_0: they count if they have all classes of y and nobody states others.

    Parameters
    ----------
    teacher : object
    stated : list or None
        The classes that the user states.
    classes : ndarray of shape (K,)
        Classes of y.
    """
    own = getattr(teacher, "classes_", None)
    if own is not None or stated is not None:
        return own
    wanted = set(classes.tolist())
    for names in (getattr(teacher, "labels", None), names_by_column(teacher)):
        listed = names.tolist() if isinstance(names, np.ndarray) else names
        if isinstance(listed, (list, tuple)) and wanted <= set(listed):
            return list(listed)
    return None


def names_by_column(teacher: Any) -> list[Any] | None:
    """Return the names in ``id2label`` of a model of transformers, in the order of its columns."""
    model = getattr(teacher, "model", None)
    for owner in (teacher, getattr(teacher, "config", None), getattr(model, "config", None)):
        names = getattr(owner, "id2label", None)
        if isinstance(names, Mapping) and names:
            by_column = {int(column): name for column, name in names.items()}
            return [by_column[column] for column in sorted(by_column)]
    return None


def named_columns(
    found: Any, values: Any, known: Any, who: str, source: str = "predict_proba"
) -> tuple[Any, Any]:
    """Return an answer's columns in the order of the known classes, and these or the names of the columns.

    Parameters
    ----------
    found : array-like
        The answer, of which a data frame names its columns.
    values : ndarray or Tensor
        The same numbers; of another shape where these names are none of its columns.
    known : array-like or None
        Classes of the columns, if they are known.
    who, source : str
        Name of the teacher in messages, and of its method.
    """
    names = column_names(found)
    if names is None or tuple(values.shape) != tuple(found.shape):
        return values, known
    if known is None:
        return values, names
    if len(known) != len(names):
        return values, known  # refused with the classes of y
    return values[:, in_order_of_names(found, np.asarray(known), who, source)], known


def in_order_of_names(found: Any, classes: np.ndarray, who: str, source: str = "predict_proba") -> np.ndarray:
    """Return the column of each class, by name if the columns have names."""
    in_order = np.arange(len(classes))
    names = column_names(found)
    if names is None or names == in_order.tolist():
        return in_order
    place = {str(name): column for column, name in enumerate(names)}
    if set(place) != {str(label) for label in classes.tolist()}:
        raise ValueError(
            f"{who}: {source} returned columns named {names[:10]}, but its classes_ are "
            f"{classes.tolist()[:10]}. Let it name them as the classes, or return an array."
        )
    return np.array([place[str(label)] for label in classes.tolist()])

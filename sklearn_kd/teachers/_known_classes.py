"""Find the classes that a teacher names in attributes other than ``classes_``, or by column names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sklearn_kd.inputs._arrays import column_names


def named_classes(teacher: Any, stated: list[Any] | None, classes: np.ndarray) -> Any:
    """Return the classes of a teacher's columns, or None if it does not know them.

    ``classes_`` always counts. The names in ``labels`` (SetFit) and ``id2label`` (transformers) are often
    placeholders, such as LABEL_0. They count only if they include all classes of y and the user states no
    others.

    Parameters
    ----------
    teacher : object
    stated : list or None
        The classes stated by the user.
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
    """Reorder an answer's columns by the known classes; return them and their classes or names.

    Parameters
    ----------
    found : array-like
        The answer. If it is a data frame, its columns have names.
    values : ndarray or Tensor
        The same numbers. If their shape differs, the names are not used.
    known : array-like or None
        Classes of the columns, if they are known.
    who, source : str
        Names of the teacher and of its method in messages.
    """
    names = column_names(found)
    if names is None or tuple(values.shape) != tuple(found.shape):
        return values, known
    if known is None:
        return values, names
    if len(known) != len(names):
        return values, known  # the check against the classes of y refuses it
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
            f"{classes.tolist()[:10]}. Name the columns as the classes, or return an array."
        )
    return np.array([place[str(label)] for label in classes.tolist()])

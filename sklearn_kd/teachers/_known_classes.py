"""The classes that a trained teacher names by other attributes than ``classes_``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


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

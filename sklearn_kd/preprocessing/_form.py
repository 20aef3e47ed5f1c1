"""The learned state of a TablePreprocessing as plain values, for files."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any

import numpy as np

from sklearn_kd.files._values import ContentError
from sklearn_kd.preprocessing._columns import CategoryColumn, Column, NumberColumn, OmittedColumn
from sklearn_kd.preprocessing._table import TablePreprocessing

_KINDS: dict[str, type[Column]] = {
    "number": NumberColumn,
    "category": CategoryColumn,
    "omitted": OmittedColumn,
}


def form_of(table: TablePreprocessing) -> dict[str, Any]:
    """Return the parameters and the columns of a fitted transformer as plain values."""
    names = {cls: kind for kind, cls in _KINDS.items()}
    columns = [{"kind": names[type(column)]} | asdict(column) for column in table.columns_]
    return {"params": table.get_params(), "columns": columns}


def table_of(form: Any, n_features: int, names: np.ndarray | None, n_outputs: int) -> TablePreprocessing:
    """Return the fitted transformer that a form describes.

    Parameters
    ----------
    form : object
        The form, as read from a file.
    n_features : int
        Number of columns that the transformer must take.
    names : ndarray of str or None
        Names of these columns, if they have any.
    n_outputs : int
        Number of columns that the transformer must make.

    Raises
    ------
    ContentError
        If the object is not a form, or not the form of such a transformer.
    """
    if not isinstance(form, dict) or form.keys() != {"params", "columns"}:
        raise ContentError(f"{str(form)[:100]} as student_preprocessing")
    table = TablePreprocessing()
    if not isinstance(form["params"], dict) or form["params"].keys() != table.get_params().keys():
        raise ContentError(f"{str(form['params'])[:100]} as the parameters of student_preprocessing")
    table.set_params(**form["params"])
    try:
        table._validate_params()
    except ValueError as error:
        raise ContentError(f"a student_preprocessing with wrong parameters: {error}") from error
    if not isinstance(form["columns"], list):
        raise ContentError(f"{str(form['columns'])[:100]} as the columns of student_preprocessing")
    table.columns_ = [_column_of(column) for column in form["columns"]]
    table.n_features_in_ = n_features
    expected = [f"x{j}" for j in range(len(table.columns_))]
    if names is not None:
        table.feature_names_in_ = names
        expected = names.tolist()
    if len(table.columns_) != n_features or [column.name for column in table.columns_] != expected:
        raise ContentError(f"a student_preprocessing with other columns than the {n_features} of X")
    if len(table.get_feature_names_out()) != n_outputs:
        made = len(table.get_feature_names_out())
        raise ContentError(f"a student_preprocessing that makes {made} columns, not {n_outputs}")
    return table


def _column_of(form: Any) -> Column:
    """Return the column that a form describes, after checking the type of each value."""
    kind = _KINDS.get(str(form.get("kind"))) if isinstance(form, dict) else None
    if kind is None or form.keys() != {"kind", *(field.name for field in fields(kind))}:
        raise ContentError(f"{str(form)[:100]} as a column of student_preprocessing")
    values = {name: value for name, value in form.items() if name != "kind"}
    if kind is CategoryColumn and isinstance(values["categories"], list):
        values["categories"] = tuple(values["categories"])
    if not all(_is_right(name, value) for name, value in values.items()):
        raise ContentError(f"{str(form)[:100]} as a column of student_preprocessing")
    return kind(**values)


def _is_right(name: str, value: Any) -> bool:
    if name in ("name", "why"):
        return type(value) is str
    if name == "fill":
        return type(value) in (int, float) and bool(np.isfinite(np.float32(value)))
    if name == "categories":
        known = type(value) is tuple and all(type(v) in (str, int, float, bool) for v in value)
        return known and 0 < len(set(value)) == len(value) and all(v == v for v in value)
    return type(value) is bool

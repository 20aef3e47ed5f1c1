"""Serialise skorch's history, row by row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from skorch.history import History

from sklearn_kd.checkpointing._serialization import Unserializable, from_plain, to_plain


def history_to_plain(history: History, on_unserializable: Callable[[str, str], None]) -> list[dict[str, Any]]:
    """Return the rows of a history in plain values, without the columns that have no plain form.

    Parameters
    ----------
    history : History
    on_unserializable : callable(name, type_name)
        Called for each column that is left out.
    """
    return [_row_to_plain(row, on_unserializable) for row in history.to_list()]


def history_from_plain(rows: Any) -> History:
    """Restore a history from :func:`history_to_plain`.

    Raises
    ------
    ValueError
        If the rows are not those of a history.
    """
    rows = from_plain(rows)
    for n, row in enumerate(rows, 1):
        if row["epoch"] != n or not all(isinstance(batch, dict) for batch in row["batches"]):
            raise ValueError(f"row {n} of the history is not a row of epoch {n}")
    return History(rows)


def _row_to_plain(row: dict[str, Any], on_unserializable: Callable[[str, str], None]) -> dict[str, Any]:
    plain: dict[str, Any] = {}
    for name, value in row.items():
        if name == "batches":
            plain[name] = [_row_to_plain(batch, on_unserializable) for batch in value]
            continue
        try:
            plain[name] = to_plain(value)
        except Unserializable as error:
            on_unserializable(f"column {name!r} of the history", str(error))
    return plain

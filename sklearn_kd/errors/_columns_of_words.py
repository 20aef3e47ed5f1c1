"""Name the columns of words in messages."""

from __future__ import annotations

from typing import Any

# With more columns to convert, the message shows the conversion of the first.
_MOST = 5


def columns_of_words(X: Any, message: str, who_needs: str) -> str:
    """Return a sentence on the refused column of words, after a space; "" without one.

    Parameters
    ----------
    X : object
        The rows. A DataFrame of pandas or polars has columns to name.
    message : str
        The error, which often quotes the refused word.
    who_needs : str
        The words before the conversion to categories, such as "such a teacher needs".
    """
    if not (hasattr(X, "columns") and hasattr(X, "dtypes")):
        return ""
    refused, plain = None, []
    for name in X.columns:
        column = X[name]
        if not hasattr(column, "to_list"):  # several columns of this name
            continue
        words = {value for value in column.to_list() if isinstance(value, str)}
        if words and not hasattr(column.dtype, "categories"):
            plain.append(name)
        if refused is None and any(repr(str(word)) in message for word in words):
            refused = name
    if refused is None and plain:
        refused = plain[0]
    if refused is None:
        return ""
    said = f" Column {refused!r} holds words"
    if refused not in plain or not hasattr(X, "astype"):
        return f"{said}."
    converted = plain if len(plain) <= _MOST else [refused]
    return f"{said}; {who_needs} X = X.astype({dict.fromkeys(converted, 'category')})."

"""Encode skorch's history row by row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from skorch.history import History

from sklearn_kd.files._values import ContentError, Unserializable, ValueCodec


def encode_history(
    history: History, codec: ValueCodec, on_unserializable: Callable[[str, str], None]
) -> list[dict[str, Any]]:
    """Return the rows of a history, without columns that cannot be encoded.

    Parameters
    ----------
    history : History
    codec : ValueCodec
        Encodes the values in the rows.
    on_unserializable : callable ``(name, type_name)``
        Called for each column that is left out.
    """
    return [_encode_row(row, codec, on_unserializable) for row in history.to_list()]


def decode_history(rows: Any, codec: ValueCodec, name: str = "history") -> History:
    """Restore a history from :func:`encode_history`.

    Parameters
    ----------
    rows : list of dict
    codec : ValueCodec
        The codec that encoded the rows.
    name : str, default="history"
        Name of the history in messages.

    Raises
    ------
    ContentError
        If the rows are not those of a history.
    """
    if not isinstance(rows, list) or not all(_is_epoch(row, n) for n, row in enumerate(rows, 1)):
        raise ContentError(f"a {name} that is not a list of epochs")
    return History(_decode_row(row, codec) for row in rows)


def _encode_row(
    row: dict[str, Any], codec: ValueCodec, on_unserializable: Callable[[str, str], None]
) -> dict[str, Any]:
    encoded: dict[str, Any] = {}
    for name, value in row.items():
        if name == "batches":
            encoded[name] = [_encode_row(batch, codec, on_unserializable) for batch in value]
            continue
        try:
            encoded[name] = codec.encode(value)
        except Unserializable as error:
            on_unserializable(f"column {name!r} of the history", error.type_name)
    return encoded


def _decode_row(row: dict[str, Any], codec: ValueCodec) -> dict[str, Any]:
    return {
        name: [_decode_row(batch, codec) for batch in value] if name == "batches" else codec.decode(value)
        for name, value in row.items()
    }


def _is_epoch(row: Any, n: int) -> bool:
    """Return True if this is the row of epoch n."""
    if not isinstance(row, dict) or row.get("epoch") != n or not isinstance(row.get("batches"), list):
        return False
    return all(isinstance(batch, dict) for batch in row["batches"])

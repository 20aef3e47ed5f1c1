"""Limit the memory that a file may request, in proportion to its length."""

from __future__ import annotations

import json
from typing import Any

# Multiple of the file's length. More than 1, since tied weights are one tensor with several names.
FACTOR = 4
# Bytes that any file may request in addition, since a small tensor may repeat one number.
ALLOWANCE = 64 * 2**20
# Python needs at least this many bytes for another part of a list or dict.
_PER_PART = 64


class TooLargeError(ValueError):
    """A file requests more memory than its length allows."""


def check_asked(n_bytes: int, length: int) -> None:
    """Refuse to allocate memory out of proportion to the length of the file.

    Parameters
    ----------
    n_bytes : int
        Memory that reading the file would take.
    length : int
        Length of the file in bytes.

    Raises
    ------
    TooLargeError
        If the memory exceeds ``FACTOR`` times the length plus ``ALLOWANCE``.
    """
    if n_bytes > FACTOR * length + ALLOWANCE:
        raise TooLargeError(
            f"its {length:,} bytes ask for {n_bytes:,} bytes of memory, beyond the limit of {FACTOR} times "
            f"the length of a file and {ALLOWANCE // 2**20} MiB"
        )


def parsed_json(text: str | bytes) -> Any:
    """Parse the JSON in a file.

    Raises
    ------
    TooLargeError
        If it has so many parts that their memory would be out of proportion to its length.
    ValueError
        If it is not JSON.
    """
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    check_asked(_PER_PART * sum(data.count(mark) for mark in (b"[", b"{", b",")), len(data))
    return json.loads(text)

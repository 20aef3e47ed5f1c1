"""Limits the memory that a file may ask for, in proportion to its length."""

from __future__ import annotations

import json
from typing import Any

# Multiple of the file's length: tied weights are one tensor with several names.
FACTOR = 4
# Bytes that any file may ask for in addition: a small tensor may repeat one number.
ALLOWANCE = 64 * 2**20
# Python takes at least so many bytes for one more part of a list or a dictionary.
_PER_PART = 64


class TooLargeError(ValueError):
    """A file asks for more memory than a file of its length may."""


def check_asked(n_bytes: int, length: int) -> None:
    """Refuse to allocate memory out of proportion to the length of the file.

    Parameters
    ----------
    n_bytes : int
        The memory that reading the file would take.
    length : int
        The length of the file, in bytes.

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
        If it has so many parts that they would take memory out of proportion to its length.
    ValueError
        If it is no JSON.
    """
    data = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    check_asked(_PER_PART * sum(data.count(mark) for mark in (b"[", b"{", b",")), len(data))
    return json.loads(text)

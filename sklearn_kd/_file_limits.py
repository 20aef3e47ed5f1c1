"""A limit on the memory that a file may ask for, in proportion to its length."""

from __future__ import annotations

# Multiple of the file's length: tied weights are one tensor with several names.
FACTOR = 4
# Bytes that any file may ask for in addition: a small tensor may repeat one number.
ALLOWANCE = 64 * 2**20


class TooLargeError(ValueError):
    """A file asks for more memory than a file of its length may."""


def check_asked(n_bytes: int, length: int) -> None:
    """Refuse, before anything is allocated, what is out of proportion to the file.

    Parameters
    ----------
    n_bytes : int
        What reading the file would take.
    length : int
        The length of the file, in bytes.

    Raises
    ------
    TooLargeError
        If it is more than ``FACTOR`` times the length and ``ALLOWANCE``.
    """
    if n_bytes > FACTOR * length + ALLOWANCE:
        raise TooLargeError(
            f"its {length:,} bytes ask for {n_bytes:,} bytes of memory, beyond the limit of {FACTOR} times "
            f"the length of a file and {ALLOWANCE // 2**20} MiB"
        )

"""Checks of the sizes that networks are built with."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Integral
from typing import Any


def is_size(value: Any) -> bool:
    """Return whether a value is a whole number, 1 or more."""
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 1


def check_sizes(**sizes: Any) -> None:
    """Raise ValueError naming the argument unless each value is a whole number, 1 or more.

    Examples
    --------
    >>> from sklearn_kd.students._sizes import check_sizes
    >>> check_sizes(n_classes=10, hidden=0)
    Traceback (most recent call last):
    ValueError: hidden=0 must be a whole number, 1 or more.
    """
    for name, value in sizes.items():
        if not is_size(value):
            raise ValueError(f"{name}={value!r} must be a whole number, 1 or more.")


def check_several_sizes(**sizes: Any) -> None:
    """Raise ValueError naming the argument unless each value holds only whole numbers, 1 or more."""
    for name, values in sizes.items():
        if isinstance(values, str) or not isinstance(values, Iterable) or not all(map(is_size, values)):
            raise ValueError(f"{name}={values!r} must be a sequence of whole numbers, each 1 or more.")

"""Suggestions for misspelt or unknown names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(name: object, known: Iterable[object]) -> str:
    """Return a question with the closest known name, after a space; an empty string if none is close.

    Examples
    --------
    >>> from sklearn_kd.errors._did_you_mean import did_you_mean
    >>> did_you_mean("hyperop", ["linear", "hyperopt"])
    " Did you mean 'hyperopt'?"
    """
    match = closest(name, known)
    return "" if match is None else f" Did you mean {match!r}?"


def closest(name: object, known: Iterable[object]) -> str | None:
    """Return the closest known name; None if none is close."""
    matches = difflib.get_close_matches(str(name), [str(k) for k in known], n=1)
    return matches[0] if matches else None

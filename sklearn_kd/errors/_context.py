"""Refusals of scikit-learn's and NumPy's, told with the name of the argument."""

from __future__ import annotations

import re
from contextlib import contextmanager

# Remedies for messages that state none.
_REMEDIES = {
    "could not convert string": (
        ". Encode words as numbers, as by sklearn.preprocessing.OneHotEncoder in a pipeline."
    ),
    "sample_weight contains NaN": " Give 0 for rows to leave out.",
    "sample_weight contains infinity": " Give finite weights; they are scaled to mean 1.",
    "sample_weight.shape ==": " Give one weight per row of X.",
}


@contextmanager
def error_context(name: str):
    """Prefix ValueErrors and TypeErrors raised inside with the argument's name, unless they have it.

    scikit-learn's own message stays, since users know it. Behind it stands what to do, where
    it does not say so itself.
    """
    try:
        yield
    except (ValueError, TypeError) as error:
        named = re.search(rf"\b{name}\b", str(error)) is not None
        remedy = next((own for found, own in _REMEDIES.items() if found in str(error)), "")
        if named and not remedy:
            raise
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{'' if named else f'{name}: '}{error}{remedy}") from error

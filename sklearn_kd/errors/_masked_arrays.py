"""Refuse masked arrays, whose mask NumPy drops silently when it makes an ordinary array."""

from __future__ import annotations

from typing import Any

import numpy as np


def refuse_masked(values: Any, name: str) -> None:
    """Raise ValueError for a masked array, or a list of them, with a masked entry.

    The masked numbers would otherwise count like all others.
    """
    parts = values if isinstance(values, (list, tuple)) and len(values) else [values]
    if not isinstance(parts[0], np.ma.MaskedArray):
        return
    n_masked = sum(int(np.ma.count_masked(part)) for part in parts)
    if n_masked:
        raise ValueError(
            f"{name} is a masked array with {n_masked} masked entries, whose mask is not read. Give "
            f"{name}.filled(...) with the value for unknown: NaN for numbers, ignore_index for classes "
            "of pixels."
        )

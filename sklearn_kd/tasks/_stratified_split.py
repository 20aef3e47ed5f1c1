"""Hold rows out as D_val, stratified by class."""

from __future__ import annotations

import math

import numpy as np
from sklearn.model_selection import StratifiedShuffleSplit

# From this many rows on, StratifiedShuffleSplit's lists take more memory than the fit.
_MANY = 2**18


def split_rows(
    codes: np.ndarray,
    fraction: float,
    rng: np.random.RandomState,
    otherwise: str = "a method that needs none",
) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of D_train and D_val: disjoint and stratified.

    Every class is in D_train, and D_val has two rows or more.

    If the classes are too small to stratify, one row of each class goes to D_train, and D_val is drawn at
    random from the rest, which may be a single row. ``otherwise`` is what a message names as needing no
    D_val.

    Raises
    ------
    ValueError
        If no row can be spared for D_val.
    """
    n, counts = len(codes), np.bincount(codes)
    counts = counts[counts > 0]
    # At least two where possible: batch normalisation cannot take a batch of one row.
    n_val = max(math.ceil(n * fraction), min(2, n - len(counts)))
    if counts.min() >= 2 and len(counts) <= min(n_val, n - n_val):
        if n >= _MANY and n_val <= n // 2:
            return _split_of_many(codes, n_val, rng)
        splitter = StratifiedShuffleSplit(n_splits=1, test_size=n_val, random_state=rng)
        return next(splitter.split(codes, codes))
    order = rng.permutation(n)
    _, first_of_class = np.unique(codes[order], return_index=True)
    spare = np.delete(order, first_of_class)
    if len(spare) == 0:
        raise ValueError(
            f"D_val is empty: of n_samples = {n} rows none can be held out, since every class "
            f"needs one to train on. Give X_val and y_val, more rows, or {otherwise}."
        )
    val = spare[:n_val]
    return np.setdiff1d(order, val), np.sort(val)


def _split_of_many(
    codes: np.ndarray, n_val: int, rng: np.random.RandomState
) -> tuple[np.ndarray, np.ndarray]:
    """Return a stratified split: evenly spaced positions among the shuffled rows, sorted by class."""
    n, order = len(codes), rng.permutation(len(codes))
    # Small integers take less memory, and are sorted by a radix sort.
    drawn = codes.astype(np.min_scalar_type(int(codes.max())))[order]
    is_val = np.zeros(n, dtype=bool)
    is_val[np.argsort(drawn, kind="stable")[np.arange(n_val) * n // n_val]] = True
    return order[~is_val], order[is_val]

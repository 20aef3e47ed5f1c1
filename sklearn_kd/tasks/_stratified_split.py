"""Hold rows out as D_val, stratified by class."""

from __future__ import annotations

import math

import numpy as np

from sklearn_kd._sklearn_compat import approximate_mode


def split_rows(
    codes: np.ndarray,
    fraction: float,
    rng: np.random.RandomState,
    otherwise: str = "a method that needs none",
) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of D_train and D_val: disjoint and stratified.

    Every class is in D_train, and D_val has two rows or more.

    Where the classes are too small to stratify, D_val is drawn at random from what is left
    when one row of each class has been put into D_train, which may be a single row. ``otherwise``
    is what a message says needs no D_val.

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
        return _stratified(codes, counts, n_val, rng)
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


def _stratified(
    codes: np.ndarray, counts: np.ndarray, n_val: int, rng: np.random.RandomState
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a split as scikit-learn's ``StratifiedShuffleSplit`` does, which needs five times the memory.

    ``counts`` are the numbers of rows of the classes that have any.
    """
    n_train = len(codes) - n_val
    of_train = approximate_mode(counts, n_train, rng)
    of_val = approximate_mode(counts - of_train, n_val, rng)
    # Of small integers the stable sort is a radix sort.
    by_class = np.argsort(codes.astype(np.min_scalar_type(int(codes.max()))), kind="stable")
    train, val = np.empty(n_train, dtype=np.int64), np.empty(n_val, dtype=np.int64)
    start = end_train = end_val = 0
    for n, n_train_k, n_val_k in zip(counts, of_train, of_val, strict=True):
        drawn = by_class[start : start + n][rng.permutation(n)]
        train[end_train : end_train + n_train_k] = drawn[:n_train_k]
        val[end_val : end_val + n_val_k] = drawn[n_train_k : n_train_k + n_val_k]
        start, end_train, end_val = start + n, end_train + n_train_k, end_val + n_val_k
    del by_class
    rng.shuffle(train)
    rng.shuffle(val)
    return train, val

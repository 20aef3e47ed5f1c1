"""Hold rows out as D_val at random, for a y without classes to stratify by."""

from __future__ import annotations

import math

import numpy as np

from sklearn_kd.tasks._grouped_split import split_groups


def split_at_random(
    n_rows: int,
    fraction: float,
    rng: np.random.RandomState,
    otherwise: str,
    groups: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of D_train and D_val, drawn at random; no group is in both.

    Parameters
    ----------
    n_rows : int
    fraction : float
        Share of the rows in D_val.
    rng : RandomState
    otherwise : str
        What a message names as needing no D_val.
    groups : ndarray of shape (n_rows,) or None, default=None
        Codes of the groups.

    Raises
    ------
    ValueError
        If no row can be spared for D_val.
    """
    if groups is not None and (groups == groups[0]).all():
        raise ValueError(
            "D_val is empty: all rows are in one group, which cannot be in both D_train and D_val. Give "
            f"X_val and y_val, rows of more groups, or {otherwise}."
        )
    if groups is not None:
        return split_groups(np.zeros(n_rows, dtype=np.int64), groups, fraction, rng, otherwise)
    if n_rows < 2:
        raise ValueError(
            f"D_val is empty: of n_samples = {n_rows} rows none can be held out. Give X_val and y_val, more "
            f"rows, or {otherwise}."
        )
    # At least two where possible: batch normalisation cannot take a batch of one row.
    n_val = min(max(math.ceil(n_rows * fraction), min(2, n_rows - 1)), n_rows - 1)
    order = rng.permutation(n_rows)
    return np.sort(order[n_val:]), np.sort(order[:n_val])


def split_known(
    known: np.ndarray,
    fraction: float,
    rng: np.random.RandomState,
    otherwise: str,
    groups: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of images of D_train and D_val, drawn at random, with known pixels in both.

    Images without a known pixel go to D_train, where a teacher may answer for them or, with ``groups``, to
    where their group is.

    Parameters
    ----------
    known : ndarray of shape (n,), bool
        Whether each image has a known pixel.
    fraction, rng, otherwise, groups
        As for :func:`split_at_random`.

    Raises
    ------
    ValueError
        If no image with a known pixel can be spared for D_val.
    """
    if groups is None:
        of_known = np.flatnonzero(known)
        _, val = split_at_random(len(of_known), fraction, rng, otherwise)
        return np.setdiff1d(np.arange(len(known)), of_known[val]), of_known[val]
    train, val = split_at_random(len(known), fraction, rng, otherwise, groups)
    if not (known[train].any() and known[val].any()):
        raise ValueError(
            "The groups that were drawn for D_train or for D_val have no known pixel: y has no target in any "
            f"of them. Leave images without a target out, give X_val and y_val, or {otherwise}."
        )
    return train, val

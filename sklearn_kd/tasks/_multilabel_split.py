"""Hold rows with several labels out as D_val."""

from __future__ import annotations

import math

import numpy as np

from sklearn_kd.tasks._grouped_split import split_counts

# Number of random splits to try; the one whose D_val is nearest to its share of every label is used.
_N_DRAWS = 10
# From this many numbers on, one draw is as good as another.
_MANY = 2**22


def split_labels(
    codes: np.ndarray,
    fraction: float,
    rng: np.random.RandomState,
    groups: np.ndarray | None = None,
    otherwise: str = "a method that needs none",
) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of D_train and D_val, with nearly equal shares of every label.

    D_train has a row with each label, and one without, if y has such rows. D_val has two rows or more if
    they can be spared.

    Parameters
    ----------
    codes : ndarray of shape (n, k)
        0 and 1.
    fraction : float
        Share of the rows.
    rng : RandomState
    groups : ndarray of shape (n,) or None, default=None
        Codes of the groups, none of which is in both.
    otherwise : str
        What a message names as needing no D_val.

    Raises
    ------
    ValueError
        If no row, or no group, can be spared for D_val.
    """
    if groups is not None:
        _, places = np.unique(groups, return_inverse=True)
        counts = np.zeros((places.max() + 1, 2 * codes.shape[1]))  # of rows with and without each label
        np.add.at(counts, places, np.hstack([codes, 1 - codes]).astype(float))
        n_rows = np.bincount(places).astype(float)
        return split_counts(counts, n_rows, places, fraction, rng, otherwise, "label")
    n = len(codes)
    draws = [_draw(codes, fraction, rng) for _ in range(1 if codes.size >= _MANY else _N_DRAWS)]
    shares = codes.mean(axis=0)
    val = min(draws, key=lambda rows: _distance(codes[rows], shares))
    if len(val) == 0:
        raise ValueError(
            f"D_val is empty: of n_samples = {n} rows none can be held out, since every label "
            f"needs rows with it and without it to train on. Give X_val and y_val, more rows, or {otherwise}."
        )
    return np.setdiff1d(np.arange(n), val), np.sort(val)


def _draw(codes: np.ndarray, fraction: float, rng: np.random.RandomState) -> np.ndarray:
    """Return rows for D_val, drawn from those that D_train can spare."""
    n = len(codes)
    order = rng.permutation(n)
    drawn = codes[order]
    # In random order, the first row with each label, and the first without, stay in D_train.
    kept = np.concatenate([drawn.argmax(axis=0), (1 - drawn).argmax(axis=0)])
    spare = np.delete(order, np.unique(kept))
    n_val = max(math.ceil(n * fraction), min(2, len(spare)))
    return spare[:n_val]


def _distance(held_out: np.ndarray, shares: np.ndarray) -> float:
    """Return the distance of the labels' shares from those of all rows; rare labels count like others."""
    if len(held_out) == 0:
        return np.inf
    spread = np.sqrt(np.maximum(shares * (1 - shares), 1e-12))
    return float((np.abs(held_out.mean(axis=0) - shares) / spread).sum())

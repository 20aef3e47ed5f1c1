"""Hold whole groups of rows out as D_val."""

from __future__ import annotations

import numpy as np

# Number of orders in which to try the groups. With many groups, all orders are about as good.
_N_ORDERS, _MANY = 10, 1000


def split_groups(
    codes: np.ndarray,
    groups: np.ndarray,
    fraction: float,
    rng: np.random.RandomState,
    otherwise: str = "a method that needs none",
) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of D_train and D_val, with no group in both.

    Every class is in D_train. Groups go to D_val in random order as long as each brings its numbers of rows
    of the classes nearer to ``fraction`` of all. The best of several orders is used.

    Parameters
    ----------
    codes : ndarray of shape (n,)
        Class codes.
    groups : ndarray of shape (n,)
        Codes of the groups.
    fraction : float
        Share of the rows.
    rng : RandomState
    otherwise : str
        What a message names as needing no D_val.

    Raises
    ------
    ValueError
        If no group can be spared for D_val.
    """
    _, places = np.unique(groups, return_inverse=True)
    counts = np.zeros((places.max() + 1, codes.max() + 1))  # rows of each class in each group
    np.add.at(counts, (places, codes), 1)
    return split_counts(counts, counts.sum(axis=1), places, fraction, rng, otherwise, "class")


def split_counts(
    counts: np.ndarray,
    n_rows: np.ndarray,
    places: np.ndarray,
    fraction: float,
    rng: np.random.RandomState,
    otherwise: str,
    kind: str,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of D_train and D_val like :func:`split_groups`, from counts of any kinds of rows.

    Parameters
    ----------
    counts : ndarray of shape (n_groups, m)
        Number of rows of each kind in each group; a row may be of several kinds.
    n_rows : ndarray of shape (n_groups,)
        Number of rows in each group.
    places : ndarray of shape (n,)
        The group of each row.
    fraction, rng, otherwise
        As for :func:`split_groups`.
    kind : str
        What messages call a kind of rows, such as "class".
    """
    counts = counts[:, counts.any(axis=0)]
    spared = np.flatnonzero((counts < counts.sum(axis=0)).all(axis=1))
    if len(spared) == 0:
        raise ValueError(
            f"D_val is empty: none of the {len(counts)} groups can be held out, since each has all rows of a "
            f"{kind}, and every {kind} needs rows to train on. Give X_val and y_val, rows of more groups, or "
            f"{otherwise}."
        )
    # A small class counts as much as a large one; the last column counts all rows.
    shares = np.column_stack([counts / counts.sum(axis=0), n_rows / n_rows.sum()])
    orders = (rng.permutation(spared) for _ in range(_N_ORDERS if len(counts) < _MANY else 1))
    _, held_out = min((_chosen(shares, order, fraction) for order in orders), key=lambda found: found[0])
    is_val = np.isin(places, held_out)
    return np.flatnonzero(~is_val), np.flatnonzero(is_val)


def _chosen(scaled: np.ndarray, order: np.ndarray, fraction: float) -> tuple[float, list[int]]:
    """Return the distance of the chosen groups from ``fraction`` of every class, and these groups.

    ``scaled`` has the share of each group in the rows of each class, and in all rows.
    """
    # D_val is never empty: the group nearest to the wanted shares comes first.
    distances = ((scaled[order] - fraction) ** 2).sum(axis=1)
    order = np.concatenate([[first := order[distances.argmin()]], order[order != first]])
    chosen, held, distance = [], np.zeros(scaled.shape[1]), np.inf
    for group in order.tolist():
        more = held + scaled[group]
        moved = float(((more - fraction) ** 2).sum())
        if moved < distance and more.max() < 1 - 1e-9:  # otherwise a class, or all of D_train, would be gone
            chosen.append(group)
            held, distance = more, moved
    return distance, chosen

"""Encode maps of integer labels: codes are 0 … K−1 in sorted order, −1 for an unknown pixel."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

UNKNOWN = -1
# Labels within a range of this length are looked up in a table.
_WIDEST_TABLE = 2**20
# Number of pixels to encode at a time.
_AT_A_TIME = 2**22
_N_SHOWN = 10


def are_maps(y: Any) -> bool:
    """Return whether targets are a map for each row: numbers of shape (n, H, W)."""
    return n_dimensions(y) == 3


def n_dimensions(y: Any) -> int:
    """Return the number of dimensions of targets; for a list, judge by its first items."""
    shape = getattr(y, "shape", None)
    if shape is not None:
        return len(shape)
    return _depth(y) if isinstance(y, (list, tuple)) else np.asarray(y).ndim


def _depth(y: Any) -> int:
    """Return the number of dimensions of a list of lists or of arrays, by its first items."""
    depth = 0
    while isinstance(y, (list, tuple)) and len(y):
        y, depth = y[0], depth + 1
    return depth + len(getattr(y, "shape", ()))


def checked_shape(y: Any, n_rows: int, name: str, of: str) -> np.ndarray:
    """Check that targets are n_rows maps of one shape, and return them as an array.

    Parameters
    ----------
    y : array-like of shape (n_rows, H, W)
    n_rows : int
        Number of images.
    name, of : str
        What messages call the targets and the images.

    Raises
    ------
    ValueError
        If the maps differ in shape, are empty, or their number is not that of the images.
    """
    if isinstance(y, (list, tuple)):
        shapes = list(dict.fromkeys(np.shape(one) for one in y))
        if len(shapes) > 1:
            raise ValueError(
                f"{name} has maps of differing shapes, such as {shapes[0]} and {shapes[1]}. Resize or crop "
                f"them, and the images in {of}, to one shape."
            )
    maps = np.asarray(y)
    if len(maps) != n_rows:
        raise ValueError(
            f"Found input variables with inconsistent numbers of samples: {[n_rows, len(maps)]}. {of} has "
            f"{n_rows} images and {name} {len(maps)} maps; both must be equal."
        )
    if 0 in maps.shape:
        raise ValueError(f"{name} has shape {maps.shape}, which holds no pixel.")
    return maps


def checked_integers(maps: np.ndarray, name: str) -> np.ndarray:
    """Return maps of integers or booleans unchanged.

    Raises
    ------
    ValueError
        If they are of another type.
    """
    if maps.dtype.kind in "iub":
        if maps.dtype == np.uint64 and maps.size and int(maps.max()) > np.iinfo(np.int64).max:
            raise ValueError(f"{name} has the label {maps.max()}; labels must be below 2**63.")
        return maps
    if maps.dtype.kind == "f" and np.isnan(maps).any():
        raise ValueError(
            f"{name} has maps of type {maps.dtype} with NaN; classes of pixels must be integers or booleans. "
            f"If NaN marks unknown pixels, give np.where(np.isnan({name}), 255, {name}).astype(int) and set "
            "ignore_index=255. For numbers per pixel use DistilledRegressor."
        )
    numbers = " For numbers per pixel use DistilledRegressor." if maps.dtype.kind == "f" else ""
    raise ValueError(
        f"{name} has maps of type {maps.dtype}; classes of pixels must be integers or booleans. Convert them "
        f"by astype(int), or other labels by np.unique(maps, return_inverse=True).{numbers}"
    )


def classes_of_maps(maps: np.ndarray, ignore_index: int | None) -> np.ndarray:
    """Return the sorted labels of maps without ``ignore_index``, in the type of the maps."""
    low, high = int(maps.min()), int(maps.max())
    if high - low >= _WIDEST_TABLE:
        found = np.unique(maps)
        return found if ignore_index is None else found[found != ignore_index]
    seen = np.zeros(high - low + 1, dtype=bool)
    for part in _parts(maps):
        seen[part.astype(np.int64) - low] = True
    labels = np.flatnonzero(seen) + low
    if ignore_index is not None:
        labels = labels[labels != ignore_index]
    return labels.astype(maps.dtype)


def codes_of_maps(
    maps: np.ndarray, classes: np.ndarray, ignore_index: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the codes of maps, and the labels that are not classes, whose code is −1 too.

    The codes have the smallest signed type that holds them.
    """
    dtype = np.min_scalar_type(-max(len(classes), 1))
    codes = np.empty(maps.shape, dtype)
    labels = classes.astype(np.int64)
    unknown: list[np.ndarray] = []
    for part, out in zip(_parts(maps), _parts(codes), strict=True):
        given = part.astype(np.int64)
        places = _places(given, labels)
        wrong = places < 0
        if ignore_index is not None:
            wrong &= given != ignore_index
        if wrong.any():
            unknown.append(np.unique(given[wrong]))
        out[...] = places
    if not unknown:
        return codes, labels[:0]
    return codes, np.unique(np.concatenate(unknown))


def _places(given: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the index of each given number among sorted labels, −1 if it is not among them."""
    if not len(labels):
        return np.full(given.shape, UNKNOWN)
    low, width = int(labels[0]), int(labels[-1]) - int(labels[0]) + 1
    if width >= _WIDEST_TABLE:
        places = np.searchsorted(labels, given).clip(max=len(labels) - 1)
        return np.where(labels[places] == given, places, UNKNOWN)
    table = np.full(width + 2, UNKNOWN)  # an entry on either side for numbers outside
    table[labels - low + 1] = np.arange(len(labels))
    return table[(given - low + 1).clip(0, width + 1)]


def labels_of_codes(codes: np.ndarray, classes: np.ndarray, unknown: int) -> np.ndarray:
    """Return the labels of codes, in the type of the classes; ``unknown`` for pixels without a label."""
    table = np.append(classes, np.asarray(unknown).astype(classes.dtype))
    return table[codes]  # −1 is the last entry


def _parts(maps: np.ndarray) -> Iterator[np.ndarray]:
    """Yield views of a few images at a time."""
    step = max(1, _AT_A_TIME // max(1, maps[:1].size))
    for start in range(0, len(maps), step):
        yield maps[start : start + step]


def shown(labels: np.ndarray) -> str:
    """Return at most ten labels as text for a message."""
    return f"{labels.tolist()[:_N_SHOWN]}{' …' if len(labels) > _N_SHOWN else ''}"

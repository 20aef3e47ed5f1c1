"""Refuse targets of four dimensions: maps with an extra axis, one-hot masks, and colour pictures."""

from __future__ import annotations

from typing import Any

import numpy as np

from sklearn_kd.tasks._pixel_codes import n_dimensions

# Number of images to look at, to find out what the fourth axis is.
_N_ASKED = 8
# Channels of colour pictures, without and with transparency.
_COLORS = (3, 4)


def refuse_layered_maps(y: Any, name: str, what: str) -> None:
    """Refuse targets of four dimensions; the message says how to turn them into maps.

    Parameters
    ----------
    y : array-like
    name : str
        What messages call y.
    what : {"class", "number"}
        The target of a pixel.

    Raises
    ------
    ValueError
        If they have four dimensions.
    """
    if n_dimensions(y) != 4:
        return
    try:
        found = np.asarray(y)
    except ValueError:  # maps of differing shapes; other checks refuse them
        return
    if found.ndim != 4 or found.shape[1:].count(1) > 1:  # not maps: targets of rows with extra axes
        return
    raise ValueError(
        f"{name} has shape {found.shape}; it must be a map for each image, one {what} for each pixel, shape "
        f"({len(found)}, height, width). {_cure(found, name, what)}"
    )


def _cure(y: np.ndarray, name: str, what: str) -> str:
    """Return what to give instead of targets of shape (n, a, b, c)."""
    if y.shape[1] == 1:
        return f"Give {name}[:, 0]."
    if y.shape[3] == 1:
        return f"Give {name}[..., 0]."
    if what == "number":
        return f"Give one of its channels, {name}[:, k] or {name}[..., k]."
    for axis in (1, -1):
        if _sums_to_1(y[:_N_ASKED], axis):
            return f"It is one-hot, or holds probabilities: give {name}.argmax({axis})."
    if y.shape[3] in _COLORS:
        return (
            "It is a colour picture: give the index of each pixel's colour, "
            f"np.unique({name}.reshape(-1, {y.shape[3]}), axis=0, return_inverse=True)[1]"
            f".reshape({name}.shape[:3])."
        )
    return f"For a mask per class, give {name}.argmax(1) or {name}.argmax(-1), over the axis of the classes."


def _sums_to_1(y: np.ndarray, axis: int) -> bool:
    if y.dtype.kind not in "biuf" or not y.size:
        return False
    return bool((y >= 0).all() and np.allclose(y.sum(axis=axis, dtype=np.float64), 1))

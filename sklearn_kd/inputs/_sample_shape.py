"""Check that further rows have the sample shape seen in ``fit``; for images, say how to mend X."""

from __future__ import annotations

from typing import Any

import numpy as np

from sklearn_kd.inputs._arrays import from_torch


def refuse_other_images(X: Any, sample_shape: tuple[Any, ...], name: str, estimator: object) -> None:
    """Refuse a single image, or channels-last images, if ``fit`` saw batches with channels first.

    Parameters
    ----------
    X : array-like
    sample_shape : tuple of int, or of a RowShape
        Sample shape seen in ``fit``. Only a shape (channels, height, width) is compared.
    name : str
        Name of X in messages.
    estimator : object
        Named in messages.

    Raises
    ------
    ValueError
        If X has three dimensions, like a single image, or another number of channels.
    """
    if len(sample_shape) != 3:
        return
    try:
        shape = tuple(X.shape) if hasattr(X, "shape") else np.shape(from_torch(X, name))
    except ValueError:  # rows of differing lengths are refused elsewhere
        return
    channels = sample_shape[0]
    if len(shape) < 2 or (len(shape) == 4 and shape[1] == channels):
        return
    if len(shape) == 3 and shape[0] == channels:
        cure = f" For one image, give {name}[None]."
    elif len(shape) == 3 and channels == 1:
        cure = f" For images without a channel axis, give {name}[:, None]."
    elif len(shape) == 4 and shape[3] == channels:
        cure = f" The channels seem to be last: give {name}.transpose(0, 3, 1, 2)."
    elif len(shape) == 4:
        cure = ""
    else:  # such as a table, whose number of features is checked elsewhere
        return
    raise ValueError(
        f"{name} has shape {shape}, but {type(estimator).__name__} was fitted on images of {channels} "
        f"channel(s): {name} must have shape (n_samples, {channels}, height, width).{cure}"
    )


def check_sample_shape(rows: Any, sample_shape: tuple[Any, ...], name: str, estimator: object) -> None:
    """Raise ValueError unless the rows have the sample shape seen in ``fit``."""
    if rows.shape[1:] != sample_shape:
        refuse_other_images(rows, sample_shape, name, estimator)
        raise ValueError(
            f"{name} has samples of shape {rows.shape[1:]}, but {type(estimator).__name__} was "
            f"fitted on samples of shape {sample_shape}."
        )

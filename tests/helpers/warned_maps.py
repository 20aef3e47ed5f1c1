"""What a classifier warns of in maps, by its row in docs/guide/failures.rst: parameters, and arguments of fit."""

import numpy as np


def warned_maps(X, y):
    """Return what is warned of for images X, of three channels, and maps y with 255 in unknown pixels."""
    return {
        "a label that is often unknown": ({"ignore_index": None}, {}),
        "a label that is often unknown, beside ignore_index": ({"ignore_index": -1}, {"y": y.astype(int)}),
        "maps of images with channels last": ({}, {"X": X.transpose(0, 2, 3, 1)}),
        "maps of another ratio of height and width": ({}, {"y": y[:, :, :4]}),
        "maps whose height and width are swapped": (
            {},
            {"X": X[:, :, ::2], "y": np.ascontiguousarray(y[:, ::2].transpose(0, 2, 1))},
        ),
    }

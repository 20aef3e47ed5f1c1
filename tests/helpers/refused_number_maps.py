"""What a DistilledRegressor refuses where y has maps of numbers, by its row in docs/guide/failures.rst."""

import numpy as np
from torch import nn


def refused_number_maps(X, Y):
    """Return what is refused for images X, (n, 2, H, W), and maps Y, (n, H, W), of as many pixels."""
    n = len(Y)
    first = np.arange(n)[:, None, None] == 0
    return {
        "maps of numbers of differing shapes": ({}, {"y": [Y[0, 1:], *Y[1:]]}),
        "maps of numbers with an axis of one": ({}, {"y": Y[:, None]}),
        "masked arrays": ({}, {"y": np.ma.masked_array(Y, Y > 1)}),
        "infinite pixels": ({}, {"y": np.where(first, np.inf, Y)}),
        "maps without a number": ({}, {"y": np.full_like(Y, np.nan)}),
        "maps without a number in images of positive weight": (
            {},
            {"y": np.where(first, Y, np.nan), "sample_weight": np.arange(n) > 0},
        ),
        "maps of one number": ({}, {"y": np.where(np.isnan(Y), np.nan, 3.0)}),
        "pixels that overflow": ({}, {"y": 1e305 * Y}),
        "maps of another shape in D_val": ({}, {"X_val": X, "y_val": Y[:, 1:]}),
        "pixels of D_val in other units": ({}, {"X_val": X, "y_val": 1e60 * Y}),
        "groups of unknown pixels": (
            {},
            {"y": np.where(np.arange(n)[:, None, None] < n // 2, Y, np.nan), "groups": np.arange(n) < n // 2},
        ),
        "weights of D_val only for unknown pixels": (
            {},
            {"X_val": X, "y_val": np.where(first, Y, np.nan), "sample_weight_val": np.arange(n) > 0},
        ),
        "predicted maps of another number of images": ({}, {"teacher_predictions": np.nan_to_num(Y[:3])}),
        "a teacher of one number per row for maps": ({"teacher": nn.Flatten()}, {}),
        "predicted maps with missing pixels": ({}, {"teacher_predictions": Y}),
        "predicted maps of another size for X_unlabeled": (
            {"teacher": None},
            {
                "teacher_predictions": np.nan_to_num(Y),
                "X_unlabeled": X,
                "teacher_predictions_unlabeled": np.nan_to_num(Y[:, 1:]),
            },
        ),
        "predicted maps that are far off": ({}, {"teacher_predictions": np.nan_to_num(1e60 * Y)}),
    }

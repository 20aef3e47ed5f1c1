"""What a classifier refuses of maps, by its row in docs/guide/failures.rst: parameters, and arguments of fit."""

import numpy as np
from sklearn.ensemble import RandomForestClassifier
from torch import nn

from helpers.pixels import IGNORED, PixelNet, pixel_teacher


def refused_maps(X, y):
    """Return what is refused for images X and maps y of three classes and IGNORED."""
    teacher, vectors = pixel_teacher(), nn.Sequential(nn.Flatten(), nn.Linear(X[0].size, 3))
    nothing = np.full_like(y, IGNORED)
    return {
        "maps of differing shapes": ({}, {"y": [*y[:-1], y[0, 1:]]}),
        "maps with an axis of one": ({}, {"y": y[:, None]}),
        "maps with an axis of one, last": ({}, {"y": y[..., None]}),
        "one-hot maps": ({}, {"y": y[:, None] == np.array([0, 1, 2, 255])[:, None, None]}),
        "one-hot maps, classes last": ({}, {"y": y[..., None] == [0, 1, 2, 255]}),
        "maps as color pictures": ({}, {"y": np.stack([y, y, y], axis=-1)}),
        "maps of other images": ({}, {"y": y[1:]}),
        "maps of numbers, given to a classifier": ({}, {"y": y.astype(float)}),
        "maps of floats with NaN, given to a classifier": ({}, {"y": np.where(y == IGNORED, np.nan, y)}),
        "maps without a known pixel": ({}, {"y": nothing}),
        "maps of one class": ({}, {"y": np.where(y == IGNORED, y, 1)}),
        "maps for the rows of a table": ({}, {"X": X.reshape(len(X), -1)}),
        "``ignore_index`` without maps": ({}, {"X": X.reshape(len(X), -1), "y": np.arange(len(X)) % 2}),
        "a single image": ({}, {"X_val": X[0], "y_val": y[:1]}),
        "images whose channels are last": ({}, {"X_unlabeled": X.transpose(0, 2, 3, 1)}),
        "labels in maps of D_val that y lacks": ({}, {"X_val": X, "y_val": np.where(y == 2, 7, y)}),
        "maps of D_val of another shape": ({}, {"X_val": X, "y_val": y[:, 1:]}),
        "maps of D_val without a known pixel": ({}, {"X_val": X, "y_val": nothing}),
        "``class_weight`` beside maps": ({"class_weight": "balanced"}, {}),
        "a student that gives no maps": ({"student": vectors}, {}),
        "a student of too few maps": ({"student": PixelNet(3, 2)}, {}),
        "a teacher that predicts a label for each row": ({"teacher": RandomForestClassifier()}, {}),
        "a network that gives no maps": ({"teacher": vectors}, {}),
        "logits that are no maps": ({"meta": "naive"}, {"teacher_logits": np.zeros((len(X), 3))}),
        "logits of two sizes": (
            {"meta": "naive"},
            {
                "teacher_logits": np.zeros((len(X), 3, 4, 4)),
                "X_unlabeled": X[:2],
                "teacher_logits_unlabeled": np.zeros((2, 3, 8, 8)),
            },
        ),
        "``augment`` of images alone": ({"teacher": teacher, "augment": lambda X: X}, {}),
        "``augment`` that returns images alone": ({"teacher": teacher, "augment": lambda X, y: X}, {}),
        "``augment`` to another size": ({"teacher": teacher, "augment": lambda X, y: (X, y[:, 1:])}, {}),
        "``augment`` to labels that y lacks": (
            {"teacher": teacher, "augment": lambda X, y: (X, 0 * y + 9)},
            {},
        ),
        "``augment`` to maps of another type": ({"teacher": teacher, "augment": lambda X, y: (X, y / 2)}, {}),
    }

"""Warn of labels that often stand for unknown pixels, if ``ignore_index`` does not name them."""

from __future__ import annotations

import warnings

import numpy as np

from sklearn_kd.tasks._pixel_codes import classes_of_maps

# Labels that stand for unknown pixels in many data sets.
_USUAL_IGNORED = (255, -1)


def warn_of_usual_ignored(classes: np.ndarray, ignore_index: int | None) -> None:
    """Warn if a class of y looks like the label of unknown pixels."""
    labels = set(classes.tolist())
    for label in _USUAL_IGNORED:
        others = sorted(labels - {label})
        counted = len(others) >= 2 and others == list(range(len(others)))
        if label in labels and (label < 0 or counted):
            warnings.warn(
                f"y has the label {label}, which often stands for unknown pixels, but ignore_index="
                f"{ignore_index} makes it a class like {others[:3]}. Set ignore_index={label} to leave these "
                "pixels out.",
                UserWarning,
                stacklevel=2,
            )


def warn_of_usual_ignored_in_score(true: np.ndarray, predicted: np.ndarray) -> None:
    """Warn if targets have a label that no prediction has, and that looks like the label of unknown pixels.

    255 is a class if the only other label is 0, and also if 254 is a label, since then it is one of many.
    """
    labels, answers = (set(classes_of_maps(maps, None).tolist()) for maps in (true, predicted))
    for label in _USUAL_IGNORED:
        others = (labels | answers) - {label}
        apart = len(others) >= 2 and (label < 0 or max(others) < label - 1)
        if label in labels - answers and apart:
            warnings.warn(
                f"y_true has the label {label}, which often stands for unknown pixels; y_pred never has it, "
                f"and ignore_index=None counts these pixels as wrong. Set ignore_index={label} to leave them "
                "out.",
                UserWarning,
                stacklevel=2,
            )

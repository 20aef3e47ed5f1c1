"""Check the images and the parameters of a fit whose y has a map for each image."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from sklearn_kd.teachers._class_alignment import column_labels
from sklearn_kd.teachers._logit_checks import name_of, thawed

if TYPE_CHECKING:
    from sklearn_kd.inputs._validation import ValidationRows

# Images seldom have more channels, so a last dimension up to this size looks like channels.
_MOST_CHANNELS = 4


def check_images(sample_shape: tuple[Any, ...], map_shape: tuple[int, ...]) -> None:
    """Where y has maps, refuse an X that does not hold images; warn if the maps seem to be of other images.

    Raises
    ------
    ValueError
        If samples do not have the shape (channels, height, width).
    """
    if len(sample_shape) == 3:
        first, last = sample_shape[:2], sample_shape[1:]
        if first == map_shape != last and sample_shape[2] <= _MOST_CHANNELS < sample_shape[0]:
            warnings.warn(
                f"X has images of shape {sample_shape}, as (channels, height, width), but y has maps of "
                f"shape {map_shape}: the channels seem to be last. Give X.transpose(0, 3, 1, 2).",
                UserWarning,
                stacklevel=2,
            )
        elif not _have_one_stride(sample_shape[1:], map_shape):
            _warn_of_another_ratio(sample_shape[1:], map_shape)
        return
    raise ValueError(
        f"y has a map of shape {map_shape} for each row, but X has samples of shape {sample_shape}. Give X "
        "as images of shape (n_samples, channels, height, width); for grey images, X[:, None]."
    )


def _have_one_stride(image: tuple[int, ...], maps: tuple[int, ...]) -> bool:
    """Return whether one stride takes the images' height and width to the maps', rounded up or down."""
    least = max(size / (length + 1) for size, length in zip(image, maps, strict=True))
    most = min(
        size / (length - 1) if length > 1 else np.inf for size, length in zip(image, maps, strict=True)
    )
    return least < most


def _warn_of_another_ratio(image: tuple[int, ...], maps: tuple[int, ...]) -> None:
    swapped = _have_one_stride(image, maps[::-1])
    cure = "Are height and width swapped? Then give y.transpose(0, 2, 1)" if swapped else "Cut both alike"
    warnings.warn(
        f"X has images of height and width {image}, and y has maps of {maps}, another ratio: each map is "
        f"taken to cover its whole image and is stretched to it. {cure}.",
        UserWarning,
        stacklevel=3,
    )


def check_validation_maps(valid: ValidationRows | None) -> None:
    """Refuse a D_val whose images of positive weight have no known pixel.

    Raises
    ------
    ValueError
        If no pixel would be scored.
    """
    if valid is None or valid.weight is None:  # without weights, its targets have been checked
        return
    codes = valid.codes[valid.weight > 0]
    known = ~np.isnan(codes) if codes.dtype.kind == "f" else codes >= 0
    if not known.any():
        raise ValueError(
            "y_val has no known pixel in the images of positive weight, of which sample_weight_val has "
            f"{len(codes)}: no pixel would be scored. Give weight to images with known pixels."
        )


def refuse_class_weight(class_weight: Any) -> None:
    """Refuse ``class_weight``, which weights rows by their single class.

    Raises
    ------
    ValueError
        If it is given.
    """
    if class_weight is not None:
        raise ValueError(
            f"class_weight={class_weight!r} weights rows by their class, but y has a map of classes for each "
            "row. Set class_weight=None; fit's sample_weight gives weights to images."
        )


def network_of(teacher: Any, teacher_classes: list[Any] | None) -> tuple[Any, list[Any] | None]:
    """Return the network of a frozen classifier of this library that was fitted on maps, and its classes.

    Other teachers, and the classes that the user states, are returned as they are.

    Raises
    ------
    ValueError
        If the user states other classes than those of the classifier.
    """
    own = thawed(teacher)
    is_ours = all(hasattr(own, name) for name in ("map_shape_", "classes_", "student_"))
    if own is teacher or not is_ours:
        return teacher, teacher_classes
    known = column_labels(len(own.classes_), own.classes_, teacher_classes, name_of(teacher))
    return own.student_, known

"""Metrics for predictions of a class or a number for each pixel."""

from sklearn_kd.metrics._pixel_classes import mean_iou_score, pixel_accuracy_score
from sklearn_kd.metrics._pixel_numbers import masked_mean_relative_error, masked_root_mean_squared_error

__all__ = [
    "masked_mean_relative_error",
    "masked_root_mean_squared_error",
    "mean_iou_score",
    "pixel_accuracy_score",
]

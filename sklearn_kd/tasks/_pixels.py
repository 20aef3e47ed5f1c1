"""Turn maps of outputs and targets into rows, one per pixel, for losses and scores."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from sklearn_kd.tasks._targets import Targets, is_known, label_weights

# Number of pixels of a D_val batch whose outputs are kept to fit something to them.
_MOST_KEPT = 2**14
# Number of image pixels to predict at a time: 64 channels of them take a quarter of a gibibyte.
_PIXELS_AT_A_TIME = 2**20

# Replaces a logit of −inf in interpolation, so that differences and quotients by T stay finite.
_OFF = -1e30


def pixel_rows(outputs: Tensor) -> Tensor:
    """Return maps of shape (B, K, H, W) as rows of shape (B·H·W, K); rows of shape (B, K) unchanged."""
    if outputs.ndim == 2:
        return outputs
    return outputs.movedim(1, -1).reshape(-1, outputs.shape[1])


def resized(maps: Tensor, size: tuple[int, ...]) -> Tensor:
    """Return maps of shape (B, K, h, w) at another size (H, W), interpolated bilinearly.

    A logit of −inf, of a class that is switched off, is replaced by a low finite one: 0 · −inf would be NaN.
    """
    if tuple(maps.shape[2:]) == tuple(size):
        return maps
    maps = maps.clamp(min=max(_OFF, torch.finfo(maps.dtype).min / 4))
    return interpolate(maps, size=list(size), mode="bilinear", align_corners=False)


def pixel_targets(maps: Targets) -> Targets:
    """Return the targets of the pixels of some images.

    Parameters
    ----------
    maps : Targets
        ``labels`` of shape (B, H, W); ``teacher_logits`` of shape (B, K, h, w), of any size, or None;
        ``weight`` of shape (B,) or None.

    Returns
    -------
    Targets
        Targets of B·H·W rows. Class codes are int64 of shape (B·H·W,), numbers have shape (B·H·W, 1). The
        ``label_weight`` turns the mean over the batch into the mean over its known pixels.
    """
    labels, logits, weight, _ = maps
    numeric = labels.is_floating_point()
    rows = labels.reshape(-1, 1) if numeric else labels.reshape(-1).long()
    if logits is not None:
        logits = pixel_rows(resized(logits, labels.shape[1:]))
    if weight is not None:
        weight = weight.repeat_interleave(math.prod(labels.shape[1:]))
    return Targets(rows, logits, weight, label_weights(rows))


def known_weight(targets: Targets) -> Tensor | None:
    """Return the weight of each row in a mean over the rows with a label; None: all count alike."""
    weight, label_weight = targets.weight, targets.label_weight
    if weight is None or label_weight is None:
        return label_weight if weight is None else weight
    return weight * label_weight


def n_known(targets: Targets) -> int:
    """Return the number of rows with a label."""
    if targets.label_weight is None:
        return len(targets.labels)
    return int(is_known(targets.labels).sum())


def known_rows(outputs: Tensor, targets: Targets) -> tuple[Tensor, Targets]:
    """Return outputs and targets of the rows with a label; unchanged if all rows have one."""
    if targets.label_weight is None:
        return outputs, targets
    rows = is_known(targets.labels).nonzero()[:, 0]
    labels, logits, weight, _ = targets
    logits, weight = (None if t is None else t[rows] for t in (logits, weight))
    return outputs[rows], Targets(labels[rows], logits, weight)


def some_known_rows(outputs: Tensor, targets: Targets) -> tuple[Tensor, Targets]:
    """Return outputs and targets of evenly spaced pixels with a label, at most 16,384.

    Targets of rows, which have no ``label_weight``, and their outputs are returned unchanged.
    """
    if targets.label_weight is None:
        return outputs, targets
    outputs, targets = known_rows(outputs, targets)
    step = -(-len(outputs) // _MOST_KEPT) or 1
    return outputs[::step], Targets(*(None if t is None else t[::step] for t in targets))  # type: ignore[arg-type]


def images_at_a_time(sample_shape: tuple[Any, ...], most: int) -> int:
    """Return the number of images of shape (channels, height, width) to run a network on at a time."""
    pixels = math.prod(sample_shape[1:])
    return max(1, min(most, _PIXELS_AT_A_TIME // pixels))


def map_shape_of(maps: Any) -> tuple[int, ...]:
    """Return (H, W) of an array or a tensor of maps, shape (n, H, W); () for other targets."""
    return tuple(int(size) for size in maps.shape[1:]) if maps.ndim == 3 else ()


def mean_of_images(pixels: Tensor, n_images: int) -> Tensor:
    """Average numbers of shape (n_images · H · W,) over the pixels of each image."""
    return pixels.reshape(n_images, -1).mean(dim=1)

"""Give teachers another input than the student's, resized or normalised differently."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any

import torch
import torch.nn.functional as F
from sklearn.frozen import FrozenEstimator
from torch import Tensor, nn

from sklearn_kd.teachers._wrappers import without_wrappers

Transform = Callable[[Tensor], Tensor]


class TransformError(ValueError):
    """``teacher_transform`` failed or returned no batch of inputs."""


def transformed(transform: Transform, x: Any) -> Tensor:
    """Apply a transform to a batch.

    Raises
    ------
    TransformError
        If it fails, or does not return a floating-point tensor with the same number of rows.
    """
    if not isinstance(x, Tensor):
        raise TransformError(
            f"teacher_transform takes X as one tensor, but here X is a {type(x).__name__} of several parts. "
            "Do the transform in a module around the teacher."
        )
    try:
        made = transform(x)
    except Exception as error:  # a user's function may raise anything
        raise TransformError(
            f"teacher_transform fails on a batch of shape {tuple(x.shape)}: {type(error).__name__}: {error}. "
            "It gets the student's batch, a tensor on the device of the fit."
        ) from error
    if not (isinstance(made, Tensor) and made.is_floating_point() and made.shape[:1] == x.shape[:1]):
        got = f"{made.dtype} {tuple(made.shape)}" if isinstance(made, Tensor) else type(made).__name__
        raise TransformError(
            f"teacher_transform gives {got} for a batch of shape {tuple(x.shape)}. It must give a tensor of "
            "floating-point numbers with the same number of rows."
        )
    return made


class TransformedTeacher(nn.Module):
    """A trained network with a transform before it. Layers are named by the network's own paths.

    Parameters
    ----------
    network : nn.Module
    transform : callable(Tensor) -> Tensor
    """

    network: nn.Module
    transform: Transform

    def __init__(self, network: nn.Module, transform: Transform):
        super().__init__()
        self.network, self.transform = network, transform

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the network, such as its ``config`` or ``classes_``."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "network":  # not set yet
                raise
            return getattr(self.network, name)

    @property
    def named_network(self) -> nn.Module:
        """The module whose paths name the layers."""
        return self.network

    def forward(self, x: Tensor) -> Any:
        """Run the network on the transformed batch, cast to the type of the network's weights."""
        made = transformed(self.transform, x)
        weight = next((p for p in self.network.parameters() if p.is_floating_point()), None)
        return self.network(made if weight is None else made.to(weight.dtype))


def with_transform(teacher: Any, transform: Transform | None) -> Any:
    """Put ``teacher_transform`` before a teacher; return the teacher itself if there is no transform.

    Raises
    ------
    ValueError
        If there is no teacher.
    TypeError
        If the teacher is not an nn.Module.
    """
    if transform is None:
        return teacher
    if teacher is None:
        raise ValueError(
            "teacher_transform is given, but teacher=None has no input. Set teacher_transform=None, or give "
            "a trained network as teacher."
        )
    network = teacher.estimator if isinstance(teacher, FrozenEstimator) else teacher
    if not isinstance(network, nn.Module):
        raise TypeError(
            f"teacher_transform makes the input of a network, but teacher is a {type(network).__name__}. "
            "Give an nn.Module: module_ of a fitted skorch net, or student_ of a fitted estimator of this "
            "library. Begin a scikit-learn pipeline with the transform instead."
        )
    return TransformedTeacher(without_wrappers(network), transform)


def _numbers(values: Any) -> tuple[float, ...]:
    """Return a tuple of finite numbers, empty for anything else."""
    try:
        found = tuple(map(float, values))
    except (TypeError, ValueError):
        return ()
    return found if not isinstance(values, str) and all(map(math.isfinite, found)) else ()


def _checked_size(size: Any) -> int | tuple[int, int] | None:
    if size is None or _is_side(size):
        return None if size is None else int(size)
    if not (isinstance(size, Sequence) and len(size) == 2 and all(map(_is_side, size))):
        raise ValueError(f"size={size!r} must be a whole number above 0, two of them, or None.")
    return int(size[0]), int(size[1])


def _is_side(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) > 0


class ImageTransform:
    """Resize images and normalise their channels, as networks trained on ImageNet expect.

    Use it as ``teacher_transform``. The images have values in [0, 1].

    Parameters
    ----------
    size : int, tuple of (int, int) or None, default=None
        Height and width to which images are resized, bilinearly, with antialiasing when they become smaller.
        None: they keep their size.
    mean, std : sequence of float
        Mean and standard deviation of each channel of the network's training data, for values in [0, 1]. The
        defaults are those of ImageNet, (0.485, 0.456, 0.406) and (0.229, 0.224, 0.225).

    Raises
    ------
    ValueError
        If ``size`` is not one or two whole numbers above 0, or ``mean`` and ``std`` are not lists of one
        finite number per channel, ``std`` above 0.

    Examples
    --------
    >>> import torch
    >>> from sklearn_kd.teachers import ImageTransform
    >>> batch = torch.rand(2, 3, 32, 32)
    >>> ImageTransform(224)(batch).shape
    torch.Size([2, 3, 224, 224])
    >>> ImageTransform(mean=[0.5] * 3, std=[0.5] * 3)(torch.ones(1, 3, 2, 2)).max().item()
    1.0
    """

    def __init__(
        self,
        size: int | tuple[int, int] | None = None,
        mean: Sequence[float] = (0.485, 0.456, 0.406),
        std: Sequence[float] = (0.229, 0.224, 0.225),
    ):
        self.size, self.mean, self.std = _checked_size(size), _numbers(mean), _numbers(std)
        if not 0 < len(self.mean) == len(self.std) or not all(value > 0 for value in self.std):
            raise ValueError(
                f"mean={mean!r} and std={std!r} must be lists of one finite number for each channel, std "
                "above 0."
            )

    def __repr__(self) -> str:
        return f"ImageTransform(size={self.size!r}, mean={self.mean!r}, std={self.std!r})"

    def __call__(self, x: Tensor) -> Tensor:
        """Resize and normalise a batch of shape (n, channels, height, width).

        Raises
        ------
        ValueError
            If the images have no pixels, or another number of channels than ``mean``.
        """
        if x.ndim != 4 or x.shape[1] != len(self.mean):
            raise ValueError(
                f"images of shape {tuple(x.shape[1:])} do not have the {len(self.mean)} channels of mean="
                f"{self.mean!r}; the shape must be (n, channels, height, width)"
            )
        if 0 in x.shape[2:]:
            raise ValueError(f"images of shape {tuple(x.shape[1:])} have no pixels")
        if self.size is not None:
            size = (self.size, self.size) if isinstance(self.size, int) else self.size
            if x.shape[2:] != torch.Size(size):
                x = F.interpolate(x, size, mode="bilinear", antialias=True)
        mean, std = (x.new_tensor(values)[:, None, None] for values in (self.mean, self.std))
        return (x - mean) / std

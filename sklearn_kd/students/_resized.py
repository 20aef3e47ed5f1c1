"""Students whose maps are resized to the size of the maps in y."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.functional import interpolate

from sklearn_kd.inputs._image_sizes import scaled_size
from sklearn_kd.runtime._eval_mode import isolated_eval_mode


class ResizedStudent(nn.Module):
    """A student whose maps are resized bilinearly to the size of the maps in y.

    ``student_`` of an estimator fitted on maps is of this class if the student's own maps have another size
    than those in y. For images of another size, the ratio of output size to image size stays the same.

    Parameters
    ----------
    student : nn.Module
        Network that takes images of shape (B, channels, height, width) and returns maps of shape
        (B, n_classes, h, w).
    image_size : tuple of int
        Height and width of the images given to ``fit``.
    map_size : tuple of int
        Height and width of the maps in y.

    Attributes
    ----------
    student : nn.Module
        The user's own module.

    Examples
    --------
    >>> import torch
    >>> from sklearn_kd import ResizedStudent
    >>> student = ResizedStudent(torch.nn.Conv2d(3, 5, 3, stride=4), image_size=(32, 32), map_size=(32, 32))
    >>> student(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2, 5, 32, 32])
    >>> student(torch.zeros(2, 3, 48, 64)).shape
    torch.Size([2, 5, 48, 64])
    """

    __jit_unused_properties__ = ("named_network",)  # TorchScript would compile it

    def __init__(self, student: nn.Module, image_size: tuple[int, ...], map_size: tuple[int, ...]):
        super().__init__()
        self.student = student
        self.image_size, self.map_size = tuple(map(int, image_size)), tuple(map(int, map_size))

    @property
    def named_network(self) -> nn.Module:
        """The module whose paths name the layers."""
        return self.student

    def extra_repr(self) -> str:
        """Describe the sizes."""
        return f"image_size={self.image_size}, map_size={self.map_size}"

    def forward(self, x: Tensor) -> Tensor:
        """Return maps of logits."""
        maps: Tensor = self.student(x)
        if not isinstance(maps, Tensor) or maps.ndim != 4:
            return maps  # the check of the student reports it
        size = scaled_size(x.shape[-2:], self.image_size, self.map_size)
        if list(maps.shape[-2:]) == size:
            return maps
        return interpolate(maps, size=size, mode="bilinear", align_corners=False)


def with_map_size(student: nn.Module, samples: Any, map_shape: tuple[int, ...]) -> nn.Module:
    """Return a student whose maps have this size for such samples: the student, or a module around it.

    A student that fails or returns no maps is returned unchanged; the checks that follow report it.

    Parameters
    ----------
    student : nn.Module
    samples : Tensor of shape (n, channels, height, width)
    map_shape : tuple of int
        (H, W), or () if the student need not return maps.
    """
    if not map_shape or isinstance(student, ResizedStudent):
        return student
    try:
        with isolated_eval_mode(student, samples.device):
            maps = student(samples)
    except Exception:  # a module may raise any error
        return student
    if not isinstance(maps, Tensor) or maps.ndim != 4 or tuple(maps.shape[2:]) == tuple(map_shape):
        return student
    return ResizedStudent(student, tuple(samples.shape[-2:]), map_shape).train(student.training)


def resized_alike(student: nn.Module, other: nn.Module) -> nn.Module:
    """Return the student inside a module that resizes its maps if ``other`` is inside such a module."""
    if not isinstance(other, ResizedStudent):
        return student
    return ResizedStudent(student, other.image_size, other.map_size)

"""The term "attention": match the places where activations are large."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from sklearn_kd.losses._feature_term import FeatureTerm, Shape
from sklearn_kd.losses._map_parts import mean_squared
from sklearn_kd.losses._unit_rows import unit_rows


class AttentionTransfer(FeatureTerm):
    """Mean squared difference of the attention maps of student and teacher: "attention".

    The attention map of a layer is the sum of its squared activations over the channels, one number for each
    pixel [1]_. It is divided by its Euclidean norm over the pixels, so that only its pattern counts. The
    term has no weights of its own to train.

    Parameters
    ----------
    weight : float, default=1000.0
        Weight of the term, or its initial value if learned. The authors' code and RepDistiller use 1000,
        with the same mean over rows and pixels.
    weight_bounds : tuple of (float, float), "auto" or "fixed", default="auto"
        As in :class:`FeatureTerm`.
    teacher_layers, student_layers : "auto" or list of str, default="auto"
        Layers that return maps, paired in order; the losses of the pairs are added. "auto": the maps after
        each down-sampling stage.

    Notes
    -----
    If the two maps differ in height or width, both attention maps are averaged to the smaller height and
    width. The paper compares norms of the difference; its authors' code, like this class, compares their
    squares. A map of zeros has an attention map of zeros, with derivatives of 0.

    Time and memory: two passes over the maps, and one array of the size of a map for the gradient.

    References
    ----------
    .. [1] Zagoruyko, Komodakis. "Paying more attention to attention: improving the performance of
       convolutional neural networks via attention transfer", ICLR 2017.

    Examples
    --------
    A student that attends to the same place, at any scale, has nothing to learn:

    >>> import torch
    >>> from sklearn_kd.losses import AttentionTransfer
    >>> teacher, elsewhere = torch.zeros(2, 1, 3, 4, 4)
    >>> teacher[:, :, 1, 2], elsewhere[:, :, 3, 0] = 5.0, 5.0
    >>> module = AttentionTransfer().build([(3, 4, 4)], [(3, 4, 4)])
    >>> def loss(student):
    ...     return float(AttentionTransfer().loss([student], [teacher], module))
    >>> loss(0.1 * teacher) < 1e-6, loss(elsewhere) > 0.1
    (True, True)
    """

    name: ClassVar[str] = "attention"
    takes_row_weight: ClassVar[bool] = True

    def __init__(
        self,
        weight: float = 1000.0,
        *,
        weight_bounds: tuple[float, float] | Literal["auto", "fixed"] = "auto",
        teacher_layers: str | Sequence[str] = "auto",
        student_layers: str | Sequence[str] = "auto",
    ):
        super().__init__(
            weight, weight_bounds=weight_bounds, teacher_layers=teacher_layers, student_layers=student_layers
        )

    def check_shapes(self, student: Sequence[Shape], teacher: Sequence[Shape]) -> None:
        """Raise ValueError for a map of one pixel, whose attention is always 1."""
        for s, t in zip(student, teacher, strict=True):
            if 1 in (s[1] * s[2], t[1] * t[2]):
                raise ValueError(
                    "AttentionTransfer compares where in a map the activations are large, but the student's "
                    f"map of shape {tuple(s)} or the teacher's of shape {tuple(t)} has a single pixel. "
                    "Name layers with larger maps in student_layers and teacher_layers."
                )

    def loss(
        self,
        student: list[Tensor],
        teacher: list[Tensor],
        module: Any,
        *,
        row_weight: Tensor | None = None,
    ) -> Tensor:
        """Return the sum of the layers' mean squared differences."""
        losses = [_layer_loss(s, t, row_weight) for s, t in zip(student, teacher, strict=True)]
        return torch.stack(losses).sum(dim=0)


def _layer_loss(student: Tensor, teacher: Tensor, row_weight: Tensor | None) -> Tensor:
    size = (min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3]))
    return mean_squared(_attention(student, size), _attention(teacher, size), row_weight)


def _attention(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the attention maps of maps (B, C, H, W) at a size, as rows of norm 1."""
    # The mean over the channels serves as well as the sum, since the norm becomes 1.
    energy = maps.square().mean(dim=1)
    if tuple(energy.shape[1:]) != size:
        energy = F.adaptive_avg_pool2d(energy, size)
    return unit_rows(energy.flatten(start_dim=1))

"""The term "attention": where in a map the activations are large."""

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

    The attention map of a layer is the sum over the channels of the squared activations, one number for each
    pixel [1]_. It is divided by its Euclidean norm over the pixels, so that only its form counts. The term
    has nothing to learn beside the student, since channels are summed.

    Parameters
    ----------
    weight : float, default=1000.0
        Weight of the term, or where it starts. 1000 is what the authors' code and RepDistiller use, with the
        mean over rows and pixels that is taken here.
    weight_bounds : tuple of (float, float), "auto" or "fixed", default="auto"
        As in :class:`FeatureTerm`.
    teacher_layers, student_layers : "auto" or list of str, default="auto"
        Layers that return maps, paired in their order; the losses of the pairs are added. "auto": the maps
        after each down-sampling stage.

    Notes
    -----
    Where the two maps differ in height or width, the larger attention map is averaged to the smaller one's
    size. The paper compares norms of the difference; its authors' code, as this class, their squares. A map
    of zeros has an attention of zeros, with derivatives of 0.

    Time and memory: two passes over the maps, and one array of the size of a map for the gradient.

    References
    ----------
    .. [1] Zagoruyko, Komodakis. "Paying more attention to attention: improving the performance of
       convolutional neural networks via attention transfer", ICLR 2017.

    Examples
    --------
    A student that looks at the same place has nothing to learn, at whatever scale:

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
                    "AttentionTransfer compares where in a map the activations are large. Of the student's "
                    f"map of shape {tuple(s)} and the teacher's of shape {tuple(t)} one has a single pixel. "
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
        """Return the sum over the layers of the mean squared differences."""
        losses = [_layer_loss(s, t, row_weight) for s, t in zip(student, teacher, strict=True)]
        return torch.stack(losses).sum(dim=0)


def _layer_loss(student: Tensor, teacher: Tensor, row_weight: Tensor | None) -> Tensor:
    size = (min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3]))
    return mean_squared(_attention(student, size), _attention(teacher, size), row_weight)


def _attention(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the attention of maps of shape (B, C, H, W) at a size, as rows of norm 1."""
    # The mean over the channels in place of the sum: the norm is 1 in either case.
    energy = maps.square().mean(dim=1)
    if tuple(energy.shape[1:]) != size:
        energy = F.adaptive_avg_pool2d(energy, size)
    return unit_rows(energy.flatten(start_dim=1))

"""The term "hint": match the teacher's maps with transformed maps of the student."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from sklearn_kd.losses._feature_term import FeatureTerm, Shape
from sklearn_kd.losses._map_parts import mean_squared, resized


class Hint(FeatureTerm):
    """Mean squared difference of the teacher's maps and transformed maps of the student: "hint".

    The transform is a 1×1 convolution to the teacher's channels, then a resize to the teacher's height and
    width by nearest pixels. It is trained with the student. The term is the hint regression of FitNets [1]_.
    There it trains the lower half of the student before the rest. Here, as in most later comparisons, it is
    added to the loss of the labels during the whole training.

    Parameters
    ----------
    weight : float, default=100.0
        Weight of the term, or its initial value if learned. RepDistiller uses 100 on CIFAR-100, with the
        same mean over rows, channels and pixels.
    weight_bounds : tuple of (float, float), "auto" or "fixed", default="auto"
        As in :class:`FeatureTerm`.
    teacher_layers, student_layers : "auto" or list of str, default="auto"
        Layers that return maps, paired in order; the losses of the pairs are added. "auto": the middle
        stage.

    Notes
    -----
    Time and memory: one convolution and one map of the teacher's shape for each pair.

    References
    ----------
    .. [1] Romero, Ballas, Kahou, Chassang, Gatta, Bengio. "FitNets: hints for thin deep nets", ICLR 2015.

    Examples
    --------
    A convolution brings the student's map to the teacher's channels:

    >>> import torch
    >>> from sklearn_kd.losses import Hint
    >>> hint, student, teacher = Hint(), torch.ones(2, 4, 4, 4), torch.ones(2, 8, 8, 8)
    >>> module = hint.build([(4, 4, 4)], [(8, 8, 8)])
    >>> module[0](student).shape
    torch.Size([2, 8, 4, 4])
    >>> hint.loss([student], [teacher], module).shape
    torch.Size([])
    """

    name: ClassVar[str] = "hint"
    takes_row_weight: ClassVar[bool] = True
    auto: ClassVar[Literal["stages", "middle stage", "last stage", "embedding"]] = "middle stage"

    def __init__(
        self,
        weight: float = 100.0,
        *,
        weight_bounds: tuple[float, float] | Literal["auto", "fixed"] = "auto",
        teacher_layers: str | Sequence[str] = "auto",
        student_layers: str | Sequence[str] = "auto",
    ):
        super().__init__(
            weight, weight_bounds=weight_bounds, teacher_layers=teacher_layers, student_layers=student_layers
        )

    def build(self, student: Sequence[Shape], teacher: Sequence[Shape]) -> nn.Module:
        """Return a 1×1 convolution for each pair of layers."""
        return nn.ModuleList(nn.Conv2d(s[0], t[0], 1) for s, t in zip(student, teacher, strict=True))

    def loss(
        self,
        student: list[Tensor],
        teacher: list[Tensor],
        module: Any,
        *,
        row_weight: Tensor | None = None,
    ) -> Tensor:
        """Return the sum of the layers' mean squared differences."""
        losses = [
            mean_squared(resized(match(s).to(t.dtype), (t.shape[2], t.shape[3])), t, row_weight)
            for s, t, match in zip(student, teacher, module, strict=True)
        ]
        return torch.stack(losses).sum(dim=0)

"""The term "mgd": generate the teacher's map from a part of the student's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from sklearn_kd.losses._feature_term import FeatureTerm, Shape
from sklearn_kd.losses._map_parts import mean_squared, resized
from sklearn_kd.meta._strategy import check_real

_MASKED = ("channels", "pixels")


class MaskedGeneration(FeatureTerm):
    """Mean squared difference of the teacher's map and one generated from the student's masked map: "mgd".

    A random part of the student's map is set to 0, anew in each row and iteration. Two 3×3 convolutions with
    a ReLU between them generate the teacher's whole map from the rest [1]_, so that each part of the
    student's map must carry what the others lack. If the numbers of channels differ, a 1×1 convolution
    aligns them first. The convolutions are trained with the student.

    Parameters
    ----------
    weight : float, default=2.0
        Weight of the term, or its initial value if learned. The authors' weight for classification, 7e-5,
        belongs to the sum over channels and pixels. It corresponds to 1.8 for the mean used here, with a map
        of 512 × 7 × 7.
    masked : {"channels", "pixels"}, default="channels"
        What is set to 0: whole channels, as in the authors' code for classification, or pixels in all
        channels, as in the paper and in their code for detection and segmentation.
    mask_ratio : float, default=0.15
        Probability of masking a channel or pixel, above 0 and below 1. The authors' code uses 0.15 for
        channels in classification, and 0.65 for pixels in detection.
    weight_bounds : tuple of (float, float), "auto" or "fixed", default="auto"
        As in :class:`FeatureTerm`.
    teacher_layers, student_layers : "auto" or list of str, default="auto"
        Layers that return maps, paired in order; the losses of the pairs are added. "auto": the last stage.

    Notes
    -----
    The masks come from torch's global random state, like those of dropout, so that a hypergradient sees the
    same masks as the step. A map of another height or width than the teacher's is resized by nearest pixels.

    Time and memory: two 3×3 convolutions of the teacher's channels at the teacher's size, and four maps of
    that shape. With a wide last stage this is a lot for a small student.

    References
    ----------
    .. [1] Yang, Li, Shao, Shi, Yuan, Yuan. "Masked generative distillation", ECCV 2022.

    Examples
    --------
    >>> import torch
    >>> from sklearn_kd.losses import MaskedGeneration
    >>> term = MaskedGeneration(masked="pixels", mask_ratio=0.5)
    >>> module = term.build([(4, 8, 8)], [(6, 4, 4)])
    >>> student, teacher = torch.rand(2, 4, 8, 8), torch.rand(2, 6, 4, 4)
    >>> bool(term.loss([student], [teacher], module) > 0)
    True
    """

    name: ClassVar[str] = "mgd"
    takes_row_weight: ClassVar[bool] = True
    auto: ClassVar[Literal["stages", "middle stage", "last stage", "embedding"]] = "last stage"

    def __init__(
        self,
        weight: float = 2.0,
        *,
        masked: Literal["channels", "pixels"] = "channels",
        mask_ratio: float = 0.15,
        weight_bounds: tuple[float, float] | Literal["auto", "fixed"] = "auto",
        teacher_layers: str | Sequence[str] = "auto",
        student_layers: str | Sequence[str] = "auto",
    ):
        super().__init__(
            weight, weight_bounds=weight_bounds, teacher_layers=teacher_layers, student_layers=student_layers
        )
        self.masked = masked
        self.mask_ratio = mask_ratio

    def check(self) -> None:
        """Raise ValueError if ``masked`` or ``mask_ratio`` has an invalid value."""
        if self.masked not in _MASKED:
            raise ValueError(f"masked={self.masked!r} must be one of {list(_MASKED)}.")
        check_real("mask_ratio", self.mask_ratio, above=0.0, otherwise=", below 1")
        if self.mask_ratio >= 1:
            raise ValueError(f"mask_ratio={self.mask_ratio!r} must be below 1.")

    def build(self, student: Sequence[Shape], teacher: Sequence[Shape]) -> nn.Module:
        """Return the aligning and generating convolutions of each pair of layers."""
        return nn.ModuleList(_generation(s[0], t[0]) for s, t in zip(student, teacher, strict=True))

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
            self._layer_loss(s, t, align, generate, row_weight)
            for s, t, (align, generate) in zip(student, teacher, module, strict=True)
        ]
        return torch.stack(losses).sum(dim=0)

    def _layer_loss(
        self, student: Tensor, teacher: Tensor, align: Any, generate: Any, row_weight: Tensor | None
    ) -> Tensor:
        aligned = resized(align(student), (teacher.shape[2], teacher.shape[3]))
        generated = generate(aligned * self._kept(aligned)).to(teacher.dtype)
        return mean_squared(generated, teacher, row_weight)

    def _kept(self, maps: Tensor) -> Tensor:
        """Draw a mask: 1 for channels or pixels to keep, 0 for those to mask."""
        B, C, H, W = maps.shape
        shape = (B, C, 1, 1) if self.masked == "channels" else (B, 1, H, W)
        return (torch.rand(shape, device=maps.device) >= self.mask_ratio).to(maps.dtype)


def _generation(c_in: int, c_out: int) -> nn.ModuleList:
    align = nn.Identity() if c_in == c_out else nn.Conv2d(c_in, c_out, 1)
    generate = nn.Sequential(
        nn.Conv2d(c_out, c_out, 3, padding=1), nn.ReLU(), nn.Conv2d(c_out, c_out, 3, padding=1)
    )
    return nn.ModuleList([align, generate])

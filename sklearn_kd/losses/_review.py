"""The term "reviewkd": match the teacher's maps with the student's, joined with those of deeper stages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from sklearn_kd.losses._feature_term import FeatureTerm, Shape
from sklearn_kd.losses._map_parts import hcl, normalised_convolution, resized

# Largest number of channels between the blocks.
_WIDEST = 512


class FusionBlock(nn.Module):
    """Attention-based fusion of a stage's map with the output of the deeper stages (Chen et al., Fig. 3).

    Both are brought to ``c_mid`` channels and the stage's size. A 1×1 convolution of both makes two
    attention maps between 0 and 1. Each input is multiplied by its attention map, and the products are
    added. The sum is resized to the teacher's map, and a 3×3 convolution maps it to the teacher's channels.

    Parameters
    ----------
    c_in, c_mid, c_out : int
        Numbers of channels of the stage's map, between the blocks, and of the teacher's map.
    deepest : bool
        Whether there is no deeper stage to join.
    """

    def __init__(self, c_in: int, c_mid: int, c_out: int, *, deepest: bool):
        super().__init__()
        self.narrow = normalised_convolution(c_in, c_mid, 1)
        self.match = normalised_convolution(c_mid, c_out, 3)
        self.attention = None if deepest else nn.Conv2d(2 * c_mid, 2, 1)

    def forward(self, own: Tensor, deeper: Tensor | None, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return the input of the next block, (B, c_mid, H, W), and the map to compare, (B, c_out, *size)."""
        fused = self.narrow(own)
        if self.attention is not None:
            assert deeper is not None
            deeper = resized(deeper, (own.shape[2], own.shape[3]))
            shares = torch.sigmoid(self.attention(torch.cat([fused, deeper], dim=1)))
            fused = fused * shares[:, :1] + deeper * shares[:, 1:]
        return fused, self.match(resized(fused, size))


class ReviewKD(FeatureTerm):
    """Hierarchical context loss between the teacher's maps and reviewed maps of the student: "reviewkd".

    The student's maps are reviewed from the deepest stage to the first [1]_. In each stage an
    attention-based fusion block joins the map with the output of the deeper stages, so that a low stage of
    the teacher also teaches deeper stages of the student. The loss of a stage is the mean squared difference
    of the joined map and the teacher's, at full size and averaged down to 4×4, 2×2 and 1×1. The losses of
    the stages are added. The blocks are trained with the student.

    Parameters
    ----------
    weight : float, default=5.0
        Weight of the term, or its initial value if learned. The paper uses 5 to 8 on CIFAR-100, depending on
        the networks, and 1 on ImageNet.
    weight_bounds : tuple of (float, float), "auto" or "fixed", default="auto"
        As in :class:`FeatureTerm`.
    teacher_layers, student_layers : "auto" or list of str, default="auto"
        Layers that return maps, the same number for both, the first stage first. "auto": the maps after each
        down-sampling stage.

    Notes
    -----
    **No warm-up.** The authors raise the weight linearly over the first 20 of 240 epochs. A term has no
    schedule of its own. To raise a weight, train with a process whose values rise:
    ``DistilledClassifier(process=MetaparameterProcess(...))``.

    The authors also add a block for the pooled features before the last linear layer. Here each stage of
    maps has a block, and rows have none. Between the blocks there are as many channels as in the student's
    deepest map, at most 512.

    Time and memory: for each stage a 1×1 convolution, and a 3×3 convolution to the teacher's channels at the
    teacher's size. It is the most expensive term; with a small student it costs more than the student.

    References
    ----------
    .. [1] Chen, Liu, Zhao, Jia. "Distilling knowledge via knowledge review", CVPR 2021.

    Examples
    --------
    >>> import torch
    >>> from sklearn_kd.losses import ReviewKD
    >>> shapes = [(8, 16, 16), (16, 8, 8)]
    >>> student = [torch.rand(4, *shape) for shape in shapes]
    >>> teacher = [2 * maps.flip(1) for maps in student]  # channels in another order
    >>> term, blocks = ReviewKD(), ReviewKD().build(shapes, shapes)
    >>> optimizer = torch.optim.SGD(blocks.parameters(), lr=0.3)
    >>> losses = []
    >>> for _ in range(30):
    ...     loss = term.loss(student, teacher, blocks)
    ...     optimizer.zero_grad()
    ...     loss.backward()
    ...     optimizer.step()
    ...     losses.append(loss.item())
    >>> losses[-1] < losses[0] / 2  # the blocks learn
    True
    """

    name: ClassVar[str] = "reviewkd"
    takes_row_weight: ClassVar[bool] = True

    def __init__(
        self,
        weight: float = 5.0,
        *,
        weight_bounds: tuple[float, float] | Literal["auto", "fixed"] = "auto",
        teacher_layers: str | Sequence[str] = "auto",
        student_layers: str | Sequence[str] = "auto",
    ):
        super().__init__(
            weight, weight_bounds=weight_bounds, teacher_layers=teacher_layers, student_layers=student_layers
        )

    def build(self, student: Sequence[Shape], teacher: Sequence[Shape]) -> nn.Module:
        """Return a fusion block for each stage, the first stage first."""
        c_mid = min(_WIDEST, student[-1][0])
        last = len(student) - 1
        return nn.ModuleList(
            FusionBlock(s[0], c_mid, t[0], deepest=stage == last)
            for stage, (s, t) in enumerate(zip(student, teacher, strict=True))
        )

    def loss(
        self,
        student: list[Tensor],
        teacher: list[Tensor],
        module: Any,
        *,
        row_weight: Tensor | None = None,
    ) -> Tensor:
        """Return the sum of the stages' hierarchical context losses."""
        losses, fused = [], None
        for s, t, block in zip(student[::-1], teacher[::-1], reversed(module), strict=True):
            fused, compared = block(s, fused, (t.shape[2], t.shape[3]))
            losses.append(hcl(compared.to(t.dtype), t, row_weight))
        return torch.stack(losses).sum(dim=0)

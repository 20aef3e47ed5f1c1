"""Terms of relations: compare how the rows of a batch relate to each other in student and teacher."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sklearn_kd.losses._feature_term import FeatureTerm, Shape
from sklearn_kd.losses._unit_rows import unit_rows
from sklearn_kd.meta._strategy import check_positive_ints, check_real
from sklearn_kd.runtime._devices import full_precision


class SimilarityPreserving(FeatureTerm):
    """Mean squared difference of the similarities of the rows of a batch: "similarity".

    The similarity of two rows is the inner product of their features, and each row of the matrix of
    similarities, (B, B), is divided by its Euclidean norm [1]_. Rows that are alike for the teacher should
    be alike for the student. The features may have any widths. The term has no weights of its own to train.

    Parameters
    ----------
    weight : float, default=3000.0
        Weight of the term, or its initial value if learned. The paper and RepDistiller use 3000.
    weight_bounds : tuple of (float, float), "auto" or "fixed", default="auto"
        As in :class:`FeatureTerm`.
    teacher_layers, student_layers : "auto" or list of str, default="auto"
        Layers that return rows or maps, which are flattened; the losses of the pairs are added. "auto": the
        input rows of the last linear layer. The paper takes the last maps.

    Notes
    -----
    The term is computed over a batch: it depends on ``batch_size``, and a batch of one row has none. It
    compares rows with each other, so ``sample_weight`` has no effect on it. A row of zeros has similarities
    of 0, with derivatives of 0.

    Time and memory: a product of (B, D) with itself, and a few arrays of shape (B, B).

    References
    ----------
    .. [1] Tung, Mori. "Similarity-preserving knowledge distillation", ICCV 2019.

    Examples
    --------
    Rotating or scaling all features does not change the similarities:

    >>> import torch
    >>> from sklearn_kd.losses import SimilarityPreserving
    >>> teacher = torch.randn(6, 3)
    >>> rotation, _ = torch.linalg.qr(torch.randn(3, 3))
    >>> term = SimilarityPreserving()
    >>> module = term.build([(3,)], [(3,)])
    >>> bool(term.loss([5 * teacher @ rotation], [teacher], module) < 1e-6)
    True
    >>> bool(term.loss([torch.randn(6, 2)], [teacher], module) > 1e-3)
    True
    """

    name: ClassVar[str] = "similarity"
    kinds: ClassVar[tuple[str, ...]] = ("maps", "rows")
    auto: ClassVar[Literal["stages", "middle stage", "last stage", "embedding"]] = "embedding"

    def __init__(
        self,
        weight: float = 3000.0,
        *,
        weight_bounds: tuple[float, float] | Literal["auto", "fixed"] = "auto",
        teacher_layers: str | Sequence[str] = "auto",
        student_layers: str | Sequence[str] = "auto",
    ):
        super().__init__(
            weight, weight_bounds=weight_bounds, teacher_layers=teacher_layers, student_layers=student_layers
        )

    def loss(self, student: list[Tensor], teacher: list[Tensor], module: Any) -> Tensor:
        """Return the sum over the layers of the mean squared differences."""
        losses = [
            F.mse_loss(_similarities(s), _similarities(t)) for s, t in zip(student, teacher, strict=True)
        ]
        return torch.stack(losses).sum(dim=0)


def _similarities(features: Tensor) -> Tensor:
    rows = features.flatten(start_dim=1)
    with full_precision(rows.device):
        return unit_rows(rows @ rows.T)


class RelationalKD(FeatureTerm):
    """Differences of the distances and of the angles between the rows of a batch: "rkd".

    The term has two losses, each with its own weight [1]_. The distance of two rows is Euclidean and divided
    by the mean distance of the batch. The angle of three rows is the cosine at the second, between the
    directions to the first and the third. Both compare student and teacher by Huber's loss of width 1,
    averaged over all pairs or triples, including those with equal rows. The features may have any widths.
    The term has no weights of its own to train.

    The weights are two metaparameters, ``rkd_distance_weight`` and ``rkd_angle_weight``.

    Parameters
    ----------
    distance_weight : float, default=25.0
        Weight of the distances, or its initial value if learned. The paper uses 25.
    angle_weight : float, default=50.0
        Weight of the angles, or its initial value if learned. The paper uses 50.
    weight_bounds : tuple of (float, float), "auto" or "fixed", default="auto"
        As in :class:`FeatureTerm`, for both weights.
    teacher_layers, student_layers : "auto" or list of str, default="auto"
        Layers that return rows or maps, which are flattened; the losses of the pairs are added. "auto": the
        input rows of the last linear layer.

    Notes
    -----
    The term is computed over a batch: it depends on ``batch_size``, and a batch of one row has none. It
    compares rows with each other, so ``sample_weight`` has no effect on it. Rows that are equal up to
    rounding have distance 0 and cosines of 0, with derivatives of 0. Squared distances are computed in
    float64, if the device has it, and angles from them by the law of cosines, so that the width of the
    features matters only for one product of (B, D) with itself.

    Time and memory: about ten arrays of shape (B, B, B), 8 MB each for batches of 128 and 67 MB for 256.

    References
    ----------
    .. [1] Park, Kim, Lu, Cho. "Relational knowledge distillation", CVPR 2019.

    Examples
    --------
    Shifting, rotating and scaling the features does not change the relations:

    >>> import torch
    >>> from sklearn_kd.losses import RelationalKD
    >>> teacher = torch.randn(6, 3)
    >>> rotation, _ = torch.linalg.qr(torch.randn(3, 3))
    >>> term = RelationalKD()
    >>> module = term.build([(3,)], [(3,)])
    >>> bool(term.loss([5 * teacher @ rotation + 1], [teacher], module).max() < 1e-6)
    True
    >>> distance, angle = term.loss([torch.randn(6, 2)], [teacher], module)
    >>> bool(distance > 1e-3), bool(angle > 1e-3)
    (True, True)
    """

    name: ClassVar[str] = "rkd"
    kinds: ClassVar[tuple[str, ...]] = ("maps", "rows")
    auto: ClassVar[Literal["stages", "middle stage", "last stage", "embedding"]] = "embedding"
    weight_names: ClassVar[tuple[str, ...]] = ("distance_weight", "angle_weight")

    def __init__(
        self,
        distance_weight: float = 25.0,
        angle_weight: float = 50.0,
        *,
        weight_bounds: tuple[float, float] | Literal["auto", "fixed"] = "auto",
        teacher_layers: str | Sequence[str] = "auto",
        student_layers: str | Sequence[str] = "auto",
    ):
        self.distance_weight = distance_weight
        self.angle_weight = angle_weight
        self.weight_bounds = weight_bounds
        self.teacher_layers = teacher_layers
        self.student_layers = student_layers

    def loss(self, student: list[Tensor], teacher: list[Tensor], module: Any) -> Tensor:
        """Return the losses of distances and angles, shape (2,), summed over the layers."""
        losses = [_relational_losses(s, t) for s, t in zip(student, teacher, strict=True)]
        return torch.stack(losses).sum(dim=0)


def _relational_losses(student: Tensor, teacher: Tensor) -> Tensor:
    with full_precision(student.device):
        ours, theirs = (_squared_distances(own.flatten(start_dim=1)) for own in (student, teacher))
    distance = F.smooth_l1_loss(_relative_distances(ours), _relative_distances(theirs))
    angle = F.smooth_l1_loss(_cosines(ours).to(teacher.dtype), _cosines(theirs).to(teacher.dtype))
    return torch.stack([distance.to(teacher.dtype), angle])


def _squared_distances(rows: Tensor) -> Tensor:
    """Return the squared distances of the rows, shape (B, B); 0 if they are lost in rounding."""
    # The distance of near rows is a small difference of large numbers: use float64, centred at the mean.
    exact = rows if rows.device.type == "mps" else rows.double()
    exact = exact - exact.mean(dim=0)
    products = exact @ exact.T
    own = products.diagonal()
    both = own[:, None] + own
    squares = both - 2 * products
    is_zero = squares <= 16 * torch.finfo(exact.dtype).eps * both
    return squares.masked_fill(is_zero | torch.eye(len(rows), dtype=torch.bool, device=rows.device), 0.0)


def _distances(squares: Tensor) -> Tensor:
    # The root of 1 takes the place of the root of 0, whose derivative is not finite.
    is_zero = squares == 0
    return torch.where(is_zero, 1.0, squares).sqrt().masked_fill(is_zero, 0.0)


def _relative_distances(squares: Tensor) -> Tensor:
    """Return the distances of the rows, divided by their mean over the pairs."""
    distances, n = _distances(squares), len(squares)
    mean = distances.sum() / max(1, n * (n - 1))
    return distances / torch.where(mean == 0, 1.0, mean)


def _cosines(squares: Tensor) -> Tensor:
    """Return the cosine of the angle at row j between the rows i and k, at [j, i, k]; shape (B, B, B)."""
    distances = _distances(squares)
    is_zero = distances == 0
    inverse = (1 / torch.where(is_zero, 1.0, distances)).masked_fill(is_zero, 0.0)
    # The law of cosines, in arrays that are already divided by the two distances.
    ratio = distances[:, :, None] * inverse[:, None, :]
    opposite = squares * inverse[:, :, None] * inverse[:, None, :]
    return (ratio + ratio.transpose(1, 2) - opposite) / 2


class CorrelationCongruence(FeatureTerm):
    """Mean squared difference of the correlations of the rows of a batch: "correlation".

    The correlation of two rows is a Gaussian kernel of their normalised features, exp(−gamma · ‖x − y‖²),
    approximated by its Taylor expansion in the cosine of x and y [1]_:

        exp(−2 gamma) · Σ_p (2 gamma)^p / p! · cos(x, y)^p,   p = 0 … order.

    Parameters
    ----------
    weight : float, default=10.0
        Weight of the term, or its initial value if learned. The published weights belong to sums or to other
        losses of the same name; 10 is this library's choice.
    gamma : float, default=0.4
        Parameter of the kernel, above 0. The paper uses 0.4.
    order : int, default=2
        Order of the expansion, at least 1. The paper uses 2.
    embedding_size : int or None, default=None
        Width of linear embeddings of the student's and the teacher's features, which are trained with the
        student, as in the paper. None: use the features themselves, of any widths. See the notes.
    weight_bounds : tuple of (float, float), "auto" or "fixed", default="auto"
        As in :class:`FeatureTerm`.
    teacher_layers, student_layers : "auto" or list of str, default="auto"
        Layers that return rows or maps, which are flattened; the losses of the pairs are added. "auto": the
        input rows of the last linear layer.

    Notes
    -----
    The term is computed over a batch: it depends on ``batch_size``, and a batch of one row has none. It
    compares rows with each other, so ``sample_weight`` has no effect on it. A row of zeros has cosines of 0,
    with derivatives of 0.

    **Embeddings can learn to agree without the student.** Both can map all rows to one direction, where the
    loss is 0. On digits, with an MLP of 128 units as teacher and one of 8 as student, the term fell to 6e-5,
    and the mean cosine of two rows of the teacher rose from 0.58 for its own features to 0.97 for the
    embedded ones. The student's own correlations were no nearer to the teacher's than without the term.
    Therefore the default has no embeddings: correlations can be compared directly even if the features have
    different widths.

    Time and memory: a product of (B, D) with itself, and about ten arrays of shape (B, B); the embeddings
    are products of (B, D) with (D, ``embedding_size``).

    References
    ----------
    .. [1] Peng et al. "Correlation congruence for knowledge distillation", ICCV 2019.

    Examples
    --------
    The lengths of the rows do not matter:

    >>> import torch
    >>> from sklearn_kd.losses import CorrelationCongruence
    >>> teacher, lengths = torch.randn(6, 3), torch.rand(6, 1) + 0.1
    >>> term = CorrelationCongruence()
    >>> module = term.build([(3,)], [(3,)])
    >>> bool(term.loss([lengths * teacher], [teacher], module) < 1e-6)
    True
    >>> bool(term.loss([torch.randn(6, 2)], [teacher], module) > 1e-3)
    True
    """

    name: ClassVar[str] = "correlation"
    kinds: ClassVar[tuple[str, ...]] = ("maps", "rows")
    auto: ClassVar[Literal["stages", "middle stage", "last stage", "embedding"]] = "embedding"

    def __init__(
        self,
        weight: float = 10.0,
        *,
        gamma: float = 0.4,
        order: int = 2,
        embedding_size: int | None = None,
        weight_bounds: tuple[float, float] | Literal["auto", "fixed"] = "auto",
        teacher_layers: str | Sequence[str] = "auto",
        student_layers: str | Sequence[str] = "auto",
    ):
        super().__init__(
            weight, weight_bounds=weight_bounds, teacher_layers=teacher_layers, student_layers=student_layers
        )
        self.gamma = gamma
        self.order = order
        self.embedding_size = embedding_size

    def check(self) -> None:
        """Raise ValueError if ``gamma``, ``order`` or ``embedding_size`` is invalid."""
        check_real("gamma", self.gamma, above=0.0)
        check_positive_ints(order=self.order)
        if self.embedding_size is not None:
            check_positive_ints(embedding_size=self.embedding_size)

    def build(self, student: Sequence[Shape], teacher: Sequence[Shape]) -> nn.Module:
        """Return embeddings of the student's and the teacher's features for each pair of layers."""
        return nn.ModuleList(
            nn.ModuleList([self._embedding(s), self._embedding(t)])
            for s, t in zip(student, teacher, strict=True)
        )

    def _embedding(self, shape: Shape) -> nn.Module:
        return (
            nn.Identity() if self.embedding_size is None else nn.Linear(math.prod(shape), self.embedding_size)
        )

    def loss(self, student: list[Tensor], teacher: list[Tensor], module: Any) -> Tensor:
        """Return the sum over the layers of the mean squared differences."""
        losses = [
            F.mse_loss(self._correlations(s, of_student), self._correlations(t, of_teacher))
            for s, t, (of_student, of_teacher) in zip(student, teacher, module, strict=True)
        ]
        return torch.stack(losses).sum(dim=0)

    def _correlations(self, features: Tensor, embedding: Any) -> Tensor:
        with full_precision(features.device):
            rows = unit_rows(embedding(features.flatten(start_dim=1)))
            cosines = rows @ rows.T
        kernel = torch.ones_like(cosines)
        for p in range(self.order, 0, -1):  # Horner's scheme of Σ_p (2 gamma cos)^p / p!
            kernel = 1 + (2 * self.gamma / p) * cosines * kernel
        return math.exp(-2 * self.gamma) * kernel

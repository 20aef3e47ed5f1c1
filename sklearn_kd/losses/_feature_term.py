"""Terms of a training loss that compare a student's layers with a teacher's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any, ClassVar, Literal

from sklearn.base import BaseEstimator
from torch import Tensor, nn

from sklearn_kd.errors._context import error_context
from sklearn_kd.meta._space import Metaparameter

# Shape of one sample's features: (C, H, W) for maps, (D,) for rows.
Shape = tuple[int, ...]
# Group of the metaparameters that are weights of terms; they have their own optimizer.
TERM_WEIGHTS = "importance"
# Values of the attributes ``auto`` and ``kinds``.
AUTO_LAYERS = ("stages", "middle stage", "last stage", "embedding")
KINDS = ("maps", "rows")
# Without given bounds, a learned weight stays within these multiples of its initial value.
_LOWEST, _HIGHEST = 0.01, 10.0


class FeatureTerm(BaseEstimator):
    """Base class of feature terms, for a list of losses: ``loss=["kd", Hint(weight=10)]``.

    A term of your own needs a ``name`` and the method :meth:`loss`, which computes one number from the
    features of a batch, in differentiable torch operations. The training loss is the loss of the logits
    plus, for each term, its weight times this number. The weight is a metaparameter, ``NAME_weight``, which
    a strategy can learn.

    Parameters
    ----------
    weight : float, default=1.0
        Weight of the term, or its initial value if learned.
    weight_bounds : tuple of (float, float), "auto" or "fixed", default="auto"
        Bounds of the weight, which is learned in its logarithm. "auto": from a hundredth of ``weight`` to
        ten times ``weight``. "fixed": the weight stays fixed and is not a metaparameter.
    teacher_layers, student_layers : "auto" or list of str, default="auto"
        Names of layers of the two networks, as listed by :func:`sklearn_kd.layer_table`, paired in order.
        "auto": the layers named by the attribute ``auto``.

    Attributes
    ----------
    name : str
        Name of the term in a list of losses and in the names of its metaparameters. Each class has its own.
    kinds : tuple of {"maps", "rows"}, default=("maps",)
        Features that the term takes: maps of shape (B, C, H, W), rows of shape (B, D).
    auto : {"stages", "middle stage", "last stage", "embedding"}, default="stages"
        Meaning of "auto" layers. "stages": the maps after each down-sampling stage. "middle stage", "last
        stage": one of these. "embedding": the input rows of the last linear layer.
    weight_names : tuple of str, default=("weight",)
        Parameters of the constructor that are weights: one for each number that :meth:`loss` returns.
    takes_row_weight : bool, default=False
        True: :meth:`loss` gets a further keyword ``row_weight``, shape (B,) or None: the weights of the
        rows, with mean 1 over D_train. A class that redefines :meth:`loss` must set it again. False: all
        rows count equally in this term.

    Examples
    --------
    >>> import torch.nn.functional as F
    >>> from sklearn_kd.losses import FeatureTerm
    >>> class MeanActivation(FeatureTerm):
    ...     name = "mean_activation"
    ...
    ...     def loss(self, student, teacher, module):
    ...         pairs = zip(student, teacher, strict=True)
    ...         return sum(F.mse_loss(s.mean(dim=(1, 2, 3)), t.mean(dim=(1, 2, 3))) for s, t in pairs)
    >>> sorted(MeanActivation(weight=2.0).metaparameters())
    ['weight']
    """

    name: ClassVar[str] = ""
    kinds: ClassVar[tuple[str, ...]] = ("maps",)
    auto: ClassVar[Literal["stages", "middle stage", "last stage", "embedding"]] = "stages"
    weight_names: ClassVar[tuple[str, ...]] = ("weight",)
    takes_row_weight: ClassVar[bool] = False

    weight_bounds: Any
    teacher_layers: Any
    student_layers: Any

    def __init__(
        self,
        weight: float = 1.0,
        *,
        weight_bounds: tuple[float, float] | Literal["auto", "fixed"] = "auto",
        teacher_layers: str | Sequence[str] = "auto",
        student_layers: str | Sequence[str] = "auto",
    ):
        self.weight = weight
        self.weight_bounds = weight_bounds
        self.teacher_layers = teacher_layers
        self.student_layers = student_layers

    def check(self) -> None:
        """Raise ValueError or TypeError if the term's own parameters cannot be used."""

    def check_shapes(self, student: Sequence[Shape], teacher: Sequence[Shape]) -> None:
        """Raise ValueError if the term cannot compare features of these shapes.

        Parameters
        ----------
        student, teacher : sequence of tuple of int
            Shape of one sample's features, by layer, the same number for both.
        """

    def build(self, student: Sequence[Shape], teacher: Sequence[Shape]) -> nn.Module:
        """Return a module to train with the student, such as transforms; by default an empty one.

        Draw initial weights from torch's global random state, which is seeded. The module is trained with
        the student but is not a part of it: prediction does not run it.

        Parameters
        ----------
        student, teacher : sequence of tuple of int
            As in :meth:`check_shapes`.

        Returns
        -------
        nn.Module
            The module that :meth:`loss` gets.
        """
        return nn.Module()

    def loss(self, student: list[Tensor], teacher: list[Tensor], module: Any) -> Tensor:
        """Return the loss of a batch, before its weight.

        Parameters
        ----------
        student, teacher : list of Tensor
            Features, float32, one tensor per layer, in the order of the layers. The teacher's have no
            gradient. Do not write into them, because other terms share them.
        module : nn.Module
            The module made by :meth:`build`.

        Returns
        -------
        Tensor of shape () or (len(weight_names),)
            The loss before its weight, one number per weight.
        """
        raise NotImplementedError(f"{type(self).__name__} must define loss(self, student, teacher, module).")

    def metaparameters(self) -> dict[str, Metaparameter]:
        """Return the learnable weights by the names of the constructor's parameters.

        Returns
        -------
        dict of str to Metaparameter
            Empty if ``weight_bounds="fixed"``.

        Raises
        ------
        ValueError
            If a weight is not above 0, or lies outside its bounds.
        TypeError
            If a weight is not a number.
        """
        weights = {name: self._weight(name) for name in self.weight_names}
        if isinstance(self.weight_bounds, str) and self.weight_bounds == "fixed":
            return {}
        return {name: self._entry(name, weight) for name, weight in weights.items()}

    def _entry(self, name: str, weight: float) -> Metaparameter:
        bounds = self.weight_bounds
        if isinstance(bounds, str):
            if bounds != "auto":
                raise ValueError(f"weight_bounds={bounds!r} must be 'auto', 'fixed' or two numbers.")
            bounds = (_LOWEST * weight, _HIGHEST * weight)
        if isinstance(bounds, (tuple, list)) and bounds and isinstance(bounds[0], Real) and bounds[0] <= 0:
            raise ValueError(
                f"weight_bounds={bounds!r} must be above 0: a weight is learned in its logarithm. Give a "
                f"small number, such as {_LOWEST * weight:g}, instead of {bounds[0]!r}."
            )
        with error_context(name):
            return Metaparameter(weight, bounds=bounds, coordinate="log", group=TERM_WEIGHTS)

    def _weight(self, name: str) -> float:
        weight = getattr(self, name)
        if not isinstance(weight, Real) or isinstance(weight, bool):
            raise TypeError(f"{name}={weight!r} of {type(self).__name__} must be a number.")
        if not (math.isfinite(float(weight)) and float(weight) > 0):
            raise ValueError(
                f"{name}={weight!r} of {type(self).__name__} must be finite and above 0. Leave a term "
                "without weight out of the list."
            )
        return float(weight)

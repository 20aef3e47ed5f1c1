"""Terms of a training loss that compare layers of a student with layers of a teacher."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any, ClassVar, Literal

from sklearn.base import BaseEstimator
from torch import Tensor, nn

from sklearn_kd.errors._context import error_context
from sklearn_kd.meta._space import Metaparameter

# Shape of one sample's features: (C, H, W) of maps, (D,) of rows.
Shape = tuple[int, ...]
# Group of the metaparameters that are weights of terms: they take their steps by an optimizer of their own.
TERM_WEIGHTS = "importance"
# What the attributes ``auto`` and ``kinds`` may say.
AUTO_LAYERS = ("stages", "middle stage", "last stage", "embedding")
KINDS = ("maps", "rows")
# A learned weight stays within these multiples of where it starts, if its bounds are not given.
_LOWEST, _HIGHEST = 0.01, 10.0


class FeatureTerm(BaseEstimator):
    """Base class of terms of features, for a list of losses: ``loss=["kd", Hint(weight=10)]``.

    A term of your own needs a ``name`` and the method :meth:`loss`. It computes one number from features of
    a batch, in differentiable torch operations. The training loss is the loss of logits and, for each term,
    its weight times this number. The weight is a metaparameter, ``NAME_weight``: a strategy can learn it.

    Parameters
    ----------
    weight : float, default=1.0
        Weight of the term, or where it starts.
    weight_bounds : tuple of (float, float), "auto" or "fixed", default="auto"
        Bounds of the weight, which is learned in its logarithm. "auto": from a hundredth of ``weight`` to
        ten times ``weight``. "fixed": the weight stays and is no metaparameter.
    teacher_layers, student_layers : "auto" or list of str, default="auto"
        Layers of the two networks by name, as :func:`sklearn_kd.layer_table` lists them, paired in their
        order. "auto": as ``auto`` says.

    Attributes
    ----------
    name : str
        Of the term, in a list of losses and in the names of its metaparameters. Each class has its own.
    kinds : tuple of {"maps", "rows"}, default=("maps",)
        Features that the term takes: maps of shape (B, C, H, W), rows of shape (B, D).
    auto : {"stages", "middle stage", "last stage", "embedding"}, default="stages"
        Layers that "auto" stands for. "stages": the maps after each down-sampling stage. "embedding": the
        rows that the last linear layer is given.
    weight_names : tuple of str, default=("weight",)
        Parameters of the constructor that are weights: one for each number that :meth:`loss` returns.
    takes_row_weight : bool, default=False
        True, where the class that defines :meth:`loss` says so: :meth:`loss` is given a further keyword,
        ``row_weight``, shape (B,) or None: the weights of the rows, with mean 1 over D_train. False: all rows
        count alike in this term.

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
            Shape of one sample's features, by layer; as many of both.
        """

    def build(self, student: Sequence[Shape], teacher: Sequence[Shape]) -> nn.Module:
        """Return what the term learns beside the student, such as transforms; here nothing.

        Draw initial weights from torch's global random state, which is seeded. The module is trained with
        the student and is no part of it: prediction does not run it.

        Parameters
        ----------
        student, teacher : sequence of tuple of int
            As in :meth:`check_shapes`.

        Returns
        -------
        nn.Module
        """
        return nn.Module()

    def loss(self, student: list[Tensor], teacher: list[Tensor], module: Any) -> Tensor:
        """Return the loss of a batch, before its weight.

        Parameters
        ----------
        student, teacher : list of Tensor
            Features by layer, float32, in the order of the layers. The teacher's have no gradient. Do not
            write into them: other terms share them.
        module : nn.Module
            As :meth:`build` has made it.

        Returns
        -------
        Tensor of shape () or (len(weight_names),)
        """
        raise NotImplementedError(f"{type(self).__name__} must define loss(self, student, teacher, module).")

    def metaparameters(self) -> dict[str, Metaparameter]:
        """Return the weights that can be learned, by the names of the constructor's parameters.

        Raises
        ------
        ValueError
            If a weight is not above 0, or lies outside its bounds.
        TypeError
            If a weight is no number.
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
                f"small number, such as {_LOWEST * weight:g}, in place of {bounds[0]!r}."
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

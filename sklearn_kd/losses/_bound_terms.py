"""Bind feature terms to the layers of a teacher and a student."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from sklearn_kd.errors._context import own_code
from sklearn_kd.losses._distillation_loss import declares
from sklearn_kd.losses._feature_term import FeatureTerm, Shape
from sklearn_kd.losses._term_weights import TermWeights

Features = Mapping[str, Tensor]


class BoundTerm(Protocol):
    """A term of features with its layers and weights, ready for training."""

    @property
    def name(self) -> str:
        """Name of the term."""

    @property
    def module_name(self) -> str:
        """Name of the module that is trained with the student."""

    @property
    def recorded(self) -> tuple[str, ...]:
        """Names of its columns in the history."""

    @property
    def weights(self) -> TermWeights:
        """Weights of its losses."""

    @property
    def n_losses(self) -> int:
        """Number of its losses."""

    def student_layers(self, active: Sequence[int]) -> list[str]:
        """Return the student's layers that these losses compare."""

    def teacher_layers(self, active: Sequence[int]) -> list[str]:
        """Return the teacher's layers that these losses compare."""

    def make_module(self) -> nn.Module:
        """Return a new module on the CPU."""

    def losses(
        self,
        module: Any,
        student: Features,
        teacher: Features,
        active: Sequence[int],
        row_weight: Tensor | None = None,
    ) -> list[Tensor]:
        """Return the active losses of a batch, each of shape ()."""

    def entries(
        self, active: Sequence[int], losses: Sequence[Tensor], values: Mapping[str, Any]
    ) -> tuple[Tensor | float, ...]:
        """Return an iteration's numbers, one for each column, which the history averages over an epoch."""


class PairedTerm:
    """A :class:`FeatureTerm` with layers paired in order; a :class:`BoundTerm`.

    Parameters
    ----------
    name : str
    term : FeatureTerm
    student, teacher : mapping of str to tuple of int
        Shape of one sample's features by layer, the same number for both.
    weights : TermWeights
    """

    def __init__(
        self,
        name: str,
        term: FeatureTerm,
        student: Mapping[str, Shape],
        teacher: Mapping[str, Shape],
        weights: TermWeights,
    ):
        self.name, self.term, self.weights = name, term, weights
        self.student, self.teacher = dict(student), dict(teacher)
        self.module_name, self.recorded = f"{name}_term", (f"{name}_loss",)
        self.n_losses = len(term.weight_names)

    def student_layers(self, active: Sequence[int]) -> list[str]:
        """Return all layers if any loss is active."""
        return list(self.student) if active else []

    def teacher_layers(self, active: Sequence[int]) -> list[str]:
        """Return all layers if any loss is active."""
        return list(self.teacher) if active else []

    def make_module(self) -> nn.Module:
        """Build the module that the term trains.

        Raises
        ------
        TypeError
            If the term's ``build`` returns anything but a module, or a lazy module.
        """
        with own_code(self._who):
            made = self.term.build(list(self.student.values()), list(self.teacher.values()))
        if not isinstance(made, nn.Module):
            raise TypeError(
                f"build of {self._who} returned {type(made).__name__}; it must return an nn.Module, "
                "such as nn.Module() if there is nothing to learn."
            )
        if any(map(is_lazy, (*made.parameters(), *made.buffers()))):
            raise TypeError(
                f"build of {self._who} returned a module with lazy weights, which have no shape yet. Make it "
                "with the shapes given to build."
            )
        return made

    def losses(
        self,
        module: Any,
        student: Features,
        teacher: Features,
        active: Sequence[int],
        row_weight: Tensor | None = None,
    ) -> list[Tensor]:
        """Compute the term's active losses."""
        if not active:
            return []
        ours = [as_float32(student[layer]) for layer in self.student]
        theirs = [as_float32(teacher[layer]) for layer in self.teacher]
        found = self._loss(ours, theirs, module, row_weight)
        if found.numel() != self.n_losses:  # for the trial's two rows a loss per row may have passed
            self._check_loss(found)
        numbers = found.reshape(-1).unbind()
        return [numbers[k] for k in active]

    def entries(
        self, active: Sequence[int], losses: Sequence[Tensor], values: Mapping[str, Any]
    ) -> tuple[Tensor]:
        """Return the sum of the losses, before their weights."""
        return (torch.stack([loss.detach() for loss in losses]).sum(),)

    def check(self, student: Features, teacher: Features) -> None:
        """Try the term on some samples.

        Raises
        ------
        ValueError
            If the loss has another shape, is not finite or not differentiable, or writes into features.
        TypeError
            If the loss is not a tensor.
        """
        ours = [as_float32(student[layer]).detach().requires_grad_() for layer in self.student]
        theirs = [as_float32(teacher[layer]).detach() for layer in self.teacher]
        versions = [t._version for t in (*ours, *theirs)]
        module = self.make_module().to(ours[0].device)
        with torch.enable_grad():
            found = self._loss(ours, theirs, module, torch.ones(len(ours[0]), device=ours[0].device))
        if versions != [t._version for t in (*ours, *theirs)]:
            raise ValueError(
                f"{self._who} writes into features that other terms share. Compute a new tensor."
            )
        self._check_loss(found)
        if not found.requires_grad:
            raise ValueError(
                f"{self._who} does not depend on the student's features in a way that torch can "
                "differentiate. Compute its loss in torch operations, without detach(), item() or NumPy."
            )

    def _loss(
        self, student: list[Tensor], teacher: list[Tensor], module: Any, row_weight: Tensor | None
    ) -> Any:
        given = {"row_weight": row_weight} if declares(self.term, "takes_row_weight") else {}
        with own_code(self._who):
            return self.term.loss(student, teacher, module, **given)

    def _check_loss(self, found: Any) -> None:
        wanted = [(len(self.term.weight_names),)] + ([()] if len(self.term.weight_names) == 1 else [])
        if not isinstance(found, Tensor) or not found.is_floating_point():
            got = f"a tensor of {found.dtype}" if isinstance(found, Tensor) else type(found).__name__
            raise TypeError(
                f"{self._who} returned {got}; its loss must be a tensor of floating point numbers."
            )
        if tuple(found.shape) not in wanted:
            raise ValueError(
                f"{self._who} returned shape {tuple(found.shape)}; its loss must have shape {wanted[-1]}, "
                "one number for each of its weights. Take the mean over the batch."
            )
        if not bool(torch.isfinite(found).all()):
            raise ValueError(f"{self._who} is {found.tolist()} for two rows; its loss must be finite.")

    @property
    def _who(self) -> str:
        return f"loss: term {self.name!r} ({type(self.term).__name__})"


def as_float32(features: Tensor) -> Tensor:
    """Convert half precision to float32, since a distance is a small difference of large numbers."""
    return features.float() if features.dtype in (torch.bfloat16, torch.float16) else features

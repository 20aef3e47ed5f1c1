"""The objective of DistPro: labels, and the losses of pathways under weights that move."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sklearn_kd.distpro._distances import Distance
from sklearn_kd.distpro._importance import PathwayWeights
from sklearn_kd.distpro._output_loss import OutputLoss
from sklearn_kd.distpro._pathways import Pathway, PathwayPass, build_transforms
from sklearn_kd.distpro._transforms import TransformFactory
from sklearn_kd.losses._distillation_loss import Evaluation
from sklearn_kd.losses._objective import ForwardPass
from sklearn_kd.runtime._random_state import preserved_random_state
from sklearn_kd.tasks._pixels import pixel_rows
from sklearn_kd.teachers._features import FeatureTeacher

# Of a finite difference (see HypergradientEstimator). A pathway's loss is one number that changes little, so
# that rounding weighs more than on logits: of 0.1, 0.3, 1, 3, 10 and 30 this errs least on the
# networks of tests/distpro/test_distpro_hypergradient.py.
LOGIT_CHANGE = 3.0
# With lambda1 and T the first system's own share is best: of 0.1, 0.3, 1, 3 and 10 it errs least on
# both together (tests/distpro/test_distpro_meta.py: 0.2 % in the median by lambda1 and T, 0.5 % by the
# factors).
JOINT_LOGIT_CHANGE = 0.3


class PathwayObjective:
    """The :class:`~sklearn_kd.losses._objective.Objective` of a student with transforms beside it.

    The training loss is

        L_train = L_outputs + distill_weight · Σ_p α_p · loss_p,

    where L_outputs is a loss of the student's outputs, y and the teacher's outputs, such as
    CE(labels) + logit_weight · T² · CE(teacher at T). Where it has metaparameters that are learned, the
    outputs that the hypergradient is taken through are the losses of the pathways and, behind them, the
    student's outputs.

    Searching and retraining differ in the metaparameters, ``weights`` and the strategy alone. In a
    search an iteration with a hypergradient is: a real step with the weights α_t; the gradient v of
    L_val = CE (Deng et al., Eq. 2) at the weights w' after it; one more forward pass (two for
    "central_difference") at weights near w, for ∂L_val/∂α̃ (Eq. 5); a step of α̃, which the next
    iteration trains with.

    Algorithm 1 has another order: a virtual step with α_t, then a step of α̃, then the real step
    with the new α. There a hypergradient is used in the very iteration that it was taken for,
    here in the next one. For that one step of delay, which learning lambda1 and T has too, the
    virtual step costs nothing: 3 forward and 2 backward passes of the student (4 and 2 for
    "central_difference"). Algorithm 1 takes a backward pass more where the graph of the forward
    pass at w is kept for both steps, with its memory, and a forward pass more where it is not.
    The hypergradient itself is the same.

    Parameters
    ----------
    pathways : list of Pathway
    transforms : sequence of str or callable
        As in :class:`DistProClassifier`.
    distance : callable(Tensor, Tensor) -> Tensor
    teacher : FeatureTeacher or None
        Left out of pickles.
    weights : PathwayWeights
    distill_weight : float
        As in :class:`DistProClassifier`.
    output_loss : OutputLoss
        L_outputs.
    """

    recorded: tuple[str, ...] = ("pathways",)

    def __init__(
        self,
        *,
        pathways: Sequence[Pathway],
        transforms: Sequence[str | TransformFactory],
        distance: Distance,
        teacher: FeatureTeacher | None,
        weights: PathwayWeights,
        distill_weight: float,
        output_loss: OutputLoss,
    ):
        self.pathways = pathways
        self.transforms = transforms
        self.distance = distance
        self.teacher = teacher
        self.weights = weights
        self.distill_weight = distill_weight
        self.output_loss = output_loss
        self.begin_epoch()

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"teacher": None}

    @property
    def logit_change(self) -> float:
        """The share by which a finite difference moves the logits."""
        return JOINT_LOGIT_CHANGE if self.output_loss.learned else LOGIT_CHANGE

    @property
    def watch(self) -> Any:
        """The watch over the teacher's answers, or None."""
        return None if self.teacher is None else self.teacher.watch

    @property
    def pathway_pass(self) -> PathwayPass:
        """The training forward pass, to be called with the modules."""
        return PathwayPass(self.pathways, self.distance)

    def make_modules(self, device: torch.device, seed: int) -> dict[str, nn.Module]:
        """Return fresh transforms."""
        with preserved_random_state(device, seed):
            return {"transforms": build_transforms(self.pathways, self.transforms)}

    # ----------------------------------------------------------------------------------
    # One iteration

    def forward(
        self,
        student: nn.Module,
        run: Callable[[Tensor], Tensor],
        others: Mapping[str, nn.Module],
        batch: Any,
        values: Mapping[str, Any],
    ) -> ForwardPass:
        """Ask the teacher, and run the student and the transforms of the active pathways."""
        x, active = batch[0], self.weights.active(values)
        maps, teacher_logits = self._ask(x, active)
        logits, losses = self.pathway_pass(student, _transforms(others), x, maps, active)
        logits = pixel_rows(logits)
        if logits.dtype is torch.bfloat16:  # of autocast
            logits = logits.float()
        self._n_active.append(len(active))
        targets = batch.targets._replace(teacher_logits=teacher_logits)
        tensors = [logits, losses] if active else [logits]
        return ForwardPass(logits, tensors, (x, maps), targets, losses)

    def _ask(self, x: Tensor, active: list[int]) -> tuple[Mapping[str, Tensor], Tensor | None]:
        """Ask the teacher for maps and logits, as far as they are used."""
        if not active and not self.output_loss.asks_teacher:
            return {}, None
        assert self.teacher is not None
        return self.teacher(x, self.pathway_pass.teacher_layers(active))

    def evaluate(
        self, passed: ForwardPass, values: Mapping[str, Any], *, differentiable: bool
    ) -> PathwayEvaluation:
        """Return the loss with its derivatives, in closed form."""
        losses: Tensor = passed.context
        of_outputs = self.output_loss.evaluate(
            passed.logits, passed.targets, values, differentiable=differentiable
        )
        alpha = self.distill_weight * self.weights.alpha(values, losses)
        value = of_outputs.value + (alpha * losses.detach()).sum()
        gradients = [*of_outputs.gradients, alpha][: len(passed.tensors)]
        return PathwayEvaluation(value, gradients, self, of_outputs, values, losses)

    def joined(self, passed: ForwardPass) -> Tensor:
        """Return the losses, and behind them the outputs where their loss has learned metaparameters."""
        return self._joined(passed.logits, passed.context)

    def _joined(self, logits: Tensor, losses: Tensor) -> Tensor:
        return torch.cat([losses, logits.flatten()]) if self.output_loss.learned else losses

    def outputs(self, student: nn.Module, run: Any, others: Mapping[str, nn.Module]) -> Callable[..., Tensor]:
        """Return the function from inputs and the teacher's maps to the joined outputs."""
        transforms, pathway_pass = _transforms(others), self.pathway_pass

        def outputs(x: Tensor, maps: Mapping[str, Tensor]) -> Tensor:
            logits, losses = pathway_pass(student, transforms, x, maps)
            return self._joined(pixel_rows(logits), losses)

        return outputs

    # ----------------------------------------------------------------------------------
    # The history

    def begin_epoch(self) -> None:
        """Count the active pathways anew."""
        self._n_active: list[int] = []

    def epoch_record(self) -> dict[str, float]:
        """Return how many pathways ran per iteration."""
        return {"pathways": sum(self._n_active) / max(1, len(self._n_active))}

    def forget(self) -> None:
        """Drop the teacher."""
        self.teacher = None

    def batch_key(self) -> None:
        """Return None: pathways of several students are not computed at once."""


def _transforms(others: Mapping[str, nn.Module]) -> nn.ModuleList:
    return cast(nn.ModuleList, others["transforms"])


class PathwayEvaluation(NamedTuple):
    """The loss of a forward pass, an :class:`~sklearn_kd.losses._distillation_loss.Evaluation`.

    Attributes
    ----------
    value : Tensor of shape ()
    gradients : list of Tensor
        By the logits and, where pathways are active, by their losses.
    objective : PathwayObjective
    of_outputs : Evaluation
        Of the loss on the outputs.
    values : mapping of str to float or Tensor
        The metaparameters.
    losses : Tensor of shape (L,)
        Of the pathways.
    """

    value: Tensor
    gradients: list[Tensor]
    objective: PathwayObjective
    of_outputs: Evaluation
    values: Mapping[str, Any]
    losses: Tensor

    def derivatives(self) -> Tensor:
        """Return ∂²L_train/∂s ∂a_j, shape (m, len(s)).

        No factor changes what the metaparameters of the outputs' loss do, nor they what it does.
        """
        if not self.objective.output_loss.learned:
            return self._of_factors()
        return torch.block_diag(self._of_factors(), self.of_outputs.derivatives().flatten(start_dim=1))

    def contract(self, u: Tensor) -> Tensor:
        """Return ⟨∂²L_train/∂s ∂a_j, u⟩, shape (m,)."""
        n_pathways, factors = len(self.losses), self._of_factors()
        if not self.objective.output_loss.learned:
            return (factors * u).sum(dim=1)
        # Not (derivatives() * u): beside maps of outputs the zeros of the factors' rows would be many.
        # Rounding is the same: contiguous rows, and zeros in the place of the pathways.
        of_factors = (factors.contiguous() * u[:n_pathways]).sum(dim=1)
        rows = F.pad(self.of_outputs.derivatives().flatten(start_dim=1), (n_pathways, 0))
        return torch.cat([of_factors, (rows * u).sum(dim=1)])

    def _of_factors(self) -> Tensor:
        """Return ∂²L_train/∂s ∂a_j of the losses of the pathways and the raw factors, shape (L, L)."""
        return self.objective.distill_weight * self.objective.weights.derivatives(self.values, self.losses)

"""The net of DistPro: labels, and the losses of pathways under weights that move."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from sklearn_kd.bilevel._hypergradient import StepRecord
from sklearn_kd.distpro._distances import Distance
from sklearn_kd.distpro._importance import PathwayWeights
from sklearn_kd.distpro._pathways import Pathway, PathwayPass, build_transforms
from sklearn_kd.distpro._transforms import TransformFactory
from sklearn_kd.inputs._batches import Batch
from sklearn_kd.losses._logits import Targets, TrainingLoss
from sklearn_kd.runtime._random_state import preserved_random_state
from sklearn_kd.teachers._features import FeatureTeacher
from sklearn_kd.training._net import TrainingNet

# Of a finite difference (see StepRecord). A pathway's loss is one number that changes little, so
# that rounding weighs more than on logits: of 0.1, 0.3, 1, 3, 10 and 30 this errs least on the
# networks of tests/distpro/test_distpro_hypergradient.py.
LOGIT_CHANGE = 3.0
# With lambda1 and T the first system's own share is best: of 0.1, 0.3, 1, 3 and 10 it errs least on
# both together (tests/distpro/test_distpro_meta.py: 0.2 % in the median by lambda1 and T, 0.5 % by the
# factors).
JOINT_LOGIT_CHANGE = 0.3


class DistProNet(TrainingNet):
    """The net of :class:`DistProClassifier`: a student, and the transforms beside it.

    The training loss is

        L_train = CE(labels) + distill_weight · Σ_p α_p · loss_p + logit_weight · T² · CE(teacher at T),

    or, where the weights of the pathways come with a lambda1 and a T of the same iteration,

        L_train = lambda1 · CE(labels) + (1 − lambda1) · T² · CE(teacher at T)
                  + distill_weight · Σ_p α_p · loss_p.

    Then the outputs that the hypergradient is taken through are the losses of the pathways and,
    behind them, the logits.

    Searching and retraining differ in ``metaparameters`` and ``strategy`` alone. In a search an
    iteration with a hypergradient is, as in :class:`DistillationNet`: a real step with the
    weights α_t; the gradient v of L_val = CE (Deng et al., Eq. 2) at the weights w' after it; one
    more forward pass (two for "central_difference") at weights near w, for ∂L_val/∂α̃ (Eq. 5); a
    step of α̃, which the next iteration trains with.

    Algorithm 1 has another order: a virtual step with α_t, then a step of α̃, then the real step
    with the new α. There a hypergradient is used in the very iteration that it was taken for,
    here in the next one. For that one step of delay, which the first system has too, the
    virtual step costs nothing: 3 forward and 2 backward passes of the student (4 and 2 for
    "central_difference"). Algorithm 1 takes a backward pass more where the graph of the forward
    pass at w is kept for both steps, with its memory, and a forward pass more where it is not.
    The hypergradient itself is the same.

    Parameters
    ----------
    module : nn.Module
        The student; trained in place.
    pathways : list of Pathway
    transforms : sequence of str or callable
        As in :class:`DistProClassifier`.
    transforms_seed : int
        Of their initial weights.
    distance : callable(Tensor, Tensor) -> Tensor
    teacher : FeatureTeacher
        Forgotten in pickles.
    metaparameters : PathwayWeights
        Moved in place.
    distill_weight, logit_weight, temperature
        As in :class:`DistProClassifier`; a learned logit term is the metaparameters', beside which
        ``logit_weight`` and ``temperature`` count for nothing.
    **params
        Of :class:`TrainingNet`.
    """

    metaparameters: PathwayWeights

    def __init__(
        self,
        module: nn.Module,
        *,
        pathways: Sequence[Pathway],
        transforms: Sequence[str | TransformFactory],
        transforms_seed: int,
        distance: Distance,
        teacher: FeatureTeacher | None,
        distill_weight: float,
        logit_weight: float,
        temperature: float,
        **params,
    ):
        super().__init__(module, **params)
        self.pathways = pathways
        self.transforms = transforms
        self.transforms_seed = transforms_seed
        self.distance = distance
        self.teacher = teacher
        self.distill_weight = distill_weight
        self.logit_weight = logit_weight
        self.temperature = temperature

    def initialize_module(self):
        """Initialize the student and the transforms, which are learned with it and no part of it."""
        super().initialize_module()
        with preserved_random_state(torch.device(self.device), self.transforms_seed):
            self.transforms_ = build_transforms(self.pathways, self.transforms)
        return self

    @property
    def pathway_pass(self) -> PathwayPass:
        """The training forward pass, to be called with the modules."""
        return PathwayPass(self.pathways, self.distance)

    def step_outputs(self, x: Tensor, maps: Mapping[str, Tensor]) -> Tensor:
        """Compute the outputs through which the metaparameters change the loss."""
        return self._joined(*self.pathway_pass(self.module_, self.transforms_, x, maps))

    def _joined(self, logits, losses):
        return torch.cat([losses, logits.flatten()]) if self.metaparameters.has_logit_term else losses

    def trained_modules(self) -> list[nn.Module]:
        """The student and the transforms."""
        return [self.module_, self.transforms_]

    def __getstate__(self):
        return super().__getstate__() | {"teacher": None}

    # ----------------------------------------------------------------------------------
    # One iteration

    def new_step_record(self) -> StepRecord:
        """Make the record for the losses of the pathways, and the logits where lambda1 and T are learned."""
        joint = self.metaparameters.has_logit_term
        return StepRecord(
            self.module_,
            self.optimizer_,
            method=self.hypergradient,
            others=[self.transforms_],
            outputs=self.step_outputs,
            logit_change=JOINT_LOGIT_CHANGE if joint else LOGIT_CHANGE,
        )

    def train_step_single(self, batch: Batch, **params) -> dict[str, Any]:
        """Forward and backward, the gradients by logits and pathway losses in closed form."""
        if not self.module_.training:
            self._set_training(True)
        x, active, record = batch[0], self.metaparameters.active, self._record
        with self._precision(x):
            maps, teacher_logits = self._ask(x, active)
            logits, losses = self.pathway_pass(self.module_, self.transforms_, x, maps, active)
            logits = logits.float() if self.autocast else logits
        labels, share = self._label_loss(logits, batch.targets._replace(teacher_logits=teacher_logits))
        weights = self.distill_weight * self.metaparameters.now.to(losses)
        if record is not None:
            outputs = self._joined(logits, losses)
            record.after_forward((x, maps), outputs, self._derivatives(labels, losses), logits)
        torch.autograd.backward([logits, losses] if active else [logits],
                                [share * labels.r, weights] if active else [share * labels.r])  # fmt: skip
        loss = share * labels.value + (weights * losses.detach()).sum()
        self.pathways_run_.append(len(active))
        return self.judged({"loss": loss, "y_pred": logits.detach()})

    def _precision(self, x: Tensor):
        """Return a context of bfloat16 where it was asked for and the step is not differentiated."""
        if not self.autocast or self._record is not None:
            return nullcontext()
        return torch.autocast(x.device.type, dtype=torch.bfloat16)

    def _ask(self, x: Tensor, active: list[int]) -> tuple[Mapping[str, Tensor], Tensor | None]:
        """Ask the teacher for maps and logits, as far as they are used."""
        if not active and not self.logit_weight and not self.metaparameters.has_logit_term:
            return {}, None
        assert self.teacher is not None
        return self.teacher(x, self.pathway_pass.teacher_layers(active))

    def _label_loss(self, logits: Tensor, targets: Targets) -> tuple[TrainingLoss, float]:
        """The loss of DistilledClassifier, and what it is multiplied by.

        Of a fixed term that is (CE + logit_weight · T² · soft CE)/(1 + logit_weight).
        """
        learned, share = self.metaparameters.logit_term, 1 + self.logit_weight
        lambda1, temperature = (1 / share, self.temperature) if learned is None else learned
        loss = TrainingLoss(logits, targets, lambda1, temperature, scaling="hinton")
        return loss, share if learned is None else 1.0

    def _derivatives(self, labels: TrainingLoss, losses: Tensor) -> Tensor:
        """∂²L_train/∂s ∂a_j, shape (m, len(s)): no factor bends what (lambda1, T) do, nor they it."""
        of_factors = self.distill_weight * self.metaparameters.derivatives().to(losses)
        if not self.metaparameters.has_logit_term:
            return of_factors
        return torch.block_diag(of_factors, labels.metaparameter_derivatives().flatten(start_dim=1))

    # ----------------------------------------------------------------------------------
    # What the history says

    @property
    def recorded(self) -> tuple[str, ...]:
        """Pathways too, and lambda1 and T where there are some."""
        logit_term = ("lambda1", "temperature") if self.metaparameters.has_logit_term else ()
        return *super().recorded, "pathways", *logit_term

    def on_epoch_begin(self, net, dataset_train=None, dataset_valid=None, **kwargs):
        """Count anew."""
        super().on_epoch_begin(net, dataset_train, dataset_valid, **kwargs)
        self.watch_ = None if self.teacher is None else self.teacher.watch
        self.pathways_run_: list[int] = []

    def on_epoch_end(self, net, dataset_train=None, dataset_valid=None, **kwargs):
        """Note how many pathways ran per iteration, and lambda1 and T where they are learned or set."""
        super().on_epoch_end(net, dataset_train, dataset_valid, **kwargs)
        self.history.record("pathways", sum(self.pathways_run_) / max(1, len(self.pathways_run_)))
        if self.metaparameters.logit_term is not None:
            lambda1, temperature = self.metaparameters.logit_term
            self.history.record("lambda1", float(lambda1))
            self.history.record("temperature", float(temperature))

"""The net of the first system: labels, a teacher's logits, lambda1 and T."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import minimize_scalar

from sklearn_kd.bilevel._hypergradient import StepRecord
from sklearn_kd.losses._logits import Targets, TrainingLoss, validation_loss
from sklearn_kd.meta._path import Metaparameters
from sklearn_kd.training._net import TrainingNet

# log T_val is sought between these: a student that knows nothing has no finite optimum.
_LOG_VAL_TEMPERATURE_RANGE = (-3.0, 3.0)


class DistillationNet(TrainingNet):
    """The net of :class:`DistilledClassifier`: labels, a teacher's logits, lambda1 and T.

    Parameters
    ----------
    module : nn.Module
        The student; trained in place.
    metaparameters : Metaparameters
        Moved in place.
    temperature_scaling, val_temperature, hypergradient_rows
        As in :class:`DistilledClassifier`.
    **params
        Of :class:`TrainingNet`.
    """

    metaparameters: Metaparameters

    def __init__(
        self,
        module: torch.nn.Module,
        *,
        temperature_scaling: str,
        val_temperature: float | str,
        hypergradient_rows: int | None = None,
        **params,
    ):
        super().__init__(module, **params)
        self.temperature_scaling = temperature_scaling
        self.val_temperature = val_temperature
        self.hypergradient_rows = hypergradient_rows

    def initialize(self):
        """Initialize; T_val starts at its number, or at 1 where it is to be found."""
        super().initialize()
        if not isinstance(self.val_temperature, str):
            self.val_temperature_ = self.val_temperature
        self.validated_ = []
        return self

    @property
    def recorded(self) -> tuple[str, ...]:
        """Lambda1 and T too."""
        return *super().recorded, "lambda1", "temperature"

    def new_step_record(self) -> StepRecord:
        """Make the record for a student's logits."""
        return StepRecord(
            self.module_,
            self.optimizer_,
            method=self.hypergradient,
            rows=self.hypergradient_rows,
            forward=self._forward,
        )

    def train_step_single(self, batch, **params):
        """Run forward, compute the loss and its gradient by the logits in closed form, and run backward."""
        if not self.module_.training:
            self._set_training(True)
        logits = self.infer(batch[0])
        loss = TrainingLoss(logits, batch.targets, *self.metaparameters.now, scaling=self.temperature_scaling)
        if self._record is not None:
            self._record.after_forward(batch[0], logits, loss.metaparameter_derivatives())
        logits.backward(loss.r)
        return self.judged({"loss": loss.value, "y_pred": logits.detach()})

    def on_batch_end(self, net, batch=None, training=False, **step):
        """Keep the logits of D_val for where T_val is refitted."""
        super().on_batch_end(net, batch, training, **step)
        if self.val_temperature == "auto" and not training:
            self.validated_.append((step["y_pred"], batch.targets))

    def on_epoch_end(self, net, dataset_train=None, dataset_valid=None, **kwargs):
        """Refit T_val, and show where the metaparameters are."""
        super().on_epoch_end(net, dataset_train, dataset_valid, **kwargs)
        if self.validated_ and not self.diverged_:
            self.val_temperature_ = self._optimal_val_temperature()
            self.validated_ = []
        self.history.record("lambda1", float(self.metaparameters.lambda1))
        self.history.record("temperature", float(self.metaparameters.temperature))

    def on_train_end(self, net, X=None, y=None, **kwargs):
        """Forget what only training needs."""
        super().on_train_end(net, X, y, **kwargs)
        self.validated_ = []

    def where_it_stood(self, iteration: int) -> str:
        """Describe lambda1 and T of an iteration, for a message."""
        lambda1, temperature = self.metaparameters.after(iteration).tolist()
        return f" (lambda1={lambda1:.3g}, temperature={temperature:.3g})"

    def _optimal_val_temperature(self) -> float:
        """The T_val that minimises L_val on what was validated in this epoch."""
        logits = torch.cat([logits for logits, _ in self.validated_]).cpu().double()
        labels = torch.cat([targets.labels for _, targets in self.validated_]).cpu()
        weights = [targets.weight for _, targets in self.validated_ if targets.weight is not None]
        targets = Targets(labels, None, torch.cat(weights).cpu() if weights else None)
        found = minimize_scalar(
            lambda log_t: float(validation_loss(logits, targets, np.exp(log_t))[0]),
            bounds=_LOG_VAL_TEMPERATURE_RANGE,
            method="bounded",
        )
        return float(np.exp(found.x))

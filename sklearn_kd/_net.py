"""The skorch net behind the estimators: what happens in one training iteration."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from sklearn.exceptions import ConvergenceWarning
from skorch import NeuralNetClassifier
from skorch.callbacks import GradientNormClipping
from skorch.dataset import unpack_data

from sklearn_kd._batches import endlessly, evaluation_batches, training_batches
from sklearn_kd._bilevel import (
    Clipping,
    StepRecord,
    full_precision,
    global_norm,
    ill_conditioned_steps,
    warn_if_response_unknown,
)
from sklearn_kd._data import DistillationData, SplitData
from sklearn_kd._losses import metaparameter_derivatives, training_loss, validation_loss
from sklearn_kd._metaparameters import Metaparameters
from sklearn_kd.meta import Strategy

# log T_val is sought between these: a student that knows nothing has no finite optimum.
_LOG_VAL_TEMPERATURE_RANGE = (-3.0, 3.0)


class DistillationNet(NeuralNetClassifier):
    """Trains a student under a strategy for the metaparameters.

    It sees tensors and class codes only, as :class:`SplitData`; labels, teachers and the
    validation of input are the estimator's. skorch's callbacks work on it unchanged.

    Parameters
    ----------
    module : nn.Module
        The student; trained in place.
    metaparameters : Metaparameters
        Moved in place.
    strategy : Strategy
    temperature_scaling, val_temperature, hypergradient
        As in :class:`DistilledClassifier`.
    **params
        Of skorch's ``NeuralNetClassifier``.

    Attributes
    ----------
    val_temperature_ : float
        T_val now.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        *,
        metaparameters: Metaparameters,
        strategy: Strategy,
        temperature_scaling: str,
        val_temperature: float | str,
        hypergradient: str,
        **params,
    ):
        super().__init__(
            module,
            criterion=torch.nn.CrossEntropyLoss,
            iterator_train=training_batches,
            iterator_valid=evaluation_batches,
            iterator_train__shuffle=params.pop("iterator_train__shuffle", True),
            train_split=None,
            **params,
        )
        self.metaparameters = metaparameters
        self.strategy = strategy
        self.temperature_scaling = temperature_scaling
        self.val_temperature = val_temperature
        self.hypergradient = hypergradient

    # ----------------------------------------------------------------------------------
    # The data

    def check_data(self, X: SplitData, y=None) -> None:
        """Nothing left to check: the estimator has made the data."""

    def get_dataset(self, X, y=None):
        """Wrap inputs that scoring callbacks predict for."""
        if isinstance(X, DistillationData):
            return X
        return DistillationData(torch.as_tensor(X).to(self.device))

    def get_split_datasets(self, X: SplitData, y=None, **params):
        """D_train and D_val, as they come."""
        return X

    def fit_loop(self, X: SplitData, y=None, epochs=None, **params):
        """Train, with batches of D_val at hand for as long as that takes."""
        self.validation_batches_ = self._endless_validation_batches(X.valid)
        try:
            return super().fit_loop(X, y, epochs, **params)
        finally:
            self.validation_batches_ = None  # it holds D_val

    def _endless_validation_batches(self, dataset):
        # A generator: nothing here runs before the first hypergradient.
        warn_if_response_unknown(self.optimizer_)
        settings = {"batch_size": self.batch_size, "shuffle": True, "drop_last": True}
        settings |= self.get_params_for("iterator_valid")
        yield from endlessly(evaluation_batches(dataset, **settings))

    # ----------------------------------------------------------------------------------
    # The student

    def initialize(self):
        """As in skorch; T_val begins at its number, or at 1 where it is to be found."""
        super().initialize()
        self.val_temperature_ = 1.0 if self.val_temperature == "auto" else self.val_temperature
        self.step_record_ = self.validation_batches_ = None
        self.compiled_forward_ = None
        self.diverged_ = False
        return self

    def torch_compile(self, module, name):
        """Leave the module as it is: a compiled one prefixes the names of its weights."""
        return module

    def infer(self, x, **params):
        """Logits of a batch, by a compiled forward pass where that was asked for."""
        if not self.compile:
            return self.module_(x)
        if self.compiled_forward_ is None:

            def forward(x: torch.Tensor) -> torch.Tensor:
                return self.module_(x)

            self.compiled_forward_ = torch.compile(forward)
        return self.compiled_forward_(x)

    def snapshot(self):
        """A net that goes on predicting as this one does now, while this one trains on."""
        frozen = type(self).__new__(type(self))
        changed = {"module_": copy.deepcopy(self.module_), "history_": copy.copy(self.history)}
        frozen.__dict__.update(self.__dict__ | changed)
        return frozen

    def __getstate__(self):
        # Neither can be pickled, in the middle of training either; both are made when needed.
        return super().__getstate__() | {"compiled_forward_": None, "validation_batches_": None}

    # ----------------------------------------------------------------------------------
    # One iteration

    def train_step(self, batch, **params):
        """The optimizer's step, and what the strategy makes of it."""
        knobs, strategy = self.metaparameters, self.strategy
        learns = not knobs.planned and strategy.takes_hypergradient(knobs.iteration)
        if learns and knobs.iteration >= ill_conditioned_steps(self.optimizer_):
            return self._bilevel_step(batch)
        step = super().train_step(batch)
        if not learns and not knobs.planned:
            theta = strategy.predict(knobs)
            if theta is not None:
                knobs.plan(theta)
        if knobs.planned:
            knobs.follow_plan()
        else:
            knobs.hold()
        return step

    def train_step_single(self, batch, **params):
        """Forward, the loss and its gradient by the logits in closed form, backward."""
        self._set_training(True)
        Xi, _ = unpack_data(batch)
        logits = self.infer(Xi)
        loss, r = training_loss(logits, batch.targets, *self._knobs, scaling=self.temperature_scaling)
        logits.backward(r)
        return {"loss": loss, "y_pred": logits.detach()}

    def _bilevel_step(self, batch):
        self.step_record_ = record = StepRecord(self.module_, self.optimizer_)
        try:
            with full_precision(record.device):
                step = super().train_step(batch)
            logits = step["y_pred"]
            val_batch = next(self.validation_batches_)
            h, val_loss = record.hypergradient(
                batch[0],
                logits,
                metaparameter_derivatives(
                    logits, batch.targets, *self._knobs, scaling=self.temperature_scaling
                ),
                val_batch[0],
                val_batch.targets,
                val_temperature=self.val_temperature_,
                method=self.hypergradient,
            )
        finally:
            self.step_record_ = None
        self.metaparameters.descend(h, val_loss)
        return step

    def on_grad_computed(self, net, named_parameters, **kwargs):
        """Read the gradient's norm before a clipping callback changes it."""
        limit = self._gradient_norm_limit()
        if self.step_record_ and limit is not None:
            gradients = [w.grad for w in self.module_.parameters() if w.grad is not None]
            self.step_record_.clipping = Clipping(limit, global_norm(gradients))

    def _gradient_norm_limit(self):
        """The limit of a callback that clips the Euclidean norm, else None."""
        for _, callback in self.callbacks_:
            if isinstance(callback, GradientNormClipping) and callback.gradient_clip_norm_type == 2:
                return callback.gradient_clip_value
        return None

    @property
    def _knobs(self):
        return self.metaparameters.lambda1, self.metaparameters.temperature

    # ----------------------------------------------------------------------------------
    # Validation

    def validation_step(self, batch, **params):
        """Logits and L_val of a batch of D_val."""
        self._set_training(False)
        with torch.no_grad():
            logits = self.infer(batch[0])
            loss = validation_loss(logits, batch.targets, self.val_temperature_)
        return {"loss": loss, "y_pred": logits}

    def on_epoch_begin(self, net, dataset_train=None, dataset_valid=None, **kwargs):
        """Stop if the last epoch diverged; else remember the weights, which are finite."""
        if self.diverged_:
            raise KeyboardInterrupt  # how skorch's callbacks end a fit early
        super().on_epoch_begin(net, dataset_train, dataset_valid, **kwargs)
        self.finite_weights_ = copy.deepcopy(self.module_.state_dict())

    def on_epoch_end(self, net, dataset_train=None, dataset_valid=None, **kwargs):
        """Give up what has diverged, refit T_val, and show where the metaparameters are."""
        super().on_epoch_end(net, dataset_train, dataset_valid, **kwargs)
        self._return_to_finite_weights()
        if self.val_temperature == "auto" and dataset_valid is not None:
            self.val_temperature_ = self.optimal_val_temperature(dataset_valid)
        self.history.record("lambda1", float(self.metaparameters.lambda1))
        self.history.record("temperature", float(self.metaparameters.temperature))

    def on_train_end(self, net, X=None, y=None, **kwargs):
        """Forget what only training needs; after an interrupt too, the weights are finite."""
        super().on_train_end(net, X, y, **kwargs)
        self._return_to_finite_weights()
        self.finite_weights_ = None

    def _return_to_finite_weights(self):
        """Undo, and say, what has diverged since the epoch began."""
        if all(bool(torch.isfinite(w).all()) for w in self.module_.state_dict().values()):
            return
        self.diverged_ = True
        self.module_.load_state_dict(self.finite_weights_)
        losses = np.array([b["train_loss"] for b in self.history[-1]["batches"] if "train_loss" in b])
        lambda1, temperature = (float(knob) for knob in self._knobs)
        warnings.warn(
            f"Training diverged: the student's weights ceased to be finite in epoch "
            f"{len(self.history)}, {np.isfinite(losses).sum()} of whose {len(losses)} iterations "
            f"had a finite loss (lambda1={lambda1:.3g}, temperature={temperature:.3g}). The "
            f"weights from the end of epoch {len(self.history) - 1} are kept. Lower lr, clip the "
            "gradients (skorch.callbacks.GradientNormClipping) or scale X.",
            ConvergenceWarning,
            stacklevel=2,
        )

    def validation_loss(self, dataset) -> float:
        """L_val on all rows of ``dataset``."""
        losses = [
            (len(batch[0]), float(self.validation_step(batch)["loss"]))
            for batch in self.get_iterator(dataset)
        ]
        return sum(n * loss for n, loss in losses) / len(dataset)

    def optimal_val_temperature(self, dataset) -> float:
        """The T_val that minimises L_val on ``dataset`` (temperature scaling)."""
        logits = torch.cat([self.evaluation_step(batch) for batch in self.get_iterator(dataset)])
        logits = logits.cpu().double()
        targets = dataset.targets._replace(
            labels=dataset.y.cpu(),
            weight=None if dataset.targets.weight is None else dataset.targets.weight.cpu(),
        )
        found = minimize_scalar(
            lambda log_t: float(validation_loss(logits, targets, np.exp(log_t))),
            bounds=_LOG_VAL_TEMPERATURE_RANGE,
            method="bounded",
        )
        return float(np.exp(found.x))

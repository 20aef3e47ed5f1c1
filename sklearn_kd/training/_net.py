"""The skorch net behind the estimators: the loop, and one training iteration of any objective."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from skorch import NeuralNetClassifier
from skorch.callbacks.scoring import ScoringBase
from skorch.utils import TeeGenerator
from torch import Tensor

from sklearn_kd.bilevel._hypergradient import HypergradientEstimator
from sklearn_kd.bilevel._optimizer_response import warn_if_response_unknown
from sklearn_kd.checkpointing._protocols import EpochCheckpointer, Stateful
from sklearn_kd.inputs._batches import Batch, CyclicBatches, evaluation_batches, training_batches
from sklearn_kd.inputs._data import DistillationData, SplitData
from sklearn_kd.inputs._parts import Parts
from sklearn_kd.layers._names import named_network
from sklearn_kd.losses._objective import Objective
from sklearn_kd.meta import Strategy
from sklearn_kd.meta._strategy import check_has_validation
from sklearn_kd.runtime._devices import all_finite, full_precision, reading_is_free
from sklearn_kd.runtime._eager_optimizers import eager_method, make_optimizer
from sklearn_kd.runtime._execution import Execution
from sklearn_kd.runtime._optimizers import clear_gradients
from sklearn_kd.runtime._ranks import ALONE, Ranks
from sklearn_kd.runtime._snapshots import BufferSnapshot, OptimizerSnapshot
from sklearn_kd.tasks._classification import Classification
from sklearn_kd.tasks._pixels import n_known, pixel_rows, some_known_rows
from sklearn_kd.tasks._targets import Targets
from sklearn_kd.teachers._logit_checks import AnswersWatch
from sklearn_kd.training._clipping import clip_gradients, clipping_of_callbacks
from sklearn_kd.training._cuda_graph import CapturedIterations, captured_iterations
from sklearn_kd.training._divergence import DivergenceGuard, give_up_if_diverged
from sklearn_kd.training._far import FarIterations, far_iterations
from sklearn_kd.training._greedy import greedy_estimator
from sklearn_kd.training._interrupts import from_outside
from sklearn_kd.training._label_scorers import predicted_labels, rows_with_labels, show_labels_to_scorers
from sklearn_kd.training._listeners import listeners, reads_losses
from sklearn_kd.training._memory_errors import explain_memory_of_training
from sklearn_kd.training._nonfinite import (
    GOOD,
    MEND,
    SKIPPED,
    Skips,
    StepSkipped,
    judged,
    skips_message,
    with_hypergradient,
)
from sklearn_kd.training._passes import run_passes, validation_passes
from sklearn_kd.training._pickling import complete_unpickled, state_to_pickle
from sklearn_kd.training._shared import SharedTraining, interrupts_of, shared_training
from sklearn_kd.training._turns import Turn, follow, turn_of
from sklearn_kd.training._weight_average import Averaging, WeightAverage, average_for


class TrainingNet(NeuralNetClassifier):
    """A skorch net that trains a student with a strategy for the metaparameters.

    It only sees tensors and class codes, as :class:`SplitData`; the estimator handles labels, teachers and
    the validation of input. skorch's callbacks work on it unchanged. The ``objective`` provides the forward
    pass, the training loss and its derivatives; one class of nets serves all objectives.

    An iteration whose loss or gradient is not finite changes nothing. The columns ``skipped_steps`` and
    ``skipped_hypergradients`` of the history count, by epoch, such iterations and the hypergradients that
    were not finite or had no direction.

    Parameters
    ----------
    module : nn.Module
        The student, trained in place.
    objective : Objective
    metaparameters : MetaparameterPath or MetaparameterSchedule
        Moved in place.
    strategy : Strategy
        How the metaparameters move, and how hypergradients are computed.
    modules_seed : int, default=0
        Seed of the initial weights of the modules that are trained with the student.
    val_temperature : float or "auto", default=1.0
        T_val of the validation loss, or "auto" to refit it after every epoch.
    task : Task, default=Classification
        Gives the validation loss.
    labels : ndarray of shape (n_classes,) or None, default=None
        The label of each class code, which the scorers of callbacks see. None: they see codes.
    execution : Execution or None, default=None
        How the student's passes run. None: eagerly, in float32.
    max_grad_norm : float or None, default=None
        Limit of the norm of all gradients together, including those of the modules trained with the student.
    averaging : Averaging or None, default=None
        Averaging of the student's weights over epochs. None: no average.
    ranks : Ranks, default=ALONE
        The processes that train this student together; ``batch_size`` is their total.
    **params
        Parameters of skorch's ``NeuralNetClassifier``.

    Attributes
    ----------
    val_temperature_ : float
        The current T_val.
    diverged_ : bool
        Whether training was given up.
    interrupted_ : bool
        Whether a user ended the training, or the trials of which it is the best.
    collapsed_ : bool
        Whether, at the end of ``fit``, the student predicts one class or is at chance.
    """

    hypergradient_estimator_: HypergradientEstimator | None
    checkpointer_: EpochCheckpointer | None
    row_operations_: float | None = None  # of the student's largest operation, after the first prediction
    validation_batches_: Any  # CyclicBatches during a fit

    def __init__(
        self,
        module: torch.nn.Module,
        *,
        objective: Objective,
        metaparameters: Any,
        strategy: Strategy,
        modules_seed: int = 0,
        val_temperature: float | str = 1.0,
        task: Any = Classification,
        labels: np.ndarray | None = None,
        execution: Execution | None = None,
        max_grad_norm: float | None = None,
        averaging: Averaging | None = None,
        ranks: Ranks = ALONE,
        **params: Any,
    ):
        if labels is not None:
            params.setdefault("classes", np.arange(len(labels)))
        super().__init__(
            module,
            criterion=torch.nn.CrossEntropyLoss,
            iterator_train=training_batches,
            iterator_valid=evaluation_batches,
            iterator_train__shuffle=params.pop("iterator_train__shuffle", True),
            iterator_train__ranks=ranks,
            train_split=None,
            **params,
        )
        self.objective = objective
        self.metaparameters = metaparameters
        self.strategy = strategy
        self.modules_seed = modules_seed
        self.val_temperature = val_temperature
        self.task = task
        self.labels = labels
        self.execution = execution or Execution()
        self.max_grad_norm = max_grad_norm
        self.averaging = averaging
        self.ranks = ranks

    # ----------------------------------------------------------------------------------
    # The data

    def check_data(self, X: SplitData, y: Any = None) -> None:
        """Check nothing, since the estimator has made the data."""

    def get_dataset(self, X: Any, y: Any = None) -> Any:
        """Wrap inputs for which scoring callbacks predict."""
        if isinstance(X, DistillationData):
            return X
        if isinstance(X, Parts):
            return DistillationData(X.to(self.device))
        return DistillationData(torch.as_tensor(X).to(self.device))

    def get_split_datasets(self, X: SplitData, y: Any = None, **params: Any) -> Any:
        """Return the given D_train and D_val."""
        return X

    def fit_loop(self, X: SplitData, y: Any = None, epochs: int | None = None, **params: Any) -> Any:
        """Train, from a checkpoint if there is one, with batches of D_val available."""
        self.draw_validation_batches(X.valid)
        epochs = self.max_epochs if epochs is None else epochs
        try:
            if self.checkpointer_ is not None:
                epochs -= self.checkpointer_.restore()
            with explain_memory_of_training(self, X), interrupts_of(self.shared_):
                return super().fit_loop(X, y, epochs, **params)
        except KeyboardInterrupt as interrupt:
            by_another = self.shared_ is not None and self.shared_.interrupted
            self.interrupted_ = by_another or from_outside(interrupt)
            raise  # skorch ends the training, and keeps the student
        finally:
            self.validation_batches_ = None  # it holds D_val
            self.hypergradient_estimator_ = None  # and this a copy of the weights
            self.checkpointer_ = None

    def draw_validation_batches(self, dataset: DistillationData | None) -> None:
        """Make an iterator over batches of D_val for hypergradients; batches are made on demand."""
        self.validation_batches_ = CyclicBatches(partial(self._shuffled_validation_batches, dataset))

    def _shuffled_validation_batches(self, dataset: DistillationData | None) -> Any:
        check_has_validation(self.strategy, dataset is not None)
        warn_if_response_unknown(self.optimizer_)
        settings = {"batch_size": self.batch_size, "shuffle": True, "drop_last": True, "ranks": self.ranks}
        settings |= self.get_params_for("iterator_valid")
        return evaluation_batches(dataset, **settings)

    # ----------------------------------------------------------------------------------
    # The student

    def initialize(self) -> Any:
        """Initialize like skorch, and mark the net as untrained."""
        super().initialize()
        automatic = isinstance(self.val_temperature, str)
        self.val_temperature_ = 1.0 if automatic else self.val_temperature
        self.validated_: list[tuple[Tensor, Targets]] = []
        self.hypergradient_estimator_ = self.validation_batches_ = self.checkpointer_ = None
        self.compiled_forward_: Callable[[Tensor], Tensor] | None = None
        self.captured_: CapturedIterations | None = None
        self.listeners_: dict[str, list[Any]] = {}
        self.diverged_ = self.interrupted_ = self.collapsed_ = False
        self.skips_ = Skips()
        self.guard_: DivergenceGuard | None = None
        self.far_: FarIterations | None = None
        self.average_: WeightAverage | None = None
        self.shared_: SharedTraining | None = None
        self.ending_: Any = None  # of a search, judged on D_val
        self.watch_: AnswersWatch | None = None  # for a teacher that predicts while the student trains
        return self

    def initialize_module(self) -> Any:
        """Initialize the student, and the separate modules that are trained with it."""
        super().initialize_module()
        made = self.objective.make_modules(torch.device(self.device), self.modules_seed)
        self.beside_ = tuple(made)
        for name, module in made.items():
            setattr(self, f"{name}_", module)  # so that skorch trains it and moves it to the device
        return self

    def initialize_optimizer(self, triggered_directly: None = None) -> Any:
        """Make the optimizer like skorch, but without importing torch's compiler."""
        args, params = self.get_params_for_optimizer("optimizer", self.get_all_learnable_params())
        self.optimizer_ = make_optimizer(self.optimizer, *args, **params)
        return self

    def initialize_callbacks(self) -> Any:
        """Initialize callbacks like skorch, and give their scorers labels."""
        super().initialize_callbacks()
        show_labels_to_scorers([callback for _, callback in self.callbacks_], self.labels, self.task)
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Predict codes or, for scorers, labels (``classes_``); for numbers, predict in the units of y."""
        return self.task.predictions(self.forward(X)) if self.task.numeric else predicted_labels(self, X)

    def get_all_learnable_params(self) -> Any:
        """Yield names and parameters like skorch, with the names in the user's own module."""
        own = {id(w): name for name, w in named_network(self.module_).named_parameters()}
        return ((own.get(id(w), name), w) for name, w in super().get_all_learnable_params())

    @property
    def labels_of_columns(self) -> np.ndarray | None:
        """Label of each column of the logits, for a net that is used as a teacher."""
        return self.labels

    @property
    def recorded(self) -> tuple[str, ...]:
        """Names that the net itself records in the history by epoch, besides the losses."""
        numbers = self.metaparameters.space.numbers
        return "skipped_steps", "skipped_hypergradients", *self.objective.recorded, *numbers

    @property
    def others(self) -> dict[str, torch.nn.Module]:
        """Modules that are trained with the student, by name."""
        return {name: getattr(self, f"{name}_") for name in self.beside_}

    def trained_modules(self) -> list[torch.nn.Module]:
        """Return the modules that the optimizer updates, the student first."""
        return [self.module_, *self.others.values()]

    def stateful_parts(self) -> dict[str, Stateful]:
        """Return what a checkpoint holds besides modules, optimizer, callbacks and history, by name."""
        parts: dict[str, Stateful] = {
            "metaparameters": self.metaparameters,
            "validation_batches": self.validation_batches_,
            "skips": self.skips_,
        }
        further = {"far": self.far_, "average": self.average_}
        return parts | {name: part for name, part in further.items() if part is not None}

    def infer(self, x: Tensor, **params: Any) -> Tensor:
        """Return the logits of a batch, float32; compute them in bfloat16 with autocast."""
        record = self._record
        if record is not None:  # a compiled pass can be backpropagated only once
            return self.module_(x) if record.retains_graph else self._forward(x)
        if not self.execution.autocast:
            return self._forward(x)
        with self.execution.precision(x.device):
            return self._forward(x).float()

    def _forward(self, x: Tensor) -> Tensor:
        """Run the student, compiled if ``execution`` says so."""
        if not self.execution.compile:
            return self.module_(x)
        if self.compiled_forward_ is None:
            self.compiled_forward_ = torch.compile(lambda x: self.module_(x))
        return self.compiled_forward_(x)

    def snapshot(self) -> Any:
        """Return a net that predicts as this one does now, while this one continues to train."""
        frozen = type(self).__new__(type(self))
        changed = {"module_": copy.deepcopy(self.module_), "history_": copy.copy(self.history)}
        frozen.__dict__.update(self.__dict__ | changed)
        return frozen

    def __getstate__(self) -> dict[str, Any]:
        return state_to_pickle(self.__dict__, super().__getstate__())

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        complete_unpickled(self.__dict__)

    # ----------------------------------------------------------------------------------
    # The loop

    def notify(self, method_name: str, **cb_kwargs: Any) -> None:
        """Notify like skorch, but skip calls that would do nothing."""
        getattr(self, method_name)(self, **cb_kwargs)
        for callback in self._listeners(method_name):
            is_score = method_name == "on_batch_end" and isinstance(callback, ScoringBase)
            told = rows_with_labels(callback, cb_kwargs) if is_score else cb_kwargs
            if self.shared_ is None:
                getattr(callback, method_name)(self, **told)
            elif not self.shared_.tell(getattr(callback, method_name), self, told, is_score=is_score):
                break
        if method_name == "on_epoch_end" and self.shared_ is not None:
            self.shared_.end_epoch(self.metaparameters, self.history)

    def on_train_begin(self, net: Any, X: Any = None, y: Any = None, **kwargs: Any) -> None:
        """Find out which callbacks listen."""
        super().on_train_begin(net, X, y, **kwargs)
        self.listeners_ = {}
        self.captured_ = captured_iterations(self) if self.execution.cuda_graph else None
        self.skips_, self.guard_ = Skips(), DivergenceGuard(X)
        self.far_ = far_iterations(self, X)
        self.average_ = average_for(self.averaging, self.module_, self.callbacks_)
        self.diverged_ = self.interrupted_ = self.collapsed_ = False
        self.shared_ = shared_training(self, X)
        self.with_buffers_ = [part for m in self.trained_modules() for part in m.modules() if part._buffers]

    def _listeners(self, method_name: str) -> list[Any]:
        """Return the callbacks for which a call of this method does something."""
        if method_name not in self.listeners_:
            callbacks = [callback for _, callback in self.callbacks_]
            self.listeners_[method_name] = listeners(callbacks, method_name, verbose=bool(self.verbose))
        return self.listeners_[method_name]

    def run_single_epoch(
        self, iterator: Any, training: bool, prefix: str, step_fn: Callable[..., Any], **params: Any
    ) -> None:
        """Run an epoch like skorch, but copy the losses from the device only once, when it ends.

        If a callback other than a score may look at them batch by batch, they are copied
        batch by batch. The epoch ends early if too many steps in a row were skipped.
        """
        if iterator is None:
            return
        if self.checkpointer_ is not None:
            self.checkpointer_.track(prefix, iterator)
        if training and self.far_ is not None:
            self.far_.begin_epoch(len(iterator))
        at_once = any(map(reads_losses, self._listeners("on_batch_end")))
        rows, losses, name, size = [], [], f"{prefix}_loss", f"{prefix}_batch_size"
        try:
            for batch in iterator:
                self.notify("on_batch_begin", batch=batch, training=training)
                step = step_fn(batch, **params)
                row = self.history[-1]["batches"][-1]
                # For maps, the number of validated pixels.
                row[size] = batch.n_rows or len(batch[0]) if training else n_known(batch.targets)
                rows.append(row)
                losses.append(step["loss"])
                if at_once:
                    row[name] = step["loss"].item()
                self.notify("on_batch_end", batch=batch, training=training, **step)
                if training and self.skips_.note(step["outcome"]):
                    break
        finally:
            if losses:
                for row, loss in zip(rows, torch.stack(losses).tolist(), strict=True):
                    row[name] = loss
        if training and self.shared_ is not None:
            self.shared_.share_buffers()
        self.history.record(f"{prefix}_batch_count", len(rows))

    # ----------------------------------------------------------------------------------
    # One iteration

    def train_step(self, batch: Batch, **params: Any) -> dict[str, Any]:
        """Take the optimizer's step, and move the metaparameters by the strategy."""
        if self.far_ is not None:
            return self.far_.train_step(batch)
        path, strategy = self.metaparameters, self.strategy
        turn = turn_of(path, strategy, self.optimizer_)
        if turn is Turn.LEARN:
            step = self._run(self._bilevel_iteration, batch, next(self.validation_batches_))
            path.record(step.pop("metaparameters"), step.pop("val_loss"))
            return step
        step = self._run(self._plain_iteration, batch)
        if turn is Turn.WAIT:
            path.wait()
        else:
            follow(path, strategy)
        return step

    def _run(self, iteration: Callable[..., dict[str, Any]], *batches: Batch) -> dict[str, Any]:
        return iteration(*batches) if self.captured_ is None else self.captured_(iteration, *batches)

    def _plain_iteration(self, batch: Batch) -> dict[str, Any]:
        return self._student_step(batch)

    def _bilevel_iteration(self, batch: Batch, val_batch: Batch) -> dict[str, Any]:
        if self.hypergradient_estimator_ is None:
            self.hypergradient_estimator_ = greedy_estimator(self)
        record, path = self.hypergradient_estimator_, self.metaparameters
        with full_precision(record.device):
            record.begin()
            step = self._student_step(batch)
            if step["outcome"] is SKIPPED:
                record.begun = False
                unknown = torch.full((), torch.nan, device=record.device)
                return step | {"metaparameters": path.descend(unknown), "val_loss": unknown}
            n_rows = val_batch.n_rows or len(val_batch[0])
            first, *further = validation_passes(self, val_batch)
            h, val_loss = record.hypergradient(*first, n_rows, further)
        if step["outcome"] is not GOOD:  # not known yet; a step not taken has no hypergradient
            h = torch.where(step["outcome"] == SKIPPED, torch.nan, h)
        step["outcome"] = with_hypergradient(step["outcome"], all_finite(h), record.directionless)
        return step | {"metaparameters": path.descend(h), "val_loss": val_loss}

    @property
    def _record(self) -> HypergradientEstimator | None:
        """Return the estimator in an iteration that takes a hypergradient; None in others."""
        record = self.hypergradient_estimator_
        return record if record is not None and record.begun else None

    def _student_step(self, batch: Batch) -> dict[str, Any]:
        """Take a step of the optimizer, or none if the loss or the gradient is not finite."""
        buffers = BufferSnapshot(self.with_buffers_)
        kept = None if reading_is_free(batch[0]) else OptimizerSnapshot(self.optimizer_)
        try:
            step = self._optimizer_step(batch)
        except StepSkipped as skipped:
            buffers.restore()
            return skipped.step
        if kept is not None:
            bad = step["outcome"] == SKIPPED
            kept.restore_where(bad)
            buffers.restore_where(bad)
        return step

    def _optimizer_step(self, batch: Batch) -> dict[str, Any]:
        """Take the step like skorch, but skip notifications that no callback listens to."""
        steps: list[dict[str, Any]] = []

        def gradient() -> Tensor:
            clear_gradients(self.optimizer_)
            steps.append(self.train_step_single(batch))
            if self.max_grad_norm is not None:
                clipping = clip_gradients(self.trained_modules(), self.max_grad_norm)
                if self._record is not None:
                    self._record.clipping = clipping
            if self._listeners("on_grad_computed"):  # a clipping callback is among them
                named = TeeGenerator(self.get_all_learnable_params())
                self.notify("on_grad_computed", named_parameters=named, batch=batch, training=True)
            return steps[-1]["loss"]

        eager_method(self.optimizer_, "step")(gradient)
        return steps[0]  # some optimizers call the closure several times

    def train_step_single(self, batch: Batch, **params: Any) -> dict[str, Any]:
        """Run forward and backward, and check that the loss and the gradients are finite."""
        if not self.module_.training:
            self._set_training(True)
        return judged(run_passes(self, batch), self.optimizer_)

    def on_grad_computed(self, net: Any, named_parameters: Any, **kwargs: Any) -> None:
        """Read the gradient's norm before a clipping callback changes it."""
        if self._record is not None and self.max_grad_norm is None:
            self._record.clipping = clipping_of_callbacks(self.callbacks_, self.trained_modules())

    # ----------------------------------------------------------------------------------
    # Validation

    def validation_step(self, batch: Batch, **params: Any) -> dict[str, Any]:
        """Return the logits and L_val of a batch of D_val."""
        self._set_training(False)
        with torch.no_grad():
            shared, x = self.shared_, batch[0]
            logits = pixel_rows(self.infer(x) if shared is None else shared.outputs(self.infer, x))
            loss, _ = self._validation_loss(logits, batch.targets)
        return {"loss": loss, "y_pred": logits}

    def _validation_loss(self, logits: Tensor, targets: Targets) -> tuple[Tensor, Tensor]:
        return self.task.validation_loss(logits, targets, self.val_temperature_)

    def on_batch_end(self, net: Any, batch: Any = None, training: bool = False, **step: Any) -> None:
        """Keep the logits of D_val if T_val is to be refitted."""
        super().on_batch_end(net, batch, training, **step)
        if self.val_temperature == "auto" and not training:
            self.validated_.append(some_known_rows(step["y_pred"], batch.targets))

    def on_epoch_begin(
        self,
        net: Any,
        dataset_train: DistillationData | None = None,
        dataset_valid: DistillationData | None = None,
        **kwargs: Any,
    ) -> None:
        """Stop if the last epoch diverged; else write a checkpoint and remember the student."""
        if self.diverged_:
            raise KeyboardInterrupt  # the way skorch's callbacks end a fit early
        if self.checkpointer_ is not None:  # only now have all callbacks seen the end of the last epoch
            self.checkpointer_.save()
        super().on_epoch_begin(net, dataset_train, dataset_valid, **kwargs)
        self.objective.begin_epoch()
        self.watch_ = self.objective.watch
        if dataset_train is not None and dataset_train.augmentation is not None:
            self.watch_ = getattr(dataset_train.augmentation[1], "watch", self.watch_)
        assert self.guard_ is not None
        self.guard_.remember(self.trained_modules())

    def on_epoch_end(
        self,
        net: Any,
        dataset_train: DistillationData | None = None,
        dataset_valid: DistillationData | None = None,
        **kwargs: Any,
    ) -> None:
        """Count skipped steps, and give up if training has diverged."""
        super().on_epoch_end(net, dataset_train, dataset_valid, **kwargs)
        steps, hypergradients = self.skips_.end_epoch(self.optimizer_)
        self.history.record("skipped_steps", steps)
        self.history.record("skipped_hypergradients", hypergradients)
        give_up_if_diverged(self, self._mend())
        if self.validated_ and not self.diverged_:
            self.val_temperature_ = self.task.optimal_val_temperature(self.validated_)
            self.validated_ = []
        if self.average_ is not None and not self.diverged_:
            self.average_.update()
        record = self.objective.epoch_record()
        if self.shared_ is not None:
            record = self.shared_.mean_record(record)
        for name, value in (record | self._numbers()).items():
            self.history.record(name, value)

    def _numbers(self) -> dict[str, float]:
        """Return the metaparameters that are single numbers, by name."""
        values = self.metaparameters.named()
        return {name: float(values[name]) for name in self.metaparameters.space.numbers}

    def on_train_end(self, net: Any, X: Any = None, y: Any = None, **kwargs: Any) -> None:
        """Free training-only state and set evaluation mode, also after an interrupt."""
        super().on_train_end(net, X, y, **kwargs)
        if self.shared_ is not None:
            self.shared_.share_buffers()  # of an interrupted epoch
        self.skips_.end_epoch(self.optimizer_)  # an interrupt may have left it open
        give_up_if_diverged(self, self._mend())
        if not self.diverged_ and self.skips_.first is not None:
            message = skips_message(self.skips_, self.metaparameters.describe, self._mend())
            warnings.warn(message, ConvergenceWarning, stacklevel=2)
        self.captured_ = self.guard_ = self.watch_ = self.far_ = self.shared_ = None
        self.validated_ = []
        self.objective.forget()
        if self.average_ is not None and self.average_.is_result and not self.diverged_:
            self.average_.swap()  # before a callback loads its own choice of weights
            self.average_ = None
        self._set_training(False)  # for good, so that no predicting thread finds training mode

    def _mend(self) -> str:
        """Return the remedy for skipped steps."""
        return (None if self.watch_ is None else self.watch_.fault()) or MEND

"""Training iterations with hypergradients that look further ahead than one step.

The metaparameters stay the same for many iterations and then move once. In forward mode, each iteration
propagates the tangents of the weights; for the implicit hypergradient, iterations are plain ones.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from sklearn_kd.bilevel._forward_mode import ForwardHypergradient
from sklearn_kd.bilevel._implicit import ImplicitHypergradient, TrainingBatch
from sklearn_kd.bilevel._long_horizon import BatchLoss
from sklearn_kd.bilevel._optimizer_response import response_class
from sklearn_kd.inputs._batches import Batch
from sklearn_kd.inputs._data import SplitData
from sklearn_kd.losses._objective import LogitObjective
from sklearn_kd.meta._far import FarStrategy, ForwardGradient, ImplicitGradient
from sklearn_kd.meta._strategy import check_has_validation
from sklearn_kd.runtime._devices import all_finite, full_precision
from sklearn_kd.tasks._pixels import pixel_rows
from sklearn_kd.tasks._targets import Targets
from sklearn_kd.training._clipping import norm_limit
from sklearn_kd.training._nonfinite import GOOD, SKIPPED, with_hypergradient
from sklearn_kd.training._passes import divided
from sklearn_kd.training._turns import follow

if TYPE_CHECKING:
    from sklearn_kd.training._net import TrainingNet


def far_iterations(net: TrainingNet, data: SplitData) -> FarIterations | None:
    """Return the iterations of a net whose strategy looks many steps ahead, or None for other strategies.

    Raises
    ------
    ValueError
        If the strategy cannot be used with the net's optimizer, execution or objective, or without D_val.
    """
    strategy = net.strategy
    if not isinstance(strategy, FarStrategy):
        return None
    name = type(strategy).__name__
    check_has_validation(strategy, data.valid is not None)
    if not isinstance(net.objective, LogitObjective):
        raise ValueError(
            f"meta: {name} differentiates losses of the student's outputs only, but this loss compares "
            "features. Set meta='linear' or 'gradient', which take hypergradients of one step, or "
            "'twins', 'halving' or 'hyperopt', which compare students."
        )
    if net.execution.cuda_graph:
        raise ValueError(
            f"meta: {name} cannot be captured in a CUDA graph. Set execution='eager', or meta='gradient'."
        )
    if net.execution.micro_batches > 1 and isinstance(strategy, ForwardGradient):
        raise ValueError(
            f"meta: {name} carries tangents through the pass of a whole batch, but execution divides it by "
            f"micro_batches={net.execution.micro_batches}. Set micro_batches=1 and a smaller batch_size, or "
            "meta='gradient' or 'implicit'."
        )
    reason = strategy.why_unsuitable(net.optimizer_)
    if reason is not None:
        raise ValueError(f"meta: {name} {reason}.")
    kind = _ForwardIterations if isinstance(strategy, ForwardGradient) else _ImplicitIterations
    return kind(net, data)


class FarIterations:
    """The iterations of one training, and the moves of the metaparameters between them.

    Parameters
    ----------
    net : TrainingNet
        Initialised net.
    data : SplitData
    """

    def __init__(self, net: TrainingNet, data: SplitData):
        self.net, self.valid = net, data.valid
        self.strategy: Any = net.strategy
        self.n_batches = 0
        self.estimator: Any = None

    def begin_epoch(self, n_batches: int) -> None:
        """Record how many iterations the coming epoch has."""
        self.n_batches = n_batches
        self._make_estimator()
        self.net.hypergradient_estimator_ = self.estimator

    def train_step(self, batch: Batch) -> dict[str, Any]:
        """Take the optimizer's step, and move the metaparameters if it is time."""
        net, path = self.net, self.net.metaparameters
        if self._waits():
            step = net._plain_iteration(batch)
            path.wait()
            return step
        ends_epoch = net.skips_.n_in_epoch + 1 == self.n_batches
        step = self._student_step(batch)
        is_time = self.strategy.moves_after(path.counted.iteration, ends_epoch=ends_epoch)
        if not is_time or bool(step["outcome"] == SKIPPED):
            follow(path, self.strategy)
            return step
        with full_precision(torch.device(net.device)):
            h, val_loss = self._hypergradient()
        outcome = with_hypergradient(step["outcome"], all_finite(h), self.estimator.directionless)
        path.record(path.descend(h), val_loss)
        self._moved(h)
        return step | {"outcome": outcome}

    def state_dict(self) -> dict[str, Any]:
        """Return all that the next epoch depends on."""
        return {}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        """Restore a state from :meth:`state_dict`."""

    def _make_estimator(self) -> None:
        if self.estimator is None:
            self.estimator = self._made(lambda x: pixel_rows(self.net._forward(x)))

    def _made(self, forward: Any) -> Any:
        raise NotImplementedError

    def _waits(self) -> bool:
        return False

    def _student_step(self, batch: Batch) -> dict[str, Any]:
        raise NotImplementedError

    def _hypergradient(self) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def _moved(self, h: Tensor) -> None:
        """Start again after a move."""

    def _validation(self, n_most: int | None = None) -> tuple[Iterable[Batch], BatchLoss]:
        """Return ``n_most`` batches of D_val, or all if there are fewer, and their loss."""
        net = self.net
        batches: Any = net.get_iterator(self.valid)
        T_val: Any = net.val_temperature_
        if n_most is not None and n_most < len(batches):
            batches = [next(net.validation_batches_) for _ in range(n_most)]
        elif net.val_temperature == "auto":
            logits = self.estimator.validation_logits(batches)
            targets = [batch.targets for batch in batches]
            T_val = net.task.optimal_val_temperature(list(zip(logits, targets, strict=True)))
        return batches, lambda logits, batch: net.task.validation_loss(logits, batch.targets, T_val)


class _ForwardIterations(FarIterations):
    """Iterations that carry the tangents through the step they take."""

    strategy: ForwardGradient
    estimator: ForwardHypergradient

    def state_dict(self) -> dict[str, Any]:
        return {} if self.estimator is None else self.estimator.state_dict()

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        self._make_estimator()
        if state:
            self.estimator.load_state_dict(state)

    def _made(self, forward: Any) -> ForwardHypergradient:
        net = self.net
        made = self.strategy.make_estimator(
            net.module_,
            net.optimizer_,
            forward=forward,
            loss_gradient=self._loss_gradient,
            ranks=net.ranks,
        )
        if self._others_change_gradients():
            made.method = "central_difference"  # it does not need the gradient that callbacks have changed
        return made

    def _others_change_gradients(self) -> bool:
        """Return whether a callback may change gradients other than by clipping their norm."""
        return any(norm_limit(callback) is None for callback in self.net._listeners("on_grad_computed"))

    def _loss_gradient(self, outputs: Tensor) -> Tensor:
        """Return ∂L_train/∂outputs of this iteration's batch, at its metaparameters."""
        objective, targets = cast(LogitObjective, self.net.objective), self._batch.targets
        return objective.evaluate_logits(outputs, targets, self._values, differentiable=False).gradients[0]

    def _waits(self) -> bool:
        return self.net.metaparameters.iteration < response_class(self.net.optimizer_).n_erratic_steps

    def _student_step(self, batch: Batch) -> dict[str, Any]:
        estimator, net = self.estimator, self.net
        self._batch, self._values = batch, net.metaparameters.named()
        with full_precision(estimator.device):
            estimator.begin()
            step = net._student_step(batch)
            if step["outcome"] is SKIPPED:
                estimator.begun = False
            else:
                estimator.advance(None if step["outcome"] is GOOD else step["outcome"] == SKIPPED)
        return step

    def _hypergradient(self) -> tuple[Tensor, Tensor]:
        every = self.strategy.every
        return self.estimator.over_steps(*self._validation(None if every == "epoch" else every))

    def _moved(self, h: Tensor) -> None:
        if not self.strategy.carry or not bool(torch.isfinite(h).all()):
            self.estimator.restart()


class _ImplicitIterations(FarIterations):
    """Plain iterations; a move solves a linear system on the last batches of the epoch."""

    strategy: ImplicitGradient
    estimator: ImplicitHypergradient

    def begin_epoch(self, n_batches: int) -> None:
        super().begin_epoch(n_batches)
        self._batches: deque[Batch] = deque(maxlen=self.strategy.n_batches)

    def _made(self, forward: Any) -> ImplicitHypergradient:
        net = self.net
        return self.strategy.make_estimator(net.module_, net.optimizer_, forward=forward, ranks=net.ranks)

    def _student_step(self, batch: Batch) -> dict[str, Any]:
        step = self.net._plain_iteration(batch)
        if step["outcome"] is not SKIPPED:
            self._batches.append(batch)
        return step

    def _hypergradient(self) -> tuple[Tensor, Tensor]:
        objective, values = cast(LogitObjective, self.net.objective), self.net.metaparameters.named()
        n, batches = self.net.execution.micro_batches, list(self._batches)
        batches = _joined(batches) if n == 1 else [m for batch in batches for m in divided(self.net, batch)]
        training = [
            TrainingBatch(
                (batch[0],),
                partial(objective.evaluate_logits, targets=batch.targets, values=values, differentiable=True),
            )
            for batch in batches
        ]
        validation, validation_loss = self._validation()
        in_parts = (micro for batch in validation for micro in divided(self.net, batch))
        return self.estimator.to_the_end(training, in_parts, validation_loss)


def _joined(batches: list[Batch]) -> list[Batch]:
    """Join batches into one, which takes small students little more time than a single batch."""
    if not all(isinstance(batch[0], Tensor) for batch in batches):  # rows in parts are not joined
        return batches
    columns = zip(*(batch.targets for batch in batches), strict=True)
    targets = Targets._make(None if any(t is None for t in of) else torch.cat(of) for of in columns)
    return [Batch(torch.cat([batch[0] for batch in batches]), targets)]

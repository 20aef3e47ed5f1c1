"""Callbacks of skorch and of scikit-learn that write down how a fit went."""

from typing import Any

import torch
from skorch import NeuralNet
from skorch.callbacks import Callback

from helpers.networks import ConvNet


class Watch(Callback):
    """Keeps the training and the validation batches."""

    def initialize(self) -> "Watch":
        self.train_: list[Any] = []
        self.valid_: list[Any] = []
        return self

    def on_batch_end(self, net: NeuralNet, batch: Any = None, training: bool = False, **kwargs: Any) -> None:
        (self.train_ if training else self.valid_).append(batch)


class CountsPasses(ConvNet):
    """Counts the forward passes of all networks of this class together."""

    passes = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        CountsPasses.passes += 1
        return super().forward(x)


class PassesPerStep(Callback):
    """Counts the passes of a CountsPasses in each training iteration."""

    def initialize(self) -> "PassesPerStep":
        self.passes_: list[int] = []
        return self

    def on_batch_begin(
        self, net: NeuralNet, batch: Any = None, training: bool = False, **kwargs: Any
    ) -> None:
        self.before_ = CountsPasses.passes

    def on_batch_end(self, net: NeuralNet, batch: Any = None, training: bool = False, **kwargs: Any) -> None:
        if training:
            self.passes_.append(CountsPasses.passes - self.before_)


class Recorder:
    """A callback of scikit-learn that lists its calls and asks for the end after ``stop_after`` epochs."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.heard: list[Any] = []
        self.students: list[Any] = []
        self.stop_after = stop_after

    def setup(self, estimator: Any, context: Any) -> None:
        self.heard.append("setup")

    def teardown(self, estimator: Any, context: Any) -> None:
        self.heard.append("teardown")

    def on_fit_task_begin(self, estimator: Any, context: Any) -> None:
        self.heard.append(("begin", context.task_name, context.task_id))

    def on_fit_task_end(
        self, estimator: Any, context: Any, *, X: Any = None, y: Any = None, fitted_estimator: Any = None
    ) -> bool:
        self.heard.append(("end", context.task_name, context.task_id))
        self.rows = X, y
        if context.task_name == "epoch":
            self.students.append(fitted_estimator)
        return len(self.students) == self.stop_after

"""Ask trained networks, modules and skorch nets, batch by batch."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
import torch
from skorch import NeuralNet, NeuralNetClassifier
from torch import Tensor, nn

from sklearn_kd.inputs._data import DistillationData
from sklearn_kd.inputs._parts import Parts
from sklearn_kd.inputs._sparse_data import SparseData
from sklearn_kd.runtime._devices import check_has_numbers
from sklearn_kd.runtime._eval_mode import eval_mode
from sklearn_kd.runtime._global_lock import torch_state_lock
from sklearn_kd.runtime._memory import is_out_of_memory
from sklearn_kd.runtime._operations import largest_operation, operations_of
from sklearn_kd.runtime._recurrent import gather_weights, recurrent_layers
from sklearn_kd.runtime._stray_tensors import remedy_for_two_devices
from sklearn_kd.runtime._threads import threads_for
from sklearn_kd.teachers._adapter import BatchTeacherAdapter
from sklearn_kd.teachers._conversion import BatchLogits, LogitConversion
from sklearn_kd.teachers._known_classes import named_classes
from sklearn_kd.teachers._logit_checks import (
    checked_probabilities,
    log_probabilities,
    logits_in,
    thawed,
)
from sklearn_kd.teachers._registry import register_teacher
from sklearn_kd.teachers._transformed import TransformedTeacher, TransformError
from sklearn_kd.teachers._wrappers import without_parallel
from sklearn_kd.teachers._zeros import floor_of_all_rows

LEAVE_SOFTMAX_OUT = "Have the network return logits: leave its softmax out"
_FAILURES = (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError)


def require_fitted_net(net: NeuralNet) -> None:
    """Raise ValueError unless a skorch net has been fitted."""
    if not net.initialized_ or not net.history:
        raise ValueError(
            "teacher is a skorch net that has not been fitted. Fit it first; it is used as it is. If its "
            "weights were loaded by load_params, load its f_history too, or give its module_."
        )


def possible_widths(teacher: Any, stated: list[Any] | None, classes: np.ndarray) -> list[int]:
    """Return the possible numbers of columns of a network's logits."""
    own = getattr(thawed(teacher), "classes_", None)
    return sorted({len(known) for known in (stated, own, classes) if known is not None})


def own_classes(teacher: Any, n_columns: int, stated: list[Any] | None) -> Any:
    """Return the classes of a network's columns if the network knows them, else None."""
    network = without_parallel(teacher) if isinstance(teacher, nn.Module) else teacher
    # Estimators of this library set this attribute on networks that they have trained on codes.
    labels = getattr(network, "labels_of_columns", None)
    if labels is not None:
        return labels
    own = getattr(teacher, "classes_", getattr(network, "classes_", None))
    if own is None or not isinstance(network, NeuralNet):
        return own
    # skorch trains on column numbers, though y may have other labels.
    if stated is not None and np.array_equal(own, np.arange(n_columns)):
        return None
    # Without the parameter ``classes``, classes_ are the classes in y, perhaps fewer than the columns.
    return own if getattr(network, "classes", None) is not None or len(own) == n_columns else None


class EvaluatedNetwork:
    """A trained module on a device, in evaluation mode and without gradients.

    Its tensors are copied to the device once; the user's module is not changed. Batches are cast to the type
    of its weights. The parts of a batch become arguments of the module; a batch of integers alone is cast to
    floats if the module cannot take integers.

    Parameters
    ----------
    module : nn.Module
    device : torch.device
    who : str
        Name of the network in messages.
    """

    def __init__(self, module: nn.Module, device: torch.device, who: str):
        self.module, self.who = without_parallel(module), who
        tensors = dict((*self.module.named_parameters(), *self.module.named_buffers()))
        self._weight = next((t for t in tensors.values() if t.is_floating_point()), None)
        if isinstance(self.module, TransformedTeacher):  # it casts the transform's output
            self._weight = None
        self._state: dict[str, Tensor] | None = None
        self._row_operations: float | None = None
        self._takes_integers: bool | None = None  # known after the first batch of integers
        if isinstance(self.module, torch.jit.ScriptModule):
            # Its constants move only with a copy of the whole module. A frozen module has no tensors that
            # show where its constants are.
            if device.type != "cpu" or not tensors or any(t.device != device for t in tensors.values()):
                self.module = _script_on(self.module, device)
        elif any(t.device != device for t in tensors.values()):
            self._state = {name: t.detach().to(device) for name, t in tensors.items()}
        self._recurrent = recurrent_layers(self.module.modules())

    def __call__(self, x: Any) -> Any:
        """Run the module on a batch.

        Raises
        ------
        ValueError
            If the module cannot take such samples.
        """
        given = x if self._weight is None else self._cast(x, self._weight.dtype)
        with self._threads(given), eval_mode(self.module.modules()), torch.no_grad():
            try:
                if self._row_operations is None:
                    answer, operations = largest_operation(partial(self._run, given), self.module.modules())
                    self._row_operations = operations / max(1, len(given))
                    return answer
                return self._run(given)
            except _FAILURES as error:
                if is_out_of_memory(error) or isinstance(error, TransformError):
                    raise
                raise cannot_take(self.who, x, error, self.module) from error

    def _cast(self, x: Any, dtype: torch.dtype) -> Any:
        if not isinstance(x, Parts):
            return x.to(dtype)
        if x.keys is not None:
            return x.with_floats_as(dtype)
        if self._takes_integers is None:
            self._takes_integers = self._runs(x)
        return x if self._takes_integers else x.values[0].to(dtype)

    def _runs(self, x: Any) -> bool:
        with eval_mode(self.module.modules()), torch.no_grad(), suppress(*_FAILURES):
            self._run(x[:1])
            return True
        return False

    def _threads(self, x: Any) -> threads_for:
        """Return a context with as many threads as a batch is worth; the first batch counts operations."""
        if self._row_operations is None or x.device.type != "cpu":
            return threads_for(math.inf)
        return threads_for(self._row_operations * len(x))

    def _run(self, x: Any) -> Any:
        args, kwargs = x.arguments() if isinstance(x, Parts) else ((x,), {})
        if self._state is None:
            return self.module(*args, **kwargs)
        try:
            return torch.func.functional_call(self.module, self._state, args, kwargs)
        finally:
            gather_weights(self._recurrent)  # else the user's layers would refer to the copies


def cannot_take(who: str, x: Any, error: Exception, module: nn.Module) -> ValueError:
    """Return the error for a batch that makes a teacher's module fail."""
    behind = ""
    remedy = (
        "Give fit an X of the shape that the teacher was trained on, or a teacher_transform that makes that "
        "shape from X, such as sklearn_kd.teachers.ImageTransform(32)."
    )
    if isinstance(module, TransformedTeacher):
        behind = f" after teacher_transform={module.transform!r}"
        remedy = "Give a teacher_transform that makes the shape that the teacher was trained on."
    remedy = remedy_for_two_devices(module, x.device, error) or remedy
    cause = str(error).rstrip(". ")
    return ValueError(f"{who} cannot take samples of shape {tuple(x.shape[1:])}{behind}: {cause}. {remedy}")


def as_arrays(x: Any) -> Any:
    """Return a batch as an array, or as the dict or tuple of arrays that skorch takes."""
    return x.map(as_arrays).given() if isinstance(x, Parts) else x.cpu().numpy()


def _script_on(module: torch.jit.ScriptModule, device: torch.device) -> Any:
    """Return a copy of a TorchScript module on a device."""
    file = io.BytesIO()
    torch.jit.save(module, file)
    file.seek(0)
    moved = torch.jit.load(file, map_location=device)
    return moved.eval() if hasattr(moved, "training") else moved


@register_teacher(nn.Module)
class ModuleTeacher(BatchTeacherAdapter):
    """Adapter of a trained module that returns logits."""

    def check(self) -> None:
        check_has_numbers(self.teacher, "teacher")

    def on(self, device: torch.device, classes: np.ndarray) -> Callable[[Tensor], Tensor]:
        who, widths = self.name, possible_widths(self.teacher, self.teacher_classes, classes)
        network = EvaluatedNetwork(self.teacher, device, who)

        def ask(x: Tensor) -> Tensor:
            return logits_in(network(x), len(x), widths, who, maps=self.gives_maps)

        return BatchLogits(ask, lambda values: self._conversion(values, classes), who)

    def _conversion(self, values: Tensor, classes: np.ndarray) -> LogitConversion:
        own = own_classes(self.teacher, values.shape[1], self.teacher_classes)
        if own is None:
            own = named_classes(without_parallel(self.teacher), self.teacher_classes, classes)
        return LogitConversion.of(
            values,
            own=own,
            stated=self.teacher_classes,
            classes=classes,
            who=self.name,
            remedy=LEAVE_SOFTMAX_OUT,
            floor=self._floor,
        )


@register_teacher(NeuralNet)
class SkorchTeacher(BatchTeacherAdapter):
    """Adapter of a fitted skorch net.

    The output of its module is logits, unless all rows are probabilities. ``predict_proba`` is used instead
    if the user has specified how outputs become probabilities, or if the module has one output for two
    classes.
    """

    _row_operations: float | None = None

    def check(self) -> None:
        require_fitted_net(self.teacher)

    def on(self, device: torch.device, classes: np.ndarray) -> Callable[[Tensor], Tensor]:
        widths = possible_widths(self.teacher, self.teacher_classes, classes)

        def ask(x: Tensor) -> Tensor:
            with (
                torch_state_lock(),
                torch.random.fork_rng(),  # skorch's DataLoader draws a seed even to predict
                self._threads(x),
            ):
                return torch.as_tensor(self._logits_of(x, widths)).to(device)

        return BatchLogits(ask, lambda values: self._conversion(values, classes), self.name)

    def _conversion(self, values: Tensor, classes: np.ndarray) -> LogitConversion:
        # Only this loss has its own softmax; with another one the module may end in a softmax.
        criterion = getattr(self.teacher, "criterion_", None)
        return LogitConversion.of(
            values,
            own=own_classes(self.teacher, values.shape[1], self.teacher_classes),
            stated=self.teacher_classes,
            classes=classes,
            who=self.name,
            remedy=LEAVE_SOFTMAX_OUT if isinstance(criterion, nn.CrossEntropyLoss) else None,
            floor=self._floor,
        )

    def _threads(self, x: Any) -> threads_for:
        """Return a context with as many threads as a batch is worth, judged by the first rows."""
        net = self.teacher
        if self._row_operations is None:
            rows = as_arrays(x[:2])
            operations = operations_of(partial(net.forward, rows), net.module_.modules())
            self._row_operations = operations / max(1, len(rows))
        n_rows = len(x) if net.batch_size == -1 else min(net.batch_size, len(x))
        return threads_for(self._row_operations * n_rows)

    def _logits_of(self, x: Any, widths: list[int]) -> Tensor | np.ndarray:
        who, X = self.name, as_arrays(x)
        try:
            output, probabilities = self._output_or_probabilities(X)
        except _FAILURES as error:
            if is_out_of_memory(error):
                raise
            raise cannot_take(who, x, error, self.teacher.module_) from error
        if probabilities is None:
            return logits_in(output, len(x), widths, who, maps=self.gives_maps)
        return self._of_probabilities(probabilities)

    def _of_probabilities(self, probabilities: Any) -> Tensor | np.ndarray:
        return log_probabilities(checked_probabilities(probabilities, self.name), self._floor)

    def _output_or_probabilities(self, X: Any) -> tuple[Any, Any]:
        """Return (output of the module, None) or (None, probabilities)."""
        net = self.teacher
        if not self._declares_probabilities:
            output = net.forward(X)
            output = output[0] if isinstance(output, tuple) else output  # as skorch does
            if not isinstance(output, Tensor) or (output.ndim in (2, 4) and output.shape[1] > 1):
                return output, None
        return None, net.predict_proba(X)

    @property
    def _declares_probabilities(self) -> bool:
        """True if the user has specified how the output becomes probabilities."""
        plain = (NeuralNet.predict_proba, NeuralNetClassifier.predict_proba)
        net = self.teacher
        return net.predict_nonlinearity != "auto" or type(net).predict_proba not in plain

    def iter_logits(
        self, X: Any, data: DistillationData, classes: np.ndarray, batch_size: int
    ) -> Iterator[Tensor]:
        if isinstance(data, SparseData):
            yield from super().iter_logits(X, data, classes, batch_size)
            return
        # skorch makes its own batches; asked at once, the zeros of all rows share one floor.
        whole = copy.copy(self)
        whole._stated_floor = self._stated_floor or floor_of_all_rows
        yield from map(whole.on(data.device, classes), data.iter_batches(len(data)))
